"""Histograms as engines really write them, and what may be said of them: border/buckets/."""

from __future__ import annotations

import bisect
import math
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudge
from tests.props.judged_pages import judge_pages

FOLDER = Path(__file__).parent / "border" / "buckets"
CASES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "expect.toml").read_text())
ORDERS = {
    "query": "quant_hft_order_latency_seconds",
    "unit": "ms",
    "limit": 5.0,
    "scale": 1000.0,
    "min_events": 1,
}


def test_every_page_is_expected() -> None:
    """A page without a line in the table is never read."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_histogram_proves_what_its_buckets_tell(name: str) -> None:
    """A value above all buckets is more than the widest; what is no histogram has no value; too few
    events are no proof. Live and in a replay."""
    case = CASES[name]
    rule = {**ORDERS, **case.get("rule", {})}
    seen = judge_pages(FOLDER / f"{name}.txt", trigger=case.get("trigger", "m > 5"), **rule)
    assert seen.judged.verdict.name == case["verdict"], seen.judged.sentence
    assert case["says"] in seen.judged.sentence
    assert (seen.firing is not None) is (case["verdict"] == "FAILED")
    assert case.get("missing", "") in " ".join(seen.missing)
    assert bool(seen.missing) is ("missing" in case), seen.missing


# --- against the observations themselves --------------------------------------------

LIMIT, LEAST = 10.0, 3
REFERENCE: dict[str, Any] = {
    "kind": "latency_quantile",
    "query": "f",
    "unit": "s",
    "scale": 1.0,
    "limit": LIMIT,
    "direction": "max",
    "window_seconds": 60.0,
    "fresh_seconds": 10.0,
    "min_coverage": 0.0,
    "min_events": LEAST,
    "zero_events": "pass",
}
# Bounds around the limit, which most engines have a bucket at, and some have not.
bounds = st.sampled_from(
    [(1.0, 10.0), (1.0, 10.0, 60.0), (10.0,), (1.0, 5.0), (0.5,), (1.0, 10.0, 10.5), (1.0, 30.0)]
)
values = st.lists(st.sampled_from([0.1, 0.9, 1.0, 4.0, 9.9, 10.0, 10.2, 40.0, 300.0]), max_size=6)
# What a page shows: of each front, what was observed since the last page, and whether it is shown.
looks = st.lists(
    st.tuples(*[st.tuples(values, st.sampled_from([True, True, True, False]))] * 2), max_size=5
)


def shown(observed: list[float], ends: tuple[float, ...], front: int) -> dict[str, float]:
    """The series of a front that observed these values."""
    ordered = sorted(observed)
    return {
        f'f_bucket{{front="{front}",le="{"+Inf" if math.isinf(end) else end}"}}': float(
            bisect.bisect_right(ordered, end)
        )
        for end in (*ends, math.inf)
    }


def truth(observed: list[float], ends: tuple[float, ...]) -> str:
    """What the p99 of these values is to the limit, as far as buckets can tell at all."""
    if len(observed) < LEAST:
        return "few"
    true = sorted(observed)[math.ceil(0.99 * len(observed)) - 1]
    lower = max((end for end in ends if end < true), default=0.0)
    upper = min((end for end in ends if end >= true), default=math.inf)
    if math.isinf(upper):
        return "over" if lower >= LIMIT else "unknown"
    if lower < LIMIT < upper:
        return "guess"  # interpolated, and told as a limit without a bucket
    return "over" if true > LIMIT else "good"


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(
    ends=bounds,
    begin=st.tuples(values, values),
    first=st.sampled_from([(), (0,), (0, 1)]),
    steps=looks,
)
def test_no_pass_that_the_observations_call_unknown_or_beyond(
    ends: tuple[float, ...],
    begin: tuple[list[float], list[float]],
    first: tuple[int, ...],
    steps: list[tuple[tuple[list[float], bool], ...]],
) -> None:
    """Two fronts that come, go and come back on the page; the reference has the values themselves."""
    rule = MetricRule(name="m", label="M", source="engine", **{**ORDERS, **REFERENCE})
    judge = WindowJudge(
        rules=WatchRules({"m": rule}, 1.0, 1.0, 1.0),
        keys=("m",),
        trigger=parse_trigger("m > 10", units={"m": "s"}, file="t", line=1),
        started_mono=0.0,
        ends_mono=10.0,
    )
    total, counted = [list(begin[0]), list(begin[1])], [list[float](), list[float]()]
    for front in {0, 1} - set(first):  # not there yet: all that it shows then is new
        counted[front] += begin[front]
    pages = [{k: v for front in first for k, v in shown(total[front], ends, front).items()}]
    for step in (*steps, (([], True), ([], True))):
        for front, (more, _) in enumerate(step):
            total[front] += more
            counted[front] += more
        fronts = [front for front, (_, is_shown) in enumerate(step) if is_shown]
        pages.append(
            {k: v for front in fronts for k, v in shown(total[front], ends, front).items()}
        )
    for mono, page in enumerate((*pages, pages[-1])):
        judge.add(Sample(mono, 1.7e9 + mono, float(mono), "engine", "", True, "", 1.0, page))
    judged = judge.at(10.0, final=True).metrics["m"]
    verdict = judged.verdict.name
    truths = {truth(one, ends) for one in (counted[0] + counted[1], *counted)}
    if "over" in truths:
        assert verdict == "FAILED", judged.sentence
        assert judge.firing is not None
    if "unknown" in truths or truth(counted[0] + counted[1], ends) == "few":
        assert verdict != "PASSED" or not any(counted), judged.sentence
    if verdict == "FAILED" and LIMIT in ends:
        # Some front, or both together, at some time: never by values that are all within.
        assert max(counted[0] + counted[1]) > LIMIT, judged.sentence
