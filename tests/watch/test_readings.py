"""Facts about watch/readings.py: stretches of time, and what one metric came to in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.readings import Readings
from tests.props.metric_samples import blocks, histogram, rule, sample, states

INF = math.inf


def readings(
    kind: str, samples: Sequence[Sample], changes: Mapping[str, object] = {}, **limits: Any
) -> Readings:
    """What is read of these samples by stretches of two seconds."""
    read = Readings(rule(kind, **changes), **{"seconds": 2.0, **limits})
    for block in blocks(samples):
        read.add(block)
    return read


# Values a second, what of the rule is different, and the worst of each two seconds.
WORST: dict[str, tuple[list[float | str | None], dict[str, object], list[float]]] = {
    "highest": ([1.0, 3.0, 2.0, 2.0, 5.0], {}, [3.0, 2.0, 5.0]),
    "lowest": ([1.0, 3.0, 2.0, 2.0, 5.0], {"direction": "min"}, [1.0, 2.0, 5.0]),
    "in its unit": ([1.0, 3.0], {"scale": 1000.0}, [3000.0]),
    "a stretch without a value": ([1.0, 1.0, math.nan, math.nan, 4.0], {}, [1.0, 4.0]),
    "an error is no value": ([1.0, "refused", 3.0, 2.0], {}, [1.0, 3.0]),
    "nothing in the page": ([None, 7.0, 8.0], {}, [8.0]),
    "nothing at all": ([], {}, []),
    "no minus zero": ([-0.0], {}, [0.0]),
}


@pytest.mark.parametrize(("values", "changes", "worst"), WORST.values(), ids=WORST)
def test_a_state_is_its_worst_in_each_stretch(
    values: list[float | str | None], changes: dict[str, object], worst: list[float]
) -> None:
    """Stretches begin at the first reading; one without a value is left out."""
    furthest = readings("state", states(values), changes).furthest
    assert furthest == worst
    assert [math.copysign(1, value) for value in furthest] == [
        math.copysign(1, value) for value in worst
    ]


# Counts a second, and by how much they grew in each two seconds.
GROWN: dict[str, tuple[list[float | str | None], list[float]]] = {
    "steadily": ([10.0, 11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 1.0]),
    "not at all": ([10.0, 10.0, 10.0], [0.0, 0.0]),
    "a restart": ([10.0, 11.0, 2.0, 3.0], [1.0, 1.0]),
    "a gap": ([10.0, "refused", "refused", 19.0, 20.0], [1.0]),
    "a short gap": ([10.0, "refused", 12.0, 13.0], [3.0]),
    "one reading": ([10.0], []),
}


@pytest.mark.parametrize(("counts", "increases"), GROWN.values(), ids=GROWN)
def test_a_counter_is_its_increase_in_each_stretch(
    counts: list[float | str | None], increases: list[float]
) -> None:
    """Between neighbours; none across a gap of more than two intervals, or a restart."""
    found = readings("counter", states(counts))
    assert [stretch[0.0] for stretch in found.increases] == increases


def test_a_histogram_is_its_increases_by_bucket() -> None:
    """What is no histogram, as it stands or as it grew, is read over."""
    pages = [
        histogram({1.0: 2, INF: 3}),
        histogram({1.0: 4, INF: 6}),
        histogram({1.0: 9, INF: 6}),  # more up to 1 s than at all
        histogram({1.0: 4, INF: 8}),
        histogram({1.0: 7, INF: 9}),  # three more up to 1 s, and one in all
    ]
    found = readings("latency_quantile", [sample(at, page) for at, page in enumerate(pages)])
    assert found.increases == [{1.0: 2.0, INF: 3.0}, {1.0: 0.0, INF: 2.0}]
    assert found.is_of_one_histogram


def test_buckets_that_changed_are_told() -> None:
    """Nothing is made of the difference between two histograms."""
    pages = [
        *(histogram({1.0: n, INF: n}) for n in (0, 1)),
        *(histogram({2.0: n, INF: n}) for n in (9, 11)),
    ]
    found = readings("latency_quantile", [sample(at, page) for at, page in enumerate(pages)])
    assert not found.is_of_one_histogram
    assert [stretch[INF] for stretch in found.increases] == [1.0, 2.0]


def test_what_is_outside_its_time_does_not_count() -> None:
    """From ``since`` to ``until``, both included; the first stretch begins at the first inside."""
    values = states([float(at) for at in range(10)])
    assert readings("state", values, since=3.0, until=6.0).furthest == [4.0, 6.0]
    assert readings("counter", values, since=3.0, until=6.0).increases == [{0.0: 1.0}, {0.0: 2.0}]
    assert readings("state", values, since=20.0).furthest == []


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_it_does_not_matter_where_blocks_are_cut(rows: int) -> None:
    """A stretch, and a delta, may lie in two of them."""
    values = states([float(at * at) for at in range(20)])
    for kind in ("state", "counter"):
        whole, parts = (Readings(rule(kind), seconds=3.0) for _ in range(2))
        for block in blocks(values):
            whole.add(block)
        for first in range(0, len(values), rows):
            for block in blocks(values[first : first + rows]):
                parts.add(block)
        assert parts.increases == whole.increases


def test_only_its_own_pages_are_read() -> None:
    """Of another source, or of a page that another rule names, nothing is taken."""
    values = states([1.0, 2.0])
    others = [replace(one, target="http://other/metrics") for one in values]
    strangers = [replace(one, source="kafka") for one in values]
    for taken in (others, strangers):
        assert readings("state", taken, pages={"http://other/metrics"}).furthest == []
    assert readings("state", others, {"url": "http://other/metrics"}).furthest == [2.0]
