"""One metric of one engine as columns: what it read at which moment, of samples or whole blocks.

A day of samples is held as a few numbers a sample, and cut into stretches of time in one go. Apart
from the comparison, which the orchestrator imports at its start: numpy comes with this module.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.histogram import Grouping
from ctp_runbook.watch.measure import MetricSeries, concerns, counts_events
from ctp_runbook.watch.measure_block import are_cumulative, grouped_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float64]

__all__ = ["Readings"]

_GAP_INTERVALS = 2.5


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
        self.rule = rule
        self._seconds, self._pages = seconds, pages
        self._since, self._until = since, until
        self._series = MetricSeries(rule, started_mono=-math.inf)
        self._began: float | None = None
        self._furthest: dict[int, float] = {}
        self._increases: dict[int, dict[float, float]] = {}
        self._layouts: set[tuple[float, ...]] = set()
        self._last: tuple[tuple[float, ...], _Floats, _Floats] | None = None

    @property
    def furthest(self) -> list[float]:
        """Of a state or a lag: the worst value of each stretch that has one."""
        return [self._furthest[slot] for slot in sorted(self._furthest)]

    @property
    def increases(self) -> list[dict[float, float]]:
        """Of a counter or a histogram: what it counted in each stretch, by bucket bound.

        Deltas between neighbours; none across a gap or a restart, and none that are no histogram's.
        """
        return [self._increases[slot] for slot in sorted(self._increases)]

    @property
    def is_of_one_histogram(self) -> bool:
        """False where buckets were others at one time than at another: those cannot be added."""
        return len(self._layouts) <= 1

    def add(self, item: Sample | Block) -> None:
        """Take a sample or a block of them in."""
        if not concerns(item, self.rule, pages=self._pages):
            return
        if isinstance(item, Sample):
            if not item.ok:
                return
            layout, monos = tuple(item.series), np.array([item.mono])
            values = np.array([list(item.series.values())], dtype=float)
        else:
            layout, monos, values = item.layout, item.mono, item.values
        groups = self._series.grouping(layout)
        inside = (monos >= self._since) & (monos <= self._until)
        if not groups or not inside.any():
            return
        counts = grouped_counts(groups, values)
        good = inside & np.isfinite(counts).all(axis=1) & self._are_sound(groups, counts)
        if not good.any():
            return
        if self._began is None:
            self._began = float(monos[good][0])
        if counts_events(self.rule):
            bounds = tuple(bound for bound, _ in groups)
            self._count(bounds, monos[good], counts[good])
        else:
            self._reach(monos[good], counts[good])

    def _are_sound(self, groups: Grouping, counts: _Floats) -> NDArray[np.bool_]:
        """Which rows are a histogram's, where this is one."""
        if self.rule.kind != "latency_quantile" or not counts_events(self.rule):
            return np.ones(len(counts), dtype=bool)
        bounds = [bound for bound, _ in groups]
        with np.errstate(invalid="ignore"):  # what is not finite is left out anyway
            return are_cumulative(bounds, counts)

    def _slots(self, monos: _Floats) -> tuple[list[int], NDArray[np.intp]]:
        """The stretches these fall in, and which of them each falls in."""
        assert self._began is not None  # set by whoever reads first
        slots = np.floor((monos - self._began) / self._seconds).astype(np.int64)
        found, place = np.unique(slots, return_inverse=True)
        return found.tolist(), place

    def _reach(self, monos: _Floats, counts: _Floats) -> None:
        upward = self.rule.direction == "max"
        values = (counts.max(axis=1) if upward else counts.min(axis=1)) * self.rule.scale + 0.0
        found, place = self._slots(monos)
        worst = np.full(len(found), -math.inf if upward else math.inf)
        (np.maximum if upward else np.minimum).at(worst, place, values)
        further = max if upward else min
        for slot, value in zip(found, worst.tolist(), strict=True):
            self._furthest[slot] = further(self._furthest.get(slot, value), value)

    def _count(self, bounds: tuple[float, ...], monos: _Floats, counts: _Floats) -> None:
        if self._last is not None and self._last[0] == bounds:
            monos = np.concatenate([self._last[1], monos])
            counts = np.concatenate([self._last[2], counts])
        self._layouts.add(tuple(sorted(bounds)))
        self._last = bounds, monos[-1:].copy(), counts[-1:].copy()
        deltas, gaps = np.diff(counts, axis=0), np.diff(monos)
        sound = (gaps <= _GAP_INTERVALS * self.rule.interval_seconds) & (deltas >= 0).all(axis=1)
        if self.rule.kind == "latency_quantile":
            sound &= are_cumulative(bounds, deltas)
        found, place = self._slots(monos[1:][sound])
        added = np.zeros((len(found), len(bounds)))
        np.add.at(added, place, deltas[sound])
        for slot, row in zip(found, added.tolist(), strict=True):
            known = self._increases.setdefault(slot, {})
            for bound, more in zip(bounds, row, strict=True):
                known[bound] = known.get(bound, 0.0) + more
