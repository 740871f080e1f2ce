"""The watch again, from its raw samples: were they taken then, and do they say what was said?

And the baseline: the old engine's samples were taken before the switch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from ctp_runbook.errors import EvidenceInvalid, JournalError, TriggerError
from ctp_runbook.host.files import open_plain
from ctp_runbook.model import Outcome, Phase
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import LONGEST_LINE, Record, utc_text
from ctp_runbook.record.kinds import (
    BaselineEnded,
    Comparison,
    MetricEnd,
    StepStarted,
    Triggered,
    WatchEnded,
)
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, sample_of
from ctp_runbook.verify.clocks import ClockShifts, disturbance_findings, schedule_findings
from ctp_runbook.verify.journal import CLOCK_SLACK_SECONDS
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.replay import rejudge
from ctp_runbook.watch.verdicts import Firing

__all__ = [
    "WATCH_MINUTES",
    "baseline_findings",
    "sample_findings",
    "verdict_findings",
    "window_findings",
]

# RUNBOOK §5: the watch is thirty minutes; less needs a reason.
WATCH_MINUTES = 30.0
# A sample under way when the window begins or ends may be stamped this much outside of it.
_EDGE_SECONDS = 3.0
# Rules that a header has, and by which nothing can be judged.
_UNJUDGEABLE = (
    JournalError,
    OSError,
    TriggerError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
)
_NO_METRIC = ("", None, None, False)
_NO_UNIT = re.compile(r"(?<=\d) (?:state|count|ratio)\b")


def window_findings(history: History) -> Iterator[str]:
    """Did the watch last as long as asked, and was it asked to last long enough?"""
    started, ended, plan = history.watch_started, history.watch_ended, history.plan
    asked, completed = plan.monitor_minutes, history.outcome is Outcome.COMPLETED
    if started is None or ended is None:
        if completed:
            yield "the journal has no whole watch window; a run without one is never COMPLETED"
        return
    if started.payload.minutes != asked:
        yield (
            f"watch_started says {started.payload.minutes} minutes; "
            f"POST_SWITCH_MONITOR_MINUTES is {asked:g}"
        )
    if started.payload.metrics != plan.monitor_keys:
        yield (
            f"watch_started watches {', '.join(started.payload.metrics)}; MONITOR_KEYS is "
            f"{', '.join(plan.monitor_keys)}"
        )
    watched, said = _seconds_between(started, ended), ended.payload
    if completed and watched < asked * 60:
        yield (
            f"the watch lasted {watched:.1f} s; POST_SWITCH_MONITOR_MINUTES {asked:g} asks for "
            f"{asked * 60:g} s: stopped early is never PASSED"
        )
    if said.stopped_early is completed:
        yield (
            f"watch_ended says stopped_early {str(said.stopped_early).lower()} in a run that "
            f"ended {history.outcome.value if history.outcome else 'not at all'}"
        )
    judged = said.judged_mono - started.mono
    if abs(judged - said.watched_seconds) > 0.01 or judged > watched + 0.01:
        yield (
            f"watch_ended says {said.watched_seconds} s were watched; it was judged "
            f"{judged:.3f} s after the start and written {watched:.3f} s after it"
        )
    excused = history.created.rehearsal or history.created.short_watch_reason.strip()
    if asked < WATCH_MINUTES and not excused:
        yield (
            f"a watch of {asked:g} minutes without --short-watch REASON; RUNBOOK §5 wants "
            f"{WATCH_MINUTES:g}"
        )


def sample_findings(run: RunDir, history: History) -> Iterator[str]:
    """The samples file: the one the journal digested, whole, in order, taken in the window.

    Raises EvidenceInvalid when it cannot be read.
    """
    started, ended = history.watch_started, history.watch_ended
    if started is None or ended is None:
        return
    file = _read(run, run.samples, ended)
    yield from file.findings(ended)
    wrong = (
        _order_findings(file.samples, history, window=(started, ended)),
        schedule_findings(file.samples, history),
    )
    yield from (f"{file.name}:{finding}" for findings in wrong for finding in findings)
    yield from disturbance_findings(history, file.samples)


class _SamplesFile(NamedTuple):
    """A samples file as it was read once: when each was taken, of whom and how; not the series."""

    name: str
    sha256: str
    is_whole: bool
    samples: list[Sample]

    def findings(self, ended: Record[BaselineEnded] | Record[WatchEnded]) -> Iterator[str]:
        """Whether it is the one that the journal counted and digested."""
        name, said, sha256 = self.name, ended.payload, self.sha256
        if sha256 != said.samples_sha256:
            yield (f"{name}: sha256 {sha256[:12]}…; {ended.kind} says {said.samples_sha256[:12]}…")
        if not self.is_whole:
            yield f"{name}: its last line is torn"
        if len(self.samples) != said.samples:
            yield f"{name}: {len(self.samples)} samples; {ended.kind} counts {said.samples}"
        for number, sample in enumerate(self.samples):
            where = f"{name}:{number + 1}"
            if sample.seq != number:
                yield f"{where}: sample {sample.seq} stands where {number} is due"
            if sample.due > sample.mono:
                yield f"{where}: it was due at {sample.due!r} and taken at {sample.mono!r}"
            if sample.ok == bool(sample.error):
                yield f"{where}: ok is {str(sample.ok).lower()} with the error {sample.error!r}"


def _read(run: RunDir, path: Path, ended: Record) -> _SamplesFile:
    """Read a file line by line: a day of samples is more than one wants to hold."""
    name = path.relative_to(run.path).as_posix()
    digest, line, samples = hashlib.sha256(), b"\n", []
    try:
        with open_plain(path) as lines:
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), b""), 1):
                digest.update(line)
                sample = sample_of(line, path=path, number=number)
                samples.append(structs.replace(sample, series={}))
    except OSError as error:
        said = f"{name}: cannot be read: {error.strerror}; {ended.kind} digests it"
        raise EvidenceInvalid([said]) from error
    except JournalError as error:
        raise EvidenceInvalid([str(error)]) from error
    return _SamplesFile(name, digest.hexdigest(), line.endswith(b"\n"), samples)


def verdict_findings(run: RunDir, history: History) -> Iterator[str]:
    """The verdict made again, and as it was written.

    Raises EvidenceInvalid when it cannot be judged.
    """
    if history.watch_ended is None or history.watch_started is None:
        return
    try:
        judged, firing = rejudge(run, history)
    except _UNJUDGEABLE as error:
        raise EvidenceInvalid([f"the watch cannot be judged again: {error!r}"]) from error
    said, verdict = history.watch_ended.payload, judged.overall.name
    if verdict != said.verdict:
        yield f"the samples judge to {verdict} ({judged.sentence}); watch_ended says {said.verdict}"
    if _plain(judged.sentence) != _plain(said.sentence):
        yield f"the samples say: {judged.sentence}; watch_ended: {said.sentence}"
    yield from _metric_findings(judged, said.metrics)
    yield from _firing_findings(firing, history.trigger)
    yield from _comparison_findings(history, said.compared)
    if history.outcome is Outcome.COMPLETED and verdict != "PASSED":
        yield f"COMPLETED, but the samples judge to {verdict}: {judged.sentence}"


def _seconds_between(start: Record, end: Record) -> float:
    if start.boot_id == end.boot_id:
        return end.mono - start.mono
    return (end.wall - start.wall).total_seconds()


def _order_findings(
    samples: Sequence[Sample], history: History, *, window: tuple[Record, Record]
) -> Iterator[str]:
    """What is wrong with the order of samples, or that of the window and them, by line."""
    started, ended = window
    # In another boot the monotonic clock begins anew, and says nothing of the one before.
    one_boot = len({record.boot_id for record in history.records}) == 1
    shifts = ClockShifts(history.records)
    last_wall = started.wall.timestamp() - _EDGE_SECONDS
    last_mono = started.mono - _EDGE_SECONDS
    for line, sample in enumerate(samples, start=1):
        wall = sample.wall
        if one_boot:
            wall = shifts.unshifted(wall, mono=sample.mono, since=started)
            lasted = sample.mono - started.mono
            apart = abs(wall - started.wall.timestamp() - lasted)
            if apart > CLOCK_SLACK_SECONDS + 0.001 * lasted:
                yield f"{line}: wall and monotonic clock are {apart:.1f} s apart"
            if sample.mono < last_mono - _EDGE_SECONDS:
                yield f"{line}: its monotonic clock is before that of the window or sample before"
        if wall < last_wall - CLOCK_SLACK_SECONDS:
            yield f"{line}: taken at {utc_text(sample.wall)}, before the window or sample before"
        last_wall, last_mono = max(last_wall, wall), max(last_mono, sample.mono)
    end = ended.wall.timestamp()
    if one_boot:
        end = shifts.unshifted(end, mono=ended.mono, since=started)
        if last_mono > ended.mono + _EDGE_SECONDS:
            yield " a sample's monotonic clock is after the end of the watch"
    if last_wall > end + _EDGE_SECONDS:
        yield f" a sample is from {utc_text(last_wall)}, after the watch ended"


def _metric_findings(judged: WindowJudgement, written: Mapping[str, MetricEnd]) -> Iterator[str]:
    if judged.metrics.keys() != written.keys():
        yield (
            f"watch_ended judges {', '.join(sorted(written))}; MONITOR_KEYS asks for "
            f"{', '.join(sorted(judged.metrics))}"
        )
    for name in sorted(judged.metrics.keys() & written.keys()):
        facts, metric = structs.asdict(written[name]), judged.metrics[name]
        due = {key: getattr(metric, key) for key in facts} | {"verdict": metric.verdict.name}
        for key, said in facts.items():
            if _plain(said) != _plain(due[key]):
                yield f"{name}: {key} judged again is {due[key]!r}; watch_ended says {said!r}"


def _plain(said: Any) -> Any:
    """What is said, as two versions say alike: an earlier one wrote ``1 state`` and ``3 count``."""
    return _NO_UNIT.sub("", said) if isinstance(said, str) else said


def _firing_findings(firing: Firing | None, trigger: Record[Triggered] | None) -> Iterator[str]:
    """A trigger that the samples made true was acted on, and one acted on was made true."""
    acted = trigger.payload if trigger else None
    if acted is None or acted.cause != "metric":
        if acted and (acted.metric, acted.value, acted.limit, acted.is_over) != _NO_METRIC:
            yield f"the trigger names a metric, and its cause is {acted.cause}"
        if firing:
            cause = acted.cause if acted else "nothing"
            yield f"the samples fire the trigger ({firing.sentence}); the run acted on {cause}"
        return
    if firing is None:
        yield f"the trigger on {acted.metric} is not in the samples"
        return
    fired = {key: getattr(firing, key) for key in ("metric", "value", "limit", "is_over")}
    for key, due in {**fired, "sample_utc": utc_text(firing.wall)}.items():
        said = getattr(acted, key)
        if said != due:
            yield f"the trigger's {key} was {said!r}; the samples fire with {due!r}"


def baseline_findings(run: RunDir, history: History) -> Iterator[str]:
    """The old engine's samples: those the journal digested, taken before the switch.

    Raises EvidenceInvalid when they cannot be read.
    """
    ended = history.baseline_ended
    name = run.baseline.relative_to(run.path).as_posix()
    if ended is None:
        if run.baseline.exists():
            yield f"{name} is there, and no record baseline_ended digests it"
        if history.watch_started is not None:
            yield "the journal has no baseline_ended: what the old engine showed is not proved"
        return
    file = _read(run, run.baseline, ended)
    yield from file.findings(ended)
    yield from _before_switch_findings(file, history, ended)


def _before_switch_findings(
    file: _SamplesFile, history: History, ended: Record[BaselineEnded]
) -> Iterator[str]:
    """Between the run's beginning and the first stop, on one boot, of the old engine."""
    stops = (r for r in history.of_kind(StepStarted) if r.payload.phase is Phase.SWITCH)
    if any(stop.seq < ended.seq for stop in stops):
        yield "baseline_ended stands behind the first stop: those samples are not a baseline"
    begun = history.records[0]
    for line, sample in enumerate(file.samples, start=1):
        in_time = begun.mono - _EDGE_SECONDS <= sample.mono <= ended.mono
        if begun.boot_id == ended.boot_id and not in_time:
            yield f"{file.name}:{line}: not taken between the run's start and baseline_ended"
        if sample.source == "engine" and sample.target != ended.payload.url:
            yield f"{file.name}:{line}: taken from {sample.target}, not from the old engine"


def _comparison_findings(history: History, compared: Mapping[str, Comparison]) -> Iterator[str]:
    """Of records of before: their figures are believed, and not what the plan gave no cause for."""
    rules = history.plan.watch.metrics
    if extra := set(compared) - set(history.plan.monitor_keys):
        yield f"watch_ended compares {', '.join(sorted(extra))}, which nothing proves"
    for name, shifted in compared.items():
        most = rules[name].baseline_max_shift if name in rules else 0.0
        # Null where it was left out in a plan of before, and in none since.
        if shifted.failed and not isinstance(most, float):
            yield f"watch_ended fails {name} for its shift; the plan has no baseline_max_shift of it"
