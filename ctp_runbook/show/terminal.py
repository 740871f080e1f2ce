"""A run in the terminal: what happens, line by line, as the journal says it, and what runs out.

That is the time a hold leaves for a decision, and the budget of a rollback.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctp_runbook.model import State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record

__all__ = ["Countdown", "Narrator", "countdown", "sentence_of"]


_MARKS = {
    "ok": "✓",
    "simulated_ok": "✓",
    "failed": "✗",
    "timed_out": "✗",
    "unknown": "?",
    "skipped": "-",
    "not_run": "-",
}
_COLOURS = {"✓": "green", "✗": "red", "?": "yellow", "!": "yellow"}


def sentence_of(record: Record) -> str:
    """One line for the operator, starting with a mark; empty for what needs no line."""
    teller = _TELLERS.get(record.kind)
    return teller(record.payload) if teller is not None else ""


def _state(given: Any) -> str:
    return f"» {given['to']}: {given['reason']}"


def _step_started(given: Any) -> str:
    return f"  … {given['step']} (at most {given['timeout_seconds']:g} s)"


def _rollback_started(given: Any) -> str:
    shares = ", ".join(f"{name} {seconds:g} s" for name, seconds in given["shares"].items())
    return f"  budget {given['budget_seconds']:g} s from the trigger: {shares}"


def _answer(given: Any) -> str:
    return f"  {'»' if given['obeyed'] else '!'} {given['request']}: {given['sentence']}"


def _alert(given: Any) -> str:
    return f"! alert ({', '.join(given['hooks'])}): {given['sentence']}"


def _alert_ended(given: Any) -> str:
    told = "delivered" if given["ok"] else f"NOT delivered: {given['sentence']}"
    return f"  · alert by {given['hook']} {told} after {given['took_ms'] / 1000:.1f} s"


def _step_ended(given: Any) -> str:
    took = given["duration_ms"] / 1000
    return f"  {_MARKS[given['status']]} {given['step']} {given['status']} in {took:.1f} s: {given['reason']}"


def _step_not_done(given: Any) -> str:
    return f"  {_MARKS[given['status']]} {given['step']} {given['status']}: {given['reason']}"


def _judgement(given: Any) -> str:
    told = [
        one["sentence"] for one in given["metrics"].values() if one["verdict"] == given["overall"]
    ]
    return f"  · watch {given['overall']}: {told[0] if told else ''}"


_TELLERS: Mapping[str, Callable[[Any], str]] = {
    "state": _state,
    "step_started": _step_started,
    "step_ended": _step_ended,
    "step_not_done": _step_not_done,
    "judgement": _judgement,
    "trigger": lambda given: f"✗ {given['sentence']}",
    "finding": lambda g: f"{'✗' if g['severity'] == 'critical' else '!'} {g['sentence']}",
    "watch_gap": lambda given: f"! the watch has a gap since {given['from_utc']}",
    "watch_disturbed": lambda given: f"! {given['sentence']}",
    "control": lambda given: f"» {given['request']} by {given['by']} {given['reason']}".rstrip(),
    "answer": _answer,
    "alert": _alert,
    "alert_ended": _alert_ended,
    "rollback_started": _rollback_started,
    "parent": lambda given: f"» rolls back run {given['run_id']} ({given['outcome']})",
    "closed": lambda given: f"» {given['outcome']}: {given['sentence']}",
}


class Narrator:
    """Prints what is new each time it is shown the history; on a terminal, a clock below it."""

    def __init__(self) -> None:
        self._told = 0
        self._status: Any = None

    def tick(self, history: History) -> bool:
        """Move the clock of the status line; always False, to be put into a condition."""
        if self._status is not None:
            self._status.update(_waiting_for(history))
        return False

    def __call__(self, history: History) -> None:
        """Print the records that came since the last call."""
        for record in history.records[self._told :]:
            if line := sentence_of(record):
                import click  # not for who asks for the countdown alone

                mark = line.strip()[:1]
                click.secho(line, fg=_COLOURS.get(mark), bold=record.kind in ("state", "closed"))
        self._told = len(history.records)
        if self._status is not None:
            self._status.update(_waiting_for(history))

    @contextlib.contextmanager
    def on_terminal(self) -> Iterator[Narrator]:
        """Show a live status line meanwhile, where there is a terminal to show it on."""
        if not sys.stdout.isatty():
            yield self
            return
        from rich.console import Console

        with Console().status("starting") as self._status:
            yield self
        self._status = None


def _waiting_for(history: History) -> str:
    from rich.markup import escape

    if runs_out := countdown(history, mono=time.monotonic()):
        colour = "bold red" if history.state is State.ROLLING_BACK else "bold yellow"
        return f"[{colour}]{escape(runs_out.sentence)}[/]; Ctrl-C leaves the run going"
    if history.state is State.WATCHING and history.watch_started is not None:
        minutes = history.watch_started.payload["minutes"]
        left = minutes * 60 - (time.monotonic() - history.watch_started.mono_ns / 1e9)
        return f"watching, {max(0, left):.0f} s left; Ctrl-C leaves the run going"
    return f"{history.state.value}; Ctrl-C leaves the run going"


@dataclass(frozen=True)
class Countdown:
    """``seconds_left`` until ``what`` happens, negative when it is overdue; ``detail`` in words."""

    what: str
    seconds_left: float
    detail: str

    @property
    def sentence(self) -> str:
        """``rollback: 47.2 s of its budget of 60 s left; …``."""
        return f"{self.what}; {self.detail}" if self.detail else self.what


def countdown(history: History, *, mono: float) -> Countdown | None:
    """What runs out at ``mono`` (seconds of this host's monotonic clock); None where nothing does."""
    if history.closed is not None:
        return None
    if history.state is State.HOLDING:
        return _hold(history, mono)
    if history.state is State.ROLLING_BACK and history.rollback_started is not None:
        return _rollback(history, mono)
    return None


def _hold(history: History, mono: float) -> Countdown | None:
    held = history.entered(State.HOLDING)
    seconds = history.plan.get("hold_seconds")
    if held is None or seconds is None:
        return None
    left = held.mono_ns / 1e9 + float(seconds) - mono
    if history.plan.get("hold_expiry") != "rollback":
        return Countdown("HOLDING until somebody decides (HOLD_EXPIRY keep)", left, held.reason)
    return Countdown(f"HOLDING: rolls back in {_clock(left)} unless resumed", left, held.reason)


def _rollback(history: History, mono: float) -> Countdown:
    assert history.rollback_started is not None  # asked by the caller
    given = history.rollback_started.payload
    budget = float(given["budget_seconds"])
    left = given["started_mono_ns"] / 1e9 + budget - mono
    word = f"{left:.1f} s of {budget:g} s left" if left >= 0 else f"{-left:.1f} s OVER {budget:g} s"
    return Countdown(f"ROLLBACK: {word}", left, _step(history, mono))


def _step(history: History, mono: float) -> str:
    """The step under way, its share of the budget, and what is left until it is due."""
    under_way = [one for one in history.unfinished if one.phase == "rollback"]
    if not under_way or history.rollback_started is None:
        return ""
    step = under_way[-1]
    share = history.rollback_started.payload.get("shares", {}).get(step.name)
    due = step.due_mono_ns / 1e9 - mono
    told = f", share {share:.3g} s" if share is not None else ""
    return f"{step.name}: due in {max(0.0, due):.1f} s{told}"


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
