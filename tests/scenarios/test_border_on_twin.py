"""The border on the twin: what came in was not what it should be, and the old stack trades on.

The shapes of states and parameters stand in tables of their own (tests/probes, tests/plan, and the
small stack's scenarios). Here each stands once before a market: the front itself says who trades.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.pid_file import PidFile, read_pid_file
from ctp_runbook.model import Phase, State
from ctp_runbook.plan.plan import load_plan
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.twin import MEMBERS, Twin
from ctp_runbook.run import launch
from tests.props.cutover_tools import ROOT, cutover_of, edited, fresh_twin
from tests.props.notebook_tools import outputs_text
from tests.props.twin_tools import wait_until


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin that trades; nothing here may change that."""
    with fresh_twin(tmp_path_factory.mktemp("twin"), watch_seconds=10) as made:
        yield made


def assert_trades_on(twin: Twin, before: list[PidFile | None]) -> None:
    """The very processes of the old generation, it alone, and its orders are answered."""
    assert trading_generations(twin.front_log) == {"old"}
    assert overlaps(twin.front_log) == []
    assert who_runs(twin) == before
    answered = twin.state("old")["orders_answered"]
    wait_until(lambda: twin.state("old")["orders_answered"] > answered)


def who_runs(twin: Twin) -> list[PidFile | None]:
    """Whom the pid files of all four members name."""
    return [read_pid_file(twin.pid_file(name)) for name in MEMBERS]


def value_of(path: Path, key: str) -> str:
    """The value of a key in a rendered template."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith(f"{key}=")]
    return line.partition("=")[2]


def test_an_engine_that_answers_an_error_is_not_stopped(twin: Twin, tmp_path: Path) -> None:
    """ErrorID 90 from the last gate on: the run ends with 3 and what it read, before any stop."""
    before, template = who_runs(twin), twin.cutover_template
    error = tmp_path / "error.json"
    asking, gate = (
        value_of(template, key) for key in ("TRADING_STATE_CMD", "INIT_DEBEZIUM_CONNECTOR_CMD")
    )
    printed = '{"ErrorID": 90, "ErrorMsg": "CTP: query not ready"}'
    edited(
        template,
        TRADING_STATE_CMD=f"cat {shlex.quote(str(error))} 2>&- || {asking}",
        INIT_DEBEZIUM_CONNECTOR_CMD=f"{gate} && echo '{printed}' > {shlex.quote(str(error))}",
    )
    try:
        with cutover_of(twin, tmp_path / "outputs") as cutover:
            ending = cutover.end(seconds=60)
    finally:
        edited(template, TRADING_STATE_CMD=asking, INIT_DEBEZIUM_CONNECTOR_CMD=gate)
    assert (ending.outcome, ending.exit_code) == ("ABORTED_BEFORE_SWITCH", 3), ending.sentence
    assert 'ErrorID 90, ErrorMsg "CTP: query not ready"' in ending.sentence
    assert "the old stack still trades, untouched" in ending.sentence
    assert len(ending.findings) == 1, ending.findings  # that it is no completed run
    assert not any(cutover.history.step(name).attempt for name in steps_of(Phase.SWITCH))
    assert_trades_on(twin, before)


def test_papermill_with_go_false_switches_nothing(twin: Twin, tmp_path: Path) -> None:
    """`papermill notebooks/04_switch.ipynb OUT -p go false` ends with a refusal; all trade on."""
    before, out = who_runs(twin), tmp_path / "out.ipynb"
    run = ready_run(twin, tmp_path / "outputs")
    argv = [sys.executable, "-m", "papermill", "--no-progress-bar", "notebooks/04_switch.ipynb"]
    argv += [str(out), "-p", "run_dir", str(run.path), "-p", "go", "false"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240)
    history = launch.read_whole(run)
    launch.request(run, "abort", by="test", reason="the end of this test")
    wait_until(run.manifest.exists, seconds=30, what="the run is over")
    assert done.returncode != 0
    found = "04_switch: parameter go: found text 'false'; expected True or False (bool)"
    for said in (done.stderr, outputs_text(out)):
        assert found in re.sub(r"\s+", " ", said)
    assert (history.state, history.go) == (State.READY, None)
    assert_trades_on(twin, before)


def ready_run(twin: Twin, outputs: Path) -> RunDir:
    """A real run of the twin's templates, its gates passed, that waits for a go."""
    plan = load_plan(
        twin.cutover_template,
        twin.rollback_template,
        limits=twin.limits_file,
        watch=twin.watch_file,
        environ=os.environ,
        base=Path.cwd(),
    )
    options = launch.RunOptions(execute=True, outputs=outputs, accept_unmeasured="a test")
    run = launch.create_run(plan, options)
    launch.start(run, plan=plan)
    wait_until(lambda: launch.read_whole(run).state is State.READY, seconds=60, what="READY")
    return run
