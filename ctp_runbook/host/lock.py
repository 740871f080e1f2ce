"""One run at a time for an environment of this host: a lock that dies with those who hold it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ctp_runbook.errors import EnvironmentHeld, RunRefused

__all__ = [
    "exclusive",
    "folders_of",
    "give_back",
    "held_directories",
    "holder_of",
    "holders_so_far",
    "keep_from_children",
    "lock_of",
    "take_environment_lock",
]

# Of a killed process with threads the last one may hold its files a moment after it counts as gone.
_GRACE_SECONDS = 0.5
_POLL_SECONDS = 0.01
# Everybody may leave something by the name of a lock: nobody waits at a pipe.
_LOOKING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FILE = "ctp-runbook.{}.lock"
_MOST_FOLDERS, _MOST_BYTES = 8, 40_000


def take_environment_lock(environment: str, *, run_id: str, path: Path | None = None) -> int:
    """The lock of an environment on this host, as an open descriptor.

    The lock lives as long as any process holds the descriptor. It names the run that takes it and,
    on its second line, that run's directory ``path``. Raises EnvironmentHeld, naming the run that
    has it.
    """
    place = _lock_path(environment)
    try:
        fd = _open_lock(place)
    except OSError as error:
        raise RunRefused(f"the lock {place} cannot be opened: {error.strerror}") from error
    try:
        _flock(fd, seconds=_GRACE_SECONDS)
    except OSError as error:
        holder, holds = _holder(fd)
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise RunRefused(f"the lock {place} cannot be had: {error.strerror}") from error
        raise EnvironmentHeld(
            f"environment {environment} is held by {holder} ({place}); one run at a time: "
            "follow it with `ctp-runbook status`, or wait until it is over "
            "(infra/runbook/two_people.md)",
            holder=holds,
        ) from error
    with contextlib.suppress(OSError):  # the name is for people; a full disk does not unlock
        before = _lines(fd)[2:]
        folders = dict.fromkeys([*([str(path.parent)] if path else []), *before])
        lines = [f"run {run_id}", str(path or ""), *list(folders)[:_MOST_FOLDERS]]
        os.ftruncate(fd, 0)
        os.pwrite(fd, os.fsencode("\n".join(lines)), 0)
    return fd


def folders_of(environment: str) -> list[Path]:
    """The folders in which an environment had its runs, the last one first, as its lock remembers.

    Everybody may write to it: only folders of this user, or of root, are named.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(_lock_path(environment), flags)
    except OSError:
        return []
    try:
        folders = [Path(line) for line in _lines(fd)[2:] if line]
    finally:
        os.close(fd)
    return [folder for folder in folders if _is_trusted(folder)]


def _is_trusted(folder: Path) -> bool:
    try:
        return folder.is_absolute() and folder.stat().st_uid in (0, os.getuid())
    except (OSError, ValueError):
        return False


def holder_of(environment: str) -> str:
    """The directory of the run that holds an environment now; empty when none does, or none says.

    The name in a lock that nobody holds is that of a run that is over, and counts for nothing.
    """
    return _held_by(_lock_path(environment))


def held_directories() -> list[str]:
    """The directories of the runs that hold an environment of this host now, whichever it is."""
    locks = _lock_path("any").parent.glob(_FILE.format("*"))
    return [held for lock in locks if (held := _held_by(lock))]


def holders_so_far() -> list[tuple[str, str, float]]:
    """Of each environment of this host the run that held it last, its directory, and when its lock
    was last written to (seconds since the epoch); whether it still holds it or not."""
    holders = []
    for lock in _lock_path("any").parent.glob(_FILE.format("*")):
        try:
            fd = os.open(lock, _LOOKING)
        except OSError:
            continue
        try:
            holders.append((*_holder(fd), os.fstat(fd).st_mtime))
        finally:
            os.close(fd)
    return [row for row in holders if row[1]]


def _held_by(lock: Path) -> str:
    try:
        fd = os.open(lock, _LOOKING)
    except OSError:
        return ""
    try:
        # Shared, and given back at once: whoever takes the lock meanwhile tries again.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(fd)[1]
    except OSError:
        return ""
    finally:
        os.close(fd)
    return ""


@contextlib.contextmanager
def lock_of(environment: str, *, path: Path) -> Iterator[int | None]:
    """The lock of an environment to read in, held by nobody for that; None where it does not name
    the run in directory ``path``."""
    try:
        fd = os.open(_lock_path(environment), _LOOKING)
    except OSError:
        yield None
        return
    try:
        holds = _holder(fd)[1]
        is_its = bool(holds) and os.path.realpath(holds) == os.path.realpath(path)
        yield fd if is_its else None
    finally:
        os.close(fd)


def keep_from_children(lock: int) -> None:
    """Let no command that is started from now on hold the lock too: it would outlive the run."""
    os.set_inheritable(lock, False)


def give_back(lock: int) -> None:
    """Close a lock's descriptor; the lock is free when no other process holds it."""
    os.close(lock)


@contextlib.contextmanager
def exclusive(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold a file's own lock. Raises TimeoutError when others keep it longer than ``seconds``."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            _flock(fd, seconds=seconds)
        except BlockingIOError as error:
            raise TimeoutError(f"{path} is held by another process") from error
        yield
    finally:
        os.close(fd)


def _flock(fd: int, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _holder(fd: int) -> tuple[str, str]:
    """``run ID``, or that it is another run; and its directory, where the lock names it."""
    name, directory, *_ = *_lines(fd), "", ""
    shown = name.encode(errors="replace").decode()
    return shown.strip() or "another run", directory.strip()


def _lines(fd: int) -> list[str]:
    """What a lock says: the run that took it last, its directory, the folders of runs before it."""
    try:
        # Behind a gap come signs of life (host/heartbeat.py).
        text, _, _ = os.fsdecode(os.pread(fd, _MOST_BYTES, 0)).partition("\0")
        return text.split("\n")
    except OSError:
        return []


def _lock_path(environment: str) -> Path:
    """One place for every user: /run/lock where all may write to it, else /tmp."""
    room = Path("/run/lock")
    all_may = room.is_dir() and room.stat().st_mode & stat.S_IWOTH
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", environment)
    return (room if all_may else Path("/tmp")) / _FILE.format(name)


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
