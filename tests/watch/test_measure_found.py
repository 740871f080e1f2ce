"""Facts about watch/measure.py: outages, families that come with their first event, told events."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import chunks_of
from ctp_runbook.watch.measure import MetricSeries
from ctp_runbook.watch.metric_state import Watched
from tests.props.metric_samples import histogram, rule, sample, states


def test_an_outage_is_as_long_as_the_gauge_stood_at_zero() -> None:
    """From the first look at 0 to the first at 1 again; one that goes on counts as far as it is."""
    series = MetricSeries(rule("outage", unit="s", limit=2.0, query="f"), started_mono=0.0)
    points = [series.add(each) for each in states([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])]
    assert [point.value for point in points] == [None, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]
    assert [point.events for point in points] == [0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert (points[0].status, points[-1].status) == ("zero_events", "breach")


def test_an_outage_leaves_the_window_and_outlasts_a_page_that_fails() -> None:
    """While nobody answers nothing is known; a gauge that is 0 before and after was 0."""
    watched = rule("outage", unit="s", limit=9.0, query="f", window_seconds=3.0)
    series = MetricSeries(watched, started_mono=0.0)
    points = [
        series.add(each) for each in states([0.0, "down", None, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    ]
    statuses = ["good", "error", "no_data", "good", "good", "good", "good", "good", "zero_events"]
    assert [point.status for point in points] == statuses
    assert [point.value for point in points] == [0, None, None, 3, 4, 4, 4, 4, None]


def test_the_worst_of_several_gauges_is_the_outage() -> None:
    """One that is neither 0 nor 1 is none."""
    series = MetricSeries(rule("outage", unit="s"), started_mono=0.0)
    pages = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.5)]
    points = [
        series.add(sample(at, {'f{c="td"}': td, 'f{c="md"}': md}))
        for at, (td, md) in enumerate(pages)
    ]
    assert [point.value for point in points] == [None, 0.0, 1.0, None]
    assert points[-1].reason == "f has no value: 0.5 is neither 0 nor 1"


def test_a_counter_that_comes_with_its_first_event_is_zero_before() -> None:
    """Where the page has something else that was asked for; a page without anything says nothing."""
    pages = [
        {},
        {"up": 1.0},
        {"up": 1.0},
        {"up": 1.0, "f": 2.0},
        {"up": 1.0},
        {"up": 1.0, "f": 3.0},
    ]
    series = MetricSeries(rule("counter", absent="zero"), started_mono=0.0)
    points = [series.add(sample(at, page)) for at, page in enumerate(pages)]
    assert [point.value for point in points] == [None, 0.0, 0.0, 2.0, 2.0, 3.0]
    assert points[0].reason == "f is not in the sample"
    assert series.events == 3.0


def test_a_histogram_that_comes_with_its_first_event_has_none_before() -> None:
    """No event is not the same as no data."""
    watched = rule("latency_quantile", absent="zero", min_events=2)
    series = MetricSeries(watched, started_mono=0.0)
    pages = [{"up": 1.0}, {"up": 1.0, **histogram({4.0: 9, math.inf: 9})}, {"up": 1.0}]
    points = [series.add(sample(at, page)) for at, page in enumerate(pages)]
    assert [point.status for point in points] == ["zero_events", "good", "good"]


def test_a_counter_of_several_families_is_their_sum() -> None:
    """Each counts its own, also where their labels are the same."""
    watched = rule("counter", query="dropped_total late_total", absent="zero")
    series = MetricSeries(watched, started_mono=0.0)
    pages = [{"up": 1.0}, {"dropped_total": 1.0}, {"dropped_total": 1.0, "late_total": 2.0}]
    pages += [{"dropped_total": 4.0, "late_total": 2.0}, {"dropped_total": 0.0, "late_total": 3.0}]
    points = [series.add(sample(at, page)) for at, page in enumerate(pages)]
    assert [point.value for point in points] == [0.0, 1.0, 3.0, 6.0, None]
    assert "counter went back" in points[-1].reason


def test_a_source_that_counts_says_of_how_many_events_its_value_is() -> None:
    """None is a measurement, few are no quantile; a value without them is a value."""
    watched = rule("latency_quantile", source="log", min_events=3)
    series = MetricSeries(watched, started_mono=0.0)
    told = [{"m_events": 0.0}, {"m": 4.0, "m_events": 2.0}, {"m": 4.0, "m_events": 3.0}, {"m": 6.0}]
    points = [series.add(replace(sample(at, each), source="log")) for at, each in enumerate(told)]
    assert [point.status for point in points] == ["zero_events", "few_events", "good", "breach"]
    assert [point.value for point in points] == [None, None, 4.0, 6.0]


_TOLD = st.sampled_from(
    [
        *({"up": 1.0}, {"f": 0.0, "up": 1.0}, {"f": 1.0, "up": 1.0}, {"f": 3.0, "up": 1.0}, {}),
        *({"m": 4.0, "m_events": 9.0}, {"m_events": 0.0}, {"m": 9.0, "m_events": 1.0}),
        *({"g": 5.0, "f": 3.0}, {"g": 6.0, "f": 3.0}),
    ]
)
_FOUND = st.sampled_from(
    [
        rule("outage", limit=2.0, window_seconds=4.0),
        rule("counter", absent="zero", window_seconds=4.0),
        rule("counter", query="f g", absent="zero"),
        rule("latency_quantile", source="log", min_events=2),
        rule("counter", source="log"),
        rule("state", source="log"),
    ]
)


@given(_FOUND, st.lists(st.tuples(_TOLD, st.integers(1, 20)), min_size=1, max_size=6))
def test_what_is_replayed_in_blocks_is_what_was_judged_live(
    watched: MetricRule, told: list[tuple[dict[str, float], int]]
) -> None:
    """Point by point, however the samples of a file fall into blocks."""
    said = [series for series, times in told for _ in range(times)]
    samples = [
        replace(sample(at, series, seq=at), source=watched.source) for at, series in enumerate(said)
    ]
    live = Watched(watched, started=0.0, ends=1e9)
    for each in samples:
        live.add(each)
    replayed = Watched(watched, started=0.0, ends=1e9)
    for chunk in chunks_of(samples):
        for item in chunk.items:
            replayed.take(item)
    assert tuple(replayed.log.points) == tuple(live.log.points)
    assert replayed.series.events == live.series.events
    assert replayed.series.moved == live.series.moved
