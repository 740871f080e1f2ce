"""Facts about run/undo_completed.py and run/steer.py: what a rollback by hand is refused for, and what it asks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.clocks import Clocks
from ctp_runbook.host.pin import pin_process
from ctp_runbook.model import Outcome, State
from ctp_runbook.notebook import phases
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.evidence import finalise
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import RequestTaken
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from ctp_runbook.run.steer import steer
from ctp_runbook.run.undo_completed import roll_back_by_new_run, rollback_gap
from ctp_runbook.run.world import World
from tests.props.example_records import like
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack
from tests.props.synthetic_runs import make_run

HERE = os.uname().nodename
NEW = ("new_core_engine", "new_strategy_runner")
OLD = ("old_core_engine", "old_strategy_runner")


def history_of(run: RunDir) -> History:
    """The run as its journal tells it."""
    return History.of(read_journal(run.journal).records)


GAPS = {
    "dry": ("dry", HERE, "it was a dry run: it switched nothing"),
    "aborted": ("aborted", HERE, "it ended ABORTED_BEFORE_SWITCH"),
    "rolled back": ("rolled_back", HERE, "it ended ROLLED_BACK_IN_BUDGET"),
    "another host": ("completed", "elsewhere", "it ran on host elsewhere"),
}


@pytest.mark.parametrize(("kind", "host", "said"), GAPS.values(), ids=GAPS)
def test_where_it_makes_no_sense_it_is_refused(
    kind: str, host: str, said: str, tmp_path: Path
) -> None:
    """With a sentence that says why, and nothing is made."""
    run = make_run(kind, tmp_path, host=host)
    assert said in rollback_gap(run, history_of(run))
    with pytest.raises(RunRefused, match="cannot be rolled back"):
        roll_back_by_new_run(run)
    assert [path.name for path in tmp_path.iterdir()] == [run.run_id]


def test_a_completed_run_may_be_rolled_back(tmp_path: Path) -> None:
    """On its host, in its boot, the newest of its environment."""
    run = make_run("completed", tmp_path, host=HERE)
    assert rollback_gap(run, history_of(run)) == ""


class OtherBoot(Clocks, frozen=True):
    """The clock of a host that was rebooted."""

    def boot_id(self) -> str:
        """Another boot than the journal's."""
        return "another"


def test_another_boot_proves_nothing(tmp_path: Path) -> None:
    """No identity of before the reboot can be proved to run or to be gone."""
    run = make_run("completed", tmp_path, host=HERE)
    gap = rollback_gap(run, history_of(run), world=World(clock=OtherBoot()))
    assert "the host was rebooted since" in gap


def beside(folder: Path, name: str, *records: tuple[str, dict[str, object]]) -> None:
    """A later run of the same environment that its journal tells so far."""
    run = RunDir(folder / name)
    run.make()
    header = {"run_id": name, "environment": "synthetic", "dry_run": False, "plan": {}}
    run.run_json.write_text(json.dumps(header))
    journal = Journal(run.journal, durable=False)
    journal.append(like("run_created", **header))
    for kind, payload in records:
        journal.append(like(kind, **payload))
    journal.close()


STEP = {"step": "stop_old_strategy_runner", "phase": "switch", "attempt": 1}
STEP |= {"pid": 1, "start_ticks": 1, "command": "x"}
NEWER = {
    "never started": ((), ""),
    "under way": ((("state", {"to": "GATING", "reason": ""}),), "is newer (GATING)"),
    "switched": (
        (("step_started", STEP), ("closed", {"outcome": "COMPLETED"})),
        "is newer (COMPLETED)",
    ),
    "touched nothing": ((("closed", {"outcome": "ABORTED_BEFORE_SWITCH"}),), ""),
}


@pytest.mark.parametrize(("records", "said"), NEWER.values(), ids=NEWER)
def test_a_newer_run_is_in_the_way_when_it_may_have_switched(
    records: tuple[tuple[str, dict[str, object]], ...], said: str, tmp_path: Path
) -> None:
    """One that ended before its switch is not."""
    run = make_run("completed", tmp_path, host=HERE)
    beside(tmp_path, "later", *records)
    gap = rollback_gap(run, history_of(run))
    assert (said in gap) if said else gap == ""


def test_a_run_beside_it_that_cannot_be_read_may_be_newer(tmp_path: Path) -> None:
    """Nobody can tell what it did."""
    run = make_run("completed", tmp_path, host=HERE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert "run broken beside it cannot be read" in rollback_gap(run, history_of(run))


# --- the real thing, small ----------------------------------------------------------


def completed(stack: SmallStack, plan: Plan) -> RunDir:
    """A run that says it is COMPLETED, its new generation up and its identities on record."""
    run = stack.create(plan)
    for member in OLD:
        identity = stack.identity(member)
        assert identity is not None
        os.kill(identity.pid, 15)
        (stack.folder / f"{member}.up").unlink()
    stack.bring_up(*NEW)
    journal = Journal(run.journal)
    for member in NEW:
        identity = stack.identity(member)
        assert identity is not None
        journal.append(pinned(member, "", pin_process(identity)))
    journal.append(like("closed", outcome="COMPLETED", exit_code=0, sentence="", running={}))
    journal.close()
    return run


@pytest.mark.twin
def test_the_members_are_known_from_the_parent(stack: SmallStack) -> None:
    """A stop command that does nothing: the tool ends the recorded processes, and the old trade."""
    stops = {f"NEW_{role}_STOP_CMD": "ls" for role in ("CORE_ENGINE", "STRATEGY_RUNNER")}
    stops |= {f"{name.upper()}_STOP_TIMEOUT_SECONDS": "1" for name in NEW}
    alive = {f"{name.upper()}_ALIVE_CMD": f"kill -0 $(head -1 {name}.pid)" for name in NEW}
    run = completed(stack, stack.plan(**stops, **alive))
    asked = phases.steer("rollback", reason="spreads", by="chief", run_dir=str(run.path))
    assert "rolls back what run" in asked.page.text
    (child,) = [RunDir(path) for path in run.path.parent.iterdir() if path.name != run.run_id]
    history = stack.closed(child)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed
    assert [stack.is_up(member) for member in (*OLD, *NEW)] == [True, True, False, False]
    assert history.created.parent_run == run.run_id
    control = next(history.of_kind(RequestTaken))
    assert (control.payload.by, control.payload.reason) == ("chief", "spreads")


@pytest.mark.twin
def test_a_changed_plan_is_not_what_was_reviewed(stack: SmallStack) -> None:
    """The template was edited since: refused, with what to do instead."""
    plan = stack.plan()
    run = completed(stack, plan)
    plan.rollback_template.write_text(plan.rollback_template.read_text() + "# edited\n")
    with pytest.raises(RunRefused, match=r"changed since\. Restore them"):
        roll_back_by_new_run(run)


@pytest.mark.twin
def test_only_a_rollback_can_be_asked_of_what_is_over(stack: SmallStack) -> None:
    """And it is said how it ended."""
    run = completed(stack, stack.plan())
    finalise(run)  # else resume would
    for request in ("hold", "resume", "abort"):
        with pytest.raises(
            RunRefused, match=rf"is over \(COMPLETED\); there is nothing to {request}"
        ):
            steer(run, request)


@pytest.mark.twin
def test_a_notebook_can_hold_and_abort(stack: SmallStack) -> None:
    """`phases.steer` in another notebook: by name, with a reason, answered on the page."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    run = stack.create(plan)
    launch.start(run, plan=plan)
    wait_for(lambda: launch.read_whole(run).state is State.GATING)
    page = phases.steer("hold", reason="wait for the desk", by="chief", run_dir=str(run.path)).page
    assert "the switch does not begin before a resume" in page.text
    phases.steer("abort", reason="not today", by="chief", run_dir=str(run.path))
    assert stack.closed(run).outcome is Outcome.ABORTED_BEFORE_SWITCH


@pytest.mark.twin
def test_a_rollback_that_was_interrupted_is_taken_up_again(stack: SmallStack) -> None:
    """Its orchestrator is killed in the middle: the guardian's next one ends the rollback."""
    plan = stack.plan(RESTORE_PREVIOUS_BINARIES_CMD="ls; sleep 2")
    run = completed(stack, plan)
    child = steer(run, "rollback", by="chief").run
    wait_for(lambda: launch.read_whole(child).step("restore_previous_binaries").attempt)
    conducted = launch.read_whole(child).conducted
    assert conducted is not None
    os.kill(conducted.writer.pid, 9)
    history = stack.closed(child)
    assert history.restarts == 1
    assert history.outcome is not None
    assert history.outcome.exit_code in (4, 5), history.closed
    assert [stack.is_up(member) for member in (*OLD, *NEW)] == [True, True, False, False]


@pytest.mark.twin
def test_two_who_roll_back_at_once_make_one_run(stack: SmallStack) -> None:
    """One rolls back; the other is refused with exit 2 and has left nothing behind."""
    run = completed(stack, stack.plan())
    argv = [sys.executable, "-m", "ctp_runbook", "rollback", "--run", str(run.path)]
    both = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=240)[0] for one in both]
    codes = sorted(one.returncode for one in both)
    assert codes == [2, 4], said
    assert len(list(run.path.parent.iterdir())) == 2
    assert [stack.is_up(member) for member in (*OLD, *NEW)] == [True, True, False, False]


@pytest.mark.parametrize(("year", "is_in_the_way"), [(b"2020", False), (b"2040", True)])
def test_a_run_of_another_format_is_in_the_way_only_when_it_is_newer(
    year: bytes, is_in_the_way: bool, tmp_path: Path
) -> None:
    """After an update, the runs of the version before lie beside this one."""
    run = make_run("completed", tmp_path, host=HERE)
    beside(tmp_path, "other")
    journal = tmp_path / "other" / "journal.jsonl"
    data = journal.read_bytes().replace(b'"format":1,', b"")
    journal.write_bytes(re.sub(rb'"wall_utc":"\d{4}', b'"wall_utc":"' + year, data))
    gap = rollback_gap(run, history_of(run))
    assert ("run other beside it cannot be read" in gap) is is_in_the_way
