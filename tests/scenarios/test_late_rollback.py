"""A rollback that comes late, on a host that is busy: late beats never."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome
from tests.props.small_stack import small_stack
from tests.run.test_rollback import OLD, living, rolled_back

BUSY_LOOPS = 3  # on two cores


@pytest.fixture
def busy_host() -> Iterator[None]:
    """A host with more to do than it can."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rolled_back_late(folder: Path, *, ago: float) -> Outcome:
    """How a rollback of a budget of 10 s ends that begins ``ago`` seconds late; trading it is."""
    folder.mkdir()
    with small_stack(folder) as stack:
        plan = stack.plan(MAX_ROLLBACK_SECONDS="10", ROLLBACK_CANCEL_SECONDS="1")
        end, _ = rolled_back(stack, plan, ago=ago)
        assert living(stack) == list(OLD), end.sentence
        return end.outcome


@pytest.mark.usefixtures("busy_host")
@pytest.mark.parametrize("ago", [5.0, 9.0, 9.9, 11.0])
def test_a_late_rollback_on_a_busy_host_restores_trading(tmp_path: Path, ago: float) -> None:
    """However little of the budget is left, the stops are proved and the old stack trades."""
    outcome = rolled_back_late(tmp_path / "stack", ago=ago)
    assert outcome in (Outcome.ROLLED_BACK_LATE, Outcome.ROLLED_BACK_IN_BUDGET)


@pytest.mark.parametrize("ago", [7.0, 8.8, 9.4])
def test_a_start_that_takes_its_time_is_not_cut_short(tmp_path: Path, ago: float) -> None:
    """Both parts need 1.5 s to come up, and the rollback of 10 s began late: they come up."""
    with small_stack(tmp_path) as stack:
        slow = {
            f"PREVIOUS_{role}_START_CMD": f"sleep 1.5; {stack.start_command(f'old_{role.lower()}')}"
            for role in ("CORE_ENGINE", "STRATEGY_RUNNER")
        }
        plan = stack.plan(MAX_ROLLBACK_SECONDS="10", ROLLBACK_CANCEL_SECONDS="1", **slow)
        end, _ = rolled_back(stack, plan, ago=ago)
        assert living(stack) == list(OLD), end.sentence
    assert end.outcome in (Outcome.ROLLED_BACK_LATE, Outcome.ROLLED_BACK_IN_BUDGET), end.sentence


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("busy_host")
def test_twenty_late_rollbacks_on_a_busy_host_all_restore_trading(tmp_path: Path) -> None:
    """Not one of twenty, each with 0.1 s of its budget left, ends with nothing trading."""
    for turn in range(20):
        assert rolled_back_late(tmp_path / str(turn), ago=9.9) is Outcome.ROLLED_BACK_LATE
