"""Raw samples of the watch: one line a scrape, kept whole, read back the same. Pure but for reading."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from ctp_runbook.errors import JournalError
from ctp_runbook.host.files import open_plain
from ctp_runbook.record.formats import FORMAT, FormatOf, check_format
from ctp_runbook.record.kinds import Count, Duration

__all__ = [
    "Sample",
    "SampleLine",
    "cut_torn_line",
    "each_sample",
    "read_samples",
    "sample_of",
    "series_key",
    "split_series",
]

# What a calendar has: seconds from 1970 to the end of the year 9999.
_Instant = Annotated[float, Meta(ge=0, lt=253402300800)]
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=FORMAT):
    """One look at one source. ``series`` maps ``name{label="v"}`` to its value, NaN included.

    ``wall`` is seconds since the epoch, ``mono`` seconds of the host's monotonic clock, both
    taken when the answer was complete; ``took_ms`` how long it took. ``due`` is when it was to
    begin, by the monotonic clock (0 where nobody says), and ``missed`` how many turns were lost
    before it, to a source slower than its interval or to a process that stood still.
    """

    seq: Count
    wall: _Instant
    mono: float
    source: str
    target: str
    ok: bool
    error: str
    took_ms: Duration
    series: dict[str, float]
    due: float = 0.0
    missed: Count = 0

    @property
    def late_ms(self) -> float:
        """How long after it was due it began, in milliseconds."""
        return (self.mono - self.due) * 1000 - self.took_ms

    def to_line(self) -> bytes:
        """The sample as one line of JSON; what is not finite stands as a string."""
        series = {k: v if math.isfinite(v) else str(v) for k, v in sorted(self.series.items())}
        return msgspec.json.encode(structs.replace(self, series=series)) + b"\n"


class SampleLine(Sample, frozen=True, tag_field="format", tag=FORMAT):
    """A sample as it may stand in the file: with values that JSON has no number for."""

    series: dict[str, float | Literal["nan", "inf", "-inf"]]  # type: ignore[assignment]


_FORMATTED = f'{{"format":{FORMAT},'.encode()
_decoded = msgspec.json.Decoder(Sample).decode
_decoded_unsaid = msgspec.json.Decoder(SampleLine).decode


def sample_of(line: bytes, *, path: Path, number: int) -> Sample:
    """The sample that line ``number`` of a file says. Raises JournalError naming the line."""
    try:
        if not line.startswith(_FORMATTED):
            check_format(msgspec.json.decode(line, type=FormatOf).format, "sample")
        try:
            return _decoded(line)
        except msgspec.ValidationError:
            unsaid = _decoded_unsaid(line)
            return Sample(
                **{
                    **structs.asdict(unsaid),
                    "series": {k: float(v) for k, v in unsaid.series.items()},
                }
            )
    except (ValueError, RecursionError, JournalError) as error:
        raise JournalError(f"{path}:{number}: not a sample: {error}") from error


def each_sample(path: Path) -> Iterator[Sample]:
    """The samples of a file one by one, none when it does not exist. Raises JournalError naming
    the line."""
    if not path.exists():
        return
    try:
        lines = open_plain(path)
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            yield sample_of(line, path=path, number=number)


def read_samples(path: Path) -> tuple[Sample, ...]:
    """All samples of a file, as ``each_sample`` has them."""
    return tuple(each_sample(path))


def cut_torn_line(path: Path) -> bytes:
    """Cut a last line that a crash tore off a samples file; what was cut, empty where none was."""
    data = path.read_bytes() if path.exists() else b""
    torn = data[data.rfind(b"\n") + 1 :]
    if torn:
        os.truncate(path, len(data) - len(torn))
    return torn


def series_key(name: str, labels: Mapping[str, str]) -> str:
    """``name{a="1",b="2"}`` with the labels in order."""
    quoted = {key: re.sub(r'(["\\])', r"\\\1", labels[key]) for key in sorted(labels)}
    inner = ",".join(f'{key}="{value}"' for key, value in quoted.items())
    return f"{name}{{{inner}}}" if inner else name


@lru_cache(maxsize=65536)
def split_series(key: str) -> tuple[str, Mapping[str, str]]:
    """Name and labels of a series key."""
    name, _, rest = key.partition("{")
    return name, {k: re.sub(r"\\(.)", r"\1", value) for k, value in _LABEL.findall(rest)}
