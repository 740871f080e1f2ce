"""From raw samples to points: quantiles of bucket deltas, counter deltas, states. Pure.

A quantile comes from the events of the last ``window_seconds`` alone, never from the lifetime
histogram. One above the widest finite bound is more than that bound, and no more is known of it:
beyond a limit that is no higher it is a breach, else it proves nothing. Series are counted one by
one: in a sum, what one of them counts hides that another began anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from ctp_runbook.model import lag_fault
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.samples import Sample, series_key, split_series
from ctp_runbook.watch.histogram import (
    Buckets,
    SeriesKey,
    bucket_keys,
    first_fault,
    group_buckets,
    label_sets,
    merged,
    scaled_bound,
    summed,
    worst_quantile,
)
from ctp_runbook.watch.share_tests import ShareTests, Tested

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
    "events_key",
    "increase",
    "is_page",
    "more_than",
    "pages_of",
    "status_of",
    "tested_status",
]

_MEASURED = ("good", "breach", "few_events", "zero_events", "warm_up", "open_bucket")
STATUSES = (*_MEASURED, "no_data", "error")
_Values = TypeVar("_Values", float, "NDArray[np.float64]")


class Point(Struct, frozen=True):
    """One metric at one moment. ``status`` is one of good, breach, few_events, zero_events,
    warm_up, open_bucket (all measured), no_data, error (could not measure).

    Where ``is_over`` the truth is more than ``value``, the widest finite bound of the histogram;
    where the limit is higher still, nothing is known of it: open_bucket. ``labels`` are those of the
    series that is worst, blank where it is all of them together. ``tested`` has what began or ceased
    to be proved by it.
    """

    wall: float
    mono: float
    value: float | None
    events: float | None
    status: str
    reason: str = ""
    is_over: bool = False
    labels: str = ""
    tested: tuple[Tested, ...] = ()

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


def events_key(rule: MetricRule) -> str:
    """Return by what series a source that is no page says of how many events its value is made."""
    return series_key(f"{rule.name}_events", rule.labels)


def asked_of(rule: MetricRule) -> str:
    """Return the rule's query on one line, and who is asked."""
    named = (rule.read.get(key) for key in ("path", "journal_unit", "journal_user_unit"))
    where = rule.url or next(filter(None, named), "")
    whom = f"{rule.source} {where}" if where else rule.source
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


def tested_status(status: str, *, is_proved: bool) -> str:
    """Return what a look says of a limit that a proof is needed to be beyond of: a window of few events
    may be beyond it by chance, and one that is within it ends what was proved before."""
    if status == "breach" and not is_proved:
        return "good"
    return "breach" if is_proved and status in ("few_events", "zero_events") else status


class Reading(Struct, frozen=True):
    """The cumulative part of a sample, series by series; a counter's have the bound +Inf."""

    mono: float
    counts: Mapping[SeriesKey, float]

    @property
    def total(self) -> float:
        """All events."""
        return increase({}, self.counts)

    def carrying(self, before: Reading) -> Reading:
        """Return this reading with the series that were there ``before`` and are gone, as they
        stood: one that vanishes has counted nothing and begins nothing anew.

        None whose buckets are not those of the others now: they could not be added up.
        """
        if before.counts.keys() <= self.counts.keys():
            return self
        if not self.counts:
            return Reading(self.mono, before.counts)
        bounds = set(next(iter(label_sets(self.counts).values())))
        gone = {
            (labels, bound): count
            for labels, buckets in label_sets(before.counts).items()
            if set(buckets) == bounds
            for bound, count in buckets.items()
        }
        return Reading(self.mono, dict(sorted({**gone, **self.counts}.items())))

    def began_anew(self, before: Reading) -> dict[str, str]:
        """Return the label sets that do not go on from ``before``, each with what tells it: a
        process counts up only, in each series, and keeps its buckets."""
        then, anew = label_sets(before.counts), dict[str, str]()
        for labels, buckets in label_sets(self.counts).items():
            known = then.get(labels, {})
            if known and known.keys() != buckets.keys():
                anew[labels] = "it has other buckets than before"
            elif any(buckets[bound] < count for bound, count in known.items()):
                anew[labels] = "counter went back"
        return anew


def increase(before: Mapping[SeriesKey, float], now: Mapping[SeriesKey, float]) -> float:
    """Return how many events were counted from one to the other; what is new counts from zero."""
    total = 0.0  # from left to right: ``sum`` adds floats otherwise from Python 3.12 on
    for key, count in now.items():
        if math.isinf(key[1]):
            total += count - before.get(key, 0.0)
    return total


class _Outages:
    """When a 0/1 gauge stood at 0, as it is seen: from the first look at 0 to the first at 1 again."""

    def __init__(self) -> None:
        self._over: deque[tuple[float, float]] = deque()  # each with its end
        self._since: float | None = None

    def note(self, mono: float, *, is_up: bool) -> None:
        """Take what is seen at a moment."""
        if not is_up:
            self._since = mono if self._since is None else self._since
        elif self._since is not None:
            self._over.append((self._since, mono))
            self._since = None

    def longest(self, mono: float, *, window_seconds: float) -> tuple[float | None, int]:
        """Return how long the longest lasts or lasted of those that reach into the window, and how
        many they are; None for none."""
        while self._over and self._over[0][1] < mono - window_seconds:
            self._over.popleft()
        lengths = [end - begin for begin, end in self._over]
        lengths += [] if self._since is None else [mono - self._since]
        return max(lengths, default=None), len(lengths)


class _Look(Struct, frozen=True):
    """What a sample says of the metric: a value, too few events for one, or why neither."""

    value: float | None = None
    events: float | None = None
    is_over: bool = False
    reason: str = ""
    labels: str = ""


class MetricSeries:
    """One metric's points, computed as samples come in.

    ``events`` counts them since the start (where they are told for a window, the most of one), where
    ``has_events``, and ``moved`` is when the last was seen; ``unjudged`` are those of a restarted engine that no
    point has been made of yet; ``window`` has the readings of the last ``window_seconds``.
    ``sparse`` counts, by bucket, the events that left the window without a quantile made of them,
    for there were too few; ``settled`` is the reading up to which they are in one or the other.
    ``tests`` are shown each look's increase, past the warm-up.
    """

    def __init__(
        self, rule: MetricRule, *, started_mono: float, tests: ShareTests | None = None
    ) -> None:
        self.rule, self.tests = rule, tests
        self.started = started_mono
        self.window: deque[Reading] = deque()
        self.events = 0.0
        self.has_events = counts_events(rule) or rule.kind == "outage"
        self.moved: float | None = None
        self.unjudged = 0.0
        self.sparse: dict[float, float] = {}
        self.settled: Reading | None = None
        self.is_histogram = is_page(rule) and rule.kind == "latency_quantile"
        # An engine has its own name for it; what is asked of others is kept by the metric's name.
        self._asked = rule.query if is_page(rule) else rule.name
        families = rule.families if is_page(rule) else (rule.name,)
        self._families = (f"{rule.query}_bucket",) if self.is_histogram else families
        self._outages = _Outages()
        self._layout: tuple[str, ...] = ()
        self._buckets = Buckets()
        self._keys: list[tuple[SeriesKey, int]] = []

    def add(self, sample: Sample) -> Point:
        """Take a sample in, and return the point it makes."""
        if self.tests:
            self.tests.turned = ()
        look = self._look(sample) if sample.ok else _Look(reason=sample.error)
        status = self._status(look) if sample.ok else "error"
        if status in _MEASURED and self.is_warming_up(sample.mono):
            status = "warm_up"
        return Point(
            wall=sample.wall,
            mono=sample.mono,
            value=look.value,
            events=look.events,
            status=status,
            reason=look.reason,
            is_over=look.is_over,
            labels=look.labels,
            tested=self.tests.turned if self.tests else (),
        )

    def is_warming_up(self, mono: float) -> bool:
        """True where what is measured is not judged yet."""
        return mono - self.started < self.rule.warm_up_seconds

    def buckets(self, layout: tuple[str, ...]) -> Buckets:
        """Return which series of a page with these keys are this metric's: by bucket bound for a
        histogram, one group for a counter, else each on its own."""
        if layout != self._layout:
            series = self._series(layout)
            self._layout, self._buckets = layout, self._grouped(series)
            self._keys = self._keyed(series)
        return self._buckets

    def keys(self, layout: tuple[str, ...]) -> list[tuple[SeriesKey, int]]:
        """Return the series of a page with these keys that count, in order, each with its place;
        none where ``buckets`` has a fault, or for a state."""
        self.buckets(layout)
        return self._keys

    def places(self, layout: tuple[str, ...]) -> list[int]:
        """Return where in a page with these keys is what ``add`` looks at: this metric's series, the
        number of its events, and where it is not there anything else that proves a page."""
        places = [place for place, _ in self._series(layout)]
        if not is_page(self.rule):
            places += [at for at, key in enumerate(layout) if key == events_key(self.rule)]
        elif not places and self.rule.absent == "zero":
            places = [*range(len(layout))][:1]
        return places

    def _series(self, layout: tuple[str, ...]) -> list[tuple[int, Mapping[str, str]]]:
        # In the order of their keys, as a samples file has them: floats add up differently in
        # another order, and the replay must say what the live judge said.
        places = sorted(range(len(layout)), key=layout.__getitem__)
        keys = ((place, *split_series(layout[place])) for place in places)
        wanted = self.rule.labels.items()
        # Of several families each counts its own: their labels may be the same.
        own = "__name__" if len(self._families) > 1 else ""
        return [
            (place, {own: family, **labels} if own else labels)
            for place, family, labels in keys
            if family in self._families and wanted <= labels.items()
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

    def _keyed(self, series: list[tuple[int, Mapping[str, str]]]) -> list[tuple[SeriesKey, int]]:
        if self._buckets.fault or not counts_events(self.rule):
            return []
        if self.is_histogram:
            return bucket_keys(series)
        return sorted(((series_key("", labels), math.inf), place) for place, labels in series)

    def _status(self, look: _Look) -> str:
        if look.reason:
            return "no_data"
        status = "few_events" if look.events else "zero_events"
        if look.value is not None:
            status = status_of(self.rule, look.value, is_over=look.is_over)
        if self.tests and self.rule.is_sequential:
            return tested_status(status, is_proved=self.tests.stands)
        return status

    def _look(self, sample: Sample) -> _Look:
        layout = tuple(sample.series)
        buckets, values = self.buckets(layout), tuple(sample.series.values())
        if buckets.fault:
            return self._faulty(buckets.fault)
        if (events := self._told_events(sample)) is not None:
            value = values[buckets.groups[0][1][0]] if buckets.groups else None
            return self._made_of(sample.mono, events, value)
        if not buckets.groups:
            # A page without anything that is asked for says nothing, not even what is not there.
            if self.rule.absent == "zero" and layout and counts_events(self.rule):
                return self._counted(Reading(sample.mono, {}))
            self._note_absence(sample.mono)
            return _Look(reason=f"{self._asked} is not in the sample")
        if self.rule.kind == "outage":
            return self._outage(sample.mono, [values[place] for _, (place,) in buckets.groups])
        if not counts_events(self.rule):
            return self._furthest([_added(values, places) for _, places in buckets.groups])
        counts = {key: values[place] for key, place in self.keys(layout)}
        if not all(map(math.isfinite, counts.values())):
            return self._valued(math.nan)
        return self._counted(Reading(sample.mono, counts))

    def _told_events(self, sample: Sample) -> float | None:
        """Of how many events another source says its value is made; None where it does not say."""
        return None if is_page(self.rule) else sample.series.get(events_key(self.rule))

    def _made_of(self, mono: float, events: float, value: float | None) -> _Look:
        self.has_events, self.events = True, max(self.events, events)
        self.moved = mono if events else self.moved
        if self.rule.kind == "latency_quantile" and events < max(1, self.rule.min_events):
            return _Look(events=events)
        if value is None and not events:
            return _Look(events=0.0)
        if value is None:
            return self._faulty(f"of {events:g} events none has one")
        return self._valued(value * self.rule.scale, events)

    def _outage(self, mono: float, gauges: list[float]) -> _Look:
        """Judge how long the gauge, or one of several, stood at 0."""
        if strange := [value for value in gauges if value not in (0.0, 1.0)]:
            return self._faulty(f"{strange[0]:g} is neither 0 nor 1")
        self._outages.note(mono, is_up=all(gauges))
        longest, many = self._outages.longest(mono, window_seconds=self.rule.window_seconds)
        if longest is None:
            return _Look(events=0.0)
        self.events = max(self.events, float(many))
        return self._valued(longest * self.rule.scale, float(many))

    def _note_absence(self, mono: float) -> None:
        # A library shows a family at its first event: what it counts then is since it was not there.
        if counts_events(self.rule) and not (self.window and self.window[-1].counts):
            self.window = deque([Reading(mono, {})])
            self.settled = self.window[0]

    def _furthest(self, values: list[float]) -> _Look:
        """Judge each series on its own: one that is no number excuses none that is beyond."""
        rule = self.rule
        furthest = max if rule.direction == "max" else min
        known = [value for value in values if math.isfinite(value)]
        if not known:
            return self._valued(math.nan)
        value, is_lag = furthest(known) * rule.scale, rule.kind == "lag"
        if badness(rule, value) > 0 and not (is_lag and value < 0):
            return self._valued(value)
        if len(known) < len(values):
            return self._valued(math.nan)
        if is_lag and (fault := lag_fault(min(known) * rule.scale, rule.unit)):
            return self._faulty(fault)
        return self._valued(max(0.0, value) if is_lag else value)

    def _counted(self, now: Reading) -> _Look:
        rule, window = self.rule, self.window
        if fault := self._fault_of(now.counts):
            return self._faulty(fault)
        if window and (anew := now.began_anew(window[-1])):
            return self._restarted(now, anew)
        self.unjudged = 0.0
        if window:
            now = now.carrying(window[-1])
            self._count(window[-1].counts, now)
        window.append(now)
        # The last reading that is as old as the window is long stays: deltas begin there.
        while len(window) > 1 and window[1].mono <= now.mono - rule.window_seconds:
            window.popleft()
        delta = {k: v - window[0].counts.get(k, 0.0) for k, v in now.counts.items()}
        events = increase(window[0].counts, now.counts)
        if rule.kind == "counter":
            return self._valued(events * rule.scale, events)
        look = self._quantile(delta, events)
        self._settle(now, is_judged=look.value is not None)
        return look

    def _count(self, before: Mapping[SeriesKey, float], now: Reading) -> float:
        events = increase(before, now.counts)
        self.events += events
        self.moved = now.mono if events else self.moved
        if self.tests and not self.is_warming_up(now.mono):
            self.tests.note(now.mono, before, now.counts)
        return events

    def _fault_of(self, counts: Mapping[SeriesKey, float]) -> str:
        return first_fault(counts) if self.is_histogram else ""

    def _quantile(self, delta: Mapping[SeriesKey, float], events: float) -> _Look:
        rule = self.rule
        if fault := self._fault_of(delta):
            return self._faulty(f"within {rule.window_seconds:g} s {fault}")
        if events < max(1, rule.min_events):
            return _Look(events=events)
        quantile = worst_quantile(
            delta, quantile=rule.quantile, min_events=rule.min_events, direction=rule.direction
        )
        if quantile is None:
            return self._faulty("its buckets have no quantile")
        value = quantile.value * rule.scale
        if quantile.is_over:
            value = scaled_bound(rule, quantile.value)
        return self._valued(value, events, is_over=quantile.is_over, labels=quantile.labels)

    def _settle(self, now: Reading, *, is_judged: bool) -> None:
        """Note which events a quantile was made of; nobody asks for those of the warm-up."""
        begins = self.window[0]
        if self.settled is not None and self.settled.mono < begins.mono:
            self.leave(self.settled, begins)
        if self.settled is None or self.settled.mono < begins.mono:
            self.settled = begins
        if is_judged or now.mono - self.started < self.rule.warm_up_seconds:
            self.settled = now

    def leave(self, since: Reading, until: Reading) -> None:
        """Note what was counted from one to the other as events that no quantile was made of."""
        delta = _delta(since, until)
        if any(delta.values()):
            self.sparse = merged([self.sparse, delta])

    def unsettled(self) -> dict[float, float]:
        """Return, by bucket, the events that no quantile was made of: those that left the window,
        and those that are in it."""
        if self.settled is None or not self.window:
            return self.sparse
        return merged([self.sparse, _delta(self.settled, self.window[-1])])

    def _restarted(self, now: Reading, anew: Mapping[str, str]) -> _Look:
        # The engine counts anew, from zero, as Prometheus' increase has it: what it counted
        # before this sample is in the points that follow. A series that is gone begins anew too.
        last = self.window[-1]
        if self.settled is not None:
            self.leave(self.settled, last)
        going_on = {k: v for k, v in last.counts.items() if k in now.counts and k[0] not in anew}
        self.window = deque([Reading(now.mono, going_on), now])
        self.settled = self.window[0] if self.is_histogram else None
        self.unjudged = self._count(going_on, now)
        named = " and ".join(sorted(filter(None, anew)))
        why = next(iter(anew.values())) + (f" in {named}" if named else "")
        return _Look(reason=f"{why}: engine restarted")

    def _faulty(self, fault: str) -> _Look:
        return _Look(reason=f"{self._asked} has no value: {fault}")

    def _valued(
        self,
        value: float,
        events: float | None = None,
        *,
        is_over: bool = False,
        labels: str = "",
    ) -> _Look:
        if not math.isfinite(value):
            return _Look(reason=f"{self._asked} is not finite")
        return _Look(value + 0.0, events, is_over, labels=labels)  # no minus zero


def _delta(since: Reading, until: Reading) -> dict[float, float]:
    return summed({key: count - since.counts.get(key, 0.0) for key, count in until.counts.items()})


def _added(values: tuple[float, ...], places: tuple[int, ...]) -> float:
    """Return their sum from left to right; ``sum`` adds floats otherwise from Python 3.12 on."""
    total = 0.0
    for place in places:
        total += values[place]
    return total
