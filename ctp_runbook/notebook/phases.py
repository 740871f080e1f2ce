"""What a notebook cell calls: attach to the run, wait for its room to be done, show it.

Nothing here acts on the outside world but through ``launch``: a phase starts the detached
orchestrator, leaves it a request, or reads its journal. Calling one twice, or out of order, shows
the same run again. ``run_dir`` blank means the newest run under ``outputs/``. From 02 on a cell awaits
``NAME.live(...)``, which does what ``NAME(...)`` does and answers the page meanwhile.

Every phase looks at what it was passed before it does anything else: plain papermill reads ``-p go
false`` as text, and a text is true. It raises InputError then, with every parameter that is not of
its type, and nothing was touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from ctp_runbook.errors import (
    EvidenceInvalid,
    InputError,
    Problem,
    RunbookError,
    RunEnded,
    RunRefused,
)
from ctp_runbook.model import Outcome, Phase, State, StepStatus
from ctp_runbook.notebook.checkout import find_plan, remember_run, remembered_run, room
from ctp_runbook.notebook.controls import is_person_there
from ctp_runbook.notebook.parameters import cells_that_ran, undeclared_names
from ctp_runbook.notebook.progress import LiveView, Waiting, show
from ctp_runbook.notebook.results import (
    CalibrationResult,
    GateResult,
    PastRunsResult,
    PhaseResult,
    ReadinessResult,
    RunResult,
    VerifyResult,
    WatchResult,
)
from ctp_runbook.plan import parameters
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.record import past_runs as record
from ctp_runbook.record.calibration import CalibrationDir, newest_calibration, read_calibration
from ctp_runbook.record.charge import await_its_folder, run_in_charge
from ctp_runbook.record.evidence import CHECKLISTS
from ctp_runbook.record.gate_files import NO_READINESS
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir, newest_run
from ctp_runbook.redact import Redactor
from ctp_runbook.run import launch
from ctp_runbook.run.attend import is_touched, unstarted_sentence
from ctp_runbook.show import run_blocks
from ctp_runbook.show.blocks import Banner, Block, Facts, Page, Table
from ctp_runbook.show.run_blocks import plan_blocks, refuse_other_plan
from ctp_runbook.show.step_figures import pictures_of
from ctp_runbook.show.topology import sli_topology
from ctp_runbook.show.topology_figure import topology_picture

__all__ = [
    "HOME_VARIABLE",
    "OUTPUTS_VARIABLE",
    "CalibrationResult",
    "PhaseResult",
    "calibration",
    "infra_gates",
    "overview",
    "past_runs",
    "plan",
    "readiness",
    "rollback",
    "steer",
    "switch",
    "verify",
    "watch",
]

HOME_VARIABLE = "CTP_RUNBOOK_HOME"
OUTPUTS_VARIABLE = "CTP_RUNBOOK_OUTPUTS"
_REASONS = ("accept_unmeasured", "accept_late")
# What the notebooks declare, all of them together.
_PARAMETERS = (
    *("cutover_template", "rollback_template", "execute", "run_dir", "go", *_REASONS),
    "calibration_dir",
    *("outputs", "environment"),
)
_STEERING = ("hold", "resume", "abort", "rollback")
_DONE = (StepStatus.OK, StepStatus.SIMULATED_OK)
_SWITCH_STEPS = steps_of(Phase.SWITCH)
_READINESS = tuple(name for name in steps_of(Phase.GATE) if name not in run_blocks.GATE_STEPS)


# --- the rooms --------------------------------------------------------------------


def overview(outputs: str | Path = "") -> PhaseResult:
    """00: show what runs now and whose it is, where to go on, and what ran before; nothing is begun.

    ``outputs`` blank: the folder outputs/. What cannot be read is named on the page.
    """
    blank = "the folder outputs/"
    _refuse_wrong("00_start", parameters.path("outputs", outputs, blank=blank))
    _go_home()
    # The last runs and their reports are looked for, which no other notebook need pay for.
    from ctp_runbook.notebook.landing import landing_page

    folder = Path(outputs).absolute() if outputs else _outputs()
    return PhaseResult(landing_page(folder, room=room()))


def calibration(calibration_dir: str | Path = "") -> CalibrationResult:
    """00: show what the old engine itself would have done to the watch, and which limits it keeps.

    Raises JournalError where there is no calibration, or what is there cannot be read.
    """
    blank = "the newest calibration under outputs/"
    _refuse_wrong("00_calibrate", parameters.path("calibration_dir", calibration_dir, blank=blank))
    _go_home()
    named = CalibrationDir(Path(calibration_dir).absolute()) if calibration_dir else None
    folder = named or newest_calibration(_outputs())
    known = read_calibration(folder.json)
    # pandas comes with it, and no other notebook need pay for that.
    from ctp_runbook.show import calibration as shown
    from ctp_runbook.show.calibration_figure import calibration_picture

    points, windows = shown.points_frame(known, folder), shown.windows_frame(known)
    head, *rest = shown.calibration_blocks(known, folder)
    return CalibrationResult(
        Page([head, calibration_picture(known, points, windows), *rest]),
        limits=shown.limits_frame(known),
        windows=windows,
        hours=shown.hours_frame(points, windows),
        points=points,
    )


def past_runs(outputs: str | Path = "", *, environment: str = "") -> PastRunsResult:
    """08: the runs of an environment side by side: trend, and how long things take, with a bound.

    ``environment`` blank: that of the newest run; ``rehearsal``: all twins. Raises RunRefused where
    there is none.
    """
    blank = "the folder outputs/"
    _refuse_wrong(
        "08_history",
        parameters.path("outputs", outputs, blank=blank),
        parameters.text("environment", environment),
    )
    _go_home()
    folder = Path(outputs).absolute() if outputs else _outputs()
    read = record.past_runs(folder)
    name, chosen = record.runs_of(read.runs, environment)
    # They come with the pictures of many runs, which no other notebook draws.
    from ctp_runbook.show import past_runs as shown
    from ctp_runbook.show.past_runs_figure import durations_pictures, trend_pictures

    bounds, whose = shown.bounds_of(chosen), shown.spoken_of(name)
    blocks: list[Block] = [
        shown.bound_banner(whose, chosen, bounds),
        shown.skipped_notes(read),
        *trend_pictures(whose, chosen, bounds),
        *durations_pictures(chosen, bounds),
        *shown.bound_blocks(bounds),
    ]
    return PastRunsResult(Page(blocks), past=chosen, bounded=bounds)


def plan(
    cutover_template: str | Path,
    rollback_template: str | Path,
    *,
    execute: bool = False,
    run_dir: str | Path = "",
    reasons: Mapping[str, str] | None = None,
) -> RunResult:
    """01: check both templates, make the run (or join the one in ``run_dir``), show its plan.

    ``reasons`` are those for ``accept_unmeasured`` and ``accept_late``, blank for none. A dry run
    is simulated to its end here. Raises InputError, PlanRefused or RunRefused with every reason;
    nothing was touched then.
    """
    _refuse_wrong(
        "01_plan",
        parameters.path("cutover_template", cutover_template),
        parameters.path("rollback_template", rollback_template),
        parameters.flag("execute", execute),
        parameters.path("run_dir", run_dir, blank="a new run under outputs/"),
        parameters.reasons("reasons", reasons, known=_REASONS),
    )
    _go_home()
    run = RunDir(Path(run_dir).absolute()) if run_dir else None
    if run is not None and run.journal.exists():
        history = launch.read_history(run)
        files = history.created.files
        known = {"limits": Path(files.limits_file), "watch": Path(files.watch_file)}
        planned = find_plan(Path(cutover_template), Path(rollback_template), **known)
        refuse_other_plan(history, planned, execute=execute)
    else:
        planned = find_plan(Path(cutover_template), Path(rollback_template))
        options = launch.RunOptions(
            execute=execute,
            run_dir=run.path if run else None,
            outputs=_outputs(),
            accept_unmeasured=(reasons or {}).get("accept_unmeasured", ""),
            accept_late=(reasons or {}).get("accept_late", ""),
        )
        run = launch.create_run(planned, options)
    remember_run(run)
    if launch.read_history(run).is_dry_run:  # as recorded: a real run begins in 02
        launch.start(run, plan=planned)
    history = launch.read_history(run)
    page = _page(run, history, plan_blocks(history, planned, checklist=run.plan / CHECKLISTS[0]))
    return RunResult(page, run=run, history=history)


@Waiting
def infra_gates(run_dir: str | Path = "") -> Generator[float, None, GateResult]:
    """02: start the gates unless they run already, and show what each infra gate observed."""
    run = _attached("02_infra_gate", run_dir)
    # 02 does this and no other notebook, so that none that was opened to look begins a cutover.
    if not (history := launch.read_whole(run)).has_begun:
        _refuse_of_another(history, run_dir)
        launch.start(run)
    history = yield from _follow(run, until=lambda h: _gates_done(h) or not _is_gating(h))
    blocks = [
        *run_blocks.topology_blocks(run),
        run_blocks.step_table(history, run_blocks.GATE_STEPS, title="Infra gates"),
        run_blocks.unobserved_note(run, history),
        *run_blocks.observed_tables(run),
    ]
    shown = _steps_shown(run, history, blocks, due=run_blocks.GATE_STEPS)
    return GateResult(*shown, run=run, history=history)


@Waiting
def readiness(run_dir: str | Path = "") -> Generator[float, None, ReadinessResult]:
    """03: wait for the readiness gate and show every SLI with its target."""
    run = _attached("03_readiness_gate", run_dir)
    history = yield from _follow(run, until=lambda h: not _is_gating(h))
    blocks: list[Block] = [run_blocks.step_table(history, _READINESS, title="Readiness gate")]
    path = run.evidence / "ctp_readiness_precheck.json"
    report = NO_READINESS
    if path.is_file():
        report = run_blocks.read_readiness(path)
        blocks.insert(0, topology_picture(sli_topology(report)))
        blocks.append(run_blocks.readiness_table(report, title="Service levels"))
    shown = _steps_shown(run, history, blocks, due=_READINESS)
    return ReadinessResult(*shown, run=run, history=history, report=report)


@Waiting
def switch(run_dir: str | Path = "", *, go: bool = False) -> Generator[float, None, RunResult]:
    """04: with ``go`` True, or the environment's name typed in, let the switch begin; show its steps.

    Raises RunRefused when nobody confirms; the run stays READY then.
    """
    run = _attached("04_switch", run_dir, parameters.flag("go", go))
    history = yield from _follow(run, until=lambda h: not _is_gating(h))
    # A run that was given its go, or is past it, is only looked at: the cell may be run again.
    if history.closed is None and history.go is None and history.state is State.READY:
        _refuse_of_another(history, run_dir)
        yield from _confirm(run, history, go=go)
    history = yield from _follow(run, until=lambda h: not _is_switching(h))
    blocks: list[Block] = [
        run_blocks.step_table(history, _SWITCH_STEPS, title="Switch"),
        *pictures_of(history, Phase.SWITCH),
        Facts([("trading downtime", run_blocks.downtime_figure(history))]),
        *_undone(history),
    ]
    shown = _steps_shown(run, history, blocks, due=_SWITCH_STEPS)
    return RunResult(*shown, run=run, history=history)


@Waiting
def watch(run_dir: str | Path = "") -> Generator[float, None, WatchResult]:
    """05: follow the watch window live, then show its plot and every metric's verdict."""
    run = _attached("05_watch", run_dir)
    history = yield from _follow(run, until=_watch_is_over, plot=True)
    if history.is_dry_run:
        none = Banner("info", "No watch window", "a dry run watches nothing; a real one would:")
        page = _page(run, history, [none, run_blocks.rule_table(history)])
        return WatchResult(page, run=run, history=history)
    if history.watch_started is None:
        none = Banner("bad", "No watch window", run_blocks.outcome_sentence(history))
        page = _page(run, history, [none, *_undone(history)])
        return WatchResult(page, _ended(history), run=run, history=history)
    from ctp_runbook.watch.replay import rejudge

    judged, _ = rejudge(run, history)
    blocks = [
        run_blocks.watch_banner(history, judged),
        *run_blocks.watch_blocks(run, history, judged),
        *_undone(history),
    ]
    page, failure = _page(run, history, blocks), _watch_failure(history)
    return WatchResult(page, failure, run=run, history=history, judged=judged)


@Waiting
def rollback(run_dir: str | Path = "") -> Generator[float, None, RunResult]:
    """06: wait for the run to end and show the rollback with its budget, or that there was none."""
    run = _attached("06_rollback", run_dir)
    history = yield from _follow(run, until=_is_over)
    # No rollback is good news here, and so is one in time; the run's own end is 05's affair.
    unrestored = history.rollback_started is not None and (
        history.outcome is not Outcome.ROLLED_BACK_IN_BUDGET
    )
    failure = _ended(history) if unrestored else None
    page = _page(run, history, [*run_blocks.rollback_blocks(history)])
    return RunResult(page, failure, run=run, history=history)


def steer(request: str, *, reason: str, by: str = "", run_dir: str | Path = "") -> RunResult:
    """Ask for ``hold``, ``resume``, ``abort`` or ``rollback`` in another notebook than the one that
    follows the run, which is busy. Raises RunRefused where nothing can come of it."""
    from ctp_runbook.run import steer as asking

    run = _attached(
        "steer",
        run_dir,
        parameters.choice("request", request, known=_STEERING),
        parameters.text("reason", reason),
        parameters.text("by", by),
        otherwise=run_in_charge,
    )
    steered = asking.steer(run, request, by=by, reason=reason)
    is_obeyed = steered.exit_code == 0
    banner = Banner("info" if is_obeyed else "bad", f"{request} asked", steered.sentence)
    failure = None if is_obeyed else RunEnded(steered.sentence, exit_code=steered.exit_code)
    history = launch.read_history(steered.run)
    page = _page(steered.run, history, [banner])
    return RunResult(page, failure, run=steered.run, history=history)


@Waiting
def verify(run_dir: str | Path = "") -> Generator[float, None, VerifyResult]:
    """07: recompute everything from the journal and the raw samples.

    The manifest is written after this notebook; ``ctp-runbook verify --run`` checks that too.
    """
    from ctp_runbook.verify.run import verify_run

    run = _attached("07_verify", run_dir)
    history = yield from _follow(run, until=_is_over)
    report = verify_run(run, allow_cutover_rollback=history.wants_rollback, require_manifest=False)
    # That a dry run is no real one is the outcome's finding, and no fault of it.
    is_bad = any(
        not check.ok and not (history.is_dry_run and check.name == "outcome")
        for check in report.checks
    )
    verdict = Banner("good" if report.ok else "bad", report.sentence)
    if history.is_dry_run and not is_bad:
        sentence = "dry run consistent; a dry run never verifies as a real run"
        verdict = Banner("info", "verification of a dry run", sentence)
    checks = [(check.name, check.symbol, check.sentence) for check in report.checks]
    table = Table(("check", "", "what"), checks)
    blocks: list[Block] = [verdict, run_blocks.outcome_banner(history), table]
    page = _page(run, history, blocks)
    failure = EvidenceInvalid(report.findings) if is_bad else None
    return VerifyResult(page, failure, run=run, history=history, report=report)


# --- what was passed --------------------------------------------------------------


def _refuse_wrong(where: str, *problems: Iterable[Problem]) -> None:
    """Raise InputError when any parameter of the notebook is not what it is declared to be."""
    passed = undeclared_names(cells_that_ran(), known=_PARAMETERS)
    unknown = parameters.undeclared(passed, known=_PARAMETERS)
    if wrong := [*unknown, *chain.from_iterable(problems)]:
        files = sorted((_home() or Path()).glob("infra/env/*.env"))
        redactor = Redactor.gather(environ=os.environ, env_files=files)
        raise InputError(parameters.placed(wrong, where=where, redactor=redactor))


def _attached(
    where: str,
    run_dir: str | Path,
    *problems: Iterable[Problem],
    otherwise: Callable[[Path], RunDir] = newest_run,
) -> RunDir:
    """The run that a notebook is to look at: the one in ``run_dir``, ``otherwise`` that of outputs/.

    Raises InputError with every parameter that does not fit, before anything else is done.
    """
    blank = "the run of these notebooks, else the newest under outputs/"
    _refuse_wrong(where, *problems, parameters.path("run_dir", run_dir, blank=blank))
    _go_home()
    if run_dir:
        return RunDir(Path(run_dir).absolute())
    if otherwise is not newest_run:
        return otherwise(_outputs())
    if (run := remembered_run()) is None:
        remember_run(run := newest_run(_outputs()))
        return run
    # What these notebooks belong to is never exchanged for another run without a word.
    await_its_folder([run.path])
    if not run.journal.exists():
        raise RunRefused(
            f"run {run.run_id}, to which the notebooks of this lab belong, is gone from {run.path}: put "
            "it back, name another by run_dir, or plan a new one in 01_plan"
        )
    return run


def _refuse_of_another(history: History, run_dir: str | Path) -> None:
    """Raise RunRefused where a blank ``run_dir`` led to a run that somebody else planned.

    To look at it is nobody's harm; to start or switch it is for who names it.
    """
    maker = history.created.created_by
    if run_dir or history.is_dry_run or maker == launch.operator_name():
        return
    raise RunRefused(
        f"the newest run is {history.run_id} of {maker}, not of {launch.operator_name()}: nothing "
        "is started or switched by a blank run_dir then; set run_dir to the run that is meant"
    )


def _go_home() -> None:
    """Work where the operator started, not where the notebook lies: commands run there."""
    if home := _home():
        os.chdir(home)


def _home() -> Path | None:
    named = os.environ.get(HOME_VARIABLE)
    here = Path.cwd()
    roots = [Path(named)] if named else [here, *here.parents]
    return next((root for root in roots if (root / "configs").is_dir()), None)


def _outputs() -> Path:
    return Path(os.environ.get(OUTPUTS_VARIABLE) or "outputs").absolute()


# --- following --------------------------------------------------------------------


def _follow(
    run: RunDir, *, until: Callable[[History], bool], plot: bool = False
) -> Generator[float, None, History]:
    """Follow the run until ``until`` holds or it is over. Raises RunRefused where 02 never was."""
    history = launch.read_whole(run)
    if history.closed is None and not (history.has_begun or launch.was_being_started(run)):
        raise RunRefused(unstarted_sentence(run))
    # Interrupting a cell ends the look, never the run: that has a process of its own.
    with contextlib.closing(LiveView(run, plot=plot)) as view:

        def look(history: History) -> bool:
            view.show(history)
            return until(history)

        def never(history: History) -> bool:
            view.show(history)
            return False

        try:
            history = yield from launch.looks(run, until=look)
            # A person is shown the rollback to its end wherever it began, and not a cell that ended.
            if view.is_panel and history.state is State.ROLLING_BACK:
                history = yield from launch.looks(run, until=never)
            return history
        except KeyboardInterrupt as error:
            raise RunRefused(
                f"detached; run {run.run_id} goes on. Run this cell again to come back, or end it "
                f"with `ctp-runbook abort --run {run.path}`"
            ) from error


def _confirm(run: RunDir, history: History, *, go: bool) -> Generator[float, None, None]:
    """Leave the go that the switch waits for; without ``go`` the environment is to be typed in."""
    environment = history.plan.environment
    reason = "parameter go of 04_switch"
    if go is not True:
        show(_page(run, history, _question(history)))
        typed = _ask(f"Type {environment} to stop the old stack and switch: ").strip()
        if typed != environment:
            raise RunRefused(
                f"typed {typed!r}; expected {environment!r}: nothing was touched and the run stays "
                "READY. Run this cell again to switch"
            )
        reason = "typed confirmation in 04_switch"
    # For the start whose READY was looked at: typing takes a while, and the orchestrator may have
    # been started again meanwhile, with gates that nobody has seen yet.
    name = launch.request(run, "go", by=launch.operator_name(), reason=reason, seen=history)
    answered = yield from launch.looks(run, until=lambda h: launch.answer_in(h, name) is not None)
    answer = launch.answer_in(answered, name)
    if answer and not answer.payload.obeyed:
        raise RunRefused(f"go not obeyed: {answer.payload.sentence}")


def _question(history: History) -> list[Block]:
    """What is about to be confirmed, for whoever types."""
    what_follows = (
        "Every gate passed and the old stack trades. Once confirmed, it is stopped and proved gone, "
        "then the new one is started; any failure rolls back by itself."
    )
    return [Banner("warn", "READY for the switch", what_follows), run_blocks.facts_of_plan(history)]


def _ask(prompt: str) -> str:
    try:
        with _interruptible():
            return input(prompt)
    except KeyboardInterrupt as error:
        raise RunRefused(
            "interrupted before anything was typed: nothing was touched and the run stays READY. "
            "Run this cell again to switch"
        ) from error
    except (EOFError, RuntimeError) as error:  # ipykernel's StdinNotImplementedError is one
        raise RunRefused(
            "the switch waits for a go and nobody can be asked here; pass -p go True, or open "
            "04_switch in JupyterLab"
        ) from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Meanwhile SIGINT raises here: of a cell that awaits, ipykernel ends only what awaits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- where the run stands ---------------------------------------------------------


def _is_over(history: History) -> bool:
    return history.closed is not None


def _is_gating(history: History) -> bool:
    return history.closed is None and history.state in (State.PLANNED, State.GATING)


def _gates_done(history: History) -> bool:
    return all(history.step(name).ended_utc for name in run_blocks.GATE_STEPS)


def _is_switching(history: History) -> bool:
    before = history.state.is_before_switch or history.state is State.SWITCHING
    return history.closed is None and before


def _watch_is_over(history: History) -> bool:
    """Not by its verdicts alone: what they lead to, and why, is written down after them."""
    return history.closed is not None or history.state is State.ROLLING_BACK


def _watch_failure(history: History) -> RunEnded | None:
    """A watch is good when it lasted, passed and triggered nothing; a drill's is cut short."""
    if history.trigger is not None:
        drill = history.trigger.payload.cause == "forced_drill"
        return None if drill else RunEnded(history.trigger.payload.sentence, exit_code=4)
    ended = history.watch_ended
    passed = ended is not None and ended.payload.verdict == "PASSED"
    return None if passed else _ended(history)


def _ended(history: History) -> RunEnded:
    """The run's own end as an error; its exit code where it has one already."""
    code = history.outcome.exit_code if history.outcome else (7 if is_touched(history) else 3)
    return RunEnded(run_blocks.outcome_sentence(history), exit_code=code)


# --- pages ------------------------------------------------------------------------


def _page(run: RunDir, history: History, blocks: Sequence[Block]) -> Page:
    top = [run_blocks.mode_banner(history), *run_blocks.override_banners(history)]
    return Page([*top, *_belonging(run), *blocks], run_dir=str(run.path))


def _belonging(run: RunDir) -> Iterator[Block]:
    """In a lab, to which run its notebooks belong; and that there is a newer one, which none shows."""
    remembered = remembered_run()
    if remembered is None or remembered.path != run.path:
        return
    yield Facts([("run", f"{run.run_id}, to which the notebooks of this lab belong")])
    with contextlib.suppress(RunbookError, OSError):
        newest = newest_run(run.path.parent)
        if newest.path != run.path:
            sentence = (
                f"these notebooks stay with theirs; to look at it, set run_dir = {newest.path}"
            )
            yield Banner("info", f"A newer run is there: {newest.run_id}", sentence)


def _undone(history: History) -> Iterator[Block]:
    """The rollback, on the page of the notebook in which a person saw it begin."""
    if history.rollback_started is not None and is_person_there():
        yield from run_blocks.rollback_blocks(history)


def _steps_shown(
    run: RunDir, history: History, blocks: Sequence[Block], *, due: Sequence[str]
) -> tuple[Page, RunbookError | None]:
    """The page of a room that is good when every step that is ``due`` was done, and why it is not."""
    left_out = history.plan.left_out
    missing = [
        name for name in due if name not in left_out and history.step(name).status not in _DONE
    ]
    refused = history.outcome is Outcome.REFUSED and due == _SWITCH_STEPS
    if not missing and not refused:
        return _page(run, history, blocks), None
    banner = Banner("bad", f"stopped at {missing[0]}" if missing else "refused")
    around = [banner, *blocks, run_blocks.outcome_banner(history)]
    return _page(run, history, around), _ended(history)
