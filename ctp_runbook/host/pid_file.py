"""Pid files: what one holds, whom it names, and when that cannot be told.

Two kinds are read. ``proc start`` writes two lines, ``PID`` and ``START_TICKS`` (field 22 of
/proc/PID/stat); others write a pid alone (``echo $! > F``). A pid may belong to another process by
now, so both are held against when the file was written: a process that began later is not the one
it was written for.

Whatever is in doubt is neither "alive" nor "gone", and nobody is ended for it: a wrong "gone" lets
a second engine trade, a wrong pid ends a stranger.
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.host.process import (
    ancestors,
    boot_id,
    group_members,
    identity_of,
    is_hidden,
    is_kernel_thread,
    namesakes,
    process_of,
    users_of,
)
from ctp_runbook.model import Identity

__all__ = ["PidFile", "PidFileBlank", "PidFileUnreadable", "read_pid_file"]

# Pid 1 is init, which always runs and is nobody's member.
_CONTENT = re.compile(rb"\s*(?!1(?:\s|\Z))([1-9]\d{0,9})(?:\s+([1-9]\d{0,17}))?\s*")
_MOST_BYTES = 4096
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Start ticks are hundredths, and file times come from a coarser clock than the wall's.
_SLACK_SECONDS = 2.0
_BLANK_SECONDS = 2.0
# A second line this near to when the file was written is `date +%s`, and no tick of any boot; no
# boot lasts as long as the other, which `date +%s%3N` exceeds.
_YEAR_SECONDS = 366 * 86400
_LONGEST_BOOT_SECONDS = 20 * _YEAR_SECONDS


class PidFileUnreadable(Exception):
    """A pid file that says nothing that can be relied on; the message says why."""


class PidFileBlank(PidFileUnreadable):
    """One that holds no number at all, or 0: it is being written, or a stop command emptied it."""


@dataclass(frozen=True)
class PidFile:
    """A pid file's content. ``start_ticks`` is 0 where it holds a pid alone; ``written`` is when,
    in seconds of the wall clock; ``owner`` whose file it is, by user id."""

    path: Path
    pid: int
    start_ticks: int
    written: float
    owner: int

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
        if (now is None or self.is_bare or now != self.running) and (elsewhere := self._elsewhere):
            return elsewhere
        if now is None:
            return self._doubt_of_nobody
        if self.is_bare or now.start_ticks == self.start_ticks:
            return self._doubt_of_somebody(now)
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.start_ticks > (uptime + _SLACK_SECONDS) * _TICKS_PER_SECOND:
            return f"{self.start_ticks} is no start tick of this boot"
        # Only who began clearly after the file was written has taken the pid over. Else the second
        # line is something else (another pid, a port), and the process may well be the one meant.
        if _began(now.start_ticks) <= self.written + _SLACK_SECONDS:
            return (
                f"pid {self.pid} has run since the file was written, and began at tick "
                f"{now.start_ticks}, not {self.start_ticks}"
            )
        return ""

    @property
    def _elsewhere(self) -> str:
        """That the number is one of another pid namespace, or nothing: what is written in a container
        names there who has another number here, or nobody and perhaps a stranger."""
        for other in namesakes(self.pid):
            if self.start_ticks in (0, other.start_ticks) and (
                _began(other.start_ticks) <= self.written + _SLACK_SECONDS
            ):
                return (
                    f"{self.pid} is pid {other.pid} of this host in a pid namespace of its own, a "
                    "container's; expected the number it has here"
                )
        return ""

    @property
    def _doubt_of_nobody(self) -> str:
        """Nobody that can be seen has the pid: why that does not prove the named process gone."""
        if self.pid >= (limit := _pid_limit()):
            return f"{self.pid} is no pid of this host, where they are below {limit}"
        if is_hidden(self.pid):
            return f"a process has pid {self.pid}, and /proc hides it from this user"
        if self.is_bare:
            # Its group lives on by its number; nobody can have been given that pid since.
            left = group_members(self.pid)
            return (
                f"pid {self.pid} is gone, but processes of its group live: {left}" if left else ""
            )
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.start_ticks <= (uptime + _SLACK_SECONDS) * _TICKS_PER_SECOND:
            return ""
        # A file of an earlier boot names nobody of this one.
        is_older = self.written < time.time() - uptime
        is_epoch = abs(self.start_ticks - self.written) < _YEAR_SECONDS
        is_tick = not is_epoch and self.start_ticks < _LONGEST_BOOT_SECONDS * _TICKS_PER_SECOND
        if is_older and is_tick:
            return ""
        return f"{self.start_ticks} is no start tick of this boot"

    def _doubt_of_somebody(self, now: Identity) -> str:
        """Why the process that has the pid is perhaps not the one that was meant."""
        if self.pid in ancestors():
            return f"pid {self.pid} is this very tool, or what started it"
        if is_kernel_thread(self.pid):
            return f"pid {self.pid} is a thread of the kernel"
        if (process := process_of(self.pid)) not in (0, self.pid):
            return f"{self.pid} is a thread of process {process}, which may outlive it"
        if not self.is_bare:
            return ""
        if _began(now.start_ticks) > self.written + _SLACK_SECONDS:
            return f"the process that has pid {self.pid} now began after the file was written"
        # As systemd has it: whoever may write a file must not choose whose process is ended by it.
        users = users_of(self.pid)
        if self.owner and users and self.owner not in users:
            return (
                f"pid {self.pid} is a process of user {min(users)}, and the file belongs to user "
                f"{self.owner}; expected one owner, or root's file"
            )
        return ""


def read_pid_file(path: Path) -> PidFile | None:
    """What the file holds; None where there is no file, or one that was emptied and stays so (a stop
    command may write ``: > F``): it names nobody either. Raises PidFileUnreadable."""
    try:
        content, status = _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PidFileUnreadable(str(error.strerror)) from error
    match = _CONTENT.fullmatch(content)
    if match is None or len(content) > _MOST_BYTES:
        is_blank = re.search(rb"[1-9]", content) is None
        # A moment ago somebody may have begun to write it.
        if is_blank and time.time() - status.st_mtime > _BLANK_SECONDS:
            return None
        raise (PidFileBlank if is_blank else PidFileUnreadable)(
            f"it holds {content.decode('ascii', errors='replace').strip()[:60]!r}; expected PID "
            "(above 1, which is init) and START_TICKS, a whole number each, one a line"
        )
    pid, ticks = match.groups()
    return PidFile(path, int(pid), int(ticks or 0), status.st_mtime, status.st_uid)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    # Not blocking: opening a FIFO that nobody writes to would wait for ever.
    with open(path, "rb", opener=_without_waiting) as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PidFileUnreadable(
                f"it is no regular file; ls -l shows {stat.filemode(status.st_mode)}"
            )
        return source.read(_MOST_BYTES + 1), status


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _pid_limit() -> int:
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 22  # PID_MAX_LIMIT of 64-bit kernels


def _began(start_ticks: int) -> float:
    """When a process of this boot began, in seconds of the wall clock as it goes now."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / _TICKS_PER_SECOND
    return time.time() - age
