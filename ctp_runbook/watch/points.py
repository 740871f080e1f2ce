"""The points of a metric as columns: a day of them at one a second takes megabytes, not gigabytes.

Appending needs nothing but the standard library, for the orchestrator does it; whole blocks and
columns are for those who replay a window, and numpy is imported by them alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from ctp_runbook.watch.measure import STATUSES, Point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PointLog", "Points"]

_CODES = {status: code for code, status in enumerate(STATUSES)}


class PointLog:
    """Points as they come, to be appended to; ``points`` is what there is by now."""

    def __init__(self) -> None:
        self.wall, self.mono = array("d"), array("d")
        self.value, self.events = array("d"), array("d")  # NaN stands for None
        self.status, self.over = array("b"), array("b")
        self.reason = array("i")
        self.reasons: list[str] = [""]
        self._known: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self.mono)

    def append(self, point: Point) -> None:
        """Take one point in."""
        if (reason := self._known.get(point.reason)) is None:
            reason = self._known[point.reason] = len(self.reasons)
            self.reasons.append(point.reason)
        self.wall.append(point.wall)
        self.mono.append(point.mono)
        self.value.append(math.nan if point.value is None else point.value)
        self.events.append(math.nan if point.events is None else point.events)
        self.status.append(_CODES[point.status])
        self.over.append(point.is_over)
        self.reason.append(reason)

    def extend(
        self,
        *,
        wall: NDArray[np.float64],
        mono: NDArray[np.float64],
        value: NDArray[np.float64],
        events: NDArray[np.float64] | None,
        status: NDArray[np.int8],
        over: NDArray[np.int8],
    ) -> None:
        """Take measured points in, all without a reason; ``status`` indexes STATUSES, and where
        ``over`` is 1 the truth is more than the value."""
        self.wall.frombytes(wall.tobytes())
        self.mono.frombytes(mono.tobytes())
        self.value.frombytes(value.tobytes())
        counted = array("d", [math.nan]) * len(mono) if events is None else events
        self.events.frombytes(counted.tobytes())
        self.status.frombytes(status.tobytes())
        self.over.frombytes(over.tobytes())
        self.reason.extend(array("i", [0]) * len(mono))

    def values_from(self, first: int) -> Iterator[tuple[float, int]]:
        """Values from a point on, NaN for none, each with 1 where the truth is more than it."""
        return zip(self.value[first:], self.over[first:], strict=True)

    @property
    def points(self) -> Points:
        """What there is by now; later points do not show in it."""
        return Points(self, len(self))


class Points(Sequence[Point]):
    """A metric's points in order, made one by one when asked for; ``columns`` has them at once."""

    __slots__ = ("_length", "_log")

    def __init__(self, log: PointLog, length: int) -> None:
        self._log, self._length = log, length

    @classmethod
    def of(cls, points: Iterable[Point]) -> Points:
        """These points, as columns."""
        log = PointLog()
        for point in points:
            log.append(point)
        return log.points

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Point, ...]: ...
    def __getitem__(self, index: int | slice) -> Point | tuple[Point, ...]:
        if isinstance(index, slice):
            return tuple(self._at(at) for at in range(*index.indices(self._length)))
        at = index + self._length if index < 0 else index
        if not 0 <= at < self._length:
            raise IndexError(index)
        return self._at(at)

    def __iter__(self) -> Iterator[Point]:
        return map(self._at, range(self._length))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _at(self, at: int) -> Point:
        log = self._log
        return Point(
            log.wall[at],
            log.mono[at],
            _optional(log.value[at]),
            _optional(log.events[at]),
            STATUSES[log.status[at]],
            log.reasons[log.reason[at]],
            bool(log.over[at]),
        )

    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
        """Monotonic seconds, values (NaN for none) and statuses (an index into STATUSES)."""
        log = self._log
        length = len(self)
        return (
            _column(log.mono, "f8", length),
            _column(log.value, "f8", length),
            _column(log.status, "i1", length),
        )

    def over(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Monotonic seconds and values of those points whose truth is more than their value."""
        monos, values, _ = self.columns()
        over = _column(self._log.over, "i1", len(self)) != 0
        return monos[over], values[over]

    @property
    def extremes(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None when there is none."""
        import numpy as np

        values = _column(self._log.value, "f8", len(self))
        values = values[~np.isnan(values)]
        return (float(values.min()), float(values.max())) if len(values) else None

    @property
    def statuses(self) -> set[str]:
        """Every status that there is among them."""
        return {STATUSES[code] for code in set(self._log.status[: self._length])}


def _column(column: array[Any], kind: str, length: int) -> Any:
    import numpy as np

    # A copy: an array that lent its buffer to numpy could not be appended to.
    return np.frombuffer(column, dtype=kind, count=length).copy() if length else np.empty(0, kind)


def _optional(value: float) -> float | None:
    return None if math.isnan(value) else value
