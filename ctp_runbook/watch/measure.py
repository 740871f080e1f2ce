"""From raw samples to points: quantiles of bucket deltas, counter deltas, states. Pure.

A quantile comes from the events of the last ``window_seconds`` alone, never from the lifetime
histogram. One above the widest finite bound is more than that bound, and no more is known of it:
beyond a limit that is no higher it is a breach, else it proves nothing. Series are counted one by
one: in a sum, what one of them counts hides that another began anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from itertools import repeat, zip_longest
from math import isfinite
from operator import add, le, lt, sub

from msgspec import Struct

from ctp_runbook.model import lag_fault
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import PAGES
from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.record.samples import Sample, series_key, split_series
from ctp_runbook.watch.histogram import (
    SeriesKey,
    added,
    bucket_quantile,
    bucket_series,
    first_fault,
    label_sets,
    scaled_bound,
    worst_quantile,
)
from ctp_runbook.watch.points import CODES, Looks, Point, PointLog
from ctp_runbook.watch.share_tests import ShareTests

__all__ = [
    "MetricSeries",
    "asked_of",
    "badness",
    "concerns",
    "counts_events",
    "events_key",
    "is_page",
    "more_than",
    "pages_of",
    "status_of",
]

_GOOD, _BREACH = CODES["good"], CODES["breach"]
_THIN = CODES["few_events"], CODES["zero_events"]


def badness(rule: MetricRule, value: float) -> float:
    """Return how far ``value`` is beyond the rule's limit, in the metric's unit; negative within it."""
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


class _Own(Struct, frozen=True):
    """Which series of a page are a metric's: their ``places``; the ``keys`` and ``bounds`` of those that
    count, label set by label set; why they have no value; where it is told how many events it is of."""

    places: tuple[int, ...] = ()
    keys: tuple[SeriesKey, ...] = ()
    bounds: tuple[float, ...] = ()
    fault: str = ""
    events: int | None = None


_Row = tuple[float, ...]
_Reading = tuple[float, _Row]  # a moment, and what was counted by then, series by series


class MetricSeries:
    """One metric's points, made of blocks of samples: the same ones however these are cut.

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
        self.window: deque[_Reading] = deque()
        self.events = 0.0
        self.has_events = counts_events(rule) or rule.kind == "outage"
        self.moved: float | None = None
        self.unjudged = 0.0
        self.sparse: dict[float, float] = {}
        self.settled: _Reading | None = None
        self.is_histogram = is_page(rule) and rule.kind == "latency_quantile"
        # An engine has its own name for it; what is asked of others is kept by the metric's name.
        self._asked = rule.query if is_page(rule) else rule.name
        families = rule.families if is_page(rule) else (rule.name,)
        self._families = (f"{rule.query}_bucket",) if self.is_histogram else families
        self._least_events = max(1, rule.min_events)
        self._outages = _Outages()
        self._layout: tuple[str, ...] = ()
        self._own = _Own()
        # The series of the readings in the window; those of the last page, and where its rows go.
        self._keys: tuple[SeriesKey, ...] = ()
        self._bounds: tuple[float, ...] = ()
        self._sets: tuple[tuple[str, slice], ...] = ()
        self._page: tuple[SeriesKey, ...] | None = None
        self._spread: list[int | None] | None = None

    def add(self, sample: Sample) -> Point:
        """Take a sample in, and return the point it makes."""
        log = PointLog()
        self.take(Block.begin(sample), log)
        return log.points[0]

    def take(self, block: Block, log: PointLog) -> None:
        """Take a block in, and append the points it makes to ``log``."""
        looks = Looks()
        if block.ok:
            self._look(block, looks)
        else:
            looks.miss(block.error, many=len(block.seq))
        log.extend(block, looks, self._statuses(block, looks))

    def bounds(self, layout: tuple[str, ...]) -> tuple[float, ...]:
        """Return where the buckets end of what counts on a page with these keys; none for a fault."""
        return self._own_of(layout).bounds

    def unsettled(self) -> dict[float, float]:
        """Return, by bucket, the events that no quantile was made of: those that left the window,
        and those that are in it."""
        if self.settled is None or not self.window:
            return self.sparse
        return self._with_increase(self.settled, self.window[-1])

    # --- which series -------------------------------------------------------------

    def _own_of(self, layout: tuple[str, ...]) -> _Own:
        if layout != self._layout:
            self._layout, self._own = layout, self._find(layout)
        return self._own

    def _find(self, layout: tuple[str, ...]) -> _Own:
        # In the order of their keys, as a samples file has them: floats add up differently in
        # another order, and the replay must say what the live judge said.
        split = [(at, *split_series(layout[at])) for at in _order(layout)]
        wanted = self.rule.labels.items()
        # Of several families each counts its own: their labels may be the same.
        own = "__name__" if len(self._families) > 1 else ""
        series = [
            (place, {own: family, **labels} if own else labels)
            for place, family, labels in split
            if family in self._families and wanted <= labels.items()
        ]
        if not is_page(self.rule):
            key = events_key(self.rule)
            at = layout.index(key) if key in layout else None
            return _Own(tuple(place for place, _ in series), events=at)
        if self.is_histogram and series:
            buckets = bucket_series(series)
            keys, fault = dict(buckets.keys), buckets.fault
        elif counts_events(self.rule):
            keys, fault = {(series_key("", own), math.inf): place for place, own in series}, ""
        else:
            return _Own(tuple(place for place, _ in series))
        keys = dict(sorted(keys.items()))
        bounds = tuple(dict.fromkeys(bound for _, bound in keys))
        return _Own(tuple(keys.values()), tuple(keys), bounds, fault)

    # --- what a block says --------------------------------------------------------

    def is_warming_up(self, mono: float) -> bool:
        """True where what is measured is not judged yet."""
        return mono - self.started < self.rule.warm_up_seconds

    def _statuses(self, block: Block, looks: Looks) -> Sequence[int]:
        rule, limit = self.rule, self.rule.limit
        if not block.ok:
            return [CODES["error"]] * len(block.seq)
        if rule.direction == "max":
            codes = [_BREACH if value > limit else _GOOD for value in looks.value]
        else:
            codes = [_BREACH if value < limit else _GOOD for value in looks.value]
        for at in looks.over:
            codes[at] = CODES[status_of(rule, looks.value[at], is_over=True)]
        for at in [at for at, value in enumerate(looks.value) if value != value]:
            codes[at] = CODES["few_events" if looks.events[at] else "zero_events"]
        if self.tests and rule.is_sequential:
            proved = looks.proved or repeat(self.tests.stands, len(codes))
            codes = [*map(_tested, codes, proved)]
        for at in looks.reasons:
            codes[at] = CODES["no_data"]
        if rule.warm_up_seconds and self.is_warming_up(min(block.mono)):
            for at, mono in enumerate(block.mono):
                if at not in looks.reasons and self.is_warming_up(mono):
                    codes[at] = CODES["warm_up"]
        return codes

    def _look(self, block: Block, looks: Looks) -> None:
        own, rule, many = self._own_of(block.layout), self.rule, len(block.seq)
        # A page without anything that is asked for says nothing, not even what is not there.
        is_zero = not own.places and rule.absent == "zero" and bool(block.layout)
        if own.fault:
            looks.miss(self._no_value(own.fault), many=many)
        elif own.events is not None:
            rows = block.rows((own.events, *own.places))
            for mono, (events, *values) in zip(block.mono, rows, strict=True):
                self._look_at_told(looks, mono, events, values)
        elif counts_events(rule) and (own.places or is_zero):
            self._look_at_counts(block.mono, [*block.rows(own.places)], own, looks)
        elif not own.places:
            self._note_absence(block.mono[-1])
            looks.miss(f"{self._asked} is not in the sample", many=many)
        elif rule.kind == "outage":
            for mono, gauges in zip(block.mono, block.rows(own.places), strict=True):
                self._look_at_outage(looks, mono, gauges)
        else:
            self._look_at_values(block, own.places, looks)

    def _no_value(self, fault: str) -> str:
        return f"{self._asked} has no value: {fault}"

    def _add(self, looks: Looks, value: float, events: float = math.nan) -> None:
        if math.isfinite(value):
            looks.add(value, events)
        else:
            looks.miss(f"{self._asked} is not finite")

    def _add_all(self, looks: Looks, values: Sequence[float], events: Sequence[float] = ()) -> None:
        if isfinite(sum(values)):
            looks.add_all(values, events)
        else:
            for value, many in zip_longest(values, events, fillvalue=math.nan):
                self._add(looks, value, many)

    def _look_at_told(
        self, looks: Looks, mono: float, events: float, values: Sequence[float]
    ) -> None:
        """Judge a value that comes with the number of events it is made of."""
        self.has_events, self.events = True, max(self.events, events)
        self.moved = mono if events else self.moved
        is_few = self.rule.kind == "latency_quantile" and events < self._least_events
        if is_few or not (values or events):
            looks.add(math.nan, events)
        elif not values:
            looks.miss(self._no_value(f"of {events:g} events none has one"))
        else:
            self._add(looks, values[0] * self.rule.scale, events)

    def _look_at_outage(self, looks: Looks, mono: float, gauges: Sequence[float]) -> None:
        """Judge how long the gauge, or one of several, stood at 0."""
        if strange := [value for value in gauges if value not in (0.0, 1.0)]:
            looks.miss(self._no_value(f"{strange[0]:g} is neither 0 nor 1"))
            return
        self._outages.note(mono, is_up=all(gauges))
        longest, many = self._outages.longest(mono, window_seconds=self.rule.window_seconds)
        if longest is None:
            looks.add(math.nan, 0.0)
            return
        self.events = max(self.events, float(many))
        self._add(looks, longest * self.rule.scale, float(many))

    def _look_at_values(self, block: Block, places: Sequence[int], looks: Looks) -> None:
        """Judge each series on its own: one that is no number excuses none that is beyond."""
        rule = self.rule
        columns: list[Sequence[float]] = [block.column(place) for place in places]
        if rule.kind == "counter":
            # Not by ``sum``, which adds floats otherwise from Python 3.12 on.
            columns = [[reduce(add, row, 0.0) for row in zip(*columns, strict=True)]]
        furthest, is_lag = max if rule.direction == "max" else min, rule.kind == "lag"
        if all(isfinite(sum(own)) and not (is_lag and min(own) < 0) for own in columns):
            values = columns[0] if len(columns) == 1 else map(furthest, *columns)
            self._add_all(looks, [value * rule.scale for value in values])
            return
        for row in zip(*columns, strict=True):
            known = [*filter(isfinite, row)]
            value = (furthest(known) if known else math.nan) * rule.scale
            if badness(rule, value) > 0 and not (is_lag and value < 0):
                self._add(looks, value)
            elif len(known) < len(row):
                self._add(looks, math.nan)
            elif is_lag and (fault := lag_fault(min(known) * rule.scale, rule.unit)):
                looks.miss(self._no_value(fault))
            else:
                self._add(looks, max(0.0, value) if is_lag else value)

    # --- what counts --------------------------------------------------------------

    def _note_absence(self, mono: float) -> None:
        # A library shows a family at its first event: what it counts then is since it was not there.
        if counts_events(self.rule) and not self._keys:
            self.window = deque([(mono, ())])
            self._page = None
            self.settled = self.window[0] if self.is_histogram else None

    def _look_at_counts(
        self, monos: Sequence[float], rows: Sequence[_Row], own: _Own, looks: Looks
    ) -> None:
        """Judge what was counted within the window. Rows that go on from each other are looked at
        together, others half by half: what one alone says is asked of single rows only."""
        many = len(rows)
        if many > 1 and not self._is_steady(rows, own):
            for half in (slice(many // 2), slice(many // 2, None)):
                self._look_at_counts(monos[half], rows[half], own, looks)
            return
        if many == 1 and (flaw := self._flaw_of(rows[0], own)):
            looks.miss(flaw)
            self._note_tests(looks)
            return
        first, anew = self._aligned(rows[0], own)
        if anew:
            self._restart(monos[0], rows[0], own, anew, looks)
            if many > 1:
                self._look_at_counts(monos[1:], rows[1:], own, looks)
            return
        if self._spread is not None:
            rows = [self._spread_out(row, first) for row in rows]
        self._look_within(monos, rows, looks)

    def _is_steady(self, rows: Sequence[_Row], own: _Own) -> bool:
        """True where all counts are finite, go up with time, and up with the bound of a bucket."""
        columns = [*zip(*rows, strict=True)]
        wide = len(own.bounds) if self.is_histogram else 1
        return all(
            isfinite(sum(column))
            and all(map(le, column, column[1:]))
            and (
                wide == 1
                or all(map(le, columns[at - 1], column) if at % wide else [column[0] >= 0])
            )
            for at, column in enumerate(columns)
        )

    def _flaw_of(self, row: _Row, own: _Own) -> str:
        if not all(map(isfinite, row)):
            return f"{self._asked} is not finite"
        fault = first_fault(own.bounds, row) if self.is_histogram else ""
        return self._no_value(fault) if fault else ""

    def _look_within(self, monos: Sequence[float], rows: Sequence[_Row], looks: Looks) -> None:
        rule, window, begins = self.rule, self.window, list[_Reading]()
        self.unjudged = 0.0
        if window:
            self._count(monos, rows, [window[-1][1], *rows[:-1]], looks)
        else:
            self._note_tests(looks)
            self._count(monos[1:], rows[1:], rows[:-1], looks)
        for reading in zip(monos, rows, strict=True):
            window.append(reading)
            # The last reading that is as old as the window is long stays: deltas begin there.
            since = reading[0] - rule.window_seconds
            while len(window) > 1 and window[1][0] <= since:
                window.popleft()
            begins.append(window[0])
        then = [row for _, row in begins]
        events = self._increases(then, rows)
        if not self.is_histogram:
            self._add_all(looks, [many * rule.scale for many in events], events)
            return
        at = len(looks.value)
        for now, before, many in zip(rows, then, events, strict=True):
            self._look_at_quantile(looks, tuple(map(sub, now, before)), many)
        self._settle(zip(monos, rows, strict=True), begins, looks.value[at:])

    def _look_at_quantile(self, looks: Looks, delta: _Row, events: float) -> None:
        rule, at = self.rule, len(looks.value)
        if fault := first_fault(self._bounds, delta):
            looks.miss(self._no_value(f"within {rule.window_seconds:g} s {fault}"))
            return
        if events < self._least_events:
            looks.add(math.nan, events)
            return
        if len(self._sets) == 1:  # which is all of them, and the most usual
            quantile = bucket_quantile(self._bounds, delta, quantile=rule.quantile)
        else:
            quantile = worst_quantile(
                self._bounds,
                {labels: delta[own] for labels, own in self._sets},
                quantile=rule.quantile,
                min_events=rule.min_events,
                direction=rule.direction,
            )
        if quantile is None:
            looks.miss(self._no_value("its buckets have no quantile"))
            return
        value = quantile.value * rule.scale
        if quantile.is_over:
            value = scaled_bound(rule, quantile.value)
        self._add(looks, value, events)
        if at not in looks.reasons:
            looks.mark(at, quantile)

    def _aligned(self, row: _Row, own: _Own) -> tuple[_Row, dict[str, str]]:
        """Return a row with a place for each series of the window, and the label sets that do not go on
        from its last reading, each with what tells it: a process counts up only, in each series, and
        keeps its buckets.

        A series that vanishes has counted nothing and begins nothing anew: it stands as it stood.
        """
        last = self.window[-1][1] if self.window else ()
        if own.keys != self._page:
            if anew := self._begun_anew(dict(zip(own.keys, row, strict=True)), last):
                return row, anew
            kept = self._keys if not own.keys or own.bounds == self._bounds else ()
            self._hold(tuple(sorted({*own.keys, *kept})), own)
            last = self.window[-1][1] if self.window else ()
            self._page = own.keys
            return self._spread_out(row, last), {}
        now = self._spread_out(row, last)
        if any(map(lt, now, last)):
            backwards = (who for who, its in self._sets if any(map(lt, now[its], last[its])))
            return row, dict.fromkeys(backwards, "counter went back")
        return now, {}

    def _spread_out(self, row: _Row, last: _Row) -> _Row:
        if self._spread is None:
            return row
        return tuple(last[to] if at is None else row[at] for to, at in enumerate(self._spread))

    def _begun_anew(self, counts: Mapping[SeriesKey, float], last: _Row) -> dict[str, str]:
        then, anew = label_sets(dict(zip(self._keys, last, strict=True))), dict[str, str]()
        for labels, buckets in label_sets(counts).items():
            known = then.get(labels, {})
            if known and known.keys() != buckets.keys():
                anew[labels] = "it has other buckets than before"
            elif any(buckets[bound] < count for bound, count in known.items()):
                anew[labels] = "counter went back"
        return anew

    def _hold(self, keys: tuple[SeriesKey, ...], own: _Own) -> None:
        """Give the readings of the window a place for each of these series; what is new was zero."""
        places = {key: at for at, key in enumerate(self._keys)}
        moved = [places.get(key) for key in keys]

        def placed(reading: _Reading) -> _Reading:
            mono, row = reading
            return mono, tuple(0.0 if at is None else row[at] for at in moved)

        self.window = deque(map(placed, self.window))
        self.settled = placed(self.settled) if self.settled else None
        self._keys, self._bounds = keys, own.bounds or self._bounds
        wide = len(self._bounds)
        self._sets = tuple(
            (keys[at][0], slice(at, at + wide)) for at in range(0, len(keys), wide or 1)
        )
        shown = {key: at for at, key in enumerate(own.keys)}
        self._spread = None if keys == own.keys else [shown.get(key) for key in keys]

    def _increases(self, then: Sequence[_Row], now: Sequence[_Row]) -> list[float]:
        """Return how many events were counted from each row to another."""
        total = [0.0] * len(now)  # from left to right: ``sum`` adds otherwise from Python 3.12 on
        for at in (own.stop - 1 for _, own in self._sets):
            total = [own + (b[at] - a[at]) for own, a, b in zip(total, then, now, strict=True)]
        return total

    def _count(
        self, monos: Sequence[float], rows: Sequence[_Row], before: Sequence[_Row], looks: Looks
    ) -> float:
        """Count the events since the row before of each, and show them to the tests."""
        increases = self._increases(before, rows)
        for mono, events in zip(monos, increases, strict=True):
            self.events += events
            self.moved = mono if events else self.moved
        for mono, now, then in zip(monos, rows, before, strict=True) if self.tests else ():
            assert self.tests is not None
            if not self.is_warming_up(mono):
                grown = tuple(map(sub, now, then))
                sets = {labels: grown[own] for labels, own in self._sets}
                self.tests.note(mono, self._bounds, sets)
            self._note_tests(looks)
        return sum(increases)

    def _note_tests(self, looks: Looks) -> None:
        """Note what a row, the next that has none yet, turned, and what stands by it."""
        if self.tests is None:
            return
        if self.tests.turned:
            looks.turned[len(looks.proved)] = self.tests.turned
            self.tests.turned = ()
        looks.proved.append(self.tests.stands)

    def _settle(
        self, readings: Iterable[_Reading], begins: Iterable[_Reading], values: Iterable[float]
    ) -> None:
        """Note which events a quantile was made of; nobody asks for those of the warm-up."""
        for reading, begin, value in zip(readings, begins, values, strict=True):
            if self.settled is None or self.settled[0] < begin[0]:
                self._leave(begin)
                self.settled = begin
            if value == value or self.is_warming_up(reading[0]):
                self.settled = reading

    def _leave(self, until: _Reading) -> None:
        """Note what was counted since ``settled`` as events that no quantile was made of."""
        grown = () if self.settled is None else tuple(map(sub, until[1], self.settled[1]))
        if self.settled and any(grown) and min(grown) >= 0:  # below zero: its time went back
            self.sparse = self._with_increase(self.settled, until)

    def _with_increase(self, since: _Reading, until: _Reading) -> dict[float, float]:
        delta, total = tuple(map(sub, until[1], since[1])), dict(self.sparse)
        counts = added(delta[own] for _, own in self._sets)
        for bound, count in zip(self._bounds, counts, strict=False):
            total[bound] = total.get(bound, 0.0) + count
        return total

    def _restart(
        self, mono: float, row: _Row, own: _Own, anew: Mapping[str, str], looks: Looks
    ) -> None:
        """Go on with an engine that counts anew, from zero, as Prometheus' increase has it: what it
        counted before this sample is in the points that follow."""
        last = self.window[-1]
        self._leave(last)
        known = dict(zip(self._keys, last[1], strict=True))
        # A series that is gone begins anew too.
        going_on = tuple(0.0 if key[0] in anew else known.get(key, 0.0) for key in own.keys)
        self.window.clear()
        self.settled = None
        self._hold(own.keys, own)
        self._page = own.keys
        self.window.extend([(mono, going_on), (mono, row)])
        self.settled = self.window[0] if self.is_histogram else None
        self.unjudged = self._count([mono], [row], [going_on], looks)
        named = " and ".join(sorted(filter(None, anew)))
        why = next(iter(anew.values())) + (f" in {named}" if named else "")
        looks.miss(f"{why}: engine restarted")


def _order(layout: Sequence[str]) -> list[int]:
    return sorted(range(len(layout)), key=layout.__getitem__)


def _tested(code: int, is_proved: bool) -> int:
    """Return what a look says of a limit that a proof is needed to be beyond of: a window of few events
    may be beyond it by chance, and one that is within it ends what was proved before."""
    if code == _BREACH and not is_proved:
        return _GOOD
    return _BREACH if is_proved and code in _THIN else code
