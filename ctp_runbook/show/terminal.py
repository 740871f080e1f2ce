"""A run in the terminal: what happens, line by line, as the journal says it, and what runs out.

That is the time a hold leaves for a decision, and the budget of a rollback.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice

from ctp_runbook.model import Phase, State
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record import kinds
from ctp_runbook.record.history import History, StepHistory, Transition
from ctp_runbook.record.journal import Record
from ctp_runbook.show.blocks import symbol_of

__all__ = ["Countdown", "Narrator", "countdown", "recent_lines", "sentence_of"]


# A shorter text that comes twice is no cause told twice.
_TELLING = 15
_COLOURS = {"✓": "green", "✗": "red", "?": "yellow", "!": "yellow"}


def sentence_of(record: Record) -> str:
    """Return one line for the operator, starting with a mark; empty for what needs no line."""
    payload = record.payload
    line = _of_steps(payload, record.mono_ns) or _of_watch(payload) or _of_people(payload)
    # It may quote what a step printed, or what somebody typed: it stays one line, and moves nothing.
    return printable(line.replace("\n", " "))


def recent_lines(history: History, *, most: int) -> list[str]:
    """Return the last lines of a run for somebody who comes to it now, each with its time (UTC).

    A step that has ended is told by its end alone, steps that were left out for one reason are one
    line, a cause that comes twice is told where it first came, and how the run came to be where it
    is stands there however much came since. How it ended is told whole, once.
    """
    told = [line for line in _told(history) if line.text]
    here = [line for line in told if line.record.kind == "state"][-1:]
    shown = told[-most:]
    if here and here[0] not in shown:
        shown = [here[0], *shown[1:]]
    ending = history.closed.payload.sentence if history.closed else ""
    known = [printable(ending)] if ending else []
    lines = []
    for line in shown:
        head, _, cause = line.text.partition(": ")
        is_known = any(cause in text or (len(text) > _TELLING and text in cause) for text in known)
        if len(cause) > _TELLING and is_known and line.record.kind != "closed":
            line = _Told(line.record, head)
        elif cause:
            known.append(cause)
        lines.append(f"{line.record.wall:%H:%M:%S}Z {line.text}")
    return lines


@dataclass(frozen=True)
class _Told:
    record: Record
    text: str


def _told(history: History) -> Iterator[_Told]:
    """Each record's line but those that a later one makes idle."""
    for left_out, group in groupby(history.records, key=_left_out):
        records = list(group)
        if left_out is not None and len(records) > 1:
            status, reason = left_out
            names = [r.payload.step for r in records if isinstance(r.payload, kinds.StepNotDone)]
            text = f"  {symbol_of(status)} {names[0]} to {names[-1]} ({len(names)} steps) {status}"
            yield _Told(records[0], printable(f"{text}: {reason}"))
            continue
        for record in records:
            if not _has_ended(record, history):
                yield _Told(record, sentence_of(record))


def _left_out(record: Record) -> tuple[str, str] | None:
    payload = record.payload
    return (payload.status, payload.reason) if isinstance(payload, kinds.StepNotDone) else None


def _has_ended(record: Record, history: History) -> bool:
    """True of the start of a step that was seen to end, or was tried again."""
    if not isinstance(record.payload, kinds.StepStarted):
        return False
    step = history.step(record.payload.step)
    return step.attempt != record.payload.attempt or bool(step.ended_utc)


def _of_steps(payload: kinds.Payload, mono_ns: int) -> str:
    match payload:
        case kinds.StateEntered() as entered:
            return f"» {entered.to}: {entered.reason}"
        case kinds.StepStarted() as step:
            most = step.timeout_seconds
            if step.phase is Phase.ROLLBACK:  # whose budget may leave it less
                most = min(most, max(0, step.due_mono_ns - mono_ns) / 1e9)
            return f"  … {step.step} (at most {most:.3g} s)"
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


class Narrator:
    """Prints what is new each time it is shown the history; on a terminal, a clock below it."""

    def __init__(self) -> None:
        self._history = History(())

    def __call__(self, history: History) -> None:
        """Print the records that came since the last call."""
        for record in history.records[len(self._history.records) :]:
            if line := sentence_of(record):
                import click  # not for who asks for the countdown alone

                mark = line.strip()[:1]
                click.secho(line, fg=_COLOURS.get(mark), bold=record.kind in ("state", "closed"))
        self._history = history

    def __rich__(self) -> str:
        """Return the line below, as it is now: rich asks for it whenever it draws the line anew."""
        return _waiting_for(self._history) if self._history.records else "starting"

    @contextlib.contextmanager
    def on_terminal(self) -> Iterator[Narrator]:
        """Show a live status line meanwhile, where there is a terminal to show it on."""
        with contextlib.ExitStack() as line:
            if sys.stdout.isatty():
                from rich.console import Console

                line.enter_context(Console().status(self))
            yield self


def _waiting_for(history: History) -> str:
    from rich.markup import escape

    words = history.state.value
    if runs_out := countdown(history, mono=time.monotonic()):
        colour = "bold red" if history.state is State.ROLLING_BACK else "bold yellow"
        words = f"[{colour}]{escape(printable(runs_out.sentence))}[/]"
    elif history.state is State.WATCHING and history.watch_started is not None:
        ends = history.watch_started.mono + history.watch_started.payload.minutes * 60
        words = f"watching, {max(0, ends - time.monotonic()):.0f} s left"
    return f"{words}; Ctrl-C leaves the run going"


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
