"""Facts about watch/measure.py: what a sample says of a metric, and what it does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.probes.metrics import parse_page
from ctp_runbook.record.samples import Sample, series_key
from ctp_runbook.watch.measure import MetricSeries, badness, counts_events
from ctp_runbook.watch.points import Point

PAGES = Path(__file__).parent / "histograms"


def rule(kind: str, **changes: object) -> MetricRule:
    """A rule of this kind with a limit of 5 and a window of 10 s."""
    given: dict[str, object] = {
        "name": "m",
        "label": "M",
        "unit": "ms",
        "kind": kind,
        "source": "engine",
        "query": "family",
        "limit": 5.0,
        "direction": "max",
        "window_seconds": 10.0,
        **changes,
    }
    return MetricRule(**given)  # type: ignore[arg-type]


def sample(mono: float, series: Mapping[str, float], *, error: str = "") -> Sample:
    """A sample of the engine, ok unless it has an error."""
    return Sample(0, 1.7e9 + mono, mono, "engine", "url", not error, error, 1.0, dict(series))


def histogram(counts: Mapping[float, float], *, scope: str = "") -> dict[str, float]:
    """Cumulative buckets ``{upper bound: count}`` as a page names them."""
    extra = {"scope": scope} if scope else {}
    return {
        series_key("family_bucket", {"le": _bound(bound), **extra}): count
        for bound, count in counts.items()
    }


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(bound)


def points(
    given: MetricRule, *samples: tuple[float, Mapping[str, float]], started: float = 0.0
) -> list[Point]:
    """The points these samples make, in order."""
    series = MetricSeries(given, started_mono=started)
    return [series.add(sample(mono, values)) for mono, values in samples]


def told(given: MetricRule, *samples: tuple[float, Mapping[str, float]]) -> list[object]:
    """Status and value of each point; the value alone of a good one."""
    return [
        point.value if point.status == "good" else (point.status, point.value)
        for point in points(given, *samples)
    ]


# --- latencies --------------------------------------------------------------------


def test_a_latency_is_of_the_window_alone() -> None:
    """A million fast orders of this morning do not hide ten slow ones of this minute."""
    morning = {0.001: 1e6, 0.01: 1e6, math.inf: 1e6}
    now = {0.001: 1e6, 0.01: 1e6 + 10, math.inf: 1e6 + 10}
    latency = rule("latency_quantile", scale=1000.0, quantile=0.99)
    first, second = points(latency, (0, histogram(morning)), (1, histogram(now)))
    assert (first.status, first.events) == ("zero_events", 0)
    assert (second.status, second.events) == ("breach", 10)
    assert second.value == pytest.approx(1 + 9 * 0.99)


def test_events_leave_the_window() -> None:
    """Slow orders count for ``window_seconds`` and no longer."""
    latency = rule("latency_quantile", scale=1000.0, window_seconds=10.0)
    quiet = {0.001: 0.0, 0.1: 0.0, math.inf: 0.0}
    slow = {0.001: 0.0, 0.1: 5.0, math.inf: 5.0}
    found = points(latency, (0, histogram(quiet)), *((at, histogram(slow)) for at in range(1, 14)))
    assert [point.status for point in found] == [
        "zero_events",
        *["breach"] * 10,
        *["zero_events"] * 3,
    ]


def test_labels_are_summed_and_chosen() -> None:
    """Every scope counts, unless the rule names one."""
    before = {
        **histogram({0.001: 0, math.inf: 0}, scope="a"),
        **histogram({0.001: 0, math.inf: 0}, scope="b"),
    }
    after = {
        **histogram({0.001: 3, math.inf: 3}, scope="a"),
        **histogram({0.001: 0, math.inf: 4}, scope="b"),
    }
    both = points(rule("latency_quantile"), (0, before), (1, after))[-1]
    one = points(rule("latency_quantile", labels={"scope": "a"}), (0, before), (1, after))[-1]
    assert (both.events, one.events) == (7, 3)


def test_few_events_are_noise() -> None:
    """Below ``min_events`` there is no value at all; none is told apart from few."""
    latency = rule("latency_quantile", min_events=3)
    counts = [{0.1: n, math.inf: n} for n in (0.0, 0.0, 2.0, 3.0)]
    found = told(latency, *((at, histogram(one)) for at, one in enumerate(counts)))
    assert found[:3] == [("zero_events", None), ("zero_events", None), ("few_events", None)]
    assert isinstance(found[3], float)


# --- above all buckets, and what is no histogram ----------------------------------


def test_what_is_above_all_buckets_is_more_than_the_widest() -> None:
    """Beyond a limit at the bound or below it, unknown under a limit that is higher."""
    counts = [histogram({1.0: 0, 10.0: 0, math.inf: n}) for n in (0, 1)]
    for limit, status in ((9.0, "breach"), (10.0, "breach"), (10.1, "open_bucket")):
        found = points(rule("latency_quantile", limit=limit), *enumerate(counts))[-1]
        assert (found.status, found.value, found.is_over) == (status, 10.0, True)
        assert found.measured
        assert found.judged


def test_more_than_the_least_wanted_is_good() -> None:
    """For a minimum more than the limit is what is wanted; under a higher limit it is unknown."""
    counts = [histogram({1.0: 0, 10.0: 0, math.inf: n}) for n in (0, 1)]
    for limit, status in ((9.0, "good"), (10.0, "good"), (10.1, "open_bucket")):
        given = rule("latency_quantile", limit=limit, direction="min")
        assert points(given, *enumerate(counts))[-1].status == status


def test_a_bound_is_not_rounded_below_its_limit() -> None:
    """0.0049 s is 4.9 ms, though 0.0049 * 1000 is a bit less: more than it is beyond 4.9 ms."""
    assert 0.0049 * 1000 < 4.9
    counts = [histogram({0.0049: 0, math.inf: n}) for n in (0, 1)]
    found = points(rule("latency_quantile", limit=4.9, scale=1000.0), *enumerate(counts))[-1]
    assert (found.status, found.value) == ("breach", 4.9)


FILES: dict[str, tuple[str, float, float, tuple[str, float | None, bool]]] = {
    "reconnect_in_open_bucket": (
        "quant_hft_ctp_reconnect_seconds",
        *(1.0, 10.0),
        ("breach", 10.0, True),
    ),
    "orders_of_two_seconds": (
        "quant_hft_order_latency_seconds",
        *(1000.0, 5.0),
        ("breach", 5.0, True),
    ),
    "no_inf_bucket": ("quant_hft_order_latency_seconds", 1000.0, 5.0, ("no_data", None, False)),
    "only_inf_bucket": ("quant_hft_order_latency_seconds", 1000.0, 5.0, ("no_data", None, False)),
}


@pytest.mark.parametrize("name", FILES)
def test_pages_that_went_wrong(name: str) -> None:
    """What was measured since an empty page of the same series: a bound exceeded, or no value."""
    family, scale, limit, expected = FILES[name]
    page = parse_page((PAGES / f"{name}.txt").read_text(), families=[family])
    given = rule("latency_quantile", query=family, scale=scale, limit=limit)
    found = points(given, (0, dict.fromkeys(page, 0.0)), (1, page))[-1]
    assert (found.status, found.value, found.is_over) == expected
    assert ("has no value: there is no bucket" in found.reason) is (found.value is None)


NO_HISTOGRAMS: dict[str, tuple[dict[str, float], str]] = {
    "no +Inf": (histogram({1.0: 0}), "there is no bucket +Inf"),
    "only +Inf": (histogram({math.inf: 0}), "there is no bucket but +Inf"),
    "NaN as a bound": (
        {**histogram({1.0: 0, math.inf: 0}), 'family_bucket{le="NaN"}': 0.0},
        'le="NaN" is no bound',
    ),
    "no number as a bound": (
        {**histogram({1.0: 0, math.inf: 0}), 'family_bucket{le="x"}': 0.0},
        'le="x" is no bound',
    ),
    "falls with the bound": (
        histogram({1.0: 5, math.inf: 4}),
        "bucket +Inf counts fewer events than a narrower one",
    ),
    "other buckets elsewhere": (
        {**histogram({1.0: 0, math.inf: 0}), **histogram({2.0: 0, math.inf: 0}, scope="b")},
        "different buckets",
    ),
}


@pytest.mark.parametrize(("series", "why"), NO_HISTOGRAMS.values(), ids=NO_HISTOGRAMS)
def test_what_is_no_histogram_has_no_value(series: dict[str, float], why: str) -> None:
    """Also where no event was counted: a broken page proves none. The reason says what is broken."""
    found = points(rule("latency_quantile"), (0, series), (1, series))
    assert [point.status for point in found] == ["no_data", "no_data"]
    assert found[1].reason.startswith("family has no value: ")
    assert why in found[1].reason


def test_a_window_whose_counts_fall_with_the_bound_has_no_value() -> None:
    """Both readings may be histograms, and what was counted between them none: three events of
    at most 1 s and only one in all."""
    counts = [{1.0: 0, math.inf: 5}, {1.0: 3, math.inf: 6}]
    found = points(rule("latency_quantile"), *enumerate(map(histogram, counts)))[-1]
    assert found.status == "no_data"
    assert found.reason == (
        "family has no value: within 10 s bucket +Inf counts fewer events than a narrower one"
    )


def test_a_reading_that_is_no_histogram_is_passed_over() -> None:
    """What was counted meanwhile is in the next point: nothing is lost by a broken page."""
    pages = [{1.0: 0, math.inf: 0}, {1.0: 4, math.inf: 2}, {1.0: 0, math.inf: 2}]
    found = points(rule("latency_quantile", limit=0.5), *enumerate(map(histogram, pages)))
    assert [point.status for point in found] == ["zero_events", "no_data", "breach"]
    assert found[2].events == 2


def test_other_buckets_are_those_of_a_restarted_engine() -> None:
    """What was counted by one histogram is not taken from what another one counts."""
    pages = [{1.0: 3, math.inf: 3}, {2.0: 3, math.inf: 4}, {2.0: 3, math.inf: 4}]
    found = points(rule("latency_quantile"), *enumerate(map(histogram, pages)))
    assert found[1].reason == "it has other buckets than before: engine restarted"
    assert found[2].events == 4


# --- counters and gauges ----------------------------------------------------------


def test_a_counter_is_its_increase_over_the_window() -> None:
    """What it stood at before does not count, and what it rose by leaves the window again."""
    counter = rule("counter", limit=2.0, window_seconds=3.0)
    steps = (100, 100, 101, 103, 103, 103, 103, 103)
    found = told(counter, *((at, {"family": float(value)}) for at, value in enumerate(steps)))
    assert found == [0, 0, 1, ("breach", 3), ("breach", 3), 2, 0, 0]


@pytest.mark.parametrize("kind", ["latency_quantile", "counter"])
def test_a_counter_that_goes_back_is_no_data(kind: str) -> None:
    """An engine that counts anew is said to; nothing is made of the difference, and what it
    counted since is in the next point."""
    counts = (5.0, 9.0, 1.0, 4.0)
    shown = [
        {"family": n} if kind == "counter" else histogram({1.0: n, math.inf: n}) for n in counts
    ]
    found = points(rule(kind, limit=100.0), *enumerate(shown))
    assert found[2].status == "no_data"
    assert found[2].reason == "counter went back: engine restarted"
    assert not found[2].measured
    assert (found[1].events, found[3].events) == (4, 4)


def test_what_was_counted_since_the_restart_counts() -> None:
    """A counter that was reset and stands at 7 has counted 7, as in Prometheus' increase."""
    series = MetricSeries(rule("counter", limit=0.0), started_mono=0.0)
    for at, value in enumerate((100.0, 100.0, 7.0, 7.0)):
        series.add(sample(at, {"family": value}))
    assert series.events == 7


def test_what_was_counted_since_the_restart_is_judged() -> None:
    """In the points after it, for ``window_seconds``; until there is one, as not judged yet."""
    series = MetricSeries(rule("counter", limit=0.0, window_seconds=2.0), started_mono=0.0)
    found = []
    for at, value in enumerate((100.0, 100.0, 7.0, 7.0, 7.0)):
        found.append(series.add(sample(at, {"family": value})))
        assert series.unjudged == (7 if at == 2 else 0)
    assert [point.status for point in found] == ["good", "good", "no_data", "breach", "good"]
    assert found[3].value == 7


def test_one_bucket_that_goes_back_is_a_restart() -> None:
    """Though there are more events in all: a process counts up, in every bucket."""
    shown = [histogram({0.001: fast, math.inf: n}) for fast, n in ((5, 5), (2, 8), (2, 9))]
    found = points(rule("latency_quantile", limit=1e9), *enumerate(shown))
    assert found[1].reason == "counter went back: engine restarted"
    assert found[2].events == 9


GAUGES: dict[str, tuple[MetricRule, dict[str, float], object]] = {
    "good": (rule("state"), {"family": 4.0}, 4.0),
    "at the limit": (rule("state"), {"family": 5.0}, 5.0),
    "beyond": (rule("state"), {"family": 5.5}, ("breach", 5.5)),
    "the worst of all": (
        rule("state"),
        {'family{s="a"}': 1.0, 'family{s="b"}': 6.0},
        ("breach", 6.0),
    ),
    "the label chosen": (
        rule("state", labels={"s": "a"}),
        {'family{s="a"}': 1.0, 'family{s="b"}': 6.0},
        1.0,
    ),
    "at least": (rule("state", direction="min"), {"family": 5.0}, 5.0),
    "too little": (rule("state", direction="min"), {"family": 4.0}, ("breach", 4.0)),
    "the worst of all, at least": (
        rule("state", direction="min"),
        {'family{s="a"}': 9.0, 'family{s="b"}': 1.0},
        ("breach", 1.0),
    ),
    "in the unit of the limit": (
        rule("lag", scale=1000.0),
        {"family": 0.006},
        ("breach", 6.0),
    ),
    "another family": (rule("state"), {"family_total": 9.0, "fam": 9.0}, ("no_data", None)),
    "nothing": (rule("state"), {}, ("no_data", None)),
    "NaN": (rule("state"), {"family": math.nan}, ("no_data", None)),
    "one of them NaN": (
        rule("state"),
        {'family{s="a"}': 1.0, 'family{s="b"}': math.nan},
        ("no_data", None),
    ),
    "infinite": (rule("state"), {"family": math.inf}, ("no_data", None)),
    "infinitely good": (rule("state"), {"family": -math.inf}, ("no_data", None)),
}


@pytest.mark.parametrize(("given", "series", "expected"), GAUGES.values(), ids=GAUGES)
def test_a_gauge_is_its_worst_value(
    given: MetricRule, series: dict[str, float], expected: object
) -> None:
    """Over all its labels, in the metric's own unit; what is no number is no data."""
    assert told(given, (0, series)) == [expected]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["latency_quantile", "counter", "state", "lag"])
def test_what_is_no_number_is_never_good(kind: str, value: float) -> None:
    """Not even as the difference of two: neither measured nor counted."""
    series = MetricSeries(rule(kind), started_mono=0.0)
    shown = histogram({1.0: value, math.inf: value}) if "quantile" in kind else {"family": value}
    found = [series.add(sample(at, shown)) for at in range(3)]
    assert [point.status for point in found] == ["no_data"] * 3
    assert series.events == 0


def test_an_error_is_no_measurement() -> None:
    """The source's own words are kept."""
    series = MetricSeries(rule("state"), started_mono=0.0)
    point = series.add(sample(0, {"family": 1.0}, error="connection refused"))
    assert (point.status, point.value, point.reason) == ("error", None, "connection refused")
    assert not point.measured


def test_a_warm_up_is_measured_and_not_judged() -> None:
    """Breaches before its end do not count; no data is no data at any time."""
    warm = rule("state", warm_up_seconds=2.0)
    shown = [(100.0, {"family": 9.0}), (101.0, {}), (102.0, {"family": 9.0})]
    found = points(warm, *shown, started=100.0)
    assert [point.status for point in found] == ["warm_up", "no_data", "breach"]
    assert [point.measured for point in found] == [True, False, True]
    assert [point.judged for point in found] == [False, False, True]


@pytest.mark.parametrize(
    ("kind", "counts"),
    [("latency_quantile", True), ("counter", True), ("state", False), ("lag", False)],
)
def test_only_events_can_be_too_few(kind: str, counts: bool) -> None:
    """A state or a lag needs no event to be known."""
    assert counts_events(rule(kind)) is counts


@pytest.mark.parametrize(("direction", "expected"), [("max", 1.5), ("min", -1.5)])
def test_badness_points_away_from_the_limit(direction: str, expected: float) -> None:
    """Positive beyond the limit, whichever side is bad."""
    assert badness(rule("state", direction=direction), 6.5) == expected


def test_what_no_engine_exposes_goes_by_the_metrics_name() -> None:
    """The query of Kafka is a topic, of ClickHouse a text: the sample has the metric's own name."""
    given = rule(
        "lag", source="kafka", query="market.ticks.v1", name="kafka_lag_ms", labels={"group": "g"}
    )
    wanted = series_key("kafka_lag_ms", {"group": "g"})
    other = series_key("kafka_lag_ms", {"group": "h"})
    assert told(given, (0, {wanted: 3}), (1, {wanted: 7})) == [3, ("breach", 7)]
    assert told(given, (0, {other: 3}), (1, {"market.ticks.v1": 3})) == [("no_data", None)] * 2
