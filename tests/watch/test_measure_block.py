"""Facts about watch/measure_block.py: what is regular is measured at once, the rest is left alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import STATUSES, MetricSeries, Point
from ctp_runbook.watch.measure_block import (
    CODES,
    MeasuredBlock,
    are_cumulative,
    furthest,
    grouped_counts,
    lasting_places,
    measure_block,
)
from ctp_runbook.watch.points import PointLog
from tests.props.metric_samples import blocks, histogram, rule, sample, states

INF = math.inf


def block_of(samples: Sequence[Sample]) -> Block:
    """The samples as one block."""
    (block,) = blocks(samples)
    return block


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
    singly = MetricSeries(rule(kind, **changes), started_mono=0.0)
    expected = [singly.add(one) for one in taken]
    assert " ".join(point.status for point in expected) == statuses
    for cut in range(len(taken)):
        series, log = MetricSeries(rule(kind, **changes), started_mono=0.0), PointLog()
        for part in (taken[:cut], taken[cut:]):
            if part:
                measured = measure_block(series, block_of(part))
                assert measured is not None
                log.extend(measured)
        assert [*log.points] == expected
        assert (series.events, series.unjudged) == (singly.events, singly.unjudged)
        assert series.unsettled() == singly.unsettled()
        assert [(r.mono, r.total) for r in series.window] == [
            (r.mono, r.total) for r in singly.window
        ]


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
def test_what_is_irregular_is_left_alone(
    kind: str, before: list[Sample], taken: list[Sample]
) -> None:
    """Nothing of the block is taken in: its samples are for ``add``, one after the other."""
    series = MetricSeries(rule(kind, scale=1000.0), started_mono=0.0)
    for one in before:
        series.add(one)
    known = series.events, series.unjudged, [*series.window]
    assert measure_block(series, block_of(taken)) is None
    assert (series.events, series.unjudged, [*series.window]) == known


def test_a_restarted_engine_goes_on_in_blocks() -> None:
    """What it counted before the block is in the block's first point, as ``add`` has it."""
    taken = states([5.0, 9.0, 2.0, 3.0, 4.0])
    singly, in_blocks = (MetricSeries(rule("counter"), started_mono=0.0) for _ in range(2))
    expected = [singly.add(one) for one in taken]
    for one in taken[:3]:
        in_blocks.add(one)
    measured = measure_block(in_blocks, block_of(taken[3:]))
    assert measured is not None
    assert measured.value.tolist() == [point.value for point in expected[3:]] == [3.0, 4.0]
    assert (in_blocks.events, in_blocks.unjudged) == (singly.events, 0.0)


def column(statuses: str, values: Sequence[float], over: Sequence[int] = ()) -> MeasuredBlock:
    """Measured points of these statuses and values, a second apart."""
    size = len(values)
    return MeasuredBlock(
        wall=np.arange(size, dtype=float),
        mono=np.arange(size, dtype=float),
        value=np.array(values, dtype=float),
        events=np.full(size, math.nan),
        status=np.array([CODES[status] for status in statuses.split()], np.int8),
        over=np.array(over or [0] * size, np.int8),
    )


NAN = math.nan
LASTING: dict[str, tuple[MeasuredBlock, bool, list[int]]] = {
    "all alike": (column("good good good", [1, 1, 1]), False, [0, 2]),
    "the worst of them": (column("good good good good", [1, 3, 2, 3]), False, [1, 3]),
    "a breach and its end": (
        *(column("good breach breach good good", [1, 8, 9, 1, 1]), False),
        [1, 2, 3, 4],
    ),
    "the end of an earlier breach": (column("good good good", [1, 2, 1]), True, [0, 1, 2]),
    "no value": (column("zero_events zero_events", [NAN, NAN]), False, [1]),
    "a cold start": (column("warm_up good good", [9, 1, 2]), False, [2]),
    "nothing but a cold start": (column("warm_up warm_up", [9, 9]), False, [1]),
    "the first that is open": (
        *(column("good open_bucket open_bucket good", [1, 4, 4, 1], [0, 1, 1, 0]), False),
        [1, 3],
    ),
    "the value, and more than it": (
        *(column("good good good good", [4, 4, 4, 1], [0, 0, 1, 0]), False),
        [0, 2, 3],
    ),
}


@pytest.mark.parametrize(("measured", "in_breach", "places"), LASTING.values(), ids=LASTING)
def test_few_points_of_a_block_leave_a_trace(
    measured: MeasuredBlock, in_breach: bool, places: list[int]
) -> None:
    """A day within its limits costs no more than a handful of looks."""
    assert lasting_places(measured, rule(), in_breach=in_breach) == places


def test_series_of_a_group_are_added_from_left_to_right() -> None:
    """In the order of the group, for floats add up differently in another."""
    values = np.array([[0.1, 0.2, 0.3], [1e16, 1.0, -1e16]])
    counts = grouped_counts(((1.0, (0, 1, 2)), (2.0, (2,)), (3.0, (0, 2, 1))), values)
    assert counts.tolist() == [[0.1 + 0.2 + 0.3, 0.3, 0.1 + 0.3 + 0.2], [0.0, -1e16, 1.0]]


def test_each_row_is_a_histograms_or_not() -> None:
    """No bucket below a narrower one, the narrowest not below nothing; NaN is no count."""
    rows = np.array([[0, 0, 0], [1, 2, 3], [2, 2, 2], [1, 0, 3], [-1, 0, 1], [0, math.nan, 1]])
    assert are_cumulative(rows).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize(("direction", "worst"), [("max", [3000.0, 5000.0]), ("min", [1e3, -2e3])])
def test_the_worst_of_a_row_is_in_the_unit_of_the_rule(direction: str, worst: list[float]) -> None:
    """The highest for a maximum, the lowest for a minimum, scaled."""
    rows = np.array([[1.0, 3.0], [5.0, -2.0]])
    assert furthest(rule(direction=direction, scale=1000.0), rows).tolist() == worst


def test_every_status_has_its_code() -> None:
    """A code is the status' place, as columns and pictures read it."""
    assert {STATUSES[code]: code for code in CODES.values()} == CODES
    assert Point(0.0, 0.0, None, None, STATUSES[CODES["error"]]).status == "error"


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(steps=STEPS, cut=st.integers(0, 30), warm_up=st.sampled_from([0.0, 3.0]))
def test_blocks_settle_what_samples_settle(
    steps: list[tuple[int, ...]], cut: int, warm_up: float
) -> None:
    """Of which events a quantile was made, and which left the window without one."""
    given_rule = rule("latency_quantile", min_events=3, window_seconds=2.5, warm_up_seconds=warm_up)
    singly, in_blocks = (MetricSeries(given_rule, started_mono=0.0) for _ in range(2))
    taken = grown(*steps)
    expected, log = [singly.add(one) for one in taken], PointLog()
    for part in filter(None, (taken[:cut], taken[cut:])):
        measured = measure_block(in_blocks, block_of(part))
        assert measured is not None
        log.extend(measured)
    assert [*log.points] == expected
    assert (in_blocks.sparse, in_blocks.settled) == (singly.sparse, singly.settled)
    assert in_blocks.unsettled() == singly.unsettled()
    # Each event is in a quantile, left without one, or still in the window: none in two of these.
    lost = in_blocks.unsettled().get(INF, 0.0)
    assert 0 <= lost <= in_blocks.events
