"""Raw samples of the watch: one line a scrape, kept whole, read back the same. Pure but for reading."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError
from ctp_runbook.host.files import open_plain, read
from ctp_runbook.record.formats import FORMAT, FormatOf, check_format
from ctp_runbook.record.journal import LONGEST_LINE
from ctp_runbook.record.kinds import Count, Duration
from ctp_runbook.redact import MASK, Redactor

__all__ = [
    "Sample",
    "SampleLine",
    "cut_torn_line",
    "each_sample",
    "read_samples",
    "sample_of",
    "series_key",
    "split_series",
    "without_secrets",
]

# What a calendar has: seconds from 1970 to the end of the year 9999.
_Instant = Annotated[float, Meta(ge=0, lt=253402300800)]
# Labels whose values are numbers that a quantile is reckoned from.
_BOUNDS = ("le", "quantile")
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


def without_secrets(sample: Sample, redactor: Redactor) -> Sample:
    """A sample as it may be kept: no secret in its error, its target's address, or a label's value.

    Series that then bear one name are told apart by a number, in the order of what was masked.
    """
    shown = {key: _shown_series(redactor, key) for key in sample.series}
    if masked := sorted(key for key, name in shown.items() if name != key):
        taken = {name for key, name in shown.items() if name == key}
        for key in masked:
            shown[key] = _apart(shown[key], taken)
            taken.add(shown[key])
    return structs.replace(
        sample,
        target=redactor(sample.target),
        error=redactor(sample.error),
        series={shown[key]: value for key, value in sample.series.items()},
    )


@lru_cache(maxsize=65536)
def _shown_series(redactor: Redactor, key: str) -> str:
    """A series key with its labels' values masked; the names of metric and labels stay."""
    name, brace, labels = key.partition("{")
    if not brace:
        return key

    def shown(label: re.Match[str]) -> str:
        if label[1] in _BOUNDS:
            return label[0]
        masked: Mapping[str, str] = redactor.data({label[1]: label[2]})
        return f'{label[1]}="{masked.get(label[1], MASK)}"'

    return f"{name}{{{_LABEL.sub(shown, labels)}"


def _apart(key: str, taken: Collection[str]) -> str:
    numbers, shown = itertools.count(2), key
    while shown in taken:
        shown = key.replace(MASK, f"{MASK}{next(numbers)}", 1)
    return shown


class SampleLine(Sample, frozen=True, tag_field="format", tag=FORMAT):
    """A sample as it may stand in the file: with values that JSON has no number for."""

    series: dict[str, float | Literal["nan", "inf", "-inf"]]  # type: ignore[assignment]


_FORMATTED = f'{{"format":{FORMAT},'.encode()
_decoded = decoder(Sample).decode
_decoded_unsaid = decoder(SampleLine).decode


def sample_of(line: bytes, *, path: Path, number: int) -> Sample:
    """The sample that line ``number`` of a file says. Raises JournalError naming the line."""
    try:
        if not line.startswith(_FORMATTED):
            check_format(decoder(FormatOf).decode(line).format, "sample")
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
        for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), b""), 1):
            yield sample_of(line, path=path, number=number)


def read_samples(path: Path) -> tuple[Sample, ...]:
    """All samples of a file, as ``each_sample`` has them."""
    return tuple(each_sample(path))


def cut_torn_line(path: Path) -> bytes:
    """Cut a last line that a crash tore off a samples file; what was cut, empty where none was."""
    data = read(path) if path.exists() else b""
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
