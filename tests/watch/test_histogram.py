"""Facts about watch/histogram.py: quantiles, what is above all buckets, and what is no histogram."""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.watch.histogram import (
    Buckets,
    Quantile,
    SeriesKey,
    bucket_quantile,
    bucket_series,
    counts_fault,
    first_fault,
    label_sets,
    worst_quantile,
)

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.1, math.inf)
quantiles = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999])
observations = st.lists(st.floats(0, 0.5, allow_nan=False), min_size=1, max_size=200)


def cumulative(values: list[float]) -> list[float]:
    """The counts of a histogram that saw these values."""
    ordered = sorted(values)
    return [float(bisect.bisect_right(ordered, bound)) for bound in BOUNDS]


@given(values=observations, quantile=quantiles)
def test_the_quantile_is_right_within_its_bucket(values: list[float], quantile: float) -> None:
    """The true order statistic lies in the bucket the answer comes from; above the last finite
    bound the answer is "more than" that bound, and so is the truth."""
    found = bucket_quantile(BOUNDS, cumulative(values), quantile=quantile)
    true = float(np.quantile(values, quantile, method="inverted_cdf"))
    upper = BOUNDS[bisect.bisect_left(BOUNDS, true)]
    lower = max((bound for bound in BOUNDS if bound < upper), default=0.0)
    assert found is not None
    assert lower <= found.value <= upper
    assert found.is_over is math.isinf(upper)
    if found.is_over:
        assert found.value == BOUNDS[-2] < true


@given(values=observations, quantile=quantiles)
def test_more_slow_events_never_lower_the_quantile(values: list[float], quantile: float) -> None:
    """One more event above every finite bound moves the answer up or leaves it."""
    before = bucket_quantile(BOUNDS, cumulative(values), quantile=quantile)
    after = bucket_quantile(BOUNDS, cumulative([*values, 1.0]), quantile=quantile)
    assert before is not None
    assert after is not None
    assert (after.value, after.is_over) >= (before.value, before.is_over)


QUANTILES: dict[str, tuple[dict[float, float], Quantile | None]] = {
    "no buckets": ({}, None),
    "no events": ({1.0: 0, math.inf: 0}, None),
    "all in the first": ({1.0: 10, 2.0: 10, math.inf: 10}, Quantile(0.5, is_over=False)),
    "half in each": ({1.0: 5, 2.0: 10, math.inf: 10}, Quantile(1.0, is_over=False)),
    "all in the second": ({1.0: 0, 2.0: 10, math.inf: 10}, Quantile(1.5, is_over=False)),
    "all above": ({1.0: 0, 2.0: 0, math.inf: 10}, Quantile(2.0, is_over=True)),
    "half above": ({1.0: 5, math.inf: 10}, Quantile(1.0, is_over=False)),
    "more than half above": ({1.0: 4, math.inf: 10}, Quantile(1.0, is_over=True)),
    "only the open one": ({math.inf: 10}, None),
    "an empty one between": ({1.0: 4, 2.0: 4, 4.0: 8, math.inf: 8}, Quantile(1.0, is_over=False)),
    "at zero or less": ({0.0: 10, 1.0: 10, math.inf: 10}, Quantile(0.0, is_over=False)),
    "below zero": ({-1.0: 10, 1.0: 10, math.inf: 10}, Quantile(-1.0, is_over=False)),
}


@pytest.mark.parametrize(("buckets", "median"), QUANTILES.values(), ids=QUANTILES)
def test_medians_as_prometheus_has_them(
    buckets: dict[float, float], median: Quantile | None
) -> None:
    """Interpolated in the bucket that the rank falls in, but for the open one; no event has none."""
    assert bucket_quantile([*buckets], [*buckets.values()], quantile=0.5) == median


COUNTS: dict[str, tuple[dict[float, float], str]] = {
    "cumulative": ({1.0: 3, 2.0: 3, math.inf: 4}, ""),
    "nothing yet": ({1.0: 0, math.inf: 0}, ""),
    "falls": ({1.0: 3, 2.0: 2, math.inf: 4}, "bucket 2 counts fewer events than a narrower one"),
    "falls at the end": (
        {1.0: 3, math.inf: 2},
        "bucket +Inf counts fewer events than a narrower one",
    ),
    "less than nothing": ({1.0: -1, math.inf: 2}, "bucket 1 counts fewer events than none"),
    "no number": ({1.0: math.nan, math.inf: 2}, "bucket 1 counts fewer events than none"),
}


@pytest.mark.parametrize(("buckets", "fault"), COUNTS.values(), ids=COUNTS)
def test_a_bucket_holds_all_narrower_ones(buckets: dict[float, float], fault: str) -> None:
    """Counts that fall with the bound are no histogram's, and the bucket is named."""
    bounds, counts = [*buckets], [*buckets.values()]
    assert counts_fault(bounds, counts) == first_fault(bounds, counts) == fault
    of_two = [*range(len(bounds)), *counts]
    assert first_fault(bounds, of_two) == fault, "the second of two label sets"


FAULTS: dict[str, tuple[list[dict[str, str]], str]] = {
    "no +Inf": ([{"le": "1"}, {"le": "2"}], "there is no bucket +Inf, which counts all events"),
    "only +Inf": ([{"le": "+Inf"}], "there is no bucket but +Inf"),
    "NaN": ([{"le": "NaN"}, {"le": "+Inf"}], 'le="NaN" is no bound of a bucket'),
    "no number": ([{"le": "fast"}, {"le": "1"}, {"le": "+Inf"}], 'le="fast" is no bound'),
    "blank": ([{"le": ""}, {"le": "+Inf"}], 'le="" is no bound'),
    "none at all": ([{"scope": "a"}, {"le": "+Inf"}], 'le="" is no bound'),
    "minus infinity": ([{"le": "-Inf"}, {"le": "+Inf"}], 'le="-Inf" is no bound'),
    "beyond all floats": ([{"le": "1e999"}, {"le": "+Inf"}], 'le="1e999" is no bound'),
    "a number to Python alone": ([{"le": "1_0"}, {"le": "+Inf"}], 'le="1_0" is no bound'),
    "another script's digits": ([{"le": "٣"}, {"le": "+Inf"}], "is no bound"),
    "spaces": ([{"le": " 1"}, {"le": "+Inf"}], 'le=" 1" is no bound'),
    "twice": ([{"le": "1"}, {"le": "1.0"}, {"le": "+Inf"}], "bucket 1 is there twice"),
    "+Inf twice": ([{"le": "1"}, {"le": "inf"}, {"le": "+Inf"}], "bucket +Inf is there twice"),
    "one lacks +Inf": (
        [{"le": "1", "g": "a"}, {"le": "+Inf", "g": "a"}, {"le": "1", "g": "b"}],
        "there is no bucket +Inf",
    ),
    "one has only +Inf": (
        [{"le": "1", "g": "a"}, {"le": "+Inf", "g": "a"}, {"le": "+Inf", "g": "b"}],
        "there is no bucket but +Inf",
    ),
    "different buckets": (
        [
            *({"le": le, "g": "a"} for le in ("1", "5", "+Inf")),
            *({"le": le, "g": "b"} for le in ("1", "+Inf")),
        ],
        "its series have different buckets, which cannot be added up",
    ),
}


@pytest.mark.parametrize(("labels", "fault"), FAULTS.values(), ids=FAULTS)
def test_series_that_are_no_whole_histogram_are_told_why(
    labels: list[dict[str, str]], fault: str
) -> None:
    """None of their buckets is used: to leave one out would be to make up what it counted."""
    found = bucket_series(enumerate(labels))
    assert found.keys == ()
    assert found.fault.startswith(fault) or fault in found.fault


def test_the_same_buckets_are_added_up_however_they_are_written() -> None:
    """Two gateways, one of which writes 1 for 1.0: each has the same bounds."""
    texts = ("1", "2.5", "+Inf"), ("1.0", "25e-1", "Inf")
    labels = [{"le": le, "g": g} for g, own in zip("ab", texts, strict=True) for le in own]
    bounds = (1.0, 2.5, math.inf)
    keys = [(f'{{g="{g}"}}', bound) for g in "ab" for bound in bounds]
    expected = Buckets(tuple(zip(keys, range(6), strict=True)))
    assert bucket_series(enumerate(labels)) == expected


def fronts(**counts: tuple[float, float, float]) -> dict[SeriesKey, float]:
    """Counts up to 1, up to 2, and of all, of each front."""
    return {
        (f'{{front="{front}"}}', bound): count
        for front, own in counts.items()
        for bound, count in zip((1.0, 2.0, math.inf), own, strict=True)
    }


# Counts by front, which side is bad, the least number of events; the median that is worst.
WORST: dict[str, tuple[dict[SeriesKey, float], str, int, Quantile | None]] = {
    "one of them": (fronts(a=(4, 4, 4)), "max", 1, Quantile(0.5, is_over=False)),
    "a slow one": (
        fronts(a=(90, 90, 90), b=(0, 10, 10)),
        *("max", 10, Quantile(1.5, is_over=False, labels='{front="b"}')),
    ),
    "one above all buckets": (
        fronts(a=(90, 90, 90), b=(0, 0, 10)),
        *("max", 10, Quantile(2.0, is_over=True, labels='{front="b"}')),
    ),
    "a slow one of few": (
        fronts(a=(98, 98, 98), b=(0, 0, 2)),
        "max",
        10,
        Quantile(50 / 98, is_over=False),
    ),
    "a fast one, and less is bad": (
        fronts(a=(0, 90, 90), b=(10, 10, 10)),
        *("min", 10, Quantile(0.5, is_over=False, labels='{front="b"}')),
    ),
    "all alike": (fronts(a=(4, 4, 4), b=(4, 4, 4)), "max", 1, Quantile(0.5, is_over=False)),
    "too few": (fronts(a=(4, 4, 4), b=(5, 5, 5)), "max", 10, None),
    "enough together": (fronts(a=(5, 5, 5), b=(5, 5, 5)), "max", 10, Quantile(0.5, is_over=False)),
    "none": ({}, "max", 0, None),
    "no event": (fronts(a=(0, 0, 0)), "max", 0, None),
}


@pytest.mark.parametrize(("counts", "direction", "least", "median"), WORST.values(), ids=WORST)
def test_the_worst_label_set_is_the_quantile(
    counts: dict[SeriesKey, float], direction: str, least: int, median: Quantile | None
) -> None:
    """Named where it is worse than all together; with too few events of its own it is not asked."""
    sets = {labels: [*own.values()] for labels, own in label_sets(counts).items()}
    bounds = sorted({bound for _, bound in counts})
    found = worst_quantile(bounds, sets, quantile=0.5, min_events=least, direction=direction)
    assert found == median
