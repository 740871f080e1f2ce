"""Mechanism of processes: identity, wait, and an end that is proved.

Policy (what a failure means) lives elsewhere; this file only looks, waits and ends.
Facts about a process are read from /proc (Linux, proc(5)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from ctp_runbook.model import Identity

__all__ = [
    "GroupEnd",
    "ancestors",
    "boot_id",
    "children_of",
    "end_group",
    "end_process",
    "end_processes",
    "group_members",
    "identity_of",
    "ignores_term",
    "is_hidden",
    "is_kernel_thread",
    "is_running",
    "is_stopped",
    "kill_process",
    "led_by",
    "namesakes",
    "own_identity",
    "parents",
    "process_of",
    "users_of",
    "wait_gone",
]

# Fields of /proc/PID/stat, counted from the third on (proc_pid_stat(5)).
_STATE, _FLAGS, _THREADS = 0, 6, 17
_GONE_STATES = "ZX"
_STOPPED = "T"  # and not "t", which is a debugger's
_BLIND = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_PF_KTHREAD = 0x00200000  # of field 9 of /proc/PID/stat
_POLL_SECONDS = 0.02

_T = TypeVar("_T")


class GroupEnd(NamedTuple):
    """What ending a process group came to; ``left`` is empty when the group is proved empty."""

    left: tuple[int, ...]
    killed: bool


@cache
def boot_id() -> str:
    """This boot's random id (random(4)); another value means the host was rebooted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _stat_fields(pid: int) -> list[str]:
    """Fields 3 and up of /proc/PID/stat; empty for no such process, and for a zombie, which can
    act no more. Raises OSError where nothing can be opened to look."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        # Who has no descriptor left sees nobody, and would take all the world for gone.
        if error.errno in _BLIND and _is_somebodys(pid):
            raise
        return []
    # The command name (field 2) may itself hold spaces and parentheses.
    fields = raw[raw.rindex(b")") + 2 :].decode("ascii").split()
    # A zombie whose other threads live has lost its main thread alone, and acts on.
    is_gone = fields[_STATE] in _GONE_STATES and int(fields[_THREADS]) <= 1
    return [] if is_gone else fields


def _live() -> Iterator[tuple[int, list[str]]]:
    """Every live process: its pid, and fields 3 and up of its stat."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        if fields := _stat_fields(int(name)):
            yield int(name), fields


def identity_of(pid: int) -> Identity | None:
    """Who runs under ``pid`` now; None for nobody, and for a zombie."""
    fields = _stat_fields(pid)
    return Identity(pid, int(fields[19]), boot_id()) if fields else None


def own_identity() -> Identity:
    """The identity of the calling process."""
    own = identity_of(os.getpid())
    assert own is not None  # we are running
    return own


def is_running(identity: Identity) -> bool:
    """True while exactly this process runs; a reused pid or another boot is not it."""
    if identity.boot_id and identity.boot_id != boot_id():
        return False
    now = identity_of(identity.pid)
    return now is not None and now.start_ticks == identity.start_ticks


def is_stopped(pid: int) -> bool:
    """True for a process that somebody sent SIGSTOP: it runs on when it gets CONT, and not before."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[_STATE] == _STOPPED


def is_hidden(pid: int) -> bool:
    """True where somebody has this pid and /proc does not show who (its mount option hidepid)."""
    try:
        Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return _is_somebodys(pid)
    return False


def _is_somebodys(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, and all the same somebody
        return True
    return True


def namesakes(pid: int) -> tuple[Identity, ...]:
    """Who has this number in a pid namespace of its own (a container), and another one here."""
    others = []
    for other, _ in _live():
        here, *inner = _status(other, "NSpid") or [""]
        if inner and str(pid) in inner and here != str(pid):
            others.append(identity_of(other))
    return tuple(filter(None, others))


def is_kernel_thread(pid: int) -> bool:
    """True for a thread of the kernel, which nobody started and no signal ends."""
    fields = _stat_fields(pid)
    return bool(fields) and bool(int(fields[_FLAGS]) & _PF_KTHREAD)


def process_of(pid: int) -> int:
    """The process that ``pid`` is a thread of, itself mostly; 0 where it cannot be told."""
    return int(next(iter(_status(pid, "Tgid")), 0))


def ancestors() -> frozenset[int]:
    """Pids of the calling process, of those that led to it, and of its group's and session's
    leaders: to end one of them is to end the caller."""
    line, pid = [os.getpid()], os.getppid()
    while pid > 1:
        line.append(pid)
        pid = int(fields[1]) if (fields := _stat_fields(pid)) else 0
    return frozenset((*line, os.getpgrp(), os.getsid(0)))


def users_of(pid: int) -> frozenset[int]:
    """The user ids a process acts under; empty where it cannot be told."""
    return frozenset(int(word) for word in _status(pid, "Uid"))


def ignores_term(pid: int) -> bool:
    """True where the process lets TERM pass unheard; a handler that does nothing is no such thing,
    nor can it be told from one that ends it later."""
    import signal

    mask = "".join(_status(pid, "SigIgn"))
    return bool(mask) and bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def _status(pid: int, name: str) -> list[str]:
    """The words of one line of /proc/PID/status; none where there is no such line or process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    wanted = (line for line in lines.splitlines() if line.startswith(f"{name}:"))
    return next(wanted, "").split()[1:]


def group_members(pgid: int) -> tuple[int, ...]:
    """Pids of the live processes in process group ``pgid``."""
    return tuple(pid for pid, fields in _live() if int(fields[2]) == pgid)


def parents() -> dict[int, int]:
    """The parent of every live process, by pid."""
    return {pid: int(fields[1]) for pid, fields in _live()}


def children_of(parent: Identity) -> tuple[Identity, ...]:
    """The live children of a process; nobody where it is gone."""
    if not is_running(parent):
        return ()
    pids = [pid for pid, its_parent in parents().items() if its_parent == parent.pid]
    return tuple(filter(None, map(identity_of, pids)))


def led_by(leader: int) -> tuple[int, ...]:
    """Pids of the live processes in the process group or the session that ``leader`` leads."""
    return tuple(pid for pid, fields in _live() if pid != leader and str(leader) in fields[2:4])


def wait_gone(identity: Identity, *, seconds: float) -> bool:
    """True when the process is gone within ``seconds``; not a child of ours, so polled by pidfd."""
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return not is_running(identity)
    try:
        if not is_running(identity):
            return True
        import select

        select.select([fd], [], [], max(0.0, seconds))
        return not is_running(identity)
    finally:
        os.close(fd)


def kill_process(identity: Identity, *, seconds: float) -> bool:
    """KILL exactly this process, stopped or not; True when it is proved gone within ``seconds``.

    Nobody is asked first: one that hangs hears no TERM, and one that wakes on it would act on.
    """
    import signal

    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return not is_running(identity)
    try:
        # The descriptor is of whoever has the pid now; should it pass on after this look, the
        # signal goes to nobody.
        if is_running(identity):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)
    return wait_gone(identity, seconds=seconds)


def end_process(identity: Identity, *, term_grace: float, kill_grace: float) -> bool:
    """TERM, wait, KILL, wait: True when exactly this process is proved gone."""
    return not end_processes([identity], term_grace=term_grace, kill_grace=kill_grace)


def end_processes(
    identities: Iterable[Identity],
    *,
    term_grace: float,
    kill_grace: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Identity, ...]:
    """TERM, wait, KILL, wait for several at once, in one grace each; those still running.

    ``meanwhile`` is called again and again, so that requests are heard while waiting.
    """
    import signal

    wanted = tuple(identities)
    left = tuple(filter(is_running, wanted))
    for sign, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, kill_grace)):
        for identity in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(identity.pid, sign)
        left = _wait_none(lambda: tuple(filter(is_running, wanted)), grace, meanwhile)
    return left


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
    import signal

    killed = False
    left = group_members(pgid)
    for sign, grace in ((signal.SIGTERM, term_grace), (signal.SIGKILL, kill_grace)):
        if not left:
            break
        killed = sign == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, sign)
        left = _wait_none(lambda: group_members(pgid), grace, meanwhile)
    return GroupEnd(left=left, killed=killed)


def _wait_none(
    look: Callable[[], tuple[_T, ...]], seconds: float, meanwhile: Callable[[], object]
) -> tuple[_T, ...]:
    """Look until nothing is left, for so long at most; what is left."""
    deadline = time.monotonic() + seconds
    while (left := look()) and time.monotonic() < deadline:
        meanwhile()
        time.sleep(_POLL_SECONDS)
    return left
