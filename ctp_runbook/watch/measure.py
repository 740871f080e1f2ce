"""From raw samples to points: quantiles of bucket deltas, counter deltas, states. Pure.

A quantile comes from the events of the last ``window_seconds`` alone, never from the lifetime
histogram. One above the widest finite bound is more than that bound, and no more is known of it:
beyond a limit that is no higher it is a breach, else it proves nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.samples import Sample, split_series
from ctp_runbook.watch.histogram import Buckets, bucket_quantile, counts_fault, group_buckets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctp_runbook.record.sample_blocks import Block

__all__ = [
    "STATUSES",
    "MetricSeries",
    "Point",
    "Reading",
    "asked_of",
    "badness",
    "concerns",
    "counts_events",
    "is_page",
    "more_than",
    "pages_of",
    "scaled_bound",
    "status_of",
]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up", "open_bucket")
STATUSES = (*_MEASURED, "no_data", "error")
_Values = TypeVar("_Values", float, "NDArray[np.float64]")


class Point(Struct, frozen=True):
    """One metric at one moment. ``status`` is one of good, breach, few_events, zero_events,
    warm_up, open_bucket (all measured), no_data, error (could not measure).

    Where ``is_over`` the truth is more than ``value``, the widest finite bound of the histogram;
    where the limit is higher still, nothing is known of it: open_bucket.
    """

    wall: float
    mono: float
    value: float | None
    events: float | None
    status: str
    reason: str = ""
    is_over: bool = False

    @property
    def measured(self) -> bool:
        """True when the source answered with this metric in it."""
        return self.status in _MEASURED

    @property
    def judged(self) -> bool:
        """True when the point counts: measured, and past the warm-up."""
        return self.measured and self.status != "warm_up"


def badness(rule: MetricRule, value: _Values) -> _Values:
    """Return how far ``value`` (or each of a column) is beyond the rule's limit, in the metric's
    unit; negative within it."""
    return value - rule.limit if rule.direction == "max" else rule.limit - value


def counts_events(rule: MetricRule) -> bool:
    """True for metrics made of events (a histogram, a counter), whose number matters.

    Where another source has counted them already, its answer is a value like any other.
    """
    return is_page(rule) and rule.kind in ("latency_quantile", "counter")


def asked_of(rule: MetricRule) -> str:
    """Return the rule's query on one line, and who is asked."""
    whom = f"{rule.source} {rule.url}" if rule.url else rule.source
    return f"{' '.join(rule.query.split())} ({whom})"


def is_page(rule: MetricRule) -> bool:
    """True where samples are metrics pages, of an engine now or then."""
    return rule.source in PAGES


def pages_of(rules: Iterable[MetricRule]) -> frozenset[str]:
    """Return the addresses that rules name; a page that none names is the engine's own."""
    return frozenset(rule.url for rule in rules if rule.url)


def concerns(item: Sample | Block, rule: MetricRule, *, pages: Collection[str]) -> bool:
    """True for what measures the metric: a page of its own, or what bears its name; ``pages`` are
    those of ``pages_of``."""
    if item.source != rule.source:
        return False
    if not is_page(rule):
        return item.target in ("", rule.source, rule.name)
    return item.target == rule.url if rule.url else item.target not in pages


def more_than(text: str, *, is_over: bool) -> str:
    """Return a value as a person reads it: ``more than 10 s`` where no more is known."""
    return f"more than {text}" if is_over else text


def scaled_bound(rule: MetricRule, bound: float) -> float:
    """Return a bucket's bound in the rule's unit. By decimals: 0.0049 s must not fall short of 4.9 ms."""
    return float(Decimal(repr(bound)) * Decimal(repr(rule.scale)))


def status_of(rule: MetricRule, value: float, *, is_over: bool) -> str:
    """Return what ``value`` says of the limit, past the warm-up.

    More than a bound is beyond (for a minimum: above) any limit that is no higher than the bound.
    """
    bad = badness(rule, value)
    if not is_over:
        return "breach" if bad > 0 else "good"
    if value < rule.limit:
        return "open_bucket"
    return "breach" if rule.direction == "max" else "good"


class Reading(Struct, frozen=True):
    """The cumulative part of a sample: bucket counts, or a counter under the key 0."""

    mono: float
    counts: Mapping[float, float]

    @property
    def total(self) -> float:
        """All events: the count of the widest bucket, or the counter."""
        return self.counts[max(self.counts)]

    def went_back(self, before: Reading) -> bool:
        """True when a count of the same buckets is below what it was: a process counts up only."""
        return any(self.counts[bound] < count for bound, count in before.counts.items())


class _Look(Struct, frozen=True):
    """What a sample says of the metric: a value, too few events for one, or why neither."""

    value: float | None = None
    events: float | None = None
    is_over: bool = False
    reason: str = ""


class MetricSeries:
    """One metric's points, computed as samples come in.

    ``events`` counts them since the start; ``unjudged`` are those of a restarted engine that no
    point has been made of yet; ``window`` has the readings of the last ``window_seconds``.
    """

    def __init__(self, rule: MetricRule, *, started_mono: float) -> None:
        self.rule = rule
        self.started = started_mono
        self.window: deque[Reading] = deque()
        self.events = 0.0
        self.unjudged = 0.0
        self.is_histogram = is_page(rule) and rule.kind == "latency_quantile"
        # An engine has its own name for it; what is asked of others is kept by the metric's name.
        self._asked = rule.query if is_page(rule) else rule.name
        self._family = f"{self._asked}_bucket" if self.is_histogram else self._asked
        self._layout: tuple[str, ...] = ()
        self._buckets = Buckets()

    def add(self, sample: Sample) -> Point:
        """Take a sample in, and return the point it makes."""
        look = self._look(sample) if sample.ok else _Look(reason=sample.error)
        status = self._status(look) if sample.ok else "error"
        if status in _MEASURED and sample.mono - self.started < self.rule.warm_up_seconds:
            status = "warm_up"
        return Point(
            sample.wall, sample.mono, look.value, look.events, status, look.reason, look.is_over
        )

    def buckets(self, layout: tuple[str, ...]) -> Buckets:
        """Return which series of a page with these keys are this metric's: by bucket bound for a
        histogram, one group for a counter, else each on its own."""
        if layout != self._layout:
            self._layout, self._buckets = layout, self._grouped(self._series(layout))
        return self._buckets

    def places(self, layout: tuple[str, ...]) -> list[int]:
        """Return where in a page with these keys this metric's series are."""
        return [place for place, _ in self._series(layout)]

    def _series(self, layout: tuple[str, ...]) -> list[tuple[int, Mapping[str, str]]]:
        # In the order of their keys, as a samples file has them: floats add up differently in
        # another order, and the replay must say what the live judge said.
        places = sorted(range(len(layout)), key=layout.__getitem__)
        keys = ((place, *split_series(layout[place])) for place in places)
        wanted = self.rule.labels.items()
        return [
            (place, labels)
            for place, family, labels in keys
            if family == self._family and wanted <= labels.items()
        ]

    def _grouped(self, series: list[tuple[int, Mapping[str, str]]]) -> Buckets:
        places = tuple(place for place, _ in series)
        if not places:
            return Buckets()
        if self.is_histogram:
            return group_buckets(series)
        if self.rule.kind == "counter":
            return Buckets(((0.0, places),))
        return Buckets(tuple((float(place), (place,)) for place in places))

    def _status(self, look: _Look) -> str:
        if look.reason:
            return "no_data"
        if look.value is None:
            return "few_events" if look.events else "zero_events"
        return status_of(self.rule, look.value, is_over=look.is_over)

    def _look(self, sample: Sample) -> _Look:
        buckets = self.buckets(tuple(sample.series))
        if buckets.fault:
            return self._faulty(buckets.fault)
        values = tuple(sample.series.values())
        counts = {bound: _added(values, places) for bound, places in buckets.groups}
        if not counts:
            return _Look(reason=f"{self._asked} is not in the sample")
        if not all(map(math.isfinite, counts.values())):
            return self._valued(math.nan)
        if counts_events(self.rule):
            return self._counted(Reading(sample.mono, counts))
        furthest = max if self.rule.direction == "max" else min
        return self._valued(furthest(counts.values()) * self.rule.scale)

    def _counted(self, reading: Reading) -> _Look:
        rule, window = self.rule, self.window
        if self.is_histogram and (fault := counts_fault(reading.counts)):
            return self._faulty(fault)
        if window and reading.counts.keys() != window[-1].counts.keys():
            return self._restarted(reading, why="it has other buckets than before")
        if window and reading.went_back(window[-1]):
            return self._restarted(reading, why="counter went back")
        self.unjudged = 0.0
        if window:
            self.events += reading.total - window[-1].total
        window.append(reading)
        # The last reading that is as old as the window is long stays: deltas begin there.
        while len(window) > 1 and window[1].mono <= reading.mono - rule.window_seconds:
            window.popleft()
        delta = {k: v - window[0].counts.get(k, 0.0) for k, v in reading.counts.items()}
        events = delta[max(delta)]
        if rule.kind == "counter":
            return self._valued(events * rule.scale, events)
        return self._quantile(delta, events)

    def _quantile(self, delta: Mapping[float, float], events: float) -> _Look:
        rule = self.rule
        if fault := counts_fault(delta):
            return self._faulty(f"within {rule.window_seconds:g} s {fault}")
        if events < max(1, rule.min_events):
            return _Look(events=events)
        quantile = bucket_quantile(delta, quantile=rule.quantile)
        if quantile is None:
            return self._faulty("its buckets have no quantile")
        if quantile.is_over:
            return self._valued(scaled_bound(rule, quantile.value), events, is_over=True)
        return self._valued(quantile.value * rule.scale, events)

    def _restarted(self, reading: Reading, *, why: str) -> _Look:
        # The engine counts anew, from zero, as Prometheus' increase has it: what it counted
        # before this sample is in the points that follow.
        self.window = deque([Reading(reading.mono, {}), reading])
        self.events += reading.total
        self.unjudged = reading.total
        return _Look(reason=f"{why}: engine restarted")

    def _faulty(self, fault: str) -> _Look:
        return _Look(reason=f"{self._asked} has no value: {fault}")

    def _valued(self, value: float, events: float | None = None, *, is_over: bool = False) -> _Look:
        if not math.isfinite(value):
            return _Look(reason=f"{self._asked} is not finite")
        return _Look(value + 0.0, events, is_over)  # no minus zero


def _added(values: tuple[float, ...], places: tuple[int, ...]) -> float:
    """Return their sum from left to right; ``sum`` adds floats otherwise from Python 3.12 on."""
    total = 0.0
    for place in places:
        total += values[place]
    return total
