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
from ctp_runbook.probes.log import Fields

__all__ = ["Event", "last_event"]

# A log that has none of an engine's events in so much was not written by one that just began.
_MOST_BYTES = 64 << 20
_PIECE_BYTES = 4 << 20
_LONGEST_LINE = 1 << 20
_MOST_FILES = 4
_NAMES = ("event", "msg", "message")
_TIMES = ("ts_ns", "ts_us", "ts_ms", "ts", "time", "timestamp", "@timestamp")
_PACKED = (".gz", ".xz", ".zst", ".bz2", ".lz4")
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
    cannot be read, and for events that have no time: nobody could say whose they are.
    """
    left = _MOST_BYTES
    for number, file in enumerate(_files(path, since)):
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
        left -= end
        if left <= 0:
            break
    return None


def _files(path: Path, since: float) -> Iterator[Path]:
    """Yield the log, then what it was rotated into since then, the newest first."""
    yield path
    try:
        beside = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.")]
        plain = [each for each in beside if not each.name.endswith(_PACKED)]
        dated = sorted(((each.stat().st_mtime, each) for each in plain), reverse=True)
    except OSError:
        return
    yield from (each for wrote, each in dated[:_MOST_FILES] if wrote >= since)


def _backwards(fd: int, end: int, most: int, names: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the finished lines that may be meant, the last first, of the last ``most`` bytes."""
    needles = [name.encode() for name in names]
    tail, at = b"", end
    first = True
    while at > end - most:
        size = min(_PIECE_BYTES, at - (end - most))
        at -= size
        data = os.pread(fd, size, at) + tail
        if first:
            # What has no end yet is still being written.
            data, first = data[: data.rfind(b"\n") + 1], False
        # A line that begins before this piece is whole with the next one.
        cut = 0 if at == 0 else data.find(b"\n") + 1 or len(data)
        tail = data[:cut][-_LONGEST_LINE:]
        lines = data[cut:]
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
        return None
    name = next((str(fields[key]) for key in _NAMES if key in fields), "")
    if names and name not in names:
        return None
    wall = next((_instant(fields[key]) for key in _TIMES if key in fields), math.nan)
    if math.isnan(wall):
        raise ProbeError(
            f"{subject}: the event {name or 'that matched'} has no time in {', '.join(_TIMES)}: "
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
