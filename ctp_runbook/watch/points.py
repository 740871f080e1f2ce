"""The points of a metric as columns: a day of them at one a second takes megabytes, not gigabytes.

Appending needs nothing but the standard library, for the orchestrator does it; whole blocks and
columns are for those who replay a window, and numpy is imported by them alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.watch.histogram import Quantile
from ctp_runbook.watch.share_tests import Tested

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CODES", "JUDGED", "STATUSES", "Looks", "Point", "PointLog", "Points"]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up", "open_bucket")
STATUSES = (*_MEASURED, "no_data", "error")
JUDGED = tuple(status for status in _MEASURED if status != "warm_up")
CODES = {status: code for code, status in enumerate(STATUSES)}


class Point(Struct, frozen=True):
    """One metric at one moment. ``status`` is one of good, breach, few_events, zero_events,
    warm_up, open_bucket (all measured), no_data, error (could not measure).

    Where ``is_over`` the truth is more than ``value``, the widest finite bound of the histogram;
    where the limit is higher still, nothing is known of it: open_bucket. ``labels`` are those of the
    series that is worst, blank where it is all of them together. ``tested`` has what began or ceased
    to be proved by it.
    """

    wall: float
    mono: float
    value: float | None
    events: float | None
    status: str
    reason: str = ""
    is_over: bool = False
    labels: str = ""
    tested: tuple[Tested, ...] = ()

    @property
    def measured(self) -> bool:
        """True when the source answered with this metric in it."""
        return self.status in _MEASURED

    @property
    def judged(self) -> bool:
        """True when the point counts: measured, and past the warm-up."""
        return self.status in JUDGED


class Looks:
    """What the rows of a block say of a metric, as columns: NaN for no value, or no number of events.

    By row: ``reasons`` why there is neither, the ``labels`` of the series it is of, what ``turned``;
    the rows where the truth is ``over`` the value; and of each row, where there are tests, whether
    the limit's is ``proved``.
    """

    def __init__(self) -> None:
        self.value, self.events = list[float](), list[float]()
        self.reasons, self.labels = dict[int, str](), dict[int, str]()
        self.over, self.proved = list[int](), list[bool]()
        self.turned: dict[int, tuple[Tested, ...]] = {}

    def add(self, value: float, events: float) -> None:
        """Add what a row says."""
        self.value.append(value + 0.0)  # no minus zero
        self.events.append(events)

    def add_all(self, values: Iterable[float], events: Sequence[float] = ()) -> None:
        """Add the values of many rows, which are made of so many events."""
        self.value += [value + 0.0 for value in values]
        self.events += events or [math.nan] * (len(self.value) - len(self.events))

    def miss(self, reason: str, *, many: int = 1) -> None:
        """Add rows that say nothing."""
        self.reasons |= dict.fromkeys(range(len(self.value), len(self.value) + many), reason)
        self.add_all([math.nan] * many)

    def mark(self, at: int, quantile: Quantile) -> None:
        """Note what there is to be said of a row whose value is this quantile."""
        if quantile.is_over:
            self.over.append(at)
        if quantile.labels:
            self.labels[at] = quantile.labels


class PointLog:
    """Points as they come, to be appended to; ``points`` is what there is by now."""

    def __init__(self) -> None:
        self.wall, self.mono = array("d"), array("d")
        self.value, self.events = array("d"), array("d")  # NaN stands for None
        self.status, self.over = array("b"), array("b")
        self.reason, self.labels = array("i"), array("i")
        self.reasons = {"": 0}  # each text once, by its place: a page broken all day has one
        self.label_sets = {"": 0}
        self.tested: dict[int, tuple[Tested, ...]] = {}

    def __len__(self) -> int:
        return len(self.mono)

    def extend(self, block: Block, looks: Looks, codes: Sequence[int]) -> None:
        """Take in what the rows of a block say, and their statuses."""
        first, many = len(self), len(codes)
        self.wall += block.wall
        self.mono += block.mono
        self.value.fromlist(looks.value)
        self.events.fromlist(looks.events)
        self.status.frombytes(bytes(codes))
        for column in (self.over, self.reason, self.labels):
            column.frombytes(bytes(many * column.itemsize))
        for at in looks.over:
            self.over[first + at] = 1
        for at, text in looks.reasons.items():
            self.reason[first + at] = self.reasons.setdefault(text, len(self.reasons))
        for at, text in looks.labels.items():
            self.labels[first + at] = self.label_sets.setdefault(text, len(self.label_sets))
        for at, tested in looks.turned.items():
            self.tested[first + at] = tested

    def append(self, point: Point) -> None:
        """Take one point in, made elsewhere."""
        looks = Looks()
        if point.value is None and point.reason:
            looks.miss(point.reason)
        else:
            looks.add(math.nan if point.value is None else point.value, math.nan)
        looks.events = [math.nan if point.events is None else point.events]
        looks.mark(0, Quantile(0.0, point.is_over, point.labels))
        looks.turned = {0: point.tested} if point.tested else {}
        moment = array("d", [point.wall]), array("d", [point.mono])
        block = Block("", "", (), True, "", array("q", [0]), *moment, array("d"))
        self.extend(block, looks, [CODES[point.status]])

    def values_since(self, first: int) -> Iterator[tuple[float, int]]:
        """Yield the values from a place on, NaN for none, each with 1 where the truth is more."""
        return zip(self.value[first:], self.over[first:], strict=True)

    def has_turned(self, first: int) -> bool:
        """True where something began or ceased to be proved from a place on."""
        return any(place >= first for place in self.tested)

    @property
    def points(self) -> Points:
        """What there is by now; later points do not show in it."""
        return Points(self, len(self))


class Points:
    """A metric's points in order, made one by one when asked for; ``columns`` has them at once."""

    __slots__ = ("_label_sets", "_length", "_log", "_reasons")

    def __init__(self, log: PointLog, length: int) -> None:
        self._log, self._length = log, length
        self._reasons, self._label_sets = tuple(log.reasons), tuple(log.label_sets)

    @classmethod
    def of(cls, points: Iterable[Point]) -> Points:
        """Return these points as columns."""
        log = PointLog()
        for point in points:
            log.append(point)
        return log.points

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Point:
        return self._at(range(self._length)[index])

    def __iter__(self) -> Iterator[Point]:
        return self.since(0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Points) and tuple(self) == tuple(other)

    def since(self, first: int) -> Iterator[Point]:
        """Yield the points from a place on."""
        return map(self._at, range(first, self._length))

    def _at(self, at: int) -> Point:
        log = self._log
        return Point(
            log.wall[at],
            log.mono[at],
            _optional(log.value[at]),
            _optional(log.events[at]),
            STATUSES[log.status[at]],
            self._reasons[log.reason[at]],
            bool(log.over[at]),
            self._label_sets[log.labels[at]],
            log.tested.get(at, ()),
        )

    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
        """Return monotonic seconds, values (NaN for none) and statuses (indices of STATUSES)."""
        log = self._log
        return self._column(log.mono), self._column(log.value), self._column(log.status)

    def over(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return monotonic seconds and values of the points whose truth is more than the value."""
        monos, values, _ = self.columns()
        over = self._column(self._log.over) != 0
        return monos[over], values[over]

    def worded(self) -> Mapping[str, NDArray[Any]]:
        """Return every field of a point as a column by its name, texts as texts and None as NaN."""
        import numpy as np

        columns: dict[str, NDArray[Any]] = {
            name: self._column(getattr(self._log, name))
            for name in ("wall", "mono", "value", "events", "status", "over", "reason", "labels")
        }
        texts = {"status": STATUSES, "reason": self._reasons, "labels": self._label_sets}
        for name, known in texts.items():
            columns[name] = np.array(known, dtype=object)[columns[name]]
        return columns

    @property
    def extremes(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None when there is none."""
        import numpy as np

        values = self._column(self._log.value)
        values = values[~np.isnan(values)]
        return (float(values.min()), float(values.max())) if len(values) else None

    @property
    def statuses(self) -> set[str]:
        """Every status that there is among them."""
        return {STATUSES[code] for code in set(self._log.status[: self._length])}

    def _column(self, column: array[Any]) -> NDArray[Any]:
        import numpy as np

        # A copy: an array that lent its buffer to numpy could not be appended to.
        return np.array(column)[: self._length]


def _optional(value: float) -> float | None:
    return None if math.isnan(value) else value
