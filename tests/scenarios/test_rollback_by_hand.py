"""A rollback after a declared success, on the twin: a new run that names its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir, newest_run
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import read_history
from ctp_runbook.verify.run import verify_run
from tests.props.cutover_tools import ROOT, cutover_of, fresh_twin
from tests.props.run_mutants import file_mutants, sampled, survivors


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin with a watch of 4 s."""
    with fresh_twin(tmp_path_factory.mktemp("twin"), watch_seconds=4.0) as made:
        yield made


@pytest.fixture(scope="module")
def completed(twin: Twin, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that ended COMPLETED: the new generation trades."""
    with cutover_of(twin, tmp_path_factory.mktemp("outputs")) as cutover:
        ending = cutover.end()
        assert ending.outcome == Outcome.COMPLETED.value, cutover.story()
        return cutover.run


def roll_back(run: RunDir) -> subprocess.CompletedProcess[str]:
    """`ctp-runbook rollback --run RUN`, as somebody types it in any terminal."""
    argv = ["-m", "ctp_runbook", "rollback", "--run", str(run.path)]
    argv += ["--by", "chief", "--reason", "spreads look wrong"]
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_completed_run_is_rolled_back_by_a_new_run(twin: Twin, completed: RunDir) -> None:
    """Exit 4, the old generation trades, and the evidence of both runs verifies."""
    done = roll_back(completed)
    assert done.returncode == 4, done.stdout + done.stderr
    child = newest_run(completed.path.parent)
    history = read_history(child)
    assert history.created.parent_run == completed.run_id
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert history.trigger is not None
    assert history.trigger.payload.cause == "operator"
    assert history.trigger.payload.sentence == (
        f"rollback of run {completed.run_id} asked for by chief: spreads look wrong"
    )
    for name in ("stop_new_strategy_runner", "start_previous_core_engine"):
        assert history.step(name).status is StepStatus.OK
    assert trading_generations(twin.front_log) == frozenset({"old"})
    assert not overlaps(twin.front_log)
    report = verify_run(child, allow_cutover_rollback=True)
    assert report.ok, report.findings
    assert not verify_run(child).ok
    assert verify_run(completed).ok


def test_it_is_not_rolled_back_twice(completed: RunDir) -> None:
    """The newer run is named, nothing is made, and the exit code is that of a refusal."""
    before = sorted(os.listdir(completed.path.parent))
    done = roll_back(completed)
    assert done.returncode == 2
    child = newest_run(completed.path.parent)
    assert f"run {child.run_id} of environment" in done.stderr
    assert "is newer (ROLLED_BACK_IN_BUDGET)" in done.stderr
    assert sorted(os.listdir(completed.path.parent)) == before
    again = roll_back(child)
    assert again.returncode == 2
    assert "it is itself the rollback of run" in again.stderr


def test_no_edit_of_such_a_run_passes(completed: RunDir) -> None:
    """Journal, parent's journal and evidence answer for each other without a manifest."""
    child = newest_run(completed.path.parent)
    names: tuple[str, ...] = ("journal.jsonl", "run.json", f"plan/{PARENT_JOURNAL}")
    names += ("evidence/ctp_cutover_result.env", "evidence/ctp_rollback_result.env")

    def passes(run: RunDir) -> bool:
        return verify_run(run, allow_cutover_rollback=True, require_manifest=False).ok

    assert passes(child)
    mutants = sampled(file_mutants(child, names), most=150, seed=20260202)
    left = survivors(child, mutants, passes=passes)
    assert [(mutant.file, mutant.edit) for mutant in left] == []
