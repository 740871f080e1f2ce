"""Files as a run needs them: read in part, there whole or not at all, added to, kept, cut."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "PRIVATE",
    "PRIVATE_FOLDER",
    "KeptFile",
    "append",
    "appending",
    "exists",
    "is_being_written",
    "keep_open",
    "keep_private",
    "names_in",
    "nearest_there",
    "no_file",
    "open_plain",
    "path_of",
    "read",
    "read_small",
    "remove",
    "rename",
    "scratch",
    "size_of",
    "truncate",
    "why_not_written",
    "write_atomic",
]

# Where `write_atomic` puts a file together, by whom: .NAME.PID.INSTANT.
_UNDER_WAY = re.compile(r"\..+\.(\d+)\.\d+", re.DOTALL)
_ADDING = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
# Whatever the umask: this user alone.
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
_NO_FILES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "",
}


def read(path: Path, *, start: int = 0, most: int = -1) -> bytes:
    """Return what a file holds from ``start`` on, ``most`` bytes of it at most. Raises OSError."""
    with open_plain(path) as source:
        source.seek(start)
        return source.read(most)


def open_plain(path: Path) -> BinaryIO:
    """Open to read what must be a plain file. Raises OSError.

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
    if ":/" in named and (address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+:)/", named)):
        # As it was typed: a path has lost the second of its two slashes.
        return (
            f"an address ({address[1]}//…), which nothing is written to; name a path of this host"
        )
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
    return no_file(mode)


def no_file(mode: int) -> str:
    """What stands there by this mode and is no file, in words; blank for a file."""
    return _NO_FILES.get(stat.S_IFMT(mode), "a device")


def write_atomic(path: Path, data: bytes, *, mode: int | None = None, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` whole: a reader sees the old file or the new one.

    Without ``mode`` a new file is this user's alone, and one that is there keeps who may read it.
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
        fd = os.open(name, flags, mode or PRIVATE)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(name, flags, mode or PRIVATE)
    try:
        with os.fdopen(fd, "wb") as sink:
            if mode is None:
                with contextlib.suppress(OSError):  # nothing there; or a disk without modes
                    os.fchmod(fd, stat.S_IMODE(path.stat().st_mode))
            sink.write(data)
            sink.flush()
            if durable:
                os.fsync(sink.fileno())
        name.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
        raise


def is_being_written(path: Path) -> bool:
    """True for what `write_atomic` makes, until it is in its place, while its writer runs."""
    writer = _UNDER_WAY.fullmatch(path.name)
    return writer is not None and Path(f"/proc/{writer[1]}").exists()


def append(path: Path, data: bytes) -> None:
    """Add ``data`` to the end of a file, which is made where there is none. Raises OSError."""
    with open(path, "ab", opener=_private_opener) as sink:
        sink.write(data)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


def keep_private(folder: Path) -> None:
    """Take from everybody else what they may do with a folder and all in it.

    What commands left there has the mode that their umask gave it. What is no file or folder, or is
    not ours to change, stays.
    """
    for name, _, names in os.walk(folder):
        for path in (Path(name), *(Path(name, other) for other in names)):
            with contextlib.suppress(OSError):
                mode = path.lstat().st_mode
                if mode & 0o077 and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    path.chmod(stat.S_IMODE(mode) & PRIVATE_FOLDER)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[KeptFile]:
    """Hold a file open, made where there is none; what is called adds to its end. Raises OSError."""
    kept = KeptFile(path)
    try:
        yield kept
    finally:
        kept.close()


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Yield an empty file in memory, for what may hold secrets; with the end of it, it is gone.

    It is in no folder: none can be full, out of inodes, unwritable or removed. It can be opened by its
    path here and by what is started here. Raises OSError.
    """
    fd = _without_a_name(name)
    try:
        yield path_of(fd)
    finally:
        os.close(fd)


def _without_a_name(name: str) -> int:
    with contextlib.suppress(OSError):
        return os.memfd_create(name)
    # A kernel that forbids it (vm.memfd_noexec).
    with contextlib.suppress(OSError):
        return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def keep_open(path: Path) -> int:
    """Open a file that is there to be added to; its descriptor. Raises OSError."""
    return os.open(path, _ADDING)


def path_of(fd: int) -> Path:
    """Return a path that leads to what is open here, whether or not it still has a name."""
    # By number, for what is started here opens it as well.
    return Path(f"/proc/{os.getpid()}/fd/{fd}")


class KeptFile:
    """A file that stays open for adding, whatever becomes of its name; ``fd`` is one that is open.

    Anybody may remove a folder, or put another file in this one's place: what is open is still
    there, but nobody else finds it. Then a copy is put where the name was, and what is added goes to
    both: ``fd`` stays the same to the end, and whoever inherits it holds all that was ever added.
    """

    def __init__(self, path: Path, *, fd: int = -1) -> None:
        self.path = path
        self.fd = fd if fd >= 0 else os.open(path, _ADDING | os.O_CREAT, PRIVATE)
        # No command that is started here is to keep it, nor to write to it.
        os.set_inheritable(self.fd, False)
        self._copy = -1

    def __call__(self, data: bytes) -> None:
        """Add to the end. Raises OSError."""
        _add(self.fd, data)
        self.add_to_copy(data)

    def add_to_copy(self, data: bytes, *, durable: bool = False) -> None:
        """Add what the file itself got; a copy that does not take it is given up, and made anew at
        the next ``put_back``."""
        if self._copy < 0:
            return
        try:
            _add(self._copy, data)
            if durable:
                os.fdatasync(self._copy)
        except OSError:
            self._forget_copy()

    def read(self) -> bytes:
        """Return all that is in it. Raises OSError."""
        return path_of(self.fd).read_bytes()

    def put_back(self) -> str:
        """See that the name leads to what is open, or to a copy of it; what had become of it, in words,
        or nothing. Raises OSError where neither is to be had.

        What was put in its place is kept beside it.
        """
        try:
            there = _identity(os.lstat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            what = "was removed while it was written"
        else:
            if there in (_identity(os.fstat(fd)) for fd in (self.fd, self._copy) if fd >= 0):
                return ""
            aside = self.path.with_name(f"{self.path.name}.found-{time.time_ns()}")
            self.path.rename(aside)
            what = f"was replaced while it was written, by what is now {aside.name}"
        self._forget_copy()
        write_atomic(self.path, self.read())
        self._copy = keep_open(self.path)
        return what

    def close(self) -> None:
        """Close it, and its copy."""
        self._forget_copy()
        os.close(self.fd)

    def _forget_copy(self) -> None:
        if self._copy >= 0:
            with contextlib.suppress(OSError):
                os.close(self._copy)
        self._copy = -1


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _add(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def truncate(path: Path, size: int) -> None:
    """Cut a file to ``size`` bytes; whoever appends to it goes on there. Raises OSError."""
    os.truncate(path, size)


def rename(path: Path, target: Path) -> None:
    """Give a file another name on the same disk, at one instant. Raises OSError."""
    path.rename(target)


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is no error. Raises OSError for any other."""
    path.unlink(missing_ok=True)
