"""The files a reviewer reads, derived from the journal alone and derivable again, byte for byte.

``KEY=VALUE`` lines end with LF and hold no line break: one in a command is written as ``\\n``.
Instants are the journal's own (UTC, microseconds), durations differences of those instants, so
that a reader can redo the arithmetic; where the wall clock was set meanwhile, of the monotonic
ones. Writing them is the last act of a run: with it the secrets go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError
from ctp_runbook.host.files import is_being_written, keep_private, read
from ctp_runbook.host.lock import exclusive
from ctp_runbook.model import Outcome, Phase, State, StepKind, StepStatus
from ctp_runbook.plan.gate_table import Gate, unobserved_gates
from ctp_runbook.plan.step_table import order_steps
from ctp_runbook.record.formats import FORMAT, FormatOf, check_format
from ctp_runbook.record.history import History, StepHistory
from ctp_runbook.record.journal import Record, digest_of, read_journal, reserved_files
from ctp_runbook.record.kinds import (
    FAILED_BY_CAUSE,
    Closed,
    Count,
    Facts,
    RollbackStarted,
    Sha256,
    StateEntered,
    StepEnded,
    StepNotDone,
    StepStarted,
    Triggered,
    WatchDisturbed,
)
from ctp_runbook.record.private_plan import clear_private
from ctp_runbook.record.result_env import env_lines
from ctp_runbook.record.rundir import RunDir, write_atomic

__all__ = [
    "CHECKLISTS",
    "CUTOVER_RESULT",
    "NOT_TRIGGERED",
    "ROLLBACK_RESULT",
    "ListedFile",
    "Manifest",
    "cutover_env",
    "failed_step",
    "finalise",
    "is_left_unsealed",
    "kept_files",
    "kept_open",
    "list_again",
    "list_file",
    "manifest_bytes",
    "missing_copies",
    "no_runner_since",
    "read_manifest",
    "result_files",
    "rollback_env",
    "rollback_seconds",
    "seal_left",
    "trading_downtime_seconds",
    "unlisted_files",
    "unobserved_steps",
    "write_evidence",
    "write_manifest",
    "write_missing_copies",
]

CUTOVER_RESULT = "ctp_cutover_result.env"
ROLLBACK_RESULT = "ctp_rollback_result.env"
_SIDES = {CUTOVER_RESULT: "cutover", ROLLBACK_RESULT: "rollback"}
# What may be there besides where notebooks were to come, also half written by who was killed then.
_LATER = (
    r"(notebooks/\.[^/]+\.ipynb|\.report\.html|\.manifest\.json)\.\d+\.\d+"
    r"|notebooks/[^/]+\.ipynb|report\.html|logs/(guardian|orchestrator)\.log"
)
CHECKLISTS = ("ctp_one_shot_cutover_checklist.md", "ctp_one_shot_cutover_checklist.json")
NOT_TRIGGERED = "NOT_TRIGGERED"

# Below it lies what reading one clock after the other and a time service's slewing come to, and a
# step of the clock is told from there on (host/clocks.py).
_PARTED_SECONDS = 0.5
# How long whoever replaces a file is waited for: a disk that syncs has it for a moment.
_WRITING_SECONDS = 2.0
_BAD = (StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.UNKNOWN)


class ListedFile(Facts, frozen=True, kw_only=True):
    """A file as the manifest lists it."""

    sha256: Sha256
    size: Count


class Manifest(Facts, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """What belongs to a run. ``manifest_sha256`` is the digest of the same without it, compact."""

    run_id: str
    sealed: bool
    files: dict[str, ListedFile]
    manifest_sha256: str = ""


def cutover_env(history: History, *, journal_sha256: str = "") -> bytes:
    """``ctp_cutover_result.env``, keys in the order of CONTRACT §3, those added last.

    ``journal_sha256`` is the digest of the journal *file*; without it that of the records, which
    is the same unless a line was torn.
    """
    created, plan, ended = history.created, history.plan, history.watch_ended
    begun, end = _cutover_ends(history)
    started, completed = begun.wall_utc, end.wall_utc if end else ""
    success = history.outcome in (Outcome.COMPLETED, Outcome.DRY_RUN_OK)
    steps = _steps(history, Phase.GATE, Phase.SWITCH)
    base = {
        "CUTOVER_ENV": plan.environment,
        "CUTOVER_WINDOW_LOCAL": plan.window_local,
        "CUTOVER_CTP_CONFIG_PATH": plan.ctp_config_path,
        "CUTOVER_DRY_RUN": "1" if history.is_dry_run else "0",
        "CUTOVER_SUCCESS": _flag(success),
        "CUTOVER_TOTAL_STEPS": len(steps),
        "CUTOVER_FAILED_STEP": "" if success else failed_step(history),
        "CUTOVER_MONITOR_MINUTES": f"{plan.monitor_minutes:g}",
        "CUTOVER_MONITOR_KEYS": ",".join(plan.monitor_keys),
        "CUTOVER_TRIGGERED_ROLLBACK": _flag(history.rollback_started is not None),
        "CUTOVER_STARTED_UTC": started,
        "CUTOVER_COMPLETED_UTC": completed,
        "CUTOVER_DURATION_SECONDS": _seconds(_span(history, _moment(begun), _moment(end))),
    }
    added = {
        "CUTOVER_RUN_ID": history.run_id,
        "CUTOVER_PLAN_SHA256": created.plan_sha256,
        "CUTOVER_JOURNAL_SHA256": journal_sha256 or _digest_of_records(history.records),
        "CUTOVER_PARENT_RUN": created.parent_run,
        "CUTOVER_OVERRIDES": "; ".join(f"{name}: {why}" for name, why in created.overrides.items()),
        "CUTOVER_OUTCOME": history.outcome.value if history.outcome else "",
        "CUTOVER_TRADING_DOWNTIME_SECONDS": _seconds(trading_downtime_seconds(history)),
        "CUTOVER_WATCH_VERDICT": _watch_verdict(history),
        "CUTOVER_WATCH_SAMPLES": ended.payload.samples if ended else 0,
        "CUTOVER_BASELINE": _baseline(history),
        **_clock_set("CUTOVER", history, _moment(begun), _moment(end)),
    }
    return env_lines([*base.items(), *_step_lines(steps), *added.items(), *_output_lines(steps)])


def rollback_env(history: History) -> bytes:
    """``ctp_rollback_result.env``; a rollback that never ran is neither a success nor in time."""
    begun, plan = history.rollback_started, history.plan
    steps = _steps(history, Phase.ROLLBACK) if begun else ()
    success = history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    seconds, end = rollback_seconds(history), _rollback_end(history)
    base = {
        "ROLLBACK_ENV": plan.environment,
        "ROLLBACK_TRIGGER_CONDITION": plan.trigger_text,
        "ROLLBACK_DRY_RUN": "1" if history.is_dry_run else "0",
        "ROLLBACK_TRIGGERED": _flag(begun is not None),
        "ROLLBACK_SUCCESS": _flag(success),
        "ROLLBACK_TOTAL_STEPS": len(steps),
        "ROLLBACK_FAILED_STEP": "" if success or not begun else _rollback_failed_step(history),
        "ROLLBACK_MAX_SECONDS": _seconds(plan.max_rollback_seconds),
        "ROLLBACK_DURATION_SECONDS": _seconds(seconds),
        "ROLLBACK_SLO_MET": _flag(success and seconds <= plan.max_rollback_seconds),
        "ROLLBACK_STARTED_UTC": begun.payload.started_utc if begun else "",
        "ROLLBACK_COMPLETED_UTC": end.wall_utc if begun and end else "",
    }
    added = {
        "ROLLBACK_RUN_ID": history.run_id,
        "ROLLBACK_OUTCOME": history.outcome.value if begun and history.outcome else NOT_TRIGGERED,
        "ROLLBACK_TRIGGER_OBSERVED": _observed(history.trigger),
        **_clock_set("ROLLBACK", history, _triggered(begun), _moment(end if begun else None)),
    }
    return env_lines([*base.items(), *_step_lines(steps), *added.items(), *_output_lines(steps)])


def failed_step(history: History) -> str:
    """The cutover step that failed, else the cause that ended the cutover in its place."""
    if bad := _first_bad(history, Phase.GATE, Phase.SWITCH):
        return bad
    if history.trigger:
        return FAILED_BY_CAUSE[history.trigger.payload.cause]
    if history.outcome is Outcome.ABORTED_BEFORE_SWITCH:
        return "aborted"
    return "preflight" if history.outcome is Outcome.REFUSED else "unfinished"


def unobserved_steps(run: RunDir, history: History) -> dict[Gate, str]:
    """The infra gates that passed by a command that is none of ours, with what to say of each.

    The twin's commands are: there every gate leaves its evidence.
    """
    if history.created.rehearsal:
        return {}
    commands = {step.name: step.command for step in history.plan.steps}
    unobserved = unobserved_gates(commands, evidence=run.evidence)
    return {
        gate: words
        for gate, words in unobserved.items()
        if history.step(gate.step).status is StepStatus.OK
    }


def rollback_seconds(history: History) -> float:
    """From the triggering sample to the validated previous stack, 0.0 without one."""
    begun = history.rollback_started
    return _span(history, _triggered(begun), _moment(_rollback_end(history)))


def trading_downtime_seconds(history: History) -> float:
    """Seconds in which nobody who sends orders stood on a verified session.

    From the start of ``stop_old_strategy_runner`` (in a rollback, ``stop_new_…``) until the next
    runner is proved started; until the end of the run when none was. Of a generation without a
    runner its engine's steps count.
    """
    total, down_since = 0.0, _Moment()
    kinds = order_steps(history.members)
    for record in history.records:
        match record.payload:
            case StepStarted(step=step) if kinds.get(step) is StepKind.STOP:
                down_since = down_since if down_since.utc else _moment(record)
            # ok means that the start's effect was proved (run/steps.py).
            case StepEnded(step=step, status=StepStatus.OK) if kinds.get(step) is StepKind.START:
                total, down_since = total + _span(history, down_since, _moment(record)), _Moment()
            case Closed():
                total, down_since = total + _span(history, down_since, _moment(record)), _Moment()
    return total


def no_runner_since(history: History) -> str:
    """Return when the last sender of orders began to be stopped, where no other was proved started
    since; blank where one was, or none was ever stopped."""
    since, kinds = "", order_steps(history.members)
    for record in history.records:
        match record.payload:
            case StepStarted(step=step) if kinds.get(step) is StepKind.STOP:
                since = since or record.wall_utc
            # Skipped in a rollback: it runs, and is kept.
            case (
                StepEnded(step=step, status=StepStatus.OK)
                | StepNotDone(step=step, status=StepStatus.SKIPPED)
            ) if kinds.get(step) is StepKind.START:
                since = ""
    return since


def result_files(run: RunDir, history: History) -> dict[str, bytes]:
    """The two result files by name, as journal file and history give them."""
    sha256 = list_file(run.journal).sha256
    return {
        CUTOVER_RESULT: cutover_env(history, journal_sha256=sha256),
        ROLLBACK_RESULT: rollback_env(history),
    }


def write_evidence(run: RunDir, history: History) -> tuple[str, ...]:
    """Write the two result files and the checklist into evidence/, and the copies asked for.

    Copies named by ``*_EVIDENCE_OUTPUT`` in the templates are written by real runs only. Returns why
    not, for each copy that could not be; what the run's own folder does not take raises OSError.
    """
    durable = not history.is_dry_run
    results = result_files(run, history)
    for name, data in results.items():
        write_atomic(run.evidence / name, data, durable=durable)
    for name in CHECKLISTS:
        if (run.plan / name).is_file():
            data = (run.plan / name).read_bytes()
            write_atomic(run.evidence / name, data, durable=durable)
    # Last, and each for itself: a place that somebody named must not cost the run its own record.
    return _write_copies(history, results)


def missing_copies(history: History) -> list[Path]:
    """The copies asked for that are not there; whether one that is there is this run's, is not asked:
    a later run may have replaced it."""
    copies = [path for name in _SIDES for path in _copies(history, name)]
    return [path for path in copies if not path.is_file()]


def write_missing_copies(run: RunDir) -> tuple[str, ...]:
    """Write those alone; returns why not, for each that could not be."""
    history = History.of(read_journal(run.journal).records)
    return _write_copies(history, result_files(run, history), only=missing_copies(history))


def _write_copies(
    history: History, results: Mapping[str, bytes], *, only: Container[Path] | None = None
) -> tuple[str, ...]:
    gaps = []
    for name, data in results.items():
        for path in _copies(history, name):
            if only is not None and path not in only:
                continue
            try:
                write_atomic(path, data, durable=not history.is_dry_run)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                gaps.append(f"the copy {path} of {name} cannot be written: {why}")
    return tuple(gaps)


def write_manifest(run: RunDir, *, sealed: bool, durable: bool = True) -> None:
    """Write manifest.json over the files as they are now.

    A sealed manifest claims to be complete: a file that it does not list is then refused. An
    unsealed one, written when the run closes under its notebooks, leaves out what these still
    write.
    """
    files = {
        name: list_file(path)
        for name, path in kept_files(run).items()
        if sealed or not _is_still_written(name)
    }
    data = manifest_bytes(run.run_id, files, sealed=sealed)
    write_atomic(run.manifest, data, durable=durable)


def list_file(path: Path) -> ListedFile:
    """A file as it stands there, read in pieces: it may be larger than one wants to hold."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
        return ListedFile(sha256=digest.hexdigest(), size=source.tell())


def _digest_of_records(records: Iterable[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.line + b"\n")
    return digest.hexdigest()


def manifest_bytes(run_id: str, files: Mapping[str, ListedFile], *, sealed: bool) -> bytes:
    """The manifest of ``files``, by their paths: the one form it can have, digested itself."""
    manifest = Manifest(
        run_id=run_id,
        sealed=sealed,
        files={name: files[name] for name in sorted(files)},
    )
    digest = digest_of(msgspec.json.encode(manifest))
    whole = msgspec.json.encode(structs.replace(manifest, manifest_sha256=digest))
    return msgspec.json.format(whole, indent=2) + b"\n"


def read_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``. Raises JournalError for another format, ValueError for none."""
    check_format(decoder(FormatOf).decode(data).format, "manifest.json")
    return decoder(Manifest).decode(data)


def list_again(run: RunDir, path: Path) -> None:
    """List a file that was made again after the seal; every other one stays as it was listed.

    Nothing is done to a manifest that is not sealed, or that was edited. Raises OSError.
    """
    try:
        data = read(run.manifest)
        manifest = read_manifest(data)
    except (OSError, ValueError, RecursionError, JournalError):
        return
    whole = manifest_bytes(manifest.run_id, manifest.files, sealed=True)
    files = {**manifest.files, path.relative_to(run.path).as_posix(): list_file(path)}
    if data == whole and files != manifest.files:
        write_atomic(run.manifest, manifest_bytes(run.run_id, files, sealed=True))


@contextlib.contextmanager
def kept_open(run: RunDir, *, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a run open for the notebooks that are executed in it, so that its seal is left to them.

    It is held by a lock, which dies with its holder. Afterwards a run that was closed meanwhile
    is sealed as it is; that it cannot be is told, and changes nothing of how it ended.
    """
    try:
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError, TimeoutError):
                # Whoever looks whether it is held has it for an instant.
                held.enter_context(exclusive(run.run_json, seconds=1.0))
            yield
    finally:
        try:
            if run.manifest.exists():
                write_manifest(run, sealed=True)
        except OSError as error:
            tell(f"run {run.run_id} cannot be sealed, its manifest.json is of before: {error}")


class _Seal(Struct, frozen=True):
    """No more of a manifest than whether it is sealed."""

    sealed: bool = True


def is_left_unsealed(run: RunDir) -> bool:
    """Return True where whoever was to seal the run, behind its notebooks, did not live to."""
    try:
        seal = decoder(_Seal).decode(read(run.manifest))
    except (OSError, ValueError, RecursionError):
        return False  # there is none, or verification tells of it
    return not seal.sealed and not _is_kept_open(run)


def seal_left(run: RunDir) -> tuple[str, ...]:
    """Seal a run that was left unsealed: what is listed stays as it was listed, and what may be there
    besides is listed as it is. Return what else is there, and seal nothing then. Raises OSError."""
    data = read(run.manifest)
    try:
        manifest = read_manifest(data)
    except (ValueError, RecursionError, JournalError) as error:
        return (f"manifest.json is no manifest: {error}",)
    if data != manifest_bytes(manifest.run_id, manifest.files, sealed=False):
        return ("manifest.json was edited, and is not sealed",)
    kept = kept_files(run)
    if strange := unlisted_files(kept, manifest):
        return (f"it is not sealed, for there is what no run writes: {', '.join(strange)}",)
    files = {name: list_file(path) for name, path in kept.items()} | manifest.files
    write_atomic(run.manifest, manifest_bytes(manifest.run_id, files, sealed=True))
    return ()


def _is_kept_open(run: RunDir) -> bool:
    try:
        with exclusive(run.run_json, seconds=0):
            return False
    except TimeoutError:
        return True
    except OSError:
        return False  # without its header nobody holds it


def unlisted_files(kept: Iterable[str], manifest: Manifest) -> list[str]:
    """Of the files ``kept`` in the run, those that its manifest does not name, and would; under an
    unsealed one a notebook, the report and a log of who conducted the run may be there besides."""
    return [
        name
        for name in kept
        if name not in manifest.files and (manifest.sealed or not re.fullmatch(_LATER, name))
    ]


def kept_files(run: RunDir) -> dict[str, Path]:
    """Return what a manifest lists, by the name it has there (what is no UTF-8 is escaped): all but
    itself, requests in flight and the journal's reserve.

    What somebody else is writing at this moment is waited for: under the name that it has until
    then nobody would find it again.
    """
    latest = time.monotonic() + _WRITING_SECONDS
    while any(map(is_being_written, kept := _files_of(run))) and time.monotonic() < latest:
        time.sleep(0.01)
    return {
        path.relative_to(run.path).as_posix().encode(errors="backslashreplace").decode(): path
        for path in sorted(kept)
    }


def _files_of(run: RunDir) -> list[Path]:
    left_out = (run.manifest, run.journal.with_suffix(".reserve"))
    kept: list[Path] = []
    for name, folders, files in os.walk(run.path):
        folder = Path(name)
        if folder in (run.control, reserved_files(run.journal)):
            folders.clear()
            continue
        paths = (folder / file for file in files)
        kept += (path for path in paths if path not in left_out and path.is_file())
    return kept


def _is_still_written(name: str) -> bool:
    """True for notebooks, the report, and the logs of the processes that conduct the run."""
    room, _, file = name.partition("/")
    return name == "report.html" or room == "notebooks" or (room == "logs" and "/" not in file)


def _copies(history: History, name: str) -> list[Path]:
    """Where else a result file goes: the flag's path and the template's, from the run's folder."""
    if not history.has_begun:
        # Closed as refused while another run had the environment: the copies are that one's.
        return []
    created, plan, side = history.created, history.plan, _SIDES[name]
    named = "" if history.is_dry_run else getattr(plan, f"{side}_evidence_output")
    paths = dict.fromkeys((created.copies.get(f"{side}_output", ""), named))
    return [Path(created.cwd) / path for path in paths if path]


def _cutover_ends(history: History) -> tuple[Record, Record | None]:
    """From the first gate to the moment the rollback took over, or to the end of the run."""
    entered = history.of_kind(StateEntered)
    gating = (record for record in entered if record.payload.to is State.GATING)
    return next(gating, history.records[0]), history.rollback_started or history.closed


def _steps(history: History, *phases: Phase) -> tuple[StepHistory, ...]:
    """The plan's steps of ``phases`` in plan order, those never reached as NOT_RUN."""
    planned = (step for step in history.plan.steps if step.phase in phases)
    return tuple(
        structs.replace(known, command=known.command or step.command)
        for step in planned
        for known in (history.step(step.name),)
    )


def _step_lines(steps: Iterable[StepHistory]) -> Iterator[tuple[str, Any]]:
    for number, step in enumerate(steps, start=1):
        yield f"STEP_{number}_NAME", step.name
        yield f"STEP_{number}_STATUS", step.status.value
        yield f"STEP_{number}_DURATION_MS", round(step.duration_ms)
        yield f"STEP_{number}_EXIT_CODE", "" if step.exit_code is None else step.exit_code
        yield f"STEP_{number}_COMMAND", step.command


def _output_lines(steps: Iterable[StepHistory]) -> Iterator[tuple[str, str]]:
    for number, step in enumerate(steps, start=1):
        yield f"STEP_{number}_OUTPUT_SHA256", step.output_sha256


def _first_bad(history: History, *phases: Phase) -> str:
    """The first step of ``phases`` that is known to have gone wrong, or that nobody saw end."""
    return next((step.name for step in _steps(history, *phases) if step.status in _BAD), "")


def _rollback_failed_step(history: History) -> str:
    if history.outcome is Outcome.ROLLED_BACK_LATE:
        return "rollback_duration_exceeded"
    return _first_bad(history, Phase.ROLLBACK) or "post_rollback_validate"


def _rollback_end(history: History) -> Record | None:
    """When the previous stack was validated; the end of the run when it never was."""
    name = "post_rollback_validate"
    if history.step(name).status in (StepStatus.OK, StepStatus.SIMULATED_OK):
        ends = [end for end in history.of_kind(StepEnded) if end.payload.step == name]
        return ends[-1] if ends else history.closed
    return history.closed


def _watch_verdict(history: History) -> str:
    if history.watch_ended:
        return history.watch_ended.payload.verdict
    return "INCONCLUSIVE" if history.watch_started else "NOT_RUN"


def _baseline(history: History) -> str:
    """What was sampled of the old engine; in a record of before, what the comparison came to."""
    if history.watch_ended and (compared := history.watch_ended.payload.baseline):
        return compared.sentence
    sampled = history.baseline_ended
    return sampled.payload.sentence if sampled else "no baseline: not sampled"


def _observed(trigger: Record[Triggered] | None) -> str:
    """Metric, value (``>10.0``: more than that), limit and sample time of the trigger; cause and
    sentence of any other."""
    if trigger is None:
        return ""
    cause = trigger.payload
    if cause.cause != "metric":
        return f"cause={cause.cause} {cause.sentence}"
    value = f">{cause.value}" if cause.is_over else cause.value
    return f"metric={cause.metric} value={value} limit={cause.limit} sample_utc={cause.sample_utc}"


class _Moment(Struct, frozen=True):
    """An instant as the journal has it, by both clocks; blank where it never came."""

    utc: str = ""
    mono_ns: int = 0
    boot_id: str = ""


def _moment(record: Record | None) -> _Moment:
    return _Moment(record.wall_utc, record.mono_ns, record.boot_id) if record else _Moment()


def _triggered(begun: Record[RollbackStarted] | None) -> _Moment:
    """When the sample was taken that a rollback goes back to."""
    if begun is None:
        return _Moment()
    return _Moment(begun.payload.started_utc, begun.payload.started_mono_ns, begun.boot_id)


def _clock_set(prefix: str, history: History, started: _Moment, ended: _Moment) -> dict[str, str]:
    """By how much the instants of a span differ by more than it lasted; nothing where they do not.

    With it a reader of the file alone can redo the arithmetic.
    """
    if not started.utc or not ended.utc:
        return {}
    apart = _seconds(_wall_span(started, ended) - _span(history, started, ended))
    return {f"{prefix}_CLOCK_SET_SECONDS": apart} if float(apart) else {}


def _wall_span(started: _Moment, ended: _Moment) -> float:
    end, start = (datetime.fromisoformat(moment.utc) for moment in (ended, started))
    return (end - start).total_seconds()


def _span(history: History, started: _Moment, ended: _Moment) -> float:
    """Seconds between two moments, whatever somebody set the wall clock to meanwhile.

    By the instants, whose difference a reader can redo, as long as both clocks agree on it. Where
    they part, the monotonic one is right, but for a suspend, in which it stands still. Across a
    boot there is only the wall clock.
    """
    if not started.utc or not ended.utc:
        return 0.0
    wall = _wall_span(started, ended)
    mono = (ended.mono_ns - started.mono_ns) / 1e9
    if started.boot_id != ended.boot_id or abs(wall - mono) <= _PARTED_SECONDS:
        return wall
    slept = sum(
        record.payload.seconds
        for record in history.of_kind(WatchDisturbed)
        if record.payload.what == "suspended"
        and record.boot_id == ended.boot_id
        and started.mono_ns <= record.mono_ns <= ended.mono_ns
    )
    return mono + slept


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def finalise(
    run: RunDir, history: History | None = None, *, tell: Callable[[str], None] = lambda gap: None
) -> tuple[str, ...]:
    """Write evidence/ and manifest.json of a run whose journal is closed; may be repeated.

    ``history`` is what the journal says, where the caller has just written it whole. Returns why
    not, for each copy elsewhere that could not be written, and tells it before the manifest is
    made. Raises OSError, and leaves the run without its manifest, when its own folder takes no
    more.

    The manifest is the run's seal, unless notebooks are being executed in it: these come later,
    and whoever executes them seals then. Behind the seal nobody writes to the run's logs any more.
    """
    history = history or History.of(read_journal(run.journal).records)
    gaps, durable = write_evidence(run, history), not history.is_dry_run
    for gap in gaps:
        tell(gap)
    keep_private(run.path)
    is_open = _is_kept_open(run)
    if is_open:
        write_manifest(run, sealed=False, durable=durable)
        # They may have been done with before that manifest was there for them to seal.
        is_open = _is_kept_open(run)
    if not is_open:
        write_manifest(run, sealed=True, durable=durable)
    clear_private(run)
    return gaps
