"""Pages with several label sets, one of them bad: border/labels/."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates import readiness_probes
from ctp_runbook.gates.readiness_probes import ReadinessSources, measure
from ctp_runbook.probes.metrics import parse_page
from tests.props.judged_pages import judge_pages

FOLDER = Path(__file__).parent / "border" / "labels"
CASES: dict[str, dict[str, dict[str, Any]]] = tomllib.loads((FOLDER / "expect.toml").read_text())
USUAL = {"unit": "ms", "limit": 5.0, "scale": 1000.0}


def test_every_page_is_expected() -> None:
    """A page without a line in the table is never read."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == {
        name for kind in CASES.values() for name in kind
    }


@pytest.mark.parametrize("name", CASES["watch"])
def test_the_worst_label_set_counts_in_a_watch(name: str) -> None:
    """And is named; however many good ones there are beside it."""
    case = CASES["watch"][name]
    seen = judge_pages(FOLDER / f"{name}.txt", **{**USUAL, **case["rule"]})
    assert seen.judged.verdict.name == case["verdict"], seen.judged.sentence
    assert case["says"] in seen.judged.sentence


@pytest.mark.parametrize("name", CASES["readiness"])
def test_the_worst_label_set_counts_in_the_readiness_gate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no number stands in the file without a value, and is not healthy."""
    case, text = CASES["readiness"][name], (FOLDER / f"{name}.txt").read_text()
    # Before: the same series at zero, for what is counted between two looks.
    looks = iter([True])

    def scrape(url: str, *, families: tuple[str, ...], seconds: float) -> dict[str, float]:
        page = parse_page(text, families=families)
        return dict.fromkeys(page, 0.0) if next(looks, False) else page

    monkeypatch.setattr(readiness_probes, "scrape", scrape)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    found = measure(ReadinessSources("x", metrics_url="http://engine", window_seconds=0.0))
    (sli,) = [reading for reading in found.readings if reading.name == case["sli"]]
    assert (sli.value, sli.provenance) == (case.get("value"), "measured"), sli.sentence
    assert case["says"] in sli.detail
    assert sli.is_healthy is (name in ("td_and_md_up", "no_bucket_at_the_target"))
