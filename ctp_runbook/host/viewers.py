"""Who looks at something now: a small file a viewer, locked for as long as its process lives.

To be seen looking is a courtesy between people: whatever goes wrong here goes wrong for whoever looks
and raises nothing. A viewer that was killed takes its lock along; the next to look removes its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from ctp_runbook.decoding import decoder
from ctp_runbook.host import files

__all__ = ["Look", "Viewer", "viewers"]

_MOST_BYTES, _MOST_VIEWERS, _LONGEST_NAME = 4096, 50, 60
_LOOKING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Viewer(Struct, frozen=True):
    """Who looks, in what (a notebook's name), and since when (UTC)."""

    by: str
    where: str
    since_utc: str

    @property
    def sentence(self) -> str:
        """``root in 05_watch since 19:20:05Z``."""
        since = f" since {self.since_utc[11:19]}Z" if self.since_utc else ""
        return f"{self.by[:_LONGEST_NAME]} in {self.where[:_LONGEST_NAME]}{since}"


class Look:
    """A look that others see until it is closed, or its process is gone. Never raises."""

    def __init__(self, folder: Path, *, by: str, where: str) -> None:
        self._folder, self._name = folder, secrets.token_hex(8)
        self._fd = -1
        viewer = Viewer(by, where, datetime.now(UTC).isoformat())
        with contextlib.suppress(OSError):
            self._fd = self._begin(msgspec.json.encode(viewer))

    def _begin(self, data: bytes) -> int:
        self._folder.parent.mkdir(files.PRIVATE_FOLDER, exist_ok=True)
        self._folder.mkdir(files.PRIVATE_FOLDER, exist_ok=True)
        draft = self._folder / f".{self._name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(draft, flags, files.PRIVATE)
        try:
            # Locked before it has a name that others read: unlocked, it would be a dead one's.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, data)
            draft.rename(self._folder / self._name)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        return fd

    def others(self) -> list[Viewer]:
        """Return who else looks."""
        return viewers(self._folder, but=self._name)

    def close(self) -> None:
        """Be seen no more; once is enough."""
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # the last one
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def viewers(folder: Path, *, but: str = "") -> list[Viewer]:
    """Return who looks, the first to come first; the files of those who are gone are removed."""
    looking = [
        viewer for name in _names(folder) if name != but and (viewer := _read(folder / name))
    ]
    with contextlib.suppress(OSError):
        folder.rmdir()  # of a dead one that was the last
    return sorted(looking, key=lambda viewer: (viewer.since_utc, viewer.where))


def _names(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        names = (name for name in os.listdir(folder) if not name.startswith("."))
        yield from sorted(names)[:_MOST_VIEWERS]


def _read(path: Path) -> Viewer | None:
    """The viewer of a file that is locked; None of any other, which is removed."""
    try:
        fd = os.open(path, _LOOKING)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return decoder(Viewer).decode(os.pread(fd, _MOST_BYTES, 0))
    except OSError:
        pass
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    finally:
        os.close(fd)
    return None
