"""From raw samples to points: quantiles of bucket deltas, counter deltas, states. Pure.

A quantile comes from the events of the last ``window_seconds`` alone, never from the lifetime
histogram; it is interpolated within its bucket as Prometheus' histogram_quantile does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from ctp_runbook.config import MetricRule
from ctp_runbook.samples import Sample, split_series

__all__ = [
    "STATUSES",
    "Grouping",
    "MetricSeries",
    "Point",
    "Reading",
    "asked_of",
    "badness",
    "bucket_quantile",
    "counts_events",
    "is_page",
]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up")
STATUSES = (*_MEASURED, "no_data", "error")
# Bucket bounds (or a number for each other series), each with the places of its series in a page.
Grouping = tuple[tuple[float, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One metric at one moment. ``status`` is one of good, breach, few_events, zero_events,
    warm_up (all measured), no_data, error (could not measure)."""

    wall: float
    mono: float
    value: float | None
    events: float | None
    status: str
    reason: str = ""

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
    return rule.source in ("engine", "replay")


def bucket_quantile(buckets: Mapping[float, float], *, quantile: float) -> float:
    """The quantile of cumulative bucket counts ``{upper bound: count}``; NaN for no events.

    In the open last bucket the highest finite bound is returned: the value is at least that.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return math.nan
    rank = quantile * total
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower


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
        self._grouping: Grouping = ()

    def add(self, sample: Sample) -> Point:
        """The point this sample makes."""
        if not sample.ok:
            return self._point(sample, "error", reason=sample.error)
        counts = self._counts(sample)
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
        histogram = self.rule.kind == "latency_quantile"
        return f"{self.rule.query}_bucket" if histogram else self.rule.query

    def grouping(self, layout: tuple[str, ...]) -> Grouping:
        """Which series of a page with these keys are this metric's: by bucket bound for a
        histogram, one group for a counter, else each on its own; none when there are none."""
        if layout != self._layout:
            self._layout, self._grouping = layout, self._group(layout)
        return self._grouping

    def _group(self, layout: tuple[str, ...]) -> Grouping:
        rule, found = self.rule, dict[float, list[int]]()
        name = self._family
        # In the order of their keys, as a samples file has them: floats add up differently in
        # another order, and the replay must say what the live judge said.
        for place in sorted(range(len(layout)), key=layout.__getitem__):
            family, labels = split_series(layout[place])
            if family != name or any(labels.get(k) != v for k, v in rule.labels.items()):
                continue
            bound = 0.0 if rule.kind == "counter" else float(place)
            if is_page(rule) and rule.kind == "latency_quantile":
                bound = _bound(labels.get("le", ""))
            if not math.isnan(bound):
                found.setdefault(bound, []).append(place)
        return tuple((bound, tuple(places)) for bound, places in found.items())

    def _counts(self, sample: Sample) -> dict[float, float]:
        values = tuple(sample.series.values())
        return {
            bound: _added(values, places) for bound, places in self.grouping(tuple(sample.series))
        }

    def _counted(self, sample: Sample, reading: Reading) -> Point:
        rule, window = self.rule, self.window
        if window and reading.went_back(window[-1]):
            return self._restarted(sample, reading)
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
        if events < max(1, rule.min_events):
            status = "few_events" if events else "zero_events"
            return self._point(sample, status, events=events)
        value = bucket_quantile(delta, quantile=rule.quantile) * rule.scale
        return self._valued(sample, value, events=events)

    def _restarted(self, sample: Sample, reading: Reading) -> Point:
        """The engine counts anew, from zero, as Prometheus' increase has it: what it counted
        before this sample is in the points that follow."""
        self.window = deque([Reading(sample.mono, {}), reading])
        self.events += reading.total
        self.unjudged = reading.total
        return self._point(sample, "no_data", reason="counter went back: engine restarted")

    def _valued(self, sample: Sample, value: float, *, events: float | None) -> Point:
        if not math.isfinite(value):
            return self._point(sample, "no_data", reason=f"{self._asked} is not finite")
        value += 0.0  # no minus zero
        status = "breach" if badness(self.rule, value) > 0 else "good"
        return self._point(sample, status, value=value, events=events)

    def _point(
        self,
        sample: Sample,
        status: str,
        *,
        value: float | None = None,
        events: float | None = None,
        reason: str = "",
    ) -> Point:
        warming = sample.mono - self.started < self.rule.warm_up_seconds
        if warming and status in _MEASURED:
            status = "warm_up"
        return Point(sample.wall, sample.mono, value, events, status, reason)


def _bound(text: str) -> float:
    """The bound of a bucket; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _added(values: tuple[float, ...], places: tuple[int, ...]) -> float:
    """Their sum from left to right; ``sum`` adds floats otherwise from Python 3.12 on."""
    total = 0.0
    for place in places:
        total += values[place]
    return total
