"""A run in the terminal: what happens, line by line, as the journal says it, and what runs out.

That is the time a hold leaves for a decision, and the budget of a rollback.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Phase, State
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record import kinds
from ctp_runbook.record.evidence import (
    no_runner_since,
    rollback_seconds,
    trading_downtime_seconds,
)
from ctp_runbook.record.history import History, StepHistory, Transition
from ctp_runbook.record.journal import Record
from ctp_runbook.record.told import MetricNow
from ctp_runbook.show.blocks import symbol_of

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.watch.judge import WindowJudgement
    from ctp_runbook.watch.points import Points

__all__ = [
    "Countdown",
    "Narrator",
    "Told",
    "WatchNow",
    "amounts",
    "colour_of",
    "countdown",
    "ending_facts",
    "ending_lines",
    "mark_of",
    "metric_line",
    "minutes",
    "recent_lines",
    "sentence_of",
    "sparkline",
    "watch_as_judged",
    "watch_now",
]


# A shorter text that comes twice is no cause told twice.
_TELLING = 15
# What a row of bars shows: the last minutes, in so many parts.
_TREND_SECONDS, _TREND_PARTS = 300.0, 16
_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"✓": "green", "✗": "red", "?": "yellow", "!": "yellow"}


def sentence_of(record: Record, usual_seconds: Mapping[str, float] | None = None) -> str:
    """Return one line for the operator, starting with a mark; empty for what needs no line."""
    payload = record.payload
    line = (
        _of_steps(payload, record.mono_ns, usual_seconds or {})
        or _of_watch(payload)
        or _of_people(payload)
    )
    # It may quote what a step printed, or what somebody typed: it stays one line, and moves nothing.
    return printable(line.replace("\n", " "))


def _of_steps(payload: kinds.Payload, mono_ns: int, usual_seconds: Mapping[str, float]) -> str:
    match payload:
        case kinds.StateEntered() as entered:
            return f"» {entered.to}: {entered.reason}"
        case kinds.StepStarted() as step:
            most = step.timeout_seconds
            if step.phase is Phase.ROLLBACK:  # whose budget may leave it less
                most = min(most, max(0, step.due_mono_ns - mono_ns) / 1e9)
            usual = usual_seconds.get(step.step)
            usually = "" if usual is None else f", usually {usual:.1f} s"
            return f"  … {step.step} (at most {most:.3g} s{usually})"
        case kinds.StepEnded() as step:
            took = f"in {step.duration_ms / 1000:.1f} s"
            return f"  {symbol_of(step.status)} {step.step} {step.status} {took}: {step.reason}"
        case kinds.StepNotDone() as step:
            return f"  {symbol_of(step.status)} {step.step} {step.status}: {step.reason}"
        case kinds.RollbackStarted() as begun:
            shares = ", ".join(f"{name} {seconds:g} s" for name, seconds in begun.shares.items())
            return f"  budget {begun.budget_seconds:g} s from the trigger: {shares}"
        case kinds.ParentAdopted() as parent:
            return f"» rolls back run {parent.run_id} ({parent.outcome})"
        case kinds.Closed() as closed:
            return f"» {closed.outcome.value}: {closed.sentence}"
    return ""


def _of_watch(payload: kinds.Payload) -> str:
    match payload:
        case kinds.Judged() as judged:
            sentences = (m.sentence for m in judged.metrics.values() if m.verdict == judged.overall)
            return ": ".join([f"  · watch {judged.overall} so far", *islice(sentences, 1)])
        case kinds.Triggered() as trigger:
            # What somebody wanted is no failure.
            is_wanted = trigger.cause in ("forced_drill", "operator")
            return f"{'»' if is_wanted else '✗'} {trigger.sentence}"
        case kinds.WatchGap() as gap:
            return f"! the watch has a gap since {datetime.fromisoformat(gap.from_utc):%H:%M:%S}Z"
        case kinds.WatchDisturbed() as disturbed:
            return f"! {disturbed.sentence}"
    return ""


def _of_people(payload: kinds.Payload) -> str:
    """What somebody asked for, or is to know."""
    match payload:
        case kinds.Finding() as finding:
            return f"{'✗' if finding.severity == 'critical' else '!'} {finding.sentence}"
        case kinds.RequestTaken() as asked:
            return f"» {asked.request} by {asked.by} {asked.reason}".rstrip()
        case kinds.RequestAnswered() as answer:
            return f"  {'»' if answer.obeyed else '!'} {answer.request}: {answer.sentence}"
        case kinds.AlertSent() as alert:
            return f"! alert ({', '.join(alert.hooks)}): {alert.sentence}"
        case kinds.AlertEnded() as alert:
            ending = "delivered" if alert.ok else f"NOT delivered: {alert.sentence}"
            return f"  · alert by {alert.hook} {ending} after {alert.took_ms / 1000:.1f} s"
    return ""


def recent_lines(history: History, *, most: int) -> list[str]:
    """Return the last lines of a run for somebody who comes to it now, each with its time (UTC).

    A step that has ended is told by its end alone, steps that were left out for one reason are one
    line, a cause that comes twice is told where it first came, and how the run came to be where it
    is stands there however much came since. How it ended is told whole, once.
    """
    entries = list(_told(record for record in history.records if not _has_ended(record, history)))
    here = [line for line in entries if line.record.kind == "state"][-1:]
    shown = entries[-most:]
    if here and here[0] not in shown:
        shown = [here[0], *shown[1:]]
    ending = history.closed.payload.sentence if history.closed else ""
    known = [printable(ending)] if ending else []
    lines = []
    for line in shown:
        head, _, cause = line.text.partition(": ")
        is_known = any(cause in text or (len(text) > _TELLING and text in cause) for text in known)
        if len(cause) > _TELLING and is_known and line.record.kind != "closed":
            line = Told(line.record, head)
        elif cause:
            known += [cause, head.lstrip(" »✗!·") + f": {cause}"]
        lines.append(f"{line.record.wall:%H:%M:%S}Z {line.text}")
    return lines


@dataclass(frozen=True)
class Told:
    """What is told of a record, or of the first of several that are told together."""

    record: Record
    text: str


def _told(
    records: Iterable[Record], usual_seconds: Mapping[str, float] | None = None
) -> Iterator[Told]:
    """What is told of each record; steps that were left out for one reason are one line."""
    for left_out, group in groupby(records, key=_left_out):
        records = list(group)
        if left_out is not None and len(records) > 1:
            status, reason = left_out
            names = [r.payload.step for r in records if isinstance(r.payload, kinds.StepNotDone)]
            text = f"  {symbol_of(status)} {names[0]} to {names[-1]} ({len(names)} steps) {status}"
            yield Told(records[0], printable(f"{text}: {reason}"))
            continue
        yield from (
            Told(record, line) for record in records if (line := sentence_of(record, usual_seconds))
        )


def _left_out(record: Record) -> tuple[str, str] | None:
    payload = record.payload
    return (payload.status, payload.reason) if isinstance(payload, kinds.StepNotDone) else None


def _has_ended(record: Record, history: History) -> bool:
    """True of the start of a step that was seen to end, or was tried again."""
    if not isinstance(record.payload, kinds.StepStarted):
        return False
    step = history.step(record.payload.step)
    return step.attempt != record.payload.attempt or bool(step.ended_utc)


class Narrator:
    """Prints what is new each time it is shown the history: a line a record, as for a log.

    How a run ended is left to ``ending_lines``, which come last. ``usual_seconds``: how long each step
    took in earlier runs, where they say.
    """

    look_seconds = 60.0

    def __init__(self) -> None:
        self.usual_seconds: Mapping[str, float] = {}
        self._history = History(())

    def __call__(self, history: History) -> None:
        """Print the records that came since the last call."""
        news = history.records[len(self._history.records) :]
        self._history = history
        for line in _told(news, self.usual_seconds):
            if line.record.kind != "closed":
                self.print_line(line)

    def print_line(self, line: Told) -> None:
        """Print what is told of a record."""
        self.say(line.text, bold=line.record.kind == "state")

    def say(self, line: str, *, bold: bool = False) -> None:
        """Print a sentence."""
        import click  # not for who asks for the countdown alone

        line = printable(line)
        is_plain = None if not os.environ.get("NO_COLOR") else False
        click.secho(line, fg=colour_of(line), bold=bold, color=is_plain)

    def watch(self, now: WatchNow, mono: float) -> None:
        """Print the watch as it stands: what is left, and a line a metric."""
        self.say(f"  · watch: {now.headline(mono)}")
        for metric in now.metrics:
            self.say(f"      {metric_line(metric)}")

    def tick(self, mono: float) -> None:
        """Nothing of a log moves by itself."""

    def close(self) -> None:
        """Nothing of a log is taken away."""


def colour_of(line: str) -> str | None:
    """The colour of the mark that a line begins with."""
    return _COLOURS.get(line.strip()[:1])


@dataclass(frozen=True)
class WatchNow:
    """The watch as it was looked at: when its window ends (monotonic), its verdict so far, each metric."""

    ends_mono: float
    verdict: str
    metrics: tuple[MetricNow, ...]

    def headline(self, mono: float) -> str:
        """``12:40 left, PASSED so far``; a window that is over waits for a decision."""
        left = self.ends_mono - mono
        return f"{f'{minutes(left)} left' if left > 0 else 'window over'}, {self.verdict} so far"


def watch_now(run: RunDir, history: History, *, mono: float) -> WatchNow:
    """Judge what was sampled until ``mono``, as the orchestrator does. Raises RunbookError."""
    from ctp_runbook.watch.replay import rejudge

    judged, _ = rejudge(run, history, so_far_mono=mono)
    return watch_as_judged(history, judged, mono=mono)


def watch_as_judged(history: History, judged: WindowJudgement, *, mono: float) -> WatchNow:
    """Say how the watch stands at ``mono`` by what it was ``judged`` to be until then."""
    assert history.watch_started is not None  # asked of a run that watches
    began = history.watch_started.mono
    ends = began + history.watch_started.payload.minutes * 60
    rules = history.plan.watch.metrics
    metrics = (
        MetricNow(
            name=name,
            verdict=metric.verdict.name,
            value=metric.value,
            is_over=metric.is_over,
            limit=metric.limit,
            unit=rules[name].unit,
            direction=rules[name].direction,
            breaching=metric.breaching,
            trend=_trend(metric.points, rules[name], since=began, until=min(mono, ends)),
        )
        for name, metric in judged.metrics.items()
    )
    return WatchNow(ends, judged.overall.name, tuple(metrics))


def _trend(
    points: Points, rule: MetricRule, *, since: float, until: float
) -> tuple[float | None, ...]:
    """How near the metric came to its limit in each part of the last minutes; 1 is at it."""
    import numpy as np

    monos, values, _ = points.columns()
    span = min(_TREND_SECONDS, max(until - since, float(_TREND_PARTS)))
    parts = np.floor((monos - (until - span)) / span * _TREND_PARTS)
    near = [
        _nearness(rule, values[(parts == part) & ~np.isnan(values)]) for part in range(_TREND_PARTS)
    ]
    return tuple(near)


def _nearness(rule: MetricRule, values: Any) -> float | None:
    if not len(values):
        return None
    worst = float(values.max() if rule.direction == "max" else values.min())
    part, whole = (worst, rule.limit) if rule.direction == "max" else (rule.limit, worst)
    if whole <= 0:  # of a limit of 0 there is no part: it is kept, or it is not
        return 2.0 if part > whole else 0.0
    return round(max(0.0, part / whole), 3)


def sparkline(trend: Sequence[float | None]) -> str:
    """The trend as a row of bars, the full one at the limit or beyond it; ``·`` for no value."""
    top = len(_BARS) - 1
    return "".join(
        "·" if near is None else _BARS[top if near > 1 else min(top - 1, int(near * top))]
        for near in trend
    )


def amounts(metric: MetricNow) -> tuple[str, str]:
    """Its value and its limit, as a person writes them: ``4.2 ms`` and ``≤ 5 ms``."""
    unit = f" {metric.unit}" if metric.unit in ("ms", "s") else ""
    over = "> " if metric.is_over else ""
    value = "no data" if metric.value is None else f"{over}{metric.value + 0.0:.4g}{unit}"
    return value, f"{'≤' if metric.direction == 'max' else '≥'} {metric.limit:g}{unit}"


def metric_line(metric: MetricNow) -> str:
    """``✓ order_latency_p99_ms 4.2 ms (≤ 5 ms) ▁▂▁``."""
    value, limit = amounts(metric)
    line = sparkline(metric.trend)
    return f"{mark_of(metric)} {metric.name} {value} ({limit}) {line}"


def mark_of(metric: MetricNow) -> str:
    """Its verdict's symbol; ``!`` where the value is beyond the limit and has not failed it yet."""
    is_yet = metric.breaching and metric.verdict != "FAILED"
    return "!" if is_yet else symbol_of(metric.verdict)


def minutes(seconds: float) -> str:
    """``12:40``."""
    whole, rest = divmod(max(0, round(seconds)), 60)
    return f"{whole}:{rest:02d}"


def ending_lines(history: History, run: RunDir) -> list[str]:
    """What a run came to, and where its report is; its outcome comes last."""
    assert history.closed is not None  # asked of a run that is over
    closed = history.closed.payload
    report = str(run.report) if run.report.is_file() else f"`ctp-runbook report --run {run.path}`"
    outcome = printable(f"» {closed.outcome.value}: {closed.sentence}")
    return [*ending_facts(history), f"  report: {report}", outcome]


def ending_facts(history: History) -> list[str]:
    """What fired, the watch, and what was lost of trading, of a real run that is over."""
    return [] if history.is_dry_run else [printable(line) for line in _what_it_came_to(history)]


def _what_it_came_to(history: History) -> Iterator[str]:
    fired = history.trigger.payload.sentence if history.trigger else ""
    if fired:
        yield f"  {fired}"
    if history.watch_ended is not None:
        ended = history.watch_ended.payload
        why = "" if fired and fired in ended.sentence else f": {ended.sentence}"  # told once
        yield f"  watch {ended.verdict} in {minutes(ended.watched_seconds)}{why}"
    if history.rollback_started is not None:
        budget = history.rollback_started.payload.budget_seconds
        yield f"  rollback: {rollback_seconds(history):.1f} s of {budget:g} s"
    if since := no_runner_since(history):
        yield f"  trading downtime: since {datetime.fromisoformat(since):%H:%M:%S}Z, not over"
    elif seconds := trading_downtime_seconds(history):
        yield f"  trading downtime: {seconds:.1f} s"
    else:
        yield "  trading downtime: none"


@dataclass(frozen=True)
class Countdown:
    """``seconds_left`` until something happens, negative when it is overdue; ``words`` say what:
    ``ROLLBACK: 47.2 s of 60 s left; …``. ``reason``: why a run holds."""

    seconds_left: float
    words: str
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The words, and why."""
        return "; ".join(filter(None, (self.words, self.reason)))


def countdown(history: History, *, mono: float) -> Countdown | None:
    """Return what runs out at ``mono`` (seconds of this host's monotonic clock); None where nothing
    does."""
    if history.closed is not None:
        return None
    if history.state is State.HOLDING and (held := history.entered(State.HOLDING)):
        return _hold(history.plan, held, mono)
    if history.state is State.ROLLING_BACK and history.rollback_started is not None:
        return _rollback(history, history.rollback_started.payload, mono)
    return None


def _hold(plan: kinds.PlanFacts, held: Transition, mono: float) -> Countdown:
    left = held.mono_ns / 1e9 + plan.hold_seconds - mono
    words = "HOLDING until somebody decides (HOLD_EXPIRY keep)"
    if plan.hold_expiry == "rollback":
        minutes, seconds = divmod(max(0, round(left)), 60)
        words = f"HOLDING: rolls back in {minutes}:{seconds:02d} unless resumed"
    return Countdown(left, words, held.reason)


def _rollback(history: History, begun: kinds.RollbackStarted, mono: float) -> Countdown:
    budget = begun.budget_seconds
    # From the triggering sample, not from the first step: the budget is what trading has lost.
    left = begun.started_mono_ns / 1e9 + budget - mono
    words = (
        f"{left:.1f} s of {budget:g} s left" if left >= 0 else f"{-left:.1f} s OVER {budget:g} s"
    )
    under_way = [step for step in history.unfinished if step.phase == Phase.ROLLBACK]
    steps = [_step(step, begun, mono) for step in under_way[-1:]]
    return Countdown(left, "; ".join([f"ROLLBACK: {words}", *steps]))


def _step(step: StepHistory, begun: kinds.RollbackStarted, mono: float) -> str:
    """The step under way, what is left until it is due, and its share of the budget."""
    due = max(0.0, step.due_mono_ns / 1e9 - mono)
    share = begun.shares.get(step.name)
    part = f", share {share:.3g} s" if share is not None else ""
    return f"{step.name}: due in {due:.1f} s{part}"
