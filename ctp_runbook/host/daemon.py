"""Become a daemon: detached, recorded before its first instruction, proved to have lived.

The mechanism under ``proc start``. A launcher forks the daemon, which waits until the pid file
names it; only then it becomes the command. Whoever dies in between leaves either a recorded
daemon or none.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.host.interruption import held
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity

__all__ = [
    "Launch",
    "adopt_orphans",
    "launch_daemon",
    "reap",
    "scope_prefix",
    "spawn_detached",
    "take_up_lack",
]

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

_EXEC_SECONDS = 5.0
_BUSY_SECONDS = 2.0
_SETTLE_SECONDS = 0.3  # a child that dies this early never started
_SCOPE_SECONDS = 5.0  # how long systemd-run may take to become the command
_SYSTEMD_MARK = Path("/run/systemd/system")
# infra/systemd/: it asks for `ctp-runbook resume --unattended`.
_TAKE_UP_TIMER = "ctp-runbook-resume.timer"
_TIMER_SECONDS = 2.0


@dataclass(frozen=True)
class Launch:
    """What came of it: an identity, or the problem; ``notice`` is what an operator should know."""

    identity: Identity | None
    problem: str = ""
    notice: str = ""


def launch_daemon(pid_file: Path, argv: tuple[str, ...], *, log: Path | None) -> Launch:
    """Start ``argv`` in a session of its own and watch it for 0.3 s.

    The pid file stays behind when the daemon dies within that time; removing it is the
    caller's to decide.
    """
    prefix, lack = scope_prefix()
    # Where there is no systemd, nobody stops a service by its control group.
    shares = bool(lack) and _SYSTEMD_MARK.is_dir()
    notice = f" ({lack}: it shares the caller's cgroup)" if shares else ""
    # A caller that tidies up when it is interrupted must not do so before the pid file is there.
    with held():
        report = _launch(pid_file, prefix + argv, log, scoped=bool(prefix))
    if "pid" not in report:
        return Launch(None, report.get("problem", "the launcher died"))
    identity = Identity(int(report["pid"]), int(report["start_ticks"]))
    return Launch(identity, report["problem"], notice)


def scope_prefix() -> tuple[tuple[str, ...], str]:
    """What puts a command into a control group of its own, or nothing and why there is nothing.

    ``systemd-run --scope`` becomes the command in place, so that a recorded pid stays true.
    """
    if not _SYSTEMD_MARK.is_dir():
        return (), "systemd does not run here"
    runner = shutil.which("systemd-run")
    if runner is None:
        return (), "no systemd-run"
    base = (runner, "--scope", "--quiet", "--collect")
    if os.geteuid() == 0:
        return (*base, "--"), ""
    # Without the user's bus systemd-run --user fails, and with it whatever it was to start.
    bus = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "bus"
    if bus.exists():
        return (*base, "--user", "--"), ""
    return (), "no user bus for systemd-run"


def take_up_lack() -> str:
    """Why nothing of this host takes up a run whose processes are all gone; blank where a timer does.

    A scope of systemd keeps a run apart, and starts none of it again.
    """
    if not _SYSTEMD_MARK.is_dir():
        return "systemd does not run here"
    asked = ("systemctl", "is-active", "--quiet", _TAKE_UP_TIMER)
    try:
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, timeout=_TIMER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "systemctl does not answer"
    return "" if done.returncode == 0 else f"{_TAKE_UP_TIMER} (infra/systemd/) is not active"


def spawn_detached(
    arguments: list[str], *, log: Path, lock: int, others: Collection[int] = ()
) -> int:
    """Start a process in a session of its own, output to ``log``, with ``lock`` and ``others`` alone
    kept open. Raises OSError.

    Nobody is to wait for it, so it is no Popen, which would complain about that.
    """
    kept = (lock, *others)
    for fd in kept:
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawnp(
            arguments[0],
            arguments,
            os.environ,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, _log(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    finally:
        for fd in kept:
            os.set_inheritable(fd, False)


def _log(path: Path) -> Path:
    """The log, or where there is no place for one, none: it is no reason to start nobody."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600))
    except OSError:
        return Path(os.devnull)
    return path


def adopt_orphans() -> None:
    """Become the child subreaper (prctl(2)): what descends from here is never orphaned to init."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Let every child go that has ended, those that were adopted too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _launch(
    pid_file: Path, argv: tuple[str, ...], log: Path | None, *, scoped: bool
) -> dict[str, str]:
    """Fork the launcher, and read what it and the held daemon report."""
    status_read, status_write = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        try:
            _be_launcher(pid_file, argv, log, status=status_write, scoped=scoped)
        finally:
            os._exit(0)
    os.close(status_write)
    with os.fdopen(status_read, "rb") as status:
        lines = status.read().splitlines()
    os.waitpid(launcher, 0)
    report: dict[str, str] = {}
    for line in lines:  # the first to name a problem is right: exec knows better than wait
        report = {**json.loads(line), **report}
    return report


def _tell(status: int, **facts: str | int) -> None:
    os.write(status, json.dumps({key: str(value) for key, value in facts.items()}).encode() + b"\n")


def _be_launcher(
    pid_file: Path, argv: tuple[str, ...], log: Path | None, *, status: int, scoped: bool
) -> None:
    """In the first child: record the daemon, let it go, and see whether it lives."""
    try:
        os.setsid()
        status = _keep_only(status)
        hold_read, hold_write = os.pipe()
        daemon = os.fork()
        if daemon == 0:
            _become_daemon(argv, log, hold=hold_read, hold_write=hold_write, status=status)
        os.close(hold_read)
        identity = identity_of(daemon)
        assert identity is not None  # it is held, and ours to reap
        _write_pid_file(pid_file, identity)
        os.write(hold_write, b"\n")
        _await_exec(hold_write)
        problem = _settle(daemon, scoped=scoped)
        _tell(status, pid=daemon, start_ticks=identity.start_ticks, problem=problem)
    except OSError as error:
        _tell(status, problem=str(error))


def _keep_only(fd: int) -> int:
    """Close every descriptor but 0, 1, 2 and ``fd``: a daemon must hold no lock or pipe."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != fd:
            with contextlib.suppress(OSError):
                os.close(int(name))
    return fd


def _become_daemon(
    argv: tuple[str, ...], log: Path | None, *, hold: int, hold_write: int, status: int
) -> None:
    """In the second child: wait to be released, then be the command. Does not return."""
    try:
        os.close(hold_write)  # else the end of the launcher would never be seen
        os.setsid()
        _default_signals()
        _redirect(log)
        if not os.read(hold, 1):
            os._exit(125)
        _execute(argv)
    except OSError as error:
        _tell(status, problem=f"cannot execute {argv[0]}: {error.strerror} (exit code 127)")
    finally:
        os._exit(127)


def _execute(argv: tuple[str, ...]) -> None:
    """Be the command. A file that was put there a moment ago may still be open for writing somewhere,
    be it in a child on its way to its own command: that is waited for."""
    latest = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            if error.errno != errno.ETXTBSY or time.monotonic() > latest:
                raise
            time.sleep(0.01)


def _default_signals() -> None:
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _redirect(log: Path | None) -> None:
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if log is None:
        sink = os.open("/dev/null", os.O_WRONLY)
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    os.dup2(sink, 1)
    os.dup2(sink, 2)


def _write_pid_file(pid_file: Path, identity: Identity) -> None:
    draft = pid_file.with_name(f"{pid_file.name}.{os.getpid()}")
    draft.write_text(f"{identity.pid}\n{identity.start_ticks}\n", encoding="ascii")
    draft.replace(pid_file)


def _await_exec(hold_write: int) -> None:
    """Until the daemon is its command, or gone: both close its end of the pipe. On a busy host
    that may take longer than a command that fails at once needs to fail."""
    poll = select.poll()
    poll.register(hold_write, 0)  # an end without a reader is told without being asked for
    poll.poll(_EXEC_SECONDS * 1000)


def _settle(daemon: int, *, scoped: bool) -> str:
    """The reason why the daemon is dead already; empty when it lived through the wait."""
    now = time.monotonic()
    latest, until = now + _SCOPE_SECONDS, now + _SETTLE_SECONDS
    while time.monotonic() < until:
        if os.waitid(os.P_PID, daemon, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return _death(os.waitpid(daemon, 0)[1])
        if scoped and time.monotonic() < latest and _is_systemd_run(daemon):
            until = time.monotonic() + _SETTLE_SECONDS
        time.sleep(0.01)
    return ""


def _is_systemd_run(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "systemd-run"
    return False


def _death(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"it died within {_SETTLE_SECONDS} s of its start ({how})"
