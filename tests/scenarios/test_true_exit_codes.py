"""Accident: `ctp-runbook orchestrate --execute` lost its terminal, its run's folder, or its patience
in the middle of the switch, and ended with 2, 70 or 130: "nothing was touched" is what that says.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir, newest_run, private_path
from ctp_runbook.run.launch import begin, is_attended, read_whole
from ctp_runbook.run.steer import steer
from tests.props.command_line import typed
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import GATES, SmallStack
from tests.scenarios.test_both_dead import half_switched, kill_both

pytestmark = pytest.mark.twin


def conducting(stack: SmallStack, shell: str, *, start: str) -> subprocess.Popen[str]:
    """`orchestrate --execute` of a plan that starts the new engine like this, typed by a shell."""
    stack.plan(
        **{f"{gate}_CMD": "ls" for gate in GATES},
        PRECHECK_CMD=stack.readiness_command("precheck"),
        NEW_CORE_ENGINE_START_CMD=start,
    )
    words = [
        *(sys.executable, "-m", "ctp_runbook", "orchestrate", "--execute"),
        *("--cutover-template", "cutover.env", "--rollback-template", "rollback.env"),
        *("--limits", "limits.toml", "--watch", "watch.toml", "--outputs", "outputs"),
        *("--accept-unmeasured", "a stack of this test"),
    ]
    return subprocess.Popen(
        ["bash", "-c", shell, "bash", *words],
        cwd=stack.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_in(stack: SmallStack) -> RunDir:
    """The run, once it is in the middle of its switch."""

    def begun() -> bool:
        try:
            run = newest_run(stack.folder / "outputs")
            return bool(read_whole(run).step("start_new_core_engine").attempt)
        except (RunbookError, OSError):
            return False

    wait_for(begun, seconds=60)
    return newest_run(stack.folder / "outputs")


@pytest.mark.parametrize("shell", ['exec "$@" > /dev/full', 'exec "$@" >&- <&-'])
def test_a_viewer_whose_terminal_is_lost_ends_with_the_outcome_s_code(
    stack: SmallStack, shell: str
) -> None:
    """It follows the run to its end, told or not: the switch failed and was undone in time."""
    viewer = conducting(stack, shell, start="ls no-such-file")
    _, said = viewer.communicate(timeout=120)
    assert read_whole(newest_run(stack.folder / "outputs")).outcome is not None
    assert viewer.returncode == Outcome.ROLLED_BACK_IN_BUDGET.exit_code, said
    assert "Traceback" not in said


def test_a_viewer_whose_run_vanishes_says_what_is_known(stack: SmallStack) -> None:
    """7 and not 2: the old stack is stopped, nobody is left to go on, and whoever reads this must look."""
    on = stack.folder / "on"
    waits = f"until test -e {on}; do sleep 0.1; done; ls no-such-file"
    viewer = conducting(stack, 'exec "$@" > told', start=waits)
    run = run_in(stack)
    # The viewer reads as well, now and then.
    wait_for(lambda: "start_new_core_engine" in (stack.folder / "told").read_text())
    kill_both(run)
    shutil.rmtree(run.path)
    _, said = viewer.communicate(timeout=120)
    on.touch()
    assert viewer.returncode == 7, said
    assert f"run {run.run_id} is lost: {run.journal} was taken away" in said
    assert "It was SWITCHING at " in said
    assert "old_strategy_runner gone" in said
    assert "Traceback" not in said


def test_ctrl_c_in_the_middle_of_a_switch_leaves_it_going(stack: SmallStack) -> None:
    """And says so by its exit code: how it ends, this viewer does not know."""
    on = stack.folder / "on"
    waits = f"until test -e {on}; do sleep 0.1; done; ls no-such-file"
    viewer = conducting(stack, 'exec "$@" > /dev/null', start=waits)
    run = run_in(stack)
    viewer.send_signal(signal.SIGINT)
    _, said = viewer.communicate(timeout=240)
    assert viewer.returncode == 7, said
    assert is_attended(run)
    on.touch()
    assert stack.closed(run, seconds=60).outcome is Outcome.ROLLED_BACK_IN_BUDGET


def test_an_unfinished_run_is_found_wherever_its_outputs_are(stack: SmallStack) -> None:
    """The environment's lock remembers in which folders it had its runs: no other begins beside it."""
    run = half_switched(stack)
    environment = read_whole(run).created.environment
    plan = stack.plan(CUTOVER_ENV_NAME=environment)
    elsewhere = stack.options(outputs=stack.folder / "elsewhere")
    for _ in range(2):  # a start that was refused forgets nothing
        with pytest.raises(
            RunRefused, match=rf"run {run.run_id} of this environment is unfinished"
        ):
            begin(plan, elsewhere, reason="test")
    assert not (stack.folder / "elsewhere").exists()
    steer(run, "rollback", by="ops")
    assert stack.closed(run, seconds=60).outcome is Outcome.ROLLED_BACK_IN_BUDGET


def test_a_run_that_cannot_be_taken_up_says_what_closes_it(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its templates were changed and their private copy is gone: 7 at once, and the one way out."""
    run = half_switched(stack)
    template = stack.folder / "cutover.env"
    text = template.read_text()
    template.write_text(text.replace("WARMUP_QUERY_CMD=ls", "WARMUP_QUERY_CMD=ls -l"))
    shutil.rmtree(private_path(run))
    assert typed("resume", "--run", run.path) == 7
    said = capsys.readouterr().err
    assert "cannot be taken up: run " in said
    assert f"mkdir -p {run.path.parent}/set-aside && mv {run.path} " in said
    template.write_text(text)
    assert typed("rollback", "--run", run.path) == 0
    assert stack.closed(run, seconds=60).outcome is Outcome.ROLLED_BACK_IN_BUDGET
