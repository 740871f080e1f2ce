"""How many events were over a bound, counted look by look over the whole watch, and what it proves.

That a p99 is within 5 ms says the same as that at most one event in a hundred takes longer, and the
buckets of a histogram count those. Where no bucket ends at the bound, what lies between the two
around it is ``unclear``: it fails nothing, and nothing passes that it could fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.triggers import Condition, Trigger
from ctp_runbook.watch.histogram import SeriesKey, label_sets, merged, scaled_bound
from ctp_runbook.watch.sequential import ShareState, ShareTest, decide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ShareTests", "Tested", "is_tested", "tests_of"]

# Of the allowed rate, what is spent on all label sets together; the rest is for each of them.
_TOGETHER = 0.9


class Tested(Struct, frozen=True):
    """What was counted of a bound, in the metric's unit, and whether it is proved that too many events
    are over it (``stands``); of the hard cap, whether any is.

    ``evidence`` is the natural logarithm of the odds for it. ``labels`` are those of the series it is
    of, blank for all of them.
    """

    bound: float
    events: float
    over: float
    unclear: float
    evidence: float
    stands: bool
    labels: str = ""
    is_cap: bool = False

    def is_of(self, bound: float) -> bool:
        """True where it is the test of this limit, and no hard cap."""
        return self.bound == bound and not self.is_cap


class _Looks(Struct, frozen=True):
    """The increases of looks: the place of each, its moment, and how many events came with it."""

    places: Sequence[int]
    mono: Sequence[float]
    events: Sequence[float]
    over: Sequence[float]
    unclear: Sequence[float]


class _Count:
    """What is counted over one bound, of one label set or of all together."""

    def __init__(self, rule: MetricRule, bound: float, *, is_cap: bool, rate: float, labels: str):
        self.bound, self.is_cap, self.labels = bound, is_cap, labels
        self.test = ShareTest(
            share=rule.allowed_share, false_alarm_rate=rate, span_seconds=rule.span_seconds
        )
        self.events = self.over = self.unclear = self.evidence = 0.0
        self.stands = False
        self.state: ShareState | None = None

    @property
    def surplus(self) -> float:
        """How much more evidence there is than it takes."""
        return self.evidence - self.test.threshold

    @property
    def tested(self) -> Tested:
        """What there is to tell of it."""
        counted = self.events, self.over, self.unclear, self.evidence
        return Tested(self.bound, *counted, self.stands, self.labels, self.is_cap)

    def take(self, looks: _Looks) -> list[tuple[int, Tested]]:
        """Take looks in; return the place of each with which it began or ceased to stand."""
        turned, rejected = [], 0
        evidence: Sequence[float] = [0.0] * len(looks.mono)
        if not self.is_cap:
            was_rejected = self.state is not None and self.state.rejected_at is not None
            counts = map(int, looks.events), map(int, looks.over)
            decided = decide(self.test, looks.mono, *counts, self.state)
            self.state, evidence = decided.state, decided.evidence
            if not was_rejected:
                row = decided.rejected_row
                rejected = len(evidence) if row is None else row
        for row, (place, events, over, unclear, self.evidence) in enumerate(
            zip(looks.places, looks.events, looks.over, looks.unclear, evidence, strict=True)
        ):
            self.events, self.over = self.events + events, self.over + over
            self.unclear += unclear
            stands = self.surplus >= 0 and row >= rejected
            if self.is_cap:
                stands = self.over > 0
            if stands is not self.stands:
                self.stands = stands
                turned.append((place, self.tested))
        return turned


class ShareTests:
    """The tests of one metric: of its limit, of each number of the trigger, and of its hard cap.

    ``turned`` has what began or ceased to stand with the last look. ``is_single`` until a second label
    set is seen: from then on each is tested by itself as well, for a thousand fast orders of one
    instrument hide ten slow ones of another.
    """

    def __init__(self, rule: MetricRule, *, bounds: Sequence[float] = ()) -> None:
        self._rule = rule
        limits = dict.fromkeys((rule.limit, *bounds)) if rule.is_sequential else ()
        self._bounds = [(bound, False) for bound in limits]
        self._bounds += [] if rule.cap is UNSET else [(rule.cap, True)]
        self._ends: dict[tuple[float, ...], dict[float, tuple[float, float]]] = {}
        self.is_resumed = False
        self._begin()

    def _begin(self) -> None:
        self._counts = {key: [self._count(key, labels="", rate=_TOGETHER)] for key in self._bounds}
        self._sets = list[str]()
        self.turned: tuple[Tested, ...] = ()

    def _count(self, key: tuple[float, bool], *, labels: str, rate: float) -> _Count:
        bound, is_cap = key
        rate *= self._rule.false_alarms
        if self._rule.false_alarm_rate is not UNSET:
            # What is stated is of all its numbers together; records without a rate gave it to each.
            rate /= max(1, sum(not is_cap for _, is_cap in self._bounds))
        return _Count(self._rule, bound, is_cap=is_cap, rate=rate, labels=labels)

    def restart(self) -> None:
        """Forget what was counted so far: somebody went on knowing it."""
        self.is_resumed = True
        self._begin()

    @property
    def is_single(self) -> bool:
        """True until a second label set is seen."""
        return not self._sets

    @property
    def stands(self) -> bool:
        """True while it is proved that too many events are over the limit."""
        return self._stands((self._rule.limit, False))

    @property
    def at_limit(self) -> Tested | None:
        """What there is to tell of the limit; None where its values alone are judged."""
        return next((self._told(key) for key in self._bounds if not key[1]), None)

    @property
    def independent(self) -> tuple[int, int]:
        """How many events, or where bursts are allowed for spans with events, are independent of each
        other, and how many of them were over the limit."""
        state = self._counts[self._rule.limit, False][0].state
        if state is None:
            return 0, 0
        if self._rule.span_seconds:
            return state.spans, state.bad_spans
        return state.events, state.over

    @property
    def at_cap(self) -> Tested | None:
        """What there is to tell of the hard cap, where there is one."""
        return next((self._told(key) for key in self._bounds if key[1]), None)

    def note(
        self, mono: float, before: Mapping[SeriesKey, float], now: Mapping[SeriesKey, float]
    ) -> None:
        """Take what was counted from one reading to the next in; what is new counts from zero."""
        grown = label_sets({key: count - before.get(key, 0.0) for key, count in now.items()})
        if len(grown) > 1 or self._sets:
            self._see(grown)
        grown[""] = merged(grown.values()) if len(grown) > 1 else next(iter(grown.values()), {})
        turned = []
        for key, counts in self._counts.items():
            stood = self._stands(key)
            for count in counts:
                if buckets := grown.get(count.labels):
                    within, below = self._ends_at(key[0], tuple(sorted(buckets)))
                    events = max(0.0, buckets[math.inf])
                    over = min(max(0.0, events - buckets[within]), events)
                    known = events - buckets[below] if math.isfinite(below) else events
                    unclear = min(max(0.0, known - over), events - over)
                    count.take(_Looks((0,), (mono,), (events,), (over,), (unclear,)))
            if self._stands(key) is not stood:
                turned.append(self._told(key))
        self.turned = tuple(turned)

    def note_rows(
        self, mono: NDArray[np.float64], bounds: Sequence[float], grown: NDArray[np.float64]
    ) -> dict[int, tuple[Tested, ...]]:
        """Take looks at the one label set in, as ``note`` would, where ``grown`` has a row a look and a
        column a bucket; return what turned, by the place of the look."""
        import numpy as np

        turned: dict[int, tuple[Tested, ...]] = {}
        events = np.maximum(0.0, grown[:, -1])
        for (bound, _), (count, *_) in self._counts.items():
            within, below = self._ends_at(bound, tuple(bounds))
            over = np.minimum(np.maximum(0.0, events - grown[:, bounds.index(within)]), events)
            known = events - grown[:, bounds.index(below)] if math.isfinite(below) else events
            unclear = np.minimum(np.maximum(0.0, known - over), events - over)
            columns = (column.tolist() for column in (mono, events, over, unclear))
            for place, tested in count.take(_Looks(range(len(mono)), *columns)):
                turned[place] = (*turned.get(place, ()), tested)
        return turned

    def _see(self, grown: Mapping[str, object]) -> None:
        """Begin to count each label set that was not there before."""
        for labels in grown:
            if labels and labels not in self._sets:
                self._sets.append(labels)
                # All of them together must not spend more than is left: 1/2 + 1/6 + 1/12 + …
                many = len(self._sets)
                rate = (1 - _TOGETHER) / (many * (many + 1))
                for key, counts in self._counts.items():
                    counts.append(self._count(key, labels=labels, rate=rate))

    def _ends_at(self, bound: float, bounds: tuple[float, ...]) -> tuple[float, float]:
        """Return the bucket at the bound or the next one above it, and the one at it or the next below
        (minus infinity: none); what a page counts between the two may be on either side."""
        if bounds not in self._ends:
            self._ends[bounds] = {}
        known = self._ends[bounds]
        if bound not in known:
            scaled = [
                (end, scaled_bound(self._rule, end) if math.isfinite(end) else end)
                for end in bounds
            ]
            known[bound] = (
                min(end for end, own in scaled if own >= bound),
                max((end for end, own in scaled if own <= bound), default=-math.inf),
            )
        return known[bound]

    def _stands(self, key: tuple[float, bool]) -> bool:
        return any(count.stands for count in self._counts.get(key, ()))

    def _told(self, key: tuple[float, bool]) -> Tested:
        # Of equals the first, which is of all.
        counts = self._counts[key]
        return max(counts, key=lambda count: (count.stands, count.surplus)).tested


def is_tested(rule: MetricRule, condition: Condition) -> bool:
    """True where a proof makes the condition true, and not the value of a window."""
    return rule.is_sequential and rule.name == condition.metric and condition.op in ("gt", "ge")


def tests_of(rule: MetricRule, trigger: Trigger) -> ShareTests | None:
    """Return the tests of a metric; None where it is judged by its values alone."""
    if not rule.is_sequential and rule.cap is UNSET:
        return None
    conditions = chain.from_iterable(trigger.any_of)
    return ShareTests(rule, bounds=[c.value for c in conditions if is_tested(rule, c)])
