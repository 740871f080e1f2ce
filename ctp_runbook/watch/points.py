"""The points of a metric as columns: a day of them at one a second takes megabytes, not gigabytes.

Appending needs nothing but the standard library, for the orchestrator does it; whole blocks and
columns are for those who replay a window, and numpy is imported by them alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ctp_runbook.watch.measure import STATUSES, Point
from ctp_runbook.watch.share_tests import Tested

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctp_runbook.watch.measure_block import MeasuredBlock

__all__ = ["PointLog", "Points"]

_CODES = {status: code for code, status in enumerate(STATUSES)}


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

    def append(self, point: Point) -> None:
        """Take one point in."""
        if point.tested:
            self.tested[len(self)] = point.tested
        self.wall.append(point.wall)
        self.mono.append(point.mono)
        self.value.append(math.nan if point.value is None else point.value)
        self.events.append(math.nan if point.events is None else point.events)
        self.status.append(_CODES[point.status])
        self.over.append(point.is_over)
        self.reason.append(self.reasons.setdefault(point.reason, len(self.reasons)))
        self.labels.append(self.label_sets.setdefault(point.labels, len(self.label_sets)))

    def extend(self, measured: MeasuredBlock) -> None:
        """Take measured points in, whose columns go by the same names; none has a reason or labels."""
        self.tested |= {len(self) + at: tested for at, tested in measured.turned.items()}
        for name in ("wall", "mono", "value", "events", "status", "over"):
            getattr(self, name).frombytes(getattr(measured, name).tobytes())
        self.reason.extend(array("i", [0]) * len(measured.mono))
        self.labels.extend(array("i", [0]) * len(measured.mono))

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
