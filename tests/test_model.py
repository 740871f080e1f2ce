"""Facts about model.py: the words of the runbook, and how they are ordered."""

from __future__ import annotations

from itertools import permutations

import pytest

from ctp_runbook.model import (
    Generation,
    Identity,
    Member,
    Outcome,
    Role,
    State,
    Verdict,
    lag_fault,
    worst,
)


def test_the_worst_verdict_wins() -> None:
    """In whatever order they come; of none at all, nothing is proved."""
    for order in permutations(Verdict):
        assert worst(order) is Verdict.FAILED
    assert worst([Verdict.PASSED, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert worst([]) is Verdict.INCONCLUSIVE


def test_every_outcome_has_the_exit_code_of_the_contract() -> None:
    """CONTRACT §5; 7 is a viewer's, no run's."""
    assert {outcome.name: outcome.exit_code for outcome in Outcome} == {
        "COMPLETED": 0,
        "DRY_RUN_OK": 0,
        "REFUSED": 2,
        "ABORTED_BEFORE_SWITCH": 3,
        "ROLLED_BACK_IN_BUDGET": 4,
        "ROLLED_BACK_LATE": 5,
        "ROLLED_BACK_UNVALIDATED": 5,
        "ROLLBACK_FAILED": 6,
    }


def test_the_old_stack_is_untouched_up_to_ready() -> None:
    """From the first stop on it is not, whatever follows."""
    before = [state for state in State if state.is_before_switch]
    assert before == [State.PLANNED, State.GATING, State.READY]


def test_a_member_is_named_by_generation_and_role() -> None:
    """As the template keys are."""
    assert Member(Generation.NEW, Role.CORE_ENGINE).name == "new_core_engine"


def test_an_identity_says_what_tells_it_from_a_later_process() -> None:
    """The pid alone does not."""
    assert str(Identity(7, 900)) == "pid 7 (started at tick 900)"
    assert Identity(7, 900) != Identity(7, 901)


LAGS = {
    "a lag": (1500.0, "ms", ""),
    "none": (0.0, "s", ""),
    "as far as clocks differ": (-1000.0, "ms", ""),
    "farther": (-1.5, "s", "a record from the future, 1.500 s ahead (clocks may differ by 1 s)"),
    "a day": (-86_400_000.0, "ms", "the clock of another host, or the trading day's date"),
    "no number": (float("nan"), "s", "a lag that is no number"),
    "records": (3.0, "count", ""),
    "fewer records than none": (-1.0, "count", "a lag of -1 count is none"),
}


@pytest.mark.parametrize(("lag", "unit", "fault"), LAGS.values(), ids=LAGS)
def test_no_lag_is_of_the_future(lag: float, unit: str, fault: str) -> None:
    """Below zero by more than clocks differ it is none, and says how far and why."""
    found = lag_fault(lag, unit)
    assert fault in found
    assert bool(found) is bool(fault)
