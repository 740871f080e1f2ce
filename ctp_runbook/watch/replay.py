"""A recorded window judged from its samples file, in blocks: what the live judge said, quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.model import State, Verdict, worst
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import Comparison, PlanFacts, WatchFacts, WatchStarted
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.sample_blocks import read_chunks
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing

__all__ = ["read_rules", "rejudge", "replay"]


def replay(judge: WindowJudge, path: Path, *, accepted_mono: Sequence[float] = ()) -> None:
    """Show ``judge`` the samples of a file, and the moments somebody resumed the watch, in order.

    Raises JournalError naming a line that is no sample.
    """
    passed = 0
    for chunk in read_chunks(path, cuts=accepted_mono):
        if chunk.cuts:  # resumed before the first of these samples
            judge.accept()
        passed += chunk.cuts
        judge.take(chunk)
    if passed < len(accepted_mono):  # resumed after the last sample
        judge.accept()


def rejudge(
    run: RunDir,
    history: History,
    *,
    so_far_mono: float | None = None,
    rules: WatchRules | None = None,
) -> tuple[WindowJudgement, Firing | None]:
    """Judge the window again by the rules in the journal's header, or by other ``rules``.

    With ``so_far_mono`` as it stood at that moment, when most of it may still have been to come.
    Raises JournalError for unreadable samples, TriggerError for a trigger that does not parse.
    """
    started, ended = history.watch_started, history.watch_ended
    if started is None:
        raise JournalError(f"{run.journal}: no watch was started, so there is none to judge")
    is_own = rules is None
    rules = rules or read_rules(history.plan.watch)
    ends = _ends_mono(started)
    judge = WindowJudge(
        rules=rules,
        keys=history.plan.monitor_keys,
        trigger=_trigger(history.plan, rules),
        started_mono=started.mono,
        ends_mono=ends,
    )
    # The first time the run entered WATCHING the watch began; each time after, somebody resumed it.
    resumed = [t.mono_ns / 1e9 for t in history.transitions if t.state is State.WATCHING][1:]
    replay(judge, run.samples, accepted_mono=resumed)
    judged_mono = ended.payload.judged_mono if ended else ends
    if so_far_mono is not None:
        judged_mono = min(so_far_mono, judged_mono)
    judged = judge.at(judged_mono, final=so_far_mono is None)
    # What somebody accepted at the end did not fail the watch any more.
    if ended and is_own and so_far_mono is None and max(resumed, default=0.0) < ends:
        judged = _with_shifts(judged, ended.payload.compared)
    return judged, judge.firing


def _with_shifts(judged: WindowJudgement, compared: Mapping[str, Comparison]) -> WindowJudgement:
    """The judgement as it was written when a shift from the old engine could still fail a metric
    (``baseline_max_shift``). What was recorded of it is believed: nothing makes it anew."""
    metrics = dict(judged.metrics)
    for name, shifted in compared.items():
        if shifted.failed and name in metrics and metrics[name].verdict is Verdict.PASSED:
            sentence = f"{name} FAILED: {shifted.sentence}"
            failed = structs.replace(metrics[name], verdict=Verdict.FAILED, sentence=sentence)
            metrics[name] = failed
    overall = worst(metric.verdict for metric in metrics.values())
    if overall is judged.overall:
        return structs.replace(judged, metrics=metrics)
    sentence = next(metric.sentence for metric in metrics.values() if metric.verdict is overall)
    return WindowJudgement(overall, sentence, metrics)


def _ends_mono(started: Record[WatchStarted]) -> float:
    return started.mono + started.payload.minutes * 60


def read_rules(facts: WatchFacts) -> WatchRules:
    """Return the rules as a plan in a journal has them."""
    return WatchRules(
        facts.metrics,
        facts.tolerance_inconclusive_seconds,
        facts.tolerance_error_seconds,
        facts.recovery_seconds,
    )


def _trigger(plan: PlanFacts, rules: WatchRules) -> Trigger:
    units = {key: rules.metrics[key].unit for key in plan.monitor_keys}
    return parse_trigger(plan.trigger_text, units=units, file="run.json", line=0)
