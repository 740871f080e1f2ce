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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


def led_by(leader: int) -> tuple[int, ...]:
    """Pids of the live processes in the process group or the session that ``leader`` leads."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != leader:
            fields = _stat_fields(int(name))
            if fields and fields[0] not in _GONE_STATES and str(leader) in fields[2:4]:
                found.append(int(name))
    return tuple(found)


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
