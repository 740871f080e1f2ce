"""Mechanism of processes: identity, wait, and an end that is proved.

Policy (what a failure means) lives elsewhere; this file only looks, waits and ends.
Facts about a process are read from /proc (Linux, proc(5)).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from ctp_runbook.model import Identity

__all__ = [
    "GroupEnd",
    "boot_id",
    "end_group",
    "end_process",
    "end_processes",
    "group_members",
    "identity_of",
    "is_running",
    "led_by",
    "own_identity",
    "parents",
    "wait_gone",
]

_GONE_STATES = "ZX"
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
    act no more."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The command name (field 2) may itself hold spaces and parentheses.
    fields = raw[raw.rindex(b")") + 2 :].decode("ascii").split()
    return [] if fields[0] in _GONE_STATES else fields


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


def group_members(pgid: int) -> tuple[int, ...]:
    """Pids of the live processes in process group ``pgid``."""
    return tuple(pid for pid, fields in _live() if int(fields[2]) == pgid)


def parents() -> dict[int, int]:
    """The parent of every live process, by pid."""
    return {pid: int(fields[1]) for pid, fields in _live()}


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
        select.select([fd], [], [], max(0.0, seconds))
        return not is_running(identity)
    finally:
        os.close(fd)


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
