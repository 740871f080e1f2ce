"""Record a small run of every ending from the real twin, into tests/golden/runs/.

    .venv/bin/python -m tests.golden.record            # all, a few minutes
    .venv/bin/python -m tests.golden.record completed  # one ending again

A run of a format is recorded once and kept as long as that format is read: later versions verify
these files and judge them again, so they are recorded anew only together with a new format number.
All of it happens below one folder, with an interpreter of its own there: a journal says where it was
written, and which executable each member was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.model import Outcome
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal import faults
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.attend import read_history
from tests.contract.test_repository import forbidden
from tests.props.cutover_tools import edited, fresh_twin

__all__ = ["ENDINGS", "RUNS", "Ending", "main"]

ROOT = Path(__file__).parents[2]
HERE = Path("/tmp/ctp-golden")
VENV = HERE / "venv"
RUNS = Path(__file__).parent / "runs"
MOST_BYTES = 300_000
_END_SECONDS = 120.0


def nothing(of: Twin | RunDir) -> None:
    """The run ends as planned."""


@dataclass(frozen=True)
class Ending:
    """How a run comes to end so: what is done to the twin before, and how it is started."""

    outcome: Outcome
    before: Callable[[Twin], None] = nothing
    options: tuple[str, ...] = ("--execute",)
    during: Callable[[RunDir], None] = nothing
    watch_seconds: float = 4.0
    # Then the completed run is rolled back by another, which is recorded as well.
    undone: bool = False


def _fault(name: str) -> Callable[[Twin], None]:
    return lambda twin: faults.apply(twin, name)


def _no_old_runner(twin: Twin) -> None:
    """The old strategy runner is gone: there is nothing to take over from."""
    pid_file = twin.pid_file("old_strategy_runner")
    subprocess.run(
        [twin.ctp_runbook, "proc", "stop", "--pid-file", pid_file], check=True, capture_output=True
    )


def _invalid(twin: Twin) -> None:
    """The previous stack comes back, and its readiness cannot be proved."""
    edited(twin.rollback_template, POST_ROLLBACK_VALIDATE_CMD="ls /nowhere")


def _in_a_hurry(twin: Twin) -> None:
    """A budget that the rollback keeps, unless it is held up."""
    edited(twin.rollback_template, MAX_ROLLBACK_SECONDS="10")


def _held_up(run: RunDir) -> None:
    """The host stands still in the middle of the rollback, for longer than it may take in all."""
    while not _is_begun(run, "restore_previous_binaries"):
        time.sleep(0.02)
    pid = read_history(run).records[-1].writer.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(12)
    os.kill(pid, signal.SIGCONT)


def _is_begun(run: RunDir, step: str) -> bool:
    return run.journal.exists() and bool(read_history(run).step(step).attempt)


def _no_way_back(twin: Twin) -> None:
    """The previous engine does not start any more."""
    edited(twin.rollback_template, PREVIOUS_CORE_ENGINE_START_CMD="ls /nowhere")


DRILL = ("--execute", "--force-rollback")
ENDINGS = {
    "completed": Ending(Outcome.COMPLETED, undone=True),
    "dry": Ending(Outcome.DRY_RUN_OK, options=()),
    "refused": Ending(Outcome.REFUSED, _no_old_runner),
    "aborted": Ending(Outcome.ABORTED_BEFORE_SWITCH, _fault("gate-fails")),
    "triggered": Ending(Outcome.ROLLED_BACK_IN_BUDGET, _fault("order-latency"), watch_seconds=30.0),
    "drill": Ending(Outcome.ROLLED_BACK_IN_BUDGET, options=DRILL),
    "late": Ending(Outcome.ROLLED_BACK_LATE, _in_a_hurry, DRILL, _held_up),
    "unvalidated": Ending(Outcome.ROLLED_BACK_UNVALIDATED, _invalid, DRILL),
    "failed": Ending(Outcome.ROLLBACK_FAILED, _no_way_back, DRILL),
}


def record(name: str) -> list[RunDir]:
    """Record one ending; its run, and the one that undid it."""
    ending = ENDINGS[name]
    run = RunDir(HERE / "outputs" / name)
    with fresh_twin(HERE / "twin", watch_seconds=ending.watch_seconds, patient=False) as twin:
        _sample_less(twin)
        ending.before(twin)
        templates = {
            "--cutover-template": twin.cutover_template,
            "--rollback-template": twin.rollback_template,
            "--run-dir": run.path,
        }
        words = [word for pair in templates.items() for word in pair]
        _say("orchestrate", *words, "--by", "operator", *ending.options)
        ending.during(run)
        runs = [run]
        _wait_closed(run)
        if ending.undone:
            _say("rollback", "--run", run.path, "--by", "operator", "--reason", "spreads")
            runs.append(_other_run(run))
            _wait_closed(runs[-1])
    _check(run, ending.outcome)
    return runs


def _sample_less(twin: Twin) -> None:
    """On a busy machine the gates take their time, and the old engine is sampled all the while."""
    rules = twin.watch_file.read_text()
    twin.watch_file.write_text(rules.replace("interval_seconds = 0.5", "interval_seconds = 1.0"))


def _say(*words: object) -> None:
    """Start a command and leave it to itself."""
    argv = [sys.executable, "-m", "ctp_runbook", *map(str, words)]
    with (HERE / "said.txt").open("ab") as said:
        subprocess.Popen(argv, cwd=HERE, stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def _other_run(run: RunDir) -> RunDir:
    """The run that is made beside ``run``."""
    while not (others := [path for path in run.path.parent.iterdir() if path != run.path]):
        time.sleep(0.05)
    return RunDir(others[0])


def _wait_closed(run: RunDir) -> None:
    end = time.monotonic() + _END_SECONDS
    while not run.manifest.exists():
        if time.monotonic() > end:
            raise SystemExit(f"{run.path} did not end; see {HERE}/said.txt")
        time.sleep(0.1)


def _check(run: RunDir, outcome: Outcome) -> None:
    history = read_history(run)
    if history.outcome is not outcome:
        said = history.closed.payload.sentence if history.closed else ""
        raise SystemExit(f"{run.run_id} ended {history.outcome}, not {outcome}: {said}")


def keep(run: RunDir) -> None:
    """Seal a run and copy it, if it is small and names no place of this machine's own."""
    write_manifest(run, sealed=True)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    told = [f"{path}:{said}" for path in files for said in forbidden(path.read_text())]
    if told or size > MOST_BYTES:
        raise SystemExit("\n".join([f"{run.run_id}: {size} bytes, {MOST_BYTES} at most", *told]))
    shutil.copytree(run.path, RUNS / run.run_id)
    print(
        f"{run.run_id}: {read_history(run).outcome}, {len(files)} files, {size} bytes", flush=True
    )


def begin_anew() -> None:
    """Go on as the same program run by a copy of this interpreter below HERE."""
    shutil.rmtree(HERE, ignore_errors=True)
    venv.create(VENV, symlinks=False)
    python = VENV / "bin" / "python"
    (packages,) = (VENV / "lib").glob("python*/site-packages")
    (packages / "golden.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    os.execv(python, [str(python), "-m", "tests.golden.record", *sys.argv[1:]])


def main() -> None:
    """Record what is named on the command line, or everything."""
    if Path(sys.prefix) != VENV:
        begin_anew()
    for name in sys.argv[1:] or ENDINGS:
        for folder in ("twin", "outputs"):
            shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / "outputs").mkdir()
        runs = record(name)
        for old in RUNS.glob("*/run.json"):
            if name in (old.parent.name, json.loads(old.read_bytes())["parent_run"]):
                shutil.rmtree(old.parent)
        for run in runs:
            keep(run)
    shutil.rmtree(HERE)


if __name__ == "__main__":
    main()
