"""Many samples of one page measured at once: the points ``MetricSeries.add`` would make, to the bit.

Only what is regular is taken: pages with the same series, all finite, counting up with time and with
the bound of a bucket, in the order of time; histograms of one label set, lags that are none below
zero; no outages. Everything else is for ``MetricSeries.add``, one sample
after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.watch.histogram import Grouping, SeriesKey, scaled_bound
from ctp_runbook.watch.measure import (
    STATUSES,
    MetricSeries,
    Reading,
    badness,
    counts_events,
    events_key,
)
from ctp_runbook.watch.share_tests import ShareTests, Tested

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float64]
    _Flags = NDArray[np.bool_]

__all__ = [
    "CODES",
    "MeasuredBlock",
    "are_cumulative",
    "furthest",
    "grouped_counts",
    "lasting_places",
    "measure_block",
]

CODES = {name: np.int8(code) for code, name in enumerate(STATUSES)}


class MeasuredBlock(Struct, frozen=True):
    """Points as columns: a value or a number of events is NaN where there is none, ``status``
    indexes STATUSES, ``over`` is 1 where the truth is more than the value. ``turned`` has, by place,
    what began or ceased to be proved."""

    wall: _Floats
    mono: _Floats
    value: _Floats
    events: _Floats
    status: NDArray[np.int8]
    over: NDArray[np.int8]
    turned: Mapping[int, tuple[Tested, ...]] = {}


# What overflows is not finite, and wants a look of its own: no warning is due.
@np.errstate(over="ignore", invalid="ignore")
def measure_block(series: MetricSeries, block: Block) -> MeasuredBlock | None:
    """Return the points of ``block``, taken into ``series``; None, with nothing taken, where a
    sample of it wants a look of its own."""
    rule, groups = series.rule, series.buckets(block.layout).groups
    # An outage goes on from one sample to the next; events that a source tells are read of each.
    if not groups or rule.kind == "outage" or events_key(rule) in block.layout:
        return None
    if counts_events(rule):
        keys = series.keys(block.layout)
        counts = block.values[:, [place for _, place in keys]]
        if not np.isfinite(counts).all():
            return None
        return _counted(series, block, [key for key, _ in keys], counts)
    counts = grouped_counts(groups, block.values)
    if not np.isfinite(counts).all() or (rule.kind == "lag" and (counts < 0).any()):
        return None
    uncounted, certain = np.full(len(counts), np.nan), np.zeros(len(counts), dtype=bool)
    return _judged(series, block, furthest(rule, counts), uncounted, certain)


def lasting_places(measured: MeasuredBlock, rule: MetricRule, *, in_breach: bool) -> list[int]:
    """Return the points, in order, whose traces outlast the block: what breaches, or ends a breach;
    the worst; the first that is open; the last with a value, and the last of all.

    ``in_breach``: the point before the block breached.
    """
    breaches = measured.status == CODES["breach"]
    ended = np.append(in_breach, breaches[:-1])
    valued = np.flatnonzero((measured.status != CODES["warm_up"]) & ~np.isnan(measured.value))
    bad = badness(rule, measured.value[valued])
    worst = valued[bad == bad.max(initial=-np.inf)]
    # The first that are worst: where the truth is the value, and where it is more than that.
    _, firsts = np.unique(measured.over[worst], return_index=True)
    places = (
        np.flatnonzero(breaches | ended),
        np.flatnonzero(measured.status == CODES["open_bucket"])[:1],
        worst[firsts],
        valued[-1:],
        [len(measured.status) - 1],
    )
    return sorted(set(np.concatenate(places).tolist()))


def grouped_counts(groups: Grouping, values: _Floats) -> _Floats:
    """Return a column a group; its series added from left to right."""
    counts = np.zeros((len(values), len(groups)))
    for column, (_, places) in enumerate(groups):
        for place in places:
            counts[:, column] += values[:, place]
    return counts


def furthest(rule: MetricRule, values: _Floats) -> _Floats:
    """Return of each row the value that is worst by the rule, in the rule's unit."""
    worst: _Floats = values.max(axis=1) if rule.direction == "max" else values.min(axis=1)
    return worst * rule.scale


def are_cumulative(counts: _Floats) -> _Flags:
    """Return of each row, narrowest bucket first, whether it is a histogram's: no bucket counts
    less than a narrower one, and none less than nothing."""
    least: _Floats = np.diff(counts, axis=1, prepend=0.0).min(axis=1)
    return np.greater_equal(least, 0.0)


def _counted(
    series: MetricSeries, block: Block, keys: list[SeriesKey], counts: _Floats
) -> MeasuredBlock | None:
    window, last = series.window, max(0, len(series.window) - 1)
    # Nothing counted yet, or the same series as before: what comes and goes wants a look.
    if window and window[-1].counts and window[-1].counts.keys() != set(keys):
        return None
    if series.is_histogram and (len({labels for labels, _ in keys}) > 1 or not _is_one(counts)):
        return None
    if series.tests and not series.tests.is_single:
        return None
    before = [[reading.counts.get(key, 0.0) for key in keys] for reading in window]
    every = np.vstack([*before, counts])
    mono = np.append([reading.mono for reading in window], block.mono)
    if (np.diff(every[last:], axis=0) < 0).any() or (np.diff(mono) < 0).any():
        return None
    # The last reading that is as old as the window is long; where none is, the first there is.
    begins = np.searchsorted(mono, block.mono - series.rule.window_seconds, side="right") - 1
    begins = np.maximum(begins, 0)
    events = _all_events(keys, counts - every[begins])
    measured = _of_deltas(
        series, block, [bound for _, bound in keys], counts - every[begins], events
    )
    if measured is None:
        return None
    # One after the other, as ``MetricSeries.add`` does: a sum of all may round otherwise.
    steps = _all_events(keys, np.diff(every[last:], axis=0))
    series.events, series.unjudged = float(np.cumsum(np.append(series.events, steps))[-1]), 0.0
    if len(moved := np.flatnonzero(steps)):
        series.moved = float(mono[last + 1 :][moved[-1]])
    if series.tests:
        measured = _tested(
            series, series.tests, measured, [b for _, b in keys], np.diff(every[last:], axis=0)
        )
    if series.is_histogram:
        _settle(series, _Rows(keys, mono, every), begins, measured)
    series.window = deque(
        Reading(moment, dict(zip(keys, row, strict=True)))
        for moment, row in zip(
            mono[begins[-1] :].tolist(), every[begins[-1] :].tolist(), strict=True
        )
    )
    return measured


def _tested(
    series: MetricSeries,
    tests: ShareTests,
    measured: MeasuredBlock,
    bounds: list[float],
    grown: _Floats,
) -> MeasuredBlock:
    """Return the points as the tests have them; a row of ``grown`` is a look after the first there was."""
    first = len(measured.mono) - len(grown)
    warm = (measured.mono - series.started < series.rule.warm_up_seconds)[first:]
    proved, rows = np.full(len(measured.mono), tests.stands), np.flatnonzero(~warm) + first
    turned = {
        int(rows[place]): tested
        for place, tested in tests.note_rows(
            measured.mono[rows], bounds, grown[rows - first]
        ).items()
    }
    status = measured.status
    if series.rule.is_sequential:
        for place, tested in turned.items():
            if own := [each.stands for each in tested if each.is_of(series.rule.limit)]:
                proved[place:] = own[0]
        few = np.isin(status, [CODES["few_events"], CODES["zero_events"]])
        status = np.where((status == CODES["breach"]) & ~proved, CODES["good"], status)
        status = np.where(few & proved, CODES["breach"], status)
    return structs.replace(measured, status=status, turned=turned)


class _Rows(Struct, frozen=True):
    """Readings as columns: one a series."""

    keys: list[SeriesKey]
    mono: _Floats
    counts: _Floats

    def reading(self, at: int) -> Reading:
        """Return one of them."""
        row = zip(self.keys, self.counts[at].tolist(), strict=True)
        return Reading(float(self.mono[at]), dict(row))


def _settle(
    series: MetricSeries, rows: _Rows, begins: NDArray[np.int64], measured: MeasuredBlock
) -> None:
    """Note of each point what ``MetricSeries.add`` would: of which events a quantile was made."""
    judged = ~np.isnan(measured.value) | (measured.status == CODES["warm_up"])
    settled, moments = series.settled or rows.reading(0), rows.mono.tolist()
    at, own = -1, len(moments) - len(begins)  # the row that is settled; none of them yet
    for place, (begin, is_judged) in enumerate(zip(begins.tolist(), judged.tolist(), strict=True)):
        if (settled.mono if at < 0 else moments[at]) < moments[begin]:
            series.leave(settled if at < 0 else rows.reading(at), rows.reading(begin))
            at = begin
        if is_judged:
            at = own + place
    series.settled = settled if at < 0 else rows.reading(at)


def _all_events(keys: list[SeriesKey], deltas: _Floats) -> _Floats:
    """Return ``increase`` of each row, added in the order of the series."""
    total: _Floats = np.zeros(len(deltas))
    for column, (_, bound) in enumerate(keys):
        if np.isinf(bound):
            total = total + deltas[:, column]
    return total


def _is_one(counts: _Floats) -> bool:
    return bool(are_cumulative(counts).all())


def _of_deltas(
    series: MetricSeries, block: Block, bounds: list[float], deltas: _Floats, events: _Floats
) -> MeasuredBlock | None:
    rule = series.rule
    if rule.kind == "counter":
        return _judged(series, block, events * rule.scale, events, np.zeros(len(events), bool))
    if not _is_one(deltas):
        return None
    value, over = _quantiles(bounds, deltas, rule.quantile)
    value = np.where(over, scaled_bound(rule, bounds[-2]), value * rule.scale)
    few = events < max(1, rule.min_events)
    return _judged(series, block, np.where(few, np.nan, value), events, over & ~few)


def _quantiles(bounds: list[float], deltas: _Floats, quantile: float) -> tuple[_Floats, _Flags]:
    """Return ``bucket_quantile`` of each row, and which lie in the open bucket."""
    rows = np.arange(len(deltas))
    # In front of the first bucket: nothing, from zero up.
    below = np.pad(deltas, ((0, 0), (1, 0)))
    upper = np.array([min(0.0, bounds[0]), *bounds])
    rank = quantile * deltas[:, -1]
    at = np.argmax(deltas >= rank[:, None], axis=1) + 1
    lower, count = upper[at - 1], below[rows, at - 1]
    inside = below[rows, at] - count
    share = np.where(inside != 0, (rank - count) / np.where(inside != 0, inside, 1.0), 1.0)
    return lower + (upper[at] - lower) * share, np.isinf(upper[at])


def _judged(
    series: MetricSeries, block: Block, value: _Floats, events: _Floats, over: _Flags
) -> MeasuredBlock | None:
    """``value`` is in the rule's unit, and NaN where there were too few events for one."""
    rule = series.rule
    value = value + 0.0  # no minus zero
    if np.isinf(value).any():
        return None
    status = np.where(badness(rule, value) > 0, CODES["breach"], CODES["good"])
    # As ``status_of`` has it: more than a bound is beyond a limit that is no higher.
    status[over] = CODES["breach" if rule.direction == "max" else "good"]
    status[over & (value < rule.limit)] = CODES["open_bucket"]
    few = np.isnan(value)
    status[few] = np.where(events[few] != 0, CODES["few_events"], CODES["zero_events"])
    status[block.mono - series.started < rule.warm_up_seconds] = CODES["warm_up"]
    return MeasuredBlock(block.wall, block.mono, value, events, status, over.astype(np.int8))
