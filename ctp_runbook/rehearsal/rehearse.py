"""The rehearsal: twin up, a real cutover in seven notebooks, verification, report, twin down."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ctp_runbook.errors import RunbookError, RunLost, RunRefused
from ctp_runbook.host import caller
from ctp_runbook.host.interruption import Interrupted
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal import faults, stack
from ctp_runbook.rehearsal.as_found import Delays
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.interruption import Interruption
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run import launch
from ctp_runbook.run.launch import RunOptions
from ctp_runbook.show.live import JsonLines, Screen, Viewer, Voice, is_screen
from ctp_runbook.show.terminal import Narrator, ending_facts
from ctp_runbook.verify.run import verify_run

__all__ = ["Rehearsal", "fault_names", "rehearse_cutover"]

_POLL_SECONDS = 0.05
_GONE_SECONDS = 60.0
# So long a process of its own session computes, as each engine and each gate is one: a scheduler that
# shares by sessions gives it what it gives those. Gates and probes have deadlines of seconds for what
# takes a tenth of that on an idle machine; with less than this part of a processor they miss them.
_WORK_SECONDS, _MOST_TIMES = 0.2, 8.0
_WORK = """import time
began = time.monotonic()
while time.thread_time() < {seconds}: pass
print(time.monotonic() - began)
"""
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
    """What is to be rehearsed. ``engine`` is twin, for the twin's own, or as-found.

    ``watch_seconds`` is the length of the watch window: as found, from when the new engine may trade.
    ``as_json``: whatever is said is a line of record/told.py.
    """

    fault: str = ""
    force_rollback: bool = False
    watch_seconds: float = 30.0
    engine: str = "twin"
    outputs: Path = Path("outputs")
    notebooks: bool = True
    keep: bool = False
    plane: bool = True
    close_only_seconds: float = 30.0
    stop_seconds: float = 40.0
    as_json: bool = False

    @property
    def delays(self) -> Delays | None:
        """How slow the engines as found are; None for the twin's own. Raises RunRefused."""
        if self.engine not in ("twin", "as-found"):
            raise RunRefused(f"engine {self.engine!r} is not known; expected twin or as-found")
        is_as_found = self.engine == "as-found"
        return Delays(self.close_only_seconds, self.stop_seconds) if is_as_found else None


def fault_names() -> dict[str, str]:
    """Every fault with the first sentence of what it does."""
    return {name: (fault.__doc__ or "").splitlines()[0] for name, fault in faults.FAULTS.items()}


def rehearse_cutover(rehearsal: Rehearsal, *, say: Callable[[str], None]) -> int:
    """Rehearse and say what happened and where to look; the run's exit code, 2 if it lies.

    INT, TERM and HUP end it in an orderly way: 128 and the signal's number before there is a run,
    else the code of what the run came to, which is asked to abort.
    """
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    twin = Twin((rehearsal.outputs / "twins" / stamp).resolve())
    run = RunDir(launch.new_run_dir(twin.environment, outputs=rehearsal.outputs).absolute())
    lines = JsonLines(run, dry_run=False) if rehearsal.as_json else None
    say = _as_long_as_heard(lines.say if lines else say)
    interruption = Interruption(say)
    with interruption.heard():
        try:
            code = _rehearse(rehearsal, twin, run, interruption, say=say)
            if lines:
                with _to_anybody():
                    lines.end(launch.read_whole(run), code)
            return code
        except Interrupted as error:
            say(f"{error}: ended before a run was begun")
            say(stack.down(twin.dir).sentence)
            return error.exit_code


def _as_long_as_heard(say: Callable[[str], None]) -> Callable[[str], None]:
    """Say what can be said: a terminal that was closed must not end the rehearsal halfway."""

    def say_or_not(text: str) -> None:
        with _to_anybody():
            say(text)

    return say_or_not


@contextlib.contextmanager
def _to_anybody() -> Iterator[None]:
    """Print, or once nobody is there to read it, to nobody."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _rehearse(
    rehearsal: Rehearsal,
    twin: Twin,
    run: RunDir,
    interruption: Interruption,
    *,
    say: Callable[[str], None],
) -> int:
    began = time.monotonic()
    delays = rehearsal.delays
    if rehearsal.fault:
        faults.check(rehearsal.fault, as_found=delays is not None)
    _refuse_if_busy()
    seconds = rehearsal.watch_seconds + (delays.close_only_seconds if delays else 0.0)
    stack.up(twin.dir, watch_minutes=seconds / 60, plane=rehearsal.plane, delays=delays)
    is_lost = False
    try:
        say(f"twin up in {time.monotonic() - began:.1f} s: {twin.sentence}")
        if rehearsal.fault:
            faults.apply(twin, rehearsal.fault)
            say(f"fault {rehearsal.fault}: {fault_names()[rehearsal.fault]}")
        interruption.attend(
            lambda: _ask_to_end(run, over=interruption.over), lambda: _where_it_stands(run)
        )
        code = _cut_over(rehearsal, twin, run, say=say)
        return _conclude(rehearsal, twin, run, code, say=say)
    except RunLost:
        is_lost = run.journal.exists()
        raise
    finally:
        _leave(twin, run, keep=rehearsal.keep, is_lost=is_lost, say=say)


def _refuse_if_busy() -> None:
    """Raise RunRefused where a rehearsal would fail for want of a processor alone."""
    taken = _work_takes()
    if (times := taken / _WORK_SECONDS) <= _MOST_TIMES:
        return
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    raise RunRefused(
        f"this machine is too busy to rehearse: {_WORK_SECONDS:g} s of computing took {taken:.1f} s "
        f"({times:.0f} times as long, {load}); expected at most {_MOST_TIMES:g} times, for gates and "
        "watch have deadlines of seconds (limits.toml, watch.toml); end what else runs here (`top` "
        "shows it) or wait, then rehearse again"
    )


def _work_takes() -> float:
    """How many seconds a process of its own session takes for ``_WORK_SECONDS`` of computing."""
    argv = [sys.executable, "-I", "-S", "-c", _WORK.format(seconds=_WORK_SECONDS)]
    worked = subprocess.run(argv, capture_output=True, check=True, start_new_session=True)
    return float(worked.stdout)


def _ask_to_end(run: RunDir, *, over: threading.Event) -> str:
    """Ask the run to abort, as soon as it has begun or ``over`` is set; what comes of that."""
    while not over.is_set():
        with contextlib.suppress(RunbookError):  # not there yet, or half a record
            history = launch.read_history(run)
            if history.closed is not None:
                break
            if history.has_begun:
                launch.request(run, "abort", by="rehearsal", reason="rehearse was interrupted")
                return (
                    f"run {run.run_id} is asked to end: before its switch it aborts, after it it "
                    "rolls back; then the twin is taken down"
                )
        over.wait(_POLL_SECONDS)
    return _where_it_stands(run)


def _where_it_stands(run: RunDir) -> str:
    """What is still going on, and what there is to do about it."""
    if not run.journal.exists():
        return "no run was begun; the twin is being taken down"
    history = launch.read_whole(run)
    if history.closed is not None:
        outcome = history.closed.payload.outcome.value
        return f"run {run.run_id} is over ({outcome}); once it is verified, the twin goes down"
    return (
        f"run {run.run_id} is still {history.state.value} and goes on to its end, which `ctp-runbook "
        f"status --run {run.path}` shows; the twin is not taken from under it. KILL would end this "
        "command alone; `ctp-runbook stack down --all` takes the twin down afterwards"
    )


def _leave(
    twin: Twin, run: RunDir, *, keep: bool, is_lost: bool, say: Callable[[str], None]
) -> None:
    """Take the twin down once nothing of the run acts on it, or say why it is left up.

    A run that nobody conducts is asked for nothing: whoever takes it up decides what becomes of it.
    """
    why = "nobody conducts its run" if is_lost else _unfinished(twin, run, say)
    if why or keep:
        down = f"ctp-runbook stack down --dir {twin.dir}"
        say(f"twin left up{why and f': {why}'}; take it down with `{down}`")
    else:
        say(stack.down(twin.dir).sentence)


def _unfinished(twin: Twin, run: RunDir, say: Callable[[str], None]) -> str:
    """Have the run end that something failed beside; why it did not.

    Mostly it is over by now, and its last process about to go.
    """
    try:
        history = launch.read_whole(run) if run.journal.exists() else None
        if history is not None and history.closed is None and history.has_begun:
            say(f"run {run.run_id} is {history.state.value}: it is asked to end, and waited for")
            launch.request(run, "abort", by="rehearsal", reason="rehearse failed")
            launch.follow(run, until=lambda _: False)
    except RunbookError as error:
        return str(error)
    # Whatever became of its folder, it acts as long as it holds the environment.
    end = time.monotonic() + _GONE_SECONDS
    while (use := stack.use_of(twin)) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return use


def _cut_over(rehearsal: Rehearsal, twin: Twin, run: RunDir, *, say: Callable[[str], None]) -> int:
    options = RunOptions(
        execute=True, force_rollback=rehearsal.force_rollback, run_dir=run.path, by="rehearsal"
    )
    with Viewer(run, _voice_of(rehearsal, run)) as viewer:
        if rehearsal.notebooks:
            from ctp_runbook.notebook.runner import run_all

            return run_all(
                cutover_template=twin.cutover_template,
                rollback_template=twin.rollback_template,
                options=options,
                on_progress=viewer.say,
            )
        return _orchestrate(twin, options)


def _voice_of(rehearsal: Rehearsal, run: RunDir) -> Voice:
    """At a terminal one that shows what moves, and says what is said above that."""
    if rehearsal.as_json:
        return JsonLines(run, dry_run=False)
    return Screen() if is_screen() else _Heard()


class _Heard(Narrator):
    """Lines for as long as there is somebody to hear them."""

    def say(self, line: str, *, bold: bool = False) -> None:
        with _to_anybody():
            super().say(line, bold=bold)


def _orchestrate(twin: Twin, options: RunOptions) -> int:
    from ctp_runbook.plan.plan import load_plan

    plan = load_plan(
        twin.cutover_template,
        twin.rollback_template,
        limits=twin.limits_file,
        watch=twin.watch_file,
        environ=caller.environ(),
        base=Path.cwd(),
    )
    run = launch.begin(plan, options, reason="rehearse --no-notebooks")
    history = launch.follow(run, until=lambda _: False)
    assert history.outcome is not None  # follow returned, so it is over
    return history.outcome.exit_code


def _conclude(
    rehearsal: Rehearsal, twin: Twin, run: RunDir, code: int, *, say: Callable[[str], None]
) -> int:
    history = launch.follow(run, until=lambda _: False)  # a viewer may have failed before
    assert history.closed is not None
    outcome = history.closed.payload.outcome
    if not rehearsal.as_json:
        say("")
    say(f"{outcome.value}: {_MEANING[outcome]}")
    say(f"  {history.closed.payload.sentence}")
    for line in ending_facts(history) if not run.report.is_file() else ():
        say(line)  # else they stand above, with where the report is
    together = overlaps(twin.front_log)
    seen = "at no instant two generations able to trade"
    if together:
        seen = f"TWO GENERATIONS TRADING AT ONCE: {'; '.join(map(str, together))}"
    if together and rehearsal.fault == "supervisor" and all(each.until_ns for each in together):
        # It is what that fault does: the run can only see it, and end it.
        seen, together = f"{seen}: by the supervisor, until the run had ended it", []
    say(f"  the front saw {seen}")
    able = ", ".join(sorted(trading_generations(twin.front_log))) or "nobody"
    say(f"  now able to trade: {able}")
    verified = _verify(run, outcome, say=say)
    if run.report.is_file():
        say(f"  look at: {run.report}")
        say(f"           {run.notebooks}")
    else:
        say(f"  a report to look at: `ctp-runbook report --run {run.path}`")
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
