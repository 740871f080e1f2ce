"""Facts about host/daemon.py: what a daemon inherits, when it is recorded, how a scope is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host import daemon
from ctp_runbook.host.daemon import launch_daemon
from ctp_runbook.host.process import end_group, identity_of, is_running
from ctp_runbook.model import Identity


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    """A pid file in a path with a space; whatever it names at the end is ended."""
    path = tmp_path / "a dir" / "d.pid"
    path.parent.mkdir()
    yield path
    if path.exists():
        pid, ticks = map(int, path.read_text().split())
        if is_running(Identity(pid, ticks)):
            end_group(pid, term_grace=1, kill_grace=1)


def launched(pid_file: Path, *argv: str, log: Path | None = None) -> int:
    """The pid of a daemon that started well."""
    launch = launch_daemon(pid_file, argv, log=log)
    assert launch.problem == ""
    assert launch.identity is not None
    return launch.identity.pid


def test_a_daemon_leads_a_session_and_is_nobodys_child_here(pid_file: Path) -> None:
    """It has a session and a group of its own, and a parent that is not the starter."""
    pid = launched(pid_file, "sleep", "60")
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) != os.getpid()


def test_the_pid_file_holds_pid_and_start_ticks(pid_file: Path) -> None:
    """Two lines, and they are those of the running process."""
    pid = launched(pid_file, "sleep", "60")
    found = identity_of(pid)
    assert found is not None
    assert pid_file.read_text() == f"{pid}\n{found.start_ticks}\n"


def test_a_daemon_holds_no_descriptor_of_its_starter(pid_file: Path, tmp_path: Path) -> None:
    """Not even one marked inheritable: a lock or pipe of ours would stay held for good."""
    with (tmp_path / "lock").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        pid = launched(pid_file, "sleep", "60")
    targets = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    assert targets == {"/dev/null"}


def test_a_daemon_ignores_and_blocks_no_signal(pid_file: Path) -> None:
    """Python ignores SIGPIPE; a daemon that inherited that would never end by it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        pid = launched(pid_file, "sleep", "60")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    # 32 and 33 are the C library's own; no program can give them back.
    own = 0b11 << 31
    assert (int(status["SigIgn"], 16) | int(status["SigBlk"], 16)) & ~own == 0


def test_output_is_appended_to_the_log(pid_file: Path, tmp_path: Path) -> None:
    """Both streams, behind what stood there: the log of the run before is evidence too."""
    log = tmp_path / "logs" / "d.log"
    log.parent.mkdir()
    log.write_text("before\n")
    launched(pid_file, "bash", "-c", "echo out; echo err >&2; exec sleep 60", log=log)
    assert log.read_text() == "before\nout\nerr\n"


def test_a_file_that_is_still_being_written_is_waited_for(pid_file: Path, tmp_path: Path) -> None:
    """Whoever put it there may have a child that has it open until it is its own command."""
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\nexec sleep 60\n")
    engine.chmod(0o755)
    with engine.open("a") as writing:
        threading.Timer(0.3, writing.close).start()
        launched(pid_file, str(engine))


DEATHS = {
    "exit code": (("bash", "-c", "exit 7"), "exit code 7"),
    "exit 0": (("true",), "exit code 0"),
    "signal": (("bash", "-c", "kill -9 $$"), "ended by signal 9"),
    "no such file": (("/nonexistent/engine",), "cannot execute /nonexistent/engine"),
    "not executable": (("/etc/passwd",), "Permission denied (exit code 127)"),
}


@pytest.mark.parametrize(("argv", "said"), DEATHS.values(), ids=DEATHS)
def test_an_early_death_is_a_problem_with_its_reason(
    argv: tuple[str, ...], said: str, pid_file: Path
) -> None:
    """Whatever ends within 0.3 s did not start, also when it ended with 0."""
    assert said in launch_daemon(pid_file, argv, log=None).problem


def test_nothing_runs_that_could_not_be_recorded(tmp_path: Path) -> None:
    """With no place for the pid file the command is never executed."""
    mark = tmp_path / "ran"
    launch = launch_daemon(tmp_path / "missing" / "d.pid", ("touch", str(mark)), log=None)
    assert "No such file" in launch.problem
    time.sleep(0.1)
    assert not mark.exists()


def test_a_daemon_survives_its_starter(pid_file: Path) -> None:
    """It goes on when the process that started it is killed right away."""
    code = (
        "import sys, os, signal; from pathlib import Path;"
        "from ctp_runbook.host.daemon import launch_daemon;"
        "launch_daemon(Path(sys.argv[1]), ('sleep', '60'), log=None);"
        "os.killpg(0, signal.SIGKILL)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", code, str(pid_file)], start_new_session=True, check=False
    )
    assert starter.returncode == -signal.SIGKILL
    assert identity_of(int(pid_file.read_text().split()[0])) is not None


def test_where_systemd_runs_a_daemon_gets_a_scope_of_its_own(
    pid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd-run is asked, and the pid it becomes the command under is the one recorded."""
    asked = tmp_path / "asked"
    runner = tmp_path / "systemd-run"
    runner.write_text(
        f'#!/bin/bash\necho "$*" >{asked}\nsleep 0.5\nuntil [ "$1" = -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    runner.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(daemon, "_SYSTEMD_MARK", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    pid = launched(pid_file, "sleep", "60")
    assert asked.read_text() == "--scope --quiet --collect -- sleep 60\n"
    wait_until_named(pid, "sleep")


def wait_until_named(pid: int, name: str) -> None:
    """Until ``pid`` runs ``name``: a process that execs keeps its pid."""
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_a_bus_an_ordinary_user_is_told(
    pid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scope can be had then, and the launch says that it shares the caller's cgroup."""
    monkeypatch.setattr(daemon, "_SYSTEMD_MARK", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    launch = launch_daemon(pid_file, ("sleep", "60"), log=None)
    assert isinstance(launch.identity, Identity)
    assert "shares the caller's cgroup" in launch.notice


def test_what_has_no_place_for_its_log_is_started_all_the_same(tmp_path: Path) -> None:
    """With the descriptors it is to take over, and with no other."""
    (tmp_path / "logs").write_text("a file")
    told = tmp_path / "told"
    lock, other, third = (os.open(tmp_path, os.O_RDONLY) for _ in range(3))
    try:
        pid = daemon.spawn_detached(
            ["bash", "-c", f"ls /proc/$$/fd > {told}.draft; mv {told}.draft {told}"],
            log=tmp_path / "logs" / "x.log",
            lock=lock,
            others=[other],
        )
        os.waitpid(pid, 0)
        numbers = {int(word) for word in told.read_text().split()}
        assert {0, 1, 2, lock, other} <= numbers
        assert third not in numbers
        assert not os.get_inheritable(other)
    finally:
        for fd in (lock, other, third):
            os.close(fd)
