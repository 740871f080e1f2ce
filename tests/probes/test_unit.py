"""Facts about probes/unit.py: systemd is asked once, within bounds, and its group is looked into.

What follows from its answers stands in tests/contract/border/units/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Identity
from ctp_runbook.probes import unit
from ctp_runbook.probes.unit import UnitAnswer, judge_unit, read_unit
from tests.props.plan_fixtures import processes_with

Systemctl = Callable[[str], None]
DOWN = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nMainPID=0\nControlGroup=/x.slice/e"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """Write the script that stands for systemctl."""

    def write(script: str) -> None:
        fake = tmp_path / "systemctl"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return write


def ask(name: str = "e.service", *, seconds: float = 5) -> UnitAnswer:
    """Ask once."""
    return read_unit(name, key="OLD_CORE_ENGINE", seconds=seconds, interrupt=lambda: "")


def test_what_is_asked(systemctl: Systemctl, tmp_path: Path) -> None:
    """In one call, in no operator's language, with the name as it stands."""
    systemctl(f'printf "%s\\n" "$LC_ALL" "$@" > {tmp_path}/asked; printf "{DOWN}\n"')
    assert ask("-x'\\x2d.service") == UnitAnswer()
    language, verb, *_, dashes, name = (tmp_path / "asked").read_text().splitlines()
    assert (language, verb, dashes, name) == ("C", "show", "--", "-x'\\x2d.service")


@pytest.mark.parametrize("manager", ["--user", "--user --machine=trader@"])
def test_a_users_manager_is_asked_as_it_is_named(
    systemctl: Systemctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str
) -> None:
    """With the way to its bus, which nobody has who was started by cron or a service."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    systemctl(f'printf "%s\\n" "$XDG_RUNTIME_DIR" "$@" > {tmp_path}/asked; printf "{DOWN}\n"')
    assert ask(f"{manager} e.service") == UnitAnswer()
    way, verb, *words, dashes, name = (tmp_path / "asked").read_text().splitlines()
    assert (way, verb) == (f"/run/user/{os.geteuid()}", "show")
    assert words[: len(manager.split())] == manager.split()
    assert (dashes, name) == ("--", "e.service")


def test_a_systemctl_that_hangs_is_ended(
    systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With all that it started, in the time there is."""
    monkeypatch.setenv("MARK", str(tmp_path))
    systemctl("trap '' TERM; sleep 600 & sleep 600")
    began = time.monotonic()
    assert ask(seconds=0.2).doubt.startswith("systemctl gave no answer within 0.2 s")
    assert time.monotonic() - began < 60
    assert set(processes_with(f"MARK={tmp_path}")) <= {os.getpid()}


def test_a_request_ends_the_question(systemctl: Systemctl) -> None:
    """An abort does not wait for systemd."""
    systemctl("sleep 600")
    seen = read_unit("e", key="X", seconds=60, interrupt=lambda: "abort")
    assert "gave no answer" in seen.doubt


def test_where_there_is_no_systemctl_a_pid_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what bash said, and what to do."""
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "systemctl cannot be run here" in (doubt := ask().doubt)
    assert doubt.endswith("systemctl: not found; name a pid file instead")


def test_what_is_left_in_its_control_group_is_not_gone(
    systemctl: Systemctl, process: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KillMode=process ends the main process alone: what it had started trades on."""
    systemctl(f"printf '{DOWN}\n'")
    assert ask() == UnitAnswer()
    is_in = {"/x.slice/e": process.pid}
    monkeypatch.setattr(unit, "_is_within", lambda pid, group: is_in.get(group) == pid)
    doubt = ask().doubt
    assert doubt.startswith(f"it is inactive, and yet ({process.pid},) run in its control group;")
    assert doubt.endswith("; look at `systemctl status e.service`")


WORDS = {
    "LoadState": ["loaded", "not-found", "masked", "error", "bad-setting", "merged", "stub", ""],
    "ActiveState": ["active", "inactive", "failed", "activating", "deactivating", "reloading", "x"],
    "SubState": ["dead", "failed", "running", "auto-restart", "dead-before-auto-restart", ""],
    "MainPID": ["0", "00", "1", "-1", "4194305", "x", "", "9" * 40],
    "ControlPID": ["0", "7", ""],
    "ControlGroup": ["", "/", "/x.slice/e"],
    "Transient": ["yes", "no"],
    "Job": ["", "0", "4711"],
}
LINES = st.lists(
    st.one_of(
        st.sampled_from([f"{name}={word}" for name, words in WORDS.items() for word in words]),
        st.text(max_size=20),
    ),
    max_size=12,
)


@given(lines=LINES)
@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
def test_no_answer_is_taken_for_down_but_a_whole_one(lines: list[str]) -> None:
    """Whatever is printed: no traceback, and down is what systemd says of a loaded unit alone."""
    shown = "\n".join(lines)
    try:
        seen = judge_unit(shown.encode(errors="replace"), unit="e", key="K")
    except ProbeError:
        return
    if seen == UnitAnswer():
        assert "LoadState=loaded" in lines
        assert not {"ActiveState=inactive", "ActiveState=failed"}.isdisjoint(lines)
        assert not {"MainPID=0", "MainPID=00"}.isdisjoint(lines)
        assert not any(word in shown for word in ("auto-restart", "yes", "4711", "ControlPID=7"))
