"""The runs of a folder side by side: a row each, read from its journal, and two of them compared.

What cannot be read is told beside them and hides no other: a folder of runs is shared by people and
versions. Nothing here proves a record; ``seal_of`` is what can be seen in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct, to_builtins

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError, RunbookError, RunRefused
from ctp_runbook.host.files import no_file, read_small
from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record.durations import cutover_seconds
from ctp_runbook.record.evidence import (
    CUTOVER_RESULT,
    ROLLBACK_RESULT,
    ListedFile,
    list_file,
    manifest_bytes,
    no_runner_since,
    read_manifest,
    rollback_seconds,
    trading_downtime_seconds,
)
from ctp_runbook.record.formats import FORMAT
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import PlanFacts, RunCreated
from ctp_runbook.record.rundir import RunDir

__all__ = [
    "TWINS",
    "Comparison",
    "Difference",
    "HostRuns",
    "PastMetric",
    "PastRun",
    "PastRuns",
    "PastStep",
    "SkippedRun",
    "compare",
    "past_run",
    "past_runs",
    "runs_of",
    "runs_of_hosts",
    "seal_of",
    "took",
]

# Every twin is an environment of its own; its rehearsals are those of all.
TWINS = "rehearsal"
# A list is not worth more: a day of a watch comes to some megabytes.
_LONGEST_JOURNAL = 64 * 1024 * 1024
_LONGEST_MANIFEST = 16 * 1024 * 1024
# What somebody else's folder may make of reading it; a row is told then, and no list is lost.
_UNREADABLE = (OSError, RunbookError, ValueError, ArithmeticError, LookupError, RecursionError)
_VALIDATED = (Outcome.ROLLED_BACK_IN_BUDGET.value, Outcome.ROLLED_BACK_LATE.value)
_BAD = (StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.UNKNOWN)

_Named = TypeVar("_Named", "PastStep", "PastMetric")

_Mode = Literal["cutover", "drill", "undo", "dry run"]
_Seal = Literal["sealed", "open", "differs"]


class PastStep(Struct, frozen=True):
    """A step as its last attempt went; ``seconds`` is None for one that has no end."""

    name: str
    phase: str
    status: str
    seconds: float | None

    @property
    def is_bad(self) -> bool:
        """True for one that was started and did not end well."""
        return self.status in _BAD


class PastMetric(Struct, frozen=True):
    """What a metric of the watch came to, in its own unit. ``margin_percent`` is of the limit; None
    where there is no worst value, where only that it is above something is known, or the limit is 0."""

    name: str
    unit: str
    verdict: str
    worst: float | None
    limit: float
    margin: float | None
    margin_percent: float | None


class PastRun(Struct, frozen=True):
    """A run in a row. Durations are seconds; None where the run has none, or where it is not known.

    ``seal``: ``sealed``: the manifest is whole, journal and results are those it lists, and every
    other file has its size; ``open``: nobody sealed it; ``differs``: what it lists is not what is there.
    ``is_down``: nothing that sends orders was started again after what was stopped. ``running``: each
    member by the last look, ``alive`` or ``gone``; nobody where nobody was looked at.
    """

    run_id: str
    path: str
    environment: str
    rehearsal: bool
    mode: _Mode
    started_utc: str
    ended_utc: str
    state: str
    outcome: str
    failed_step: str
    plan_sha256: str
    created_by: str
    host: str
    restarts: int
    cutover_seconds: float | None
    downtime_seconds: float | None
    is_down: bool
    rollback_seconds: float | None
    rollback_budget_seconds: float
    watch_verdict: str
    tightest_metric: str
    tightest_margin_percent: float | None
    seal: _Seal
    seal_sentence: str
    steps: tuple[PastStep, ...]
    metrics: tuple[PastMetric, ...]
    running: dict[str, str] = {}

    @property
    def is_dry(self) -> bool:
        """True for a run that did nothing."""
        return self.mode == "dry run"

    @property
    def group(self) -> str:
        """Whose durations it speaks for: its environment, or those of all twins."""
        return TWINS if self.rehearsal else self.environment


class SkippedRun(Struct, frozen=True):
    """What looks like a run and is not listed, and why."""

    path: str
    why: str


class PastRuns(Struct, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The runs of a folder, oldest first, and what of it could not be read."""

    outputs: str
    runs: tuple[PastRun, ...]
    skipped: tuple[SkippedRun, ...]


def past_runs(outputs: Path, *, newest: int | None = None, plan_sha256: str = "") -> PastRuns:
    """Read every run in a folder, or so many of those that were made last, or those of one plan.

    Raises RunRefused where there is no such folder.
    """
    runs, skipped = [], []
    names = _names_in(outputs)
    for name in names if newest is None else _newest(outputs, names)[:newest]:
        path = outputs / name
        try:
            if (reason := _why_not(path)) is None:
                continue
            if reason:
                skipped.append(SkippedRun(printable(str(path)), reason))
                continue
            runs.append(past_run(RunDir(path)))
        except _UNREADABLE as error:
            # Its own path stands beside it already.
            why = _said(error).removeprefix(f"{printable(str(path))}/")
            skipped.append(SkippedRun(printable(str(path)), why))
    if plan_sha256:
        runs = [run for run in runs if run.plan_sha256 == plan_sha256]
    runs.sort(key=lambda run: (run.started_utc, run.run_id))
    return PastRuns(outputs=printable(str(outputs)), runs=tuple(runs), skipped=tuple(skipped))


class HostRuns(Struct, frozen=True):
    """What a host answered when it was asked for its runs: the last real one; else why there is none."""

    host: str
    run: PastRun | None = None
    why: str = ""


def runs_of_hosts(folder: Path) -> tuple[HostRuns, ...]:
    """Read each ``HOST.json``, what `runs --json` printed there, in the order in which the runs began.

    An empty one is of a host that was not asked. Raises RunRefused where there is no such file.
    """
    names = [name for name in _names_in(folder) if name.endswith(".json")]
    if not names:
        raise RunRefused(f"{folder}: no HOST.json is there; `ctp-runbook runs --json` prints one")
    hosts = [_host(folder / name) for name in names]
    # Those without a run come last: they were not reached yet.
    hosts.sort(
        key=lambda host: (host.run is None, host.run.started_utc if host.run else "", host.host)
    )
    return tuple(hosts)


def _host(path: Path) -> HostRuns:
    name = printable(path.stem)
    try:
        if not (data := read_small(path, most=_LONGEST_MANIFEST)).strip():
            return HostRuns(name, why="it was not asked")
        answer = decoder(PastRuns).decode(data)
    except _UNREADABLE as error:
        return HostRuns(name, why=f"its answer cannot be read: {_said(error)}")
    if real := [run for run in answer.runs if not run.is_dry]:
        return HostRuns(name, real[-1])
    unread = "; ".join(each.why for each in answer.skipped)
    return HostRuns(
        name, why=f"it told of no run{f', and some cannot be read: {unread}' * bool(unread)}"
    )


def runs_of(runs: Iterable[PastRun], environment: str = "") -> tuple[str, tuple[PastRun, ...]]:
    """Return an environment and its runs, dry ones too; ``rehearsal`` is that of all twins.

    Blank: that of the newest run that was no dry one, else of the newest. Raises RunRefused where there
    is none.
    """
    known = tuple(runs)
    if not environment and known:
        newest = next((run for run in reversed(known) if not run.is_dry), known[-1])
        environment = newest.group
    chosen = tuple(run for run in known if environment in (run.group, run.environment))
    if not chosen:
        there = ", ".join(sorted({run.group for run in known})) or "no run at all"
        wanted = f"environment {environment}" if environment else "any environment"
        raise RunRefused(
            f"no run of {wanted} can be read there: found {there}; name one that is there, or "
            "another folder of runs"
        )
    return environment, chosen


def _names_in(outputs: Path) -> list[str]:
    try:
        return sorted(os.listdir(outputs))
    except OSError as error:
        raise RunRefused(
            f"{outputs}: no folder of runs can be read there ({error.strerror}); name one by --outputs"
        ) from error


def _newest(outputs: Path, names: Iterable[str]) -> list[str]:
    """Those that were made last before the others, by their run.json, which is written once."""
    moments = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            moments[name] = os.lstat(f"{outputs}/{name}/run.json").st_mtime_ns
    return sorted(moments, key=lambda name: moments[name], reverse=True)


def _why_not(path: Path) -> str | None:
    """Say why a run is skipped, blank for one to read; None for what does not look like a run."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        # Read, it would be counted twice, or be of another folder.
        is_run = path.is_dir() and os.path.lexists(path / "run.json")
        return (
            "a symbolic link; the folder that it leads to is listed where it stands"
            if is_run
            else None
        )
    if not stat.S_ISDIR(mode):
        return None
    run = RunDir(path)
    try:
        journal = run.journal.lstat()
    except FileNotFoundError:
        return "no journal.jsonl beside its run.json" if os.path.lexists(run.run_json) else None
    if kind := no_file(journal.st_mode):
        return f"its journal.jsonl is {kind}"
    if journal.st_size > _LONGEST_JOURNAL:
        return (
            f"a journal of {journal.st_size} bytes; more than {_LONGEST_JOURNAL} is not read for a "
            "list: ask `ctp-runbook status --run` of it"
        )
    return ""


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return printable(str(error)) or type(error).__name__


def past_run(run: RunDir, history: History | None = None) -> PastRun:
    """Return a run as a row. Raises JournalError for a journal that is not whole."""
    history = history or History.of(read_journal(run.journal).records)
    created, closed, watch = history.created, history.closed, history.watch_ended
    metrics = tuple(_metrics(history))
    tightest = min(
        (metric for metric in metrics if metric.margin_percent is not None),
        key=lambda metric: metric.margin_percent or 0.0,
        default=None,
    )
    seal, sentence = seal_of(run) if closed else ("open", "the run is not over")
    return PastRun(
        run_id=printable(run.run_id),
        path=printable(str(run.path)),
        environment=created.environment,
        rehearsal=created.rehearsal,
        mode=_mode(history),
        started_utc=history.records[0].wall_utc,
        ended_utc=closed.wall_utc if closed else "",
        state=history.state.value,
        outcome=history.outcome.value if history.outcome else "",
        failed_step=closed.payload.failed_step if closed else "",
        plan_sha256=created.plan_sha256,
        created_by=created.created_by,
        host=created.host,
        restarts=history.restarts,
        cutover_seconds=_rounded(cutover_seconds(history)),
        downtime_seconds=_downtime(history),
        is_down=bool(no_runner_since(history)),
        rollback_seconds=_rounded(rollback_seconds(history)) if _is_rolled_back(history) else None,
        rollback_budget_seconds=history.plan.max_rollback_seconds,
        watch_verdict=watch.payload.verdict if watch else "",
        tightest_metric=tightest.name if tightest else "",
        tightest_margin_percent=tightest.margin_percent if tightest else None,
        seal=seal,
        seal_sentence=sentence,
        steps=tuple(_steps(history)),
        metrics=metrics,
        running=dict(closed.payload.running) if closed else {},
    )


def _mode(history: History) -> _Mode:
    if history.is_dry_run:
        return "dry run"
    created = history.created
    return "drill" if created.force_rollback else "undo" if created.parent_run else "cutover"


def _is_rolled_back(history: History) -> bool:
    return history.rollback_started is not None and history.closed is not None


def _downtime(history: History) -> float | None:
    """None of a dry run, and while it goes on."""
    if history.is_dry_run or (history.closed is None and no_runner_since(history)):
        return None
    return _rounded(trading_downtime_seconds(history))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _steps(history: History) -> Iterator[PastStep]:
    for planned in history.plan.steps:
        step = history.step(planned.name)
        seconds = round(step.duration_ms / 1000, 3) if step.ended_utc and step.attempt else None
        yield PastStep(planned.name, planned.phase.value, step.status.value, seconds)


def _metrics(history: History) -> Iterator[PastMetric]:
    if history.watch_ended is None:
        return
    rules = history.plan.watch.metrics
    for name, end in history.watch_ended.payload.metrics.items():
        is_known = end.margin is not None and not end.worst_is_over and end.limit > 0
        yield PastMetric(
            name=name,
            unit=rules[name].unit if name in rules else "",
            verdict=end.verdict,
            worst=end.worst,
            limit=end.limit,
            margin=end.margin,
            margin_percent=round(100 * (end.margin or 0.0) / end.limit, 2) if is_known else None,
        )


def seal_of(run: RunDir) -> tuple[_Seal, str]:
    """Hold a run's manifest against what is there, as far as costs nothing; ``verify`` proves it."""
    try:
        data = read_small(run.manifest, most=_LONGEST_MANIFEST)
        manifest = read_manifest(data)
    except FileNotFoundError:
        return "open", "there is no manifest.json"
    except (OSError, ValueError, RecursionError, JournalError) as error:
        return "differs", f"manifest.json: {_said(error)}"
    if data != manifest_bytes(manifest.run_id, manifest.files, sealed=manifest.sealed):
        return "differs", "manifest.json was edited"
    weighed = {"journal.jsonl", *(f"evidence/{name}" for name in (CUTOVER_RESULT, ROLLBACK_RESULT))}
    if lacking := sorted(weighed - manifest.files.keys()):
        return "differs", f"manifest.json does not list {lacking[0]}"
    for name, listed in manifest.files.items():
        # A name that is no UTF-8 stands there escaped, and is not found by it.
        if "\\" in name:
            continue
        if name.startswith("/") or ".." in name.split("/"):
            return "differs", f"manifest.json lists {printable(name)}, which no run has"
        if not _is_as_listed(f"{run.path}/{name}", listed, weighed=name in weighed):
            return "differs", f"{printable(name)} is not what manifest.json lists"
    if not manifest.sealed:
        return "open", "its manifest is not sealed"
    return "sealed", "as its manifest lists it, by size; `ctp-runbook verify --run` proves it"


def _is_as_listed(path: str, listed: ListedFile, *, weighed: bool) -> bool:
    # By text: of hundreds of runs with dozens of files each, making paths would take the longest.
    try:
        seen = os.lstat(path)
        is_same = stat.S_ISREG(seen.st_mode) and seen.st_size == listed.size
        if not (is_same and weighed):
            return is_same
        return listed.size <= _LONGEST_JOURNAL and list_file(Path(path)) == listed
    except (OSError, ValueError):
        return False


# --- how long they took -----------------------------------------------------------


def took(runs: Iterable[PastRun]) -> Iterator[tuple[str, list[float], int]]:
    """Yield what can be bounded, in the order of the runbook: its name, the seconds of each run that
    did it well, and how many began it and did not. Dry runs take no time.

    ``rollbacks`` from the trigger to the validated previous stack, ``cutovers`` from the first stop to
    the watch, ``downtimes`` from one sender of orders to the next; then each step by its name.
    """
    real = [run for run in runs if not run.is_dry and run.outcome]
    rolled_back = [run for run in real if run.rollback_seconds is not None]
    validated = [run for run in rolled_back if run.outcome in _VALIDATED]
    yield (
        "rollbacks",
        _known(run.rollback_seconds for run in validated),
        len(rolled_back) - len(validated),
    )
    switched = [run for run in real if any(_is_begun(step, "switch") for step in run.steps)]
    cut_over = _known(run.cutover_seconds for run in switched)
    # Of one that was taken up again nobody can tell: it is left out.
    lost = [run for run in switched if run.cutover_seconds is None and not run.restarts]
    yield "cutovers", cut_over, len(lost)
    down = [run for run in real if run.downtime_seconds]
    up = [run for run in down if not run.is_down]
    yield "downtimes", _known(run.downtime_seconds for run in up), len(down) - len(up)
    steps: dict[str, list[PastStep]] = {}
    for run in real:
        for step in run.steps:
            steps.setdefault(step.name, []).append(step)
    for name, tries in steps.items():
        seconds = _known(step.seconds for step in tries if step.status == StepStatus.OK)
        failed = sum(step.is_bad for step in tries)
        if seconds or failed:
            yield name, seconds, failed


def _known(seconds: Iterable[float | None]) -> list[float]:
    return [each for each in seconds if each is not None]


def _is_begun(step: PastStep, phase: str) -> bool:
    return step.phase == phase and (step.status == StepStatus.OK or step.is_bad)


# --- two of them ------------------------------------------------------------------


class Difference(Struct, frozen=True):
    """A fact that two runs do not share; blank where one has no such fact."""

    what: str
    a: str
    b: str


class Comparison(Struct, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """Two runs, and what differs between their plans; steps, metrics and outcome stand in the rows."""

    a: PastRun
    b: PastRun
    plan: tuple[Difference, ...]

    @property
    def steps(self) -> Iterator[tuple[str, PastStep | None, PastStep | None]]:
        """Each step that one of them has, in the order of the plans."""
        return _paired(self.a.steps, self.b.steps)

    @property
    def metrics(self) -> Iterator[tuple[str, PastMetric | None, PastMetric | None]]:
        """Each metric that one of them watched."""
        return _paired(self.a.metrics, self.b.metrics)


def compare(a: RunDir, b: RunDir) -> Comparison:
    """Hold two runs against each other. Raises JournalError where one cannot be read."""
    rows, facts = [], []
    for run in (a, b):
        try:
            if reason := _why_not(run.path):
                raise JournalError(f"{run.path}: {reason}; name another run")
            history = History.of(read_journal(run.journal).records)
            rows.append(past_run(run, history))
            facts.append(_facts(history.created))
        except RunbookError:
            raise
        except _UNREADABLE as error:
            raise JournalError(f"{run.path}: {_said(error)}; name another run") from error
    names = dict.fromkeys((*facts[0], *facts[1]))
    differences = (Difference(each, *(of.get(each, "") for of in facts)) for each in names)
    differing = tuple(each for each in differences if each.a != each.b)
    return Comparison(a=rows[0], b=rows[1], plan=differing)


def _paired(
    a: Iterable[_Named], b: Iterable[_Named]
) -> Iterator[tuple[str, _Named | None, _Named | None]]:
    ours: dict[str, _Named] = {each.name: each for each in a}
    theirs: dict[str, _Named] = {each.name: each for each in b}
    for name in dict.fromkeys((*ours, *theirs)):
        yield name, ours.get(name), theirs.get(name)


def _facts(created: RunCreated) -> dict[str, str]:
    """What a run was created to do, each fact by its name; what belongs to this run alone is left out."""
    plan: PlanFacts = created.plan
    steps = {step.name: to_builtins(step) for step in plan.steps}
    whole = to_builtins(plan) | {"steps": steps}
    whole |= {
        "dry_run": created.dry_run,
        "force_rollback": created.force_rollback,
        "forced_after_seconds": created.forced_after_seconds,
        "parent_run": created.parent_run,
        "overrides": created.overrides,
        "files": created.plan_files,
    }
    return dict(_flat(whole))


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf under its path: ``watch.metrics.kafka_lag_ms.limit``."""
    for key, each in value.items():
        name = f"{before}.{key}" if before else key
        if isinstance(each, Mapping):
            yield from _flat(each, name)
        elif key not in ("name", "phase", "kind") or not before:
            yield name, _leaf(each)


def _leaf(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
