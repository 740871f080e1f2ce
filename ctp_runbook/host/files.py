"""Files as a run needs them: read in part, there whole or not at all, added to, cut."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "append",
    "appending",
    "exists",
    "names_in",
    "read",
    "read_small",
    "remove",
    "rename",
    "size_of",
    "truncate",
    "write_atomic",
]


def read(path: Path, *, start: int = 0, most: int = -1) -> bytes:
    """Return what a file holds from ``start`` on, ``most`` bytes of it at most. Raises OSError."""
    with path.open("rb") as source:
        source.seek(start)
        return source.read(most)


def read_small(path: Path, *, most: int) -> bytes:
    """Return what a file holds that anybody may have left there. Raises OSError.

    Also for what is no plain file, of which a pipe would be waited at for ever, and for one with
    more than ``most`` bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "a directory, pipe or device, and no plain file")
        with open(fd, "rb", closefd=False) as source:
            data = source.read(most + 1)
    finally:
        os.close(fd)
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


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` whole: a reader sees the old file or the new one.

    ``durable=False`` leaves the disk its time, for what a loss of power may take back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".{path.name}.{os.getpid()}.{time.monotonic_ns()}"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
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
