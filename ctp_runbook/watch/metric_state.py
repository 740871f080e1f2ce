"""One metric under watch: its points, and what a verdict needs of them, kept up to date.

A look at a window of a day costs no more than one at its first minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import sub

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries, badness
from ctp_runbook.watch.points import CODES, JUDGED, Point, PointLog
from ctp_runbook.watch.share_tests import ShareTests, Tested

__all__ = ["SLACK_SECONDS", "Watched"]

SLACK_SECONDS = 1e-6
_GOOD, _JUDGED = CODES["good"], frozenset(CODES[status] for status in JUDGED)


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

    def add(self, sample: Sample) -> None:
        """Take a sample in."""
        self.take(Block.begin(sample))

    def take(self, block: Block) -> None:
        """Take a block in: its points come to ``log``."""
        first = len(self.log)
        self.series.take(block, self.log)
        codes = self.log.status[first:].tobytes()
        is_good = codes.count(_GOOD) == len(codes)
        if not (is_good and self._covered.extend_all(block)):
            monos = (m for m, code in zip(block.mono, codes, strict=True) if code in _JUDGED)
            self._covered.extend(monos)
        points = self.log.points
        for place in self._lasting(first):
            self._note(points[place])

    def rest(self) -> None:
        """Drop the points that nobody asks for any more, where they are not kept."""
        if not self._keeps_points:
            self.log = PointLog()

    def _lasting(self, first: int) -> Iterator[int]:
        """Yield the places of points whose traces last: all that are not good, the ones before and
        after these, what turned a test, the worst, and the last of all."""
        log, like_last = self.log, None
        is_calm = self.last is not None and self.last.status == "good"
        sign = 1.0 if self.rule.direction == "max" else -1.0
        worst = self._worst(sign)
        columns = log.status[first:], log.over[first:], log.value[first:]
        for place, (code, is_over, value) in enumerate(zip(*columns, strict=True), first):
            was_calm, is_calm = is_calm, code == _GOOD and not is_over
            if is_calm and was_calm and not sign * value > worst and place not in log.tested:
                like_last = place
                continue
            if like_last is not None:
                yield like_last
            yield place
            like_last, worst = None, self._worst(sign)
        if like_last is not None:
            yield like_last

    def _worst(self, sign: float) -> float:
        if self.extreme is None or self.extreme.value is None:
            return -math.inf
        worst = sign * self.extreme.value
        # Of a value and what is more than it, one is worse than the other.
        return math.nextafter(worst, -math.inf) if self.extreme.is_over else worst

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
            columns = zip(self.log.mono, self.log.status, strict=True)
            covered.extend(mono for mono, code in columns if code in _JUDGED)
        return covered.share(due)


class _Covered:
    """The time that measurements speak for, each for an interval, up to ``ends``."""

    def __init__(self, interval: float, ends: float) -> None:
        self.until: float | None = None
        self._interval, self._ends = interval, ends
        # Whole nanoseconds: they add up to the same in any order.
        self._nanoseconds = 0

    def extend(self, monos: Iterable[float]) -> None:
        """Take the moments of measurements in, in order.

        A schedule may be half an interval off; beyond that a sample is missing. Fixed slots would
        make much of where they begin.
        """
        due = [mono for mono in monos if mono <= self._ends + SLACK_SECONDS]
        if not due:
            return
        own, most = self._interval, 1.5 * self._interval
        gaps = map(sub, due, chain((due[0] if self.until is None else self.until,), due))
        self._nanoseconds += sum(
            [round((gap if gap <= most else own) * 1e9) for gap in gaps if gap > 0]
        )
        self.until = due[-1]

    def extend_all(self, block: Block) -> bool:
        """Take all rows of a block in, where none is late or past the end; return whether that was so."""
        shortest, longest, whole = block.gaps
        is_regular = shortest > 0 and longest <= 1.5 * self._interval
        if not is_regular or block.mono[-1] > self._ends + SLACK_SECONDS:
            return False
        self.extend(block.mono[:1])
        self._nanoseconds += whole
        self.until = block.mono[-1]
        return True

    def share(self, due: int) -> float:
        """Return the covered share of so many intervals; the first measurement covers its own."""
        if due <= 0 or self.until is None:
            return 0.0
        covered = self._interval * 1e9 + self._nanoseconds
        return min(1.0, covered / (due * self._interval * 1e9))
