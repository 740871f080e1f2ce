"""Facts about probes/supervision.py: who may start a member again is told while it is well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ctp_runbook.host.pin import pin_process
from ctp_runbook.host.process import identity_of, parents
from ctp_runbook.model import Generation, Member, Role
from ctp_runbook.probes import supervision
from ctp_runbook.probes.supervision import (
    ends_this_tool,
    gap_in_pin,
    signs_of_revival,
    unit_of,
)
from tests.props.plan_fixtures import wait_for

ENGINE = Member(Generation.OLD, Role.CORE_ENGINE)
Start = Callable[[str], int]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Start]:
    """Run a script in a shell that this test started, and return the shell's pid."""
    with ExitStack() as ends:

        def begin(script: str) -> int:
            words = ["bash", "-c", f"{script}\n: > {tmp_path}/ready; wait; :"]
            child = ends.enter_context(subprocess.Popen(words, start_new_session=True))
            ends.callback(child.wait)
            ends.callback(os.killpg, child.pid, 9)
            wait_for((tmp_path / "ready").exists)
            return child.pid

        yield begin


def children(pid: int) -> list[int]:
    """Who runs right below a process."""
    return [child for child, parent in parents().items() if parent == pid]


def signs(pid: int, *, member: Member = ENGINE, stop: str = 'kill "$(cat F)"') -> list[str]:
    """What is told of a process."""
    found = identity_of(pid)
    assert found is not None
    return list(signs_of_revival(member, pin_process(found), stop_command=stop, seconds=5))


def test_a_parent_that_is_not_init_is_named(shell: Start) -> None:
    """It may be a supervisor, and it is to be ended first."""
    parent = shell("sleep 600 &")
    (engine,) = children(parent)
    assert signs(engine) == [
        f"old_core_engine: the parent of pid {engine} is pid {parent} (bash), and not init: if that is"
        " a supervisor, it starts it again when OLD_CORE_ENGINE_STOP_CMD has run; end pid "
        f"{parent} first"
    ]


def test_a_shell_with_processes_below_it_is_told(shell: Start) -> None:
    """Its pid file names the shell: what is below may outlive it. What we started ourselves is no
    supervisor's."""
    parent = shell("sleep 600 &")
    (engine,) = children(parent)
    (told,) = signs(parent)
    assert told.startswith(
        f"old_core_engine: pid {parent} is a shell (bash) with processes below it ({engine})"
    )


def test_one_that_ignores_term_is_told(shell: Start) -> None:
    """The stop command must send KILL too; a handler cannot be told from outside."""
    parent = shell("trap '' TERM; sleep 600 &")
    (engine,) = children(parent)
    assert signs(engine)[0].startswith(
        f"old_core_engine: pid {engine} ignores TERM: OLD_CORE_ENGINE_STOP_CMD ends it only if"
    )


SYSTEMCTL = '#!/bin/sh\necho "$@" > {folder}/asked\nprintf "Restart={restart}\\nMainPID=7\\n"\n'


@pytest.mark.parametrize(
    ("restart", "unit", "stop", "is_told"),
    [
        ("always", "engine.service", "kill 7", True),
        ("on-failure", "--user engine.service", "kill -9 7", True),
        ("no", "engine.service", "kill 7", False),
        ("always", "engine.service", "systemctl stop engine", False),
        ("always", "--user engine.service", "systemctl --user stop engine.service", False),
        ("always", "engine.service", "systemctl stop other.service", True),
    ],
)
def test_a_unit_that_systemd_starts_again_is_told(
    restart: str,
    unit: str,
    stop: str,
    is_told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the system's manager and of a user's, unless the stop command goes through systemd."""
    fake = tmp_path / "systemctl"
    fake.write_text(SYSTEMCTL.format(folder=tmp_path, restart=restart))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = signs(os.getpid(), member=ENGINE._replace(unit=unit), stop=stop)
    wanted = f"old_core_engine: unit {unit} has Restart={restart}: systemd starts it again after a"
    assert any(each.startswith(wanted) for each in told) == is_told
    asked = (tmp_path / "asked").read_text().split()
    assert ("--user" in asked, asked[-1]) == ("--user" in unit, "engine.service")


def test_where_systemd_cannot_be_asked_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a unit that is named; of one that was only guessed nothing is said."""
    fake = tmp_path / "systemctl"
    fake.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    *_, told = signs(os.getpid(), member=ENGINE._replace(unit="engine.service"))
    assert told == (
        "old_core_engine: whether unit engine.service has Restart= could not be asked: systemctl "
        "ended with exit 1, expected 0: no bus"
    )


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/engine.service", "engine.service"),
        ("0::/system.slice/system-core.slice/core@old.service/app", "core@old.service"),
        ("12:pids:/x\n0::/system.slice/engine.service", "engine.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope", ""),
        (
            f"0::/user.slice/user-1.slice/user@{os.geteuid()}.service/app.slice/e.service",
            "--user e.service",
        ),
        (
            "0::/user.slice/user@4242.service/app.slice/e.service",
            "--user --machine=4242@ e.service",
        ),
        ("", ""),
    ],
)
def test_a_control_group_names_a_unit(groups: str, unit: str) -> None:
    """As systemctl takes it: a user's manager has units of its own."""
    assert unit_of(groups) == unit


def pin_gap(pid: int) -> str:
    """Why a process is not the member itself."""
    found = identity_of(pid)
    assert found is not None
    return gap_in_pin(ENGINE, pin_process(found))


def test_the_end_of_a_pipe_is_no_member(shell: Start) -> None:
    """`engine | tee log & echo $!` writes down the pid of tee, which ends and leaves the engine."""
    parent = shell("sleep 600 | tee /dev/null &")
    wait_for(lambda: {comm(pid) for pid in children(parent)} == {"sleep", "tee"})
    told = {comm(pid): pin_gap(pid) for pid in children(parent)}
    assert "is `tee`, the end of a pipe, and not who writes into it" in told["tee"]
    assert "OLD_CORE_ENGINE_PID_FILE" in told["tee"]
    assert told["sleep"] == ""


def test_a_client_is_no_member(shell: Start, tmp_path: Path) -> None:
    """`docker exec` may be killed, and what it started in the container goes on."""
    docker = tmp_path / "docker"
    shutil.copy(shutil.which("sleep") or "", docker)
    parent = shell(f"{docker} 600 &")
    wait_for(lambda: [comm(pid) for pid in children(parent)] == ["docker"])
    wrapped = shell(f"timeout --foreground 600 {docker} 600 &")  # in this group, and ended with it
    wait_for(lambda: any(pin_gap(pid) for pid in children(wrapped)))
    for pid in (parent, *children(parent), wrapped):
        assert "is `docker`, a client: what it started elsewhere outlives it" in pin_gap(pid)
    beside = shell(f"{docker} 600 & {sys.executable} -c 'import time; time.sleep(600)' &")
    wait_for(lambda: len({comm(pid) for pid in children(beside)} - {"bash"}) == 2)
    assert pin_gap(beside) == ""


def comm(pid: int) -> str:
    """A process's own name; blank once it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


ENDS = {
    "pkill -f ctp_runbook": True,
    "pkill -TERM -u root -f 'orchestrat[o]r /runs/ctp'; rm -f F": True,
    "kill $(pgrep --full ctp)": True,
    "killall -9 python": True,
    "pkill python": True,
    "pkill -x pyth": False,
    "pkill -f core_engine": False,
    "killall core_engine": False,
    "pkill -f 'a(": False,
    "/opt/my-pkill ctp": False,
    "kill $(cat F)": False,
}


@pytest.mark.parametrize(("command", "ends"), ENDS.items(), ids=ENDS)
def test_a_pattern_that_finds_this_tool_is_told(
    command: str, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guardian and orchestrator would go with the engine, and nobody would start anything."""
    lines = {7: ["python", "-m", "ctp_runbook.run.orchestrator", "/runs/ctp"], 8: ["core_engine"]}
    monkeypatch.setattr(supervision, "ancestors", lambda: frozenset(lines))
    monkeypatch.setattr(supervision, "_words", lines.__getitem__)
    monkeypatch.setattr(supervision, "_program", lambda pid: lines[pid][0])
    assert bool(ends_this_tool(command)) is ends
