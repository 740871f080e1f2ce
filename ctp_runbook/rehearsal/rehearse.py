"""The rehearsal: twin up, a real cutover in seven notebooks, verification, report, twin down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.host import caller
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal import faults, stack
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run import launch
from ctp_runbook.run.launch import RunOptions
from ctp_runbook.verify.run import verify_run

__all__ = ["Rehearsal", "fault_names", "rehearse_cutover"]

_MEANING = {
    Outcome.COMPLETED: "The new generation trades; the watch window passed.",
    Outcome.ABORTED_BEFORE_SWITCH: "A gate stopped the run before anything was touched; the old "
    "generation never stopped trading.",
    Outcome.ROLLED_BACK_IN_BUDGET: "The switch was undone in time; the old generation "
    "trades again.",
    Outcome.ROLLED_BACK_LATE: "The switch was undone, but later than the budget allows.",
    Outcome.ROLLED_BACK_UNVALIDATED: "The switch was undone, but could not be validated.",
    Outcome.ROLLBACK_FAILED: "The rollback failed: in production an operator would have to "
    "act now.",
    Outcome.REFUSED: "The run was refused; nothing was touched.",
    Outcome.DRY_RUN_OK: "A dry run.",
}


@dataclass(frozen=True)
class Rehearsal:
    """What is to be rehearsed. ``watch_seconds`` is the length of the watch window."""

    fault: str = ""
    force_rollback: bool = False
    watch_seconds: float = 30.0
    outputs: Path = Path("outputs")
    notebooks: bool = True
    keep: bool = False
    plane: bool = True


def fault_names() -> dict[str, str]:
    """Every fault with the first sentence of what it does."""
    return {name: (fault.__doc__ or "").splitlines()[0] for name, fault in faults.FAULTS.items()}


def rehearse_cutover(rehearsal: Rehearsal, *, say: Callable[[str], None]) -> int:
    """Rehearse and say what happened and where to look; the run's exit code, 2 if it lies."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    directory = rehearsal.outputs / "twins" / stamp
    began = time.monotonic()
    minutes = rehearsal.watch_seconds / 60
    twin = stack.up(directory, watch_minutes=minutes, plane=rehearsal.plane)
    say(f"twin up in {time.monotonic() - began:.1f} s: {twin.sentence}")
    try:
        if rehearsal.fault:
            faults.apply(twin, rehearsal.fault)
            say(f"fault {rehearsal.fault}: {fault_names()[rehearsal.fault]}")
        run = RunDir(launch.new_run_dir(twin.environment, outputs=rehearsal.outputs).absolute())
        code = _cut_over(rehearsal, twin, run, say=say)
        return _conclude(twin, run, code, say=say)
    finally:
        if rehearsal.keep:
            say(f"twin left up; take it down with `ctp-runbook stack down --dir {twin.dir}`")
        else:
            say(stack.down(directory).sentence)


def _cut_over(rehearsal: Rehearsal, twin: Twin, run: RunDir, *, say: Callable[[str], None]) -> int:
    options = RunOptions(
        execute=True, force_rollback=rehearsal.force_rollback, run_dir=run.path, by="rehearsal"
    )
    if rehearsal.notebooks:
        from ctp_runbook.notebook.runner import run_all

        return run_all(
            cutover_template=twin.cutover_template,
            rollback_template=twin.rollback_template,
            options=options,
            on_progress=say,
        )
    return _orchestrate(twin, options)


def _orchestrate(twin: Twin, options: RunOptions) -> int:
    from ctp_runbook.plan.plan import load_plan
    from ctp_runbook.show.terminal import Narrator

    plan = load_plan(
        twin.cutover_template,
        twin.rollback_template,
        limits=twin.limits_file,
        watch=twin.watch_file,
        environ=caller.environ(),
        base=Path.cwd(),
    )
    run = launch.begin(plan, options, reason="rehearse --no-notebooks")
    history = launch.follow(run, until=lambda _: False, on_change=Narrator())
    assert history.outcome is not None  # follow returned, so it is over
    return history.outcome.exit_code


def _conclude(twin: Twin, run: RunDir, code: int, *, say: Callable[[str], None]) -> int:
    history = launch.read_history(run)
    if history.closed is None:
        raise RunbookError(f"run {run.run_id} did not end; see {run.logs}")
    outcome = history.closed.payload.outcome
    say("")
    say(f"{outcome.value}: {_MEANING[outcome]}")
    say(f"  {history.closed.payload.sentence}")
    together = overlaps(twin.front_log)
    seen = "at no instant two generations able to trade"
    if together:
        seen = f"TWO GENERATIONS TRADING AT ONCE: {together}"
    say(f"  the front saw {seen}")
    able = ", ".join(sorted(trading_generations(twin.front_log))) or "nobody"
    say(f"  now able to trade: {able}")
    verified = _verify(run, outcome, say=say)
    say(f"  look at: {run.report}")
    say(f"           {run.notebooks}")
    return 2 if together or not verified else code


def _verify(run: RunDir, outcome: Outcome, *, say: Callable[[str], None]) -> bool:
    """A completed run must verify; a rolled-back one with --allow-cutover-rollback, and only so."""
    rolled_back = outcome is Outcome.ROLLED_BACK_IN_BUDGET
    strict = verify_run(run)
    say(f"  {strict.sentence}")
    for finding in strict.findings if not (strict.ok or rolled_back) else ():
        say(f"    {finding}")
    if not rolled_back:
        return strict.ok or outcome is not Outcome.COMPLETED
    allowed = verify_run(run, allow_cutover_rollback=True)
    say(f"  with --allow-cutover-rollback: {allowed.sentence}")
    for finding in allowed.findings:
        say(f"    {finding}")
    return allowed.ok and not strict.ok
