"""Facts about watch/metric_state.py: what lasts of a metric's points, taken in singly or in blocks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.metric_state import Watched
from ctp_runbook.watch.points import Point
from ctp_runbook.watch.share_tests import ShareTests
from tests.props.metric_samples import blocks, histogram, rule, sample, states

Values = Sequence[float | str | None]


def watched(samples: Sequence[Sample], *, ends: float = 100.0, **changes: Any) -> Watched:
    """The metric after these samples."""
    metric = Watched(rule(**changes), started=0.0, ends=ends)
    for one in samples:
        metric.add(one)
    return metric


def mono_of(point: Point | None) -> float | None:
    """When the point was measured."""
    return None if point is None else point.mono


# Values a second; when its limit had been broken for two seconds, and since when it is broken now.
BREACHES: dict[str, tuple[Values, float | None, float | None]] = {
    "never": ([1.0, 5.0, 1.0], None, None),
    "too short": ([1.0, 9.0, 9.0, 1.0], None, None),
    "long enough": ([1.0, 9.0, 9.0, 9.0, 1.0], 3.0, None),
    "still": ([1.0, 9.0, 9.0], None, 1.0),
    "twice too short": ([9.0, 9.0, 1.0, 9.0, 9.0], None, 3.0),
    "an error ends none": ([9.0, "refused", 9.0, 1.0], 2.0, None),
    "nothing in the page ends none": ([9.0, None, 9.0], 2.0, 0.0),
    "the first counts": ([9.0] * 9, 2.0, 0.0),
}


@pytest.mark.parametrize(("values", "failed", "since"), BREACHES.values(), ids=BREACHES)
def test_a_limit_is_broken_for_so_long(
    values: Values, failed: float | None, since: float | None
) -> None:
    """By what was measured alone: a value within the limit ends a breach, silence does not."""
    metric = watched(states(values))
    assert mono_of(metric.failed_at) == failed
    assert metric.breach_since == since


def test_the_last_of_each_sort_is_kept() -> None:
    """The last point, the last that was measured, the last with a value, and the worst of all."""
    metric = watched(states([3.0, 4.0, 4.0, 2.0, None, "refused"]))
    assert mono_of(metric.last) == 5.0
    assert (mono_of(metric.fresh), mono_of(metric.valued)) == (3.0, 3.0)
    assert mono_of(metric.extreme) == 1.0, "the first of those that are equally bad"


def test_the_warm_up_leaves_no_trace_but_freshness() -> None:
    """What a cold engine showed breaks no limit and is no worst value."""
    metric = watched(states([9.0, 9.0, 9.0, 1.0]), warm_up_seconds=3.0)
    assert (metric.failed_at, metric.breach_since) == (None, None)
    assert mono_of(metric.extreme) == 3.0
    metric = watched(states([9.0, 9.0]), warm_up_seconds=3.0)
    assert (metric.extreme, metric.valued, mono_of(metric.fresh)) == (None, None, 1.0)


# Moments of measurements over ten seconds at one a second, and what they cover.
COVERED: dict[str, tuple[Sequence[float], float]] = {
    "none": ((), 0.0),
    "one": ((0.0,), 0.1),
    "all": (range(11), 1.0),
    "half an interval late now and then": ((0, 1.5, 2, 3.4, 4, 5, 6, 7, 8, 9), 1.0),
    "every other": (range(0, 10, 2), 0.5),
    "a gap in the middle": ((0, 1, 2, 7, 8, 9), 0.6),
    "many at once": ((0.0, 0.0, 0.1, 0.1, 0.2), 0.12),
    "back in time": ((5.0, 4.0, 5.0), 0.2),
    "past the end": ((0.0, 1.0, 11.0, 12.0), 0.2),
}


@pytest.mark.parametrize(("monos", "share"), COVERED.values(), ids=COVERED)
def test_each_measurement_covers_an_interval(monos: Sequence[float], share: float) -> None:
    """However many came in one of them; a gap covers no more than one."""
    taken = [sample(float(mono), {"f": 1.0}) for mono in monos]
    metric = watched(taken, ends=10.0)
    assert metric.coverage(0.0, 10.0) == pytest.approx(share)
    in_blocks = Watched(rule(), started=0.0, ends=10.0)
    for block in blocks(taken):
        in_blocks.take(block)
    assert in_blocks.coverage(0.0, 10.0) == metric.coverage(0.0, 10.0)


def test_coverage_is_asked_of_a_past_moment_too() -> None:
    """What came since is left out; of a moment before anything came nothing is covered."""
    metric = watched([sample(float(mono), {"f": 1.0}) for mono in range(5, 21)], ends=20.0)
    assert metric.coverage(0.0, 10.0) == pytest.approx(0.6)
    assert metric.coverage(0.0, 20.0) == pytest.approx(0.8)
    assert metric.coverage(0.0, 4.0) == 0.0
    assert metric.coverage(0.0, 0.5) == 0.0, "not one interval is due yet"


def test_without_points_the_memory_stays_flat() -> None:
    """A long watch keeps what a verdict needs, and no point."""
    metric = Watched(rule(), started=0.0, ends=100.0, keeps_points=False)
    for one in states([9.0] * 50):
        metric.add(one)
        metric.rest()
    assert len(metric.log) == 0
    assert mono_of(metric.failed_at) == 2.0
    assert metric.coverage(0.0, 50.0) == 1.0


TRACES = ("breach_since", "failed_at", "unknown", "extreme", "valued", "fresh", "last")
WORDS: dict[str, list[Any]] = {
    "calm": [1.0, 1.0, 2.0],
    "rough": [1.0, 5.0, 9.0, 9.0],
    "broken": [1.0, 9.0, "refused", None],
    "flat": [5.0],
    "beyond": [9.0],
}


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_blocks_leave_what_samples_leave(words: list[Any], direction: str) -> None:
    """Cut anywhere, of any length: every trace, every point, and the coverage."""
    dice = random.Random(7)
    for _ in range(40):
        taken = states([dice.choice(words) for _ in range(dice.randrange(1, 40))])
        changes: dict[str, Any] = {
            "direction": direction,
            "warm_up_seconds": dice.choice((0.0, 4.0)),
        }
        singly = watched(taken, ends=30.0, **changes)
        in_blocks = Watched(rule(**changes), started=0.0, ends=30.0)
        left = [*taken]
        while left:
            size = dice.randrange(1, 12)
            part, left = left[:size], left[size:]
            for block in blocks(part):
                in_blocks.take(block)
        assert in_blocks.log.points == singly.log.points
        assert in_blocks.coverage(0.0, 30.0) == singly.coverage(0.0, 30.0)
        for trace in TRACES:
            assert getattr(in_blocks, trace) == getattr(singly, trace), trace


def test_a_value_that_is_more_is_worse_than_the_value_alone() -> None:
    """At the widest bound, by a limit above it that only a proof is beyond of."""
    steps = [(0, 0), (0, 5), (0, 0), (5, 5), (0, 5)]
    low, high, taken = 0.0, 0.0, []
    for mono, (below, above) in enumerate(steps * 4):
        low, high = low + below, high + below + above
        taken.append(sample(mono, histogram({1.0: low, 8.0: low, math.inf: high})))
    changes: dict[str, Any] = {
        "kind": "latency_quantile",
        "window_seconds": 2.0,
        "test": "sequential",
    }
    changed = rule(**changes)
    parse = ShareTests(changed)
    singly, whole = (
        Watched(changed, started=0.0, ends=30.0, tests=tests)
        for tests in (parse, ShareTests(changed))
    )
    for one in taken:
        singly.add(one)
    for block in blocks(taken):
        whole.take(block)
    assert whole.extreme == singly.extreme
    assert singly.extreme is not None
    assert singly.extreme.is_over
