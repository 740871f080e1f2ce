"""The baseline again: the old engine's samples were taken before the switch, and compare the same."""

from __future__ import annotations

from collections.abc import Iterator

from ctp_runbook.errors import JournalError
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.watch.baseline import NOT_COMPARED, read_baseline
from ctp_runbook.watch.replay import read_rules, window_is_over

__all__ = ["baseline_findings"]

_EDGE_SECONDS = 3.0


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
        due = read_baseline(run, history, read_rules(history.plan["watch"])).payload
    found = ended.payload.get("baseline")
    if found == due:
        return
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict):
        yield "watch_ended has no comparison with the old engine; its samples are there"
        return
    if found.get("sentence") != due["sentence"]:
        yield f"compared again: {due['sentence']}; watch_ended says {found.get('sentence')}"
    for key, one in due["metrics"].items():
        if found["metrics"].get(key) != one:
            yield f"{key}: compared with the old engine again: {one['sentence']}; watch_ended differs"
    if extra := set(found["metrics"]) - set(due["metrics"]):
        yield f"watch_ended compares {', '.join(sorted(extra))}, which nothing proves"
