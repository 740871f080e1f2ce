"""Mechanism of processes: identity, held start, wait, and an end that is proved.

Policy (what a failure means) lives elsewhere; this file only starts, waits and ends.
Facts about a process are read from /proc (Linux, proc(5)).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ctp_runbook.model import Identity

__all__ = [
    "CommandEnd",
    "GroupEnd",
    "HeldCommand",
    "boot_id",
    "end_group",
    "end_process",
    "end_processes",
    "group_members",
    "identity_of",
    "is_running",
    "own_identity",
    "parents",
    "wait_gone",
]

# A held command blocks on this descriptor until it is released; if its starter dies first,
# the read meets end of file and nothing of the command has run.
_HOLD = 'read -r _ <&{fd} || exit 125; exec {fd}<&-; exec bash -c "$1"'
_GONE_STATES = "ZX"


@dataclass(frozen=True)
class CommandEnd:
    """How waiting for a command ended. ``exit_code`` is None unless the shell exited itself.

    A shell ended by a signal has the exit code 128 + signal, as in bash.
    """

    exit_code: int | None
    timed_out: bool = False
    interrupted: str = ""


@dataclass(frozen=True)
class GroupEnd:
    """What ending a process group came to; ``left`` is empty when the group is proved empty."""

    left: tuple[int, ...]
    killed: bool


@cache
def boot_id() -> str:
    """This boot's random id (random(4)); another value means the host was rebooted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat_fields(pid: int) -> list[str]:
    """Fields 3 and up of /proc/PID/stat; empty when there is no such process."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The command name (field 2) may itself hold spaces and parentheses.
    return raw[raw.rindex(b")") + 2 :].decode("ascii").split()


def identity_of(pid: int) -> Identity | None:
    """Who runs under ``pid`` now; None for nobody, and for a zombie, which can act no more."""
    fields = _stat_fields(pid)
    if not fields or fields[0] in _GONE_STATES:
        return None
    return Identity(pid=pid, start_ticks=int(fields[19]), boot_id=boot_id())


def own_identity() -> Identity:
    """The identity of the calling process."""
    found = identity_of(os.getpid())
    assert found is not None  # we are running
    return found


def is_running(identity: Identity) -> bool:
    """True while exactly this process runs; a reused pid or another boot is not it."""
    if identity.boot_id and identity.boot_id != boot_id():
        return False
    found = identity_of(identity.pid)
    return found is not None and found.start_ticks == identity.start_ticks


def group_members(pgid: int) -> tuple[int, ...]:
    """Pids of the live (not zombie) processes in process group ``pgid``."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            if fields and fields[0] not in _GONE_STATES and int(fields[2]) == pgid:
                found.append(int(name))
    return tuple(found)


def parents() -> dict[int, int]:
    """The parent of every live (not zombie) process, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            if fields and fields[0] not in _GONE_STATES:
                found[int(name)] = int(fields[1])
    return found


def wait_gone(identity: Identity, *, seconds: float) -> bool:
    """True when the process is gone within ``seconds``; not a child of ours, so polled by pidfd."""
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return not is_running(identity)
    try:
        if not is_running(identity):
            return True
        select.select([fd], [], [], max(0.0, seconds))
        return not is_running(identity)
    finally:
        os.close(fd)


def end_process(identity: Identity, *, term_grace: float, kill_grace: float) -> bool:
    """TERM, wait, KILL, wait: True when exactly this process is proved gone."""
    for sign, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, kill_grace)):
        if not is_running(identity):
            return True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(identity.pid, sign)
        if wait_gone(identity, seconds=grace):
            return True
    return False


def end_processes(
    identities: Iterable[Identity],
    *,
    term_grace: float,
    kill_grace: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Identity, ...]:
    """TERM, wait, KILL, wait for several at once, in one grace each; those still running.

    ``meanwhile`` is called about ten times a second, so that requests are heard while waiting.
    """
    left = tuple(one for one in identities if is_running(one))
    for sign, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, kill_grace)):
        for identity in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(identity.pid, sign)
        left = _wait_all_gone(left, seconds=grace, meanwhile=meanwhile)
    return left


def _wait_all_gone(
    left: tuple[Identity, ...], *, seconds: float, meanwhile: Callable[[], object]
) -> tuple[Identity, ...]:
    deadline = time.monotonic() + seconds
    while True:
        until = min(deadline, time.monotonic() + 0.1)
        left = tuple(one for one in left if not wait_gone(one, seconds=until - time.monotonic()))
        if not left or time.monotonic() >= deadline:
            return left
        meanwhile()


def end_group(
    pgid: int,
    *,
    term_grace: float,
    kill_grace: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> GroupEnd:
    """TERM, wait, KILL, wait for a whole process group, until it is proved empty.

    ``meanwhile`` is called again and again while it is waited for.
    """
    killed = False
    left = group_members(pgid)
    for sign, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, kill_grace)):
        if not left:
            break
        killed = sign == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, sign)
        left = _wait_group_empty(pgid, seconds=grace, meanwhile=meanwhile)
    return GroupEnd(left=left, killed=killed)


def _wait_group_empty(
    pgid: int, *, seconds: float, meanwhile: Callable[[], object]
) -> tuple[int, ...]:
    deadline = time.monotonic() + seconds
    while True:
        left = group_members(pgid)
        if not left or time.monotonic() >= deadline:
            return left
        meanwhile()
        time.sleep(0.02)


class HeldCommand:
    """A bash command in a session of its own that runs nothing before ``release``.

    Holding it gives the caller time to write down who it is *before* it acts; when the caller
    dies in between, the command ends with nothing done. Output goes to ``output`` (a file), so
    that a child which keeps stdout open keeps nobody waiting.

    Parameters: ``command`` is run by ``bash -c`` in ``cwd`` with exactly ``env``.
    """

    def __init__(self, command: str, *, cwd: Path, env: Mapping[str, str], output: Path) -> None:
        gate_read, self._gate_write = os.pipe()
        try:
            with output.open("ab") as sink:
                self._child = subprocess.Popen(
                    # -p: no BASH_ENV and no inherited function runs before the hold
                    ["bash", "-p", "-c", _HOLD.format(fd=gate_read), "step", command],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    pass_fds=(gate_read,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._gate_write)
            raise
        finally:
            os.close(gate_read)
        self._pidfd = os.pidfd_open(self._child.pid)
        found = identity_of(self._child.pid)
        self.identity = found or Identity(self._child.pid, 0, boot_id())

    @property
    def pgid(self) -> int:
        """The process group, which is the shell's own pid."""
        return self.identity.pid

    def release(self) -> None:
        """Let the command run."""
        with contextlib.suppress(BrokenPipeError):  # killed while held: wait() tells
            os.write(self._gate_write, b"\n")
        os.close(self._gate_write)
        self._gate_write = -1

    def wait(self, *, deadline: float, interrupt: Callable[[], str]) -> CommandEnd:
        """Wait for the shell alone, until ``deadline`` (monotonic seconds) or an interrupt.

        ``interrupt`` is asked ten times a second; a sentence from it ends the wait.
        """
        while True:
            left = deadline - time.monotonic()
            if select.select([self._pidfd], [], [], min(0.1, max(0.0, left)))[0]:
                code = self._child.wait()
                return CommandEnd(exit_code=code if code >= 0 else 128 - code)
            if left <= 0:
                return CommandEnd(exit_code=None, timed_out=True)
            if reason := interrupt():
                return CommandEnd(exit_code=None, interrupted=reason)

    def end(
        self,
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> GroupEnd:
        """End the whole group, reap the shell, and say what is left (nothing, it is hoped)."""
        result = end_group(
            self.pgid, term_grace=term_grace, kill_grace=kill_grace, meanwhile=meanwhile
        )
        self._child.poll()
        return result

    def close(self) -> None:
        """Give the descriptors back; a command never released ends without running."""
        if self._gate_write >= 0:
            os.close(self._gate_write)
            self._gate_write = -1
            self._child.wait()
        os.close(self._pidfd)
