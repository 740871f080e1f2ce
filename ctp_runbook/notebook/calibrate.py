"""``ctp-runbook calibrate``: the running engine recorded, or a recording taken, and held against the
limits of the watch.

Nothing of the host is touched: what is asked is what the watch would ask, by the same targets. The
folder is there whole, or not at all.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from msgspec import Struct, structs

from ctp_runbook.errors import (
    InputError,
    JournalError,
    NotebookError,
    ProbeError,
    Problem,
    RunRefused,
)
from ctp_runbook.model import Generation, Role
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.calibration import (
    Calibration,
    CalibrationDir,
    JudgedWindow,
    MetricCalibration,
    file_digest,
    lasting,
    limits_digest,
)
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal, utc_text
from ctp_runbook.record.kinds import VerdictName, WatchFacts
from ctp_runbook.record.rundir import RunDir, write_atomic
from ctp_runbook.record.samples import Sample, without_secrets
from ctp_runbook.redact import Redactor
from ctp_runbook.run.world import HERE
from ctp_runbook.watch.replay import read_rules
from ctp_runbook.watch.sampler import Sampler, Target
from ctp_runbook.watch.sources import watch_targets

if TYPE_CHECKING:
    from ctp_runbook.watch.calibrate import Outcome, Recorded, Windows, Yardstick
    from ctp_runbook.watch.judge import MetricJudgement

__all__ = [
    "Asked",
    "Recording",
    "Subject",
    "calibrate",
    "draw",
    "fragment",
    "make",
    "subject_of_plan",
    "subject_of_run",
    "told",
    "write_calibration",
]

_TICK_SECONDS = 0.1
# A month of half hours, one each third of that, are 4320.
_MOST_WINDOWS = 10_000
_LONGEST_MINUTES = 1440.0
# Nothing at all that answers for so long is a wrong address, and not a quiet market.
_FIRST_SECONDS = 15.0


class Asked(Struct, frozen=True):
    """What is asked of a calibration; ``step_minutes`` 0: a third of the window."""

    window_minutes: float
    step_minutes: float = 0.0
    false_alarm_rate: float = 0.01

    @classmethod
    def of(
        cls,
        subject: Subject,
        *,
        window_minutes: float | None = None,
        step_minutes: float | None = None,
        false_alarm_rate: float = 0.01,
    ) -> Asked:
        """Return what is asked, with the watch's own length where no other is named."""
        return cls(window_minutes or subject.minutes, step_minutes or 0.0, false_alarm_rate)

    @property
    def step(self) -> float:
        """Minutes from one window to the next."""
        return self.step_minutes or self.window_minutes / 3

    @property
    def apart(self) -> int:
        """How many windows on the first begins that does not overlap with one."""
        return math.ceil(self.window_minutes / self.step - 1e-9)

    def problems(self, *, minutes: float, piece_seconds: float) -> Iterator[Problem]:
        """Yield what cannot be done with a recording of so many minutes, of which pieces are so long."""
        from ctp_runbook.watch.pieces import FEWEST_PIECES

        if not 0 < self.false_alarm_rate < 1:
            found, expected = f"{self.false_alarm_rate:g}", "a share of windows: 0 < rate < 1"
            yield _problem("--false-alarm-rate", found, expected, "0.01 is one window in a hundred")
        if self.step > self.window_minutes:
            found = f"{self.step:g} min between windows of {self.window_minutes:g} min"
            expected = "no more than --window-minutes, or what lies between is not judged"
            yield _problem(
                "--step-minutes", found, expected, "leave it out for a third of a window"
            )
        least = FEWEST_PIECES * piece_seconds / 60
        if self.window_minutes > _LONGEST_MINUTES:
            found, expected = f"{self.window_minutes:g}", f"{_LONGEST_MINUTES:g} at most, a day"
            yield _problem("--window-minutes", found, expected, "name how long a watch lasts")
            return
        if math.isfinite(minutes) and minutes / self.step > _MOST_WINDOWS:
            found = f"{minutes:.3g} min of samples, and a window each {self.step:.3g} min"
            expected = f"{_MOST_WINDOWS} windows at most"
            yield _problem("--window-minutes", found, expected, "name longer windows or steps")
        if minutes < min(least, self.window_minutes):
            found = f"{minutes:.3g} min of samples, and windows of {self.window_minutes:g} min"
            expected = (
                f"at least one whole window, or {least:g} min: {FEWEST_PIECES} pieces of "
                f"{piece_seconds:g} s to put windows together from"
            )
            yield _problem("--window-minutes", found, expected, "record longer")


class Subject(Struct, frozen=True):
    """What a recording is held against, and what may be said of it."""

    environment: str
    watch: WatchFacts
    keys: tuple[str, ...]
    trigger: Trigger
    minutes: float
    redactor: Redactor = Redactor()

    @property
    def piece_seconds(self) -> float:
        """How long a piece is, where windows are put together."""
        from ctp_runbook.watch.pieces import piece_length

        return piece_length((self.watch.metrics[key] for key in self.keys), self.trigger)


def subject_of_plan(plan: Plan) -> Subject:
    """Return the limits and the trigger of a plan."""
    facts = WatchFacts(
        tolerance_inconclusive_seconds=plan.watch.tolerance_inconclusive_seconds,
        tolerance_error_seconds=plan.watch.tolerance_error_seconds,
        recovery_seconds=plan.watch.recovery_seconds,
        metrics={rule.name: rule for rule in plan.watched},
    )
    minutes, redactor = plan.monitor_minutes, plan.redactor
    return Subject(plan.environment, facts, plan.monitor_keys, plan.trigger, minutes, redactor)


def subject_of_run(run: RunDir, *, watch: Path | None = None) -> tuple[Subject, Recording]:
    """Return a recorded run's own limits, or those of ``watch``; and its samples.

    Of the new engine's watch where there was one, else the old engine's, from before the switch.
    Raises RunRefused for a run without samples, ConfigError for a ``watch`` with a problem.
    """
    history = History.of(read_journal(run.journal).records)
    whose = ((run.samples, "the new engine's watch"), (run.baseline, "the old engine's samples"))
    samples, said = next((each for each in whose if _has_samples(each[0])), (None, ""))
    if samples is None:
        raise RunRefused(f"run {run.run_id} kept no sample to calibrate by; name another by --run")
    plan, facts = history.plan, history.plan.watch
    if watch is not None:
        rules = load_watch(watch)
        if lacking := [key for key in plan.monitor_keys if key not in rules.metrics]:
            raise RunRefused(
                f"{watch} has no [metrics.{lacking[0]}], which the run watched; add it"
            )
        metrics = {key: rules.metrics[key] for key in plan.monitor_keys}
        facts = structs.replace(facts, metrics=metrics)
    units = {key: facts.metrics[key].unit for key in plan.monitor_keys}
    trigger = parse_trigger(plan.trigger_text, units=units, file="run.json", line=0)
    keys, minutes = plan.monitor_keys, plan.monitor_minutes
    subject = Subject(plan.environment, facts, keys, trigger, minutes)
    return subject, Recording(source=f"{said} of run {run.run_id}", samples=samples)


def _has_samples(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


# --- recording --------------------------------------------------------------------


class Recording(Struct, frozen=True):
    """Where the samples come from: a file, or for so many minutes the engine that runs, by ``plan``."""

    source: str = ""
    samples: Path | None = None
    plan: Plan | None = None
    minutes: float = 0.0

    def into(self, path: Path, *, tell: Callable[[str], None]) -> str:
        """Put them into ``path``; what they are, in words. Raises InputError for a file that cannot be
        read, ProbeError where nothing answers at all."""
        if self.plan is not None:
            return _record(self.plan, path, minutes=self.minutes, tell=tell)
        assert self.samples is not None  # one of both is there
        try:
            shutil.copyfile(self.samples, path)
        except OSError as error:
            found, expected = str(error.strerror), "samples, as the watch keeps them"
            wrong = Problem(str(self.samples), 0, "", found, expected, "name another file")
            raise InputError([wrong]) from error
        return self.source


def _record(plan: Plan, path: Path, *, minutes: float, tell: Callable[[str], None]) -> str:
    """Sample what the watch would, of the engine that runs, into ``path``."""
    plan, page = _with_old_page(plan)
    targets = watch_targets(plan, cwd=Path.cwd(), environ=HERE.caller.environ())
    until = HERE.clock.mono() + minutes * 60
    tell(
        f"recording {len(targets)} targets for {minutes:g} min; Ctrl-C ends it and judges what came"
    )
    sampler = Sampler(targets, clocks=HERE.clock)
    with HERE.files.appending(path) as keep:
        sampler.start()
        try:
            _keep_all(sampler, targets, until, keep, plan.redactor)
        except KeyboardInterrupt:
            tell("interrupted: what came so far is judged")
        finally:
            sampler.stop()
    return f"the running engine, {plan.redactor(page)}" if page else "the running engine"


def _with_old_page(plan: Plan) -> tuple[Plan, str]:
    """The plan with the page of the engine that runs now in the place of the new one's."""
    new, old = (plan.member(each, Role.CORE_ENGINE) for each in (Generation.NEW, Generation.OLD))
    if not old.metrics_url:
        return plan, new.metrics_url
    moved = new._replace(metrics_url=old.metrics_url)
    members = {name: moved if each is new else each for name, each in plan.members.items()}
    return structs.replace(plan, members=members), old.metrics_url


def _keep_all(
    sampler: Sampler,
    targets: Sequence[Target],
    until: float,
    keep: Callable[[bytes], object],
    redactor: Redactor,
) -> None:
    seq, is_answered, clock = 0, False, HERE.clock
    last: Sample | None = None
    began = clock.mono()
    while clock.mono() < until:
        if (sample := sampler.take(seconds=_TICK_SECONDS)) is not None:
            last = without_secrets(structs.replace(sample, seq=seq), redactor)
            keep(last.to_line())
            seq, is_answered = seq + 1, is_answered or last.ok
        if not is_answered and clock.mono() - began > _FIRST_SECONDS:
            why = last.error if last else f"no sample of {len(targets)} targets came"
            raise ProbeError(f"nothing answers that the watch would ask: {why}; see watch.toml")


# --- judging ----------------------------------------------------------------------


def calibrate(
    subject: Subject,
    samples: Path,
    *,
    source: str,
    asked: Asked,
    made_utc: str,
    named: Path | None = None,
) -> Calibration:
    """Hold a recording against its limits; ``named`` is the file that ``samples`` is a copy of.

    Raises JournalError for a line that is no sample, InputError for what cannot be judged.
    """
    from ctp_runbook.watch.calibrate import Yardstick, any_measured

    recorded = _recorded(samples, named or samples)
    yardstick = Yardstick(read_rules(subject.watch), subject.keys, subject.trigger)
    cut = _cut(recorded, yardstick, asked, piece_seconds=subject.piece_seconds)
    outcomes = list(cut.judged(recorded, yardstick))
    windows = tuple(_window(outcome, wall_zero=recorded.wall_zero) for outcome in outcomes)
    # A window in which nothing at all was measured counts neither way.
    is_known = [any_measured(outcome) for outcome in outcomes]
    if named is not None and not any(is_known):  # what was recorded now is told as it is
        found = f"{recorded.samples} samples, of which none measures a metric that is watched"
        expected = f"values of {', '.join(subject.keys)}"
        remedy = "name a recording of this environment, or see watch.toml"
        raise InputError([Problem(str(named), 0, "", found, expected, remedy)])
    fired = [
        bool(window.rolled_back_by) if known else None
        for window, known in zip(windows, is_known, strict=True)
    ]
    held = [
        bool(window.failed) and not window.rolled_back_by if known else None
        for window, known in zip(windows, is_known, strict=True)
    ]
    return Calibration(
        environment=subject.environment,
        made_utc=made_utc,
        source=source,
        samples=recorded.samples,
        samples_sha256=file_digest(samples),
        begins_utc=utc_text(recorded.begins + recorded.wall_zero),
        minutes=round(recorded.seconds / 60, 3),
        window_minutes=asked.window_minutes,
        step_minutes=asked.step,
        false_alarm_rate=asked.false_alarm_rate,
        limits_sha256=limits_digest(yardstick.watched, subject.trigger.text),
        trigger_text=subject.trigger.text,
        watch=subject.redactor.data(subject.watch),
        rollbacks=cut.rate_of(fired, recorded),
        holds=cut.rate_of(held, recorded),
        metrics=tuple(_metrics(recorded, yardstick, outcomes, cut)),
        windows=() if cut.pieces else windows,
        piece_seconds=cut.pieces,
    )


def _recorded(samples: Path, named: Path) -> Recorded:
    from ctp_runbook.record.sample_blocks import read_chunks
    from ctp_runbook.watch.calibrate import Recorded

    try:
        return Recorded(read_chunks(samples))
    except JournalError as error:
        raise JournalError(str(error).replace(str(samples), str(named))) from error
    except ValueError as error:
        expected = "samples of one session, as the watch or `calibrate --minutes` keeps them"
        raise InputError(
            [Problem(str(named), 0, "", str(error), expected, "name another")]
        ) from error


def _cut(
    recorded: Recorded, yardstick: Yardstick, asked: Asked, *, piece_seconds: float
) -> Windows:
    """The windows of the recording, of its pieces where it is shorter than one."""
    from ctp_runbook.watch.calibrate import Windows
    from ctp_runbook.watch.pieces import PIECED_WINDOWS

    seconds, step = asked.window_minutes * 60, asked.step * 60
    slack = min(1.5 * max(rule.interval_seconds for rule in yardstick.watched), seconds / 2)
    minutes = (recorded.seconds + slack) / 60
    if wrong := list(asked.problems(minutes=minutes, piece_seconds=piece_seconds)):
        raise InputError(wrong)
    starts = tuple(recorded.starts(seconds=seconds, step=step, slack=slack))
    if starts:
        return Windows(starts, seconds, asked.apart, asked.false_alarm_rate)
    begins = (recorded.begins,) * PIECED_WINDOWS
    return Windows(begins, seconds, 1, asked.false_alarm_rate, pieces=piece_seconds)


def _window(outcome: Outcome, *, wall_zero: float) -> JudgedWindow:
    return JudgedWindow(
        started_utc=utc_text(outcome.began + wall_zero),
        verdict=cast(VerdictName, outcome.judged.overall.name),
        rolled_back_by=outcome.firing.metric if outcome.firing else "",
        failed=_named(outcome.judged.metrics, "FAILED"),
        not_proved=_named(outcome.judged.metrics, "INCONCLUSIVE", "ERROR"),
    )


def _named(judged: Mapping[str, MetricJudgement], *verdicts: str) -> tuple[str, ...]:
    return tuple(name for name, metric in judged.items() if metric.verdict.name in verdicts)


def _metrics(
    recorded: Recorded, yardstick: Yardstick, outcomes: Sequence[Outcome], cut: Windows
) -> Iterator[MetricCalibration]:
    from ctp_runbook.watch import calibrate as windows

    for rule in yardstick.watched:
        alarms = cut.rate_of(windows.metric_alarms(outcomes, rule.name), recorded)
        suggestion = windows.suggest_limit(recorded, rule, yardstick, cut, alarms)
        values = windows.values_of(recorded, rule, yardstick)
        conditions = yardstick.of(rule).trigger.any_of
        yield MetricCalibration(
            name=rule.name,
            trigger_limits=tuple(condition.value for (condition,) in conditions),
            samples=len(values),
            quantiles=windows.quantiles_of(values),
            alarms=alarms,
            would_hold=suggestion.would_hold,
            suggested=suggestion.limit,
            suggested_alarms=suggestion.alarms,
            sentence=suggestion.sentence,
        )


def _problem(option: str, found: str, expected: str, remedy: str) -> Problem:
    return Problem("calibrate", 0, option, found, expected, remedy)


# --- writing ----------------------------------------------------------------------


def make(
    subject: Subject,
    asked: Asked,
    recording: Recording,
    *,
    outputs: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Calibration, CalibrationDir]:
    """Record or take samples, judge them, and write a folder of its own in ``outputs``.

    Raises InputError, JournalError or ProbeError, with no folder made; samples that were recorded are
    kept all the same, and told.
    """
    minutes = recording.minutes or math.inf
    if wrong := list(asked.problems(minutes=minutes, piece_seconds=subject.piece_seconds)):
        raise InputError(wrong)
    made_utc = utc_text(HERE.clock.wall())
    folder = CalibrationDir.named(outputs.absolute(), made_utc=made_utc)
    with _kept_whole(folder, keeps=recording.plan is not None, tell=tell) as part:
        source = recording.into(part.samples, tell=tell)
        calibration = calibrate(
            subject,
            part.samples,
            source=source,
            asked=asked,
            made_utc=made_utc,
            named=recording.samples,
        )
        write_calibration(calibration, part)
    return calibration, folder


@contextlib.contextmanager
def _kept_whole(
    folder: CalibrationDir, *, keeps: bool, tell: Callable[[str], None]
) -> Iterator[CalibrationDir]:
    """Yield a folder to write in that becomes ``folder`` once all is written, and is gone where it is
    not; ``keeps``: but for samples that nobody can record again."""
    part = CalibrationDir(folder.path.with_name(f".{folder.path.name}.part"))
    part.path.mkdir(mode=0o700, parents=True)
    try:
        yield part
    except BaseException as error:
        if keeps and not isinstance(error, ProbeError):
            tell(f"what was recorded is kept: judge it by `calibrate --samples {part.samples}`")
        else:
            shutil.rmtree(part.path)
        raise
    part.path.rename(folder.path)


def write_calibration(calibration: Calibration, folder: CalibrationDir) -> None:
    """Write the record and the suggested limits beside the samples."""
    write_atomic(folder.watch, fragment(calibration).encode())
    write_atomic(folder.json, calibration.json)


def fragment(calibration: Calibration) -> str:
    """Return the suggested limits as a piece of watch.toml, each with why."""
    every = f" every {lasting(calibration.step_minutes)}" if calibration.windows else ""
    lines = [
        f"# Limits suggested for {calibration.environment}, by {calibration.source}:",
        f"# {calibration.minutes:.4g} min from {calibration.begins_utc[:19]} UTC, windows of "
        f"{lasting(calibration.window_minutes)}{every},",
        f"# at most {calibration.false_alarm_rate * 100:.3g} % of them to alarm, by each metric.",
        f"# {calibration.sentence}.",
        *([f"# The windows are {calibration.assumed}."] if calibration.assumed else []),
        "# To be taken over by hand: what a limit allows is yours to say.",
    ]
    for metric in calibration.metrics:
        rule = calibration.watch.metrics[metric.name]
        lines += ["", f"[metrics.{metric.name}]"]
        if metric.quantiles:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metric.quantiles.items())
            unit = f" in {rule.unit}" if rule.unit in ("ms", "s") else ""
            lines.append(f"# {' '.join(rule.label.split())}{unit}: {shown}")
        lines.append(f"# limit {_number(rule.limit)}: {metric.alarms.sentence} alarmed")
        if (suggested := metric.suggested_alarms) and metric.suggested not in (None, rule.limit):
            lines.append(f"# limit {_number(metric.suggested)}: {suggested.sentence} would have")
        lines.append(f"# {metric.sentence}")
        is_new = metric.suggested not in (None, rule.limit, *metric.trigger_limits)
        if metric.trigger_limits and is_new:
            levels = ", ".join(map(_number, metric.trigger_limits))
            lines.append(f"# ROLLBACK_TRIGGER_CONDITION compares it with {levels}: change both")
        limit = rule.limit if metric.suggested is None else metric.suggested
        lines.append(f"limit = {_number(limit)}")
    return "\n".join(lines) + "\n"


def _number(limit: float) -> str:
    """Return a limit as watch.toml has it: 5, 0.25."""
    return f"{limit:.12g}"


def told(calibration: Calibration, folder: CalibrationDir) -> str:
    """Return what it comes to, for a terminal."""
    from ctp_runbook.show.blocks import Page
    from ctp_runbook.show.calibration import calibration_blocks

    return Page([*calibration_blocks(calibration, folder)], run_dir=str(folder.path)).text


def draw(folder: CalibrationDir) -> str:
    """Execute the notebook on a calibration; where it is, or why it is not there."""
    from ctp_runbook.notebook.checkout import find_notebooks
    from ctp_runbook.notebook.engine import execute_notebook

    source = find_notebooks() / folder.notebook.name
    parameters = {"calibration_dir": str(folder.path.absolute())}
    try:
        execute_notebook(source, folder.notebook, parameters=parameters)
    except (NotebookError, OSError) as error:
        return f"{folder.notebook} does not show it: {error}"
    return str(folder.notebook)
