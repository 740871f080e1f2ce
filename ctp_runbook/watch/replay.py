"""A recorded window judged from its samples file, in blocks: what the live judge said, quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.model import State
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import PlanFacts, WatchFacts
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.baseline import BothEngines
from ctp_runbook.watch.comparison import with_comparison
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing

if TYPE_CHECKING:
    from ctp_runbook.record.sample_blocks import Block

__all__ = ["judge_recorded", "read_rules", "rejudge", "window_is_over"]


def judge_recorded(
    path: Path,
    *,
    rules: WatchRules,
    keys: tuple[str, ...],
    trigger: Trigger,
    started_mono: float,
    ends_mono: float,
    accepted_mono: Iterable[float] = (),
    judged_mono: float | None = None,
    final: bool = True,
    onlooker: Callable[[Sample | Block], None] | None = None,
) -> tuple[WindowJudgement, Firing | None]:
    """Judge a window by the samples of a file, as the live judge did.

    ``accepted_mono`` are the moments somebody resumed the watch; ``judged_mono`` is when the
    verdict was taken (``ends_mono`` when None). ``final`` asks for proof over the whole window.
    Raises JournalError naming a line that is no sample.

    ``onlooker`` is shown all that is read: a day of samples is worth reading once only.
    """
    from ctp_runbook.record.sample_blocks import read_chunks  # numpy comes with it

    judge = WindowJudge(
        rules=rules, keys=keys, trigger=trigger, started_mono=started_mono, ends_mono=ends_mono
    )
    resumes, passed = tuple(accepted_mono), 0
    for chunk in read_chunks(path, cuts=resumes):
        for _ in range(chunk.cuts):
            judge.accept()
        passed += chunk.cuts
        judge.add_chunk(chunk)
        if onlooker is not None:
            for item in chunk.items:
                onlooker(item[1] if isinstance(item, tuple) else item)
    if passed < len(resumes):
        judge.accept()
    at = ends_mono if judged_mono is None else judged_mono
    return judge.at(at, final=final), judge.firing


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
    begins = started.mono
    ends = begins + started.payload.minutes * 60
    rules = rules or read_rules(history.plan.watch)
    judged_mono = ended.payload.judged_mono if ended else ends
    resumed = [t.mono_ns / 1e9 for t in history.transitions if t.state is State.WATCHING][1:]
    both = None
    if so_far_mono is None and window_is_over(history):
        both = BothEngines(run, history, rules)
    judged, firing = judge_recorded(
        run.samples,
        rules=rules,
        keys=history.plan.monitor_keys,
        trigger=_trigger(history.plan, rules),
        started_mono=begins,
        ends_mono=ends,
        accepted_mono=resumed,
        judged_mono=judged_mono if so_far_mono is None else min(so_far_mono, judged_mono),
        final=so_far_mono is None,
        onlooker=both.add if both else None,
    )
    if both:
        compared = both.baseline().compared
        accepted = any(moment >= ends for moment in resumed)
        judged = with_comparison(judged, compared, accepted=accepted)
    return judged, firing


def window_is_over(history: History) -> bool:
    """True when the watch was judged at its end: only then are both engines compared."""
    started, ended = history.watch_started, history.watch_ended
    if started is None or ended is None:
        return False
    ends = started.mono + started.payload.minutes * 60
    return ended.payload.judged_mono >= ends


def read_rules(facts: WatchFacts) -> WatchRules:
    """The rules as a plan in a journal has them."""
    return WatchRules(
        metrics=facts.metrics,
        tolerance_inconclusive_seconds=facts.tolerance_inconclusive_seconds,
        tolerance_error_seconds=facts.tolerance_error_seconds,
        recovery_seconds=facts.recovery_seconds,
    )


def _trigger(plan: PlanFacts, rules: WatchRules) -> Trigger:
    units = {key: rules.metrics[key].unit for key in plan.monitor_keys}
    return parse_trigger(plan.trigger_text, units=units, file="run.json", line=0)
