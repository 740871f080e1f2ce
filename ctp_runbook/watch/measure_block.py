"""Many samples of one page measured at once: the points ``MetricSeries.add`` would make, to the bit.

Only what is regular is taken: pages with the same series, all finite, counting up with time and with
the bound of a bucket, in the order of time. Everything else is for ``MetricSeries.add``, one sample
after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.watch.histogram import Grouping
from ctp_runbook.watch.measure import STATUSES, MetricSeries, Reading, counts_events, scaled_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float64]

__all__ = ["MeasuredBlock", "are_cumulative", "grouped_counts", "measure_block"]

_GOOD, _BREACH, _FEW, _ZERO, _WARM, _OPEN = (
    STATUSES.index(name)
    for name in ("good", "breach", "few_events", "zero_events", "warm_up", "open_bucket")
)


@dataclass(frozen=True)
class MeasuredBlock:
    """Points as columns: a value is NaN where there is none, ``status`` indexes STATUSES, ``over``
    is 1 where the truth is more than the value."""

    wall: _Floats
    mono: _Floats
    value: _Floats
    events: _Floats | None
    status: NDArray[np.int8]
    over: NDArray[np.int8]

    @property
    def breaches(self) -> NDArray[np.bool_]:
        """Where a point is beyond its limit, and counts."""
        return np.equal(self.status, _BREACH)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Where a point counts: past the warm-up."""
        return np.not_equal(self.status, _WARM)

    @property
    def open(self) -> NDArray[np.bool_]:
        """Where a point counts, and says nothing of its limit."""
        return np.equal(self.status, _OPEN)


def measure_block(series: MetricSeries, block: Block) -> MeasuredBlock | None:
    """The points of ``block``, taken into ``series``; None, with nothing taken, where a sample of
    it wants a look of its own."""
    groups = series.grouping(block.layout)
    counts = grouped_counts(groups, block.values)
    if not groups or not np.isfinite(counts).all():
        return None
    if counts_events(series.rule):
        return _counted(series, block, groups, counts)
    furthest = counts.max(axis=1) if series.rule.direction == "max" else counts.min(axis=1)
    return _valued(series, block, _scaled(series.rule, furthest), events=None)


def _scaled(rule: MetricRule, raw: _Floats) -> _Floats:
    with np.errstate(over="ignore"):
        return raw * rule.scale


def grouped_counts(groups: Grouping, values: _Floats) -> _Floats:
    """A column a group; its series added from left to right."""
    counts = np.zeros((len(values), len(groups)))
    for column, (_, places) in enumerate(groups):
        for place in places:
            counts[:, column] += values[:, place]
    return counts


def are_cumulative(bounds: Sequence[float], counts: _Floats) -> NDArray[np.bool_]:
    """Of each row, whether its columns are a histogram's: no bucket counts less than a narrower
    one, and none less than nothing."""
    order = sorted(range(len(bounds)), key=bounds.__getitem__)
    least: _Floats = np.diff(counts[:, order], axis=1, prepend=0.0).min(axis=1)
    return np.greater_equal(least, 0.0)


def _counted(
    series: MetricSeries, block: Block, groups: Grouping, counts: _Floats
) -> MeasuredBlock | None:
    bounds = [bound for bound, _ in groups]
    window, known = series.window, len(series.window)
    if window and window[-1].counts.keys() != set(bounds):
        return None
    if series.rule.kind != "counter" and not are_cumulative(bounds, counts).all():
        return None
    before = [[one.counts.get(bound, 0.0) for bound in bounds] for one in window]
    every = np.concatenate([np.array(before).reshape(known, len(bounds)), counts])
    mono = np.concatenate([np.array([one.mono for one in window]), block.mono])
    last = max(0, known - 1)
    if (np.diff(every[last:], axis=0) < 0).any() or (np.diff(mono) < 0).any():
        return None
    # The last reading that is as old as the window is long; where none is, the first there is.
    since = np.searchsorted(mono, block.mono - series.rule.window_seconds, side="right") - 1
    since = np.maximum(since, 0)
    measured = _of_deltas(series, block, bounds, counts - every[since])
    if measured is None:
        return None
    totals = every[last:, bounds.index(max(bounds))]
    series.events = float(np.cumsum(np.concatenate([[series.events], np.diff(totals)]))[-1])
    series.unjudged = 0.0
    kept = [*window, *(None for _ in counts)][since[-1] :]
    series.window = deque(
        one or Reading(float(mono[at]), dict(zip(bounds, every[at].tolist(), strict=True)))
        for at, one in enumerate(kept, start=int(since[-1]))
    )
    return measured


def _of_deltas(
    series: MetricSeries, block: Block, bounds: list[float], deltas: _Floats
) -> MeasuredBlock | None:
    rule = series.rule
    events = deltas[:, bounds.index(max(bounds))]
    if rule.kind == "counter":
        return _valued(series, block, _scaled(rule, events), events=events)
    if not are_cumulative(bounds, deltas).all():
        return None
    enough = events >= max(1, rule.min_events)
    values, over = np.full(len(events), np.nan), np.zeros(len(events), dtype=bool)
    values[enough], over[enough] = _quantiles(bounds, deltas[enough], rule.quantile)
    values = _scaled(rule, values)
    values[over] = scaled_bound(rule, sorted(bounds)[-2])
    measured = _valued(series, block, values, events=events, due=enough, over=over)
    if measured is not None:
        few = ~enough & (measured.status != _WARM)
        measured.status[few] = np.where(events[few] != 0, _FEW, _ZERO)
    return measured


def _quantiles(
    bounds: list[float], deltas: _Floats, quantile: float
) -> tuple[_Floats, NDArray[np.bool_]]:
    """``bucket_quantile`` of each row, none of which is empty; and which lie in the open bucket."""
    order = sorted(range(len(bounds)), key=bounds.__getitem__)
    rows = np.arange(len(deltas))
    # In front of the first bucket: nothing, from zero up.
    below = np.concatenate([np.zeros((len(deltas), 1)), deltas[:, order]], axis=1)
    upper = np.array([min(0.0, bounds[order[0]]), *(bounds[column] for column in order)])
    rank = quantile * below[:, -1]
    at = np.argmax(below[:, 1:] >= rank[:, None], axis=1) + 1
    lower, count = upper[at - 1], below[rows, at - 1]
    inside = below[rows, at] - count
    over: NDArray[np.bool_] = np.isinf(upper[at])
    with np.errstate(invalid="ignore"):
        share = np.where(inside != 0, (rank - count) / np.where(inside != 0, inside, 1.0), 1.0)
        within = lower + (upper[at] - lower) * share
    return np.where(over, lower, within), over


def _valued(
    series: MetricSeries,
    block: Block,
    value: _Floats,
    *,
    events: _Floats | None,
    due: NDArray[np.bool_] | None = None,
    over: NDArray[np.bool_] | None = None,
) -> MeasuredBlock | None:
    """``value`` is in the rule's unit."""
    rule = series.rule
    value = value + 0.0  # no minus zero
    if not np.isfinite(value if due is None else value[due]).all():
        return None
    over = np.zeros(len(value), dtype=bool) if over is None else over
    beyond = value - rule.limit if rule.direction == "max" else rule.limit - value
    status = np.where(beyond > 0, _BREACH, _GOOD).astype(np.int8)
    # As ``status_of`` has it: more than a bound is beyond a limit that is no higher.
    status[over] = _BREACH if rule.direction == "max" else _GOOD
    status[over & (value < rule.limit)] = _OPEN
    warming = block.mono - series.started < rule.warm_up_seconds
    status[warming] = _WARM
    return MeasuredBlock(block.wall, block.mono, value, events, status, over.astype(np.int8))
