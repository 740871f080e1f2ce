"""The seventeen steps against the names the contract fixes."""

from __future__ import annotations

import pytest

from ctp_runbook.model import Generation, Phase, Role, StepKind
from ctp_runbook.plan.step_table import (
    STEP_TABLE,
    budget_shares,
    members_left,
    order_steps,
    sender_of,
    start_steps,
    step_due,
    step_spec,
    steps_of,
)


def test_keys_are_the_templates_own_words() -> None:
    """``stop_old_core_engine`` is OLD_CORE_ENGINE_STOP_CMD: the key leads with the member."""
    keys = {step.name: step.command_key for step in STEP_TABLE}
    assert len(keys) == 17
    assert keys["stop_old_core_engine"] == "OLD_CORE_ENGINE_STOP_CMD"
    assert keys["start_previous_strategy_runner"] == "PREVIOUS_STRATEGY_RUNNER_START_CMD"
    assert keys["init_kafka_topic"] == "INIT_KAFKA_TOPIC_CMD"
    timeouts = {step.name: step.timeout_key for step in STEP_TABLE}
    assert timeouts["precheck"] == "PRECHECK_TIMEOUT_SECONDS"


def test_stops_and_starts_say_whom_they_act_on() -> None:
    """Without it, nothing could be proved; and the runner always stops first and starts last."""
    acting = [step for step in STEP_TABLE if step.kind in (StepKind.STOP, StepKind.START)]
    assert all(step.acts_on for step in acting)
    order = [(step.phase, step.kind, step.acts_on and step.acts_on[1]) for step in acting]
    for phase in (Phase.SWITCH, Phase.ROLLBACK):
        roles = [role for in_phase, _, role in order if in_phase is phase]
        assert roles == [
            Role.STRATEGY_RUNNER,
            Role.CORE_ENGINE,
            Role.CORE_ENGINE,
            Role.STRATEGY_RUNNER,
        ]


def test_generations_never_mix_within_a_direction() -> None:
    """The switch stops old and starts new; the rollback stops new and starts old."""
    seen = {(step.phase, step.kind, step.acts_on[0]) for step in STEP_TABLE if step.acts_on}
    assert seen == {
        (Phase.SWITCH, StepKind.STOP, Generation.OLD),
        (Phase.SWITCH, StepKind.START, Generation.NEW),
        (Phase.ROLLBACK, StepKind.STOP, Generation.NEW),
        (Phase.ROLLBACK, StepKind.START, Generation.OLD),
    }


def test_the_rollbacks_steps_share_its_budget() -> None:
    """All of it, and only theirs."""
    shares = {step.name: step.budget_share for step in STEP_TABLE if step.budget_share}
    assert tuple(shares) == steps_of(Phase.ROLLBACK)
    assert round(sum(shares.values()), 9) == 1.0


def test_a_member_is_started_by_the_steps_that_act_on_it() -> None:
    """Previous in the rollback is the old generation."""
    assert start_steps(Generation.OLD, Role.CORE_ENGINE) == ("start_previous_core_engine",)
    assert start_steps(Generation.NEW, Role.STRATEGY_RUNNER) == ("start_new_strategy_runner",)


def test_every_step_says_what_comes_of_its_failure() -> None:
    """A gate ends the run, the switch rolls back, a restore holds nothing up."""
    said = {step.name: step.when_it_fails for step in STEP_TABLE}
    assert all(said.values())
    assert all("exit 3" in said[name] for name in steps_of(Phase.GATE))
    assert all("rolls back" in said[name] for name in steps_of(Phase.SWITCH))
    assert "goes on" in step_spec("restore_previous_binaries").when_it_fails


def test_the_budget_is_shared_out_whole() -> None:
    """Every step of a rollback has its seconds, and together they are the budget."""
    shares = budget_shares(180.0)
    assert tuple(shares) == steps_of(Phase.ROLLBACK)
    assert sum(shares.values()) == pytest.approx(180.0)


@pytest.mark.parametrize("name", steps_of(Phase.ROLLBACK))
@pytest.mark.parametrize("late", [0.0, 20.0, 170.0, 180.0, 500.0])
def test_no_step_takes_what_later_ones_are_owed(name: str, late: float) -> None:
    """In time, what is left less their shares; too late, its part of the rest; never beyond the end."""
    due = step_due(name, now=late, started=0.0, budget_seconds=180.0)
    assert due <= 180.0
    if late <= 180.0:
        assert due >= late
    if name == "post_rollback_validate":
        assert due == 180.0


def test_what_a_step_leaves_goes_to_the_next() -> None:
    """The first may take its own share; the last, all that is left."""
    first = step_due("stop_new_strategy_runner", now=0.0, started=0.0, budget_seconds=100.0)
    assert first == pytest.approx(15.0)
    second = step_due("stop_new_core_engine", now=1.0, started=0.0, budget_seconds=100.0)
    assert second == pytest.approx(35.0)


RUNNER_STEPS = ("stop_new_strategy_runner", "start_previous_strategy_runner")
ALL = ("old_core_engine", "old_strategy_runner", "new_core_engine", "new_strategy_runner")


def test_the_budget_of_steps_left_out_goes_to_all_others_alike() -> None:
    """Nothing is kept for nobody: what is left is owed to fewer, in the same proportion."""
    whole, less = budget_shares(180.0), budget_shares(180.0, left_out=RUNNER_STEPS)
    assert tuple(less) == tuple(name for name in whole if name not in RUNNER_STEPS)
    assert sum(less.values()) == pytest.approx(180.0, abs=0.01)
    assert {round(less[name] / whole[name], 3) for name in less} == {round(1 / 0.7, 3)}
    given = {"now": 0.0, "started": 0.0, "budget_seconds": 100.0}
    due = step_due("stop_new_core_engine", **given, left_out=RUNNER_STEPS)
    assert due == pytest.approx(20 / 0.7)


def test_members_are_those_whose_steps_are_not_left_out() -> None:
    """By any of their steps: a part is there or it is not."""
    assert members_left(()) == ALL
    assert members_left({"stop_new_strategy_runner"}) == ALL[:3]


def test_trading_goes_by_whoever_sends_the_orders() -> None:
    """The runner of a generation, or its engine where there is none."""
    assert sender_of(Generation.OLD, ALL) == "old_strategy_runner"
    assert sender_of(Generation.NEW, ALL[:3]) == "new_core_engine"
    assert order_steps(ALL[:3]) == {
        "stop_old_strategy_runner": StepKind.STOP,
        "start_new_core_engine": StepKind.START,
        "stop_new_core_engine": StepKind.STOP,
        "start_previous_strategy_runner": StepKind.START,
    }
