"""The page at which one begins: what runs now and whose it is, where to go on, what ran before.

It only reads. What it cannot read it names, and shows the rest: a folder of runs is shared by people,
and whoever opens this page may be in a hurry. From the oldest of hundreds of runs it needs no more
than their headers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ctp_runbook import __version__
from ctp_runbook.errors import RunbookError
from ctp_runbook.host import caller
from ctp_runbook.host.files import read_small
from ctp_runbook.host.lock import held_directories
from ctp_runbook.host.viewers import Viewer, viewers
from ctp_runbook.model import Outcome, State, StepStatus
from ctp_runbook.notebook.checkout import find_notebooks, remember_run, remembered_run
from ctp_runbook.record.charge import unfinished_runs
from ctp_runbook.record.history import History
from ctp_runbook.record.past_runs import PastRun, PastRuns, past_runs
from ctp_runbook.record.rundir import RunDir, viewers_path, write_atomic
from ctp_runbook.run.attend import lost_sentence, read_whole
from ctp_runbook.show.blocks import Banner, Block, Facts, Link, Notes, Page, Table
from ctp_runbook.show.past_runs import outcome_of, skipped_notes
from ctp_runbook.show.run_blocks import GATE_STEPS, outcome_banner
from ctp_runbook.show.standing import who_trades
from ctp_runbook.show.terminal import countdown

__all__ = ["landing_page", "next_notebook"]

_MOST_RUNS, _MOST_UNDER_WAY, _MOST_SKIPPED, _MOST_VIEWS = 10, 5, 5, 9
_REPORT_BYTES = 32 << 20
# Whatever somebody else's folder may make of being read.
_UNREADABLE = (OSError, RunbookError, ValueError, ArithmeticError, LookupError, RecursionError)
_NOTEBOOKS: Mapping[State, str] = {
    State.READY: "04_switch",
    State.SWITCHING: "04_switch",
    State.WATCHING: "05_watch",
    State.HOLDING: "05_watch",
    State.ROLLING_BACK: "06_rollback",
}
# Of a run that is over: the notebook that says more of it, and what to do then.
_AFTERWARDS: Mapping[Outcome, tuple[str, str]] = {
    Outcome.COMPLETED: ("07_verify", "verify the record and hand on the report"),
    Outcome.DRY_RUN_OK: ("01_plan", "read the warnings; execute = True there makes a real run"),
    Outcome.REFUSED: ("01_plan", "mend what the refusal names, then plan anew"),
    Outcome.ABORTED_BEFORE_SWITCH: (
        "02_infra_gate",
        "read what was observed and expected, mend it, then begin anew with 01_plan",
    ),
    Outcome.ROLLED_BACK_IN_BUDGET: (
        "06_rollback",
        "read why and what each step did; a new run begins with 01_plan",
    ),
    Outcome.ROLLED_BACK_LATE: (
        "06_rollback",
        "see which step took so long; make it faster or raise MAX_ROLLBACK_SECONDS before the next run "
        "(infra/runbook/exits.md)",
    ),
    Outcome.ROLLED_BACK_UNVALIDATED: (
        "06_rollback",
        "look at the previous stack now, before it trades on: compare positions and orders in the "
        "front's own client (infra/runbook/exits.md)",
    ),
    Outcome.ROLLBACK_FAILED: (
        "06_rollback",
        "ACT NOW: 06_rollback says what runs and what does not. Start nothing by hand before all of the other "
        "generation is proved gone (infra/runbook/exits.md)",
    ),
}
_MARKS = {Outcome.COMPLETED: "✓", Outcome.DRY_RUN_OK: "○", Outcome.ROLLED_BACK_IN_BUDGET: "!"}


def landing_page(outputs: Path, *, room: Path | None) -> Page:
    """Return the page; ``room`` is the lab's folder of notebooks, if it is one.

    A lab whose notebooks belong to no run, or to one that is over, takes the one that is under way.
    """
    return Page(list(_blocks(outputs, room)))


def _blocks(outputs: Path, room: Path | None) -> Iterator[Block]:
    is_new = not os.path.lexists(outputs)
    past = PastRuns(outputs=str(outputs), runs=(), skipped=())
    under_way: list[RunDir] = []
    broken = ""
    try:
        if not is_new:
            past = past_runs(outputs, newest=_MOST_RUNS)
            under_way = unfinished_runs([outputs], host=caller.host_name())
            if not os.access(outputs, os.W_OK | os.X_OK):
                broken = f"{outputs} cannot be written to, and no run can be made there; name one by --outputs"
    except _UNREADABLE as error:
        broken = str(error)
    if broken:
        yield Banner(
            "bad", "The folder of runs is broken", f"{broken}, or mend it; then look again"
        )
    belongs = _bind(under_way, room)
    shown = [block for run in under_way[:_MOST_UNDER_WAY] for block in _under_way(run, room)]
    if not shown and not broken:
        shown = list(_nothing_under_way(past, belongs, is_new=is_new))
    yield from shown
    yield Facts(list(_environment(outputs, belongs)), title="Here")
    yield from _recent(past, room)
    yield Notes("warn", _held_elsewhere(outputs)[:_MOST_UNDER_WAY], title="Elsewhere on this host")


def _bind(under_way: Sequence[RunDir], room: Path | None) -> RunDir | None:
    """The run to which the notebooks of this lab belong, after a look at what is under way."""
    if room is None:
        return None
    remembered = remembered_run(here=room)
    if len(under_way) == 1 and (remembered is None or _is_over(remembered)):
        remember_run(under_way[0], here=room)
        return under_way[0]
    return remembered


def _is_over(run: RunDir) -> bool:
    try:
        return read_whole(run).closed is not None
    except _UNREADABLE:
        return not run.journal.exists()


# --- what runs now ----------------------------------------------------------------


def next_notebook(history: History) -> str:
    """Return the notebook in which a run is gone on with, or its end is looked at."""
    if history.outcome is not None:
        return _AFTERWARDS[history.outcome][0]
    if history.state is State.GATING and all(
        history.step(name).status is StepStatus.OK for name in GATE_STEPS
    ):
        return "03_readiness_gate"
    return _NOTEBOOKS.get(history.state, "02_infra_gate")


def _under_way(run: RunDir, room: Path | None) -> list[Block]:
    """How a run stands; what cannot be told of it hides no other run."""
    try:
        return list(_standing(run, room))
    except _UNREADABLE as error:
        return [Banner("bad", f"Run {run.run_id} cannot be read", str(error))]


def _standing(run: RunDir, room: Path | None) -> Iterator[Block]:
    history = read_whole(run)
    lost = lost_sentence(run, history)
    if history.closed is not None:  # meanwhile
        yield outcome_banner(history)
        return
    mono = time.monotonic()
    trading = who_trades(history, mono=mono)
    created = history.created
    kind = "REHEARSAL" if created.rehearsal else "REAL RUN"
    if lost:
        yield Banner("bad", f"{kind} {history.state.value}", lost)
    else:
        is_calm = history.state not in (State.HOLDING, State.ROLLING_BACK)
        is_calm = is_calm and trading.is_proved
        yield Banner("info" if is_calm else "warn", f"{kind} {history.state.value}", trading.words)
    looking = _looking(run)
    facts: list[tuple[str, object]] = [
        ("run", run.run_id),
        ("environment", created.environment),
        ("planned by", f"{created.created_by} on {created.host}, {_instant(history)}"),
        ("now", _now(history, mono)),
        ("who looks", "; ".join(viewer.sentence for viewer in looking) or "nobody in a notebook"),
    ]
    name = next_notebook(history)
    facts.append(("go on in", _to(name)))
    if own := _own_view(name, looking, room):
        facts.append(("with a view of your own", _to(own)))
    facts.append(("from a terminal", f"ctp-runbook status --run {run.path}"))
    yield Facts(facts)


def _now(history: History, mono: float) -> str:
    """What runs out, else why it is where it is; and since when."""
    if runs_out := countdown(history, mono=mono):
        return runs_out.sentence
    if not history.transitions:
        return "starting"
    entered = history.transitions[-1]
    return f"since {entered.wall_utc[11:19]}Z: {entered.reason}"


def _instant(history: History) -> str:
    return f"{history.records[0].wall:%Y-%m-%d %H:%M:%S} UTC"


def _to(name: str) -> Link:
    return Link(name, f"{name}.ipynb")


def _looking(run: RunDir) -> list[Viewer]:
    with contextlib.suppress(*_UNREADABLE):
        return viewers(viewers_path(run))
    return []


def _own_view(name: str, looking: Sequence[Viewer], room: Path | None) -> str:
    """A copy of a notebook that somebody looks in, whose kernel is busy with that; blank for none.

    Opened a second time, a notebook shares its kernel, and its cells wait for those of the first.
    """
    taken = {viewer.where for viewer in looking}
    if room is None or name not in taken:
        return ""
    names = (f"{name}-{number}" for number in range(2, _MOST_VIEWS + 1))
    own = next((each for each in names if each not in taken), "")
    with contextlib.suppress(OSError, RunbookError):
        if own and not (room / f"{own}.ipynb").exists():
            shutil.copyfile(find_notebooks() / f"{name}.ipynb", room / f"{own}.ipynb")
        return own
    return ""


def _nothing_under_way(past: PastRuns, belongs: RunDir | None, *, is_new: bool) -> Iterator[Block]:
    at = f"at {datetime.now(UTC):%H:%M:%S}Z"
    if is_new or not past.runs:
        yield Banner("info", "No run yet", f"{at}; begin with the plan: it touches nothing")
        yield Facts([("begin in", _to("01_plan"))])
        return
    last = past.runs[-1]
    real = next((run for run in reversed(past.runs) if not run.is_dry), last)
    if not last.outcome and not last.is_dry and last.host != caller.host_name():
        yield Banner("warn", f"Run {last.run_id} is not over on {last.host}: {last.state}", at)
        return
    if not last.outcome and not last.is_dry:
        sentence = f"{at}; it is started in 02_infra_gate, or discarded by `ctp-runbook abort --run {last.path}`"
        yield Banner("info", f"Run {last.run_id} is planned, and not started", sentence)
        yield Facts([("go on in", _to("02_infra_gate"))])
        return
    yield Banner("info", "No run is under way", at)
    # Where a notebook with a blank run_dir would look.
    blank = str(belongs.path) if belongs else last.path
    yield from _after(real, "" if real.path == blank else f", with run_dir = {real.path}")


def _after(last: PastRun, where: str) -> Iterator[Block]:
    """How the last run ended, and what to do about it."""
    try:
        history = read_whole(RunDir(Path(last.path)))
        name, todo = _AFTERWARDS[history.outcome] if history.outcome else ("01_plan", "plan anew")
        yield outcome_banner(history)
    except _UNREADABLE as error:
        yield Banner("warn", f"The last run, {last.run_id}, cannot be read", str(error))
        return
    facts: list[tuple[str, object]] = [("last run", last.run_id), ("what now", todo)]
    if name != "01_plan":
        facts.append(("where it says more", Link(f"{name}{where}", f"{name}.ipynb")))
    if not RunDir(Path(last.path)).report.exists():
        facts.append(("its report", f"`ctp-runbook report --run {last.path}` writes it"))
    yield Facts([*facts, ("a new run begins in", _to("01_plan"))])


def _held_elsewhere(outputs: Path) -> list[str]:
    """Runs of other folders that hold an environment of this host."""
    here = os.path.realpath(outputs)
    with contextlib.suppress(OSError):
        return [
            f"a run holds its environment: `ctp-runbook status --run {path}`"
            for path in sorted(held_directories())
            if path and os.path.realpath(Path(path).parent) != here
        ]
    return []


def _environment(outputs: Path, belongs: RunDir | None) -> Iterator[tuple[str, object]]:
    if belongs is not None:
        gone = "" if belongs.journal.exists() else ", which is gone"
        yield "run of these notebooks", f"{belongs.run_id}{gone}"
    yield "you", f"{caller.user_name()} on {caller.host_name()}"
    yield "commands run in", str(Path.cwd())
    yield "runs are kept in", str(outputs)
    yield "ctp-runbook", __version__


# --- what ran before --------------------------------------------------------------


def _recent(past: PastRuns, room: Path | None) -> Iterator[Block]:
    if past.runs:
        rows = [_row(run, room) for run in reversed(past.runs)]
        columns = ("run", "as", "by", "outcome", "downtime", "record")
        yield Table(columns, rows, title="Runs, the newest first", numbers=("downtime",))
        word = "08_history"
        yield Facts([("all of them, side by side", _to(word))])
    notes = skipped_notes(past)
    yield Notes(notes.kind, notes.sentences[:_MOST_SKIPPED])


def _row(run: PastRun, room: Path | None) -> tuple[object, ...]:
    outcome = outcome_of(run)
    mark = _MARKS.get(Outcome(run.outcome), "✗") if run.outcome else "…"
    downtime = "–" if run.downtime_seconds is None else f"{run.downtime_seconds:.1f} s"
    return (
        _report(run, room),
        run.mode,
        run.created_by,
        f"{mark} {outcome}",
        f"{downtime}, none trades" if run.is_down and run.outcome else downtime,
        run.seal,
    )


def _report(run: PastRun, room: Path | None) -> object:
    """The run's name, as a link to a copy of its report where there is one.

    JupyterLab shows what lies in its room alone; and a copy can be written to without harm.
    """
    if room is None:
        return run.run_id
    source, name = RunDir(Path(run.path)).report, f"reports/{Path(run.path).name}.html"
    with contextlib.suppress(OSError, ValueError):
        seen, target = source.stat(), room / name
        if not target.exists() or target.stat().st_mtime_ns < seen.st_mtime_ns:
            write_atomic(target, read_small(source, most=_REPORT_BYTES), durable=False)
        return Link(run.run_id, name)
    return run.run_id
