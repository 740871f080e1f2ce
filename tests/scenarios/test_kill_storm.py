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

from tests.props.kill_storm import Row, draw, false_ending, false_status, storm

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


NEW = {"new_core_engine": (1,), "new_strategy_runner": (2,)}
OLD = {"old_core_engine": (3,), "old_strategy_runner": (4,)}
AT_IT = {"orchestrator": (5,), "guardian": (6,)}
FIRST = "run x: WATCHING; conducted; /x\n"
LOST = "run x: WATCHING; not conducted by anybody; /x\nNOBODY CONDUCTS run x (WATCHING): "
NOTHING = "old_strategy_runner gone, new_strategy_runner gone; NOTHING TRADES."
SAID = {
    "conducted": (FIRST, 0, {**NEW, **AT_IT}, 0),
    "conducted by nobody": (FIRST, 0, NEW, 1),
    "nothing trades": (LOST + NOTHING, 7, {}, 0),
    "nothing trades, beside a runner": (LOST + NOTHING, 7, NEW, 2),
    "gone, and it runs": (f"{LOST}old_core_engine gone", 7, OLD, 1),
    "lost, with exit 0": (LOST, 0, {}, 1),
    "lost, and somebody is at it": (LOST, 7, AT_IT, 1),
    "lost, and who is at it is stopped": (LOST, 7, {"guardian, stopped": (6,)}, 0),
    "over": ("run x: COMPLETED; not conducted by anybody; /x", 0, NEW, 0),
    "over, with the exit code of another": ("run x: COMPLETED; not conducted", 4, NEW, 1),
}


@pytest.mark.parametrize(("said", "code", "look", "wrong"), SAID.values(), ids=SAID)
def test_a_false_sentence_of_status_is_found(
    said: str, code: int, look: dict[str, tuple[int, ...]], wrong: int
) -> None:
    """Held against who runs, and its own exit code."""
    assert len(list(false_status(said, code, look, look))) == wrong


def ending(outcome: str, sentence: str, **running: str) -> dict[str, object]:
    """A last record."""
    return {"outcome": outcome, "sentence": sentence, "running": running}


AGAIN = "the previous stack trades again 9 s after the trigger"
FAILED = ending("ROLLBACK_FAILED", "What runs now: new_core_engine alive.", old_core_engine="gone")
ENDS = {
    "new alone": (ending("COMPLETED", "the new generation trades"), NEW, 0),
    "both": (ending("COMPLETED", "the new generation trades"), {**NEW, **OLD}, 2),
    "back": (ending("ROLLED_BACK_LATE", AGAIN), OLD, 0),
    "back without a runner": (ending("ROLLED_BACK_LATE", AGAIN), {"old_core_engine": (3,)}, 2),
    "failed, as it says": (FAILED, {"new_core_engine": (1,)}, 0),
    "failed, and something else runs": (FAILED, OLD, 2),
}


@pytest.mark.parametrize(("payload", "look", "wrong"), ENDS.values(), ids=ENDS)
def test_a_false_ending_is_found(
    payload: dict[str, object], look: dict[str, tuple[int, ...]], wrong: int
) -> None:
    """Who trades, who runs and the outcome."""
    assert len(list(false_ending(payload, [look]))) == wrong


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
