"""How many events were over a bound, counted look by look over the whole watch, and what it proves.

That a p99 is within 5 ms says the same as that at most one event in a hundred takes longer, and the
buckets of a histogram count those. Where no bucket ends at the bound, what lies between the two
around it is ``unclear``: it fails nothing, and nothing passes that it could fail.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import chain

from msgspec import UNSET, Struct

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.triggers import Condition, Trigger
from ctp_runbook.watch.histogram import added, scaled_bound
from ctp_runbook.watch.sequential import ShareState, ShareTest, begin, take_look

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

    def take(self, mono: float, events: float, over: float, unclear: float) -> None:
        """Take a look in: how many events came with it, over the bound and on neither side for sure."""
        self.events += events
        self.over += over
        self.unclear += unclear
        if self.is_cap:
            self.stands = self.over > 0
            return
        self.state = self.state or begin(self.test, mono)
        self.evidence = take_look(self.test, self.state, mono, int(events), int(over))
        self.stands = self.surplus >= 0 and self.state.rejected_at is not None


class ShareTests:
    """The tests of one metric: of its limit, of each number of the trigger, and of its hard cap.

    ``turned`` has what began or ceased to stand with the last look, and it ``stands`` while it is
    proved that too many events are over the limit. Once a second label set is seen
    each is tested by itself as well, for a thousand fast orders of one instrument hide ten slow ones
    of another.
    """

    def __init__(self, rule: MetricRule, *, bounds: Sequence[float] = ()) -> None:
        self._rule = rule
        limits = dict.fromkeys((rule.limit, *bounds)) if rule.is_sequential else ()
        self._bounds = [(bound, False) for bound in limits]
        self._bounds += [] if rule.cap is UNSET else [(rule.cap, True)]
        self._ends: dict[tuple[float, ...], dict[float, tuple[int, int | None]]] = {}
        self.is_resumed = False
        self._begin()

    def _begin(self) -> None:
        self._counts = {key: [self._count(key, labels="", rate=_TOGETHER)] for key in self._bounds}
        self._sets = list[str]()
        self.turned: tuple[Tested, ...] = ()
        self.stands = False

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
        self, mono: float, bounds: tuple[float, ...], grown: Mapping[str, Sequence[float]]
    ) -> None:
        """Take in what was counted since the look before, of each label set a count a bound."""
        if len(grown) > 1 or self._sets:
            self._see(grown)
        every = {**grown, "": added(grown.values())}
        turned = []
        for key, counts in self._counts.items():
            stood, (within, below) = _stands(counts), self._ends_at(key[0], bounds)
            for count in counts:
                if buckets := every.get(count.labels):
                    events = max(0.0, buckets[-1])
                    over = min(max(0.0, events - buckets[within]), events)
                    known = events if below is None else events - buckets[below]
                    unclear = min(max(0.0, known - over), events - over)
                    count.take(mono, events, over, unclear)
            if _stands(counts) is not stood:
                turned.append(self._told(key))
                if key == (self._rule.limit, False):
                    self.stands = not stood
        self.turned = tuple(turned)

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

    def _ends_at(self, bound: float, bounds: tuple[float, ...]) -> tuple[int, int | None]:
        """Return the place of the bucket at the bound or the next one above it, and of the one at it or
        the next below (None: none); what a page counts between the two may be on either side."""
        known = self._ends.setdefault(bounds, {})
        if bound not in known:
            scaled = [scaled_bound(self._rule, end) if end < math.inf else end for end in bounds]
            within, below = bisect_left(scaled, bound), bisect_right(scaled, bound) - 1
            known[bound] = within, None if below < 0 else below
        return known[bound]

    def _told(self, key: tuple[float, bool]) -> Tested:
        # Of equals the first, which is of all.
        counts = self._counts[key]
        return max(counts, key=lambda count: (count.stands, count.surplus)).tested


def _stands(counts: Sequence[_Count]) -> bool:
    return True in [count.stands for count in counts]


def is_tested(rule: MetricRule, condition: Condition) -> bool:
    """True where a proof makes the condition true, and not the value of a window."""
    return rule.is_sequential and rule.name == condition.metric and condition.op in ("gt", "ge")


def tests_of(rule: MetricRule, trigger: Trigger) -> ShareTests | None:
    """Return the tests of a metric; None where it is judged by its values alone."""
    if not rule.is_sequential and rule.cap is UNSET:
        return None
    conditions = chain.from_iterable(trigger.any_of)
    return ShareTests(rule, bounds=[c.value for c in conditions if is_tested(rule, c)])
