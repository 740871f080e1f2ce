"""Facts about model.py: the words of the runbook, and how they are ordered."""

from __future__ import annotations

from itertools import permutations

from ctp_runbook.model import Generation, Identity, Member, Outcome, Role, State, Verdict, worst


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
