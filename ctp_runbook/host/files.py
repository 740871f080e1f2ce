"""Files as a run needs them: read in part, there whole or not at all, added to, cut."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "append",
    "appending",
    "exists",
    "names_in",
    "nearest_there",
    "open_plain",
    "read",
    "read_small",
    "remove",
    "rename",
    "size_of",
    "truncate",
    "why_not_written",
    "write_atomic",
]

_NO_FILES = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read(path: Path, *, start: int = 0, most: int = -1) -> bytes:
    """Return what a file holds from ``start`` on, ``most`` bytes of it at most. Raises OSError."""
    with path.open("rb") as source:
        source.seek(start)
        return source.read(most)


def open_plain(path: Path) -> BinaryIO:
    """Open a file to be read that anybody may have put there. Raises OSError.

    Also for what is no plain file, of which a pipe would be waited at for ever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise OSError(errno.EINVAL, "a directory, pipe or device, and no plain file", str(path))


def read_small(path: Path, *, most: int) -> bytes:
    """Return what ``open_plain`` opens. Raises OSError, also for more than ``most`` bytes."""
    with open_plain(path) as source:
        data = source.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes")
    return data


def size_of(path: Path) -> int:
    """Return how many bytes a file has. Raises OSError."""
    return path.stat().st_size


def exists(path: Path) -> bool:
    """Return True where there is something by this name, or a link to something."""
    return path.exists()


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder, in their order. Raises OSError."""
    return sorted(os.listdir(folder))


def why_not_written(path: Path, *, folder: bool = False) -> str:
    """Say why no file could be written as ``path``, or below it where it is a ``folder``; blank where
    nothing is seen that stands against it. Nothing is made.
    """
    named = str(path)
    if ":/" in named and (address := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", named)):
        return f"an address ({address[0]}…), which nothing is written to; name a path of this host"
    try:
        kind = _kind_of(path)
        if kind and not folder:
            return f"{kind}, which is not replaced by a file; name another path"
        if not folder and path.name in ("", ".."):
            return "no name of a file; name one"
        place = nearest_there(path if folder else path.parent)
        mode = place.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return f"not to be written to ({reason}); name another path"
    if not stat.S_ISDIR(mode):
        return f"not to be made: {place} is no directory; name another path"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"not to be written to: {place} lets you make no file; name another path"
    return ""


def nearest_there(folder: Path) -> Path:
    """Return a folder as far as it is there: below that it would be made when something is written."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _kind_of(path: Path) -> str:
    """What is there by this name and is no file, in words; blank for a file, or for nothing.

    A link to an open descriptor, as /dev/stdout is one, stands for what is open, not for a name.
    """
    try:
        if path.is_symlink() and str(path.readlink()).startswith("/proc/"):
            return "a link to an open file"
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    return next((kind for is_kind, kind in _NO_FILES.items() if is_kind(mode)), "")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` whole: a reader sees the old file or the new one.

    ``durable=False`` leaves the disk its time, for what a loss of power may take back. Raises OSError,
    also for what is no file: in the place of a device or a FIFO, which others have open, a file
    would be somebody's loss.
    """
    if kind := _kind_of(path):
        code = errno.EISDIR if path.is_dir() else errno.EEXIST
        raise OSError(code, f"{kind}, which is not replaced by a file", str(path))
    name = path.parent / f".{path.name}.{os.getpid()}.{time.monotonic_ns()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(name, flags, mode)
    try:
        with os.fdopen(fd, "wb") as sink:
            sink.write(data)
            sink.flush()
            if durable:
                os.fsync(sink.fileno())
        name.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
        raise


def append(path: Path, data: bytes) -> None:
    """Add ``data`` to the end of a file, which is made where there is none. Raises OSError."""
    with path.open("ab") as sink:
        sink.write(data)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Hold a file open, made where there is none; what is called adds to its end. Raises OSError."""
    with path.open("ab") as sink:

        def add(data: bytes) -> None:
            sink.write(data)
            sink.flush()

        yield add


def truncate(path: Path, size: int) -> None:
    """Cut a file to ``size`` bytes; whoever appends to it goes on there. Raises OSError."""
    os.truncate(path, size)


def rename(path: Path, target: Path) -> None:
    """Give a file another name on the same disk, at one instant. Raises OSError."""
    path.rename(target)


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is no error. Raises OSError for any other."""
    path.unlink(missing_ok=True)
