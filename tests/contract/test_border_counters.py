"""Counters that appear, vanish and begin anew, and how many events that proves: border/counters/."""

from __future__ import annotations

import os
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries
from tests.props.judged_pages import judge_pages

FOLDER = Path(__file__).parent / "border" / "counters"
CASES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "expect.toml").read_text())
COUNTER = {"kind": "counter", "query": "f", "unit": "count", "limit": 0.0, "min_events": 0}


def test_every_page_is_expected() -> None:
    """A page without a line in the table is never read."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_each_series_counts_for_itself(name: str) -> None:
    """What first appears has counted what it shows, what vanishes nothing, and a series that begins
    anew is seen beside others that go on. Live and in a replay."""
    case = CASES[name]
    seen = judge_pages(FOLDER / f"{name}.txt", **{**COUNTER, **case.get("rule", {})})
    assert seen.events == case["events"]
    assert seen.judged.verdict.name == case["verdict"], seen.judged.sentence


# What each of three series shows on a page; None: it is not there.
shows = st.lists(st.lists(st.sampled_from([None, 0, 1, 2, 5]), min_size=3, max_size=3), max_size=6)


def plainly(pages: list[list[int | None]]) -> int:
    """The increase of each series by itself, added up: what is new counts from zero."""
    total = 0
    for place in range(3):
        last = pages[0][place]
        for page in pages[1:]:
            if (now := page[place]) is None:
                continue
            total += now if last is None or now < last else now - last
            last = now
    return total


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(pages=shows)
def test_no_event_is_lost_in_a_sum(pages: list[list[int | None]]) -> None:
    """At least what each series shows to have counted, and none where none has."""
    rule = MetricRule(name="m", label="M", source="engine", direction="max", **COUNTER)  # type: ignore[arg-type]
    series = MetricSeries(rule, started_mono=0.0)
    for mono, page in enumerate(pages):
        shown = {f'f{{s="{s}"}}': float(v) for s, v in enumerate(page) if v is not None}
        series.add(Sample(mono, 1.7e9 + mono, float(mono), "engine", "", True, "", 1.0, shown))
    expected = plainly(pages) if pages else 0
    assert series.events >= expected
    has_fallen = any(
        now is not None and last is not None and now < last
        for place in range(3)
        for seen in [[page[place] for page in pages if page[place] is not None]]
        for last, now in pairwise(seen)
    )
    if not has_fallen:
        assert series.events == expected
