"""Pid files: what one holds, whom it names, and when that cannot be told.

Two kinds are read. ``proc start`` writes two lines, ``PID`` and ``START_TICKS`` (field 22 of
/proc/PID/stat); others write a pid alone (``echo $! > F``). A pid may belong to another process by
now, so both are held against when the file was written: a process that began later is not the one
it was written for.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.host.process import boot_id, identity_of
from ctp_runbook.model import Identity

__all__ = ["PidFile", "PidFileUnreadable", "read_pid_file"]

# Pid 1 is init, which always runs and is nobody's member.
_CONTENT = re.compile(rb"\s*(?!1(?:\s|\Z))([1-9]\d{0,9})(?:\s+([1-9]\d{0,17}))?\s*")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Start ticks are hundredths, and file times come from a coarser clock than the wall's.
_SLACK_SECONDS = 2.0


class PidFileUnreadable(Exception):
    """A pid file that says nothing that can be relied on; the message says why."""


@dataclass(frozen=True)
class PidFile:
    """A pid file's content. ``start_ticks`` is 0 where it holds a pid alone; ``written`` is when,
    in seconds of the wall clock."""

    path: Path
    pid: int
    start_ticks: int
    written: float

    @property
    def is_bare(self) -> bool:
        """True where the file holds a pid alone."""
        return self.start_ticks == 0

    @property
    def identity(self) -> Identity | None:
        """The process it names, running or not; None for a pid alone, which names a place."""
        return None if self.is_bare else Identity(self.pid, self.start_ticks, boot_id())

    @property
    def running(self) -> Identity | None:
        """Who runs as what the file names; for a pid alone, whoever has that pid now."""
        now = identity_of(self.pid)
        return now if self.is_bare or now == self.identity else None

    def __str__(self) -> str:
        if self.is_bare:
            return f"pid {self.pid} (identity unknown: the pid file holds no start time)"
        return str(Identity(self.pid, self.start_ticks))

    @property
    def doubt(self) -> str:
        """Why it cannot be told whom the file names, or nothing."""
        now = identity_of(self.pid)
        if self.is_bare:
            if now is None or _began(now.start_ticks) <= self.written + _SLACK_SECONDS:
                return ""
            return f"the process that has pid {self.pid} now began after the file was written"
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.start_ticks > (uptime + _SLACK_SECONDS) * _TICKS_PER_SECOND:
            # A file of an earlier boot names nobody of this one, unless its pid was given again.
            if now is None and self.written < time.time() - uptime:
                return ""
            return f"{self.start_ticks} is no start tick of this boot"
        if now is None or now.start_ticks == self.start_ticks:
            return ""
        if _began(now.start_ticks) <= self.written - _SLACK_SECONDS:
            return (
                f"pid {self.pid} ran before the file was written, and began at tick "
                f"{now.start_ticks}, not {self.start_ticks}"
            )
        return ""


def read_pid_file(path: Path) -> PidFile | None:
    """What the file holds; None where there is no file. Raises PidFileUnreadable."""
    try:
        with path.open("rb") as source:
            content = source.read(4096)
            written = os.fstat(source.fileno()).st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PidFileUnreadable(str(error.strerror)) from error
    match = _CONTENT.fullmatch(content)
    if match is None:
        raise PidFileUnreadable(
            f"it holds {content.decode('ascii', errors='replace').strip()[:60]!r}; expected PID "
            "(above 1, which is init) and START_TICKS, a whole number each, one a line"
        )
    pid, ticks = match.groups()
    return PidFile(path, int(pid), int(ticks or 0), written)


def _began(start_ticks: int) -> float:
    """When a process of this boot began, in seconds of the wall clock as it goes now."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / _TICKS_PER_SECOND
    return time.time() - age
