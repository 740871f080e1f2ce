"""The last event of a kind in an engine's log, since the engine began: by the events' own times.

A log outlives the engines that write it, so a line says nothing of an engine that began after it.
What is read is bounded: from the end of the file back, then in what it was rotated into.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.files import open_plain
from ctp_runbook.plan.session_file import LOG_TIMES
from ctp_runbook.probes.log import Beside, Fields, names_event

__all__ = ["Event", "last_event"]

# A log that has none of an engine's events in so much was not written by one that just began.
_MOST_BYTES = 64 << 20
_PIECE_BYTES = 4 << 20
_LONGEST_LINE = 1 << 20
_MOST_FILES = 4
_NAMES = ("event", "msg", "message")
# Seconds since the epoch in each unit, of this century: nobody mistakes one for another.
_SCALES = ((1e18, 1e9), (1e15, 1e6), (1e12, 1e3), (1e9, 1.0))


class Event(NamedTuple):
    """One line: the event's name, its fields, and when it was (seconds since the epoch)."""

    name: str
    fields: Fields
    wall: float


def last_event(
    path: Path,
    *,
    parse: Callable[[bytes], Fields | None],
    names: tuple[str, ...],
    since: float,
) -> Event | None:
    """Return the last event of one of ``names`` not before ``since``; None where there is none.

    Without names each line that ``parse`` understands is an event. Raises ProbeError for a log that
    cannot be read, for events that have no time: nobody could say whose they are; and
    where there is none in what was read, and more was written since.
    """
    left = _MOST_BYTES
    files, unread = _files(path, since)
    for number, file in enumerate(files):
        try:
            with open_plain(file) as source:
                end = source.seek(0, os.SEEK_END)
                for line in _backwards(source.fileno(), end, min(left, end), names):
                    event = _event_of(line, parse, names, subject=path)
                    if event is not None:
                        return event if event.wall >= since else None
        except OSError as error:
            if number == 0:
                raise ProbeError(f"{path}: it cannot be read: {error.strerror}") from error
            continue
        if end > left:
            unread = f"what is before its last {_MOST_BYTES >> 20} MiB"
            break
        left -= end
    if unread:
        raise ProbeError(f"{path}: no {' or '.join(names) or 'event'} in it; {unread} was not read")
    return None


def _files(path: Path, since: float) -> tuple[list[Path], str]:
    """Return the log, then what it was rotated into since then, the newest first; and what of that is
    left out, in words."""
    beside = Beside(path, with_packed=True)
    written = [each for wrote, each in beside.dated() if each.name != path.name and wrote >= since]
    plain = [each for each in written if not beside.is_packed(each)]
    left_out = [each.name for each in written if each not in plain[:_MOST_FILES]]
    return [path, *plain[:_MOST_FILES]], ", ".join(left_out[:3])


def _backwards(fd: int, end: int, most: int, names: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the finished lines that may be meant, the last first, of the last ``most`` bytes."""
    needles = [name.encode() for name in names]
    tail, at = b"", end
    first, skips = True, False
    while at > end - most:
        size = min(_PIECE_BYTES, at - (end - most))
        at -= size
        data = os.pread(fd, size, at) + tail
        if first:
            # What has no end yet is still being written.
            data, first = data[: data.rfind(b"\n") + 1], False
        if skips:
            # The beginning of a line that is too long to be one.
            data, skips = data[: data.rfind(b"\n") + 1], b"\n" not in data
        # A line that begins before this piece is whole with the next one.
        cut = 0 if at == 0 else data.find(b"\n") + 1 or len(data)
        tail, lines = data[:cut], data[cut:]
        if len(tail) > _LONGEST_LINE:
            # What ends with a line's end is whole behind it; the rest is no line.
            tail, skips = b"", True
        if needles and not any(needle in lines for needle in needles):
            continue
        for line in reversed(lines.split(b"\n")):
            if line and (not needles or any(needle in line for needle in needles)):
                yield line


def _event_of(
    line: bytes,
    parse: Callable[[bytes], Fields | None],
    names: tuple[str, ...],
    *,
    subject: Path,
) -> Event | None:
    if (fields := parse(line)) is None:
        # Two lines written into one, or half of one: what it says of the event is not known.
        if torn := [each for each in names if any(names_event(line, key, each) for key in _NAMES)]:
            raise ProbeError(f"{subject}: a line with {torn[0]} in it is not of the log's form")
        return None
    name = next((str(fields[key]) for key in _NAMES if key in fields), "")
    if names and name not in names:
        return None
    wall = next((_instant(fields[key]) for key in LOG_TIMES if key in fields), math.nan)
    if math.isnan(wall):
        raise ProbeError(
            f"{subject}: the event {name or 'that matched'} has no time in {', '.join(LOG_TIMES)}: "
            "nobody can say whether this engine wrote it"
        )
    return Event(name, fields, wall)


def _instant(value: object) -> float:
    """Return seconds since the epoch of a number in any unit, or of a time stamp; NaN for neither.

    A time stamp without an offset is this host's local time, as engines write it.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        try:
            return datetime.fromisoformat(str(value)).astimezone().timestamp()
        except (ValueError, OverflowError, OSError):
            return math.nan
    return next((number / scale for least, scale in _SCALES if number >= least), math.nan)
