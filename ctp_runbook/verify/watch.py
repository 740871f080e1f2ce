"""The watch again, from its raw samples: were they taken then, and do they say what was said?

And the baseline: the old engine's samples were taken before the switch, and compare the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import structs

from ctp_runbook.errors import JournalError, TriggerError
from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, digest_of, utc_text
from ctp_runbook.record.kinds import MetricEnd, Triggered
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, each_sample, read_samples
from ctp_runbook.verify.clocks import ClockShifts, disturbance_findings, schedule_findings
from ctp_runbook.verify.journal import CLOCK_SLACK_SECONDS
from ctp_runbook.watch.baseline import NOT_COMPARED, read_baseline
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.replay import read_rules, rejudge, window_is_over
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
_SUMMARY = ("value", "limit", "margin", "worst", "coverage", "sentence", "is_over", "worst_is_over")
_NO_METRIC = ("", None, None, False)


def window_findings(history: History) -> Iterator[str]:
    """Did the watch last as long as asked, and was it asked to last long enough?"""
    started, ended = history.watch_started, history.watch_ended
    asked = float(history.plan["monitor_minutes"])
    completed = history.outcome is Outcome.COMPLETED
    if started is None or ended is None:
        if completed:
            yield "the journal has no whole watch window; a run without one is never COMPLETED"
        return
    if started.payload["minutes"] != asked:
        yield (
            f"watch_started says {started.payload['minutes']} minutes; "
            f"POST_SWITCH_MONITOR_MINUTES is {asked:g}"
        )
    if started.payload.get("metrics") != history.plan["monitor_keys"]:
        yield (
            f"watch_started watches {started.payload.get('metrics')}; MONITOR_KEYS is "
            f"{history.plan['monitor_keys']}"
        )
    watched = _seconds_between(started, ended)
    if completed and watched < asked * 60:
        yield (
            f"the watch lasted {watched:.1f} s; POST_SWITCH_MONITOR_MINUTES {asked:g} asks for "
            f"{asked * 60:g} s: stopped early is never PASSED"
        )
    if ended.payload["stopped_early"] is completed:
        yield (
            f"watch_ended says stopped_early {str(ended.payload['stopped_early']).lower()} in a "
            f"run that ended {history.outcome.value if history.outcome else 'not at all'}"
        )
    judged = ended.payload["judged_mono"] - started.mono_ns / 1e9
    if abs(judged - ended.payload["watched_seconds"]) > 0.01 or judged > watched + 0.01:
        yield (
            f"watch_ended says {ended.payload['watched_seconds']} s were watched; it was judged "
            f"{judged:.3f} s after the start and written {watched:.3f} s after it"
        )
    excused = history.created["rehearsal"] or history.created["short_watch_reason"].strip()
    if asked < WATCH_MINUTES and not excused:
        yield (
            f"a watch of {asked:g} minutes without --short-watch REASON; RUNBOOK §5 wants "
            f"{WATCH_MINUTES:g}"
        )


def sample_findings(run: RunDir, history: History) -> Iterator[str]:
    """The samples file: the one the journal digested, whole, in order, taken in the window."""
    ended = history.watch_ended
    if ended is None:
        return
    name = run.samples.relative_to(run.path).as_posix()
    try:
        digest, is_whole = _digested(run.samples)
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror}; the journal counts samples"
        return
    if digest != ended.payload["samples_sha256"]:
        yield (
            f"{name}: sha256 {digest[:12]}…; watch_ended says "
            f"{ended.payload['samples_sha256'][:12]}…"
        )
    if not is_whole:
        yield f"{name}: its last line is torn"
    bare: list[Sample] = []
    try:
        count = yield from _order_findings(name, _noted(each_sample(run.samples), bare), history)
    except JournalError as error:
        yield str(error)
        return
    yield from (f"{name}: {wrong}" for wrong in schedule_findings(bare, history))
    yield from disturbance_findings(history.records, bare)
    if count != ended.payload["samples"]:
        yield f"{name}: {count} samples; watch_ended counts {ended.payload['samples']}"


def _noted(samples: Iterable[Sample], bare: list[Sample]) -> Iterator[Sample]:
    """``samples`` passed on, and kept in ``bare`` without their series: when, of whom and how."""
    for sample in samples:
        bare.append(structs.replace(sample, series={}))
        yield sample


def _digested(path: Path) -> tuple[str, bool]:
    """Its digest, and whether it is empty or ends with its last line; a day of samples is more
    than one wants to hold."""
    with path.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
        size = data.seek(0, 2)
        data.seek(max(0, size - 1))
        return digest, data.read() in (b"", b"\n")


def verdict_findings(run: RunDir, history: History) -> Iterator[str]:
    """The verdict judged again from the samples, compared with the one that was written."""
    ended = history.watch_ended
    if ended is None or history.watch_started is None:
        return
    try:
        judged, firing = rejudge(run, history)
    except (JournalError, TriggerError, KeyError, TypeError, ValueError) as error:
        yield f"the watch cannot be judged again: {error!r}"
        return
    if judged.overall.name != ended.payload["verdict"]:
        yield (
            f"the samples judge to {judged.overall.name} ({judged.sentence}); watch_ended says "
            f"{ended.payload['verdict']}"
        )
    if judged.sentence != ended.payload["sentence"]:
        yield f"the samples say: {judged.sentence}; watch_ended: {ended.payload['sentence']}"
    yield from _metric_findings(judged, ended.payload.metrics)
    yield from _firing_findings(firing, history.trigger)
    if history.outcome is Outcome.COMPLETED and judged.overall.name != "PASSED":
        yield f"COMPLETED, but the samples judge to {judged.overall.name}: {judged.sentence}"


def _seconds_between(start: Record, end: Record) -> float:
    if start.boot_id == end.boot_id:
        return (end.mono_ns - start.mono_ns) / 1e9
    return (end.wall - start.wall).total_seconds()


def _order_findings(
    name: str, samples: Iterable[Sample], history: History
) -> Generator[str, None, int]:
    """What is wrong with the order of samples; returns how many there are."""
    started, ended, count = history.watch_started, history.watch_ended, 0
    if started is None or ended is None:
        return count
    one_boot = len({record.boot_id for record in history.records}) == 1
    shifts = ClockShifts(history.records)
    last_wall = started.wall.timestamp() - _EDGE_SECONDS
    last_mono = started.mono_ns / 1e9 - _EDGE_SECONDS
    for number, sample in enumerate(samples):
        count = number + 1
        where = f"{name}:{count}"
        if sample.seq != number or isinstance(sample.seq, bool):
            yield f"{where}: sample {sample.seq!r} stands where {number} is due"
        yield from (f"{where}: {wrong}" for wrong in _form_findings(sample))
        wall = sample.wall
        if one_boot:
            wall = shifts.unshifted(wall, mono=sample.mono, since=started)
            yield from (f"{where}: {wrong}" for wrong in _apart(sample, wall, since=started))
            if sample.mono < last_mono - _EDGE_SECONDS:
                yield f"{where}: its monotonic clock is before that of the window or sample before"
        if wall < last_wall - CLOCK_SLACK_SECONDS:
            yield f"{where}: taken at {utc_text(sample.wall)}, before the window or sample before"
        last_wall, last_mono = max(last_wall, wall), max(last_mono, sample.mono)
    end = ended.wall.timestamp()
    if one_boot:
        end = shifts.unshifted(end, mono=ended.mono_ns / 1e9, since=started)
    if last_wall > end + _EDGE_SECONDS:
        yield f"{name}: a sample is from {utc_text(last_wall)}, after the watch ended"
    if one_boot and last_mono > ended.mono_ns / 1e9 + _EDGE_SECONDS:
        yield f"{name}: a sample's monotonic clock is after the end of the watch"
    return count


def _apart(sample: Sample, wall: float, *, since: Record) -> Iterator[str]:
    lasted = sample.mono - since.mono_ns / 1e9
    apart = abs(wall - since.wall.timestamp() - lasted)
    if apart > CLOCK_SLACK_SECONDS + 0.001 * lasted:
        yield f"wall and monotonic clock are {apart:.1f} s apart"


def _form_findings(sample: Sample) -> Iterator[str]:
    if sample.due > sample.mono:
        yield f"it was due at {sample.due!r} and taken at {sample.mono!r}"
    if sample.ok == bool(sample.error):
        yield f"ok is {str(sample.ok).lower()} with the error {sample.error!r}"


def _metric_findings(judged: WindowJudgement, written: Mapping[str, MetricEnd]) -> Iterator[str]:
    if set(judged.metrics) != set(written):
        yield (
            f"watch_ended judges {', '.join(sorted(written))}; MONITOR_KEYS asks for "
            f"{', '.join(sorted(judged.metrics))}"
        )
    for name, metric in judged.metrics.items():
        if name not in written:
            continue
        if written[name].verdict != metric.verdict.name:
            yield (
                f"{name}: judged again {metric.verdict.name}; watch_ended: {written[name].verdict}"
            )
        for key in _SUMMARY:
            said, due = getattr(written[name], key), getattr(metric, key)
            if said != due:
                yield f"{name}: {key} judged again is {due!r}; watch_ended says {said!r}"


def _firing_findings(firing: Firing | None, trigger: Record[Triggered] | None) -> Iterator[str]:
    """A trigger that the samples made true was acted on, and one acted on was made true."""
    acted = trigger.payload if trigger else None
    if acted is None or acted.cause != "metric":
        if acted and (acted.metric, acted.value, acted.limit, acted.is_over) != _NO_METRIC:
            yield f"the trigger names a metric, and its cause is {acted.cause}"
        if firing is not None:
            cause = acted.cause if acted else "nothing"
            yield f"the samples fire the trigger ({firing.sentence}); the run acted on {cause}"
        return
    if firing is None:
        yield f"the trigger on {acted.metric} is not in the samples"
        return
    named, fired = ((side.metric, side.value, side.limit) for side in (acted, firing))
    if named != fired:
        yield f"the trigger was {named}; the samples fire {fired}"
    if acted.is_over is not firing.is_over:
        yield (
            f"the trigger's is_over was {acted.is_over!r}; the samples fire with {firing.is_over!r}"
        )
    if acted.sample_utc != utc_text(firing.wall):
        yield (
            f"the trigger's sample is from {acted.sample_utc}; the samples fire at "
            f"{utc_text(firing.wall)}"
        )


def baseline_findings(run: RunDir, history: History) -> Iterator[str]:
    """The samples file as the journal digested it, and the comparison, made again."""
    ended = history.baseline_ended
    name = run.baseline.relative_to(run.path).as_posix()
    if ended is None:
        if run.baseline.exists():
            yield f"{name} is there, and no record baseline_ended digests it"
        if history.watch_started is not None:
            yield "the journal has no baseline_ended: what the old engine showed is not proved"
        return
    try:
        data, samples = run.baseline.read_bytes(), read_samples(run.baseline)
        if digest_of(data) != ended.payload["samples_sha256"]:
            yield f"{name}: sha256 {digest_of(data)[:12]}…; baseline_ended says another"
        if len(samples) != ended.payload["samples"]:
            yield f"{name}: {len(samples)} samples; baseline_ended: {ended.payload['samples']}"
        yield from _time_findings(name, samples, history)
        yield from _comparison_findings(run, history)
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror}; baseline_ended digests it"
    except (JournalError, KeyError, TypeError, ValueError) as error:
        yield f"the baseline cannot be compared again: {error!r}"


def _time_findings(name: str, samples: tuple[Sample, ...], history: History) -> Iterator[str]:
    """Between the run's beginning and the first stop, on one boot, in order."""
    ended = history.baseline_ended
    assert ended is not None
    stops = [r for r in history.records if r.kind == "step_started"]
    first = next((r for r in stops if r.payload["phase"] == "switch"), None)
    if first is not None and first.seq < ended.seq:
        yield "baseline_ended stands behind the first stop: those samples are not a baseline"
    begun, same_boot = history.records[0], history.records[0].boot_id == ended.boot_id
    for number, sample in enumerate(samples):
        if sample.seq != number or isinstance(sample.seq, bool):
            yield f"{name}:{number + 1}: sample {sample.seq!r} stands where {number} is due"
        if same_boot and not (
            begun.mono_ns / 1e9 - _EDGE_SECONDS <= sample.mono <= ended.mono_ns / 1e9
        ):
            yield f"{name}:{number + 1}: not taken between the run's start and baseline_ended"
        if sample.source == "engine" and sample.target != ended.payload["url"]:
            yield f"{name}:{number + 1}: taken from {sample.target}, not from the old engine"


def _comparison_findings(run: RunDir, history: History) -> Iterator[str]:
    ended = history.watch_ended
    if ended is None:
        return
    due = NOT_COMPARED.payload
    if window_is_over(history):
        due = read_baseline(run, history, read_rules(history.plan.watch)).payload
    said = ended.payload.baseline
    if said.sentence != due.sentence:
        yield f"compared again: {due.sentence}; watch_ended says {said.sentence}"
    for key, compared in due.metrics.items():
        if said.metrics.get(key) != compared:
            yield (
                f"{key}: compared with the old engine again: {compared.sentence}; "
                "watch_ended differs"
            )
    if extra := set(said.metrics) - set(due.metrics):
        yield f"watch_ended compares {', '.join(sorted(extra))}, which nothing proves"
