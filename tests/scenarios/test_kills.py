"""kill -9 of everything, everywhere: the run ends by itself, with one generation trading.

The whole table (4 victims x 5 moments) is ``make prove``; CI runs a seeded part of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ctp_runbook.record.history import History
from tests.props.cutover_tools import Cutover, Ending, cutover_of, fresh_twin

WATCH_SECONDS = 6.0
VICTIMS = ("kernel", "papermill", "orchestrator", "guardian")


def _began(step: str) -> Callable[[History], bool]:
    return lambda history: history.step(step).attempt > 0


def _watched(seconds: float) -> Callable[[History], bool]:
    def is_so(history: History) -> bool:
        begun = history.watch_started
        return begun is not None and time.monotonic() - begun.mono_ns / 1e9 > seconds

    return is_so


MOMENTS: Mapping[str, Callable[[History], bool]] = {
    "stopping the old engine": _began("stop_old_core_engine"),
    "starting the new engine": _began("start_new_core_engine"),
    "starting the new runner": _began("start_new_strategy_runner"),
    "the watch has begun": _watched(0.5),
    "late in the watch": _watched(4.5),
}
TABLE = [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
# One moment a victim, drawn with a fixed seed: all four victims stay in CI.
_DRAW = random.Random(20261123)
IN_CI = [(victim, _DRAW.choice(list(MOMENTS))) for victim in VICTIMS]


def kill_at(victim: str, moment: str, room: Path) -> tuple[Ending, Cutover]:
    """One row of the table: a fresh twin, a run, one SIGKILL."""
    with (
        fresh_twin(room / "twin", watch_seconds=WATCH_SECONDS) as twin,
        cutover_of(twin, room / "outputs", command="run") as cutover,
    ):
        assert cutover.wait_for(MOMENTS[moment]), cutover.story()
        cutover.kill(victim)
        return cutover.end(), cutover


@pytest.mark.parametrize(("victim", "moment"), IN_CI)
def test_a_killed_part_leaves_nothing_undecided(victim: str, moment: str, tmp_path: Path) -> None:
    """After kill -9 the run ends by itself: one generation trades, the journal verifies."""
    ending, cutover = kill_at(victim, moment, tmp_path)
    assert ending.is_decided, f"{ending.row}\n{ending.findings}\n{cutover.story()}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_kill_table(
    tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """All 4 victims at all 5 moments: no row is undecided. The table is kept."""
    rows, undecided = [], []
    for number, (victim, moment) in enumerate(TABLE):
        ending, cutover = kill_at(victim, moment, tmp_path / str(number))
        rows.append(f"{victim:13} {moment:24} {ending.row}")
        if not ending.is_decided:
            undecided.append(f"{rows[-1]}\n{ending.findings}\n{cutover.story()}")
    record_table("kill_table", rows)
    assert not undecided, "\n\n".join(undecided)
