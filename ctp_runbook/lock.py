"""One run at a time for an environment of this host: a lock that dies with those who hold it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path

from ctp_runbook.errors import RunRefused

__all__ = ["take_environment_lock"]

# Of a killed process with threads the last one may hold its files a moment after it counts as gone.
_GRACE_SECONDS = 0.5


def take_environment_lock(environment: str, *, run_id: str) -> int:
    """The lock of an environment on this host, as an open descriptor.

    The lock lives as long as any process holds the descriptor. Raises RunRefused, naming the
    run that has it.
    """
    path = _lock_path(environment)
    try:
        fd = _open_lock(path)
    except OSError as error:
        raise RunRefused(f"the lock {path} cannot be opened: {error.strerror}") from error
    try:
        _flock(fd)
    except OSError as error:
        holder = _holder(fd)
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise RunRefused(f"the lock {path} cannot be had: {error.strerror}") from error
        raise RunRefused(
            f"environment {environment} is held by {holder} ({path}); one run at a time: "
            "follow it with `ctp-runbook status`, or wait until it is over"
        ) from error
    with contextlib.suppress(OSError):  # the name is for people; a full disk does not unlock
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"run {run_id}".encode(), 0)
    return fd


def _flock(fd: int) -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def _holder(fd: int) -> str:
    with contextlib.suppress(OSError):
        return os.pread(fd, 200, 0).decode(errors="replace").strip() or "another run"
    return "another run"


def _lock_path(environment: str) -> Path:
    """One place for every user: /run/lock where all may write to it, else /tmp."""
    room = Path("/run/lock")
    all_may = room.is_dir() and room.stat().st_mode & stat.S_IWOTH
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", environment)
    return (room if all_may else Path("/tmp")) / f"ctp-runbook.{name}.lock"


def _open_lock(path: Path) -> int:
    """Opened by whoever comes, made by the first; never through a link.

    Without O_CREAT first: with it, the kernel refuses somebody else's file in a sticky folder
    (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o666)  # whatever the umask: the next run may be another user's
        return fd
