"""Facts about rollback.py: what was done is undone, in the order that is safe, in the time there is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome, State, StepStatus
from ctp_runbook.plan import Plan
from ctp_runbook.process import identity_of
from ctp_runbook.rollback import RollbackEnd, roll_back
from ctp_runbook.steps import RunContext, run_step
from ctp_runbook.watch import Trouble
from tests.plan_fixtures import open_context, wait_for
from tests.small_stack import SmallStack, small_stack

pytestmark = pytest.mark.twin
SHORT = {"MAX_ROLLBACK_SECONDS": "4", "ROLLBACK_CANCEL_SECONDS": "1"}
OLD = ("old_core_engine", "old_strategy_runner")
NEW = ("new_core_engine", "new_strategy_runner")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        yield made


def switch(stack: SmallStack, context: RunContext) -> None:
    """Old out and new in, as the switch does it, without its proofs."""
    stop_old(stack)
    for member in NEW:
        step = context.plan.step(f"start_{member}")
        assert run_step(context, step, deadline=time.monotonic() + 10).is_ok


def stop_old(stack: SmallStack) -> None:
    """The old generation is gone, as its stop commands leave it."""
    for member in OLD:
        identity = stack.identity(member)
        assert identity is not None
        os.kill(identity.pid, signal.SIGTERM)
        (stack.folder / f"{member}.up").unlink()
        wait_for(lambda one=identity: identity_of(one.pid) is None)  # type: ignore[misc]


def rolled_back(
    stack: SmallStack, plan: Plan, *, switched: bool = True, ago: float = 0.0
) -> tuple[RollbackEnd, RunContext]:
    """The end of a rollback that was triggered ``ago`` seconds before it begins."""
    with open_context(stack.folder, plan=plan) as context:
        if switched:
            switch(stack, context)
        trouble = Trouble("operator", "asked", time.time() - ago, time.monotonic() - ago)
        end = roll_back(context, trouble)
        history = context.history
        assert history.state is State.ROLLING_BACK
        living = {member: stack.is_up(member) for member in (*OLD, *NEW)}
        (stack.folder / "living").write_text(" ".join(m for m, up in living.items() if up))
        return end, context


def living(stack: SmallStack) -> list[str]:
    """Members that ran when the rollback was over."""
    return (stack.folder / "living").read_text().split()


def test_a_switch_is_undone(stack: SmallStack) -> None:
    """The new generation is gone, the old one trades, in the budget; every step is on record."""
    end, context = rolled_back(stack, stack.plan())
    assert (end.outcome, end.failed_step) == (Outcome.ROLLED_BACK_IN_BUDGET, ""), end.sentence
    assert living(stack) == list(OLD)
    assert {context.history.step(one.name).status for one in context.plan.rollback} == {
        StepStatus.OK
    }


def test_what_was_not_touched_is_kept(stack: SmallStack) -> None:
    """Nothing was switched yet: the same two processes trade on, and their starts are skipped."""
    before = [stack.identity(member) for member in OLD]
    end, context = rolled_back(stack, stack.plan(), switched=False)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert [stack.identity(member) for member in OLD] == before
    for name in ("start_previous_core_engine", "start_previous_strategy_runner"):
        assert context.history.step(name).status is StepStatus.SKIPPED


def test_nothing_is_started_beside_what_may_still_trade(stack: SmallStack) -> None:
    """An engine that cannot be told to be gone stops the rollback, before anything old starts."""
    plan = stack.plan(NEW_CORE_ENGINE_ALIVE_CMD="exit 3", **SHORT)
    starts = len(stack.starts)
    end, _ = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert "the new generation is not proved gone, so nothing was started" in end.sentence
    assert stack.starts[starts:] == list(NEW)


@pytest.mark.parametrize("command", ["exit 1", "sleep 600"])
def test_a_stop_that_fails_is_replaced_by_signals(stack: SmallStack, command: str) -> None:
    """The new engine is ended by its identity, and the rollback goes on."""
    plan = stack.plan(
        NEW_CORE_ENGINE_STOP_CMD=f"rm {stack.folder}/new_core_engine.up; {command}",
        NEW_CORE_ENGINE_STOP_TIMEOUT_SECONDS="1",
    )
    end, _ = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert living(stack) == list(OLD)


def test_a_restore_that_fails_does_not_stop_the_start(stack: SmallStack) -> None:
    """Trading comes first; that it runs on what was not restored is told in the outcome."""
    end, _ = rolled_back(stack, stack.plan(RESTORE_PREVIOUS_BINARIES_CMD="ls no-such-file"))
    assert end.outcome is Outcome.ROLLED_BACK_UNVALIDATED
    assert end.failed_step == "restore_previous_binaries"
    assert living(stack) == list(OLD)


@pytest.mark.parametrize("ago", [9.9, 11.0])
def test_a_late_rollback_still_restores_trading(stack: SmallStack, ago: float) -> None:
    """Over the budget is late, and late is better than nothing trading."""
    plan = stack.plan(MAX_ROLLBACK_SECONDS="10", ROLLBACK_CANCEL_SECONDS="1")
    end, _ = rolled_back(stack, plan, ago=ago)
    assert living(stack) == list(OLD)
    assert end.outcome is Outcome.ROLLED_BACK_LATE


def test_no_second_runner_is_started_beside_an_undecided_one(stack: SmallStack) -> None:
    """One look at a busy host that takes too long must not make two runners trade."""
    slow = f"test -e {stack.folder}/asked && exit 0; touch {stack.folder}/asked; exec sleep 60"
    plan = stack.plan(OLD_STRATEGY_RUNNER_ALIVE_CMD=slow)
    rolled_back(stack, plan, switched=False)
    assert stack.starts.count("old_strategy_runner") == 1


def test_no_second_engine_is_started_beside_an_undecided_one(stack: SmallStack) -> None:
    """An engine whose pid file is lost and whose command cannot tell may still trade."""
    (stack.folder / "old_core_engine.pid").unlink()
    rolled_back(stack, stack.plan(OLD_CORE_ENGINE_ALIVE_CMD="exit 3", **SHORT), switched=False)
    assert stack.starts.count("old_core_engine") == 1
