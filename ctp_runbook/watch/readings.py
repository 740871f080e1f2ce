"""One metric of one engine as columns: what it read at which moment, of whole blocks of samples.

A day of samples is held as a few numbers a sample, and cut into stretches of time in one go. Apart
from the comparison, which the orchestrator imports at its start: numpy comes with this module.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ctp_runbook.model import lag_fault
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.watch.measure import MetricSeries, concerns, counts_events
from ctp_runbook.watch.measure_block import are_cumulative, furthest, grouped_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float64]

__all__ = ["Readings"]

_GAP_INTERVALS = 2.5
_JOINS: dict[str, tuple[np.ufunc, float]] = {
    "events": (np.add, 0.0),
    "max": (np.maximum, -math.inf),
    "min": (np.minimum, math.inf),
}


class Readings:
    """What is read of one metric from ``since`` to ``until`` (monotonic seconds), by stretches of
    ``seconds``.

    ``pages`` are the metrics pages that other rules name by their url; they are not its own.
    """

    def __init__(
        self,
        rule: MetricRule,
        *,
        seconds: float,
        since: float = -math.inf,
        until: float = math.inf,
        pages: Collection[str] = (),
    ) -> None:
        self._rule, self._seconds, self._pages = rule, seconds, pages
        self._since, self._until = since, until
        self._series = MetricSeries(rule, started_mono=-math.inf)
        self._began: float | None = None
        # How what falls in one stretch is put together: events are added, of values the worst.
        self._join, self._nothing = _JOINS["events" if counts_events(rule) else rule.direction]
        self._stretches: dict[int, dict[float, float]] = {}
        self._layouts: set[tuple[float, ...]] = set()
        self._last: tuple[tuple[float, ...], _Floats, _Floats] | None = None

    @property
    def furthest(self) -> list[float]:
        """Of a state or a lag: the worst value of each stretch that has one."""
        return [worst for stretch in self.increases for worst in stretch.values()]

    @property
    def increases(self) -> list[dict[float, float]]:
        """Of a counter or a histogram: what it counted in each stretch, by bucket bound.

        Deltas between neighbours; none across a gap or a restart, and none that are no histogram's.
        """
        return [self._stretches[slot] for slot in sorted(self._stretches)]

    @property
    def is_of_one_histogram(self) -> bool:
        """False where buckets were others at one time than at another: those cannot be added."""
        return len(self._layouts) <= 1

    def add(self, block: Block) -> None:
        """Take a block of samples in, as far as it is the metric's."""
        if not concerns(block, self._rule, pages=self._pages) or self._rule.kind == "outage":
            return  # outages are too rare to be compared
        groups = self._series.buckets(block.layout).groups
        if not groups:
            return
        counts = grouped_counts(groups, block.values)
        sound = (block.mono >= self._since) & (block.mono <= self._until)
        sound &= np.isfinite(counts).all(axis=1) & self._are_sound(counts)
        if not sound.any():
            return
        monos, counts = block.mono[sound], counts[sound]
        if self._began is None:
            self._began = float(monos[0])
        if counts_events(self._rule):
            self._count(tuple(bound for bound, _ in groups), monos, counts)
        else:
            worst = furthest(self._rule, counts) + 0.0  # no minus zero
            worst = np.maximum(worst, 0.0) if self._rule.kind == "lag" else worst
            self._gather((0.0,), monos, worst[:, None])

    def _are_sound(self, counts: _Floats) -> NDArray[np.bool_]:
        """Return which rows are a histogram's, where this is one; of lags those that are one."""
        rule = self._rule
        if rule.kind == "lag":
            least = (counts.min(axis=1) * rule.scale).tolist()
            return np.array([not lag_fault(lag, rule.unit) for lag in least], dtype=bool)
        if not self._series.is_histogram:
            return np.ones(len(counts), dtype=bool)
        with np.errstate(invalid="ignore"):  # what is not finite is left out anyway
            return are_cumulative(counts)

    def _count(self, bounds: tuple[float, ...], monos: _Floats, counts: _Floats) -> None:
        if self._last is not None and self._last[0] == bounds:
            monos = np.concatenate([self._last[1], monos])
            counts = np.concatenate([self._last[2], counts])
        self._layouts.add(bounds)
        self._last = bounds, monos[-1:].copy(), counts[-1:].copy()
        deltas, gaps = np.diff(counts, axis=0), np.diff(monos)
        # Across a gap or a restart nobody knows which events were whose.
        sound = (gaps <= _GAP_INTERVALS * self._rule.interval_seconds) & (deltas >= 0).all(axis=1)
        sound &= self._are_sound(deltas)
        self._gather(bounds, monos[1:][sound], deltas[sound])

    def _gather(self, bounds: tuple[float, ...], monos: _Floats, rows: _Floats) -> None:
        """Put rows, with a column a bound, to what is known of the stretches they fall in."""
        assert self._began is not None  # set by whoever reads first
        slots = np.floor((monos - self._began) / self._seconds).astype(np.int64)
        stretches, place = np.unique(slots, return_inverse=True)
        gathered = np.full((len(stretches), len(bounds)), self._nothing)
        self._join.at(gathered, place, rows)
        for slot, row in zip(stretches.tolist(), gathered.tolist(), strict=True):
            known = self._stretches.setdefault(slot, {})
            for bound, value in zip(bounds, row, strict=True):
                known[bound] = float(self._join(known.get(bound, self._nothing), value))
