"""Windows longer than the recording they are made of: put together from its pieces, drawn by chance.

A block bootstrap. A piece is longer than what hangs together in it (a burst, a ``for``), all sources
of a moment stay together, and counters go on counting where one piece follows another. What is told
by such windows assumes that pieces are independent of each other and that there are no others; how
far ten minutes may be from that is what the interval of ``pieces_rate`` is for. numpy comes with this
module.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.calibration import AlarmRate
from ctp_runbook.record.sample_blocks import Block, Chunk
from ctp_runbook.record.samples import split_series
from ctp_runbook.watch.measure import counts_events
from ctp_runbook.watch.sequential import share_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FEWEST_PIECES", "PIECED_WINDOWS", "Pieces", "piece_length", "pieces_rate"]

# Fewer tell nothing of how different pieces are.
FEWEST_PIECES = 10
# Each recording that might have been has so many windows; so many such recordings are drawn.
_EACH, _RECORDINGS = 2, 100
PIECED_WINDOWS = _EACH * _RECORDINGS
_SEED = 20261126
_SHORTEST_SECONDS = 30.0
_TAIL = 0.025


def piece_length(rules: Iterable[MetricRule], trigger: Trigger) -> float:
    """Return how many seconds a piece has: half a minute, and longer where a rule's burst, ``for`` or
    interval is."""
    rules = tuple(rules)
    lasting = [2 * condition.for_seconds for clause in trigger.any_of for condition in clause]
    lasting += [2 * rule.for_seconds for rule in rules]
    lasting += [3 * rule.span_seconds for rule in rules if rule.is_sequential]
    lasting += [3 * rule.interval_seconds for rule in rules]
    return max(_SHORTEST_SECONDS, *lasting)


class _Part(Struct, frozen=True):
    """Samples of one target, and their values, a row a sample; of those columns that count, the places, their places among all that the
    target counts, and how much each reading has grown by since the one before."""

    block: Block
    values: NDArray[np.float64]
    columns: tuple[int, ...]
    totals: tuple[int, ...]
    grown: NDArray[np.float64]


class Pieces:
    """A recording cut into pieces of ``seconds``; ``begins`` is its first monotonic second."""

    def __init__(
        self,
        items: Iterable[Block],
        rules: Iterable[MetricRule],
        *,
        begins: float,
        ends: float,
        seconds: float,
    ) -> None:
        self.begins, self.seconds = begins, seconds
        self.many = int((ends - begins) / seconds + 1e-9)
        counted = {name for rule in rules if counts_events(rule) for name in _families(rule)}
        self._targets: list[list[_Part]] = []
        self._counters: list[int] = []
        whose = sorted(items, key=lambda item: (item.source, item.target))
        for _, own in groupby(whose, key=lambda item: (item.source, item.target)):
            parts, counters = _parts(sorted(own, key=_first), counted)
            self._targets.append(parts)
            self._counters.append(counters)

    def window(self, number: int, *, began: float, seconds: float) -> Chunk:
        """Return the samples of the window of this number, as if it began then; of one number always
        the same."""
        recording = np.random.default_rng((_SEED, number // _EACH))
        there = recording.integers(self.many, size=self.many)
        draw = np.random.default_rng((_SEED, number // _EACH, number))
        drawn = there[draw.integers(self.many, size=math.ceil(seconds / self.seconds - 1e-9))]
        items: list[Block] = []
        for parts, counters in zip(self._targets, self._counters, strict=True):
            items += self._put_together(parts, counters, drawn.tolist(), began, seconds)
        return _in_order(items)

    def _put_together(
        self,
        parts: Sequence[_Part],
        counters: int,
        drawn: Sequence[int],
        began: float,
        seconds: float,
    ) -> list[Block]:
        totals, blocks = np.zeros(counters), list[Block]()
        for place, piece in enumerate(drawn):
            since = self.begins + piece * self.seconds
            shift = began + place * self.seconds - since
            until = since + min(self.seconds, seconds - place * self.seconds)
            for part in parts:
                if (cut := _cut(part, since, until, shift, totals)) is not None:
                    blocks.append(cut)
        return _joined(blocks)


def _families(rule: MetricRule) -> tuple[str, ...]:
    return (f"{rule.query}_bucket",) if rule.kind == "latency_quantile" else rule.families


def _first(item: Block) -> float:
    return item.mono[0]


def _parts(items: Sequence[Block], counted: set[str]) -> tuple[list[_Part], int]:
    """Return what each reading of one target has grown by, and how many of its series count."""
    names = {key for item in items for key in item.layout}
    order = sorted(key for key in names if split_series(key)[0] in counted)
    place = {key: at for at, key in enumerate(order)}
    # What was not there before counts from zero; of the first page of all nobody knows since when.
    last: NDArray[np.float64] | None = None
    parts: list[_Part] = []
    for item in items:
        page = np.array(item.values).reshape(len(item.seq), len(item.layout))
        if not item.ok:
            parts.append(_Part(item, page, (), (), page))
            continue
        columns = tuple(at for at, key in enumerate(item.layout) if key in place)
        totals = [place[item.layout[at]] for at in columns]
        values = page[:, columns]
        if last is None:
            last = np.zeros(len(order))
            last[totals] = np.nan_to_num(values[0])
        values = _known(values, last[totals])
        grown = _grown(np.vstack([last[totals], values[:-1]]), values, [order[at] for at in totals])
        last[totals] = values[-1]
        parts.append(_Part(item, page, columns, tuple(totals), grown))
    return parts, len(order)


def _known(values: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return counts with the one before in the place of what is no number: nothing is known to have
    been counted then."""
    if np.isfinite(values).all():
        return values
    rows = np.vstack([last, values])
    known = np.where(np.isfinite(rows), np.arange(len(rows))[:, None], 0)
    latest = np.maximum.accumulate(known, axis=0)
    return np.nan_to_num(np.take_along_axis(rows, latest, axis=0)[1:])


def _grown(
    before: NDArray[np.float64], now: NDArray[np.float64], keys: Sequence[str]
) -> NDArray[np.float64]:
    """Return what each reading counted since the one before. A series that fell counts anew, from zero,
    and so do all buckets of its histogram: an engine was restarted."""
    grown, fell = now - before, now < before
    if fell.any():
        sets: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        for at, key in enumerate(keys):
            name, labels = split_series(key)
            others = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
            sets.setdefault((name, others), []).append(at)
        for own in sets.values():
            anew = np.ix_(fell[:, own].any(axis=1), np.isin(np.arange(len(keys)), own))
            grown[anew] = now[anew]
    return grown


def _cut(
    part: _Part, since: float, until: float, shift: float, totals: NDArray[np.float64]
) -> Block | None:
    """Return the readings of a piece at their new moments, counted on from ``totals``; None for none."""
    block = part.block
    first, last = bisect_left(block.mono, since), bisect_left(block.mono, until)
    if first == last:
        return None
    values = part.values[first:last]
    if part.columns:
        own = list(part.totals)
        values = values.copy()
        values[:, part.columns] = totals[own] + np.cumsum(part.grown[first:last], axis=0)
        totals[own] = values[-1, part.columns]
    return structs.replace(
        block,
        seq=block.seq[first:last],
        wall=array("d", [wall + shift for wall in block.wall[first:last]]),
        mono=array("d", [mono + shift for mono in block.mono[first:last]]),
        values=array("d", values.tobytes()),
    )


def _joined(items: Sequence[Block]) -> list[Block]:
    """Return blocks of the same series, or the same error, that follow each other as one."""
    joined: list[Block] = []
    for _, group in groupby(items, key=lambda item: (item.layout, item.ok, item.error)):
        first, *others = group
        for block in others:
            first.seq.extend(block.seq)
            first.wall.extend(block.wall)
            first.mono.extend(block.mono)
            first.values.extend(block.values)
        joined.append(first)
    return joined


def _in_order(items: Sequence[Block]) -> Chunk:
    """Return the items as a chunk, numbered by their moments."""
    monos = [mono for item in items for mono in item.mono]
    places = [at for at, item in enumerate(items) for _ in item.seq]
    order = np.argsort(monos, kind="stable")
    ranks = np.empty(len(order), dtype=int)
    ranks[order] = np.arange(len(order))
    numbers = iter(ranks.tolist())
    numbered = [
        structs.replace(item, seq=array("q", islice(numbers, len(item.seq)))) for item in items
    ]
    return Chunk(numbered, [places[at] for at in order.tolist()])


def pieces_rate(alarms: Sequence[bool | None], *, seconds: float, recorded: float) -> AlarmRate:
    """Return the rate of alarms in windows of ``seconds`` put together from ``recorded`` seconds.

    The interval is what recordings that might have been, of the same pieces drawn anew, say at 95 %;
    and its upper end grants that what comes less often than the recording is long was not seen at all.
    """
    own = [alarm for alarm in alarms if alarm is not None]
    low, high = share_interval(len(own), sum(own)) if own else (0.0, 1.0)
    rates = sorted(
        sum(known) / len(known)
        for at in range(0, len(alarms), _EACH)
        if (known := [alarm for alarm in alarms[at : at + _EACH] if alarm is not None])
    )
    if rates:
        out = int(_TAIL * len(rates))
        low, high = min(low, rates[out]), max(high, rates[-1 - out])
    unseen = 1 - _TAIL ** (seconds / recorded)
    high = 1 - (1 - high) * (1 - unseen)
    many = sum(own), len(own)
    return AlarmRate(
        alarms=many[0],
        windows=many[1],
        low=round(low, 6),
        high=round(high, 6),
        sliding_alarms=many[0],
        sliding_windows=many[1],
    )
