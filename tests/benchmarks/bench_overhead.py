"""Ten `sleep 0.1` steps, journalled and digested, against a bash script that runs the same.

And one journal append with its fsync: the median of 200. ``--quick`` does each once or a few
times, to see that it runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ctp_runbook.model import Phase, Step, StepKind
from ctp_runbook.plan.plan import load_plan
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.steps import run_step
from tests.benchmarks.bars import exit_code, judged
from tests.props.example_records import like

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
_QUICK = "--quick" in sys.argv
_STEPS, _TURNS, _APPENDS = (2, 1, 5) if _QUICK else (10, 5, 200)


def _context(room: Path) -> RunContext:
    plan = load_plan(
        ROOT / "configs/ops/ctp_cutover.template.env",
        ROOT / "configs/ops/ctp_rollback_drill.template.env",
        limits=ROOT / "configs/limits.toml",
        watch=ROOT / "configs/watch.toml",
        environ=os.environ,
        base=ROOT,
    )
    run = RunDir(room / f"bench-{time.time_ns()}")
    run.make()
    return RunContext(
        run=run, plan=plan, journal=Journal(run.journal), cwd=room, environ=dict(os.environ)
    )


def _by_the_runbook(room: Path) -> float:
    context = _context(room)
    began = time.perf_counter()
    for number in range(_STEPS):
        step = Step(
            name=f"step_{number}",
            phase=Phase.GATE,
            kind=StepKind.GATE,
            key="STEP_CMD",
            command="sleep 0.1",
            timeout_seconds=10.0,
            effect="",
        )
        assert run_step(context, step, deadline=time.monotonic() + 10).is_ok
    took = time.perf_counter() - began
    context.journal.close()
    return took


def _by_bash(room: Path) -> float:
    script = room / "same.sh"
    script.write_text("\n".join(["sleep 0.1"] * _STEPS) + "\n")
    began = time.perf_counter()
    subprocess.run(["bash", str(script)], check=True)
    return time.perf_counter() - began


def _append_ms(room: Path) -> float:
    journal = Journal(room / "append.jsonl")
    taken = []
    for number in range(_APPENDS):
        began = time.perf_counter()
        journal.append(like("finding", severity="info", sentence=f"{number} " + "x" * 200))
        taken.append(time.perf_counter() - began)
    journal.close()
    return statistics.median(taken) * 1000


def main() -> None:
    """Print both sides, the ratio, and the append."""
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as name:
        room = Path(name)
        ours, theirs = [], []
        for _ in range(_TURNS):
            theirs.append(_by_bash(room))
            ours.append(_by_the_runbook(room))
        bash, runbook = statistics.median(theirs), statistics.median(ours)
        over = (runbook / bash - 1) * 100
        print(f"{_STEPS} x sleep 0.1 in bash     {bash * 1000:7.1f} ms")
        print(f"{_STEPS} x sleep 0.1 as steps    {runbook * 1000:7.1f} ms")
        print(f"overhead                 {over:7.1f} %  ({judged(over, 10, '%')})")
        print(f"journal append, fsynced  {_append_ms(room):7.3f} ms (median of {_APPENDS})")


if __name__ == "__main__":
    main()
    sys.exit(exit_code())
