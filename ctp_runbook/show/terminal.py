"""A run in the terminal: what happens, line by line, as the journal says it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from ctp_runbook.model import State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.show.countdown import countdown

__all__ = ["Narrator", "sentence_of"]

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
