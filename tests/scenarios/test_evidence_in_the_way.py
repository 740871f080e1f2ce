"""Accident: the place of the evidence is taken. `CUTOVER_EVIDENCE_OUTPUT` below a file ended the run
with a traceback after its last act, its manifest never came, and its viewer left with exit 2.
"""

from __future__ import annotations

import pytest

from ctp_runbook.errors import PlanRefused
from ctp_runbook.model import Outcome, State
from ctp_runbook.run.launch import read_whole, unwritten_sentence
from ctp_runbook.run.steer import steer
from ctp_runbook.verify.run import verify_run
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import GATES, SmallStack

pytestmark = pytest.mark.twin


def values(stack: SmallStack) -> dict[str, str]:
    """A plan whose gates pass, and whose evidence goes below ``copies``."""
    commands = {f"{gate}_CMD": "ls" for gate in GATES}
    return {
        **commands,
        "PRECHECK_CMD": stack.readiness_command("precheck"),
        "CUTOVER_EVIDENCE_OUTPUT": str(stack.folder / "copies" / "cutover.env"),
    }


def test_it_is_told_before_anything_is_made(stack: SmallStack) -> None:
    """Exit 2 then is true: no run, nothing touched."""
    (stack.folder / "copies").write_text("")
    with pytest.raises(PlanRefused, match=r"copies, which is no directory; name a file"):
        stack.begin(stack.plan(**values(stack)))
    assert not (stack.folder / "outputs").exists()


def test_it_is_told_before_the_first_stop(stack: SmallStack) -> None:
    """It was taken while the gates ran: nothing is stopped."""
    given = {**values(stack), "BOOTSTRAP_INFRA_CMD": f"cp /dev/null {stack.folder}/copies"}
    history = stack.closed(stack.begin(stack.plan(**given)))
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert history.closed is not None
    assert "no directory; clear the place" in history.closed.payload.sentence
    assert stack.is_up("old_strategy_runner")


def test_the_run_is_whole_without_its_copy_and_resume_writes_it(stack: SmallStack) -> None:
    """It was taken after the switch began: the run ends as it does, its record is whole, and what is
    missing is told and mended."""
    given = {**values(stack), "WARMUP_QUERY_CMD": f"cp /dev/null {stack.folder}/copies"}
    run = stack.begin(stack.plan(**given))
    wait_for(lambda: read_whole(run).state is State.WATCHING)
    steer(run, "rollback", by="ops")
    history = stack.closed(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert history.restarts == 0
    assert "copies/cutover.env is not there" in unwritten_sentence(run, history)
    told = verify_run(run).findings
    (stack.folder / "copies").unlink()
    wait_for(lambda: "written now" in steer(run, "resume", by="ops").sentence)
    assert unwritten_sentence(run, history) == ""
    assert verify_run(run).findings == told
