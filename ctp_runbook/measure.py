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

__all__ = ["MetricSeries", "Point", "badness", "bucket_quantile", "counts_events", "is_page"]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up")


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
class _Reading:
    """The cumulative part of a sample: bucket counts, or a counter under the key 0."""

    mono: float
    counts: Mapping[float, float]

    @property
    def total(self) -> float:
        return self.counts[max(self.counts)]

    def went_back(self, before: _Reading) -> bool:
        """True when any count is below what it was: a process counts up only."""
        return any(self.counts[key] < n for key, n in before.counts.items() if key in self.counts)


class MetricSeries:
    """One metric's points, computed as samples come in.

    ``events`` counts them since the start; ``unjudged`` are those of a restarted engine that no
    point has been made of yet.
    """

    def __init__(self, rule: MetricRule, *, started_mono: float) -> None:
        self._rule = rule
        self._started = started_mono
        self._window: deque[_Reading] = deque()
        self.events = 0.0
        self.unjudged = 0.0

    def add(self, sample: Sample) -> Point:
        """The point this sample makes."""
        if not sample.ok:
            return self._point(sample, "error", reason=sample.error)
        counts = self._counts(sample)
        if not counts:
            return self._point(sample, "no_data", reason=f"{self._asked} is not in the sample")
        if not all(map(math.isfinite, counts.values())):
            return self._point(sample, "no_data", reason=f"{self._asked} is not finite")
        if not counts_events(self._rule):
            furthest = max if self._rule.direction == "max" else min
            return self._valued(sample, furthest(counts.values()) * self._rule.scale, events=None)
        return self._counted(sample, _Reading(sample.mono, counts))

    @property
    def _asked(self) -> str:
        return self._rule.query if is_page(self._rule) else self._rule.name

    @property
    def _family(self) -> str:
        """The engine's own name for it; what is asked of other sources is kept by metric name."""
        if not is_page(self._rule):
            return self._rule.name
        histogram = self._rule.kind == "latency_quantile"
        return f"{self._rule.query}_bucket" if histogram else self._rule.query

    def _counts(self, sample: Sample) -> dict[float, float]:
        """Series of this metric: by bucket bound for a histogram, else numbered."""
        rule, found = self._rule, dict[float, float]()
        name = self._family
        for number, (key, value) in enumerate(sample.series.items()):
            family, labels = split_series(key)
            if family != name or any(labels.get(k) != v for k, v in rule.labels.items()):
                continue
            if rule.kind == "latency_quantile":
                bound = float(labels.get("le", "nan"))
                found[bound] = found.get(bound, 0.0) + value
            elif rule.kind == "counter":
                found[0.0] = found.get(0.0, 0.0) + value
            else:
                found[float(number)] = value
        return found

    def _counted(self, sample: Sample, reading: _Reading) -> Point:
        rule, window = self._rule, self._window
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

    def _restarted(self, sample: Sample, reading: _Reading) -> Point:
        """The engine counts anew, from zero, as Prometheus' increase has it: what it counted
        before this sample is in the points that follow."""
        self._window = deque([_Reading(sample.mono, {}), reading])
        self.events += reading.total
        self.unjudged = reading.total
        return self._point(sample, "no_data", reason="counter went back: engine restarted")

    def _valued(self, sample: Sample, value: float, *, events: float | None) -> Point:
        status = "breach" if badness(self._rule, value) > 0 else "good"
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
        warming = sample.mono - self._started < self._rule.warm_up_seconds
        if warming and status in _MEASURED:
            status = "warm_up"
        return Point(sample.wall, sample.mono, value, events, status, reason)
