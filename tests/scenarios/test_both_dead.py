"""Accident: orchestrator and guardian are killed at one instant. `status` ended with 0 below a
countdown that nobody executed, and a second run began beside the one that was left half switched.
"""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.daemon import take_up_lack
from ctp_runbook.model import Outcome, State
from ctp_runbook.record.evidence import rollback_seconds, trading_downtime_seconds
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import is_attended, read_whole, start
from ctp_runbook.run.steer import steer
from ctp_runbook.verify.run import verify_run
from tests.props.command_line import typed
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import GATES, SmallStack

pytestmark = pytest.mark.twin


def kill_both(run: RunDir) -> None:
    """Whoever conducts it and whoever would bring that one back."""
    conducted = read_whole(run).conducted
    assert conducted is not None
    assert conducted.payload.guardian is not None
    # Stopped first: on a busy host the one that lives a moment longer starts the other anew.
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (conducted.payload.guardian.pid, conducted.writer.pid):
            os.kill(pid, sign)
    wait_for(lambda: not is_attended(run))


def half_switched(stack: SmallStack) -> RunDir:
    """A run that is killed with both parts of the old stack stopped, and nothing new started."""
    run = stack.half_switch()
    kill_both(run)
    return run


def test_status_says_what_there_is_to_know_and_do(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since when, what runs, that nothing trades, the one command; it exits non-zero; and the same
    command brings trading back."""
    run = half_switched(stack)
    assert typed("status", "--run", run.path) == 7
    said = capsys.readouterr().out
    assert "NOBODY CONDUCTS" in said
    assert " UTC, " in said
    for words in (
        "old_strategy_runner gone",
        "old_core_engine gone",
        "new_core_engine not known, its start was begun",
        "new_strategy_runner never started; NOTHING TRADES",
        f"Now: `ctp-runbook resume --run {run.path}`",
    ):
        assert words in said
    time.sleep(2)  # somebody comes, and reads
    steer(run, "resume", by="ops")
    history = stack.closed(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    # From the first stop, and not from the resume.
    assert rollback_seconds(history) == pytest.approx(trading_downtime_seconds(history), abs=1)
    assert rollback_seconds(history) > 2
    # The gates of this stack write no evidence of their own.
    told = verify_run(run, allow_cutover_rollback=True).findings
    assert [one for one in told if "_result.env: cannot be read" not in one] == []
    assert typed("status", "--run", run.path) == 4


def test_status_of_a_lost_watch_says_that_orders_may_be_sent(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new stack runs and nobody watches it; while holding, no countdown stands below."""
    commands = {f"{gate}_CMD": "ls" for gate in GATES}
    run = stack.begin(stack.plan(**commands, PRECHECK_CMD=stack.readiness_command("precheck")))
    wait_for(lambda: read_whole(run).state is State.WATCHING)
    steer(run, "hold", by="ops")
    wait_for(lambda: read_whole(run).state is State.HOLDING)
    kill_both(run)
    assert typed("status", "--run", run.path) == 7
    said = capsys.readouterr().out
    assert "new_strategy_runner runs (pid " in said
    assert "orders may be sent, and nobody watches" in said
    assert "rolls back in" not in said
    steer(run, "rollback", by="ops")
    assert stack.closed(run).outcome is Outcome.ROLLED_BACK_IN_BUDGET


def test_a_timer_takes_it_up_and_asks_nothing_of_a_run_that_is_conducted(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """What infra/systemd/ asks for every few seconds: trading comes back with nobody there, and what a
    person holds stays held."""
    run = half_switched(stack)
    torn = run.path.with_name("0-torn")  # another that cannot be read keeps nobody waiting
    torn.mkdir()
    first = run.journal.read_bytes().replace(b'"seq":1,', b'"seq":7,')
    torn.joinpath(run.journal.name).write_bytes(first)
    torn.joinpath(run.run_json.name).write_bytes(run.run_json.read_bytes())
    asked = ("resume", "--unattended", "--by", "systemd", "--outputs", run.path.parent)
    assert typed(*asked) == 7
    said = capsys.readouterr().out
    assert "run 0-torn: " in said
    assert f"run {run.run_id}: nobody conducted it; taken up again" in said
    shutil.rmtree(torn)
    history = read_whole(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert history.conducted is not None
    assert "taken up by systemd" in history.conducted.payload.reason
    assert typed(*asked) == 0
    assert "no run under" in capsys.readouterr().out


def test_a_timer_asks_nothing_of_a_run_that_is_held(stack: SmallStack) -> None:
    """It is conducted: a resume would end the hold."""
    commands = {f"{gate}_CMD": "ls" for gate in GATES}
    run = stack.begin(stack.plan(**commands, PRECHECK_CMD=stack.readiness_command("precheck")))
    wait_for(lambda: read_whole(run).state is State.WATCHING)
    steer(run, "hold", by="ops")
    wait_for(lambda: read_whole(run).state is State.HOLDING)
    assert typed("resume", "--unattended", "--outputs", run.path.parent) == 0
    assert read_whole(run).state is State.HOLDING
    told = [record.payload.sentence for record in read_whole(run).of_kind(Finding)]
    assert any("nobody takes this run up" in each for each in told) is bool(take_up_lack())
    steer(run, "rollback", by="ops")
    assert stack.closed(run).outcome is Outcome.ROLLED_BACK_IN_BUDGET


def test_no_other_run_begins_beside_it(stack: SmallStack) -> None:
    """Neither made, nor made and started, nor one that was planned before, which is closed."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    planned = stack.create(plan)
    run = stack.begin(plan)
    wait_for(lambda: read_whole(run).unfinished)
    kill_both(run)
    told = rf"run {run.run_id} of this environment is unfinished: `ctp-runbook resume --run "
    before = set((stack.folder / "outputs").iterdir())
    for make in (stack.create, stack.begin):
        with pytest.raises(RunRefused, match=told):
            make(plan)
    assert set((stack.folder / "outputs").iterdir()) == before
    with pytest.raises(RunRefused, match=told):
        start(planned)
    assert read_whole(planned).outcome is Outcome.REFUSED
    assert list(planned.control.iterdir()) == []
    steer(run, "abort", by="ops")
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH
    again = stack.begin(plan)
    steer(again, "abort", by="ops")
    stack.closed(again)
