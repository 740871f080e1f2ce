"""From raw samples to points: quantiles of bucket deltas, counter deltas, states. Pure.

A quantile comes from the events of the last ``window_seconds`` alone, never from the lifetime
histogram. One above the widest finite bound is more than that bound, and no more is known of it:
beyond a limit that is no higher it is a breach, else it proves nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.samples import Sample, split_series
from ctp_runbook.watch.histogram import (
    Buckets,
    Grouping,
    bucket_quantile,
    counts_fault,
    group_buckets,
)

if TYPE_CHECKING:
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
    "scaled_bound",
    "status_of",
]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up", "open_bucket")
STATUSES = (*_MEASURED, "no_data", "error")


@dataclass(frozen=True, slots=True)
class Point:
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


def badness(rule: MetricRule, value: float) -> float:
    """How far ``value`` is beyond the rule's limit, in the metric's unit; negative within it."""
    return value - rule.limit if rule.direction == "max" else rule.limit - value


def counts_events(rule: MetricRule) -> bool:
    """True for metrics made of events (a histogram, a counter), whose number matters.

    Where another source has counted them already, its answer is a value like any other.
    """
    return is_page(rule) and rule.kind in ("latency_quantile", "counter")


def asked_of(rule: MetricRule) -> str:
    """The rule's query on one line, and whom it is put to."""
    whom = f"{rule.source} {rule.url}" if rule.url else rule.source
    return f"{' '.join(rule.query.split())} ({whom})"


def is_page(rule: MetricRule) -> bool:
    """True where samples are metrics pages, of an engine now or then."""
    return rule.source in PAGES


def concerns(sample: Sample | Block, rule: MetricRule, *, pages: Collection[str]) -> bool:
    """True for what measures the metric: a page of its own, or what bears its name.

    ``pages`` are the addresses that rules name; a page that none names is the new engine's.
    """
    if sample.source != rule.source:
        return False
    if not is_page(rule):
        return sample.target in ("", rule.source, rule.name)
    return sample.target == rule.url if rule.url else sample.target not in pages


def more_than(text: str, *, is_over: bool) -> str:
    """A value as a person reads it: ``more than 10 s`` where no more is known."""
    return f"more than {text}" if is_over else text


def scaled_bound(rule: MetricRule, bound: float) -> float:
    """A bucket's bound in the rule's unit. By decimals: 0.0049 s must not fall short of 4.9 ms."""
    return float(Decimal(repr(bound)) * Decimal(repr(rule.scale)))


def status_of(rule: MetricRule, value: float, *, is_over: bool) -> str:
    """What ``value`` says of the limit, past the warm-up.

    More than a bound is beyond (for a minimum: above) any limit that is no higher than the bound.
    """
    bad = badness(rule, value)
    if not is_over:
        return "breach" if bad > 0 else "good"
    if value < rule.limit:
        return "open_bucket"
    return "breach" if rule.direction == "max" else "good"


@dataclass(frozen=True)
class Reading:
    """The cumulative part of a sample: bucket counts, or a counter under the key 0."""

    mono: float
    counts: Mapping[float, float]

    @property
    def total(self) -> float:
        """All events: the count of the widest bucket, or the counter."""
        return self.counts[max(self.counts)]

    def went_back(self, before: Reading) -> bool:
        """True when any count is below what it was: a process counts up only."""
        return any(self.counts[key] < n for key, n in before.counts.items() if key in self.counts)


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
        self._layout: tuple[str, ...] = ()
        self._buckets = Buckets()

    def add(self, sample: Sample) -> Point:
        """The point this sample makes."""
        if not sample.ok:
            return self._point(sample, "error", reason=sample.error)
        layout = tuple(sample.series)
        if fault := self._of(layout).fault:
            return self._faulty(sample, fault)
        counts = self._counts(sample, layout)
        if not counts:
            return self._point(sample, "no_data", reason=f"{self._asked} is not in the sample")
        if not all(map(math.isfinite, counts.values())):
            return self._point(sample, "no_data", reason=f"{self._asked} is not finite")
        if not counts_events(self.rule):
            furthest = max if self.rule.direction == "max" else min
            return self._valued(sample, furthest(counts.values()) * self.rule.scale, events=None)
        return self._counted(sample, Reading(sample.mono, counts))

    @property
    def _asked(self) -> str:
        return self.rule.query if is_page(self.rule) else self.rule.name

    @property
    def _family(self) -> str:
        """The engine's own name for it; what is asked of other sources is kept by metric name."""
        if not is_page(self.rule):
            return self.rule.name
        return f"{self.rule.query}_bucket" if self._is_histogram else self.rule.query

    @property
    def _is_histogram(self) -> bool:
        return is_page(self.rule) and self.rule.kind == "latency_quantile"

    def grouping(self, layout: tuple[str, ...]) -> Grouping:
        """Which series of a page with these keys are this metric's: by bucket bound for a
        histogram, one group for a counter, else each on its own; none when there are none, or
        when they are no whole histogram."""
        return self._of(layout).groups

    def places(self, layout: tuple[str, ...]) -> list[int]:
        """Where in a page with these keys this metric's series are.

        In the order of their keys, as a samples file has them: floats add up differently in
        another order, and the replay must say what the live judge said.
        """
        return [place for place, _ in self._series(layout)]

    def _of(self, layout: tuple[str, ...]) -> Buckets:
        if layout != self._layout:
            self._layout, self._buckets = layout, self._group(layout)
        return self._buckets

    def _series(self, layout: tuple[str, ...]) -> list[tuple[int, Mapping[str, str]]]:
        name, wanted = self._family, self.rule.labels.items()
        found = []
        for place in sorted(range(len(layout)), key=layout.__getitem__):
            family, labels = split_series(layout[place])
            if family == name and all(labels.get(k) == v for k, v in wanted):
                found.append((place, labels))
        return found

    def _group(self, layout: tuple[str, ...]) -> Buckets:
        series = self._series(layout)
        if self._is_histogram:
            return group_buckets(series) if series else Buckets()
        places = tuple(place for place, _ in series)
        if self.rule.kind == "counter":
            return Buckets(((0.0, places),) if places else ())
        return Buckets(tuple((float(place), (place,)) for place in places))

    def _counts(self, sample: Sample, layout: tuple[str, ...]) -> dict[float, float]:
        values = tuple(sample.series.values())
        return {bound: _added(values, places) for bound, places in self.grouping(layout)}

    def _counted(self, sample: Sample, reading: Reading) -> Point:
        rule, window = self.rule, self.window
        if self._is_histogram and (fault := counts_fault(reading.counts)):
            return self._faulty(sample, fault)
        if window and reading.counts.keys() != window[-1].counts.keys():
            return self._restarted(sample, reading, why="it has other buckets than before")
        if window and reading.went_back(window[-1]):
            return self._restarted(sample, reading, why="counter went back")
        self.unjudged = 0.0
        if window:
            self.events += reading.total - window[-1].total
        window.append(reading)
        while len(window) > 1 and window[1].mono <= sample.mono - rule.window_seconds:
            window.popleft()
        delta = {k: v - window[0].counts.get(k, 0.0) for k, v in reading.counts.items()}
        events = delta[max(delta)]
        if rule.kind == "counter":
            return self._valued(sample, events * rule.scale, events=events)
        return self._quantile(sample, delta, events=events)

    def _quantile(self, sample: Sample, delta: Mapping[float, float], *, events: float) -> Point:
        rule = self.rule
        if fault := counts_fault(delta):
            return self._faulty(sample, f"within {rule.window_seconds:g} s {fault}")
        if events < max(1, rule.min_events):
            status = "few_events" if events else "zero_events"
            return self._point(sample, status, events=events)
        found = bucket_quantile(delta, quantile=rule.quantile)
        if found is None:
            return self._faulty(sample, "its buckets have no quantile")
        if found.is_over:
            value = scaled_bound(rule, found.value)
            return self._valued(sample, value, events=events, is_over=True)
        return self._valued(sample, found.value * rule.scale, events=events)

    def _faulty(self, sample: Sample, fault: str) -> Point:
        return self._point(sample, "no_data", reason=f"{self._asked} has no value: {fault}")

    def _restarted(self, sample: Sample, reading: Reading, *, why: str) -> Point:
        """The engine counts anew, from zero, as Prometheus' increase has it: what it counted
        before this sample is in the points that follow."""
        self.window = deque([Reading(sample.mono, {}), reading])
        self.events += reading.total
        self.unjudged = reading.total
        return self._point(sample, "no_data", reason=f"{why}: engine restarted")

    def _valued(
        self, sample: Sample, value: float, *, events: float | None, is_over: bool = False
    ) -> Point:
        if not math.isfinite(value):
            return self._point(sample, "no_data", reason=f"{self._asked} is not finite")
        value += 0.0  # no minus zero
        status = status_of(self.rule, value, is_over=is_over)
        return self._point(sample, status, value=value, events=events, is_over=is_over)

    def _point(
        self,
        sample: Sample,
        status: str,
        *,
        value: float | None = None,
        events: float | None = None,
        reason: str = "",
        is_over: bool = False,
    ) -> Point:
        warming = sample.mono - self.started < self.rule.warm_up_seconds
        if warming and status in _MEASURED:
            status = "warm_up"
        return Point(sample.wall, sample.mono, value, events, status, reason, is_over)


def _added(values: tuple[float, ...], places: tuple[int, ...]) -> float:
    """Their sum from left to right; ``sum`` adds floats otherwise from Python 3.12 on."""
    total = 0.0
    for place in places:
        total += values[place]
    return total
