"""The standard streams of a command, whatever became of them: closed, full, left by their reader.

What a command did, and the exit code that says so, must not depend on whether anybody could read
it: a run goes on, ``proc alive`` has its answer.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["keep_open", "unwritten"]

# A reader that is slow, of a pipe that does not wait.
_SLOW_SECONDS, _POLL_SECONDS = 5.0, 0.01


class _Outlet(io.FileIO):
    """A descriptor that takes all it is given, and remembers why what is lost was lost."""

    lost = ""

    def write(self, data: Buffer, /) -> int:
        """Write as much as goes at once; all of it is gone where nothing goes any more."""
        size = memoryview(data).nbytes
        until = time.monotonic() + _SLOW_SECONDS
        try:
            while (written := super().write(data)) is None:
                if time.monotonic() >= until:
                    return size
                time.sleep(_POLL_SECONDS)
        except BrokenPipeError:  # the reader has seen enough
            return size
        except OSError as error:
            self.lost = error.strerror or str(error)
            return size
        return int(written)


def keep_open() -> None:
    """Make standard output and standard error take what they are given until this process ends.

    A descriptor that was closed becomes /dev/null: whatever is opened next would get its number,
    a lock or a journal, and every child would print into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(fd, True)
    # Who has put a stream of his own there, has his reasons.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)


def _stream(fd: int, like: io.TextIOWrapper | object | None) -> io.TextIOWrapper:
    outlet = _Outlet(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=fd == 2 or outlet.isatty(),
    )


def unwritten() -> str:
    """Return why something of standard output is lost, blank where nothing is, or where its reader
    left."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        return ""
    return str(getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "lost", ""))
