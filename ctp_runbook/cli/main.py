"""``ctp-runbook``: the commands of RUNBOOK.md and those around them (CONTRACT §4, §5)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ctp_runbook._late import import_msgspec, uncollected
from ctp_runbook.cli.options import (
    BY,
    HOMES,
    NEW_OUTPUTS,
    OUTPUTS,
    Command,
    Option,
    command,
    find_run,
    follow_to_end,
    load_command,
    plain_values,
    run_at_hand,
    say,
    say_end,
    take_in_hand,
    tell_of_standing,
    viewer_of,
)
from ctp_runbook.host import streams

if TYPE_CHECKING:
    from ctp_runbook.plan.plan import Plan
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.run.launch import RunOptions

__all__ = ["calibrate", "drill", "main", "orchestrate", "plan", "proc", "run", "verify"]

_REFUSED, _UNKNOWN, _INTERRUPTED = 2, 7, 130  # CONTRACT §5, and what a shell calls Ctrl-C
# What ends by an error that nobody foresaw, by its command: a gate that may have acted has failed;
# who asked whether a daemon is alive is told that nobody could tell (1 would mean "gone"); of what
# was brought up nobody knows what stands. Of any other command nothing was touched.
_UNFORESEEN = {"infra": 3, "proc": 3, "rehearse": _UNKNOWN, "stack": _UNKNOWN, "lab": _UNKNOWN}
# What these print is what was asked for.
_PRINTED = {
    **dict.fromkeys(("plan", "verify", "rejudge", "runs", "compare"), _REFUSED),
    "status": _UNKNOWN,
}
_OPS = Path("configs/ops")
_BESIDE = "[default: beside the template, else configs/]"
_TEMPLATES = (
    Option("--cutover-template PATH", default=_OPS / "ctp_cutover.template.env", again=True),
    Option(
        "--rollback-template PATH", default=_OPS / "ctp_rollback_drill.template.env", again=True
    ),
    Option("--limits PATH", _BESIDE, again=True),
    Option("--watch PATH", _BESIDE, again=True),
)
_RUNNING = (
    Option("--execute", "Act. Without it nothing is run."),
    Option("--probe", "Dry run: do the read-only probes for real."),
    Option("--force-rollback", "Drill: roll back after a verified switch."),
    Option("--plan-sha256 HEX", "Run only the plan reviewed."),
    Option("--short-watch REASON", "Allow a watch below 30 minutes.", name="short_watch_reason"),
    Option(
        "--accept-unmeasured REASON",
        "Act although no earlier run measured how long cutover and rollback take here.",
    ),
    Option("--accept-late REASON", "Act although a rollback may not end in time."),
    NEW_OUTPUTS,
    Option(
        "--run-dir PATH",
        "The run's own directory  [default: a new one in --outputs]",
        writes="folder",
    ),
    BY,
    Option("--yes", "With --execute: do not ask a person at a terminal to type the environment."),
    Option("--json", "Say it as JSON lines: infra/schemas/told.json.", name="as_json"),
)
_ONCE = (
    Option("--once", "Begin no run of a plan that had one here: follow it, or tell how it ended."),
    Option("--again TEXT", "With --once: begin although the last run was this one, by its id."),
)
_COPIES = (
    Option("--cutover-output PATH", "Copy of ctp_cutover_result.env", writes="file"),
    Option("--rollback-output PATH", "Copy of ctp_rollback_result.env", writes="file"),
)


def main() -> NoReturn:
    """Run the command line; whatever happens, an operator sees sentences and a true exit code."""
    streams.keep_open()
    take_in_hand(None)
    words = sys.argv[1:]
    try:
        try:
            code = _perform(words)
        except KeyboardInterrupt as error:
            with _uninterrupted():
                say("", err=True)
                code = _interrupted(error)
        except Exception as error:  # noqa: BLE001  the last boundary: no traceback for an operator
            code = _exit_code(error, words)
    except (Exception, KeyboardInterrupt):  # noqa: BLE001  nor for one whose error could not even be told
        code = _unforeseen_code(words)
    code = code if isinstance(code, int) else 0
    if not code and (lost := streams.unwritten()) and words[:1] and words[0] in _PRINTED:
        say(f"error: what was to be printed could not be written: {lost}", err=True, fg="red")
        code = _PRINTED[words[0]]
    if live := sys.modules.get("ctp_runbook.show.live"):
        live.end_beside_a_stuck_terminal(code)
    sys.exit(code)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Be let tell how it ends: who is in a hurry presses Ctrl-C again and again."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _perform(words: list[str]) -> Any:
    """Do what the words ask: at once where they are plainly right, else by way of click."""
    name, rest = "".join(words[:1]), words[1:]
    if name == "proc" and rest and not rest[0].startswith("-"):
        return proc.perform(tuple(rest))
    if name in HOMES:
        import_msgspec()
        row = load_command(name)
        values = plain_values(rest, row.options) if isinstance(row, Command) else None
        if values is not None:
            return row.perform(**values)
    from ctp_runbook.cli.click_commands import cli

    return cli.main(words, prog_name="ctp-runbook", standalone_mode=False)


def _exit_code(error: Exception, words: list[str]) -> int:
    """Tell what went wrong, by its sentence or as an error of ours; the exit code it has."""
    import click

    from ctp_runbook.errors import InputError, RunbookError

    if isinstance(error, click.Abort):
        return _interrupted(error.__cause__)
    if isinstance(error, click.ClickException):
        error.show()
        return _REFUSED
    if isinstance(error, RunbookError):
        problems = error.problems if isinstance(error, InputError) else ()
        for line in [problem.sentence for problem in problems] or [str(error)]:
            say(f"error: {_masked(line)}", err=True, fg="red")
        return _code_by_run(error.exit_code) if error.exit_code == _REFUSED else error.exit_code
    say(f"error: {_masked(_sentence_of(error))}", err=True, fg="red")
    return _unforeseen_code(words)


def _sentence_of(error: Exception) -> str:
    """What was raised and nobody foresaw, in words; of an error of ours also where its details are."""
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return "the folder that this command was called in is gone; cd to one that is there"
    if isinstance(error, OSError):
        place = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return f"{place}{error.strerror or error}; mend that, then try again"
    if isinstance(error, MemoryError):
        return "there is not enough memory; give this user or this service more, then try again"
    name = type(error).__name__
    return f"an error that nobody foresaw, {name}: {error}{_keep_traceback()}; please report it"


def _unforeseen_code(words: list[str]) -> int:
    """The exit code of a command that ended by what nobody foresaw: 2 only where it touched nothing."""
    if run_at_hand() is not None:
        return _code_by_run(_REFUSED, is_foreseen=False)
    name = words[0] if words else ""
    if name == "infra" and "--execute" not in words:
        return _REFUSED
    return _UNFORESEEN.get(name, _REFUSED)


def _code_by_run(code: int, *, is_foreseen: bool = True) -> int:
    """``code``, or what is true of the run at hand instead where 2 would say that nothing was touched."""
    from ctp_runbook.errors import RunbookError
    from ctp_runbook.run.attend import is_touched, read_history, set_aside_sentence

    if (run := run_at_hand()) is None:
        return code
    try:
        history = read_history(run)
    except (RunbookError, OSError, ValueError):
        standing = "what became of it is not known, for its journal cannot be read"
        todo = set_aside_sentence(run)
    else:
        if history.is_dry_run:
            return code
        if history.outcome is not None:
            return code if is_foreseen else history.outcome.exit_code
        if not history.has_begun or (is_foreseen and not is_touched(history)):
            return code
        standing = f"it is {history.state.value}, and this command no longer follows it"
        todo = f"see `ctp-runbook status --run {run.path}`"
    say(f"run {run.run_id}: {standing}; {todo}", err=True, fg="red")
    return _UNKNOWN


def _masked(text: str) -> str:
    """Return what was raised, without secrets: whoever raised it may not know them."""
    from ctp_runbook.host import caller
    from ctp_runbook.redact import Redactor

    files = Path("infra/env").glob("*.env")
    return Redactor.gather(environ=caller.environ(), env_files=files)(text)


def _interrupted(error: BaseException | None) -> int:
    say("interrupted; nothing of a running run was stopped", err=True)
    # Of a signal (host/interruption.py) it says which.
    code = int(getattr(error, "exit_code", _INTERRUPTED))
    return _code_by_run(code, is_foreseen=False)


def _keep_traceback() -> str:
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ctp-runbook-", suffix=".log", delete=False
        ) as sink:
            sink.write(_masked(traceback.format_exc()))
    except OSError:
        return ""  # there is no room for it anywhere
    return f" (details: {sink.name})"


@command(
    *_TEMPLATES,
    Option("--output-md PATH", writes="file"),
    Option("--output-json PATH", writes="file"),
    OUTPUTS,
)
def plan(output_md: Path | None, output_json: Path | None, outputs: Path, **files: Any) -> None:
    """Check the templates and write the checklist (RUNBOOK §2)."""
    from ctp_runbook.plan.checklist import checklist
    from ctp_runbook.record.calibration import calibration_warnings
    from ctp_runbook.record.durations import measured_durations
    from ctp_runbook.record.rundir import write_atomic

    plan = _plan_of(**files)
    measured = measured_durations(plan.environment, [outputs])
    texts = checklist(plan, measured)
    if output_md:
        write_atomic(output_md, texts.markdown.encode())
    if output_json:
        write_atomic(output_json, texts.json.encode())
    if not (output_md or output_json):
        say(texts.markdown)
    for warning in (*plan.warnings, *calibration_warnings(plan, [outputs])):
        say(f"warning: {warning}", err=True, fg="yellow")
    for exception in plan.declared:
        say(f"declared: {exception}", err=True, fg="red")
    say(f"earlier runs: cutover {measured.cutover}, rollback {measured.rollback}")
    say(f"plan {plan.environment}: {len(plan.steps)} steps, sha256 {plan.sha256}")


@command(
    *_TEMPLATES,
    Option("--minutes FLOAT>0", "Record the engine that runs, for so long.", default=None),
    Option(
        "--run PATH",
        "Or take a recorded run, by its own limits: a directory or id.",
        name="run_dir",
    ),
    Option("--samples PATH", "Or take a file of samples that was recorded.", again=True),
    NEW_OUTPUTS,
    Option(
        "--window-minutes FLOAT>0",
        "How long a watch lasts  [default: POST_SWITCH_MONITOR_MINUTES]",
        default=None,
    ),
    Option(
        "--step-minutes FLOAT>0",
        "From one window to the next  [default: a third of a window]",
        default=None,
    ),
    Option("--false-alarm-rate FLOAT>0", "Share of windows that may alarm.", default=0.01),
)
def calibrate(
    minutes: float | None, run_dir: Path | None, samples: Path | None, outputs: Path, **values: Any
) -> None:
    """Hold the old engine against the limits of the watch, and suggest limits."""
    from ctp_runbook.notebook import calibrate as calibration

    if sum(each is not None for each in (minutes, run_dir, samples)) != 1:
        import click

        raise click.UsageError(
            "give one of --minutes (record the engine that runs), --run and --samples"
        )
    files = _files(values)
    if run_dir is not None:
        run = find_run(run_dir, outputs)
        subject, recording = calibration.subject_of_run(run, watch=files["watch"])
    else:
        plan = _plan_of(**files)
        subject = calibration.subject_of_plan(plan)
        recording = calibration.Recording(source=str(samples), samples=samples)
        if minutes:
            recording = calibration.Recording(plan=plan, minutes=minutes)
    asked = calibration.Asked.of(subject, **values)
    calibrated, folder = calibration.make(subject, asked, recording, outputs=outputs, tell=say)
    say(calibration.told(calibrated, folder))
    say(f"executed notebook: {calibration.draw(folder)}")


@command(*_TEMPLATES, *_RUNNING, *_ONCE, *_COPIES)
def orchestrate(**values: Any) -> int:
    """Gates, switch and watch without notebooks (RUNBOOK §3)."""
    return _conduct(values, "orchestrate")


@command(*_TEMPLATES, *_RUNNING, *_COPIES)
def drill(**values: Any) -> int:
    """The rollback drill (RUNBOOK §6): orchestrate --force-rollback under its own name."""
    return _conduct({**values, "force_rollback": True}, "drill")


def _conduct(values: dict[str, Any], name: str) -> int:
    with uncollected():
        from ctp_runbook.errors import RunRefused
        from ctp_runbook.run import launch

        plan = _plan_of(**_files(values))
    as_json, is_agreed = values.pop("as_json"), values.pop("yes")
    options = launch.RunOptions(**values)
    if options.again and not options.once:
        import click

        raise click.UsageError("--again is for --once: without that a run is begun anyhow")
    if options.once and (there := launch.run_of_plan(plan, options)):
        return tell_of_standing(there, options, as_json=as_json)
    if not is_agreed:
        options = _confirmed(plan, options)
    try:
        run = launch.begin(
            plan,
            options,
            reason=f"{name} --execute",
            tell=take_in_hand if as_json else _tell_of,
        )
    except RunRefused:
        # Of two that ask at one instant the second follows what the first began.
        if not options.once or (there := launch.await_run_of_plan(plan, options)) is None:
            raise
        return tell_of_standing(there, options, as_json=as_json)
    return follow_to_end(run, quiet=not options.execute, as_json=as_json)


def _tell_of(run: RunDir) -> None:
    take_in_hand(run)
    say(f"run {run.run_id}: {run.path}")


def _confirmed(plan: Plan, options: RunOptions) -> RunOptions:
    """``options`` once a person at the terminal has typed the environment: bound to the plan they saw.

    Where nobody sits at one, --execute is all that is asked for. Raises PlanRefused for what would
    be refused anyhow, RunRefused for another word; nothing was touched then.
    """
    if options.execute is not True or not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
        return options
    import textwrap

    from msgspec import structs

    from ctp_runbook.errors import PlanRefused, RunRefused
    from ctp_runbook.run import launch
    from ctp_runbook.run.world import HERE

    if reasons := launch.execute_refusals(plan, options, now=HERE.now):
        raise PlanRefused(reasons)
    for line in (
        f"{plan.environment}: {len(plan.gates)} gates, a switch of {len(plan.switch)} steps, "
        f"{plan.monitor_minutes:g} minutes of watch",
        f"window {plan.window_text}",
        f"rolls back by itself within {plan.max_rollback_seconds:g} s when {plan.trigger.text}",
        f"plan sha256 {plan.sha256}",
    ):
        say(textwrap.fill(line, 79, subsequent_indent="  ", break_long_words=False), err=True)
    # Not by input(): standard output may be a pipe, or JSON.
    print(f"Type {plan.environment} to run it: ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed != plan.environment:
        raise RunRefused(
            f"typed {typed!r}; expected {plan.environment!r}: nothing was touched. Type the command "
            "again, or give --yes where nobody is to be asked"
        )
    return structs.replace(options, plan_sha256=plan.sha256)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())


def _plan_of(
    *, cutover_template: Path, rollback_template: Path, limits: Path | None, watch: Path | None
) -> Plan:
    """Make the plan of these files; raises TemplateError or ConfigError with every problem."""
    from ctp_runbook.host import caller
    from ctp_runbook.host.checkout import find_config
    from ctp_runbook.plan.plan import load_plan

    return load_plan(
        cutover_template,
        rollback_template,
        limits=limits or find_config("limits.toml", template=cutover_template),
        watch=watch or find_config("watch.toml", template=cutover_template),
        environ=caller.environ(),
        base=Path.cwd(),
    )


def _files(values: dict[str, Any]) -> dict[str, Any]:
    """Take the four files of a plan from the values; the others say what is asked of a run."""
    return {option.name: values.pop(option.name) for option in _TEMPLATES}


@command(*_TEMPLATES, *_RUNNING, Option("--notebooks PATH", "Directory of the seven notebooks"))
def run(notebooks: Path | None, **values: Any) -> int:
    """The seven notebooks, headless: executed notebooks are the evidence."""
    from ctp_runbook.notebook.runner import run_all
    from ctp_runbook.run.launch import RunOptions, read_history

    as_json, is_agreed = values.pop("as_json"), values.pop("yes")
    files, options = _files(values), RunOptions(**values)
    if not is_agreed and options.execute:
        options = _confirmed(_plan_of(**files), options)
    runs: list[RunDir] = []
    with contextlib.ExitStack() as viewed:
        tell: list[Callable[[str], None]] = [(lambda line: None) if as_json else say]

        def follow(run: RunDir) -> None:
            take_in_hand(run)
            runs.append(run)
            if as_json or options.execute:
                viewer = viewer_of(run, dry_run=not options.execute, as_json=as_json)
                tell[:] = [viewed.enter_context(viewer).say]

        code = run_all(
            **files,
            options=options,
            notebooks_dir=notebooks,
            on_progress=lambda line: tell[-1](line),
            on_made=follow,
        )
    if as_json and runs:
        say_end(runs[-1], read_history(runs[-1]), code)
    return code


@command(
    Option("--run PATH", "Run directory or id: recompute everything.", name="run_dir"),
    OUTPUTS,
    Option("--cutover-evidence-file PATH"),
    Option("--rollback-evidence-file PATH"),
    Option("--allow-cutover-rollback"),
    Option("--max-rollback-seconds FLOAT"),
)
def verify(
    run_dir: Path | None,
    outputs: Path,
    cutover_evidence_file: Path | None,
    rollback_evidence_file: Path | None,
    **bounds: Any,
) -> int:
    """Verify a run, or a bare pair of result files (RUNBOOK §8)."""
    from ctp_runbook.verify.pair import verify_pair
    from ctp_runbook.verify.run import verify_run

    if run_dir is not None:
        with uncollected():
            report = verify_run(find_run(run_dir, outputs), **bounds)
    elif cutover_evidence_file and rollback_evidence_file:
        report = verify_pair(cutover_evidence_file, rollback_evidence_file, **bounds)
    else:
        import click

        raise click.UsageError(
            "give --run DIR or id, or both --cutover-evidence-file and --rollback-evidence-file"
        )
    for check in report.checks:
        say(f"{check.symbol} {check.name}: {check.sentence}")
    say(report.sentence, fg="green" if report.ok else "red")
    return 0 if report.ok else 2


@command(
    Option("WORDS ...", name="words"),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
def proc(words: tuple[str, ...]) -> int:
    """proc start | stop | alive --pid-file F [-- CMD]: daemons with an identity."""
    from ctp_runbook.host import proc as daemons

    return daemons.main(list(words))
