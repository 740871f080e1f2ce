"""One metric under watch: its points, and what a verdict needs of them, kept up to date.

A look at a window of a day costs no more than one at its first minute.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries, Point, badness
from ctp_runbook.watch.points import PointLog, Points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctp_runbook.record.sample_blocks import Block
    from ctp_runbook.watch.measure_block import MeasuredBlock

__all__ = ["SLACK_SECONDS", "Watched"]

SLACK_SECONDS = 1e-6


class Watched:
    """One metric under watch: its points, and what a verdict needs of them, kept up to date.

    ``unknown`` is the first point that says nothing of the limit, ``fresh`` the last that was
    measured. A look at a window of a day must cost no more than one at its first minute.
    """

    def __init__(
        self, rule: MetricRule, *, started: float, ends: float, keeps_points: bool = True
    ) -> None:
        self.rule = rule
        self.series = MetricSeries(rule, started_mono=started)
        self.log = PointLog()
        self.breach_since: float | None = None
        self.failed_at: Point | None = None
        self.unknown: Point | None = None
        self.extreme: Point | None = None
        self.valued: Point | None = None
        self.fresh: Point | None = None
        self.last: Point | None = None
        self._covered_ns = 0
        self._covered_until: float | None = None
        self._ends, self._keeps_points = ends, keeps_points

    def add(self, sample: Sample) -> Point:
        """Take one sample in; the point it made."""
        point = self.series.add(sample)
        if self._keeps_points:
            self.log.append(point)
        self.last = point
        if point.measured:
            self.fresh = point
            self._note_breach(point)
        if point.status == "open_bucket":
            self.unknown = self.unknown or point
        if point.judged:
            self._cover(point.mono)
            if point.value is not None:
                self.valued = point
                self._note_extreme(point)
        return point

    def add_block(self, block: Block) -> None:
        """Take all of it in, as ``add`` would one by one."""
        from ctp_runbook.watch.measure_block import measure_block

        measured = measure_block(self.series, block)
        if measured is not None:
            self._take(measured)
            return
        columns = sorted(self.series.places(block.layout))
        for _, sample in block.samples(columns):
            self.add(sample)

    def _take(self, measured: MeasuredBlock) -> None:
        import numpy as np

        first = len(self.log)
        self.log.extend(**vars(measured))
        points = self.log.points
        self.last = self.fresh = points[-1]
        self._note_breaches(measured, points, first)
        if self.unknown is None and measured.open.any():
            self.unknown = points[first + int(measured.open.argmax())]
        judged = np.flatnonzero(measured.judged)
        self._cover_all(measured.mono[judged])
        valued = judged[~np.isnan(measured.value[judged])]
        if len(valued):
            self.valued = points[first + int(valued[-1])]
            self._note_extreme(points[first + int(valued[self._furthest(measured, valued)])])

    def _furthest(self, measured: MeasuredBlock, valued: NDArray[np.intp]) -> int:
        """The first of these points that ``_beyond`` puts before all others."""
        import numpy as np

        upward = self.rule.direction == "max"
        values, over = measured.value[valued], measured.over[valued]
        bad = values - self.rule.limit if upward else self.rule.limit - values
        return int(np.where(bad == bad.max(), over if upward else -over, -2).argmax())

    def _note_breaches(self, measured: MeasuredBlock, points: Points, first: int) -> None:
        """Of the points from ``first`` on, all measured; what stands between breaches ends one."""
        import numpy as np

        breaches, before = np.flatnonzero(measured.breaches), -1
        for run in np.split(breaches, np.flatnonzero(np.diff(breaches) != 1) + 1):
            if not len(run):
                continue
            monos = measured.mono[run]
            if self.breach_since is None or run[0] != before + 1:
                self.breach_since = float(monos[0])
            lasted = monos - self.breach_since >= self.rule.for_seconds - SLACK_SECONDS
            if self.failed_at is None and lasted.any():
                self.failed_at = points[first + int(run[lasted.argmax()])]
            before = int(run[-1])
        if before != len(measured.mono) - 1:
            self.breach_since = None

    def _cover_all(self, monos: NDArray[np.float64]) -> None:
        """``_cover`` for each of them."""
        import numpy as np

        monos = monos[monos <= self._ends + SLACK_SECONDS]
        if not len(monos):
            return
        interval, until = self.rule.interval_seconds, self._covered_until
        gaps = np.diff(monos) if until is None else np.diff(monos, prepend=until)
        covered = np.maximum(0.0, np.where(gaps <= 1.5 * interval, gaps, interval))
        self._covered_ns += int(np.rint(covered * 1e9).astype(np.int64).sum())
        self._covered_until = float(monos[-1])

    def _note_breach(self, point: Point) -> None:
        if point.status != "breach":
            self.breach_since = None
            return
        self.breach_since = point.mono if self.breach_since is None else self.breach_since
        if point.mono - self.breach_since >= self.rule.for_seconds - SLACK_SECONDS:
            self.failed_at = self.failed_at or point

    def _note_extreme(self, point: Point) -> None:
        if self.extreme is None or _beyond(self.rule, point) > _beyond(self.rule, self.extreme):
            self.extreme = point

    def _cover(self, mono: float) -> None:
        if mono > self._ends + SLACK_SECONDS:
            return
        if self._covered_until is not None:
            self._covered_ns += _covered_ns(mono - self._covered_until, self.rule.interval_seconds)
        self._covered_until = mono

    def coverage(self, started: float, until: float) -> float:
        """Share of the due intervals that measurements speak for, however many came in one of
        them; 0 to 1."""
        interval = self.rule.interval_seconds
        due = int((until - started - self.rule.warm_up_seconds) / interval)
        if due <= 0 or self._covered_until is None:
            return 0.0
        covered_ns = self._covered_ns
        if (
            self._covered_until > until + SLACK_SECONDS and self._keeps_points
        ):  # asked for a moment that is past
            points = self.log.points
            times = [p.mono for p in points if p.judged and p.mono <= until + SLACK_SECONDS]
            if not times:
                return 0.0
            covered_ns = sum(_covered_ns(b - a, interval) for a, b in pairwise(times))
        return min(1.0, (interval * 1e9 + covered_ns) / (due * interval * 1e9))


def _beyond(rule: MetricRule, point: Point) -> tuple[float, bool]:
    """How bad, for comparing; more than a value is beyond that value, whichever side is bad."""
    assert point.value is not None  # asked of points with a value only
    return badness(rule, point.value), point.is_over is (rule.direction == "max")


def _covered_ns(gap: float, interval: float) -> int:
    """Of the time between two measurements, what is covered. A schedule may be half an interval
    off; beyond that a sample is missing. Fixed slots would make much of where they begin.

    Whole nanoseconds add up to the same in any order.
    """
    return round(max(0.0, gap if gap <= 1.5 * interval else interval) * 1e9)
