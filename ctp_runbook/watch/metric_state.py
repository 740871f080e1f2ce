"""One metric under watch: its points, and what a verdict needs of them, kept up to date.

A look at a window of a day costs no more than one at its first minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries, Point, badness
from ctp_runbook.watch.points import PointLog
from ctp_runbook.watch.share_tests import ShareTests, Tested

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctp_runbook.record.sample_blocks import Block

__all__ = ["SLACK_SECONDS", "Watched"]

SLACK_SECONDS = 1e-6
# A block shorter than this costs more than its samples one by one.
_LEAST_ROWS = 16


class Watched:
    """One metric under watch: its points, and what a verdict needs of them, kept up to date.

    ``unknown`` is the first point that says nothing of the limit, ``fresh`` the last that was
    measured; ``failed_by`` is what proves it failed, where no value does. A look at a window of a day must cost no more than one at its first minute.
    """

    def __init__(
        self,
        rule: MetricRule,
        *,
        started: float,
        ends: float,
        keeps_points: bool = True,
        tests: ShareTests | None = None,
    ) -> None:
        self.rule, self.tests = rule, tests
        self.series = MetricSeries(rule, started_mono=started, tests=tests)
        self.log = PointLog()
        self.breach_since: float | None = None
        self.failed_at: Point | None = None
        self.failed_by: Tested | None = None
        self._proved: Tested | None = None
        self.unknown: Point | None = None
        self.extreme: Point | None = None
        self.valued: Point | None = None
        self.fresh: Point | None = None
        self.last: Point | None = None
        self._covered = _Covered(rule.interval_seconds, ends)
        self._keeps_points = keeps_points

    def add(self, sample: Sample) -> Point:
        """Take a sample in, and return the point it makes."""
        point = self.series.add(sample)
        if self._keeps_points:
            self.log.append(point)
        if point.judged:
            self._covered.add(point.mono)
        self._note(point)
        return point

    def take(self, item: Sample | Block) -> None:
        """Take a sample in, or a block of them, as ``add`` would one by one."""
        if isinstance(item, Sample):
            self.add(item)
            return
        from ctp_runbook.watch import measure_block as blocks

        long_enough = len(item.seq) >= _LEAST_ROWS
        measured = blocks.measure_block(self.series, item) if long_enough else None
        if measured is None:
            for sample in item.samples(sorted(self.series.places(item.layout))):
                self.add(sample)
            return
        first = len(self.log)
        self.log.extend(measured)
        points = self.log.points
        self._covered.extend(measured.mono[measured.status != blocks.CODES["warm_up"]])
        in_breach = self.breach_since is not None
        lasting = blocks.lasting_places(measured, self.rule, in_breach=in_breach)
        for place in sorted({*lasting, *measured.turned}):
            self._note(points[first + place])

    def accept(self) -> None:
        """Forget limits broken so far, and what was proved of them."""
        self.failed_at = self.failed_by = self._proved = None
        self.series.sparse = {}
        if self.tests:
            self.tests.restart()

    def _note(self, point: Point) -> None:
        self.last = point
        for tested in point.tested:
            if tested.is_cap and self.failed_at is None:
                self.failed_at, self.failed_by = point, tested
            elif tested.is_of(self.rule.limit):
                self._proved = tested
        if point.measured:
            self.fresh = point
            self._note_breach(point)
        if point.status == "open_bucket":
            self.unknown = self.unknown or point
        if point.judged and point.value is not None:
            self.valued = point
            if self.extreme is None or self._badness(point) > self._badness(self.extreme):
                self.extreme = point

    def _note_breach(self, point: Point) -> None:
        if point.status != "breach":
            self.breach_since = None
            return
        self.breach_since = point.mono if self.breach_since is None else self.breach_since
        is_long = point.mono - self.breach_since >= self.rule.for_seconds - SLACK_SECONDS
        if is_long and self.failed_at is None:
            self.failed_at, self.failed_by = point, self._proved

    def _badness(self, point: Point) -> tuple[float, bool]:
        """Return how bad, for comparing; more than a value is beyond it, whichever side is bad."""
        assert point.value is not None  # asked of points with a value only
        return badness(self.rule, point.value), point.is_over is (self.rule.direction == "max")

    def coverage(self, started: float, until: float) -> float:
        """Return the share of the due intervals that measurements speak for, however many came in
        one of them; 0 to 1."""
        due = int((until - started - self.rule.warm_up_seconds) / self.rule.interval_seconds)
        covered = self._covered
        if self._keeps_points and covered.until is not None and covered.until > until:
            # Asked for a moment that is past: what came since is left out.
            covered = _Covered(self.rule.interval_seconds, until)
            for point in self.log.points:
                if point.judged:
                    covered.add(point.mono)
        return covered.share(due)


class _Covered:
    """The time that measurements speak for, each for an interval, up to ``ends``."""

    def __init__(self, interval: float, ends: float) -> None:
        self.until: float | None = None
        self._interval, self._ends = interval, ends
        # Whole nanoseconds: they add up to the same in any order.
        self._nanoseconds = 0

    def add(self, mono: float) -> None:
        """Take the moment of a measurement in.

        A schedule may be half an interval off; beyond that a sample is missing. Fixed slots would
        make much of where they begin.
        """
        if mono > self._ends + SLACK_SECONDS:
            return
        if self.until is not None:
            gap = mono - self.until
            covered = gap if gap <= 1.5 * self._interval else self._interval
            self._nanoseconds += round(max(0.0, covered) * 1e9)
        self.until = mono

    def extend(self, monos: NDArray[np.float64]) -> None:
        """Take many in, as ``add`` would one by one."""
        import numpy as np

        monos = monos[monos <= self._ends + SLACK_SECONDS]
        if not len(monos):
            return
        gaps = np.diff(monos) if self.until is None else np.diff(monos, prepend=self.until)
        covered = np.where(gaps <= 1.5 * self._interval, gaps, self._interval)
        self._nanoseconds += int(np.rint(np.maximum(0.0, covered) * 1e9).astype(np.int64).sum())
        self.until = float(monos[-1])

    def share(self, due: int) -> float:
        """Return the covered share of so many intervals; the first measurement covers its own."""
        if due <= 0 or self.until is None:
            return 0.0
        covered = self._interval * 1e9 + self._nanoseconds
        return min(1.0, covered / (due * self._interval * 1e9))
