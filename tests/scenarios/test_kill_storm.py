"""A storm of kills over the whole cutover: nothing lost, nothing armed, and no false sentence.

What is drawn, and how it is judged, stands in tests/props/kill_storm.py; run number 7 alone is
``python -m tests.props.kill_storm 7 FOLDER``. CI runs the first 15, four at once; all 200 are
``make prove``, which keeps the table. CTP_RUNBOOK_STORM says how many, CTP_RUNBOOK_STORM_KINDS
what is drawn from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.props.kill_storm import Row, draw, storm

IN_CI = 15
ALL = int(os.environ.get("CTP_RUNBOOK_STORM", "200"))


def told(rows: list[Row]) -> str:
    """What was wrong, with the story of each run that it was wrong in."""
    return "\n\n".join(f"{row.line}\n{row.story}" for row in rows if row.faults)


def test_the_same_number_draws_the_same_hits() -> None:
    """A run that went wrong can be made again; hits come in the order of their moments."""
    for number in range(200):
        row = draw(number)
        assert row == draw(number)
        assert 1 <= len(row.hits) <= 3


@pytest.mark.timeout(600)
def test_no_run_of_a_small_storm_is_lost(tmp_path: Path) -> None:
    """Killed, ended and stopped at any moment: one generation trades, or the run said what runs."""
    rows = storm(range(IN_CI), tmp_path)
    assert not told(rows), told(rows)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_run_of_the_storm_is_lost(
    tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """All 200. The table is kept."""
    rows = storm(range(ALL), tmp_path)
    hits = [hit for row in rows for hit in row.hits]
    came = sum(hit.came == "done" for hit in hits)
    wrong = sum(bool(row.faults) for row in rows)
    summary = f"{len(rows)} runs, {came} of {len(hits)} hits delivered, {wrong} runs with a fault"
    record_table("kill_storm", [*(row.line for row in rows), summary])
    assert not told(rows), told(rows)
