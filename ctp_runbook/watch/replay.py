"""A recorded window judged from its samples file, in blocks: what the live judge said, quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.model import State
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import PlanFacts, WatchFacts, WatchStarted
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.watch.baseline import BothEngines
from ctp_runbook.watch.comparison import with_comparison
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing

if TYPE_CHECKING:
    from ctp_runbook.record.sample_blocks import Chunk

__all__ = ["read_rules", "rejudge", "replay", "window_is_over"]


def replay(
    judge: WindowJudge,
    path: Path,
    *,
    accepted_mono: Sequence[float] = (),
    onlooker: Callable[[Chunk], None] | None = None,
) -> None:
    """Show ``judge`` the samples of a file, and the moments somebody resumed the watch, in order.

    ``onlooker`` is shown them as well: a day of samples is worth reading once only. Raises
    JournalError naming a line that is no sample.
    """
    from ctp_runbook.record.sample_blocks import read_chunks  # numpy comes with it

    passed = 0
    for chunk in read_chunks(path, cuts=accepted_mono):
        if chunk.cuts:  # resumed before the first of these samples
            judge.accept()
        passed += chunk.cuts
        judge.add_chunk(chunk)
        if onlooker is not None:
            onlooker(chunk)
    if passed < len(accepted_mono):  # resumed after the last sample
        judge.accept()


def rejudge(
    run: RunDir,
    history: History,
    *,
    so_far_mono: float | None = None,
    rules: WatchRules | None = None,
    both: BothEngines | None = None,
) -> tuple[WindowJudgement, Firing | None]:
    """Judge the window again by the rules in the journal's header, or by other ``rules``.

    Whoever wants the comparison as well hands ``both`` in, empty, for the samples are read once.
    With ``so_far_mono`` as it stood at that moment, when most of it may still have been to come.
    Raises JournalError for unreadable samples, TriggerError for a trigger that does not parse.
    """
    started, ended = history.watch_started, history.watch_ended
    if started is None:
        raise JournalError(f"{run.journal}: no watch was started, so there is none to judge")
    rules = rules or read_rules(history.plan.watch)
    ends = _ends_mono(started)
    judge = WindowJudge(
        rules=rules,
        keys=history.plan.monitor_keys,
        trigger=_trigger(history.plan, rules),
        started_mono=started.mono,
        ends_mono=ends,
    )
    is_final = so_far_mono is None
    if both is None and is_final and window_is_over(history):
        both = BothEngines(run, history, rules)
    # The first time the run entered WATCHING the watch began; each time after, somebody resumed it.
    resumed = [t.mono_ns / 1e9 for t in history.transitions if t.state is State.WATCHING][1:]
    replay(judge, run.samples, accepted_mono=resumed, onlooker=both.add if both else None)
    judged_mono = ended.payload.judged_mono if ended else ends
    if so_far_mono is not None:
        judged_mono = min(so_far_mono, judged_mono)
    judged = judge.at(judged_mono, final=is_final)
    if both:
        accepted = any(moment >= ends for moment in resumed)
        judged = with_comparison(judged, both.baseline().compared, accepted=accepted)
    return judged, judge.firing


def window_is_over(history: History) -> bool:
    """True when the watch was judged at its end: only then are both engines compared."""
    started, ended = history.watch_started, history.watch_ended
    if started is None or ended is None:
        return False
    return ended.payload.judged_mono >= _ends_mono(started)


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
