"""Facts about watch/measure.py: however samples fall into blocks, the same points come of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries
from ctp_runbook.watch.points import Point, PointLog
from tests.props.metric_samples import blocks, histogram, rule, sample, states

INF = math.inf


def taken_in(metric: MetricRule, *parts: Iterable[Sample]) -> tuple[MetricSeries, list[Point]]:
    """The series after these samples, each part in as few blocks as it may be, and its points."""
    series, log = MetricSeries(metric, started_mono=0.0), PointLog()
    for part in parts:
        for block in blocks(part):
            series.take(block, log)
    return series, [*log.points]


def left(series: MetricSeries) -> tuple[Any, ...]:
    """All that a series goes on from."""
    window, settled = [*series.window], series.settled
    return series.events, series.moved, series.unjudged, series.sparse, settled, window


def in_every_way(metric: MetricRule, taken: Sequence[Sample]) -> list[Point]:
    """The points of the samples, which each cut in two and one sample at a time must make alike."""
    series, points = taken_in(metric, *([one] for one in taken))
    for cut in range(len(taken)):
        cut_series, cut_points = taken_in(metric, taken[:cut], taken[cut:])
        assert cut_points == points
        assert left(cut_series) == left(series)
        assert cut_series.unsettled() == series.unsettled()
    return points


def grown(*steps: Sequence[float]) -> list[Sample]:
    """A histogram a second with buckets to 1, to 4 and beyond: so many events since the last."""
    total, taken = [0.0, 0.0, 0.0], []
    for mono, step in enumerate(steps):
        total = [known + more for known, more in zip(total, np.cumsum(step), strict=True)]
        counts = dict(zip((1.0, 4.0, INF), total, strict=True))
        taken.append(sample(mono, histogram(counts), seq=mono))
    return taken


STEPS = st.lists(
    st.sampled_from([(0, 0, 0), (1, 0, 0), (0, 1, 0), (5, 2, 0), (0, 0, 1)]),
    min_size=1,
    max_size=30,
)
QUIET, FEW, FAST, SLOW, ABOVE = (0, 0, 0), (1, 0, 0), (5, 2, 0), (0, 6, 0), (0, 0, 9)
# Kind, what of the rule is different, samples; the statuses they come to.
REGULAR: dict[str, tuple[str, dict[str, Any], list[Sample], str]] = {
    "a state": ("state", {}, states([1.0, 5.0, 5.5, -1.0]), "good good breach good"),
    "a least state": (
        *("state", {"direction": "min"}),
        *(states([1.0, 5.0, 5.5, -1.0]), "breach good good breach"),
    ),
    "a scaled lag": ("lag", {"scale": 1000.0}, states([0.004, 0.006]), "good breach"),
    "a cold state": (
        *("state", {"warm_up_seconds": 2.0}),
        *(states([9.0, 9.0, 9.0, 1.0]), "warm_up warm_up breach good"),
    ),
    "a counter": ("counter", {}, states([100.0, 103.0, 106.0, 106.0]), "good good breach breach"),
    "a counter's window": (
        *("counter", {"window_seconds": 1.0, "limit": 2.0}),
        *(states([0.0, 1.0, 4.0, 5.0]), "good good breach good"),
    ),
    "a histogram": (
        *("latency_quantile", {"min_events": 2, "limit": 2.0}),
        *(grown(QUIET, QUIET, FEW, FAST, SLOW), "zero_events zero_events few_events breach breach"),
    ),
    "above all buckets": (
        *("latency_quantile", {"limit": 4.0}),
        *(grown(QUIET, ABOVE), "zero_events breach"),
    ),
    "above all buckets, which end below the limit": (
        *("latency_quantile", {"limit": 4.5}),
        *(grown(QUIET, ABOVE, QUIET), "zero_events open_bucket open_bucket"),
    ),
    "above all buckets, which is wanted": (
        *("latency_quantile", {"limit": 4.0, "direction": "min"}),
        *(grown(QUIET, ABOVE), "zero_events good"),
    ),
}


@pytest.mark.parametrize(("kind", "changes", "taken", "statuses"), REGULAR.values(), ids=REGULAR)
def test_a_block_makes_the_points_of_its_samples(
    kind: str, changes: Mapping[str, Any], taken: list[Sample], statuses: str
) -> None:
    """To the bit, whole or cut in two anywhere; and the series is left as after the samples."""
    points = in_every_way(rule(kind, **changes), taken)
    assert " ".join(point.status for point in points) == statuses


# Kind, samples taken before, samples of which one wants a look of its own.
IRREGULAR: dict[str, tuple[str, list[Sample], list[Sample]]] = {
    "not a number": ("state", [], states([1.0, math.nan, 1.0])),
    "endless": ("counter", [], states([1.0, INF, 1.0])),
    "too large for the unit": ("state", [], states([1.0, 1e308])),
    "not in the page": ("state", [], [sample(0, {"other": 1.0})]),
    "a counter that goes back": ("counter", [], states([5.0, 4.0])),
    "a counter that went back before": ("counter", states([5.0]), [sample(1, {"f": 4.0})]),
    "time that goes back": ("counter", [], [sample(1, {"f": 4.0}), sample(0, {"f": 4.0})]),
    "other buckets than before": (
        "latency_quantile",
        [sample(0, histogram({2.0: 0, INF: 0}))],
        [sample(1, histogram({1.0: 0, INF: 0}))],
    ),
    "counts that fall with the bound": (
        "latency_quantile",
        [],
        [sample(0, histogram({1.0: 5, INF: 4}))],
    ),
    "increases that fall with the bound": (
        "latency_quantile",
        [],
        [sample(0, histogram({1.0: 0, INF: 5})), sample(1, histogram({1.0: 3, INF: 6}))],
    ),
    "no bucket for all": ("latency_quantile", [], [sample(0, histogram({1.0: 5}))]),
}


@pytest.mark.parametrize(("kind", "before", "taken"), IRREGULAR.values(), ids=IRREGULAR)
def test_what_is_irregular_is_looked_at_alone(
    kind: str, before: list[Sample], taken: list[Sample]
) -> None:
    """In the midst of what is regular it is what it is by itself, and so is what follows."""
    later = [sample(9 + at, one.series) for at, one in enumerate([*before, *taken, *taken])]
    in_every_way(rule(kind, scale=1000.0), [*before, *taken, *later])


def test_a_restarted_engine_goes_on_in_blocks() -> None:
    """What it counted before the block is in the block's first point, as one by one."""
    points = in_every_way(rule("counter"), states([5.0, 9.0, 2.0, 3.0, 4.0]))
    assert [point.value for point in points] == [0.0, 4.0, None, 3.0, 4.0]


@pytest.mark.parametrize(("direction", "worst"), [("max", [3000.0, 5000.0]), ("min", [1e3, -2e3])])
def test_the_worst_of_a_row_is_in_the_unit_of_the_rule(direction: str, worst: list[float]) -> None:
    """The highest for a maximum, the lowest for a minimum, scaled."""
    rows = [{'f{s="a"}': 1.0, 'f{s="b"}': 3.0}, {'f{s="a"}': 5.0, 'f{s="b"}': -2.0}]
    taken = [sample(at, row) for at, row in enumerate(rows)]
    points = in_every_way(rule(direction=direction, scale=1000.0), taken)
    assert [point.value for point in points] == worst


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(steps=STEPS, cut=st.integers(0, 30), warm_up=st.sampled_from([0.0, 3.0]))
def test_blocks_settle_what_samples_settle(
    steps: list[tuple[int, ...]], cut: int, warm_up: float
) -> None:
    """Of which events a quantile was made, and which left the window without one."""
    given_rule = rule("latency_quantile", min_events=3, window_seconds=2.5, warm_up_seconds=warm_up)
    taken = grown(*steps)
    one_by_one, expected = taken_in(given_rule, *([one] for one in taken))
    in_blocks, points = taken_in(given_rule, taken[:cut], taken[cut:])
    assert points == expected
    assert left(in_blocks) == left(one_by_one)
    assert in_blocks.unsettled() == one_by_one.unsettled()
    # Each event is in a quantile, left without one, or still in the window: none in two of these.
    lost = in_blocks.unsettled().get(INF, 0.0)
    assert 0 <= lost <= in_blocks.events
