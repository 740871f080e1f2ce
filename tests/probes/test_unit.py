"""Facts about probes/unit.py: systemd is asked once, within bounds, and its group is looked into.

What follows from its answers stands in tests/contract/border/units/.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity
from ctp_runbook.probes import unit
from ctp_runbook.probes.unit import UnitAnswer, read_unit
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


@pytest.fixture
def process() -> Iterator[Identity]:
    """A process that lives."""
    with subprocess.Popen(["sleep", "60"]) as child:
        found = identity_of(child.pid)
        assert found is not None
        yield found
        child.kill()


def ask(name: str = "e.service", *, seconds: float = 5) -> UnitAnswer:
    """Ask once."""
    return read_unit(name, key="OLD_CORE_ENGINE", seconds=seconds, interrupt=lambda: "")


def test_what_is_asked(systemctl: Systemctl, tmp_path: Path) -> None:
    """In one call, in no operator's language, with the name as it stands."""
    systemctl(f'printf "%s\\n" "$LC_ALL" "$@" > {tmp_path}/asked; printf "{DOWN}\n"')
    assert ask("-x'\\x2d.service") == UnitAnswer()
    language, verb, *_, dashes, name = (tmp_path / "asked").read_text().splitlines()
    assert (language, verb, dashes, name) == ("C", "show", "--", "-x'\\x2d.service")


def test_a_systemctl_that_hangs_is_ended(
    systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With all that it started, in the time there is."""
    monkeypatch.setenv("MARK", str(tmp_path))
    systemctl("trap '' TERM; sleep 600 & sleep 600")
    began = time.monotonic()
    assert ask(seconds=0.2).doubt.startswith("systemctl gave no answer within 0.2 s")
    assert time.monotonic() - began < 3
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
