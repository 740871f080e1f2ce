"""A run followed as it goes on: lines for a log, JSON for a program, and at a terminal a part that moves.

Whoever looks decides nothing: a terminal that is closed, full, slow or torn, and whatever goes wrong
in here, ends nothing of the run nor of the command that waits for it.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ctp_runbook.errors import RunbookError
from ctp_runbook.model import Phase, State, Verdict
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record.durations import usual_step_seconds
from ctp_runbook.record.evidence import trading_downtime_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_known
from ctp_runbook.record.kinds import StepEnded, StepStarted
from ctp_runbook.record.rundir import RunDir, behind_path
from ctp_runbook.record.told import EndLine, NoteLine, RecordLine, RunLine, WatchLine
from ctp_runbook.show.standing import PHASES, StepNow, phase_steps, steps_now, who_trades
from ctp_runbook.show.terminal import (
    Narrator,
    Told,
    WatchNow,
    amounts,
    colour_of,
    countdown,
    mark_of,
    minutes,
    sentence_of,
    sparkline,
    watch_now,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["JsonLines", "Screen", "Viewer", "Voice", "end_beside_a_stuck_terminal", "is_screen"]

_POLL_SECONDS = 0.25
# A look at a long watch reads all of its samples: it may take this part of the time.
_SHARE = 0.05
# How long a terminal that takes nothing is waited for by who leaves.
_PATIENCE_SECONDS = 5.0
# Viewers that hang in a terminal, after they were told to end.
_STUCK: list[threading.Thread] = []
_OTHER_ROWS = 9  # of a screen: heading, who trades, countdown, the line below, some of the log
_WATCHES = (State.WATCHING, State.HOLDING)


class Voice(Protocol):
    """One way of telling. ``look_seconds``: how often it wants to know how the watch stands."""

    look_seconds: float
    usual_seconds: Mapping[str, float]

    def __call__(self, history: History) -> None:
        """Tell what is new."""

    def say(self, line: str) -> None:
        """Tell a sentence."""

    def watch(self, now: WatchNow, mono: float) -> None:
        """Tell how the watch stands."""

    def tick(self, mono: float) -> None:
        """Let move what moves."""

    def close(self) -> None:
        """Take away what moves."""


class Viewer:
    """Follows a run in a thread of its own, and has it told by ``voice``."""

    def __init__(self, run: RunDir, voice: Voice) -> None:
        self._run, self._voice = run, voice
        self._behind = behind_path(run)
        self._history = History(())
        self._size = -1
        self._next_look = 0.0
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._over = threading.Event()
        # A daemon: one that hangs in a terminal must not keep the command from ending.
        self._thread = threading.Thread(target=self._follow, name="viewer", daemon=True)

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        try:
            # A reader who pauses the terminal is waited for: the rest is told once they go on. Who
            # leaves, or has to be told what is wrong, does not wait for the terminal.
            self._thread.join(None if kind is None else _PATIENCE_SECONDS)
        finally:
            if self._thread.is_alive():
                # It holds the stream, which nobody else can use any more, nor flush at the end.
                _STUCK.append(self._thread)
                sys.stdout = io.StringIO()
            else:
                _unharmed(self._look)
                _unharmed(self._voice.close)

    def say(self, line: str) -> None:
        """Have a sentence told, after what the journal says by now; it is not waited for."""
        self._lines.put(line)

    def _follow(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            _unharmed(self._look)

    def _look(self) -> None:
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        with contextlib.suppress(RunbookError, OSError):  # being written, or taken away
            self._read()
        for line in lines:
            self._voice.say(line)
        if not self._over.is_set():
            with contextlib.suppress(RunbookError):  # a sample is being written
                self._look_at_watch()
            self._voice.tick(time.monotonic())

    def _read(self) -> None:
        size = self._run.journal.stat().st_size
        with contextlib.suppress(OSError):  # nothing is behind it
            size += self._behind.stat().st_size if self._behind is not None else 0
        if size == self._size:
            return
        history = History.of(read_known(self._run.journal, self._behind))
        self._size = size
        if history.header is not None and len(history.records) > len(self._history.records):
            if not self._history.records:
                _unharmed(self._recall)
            self._history = history
            self._voice(history)

    def _recall(self) -> None:
        self._voice.usual_seconds = usual_step_seconds(self._run)

    def _look_at_watch(self) -> None:
        began, history = time.monotonic(), self._history
        if began < self._next_look or history.state not in _WATCHES or not history.watch_started:
            return
        now = watch_now(self._run, history, mono=began)
        took = time.monotonic() - began
        self._next_look = began + max(self._voice.look_seconds, took / _SHARE)
        self._voice.watch(now, began)


def end_beside_a_stuck_terminal(code: int) -> None:
    """End this process now where a terminal that takes nothing holds its stream; else return.

    The interpreter would wait for the stream at its end, and abort with a code that means nothing.
    """
    if any(thread.is_alive() for thread in _STUCK):
        sys.stderr.flush()
        os._exit(code)


def _unharmed(act: Any) -> None:
    """Do what may fail: it is a look, and a look that failed is made again, or not."""
    with contextlib.suppress(Exception):
        act()


# --- for a program --------------------------------------------------------------------


class JsonLines:
    """Prints a JSON object a line, each whole; record/told.py says which there are."""

    look_seconds = 5.0

    def __init__(self, run: RunDir, *, dry_run: bool) -> None:
        self.usual_seconds: Mapping[str, float] = {}
        self._run, self._dry_run = run, dry_run
        self._history = History(())

    def __call__(self, history: History) -> None:
        """Print a line a record; before the first, which run this is."""
        if not self._history.records:
            created = history.created
            begun = RunLine(
                **self._common(),
                path=str(self._run.path),
                environment=created.environment,
                plan_sha256=created.plan_sha256,
            )
            _print_json(begun)
        for record in history.records[len(self._history.records) :]:
            self._history = self._history.then((record,))
            payload = record.payload
            took = payload.duration_ms / 1000 if isinstance(payload, StepEnded) else None
            step = getattr(payload, "step", "")
            line = RecordLine(
                **self._common(),
                seq=record.seq,
                kind=record.kind,
                state=self._history.state.value,
                sentence=sentence_of(record).strip(),
                step=step,
                status=str(getattr(payload, "status", "")),
                took_seconds=took,
                usual_seconds=self.usual_seconds.get(step),
            )
            _print_json(line)

    def say(self, line: str) -> None:
        """Print a sentence."""
        _print_json(NoteLine(**self._common(), sentence=line.strip()))

    def watch(self, now: WatchNow, mono: float) -> None:
        """Print how the watch stands."""
        line = WatchLine(
            **self._common(),
            state=self._history.state.value,
            seconds_left=round(max(0.0, now.ends_mono - mono), 1),
            verdict=now.verdict,
            metrics=now.metrics,
        )
        _print_json(line)

    def tick(self, mono: float) -> None:
        """Nothing moves by itself."""

    def close(self) -> None:
        """Nothing is taken away."""

    def end(self, history: History, code: int, *, sentence: str = "") -> None:
        """Print the last line: what became of the run, and of the command."""
        closed = history.closed.payload if history.closed else None
        ended = history.watch_ended
        is_there = self._run.report.is_file()
        seconds = 0.0 if history.is_dry_run else trading_downtime_seconds(history)
        line = EndLine(
            **self._common(),
            outcome=closed.outcome.value if closed else None,
            exit_code=code,
            sentence=closed.sentence if closed else sentence,
            downtime_seconds=round(seconds, 3) if seconds and closed else None,
            verdict=ended.payload.verdict if ended else None,
            report=str(self._run.report) if is_there else "",
            evidence=str(self._run.evidence),
        )
        _print_json(line)

    def _common(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"run_id": self._run.run_id, "dry_run": self._dry_run, "utc": now}


def _print_json(line: Any) -> None:
    # In one piece: another thread may say something at the same time.
    print(f"{msgspec.json.encode(line).decode()}\n", end="", flush=True)


# --- at a terminal --------------------------------------------------------------------


def is_screen() -> bool:
    """True where standard output is a terminal on which a part can move."""
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower()
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and encoding in ("utf-8", "utf8")
        and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    )


class Screen(Narrator):
    """The lines of a log, each with its time (UTC), and below them what is going on, moving.

    Rich is imported here and nowhere else: only who looks needs it.
    """

    look_seconds = 2.0

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        # The other streams stay as they are: what is written there is not for this terminal alone.
        self.console = console or Console(highlight=False)
        self._now: WatchNow | None = None
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def print_line(self, line: Told) -> None:
        """Print what is told of a record; that a step runs is seen below."""
        if not isinstance(line.record.payload, StepStarted):
            self._print(
                f"{line.record.wall:%H:%M:%S}Z", line.text, bold=line.record.kind == "state"
            )

    def say(self, line: str, *, bold: bool = False) -> None:
        """Print a sentence above what moves."""
        self._print(f"{datetime.now(UTC):%H:%M:%S}Z", printable(line), bold=bold)

    def _print(self, at: str, line: str, *, bold: bool) -> None:
        from rich.table import Table
        from rich.text import Text

        # A mark, where the line has one, stands before all lines that the sentence takes.
        head = len(line) - len(line.lstrip()) + (2 if colour_of(line) or line[:1] == "»" else 0)
        style = " ".join(filter(None, (colour_of(line), "bold" if bold else "")))
        table = Table.grid(padding=0)
        table.add_column(width=len(at) + 1 + head, no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(Text(f"{at} {line[:head]}", style), Text(line[head:], style))
        self.console.print(table)

    def watch(self, now: WatchNow, mono: float) -> None:
        """Keep how the watch stands, to be shown."""
        self._now = now

    def tick(self, mono: float) -> None:
        """Draw anew what is going on."""
        if not self._live.is_started:
            self._live.start()
        self._live.update(self.picture(mono), refresh=True)

    def close(self) -> None:
        """Take away what moves, and leave the lines."""
        self._live.stop()

    def picture(self, mono: float) -> RenderableType:
        """What is going on at ``mono``: a heading, who trades, what runs out, and steps or metrics."""
        from rich.console import Group
        from rich.rule import Rule
        from rich.text import Text

        history = self._history
        parts: list[RenderableType] = [Rule(Text(self._heading(mono)), align="left")]
        if history.records and history.closed is None and not history.is_dry_run:
            trading = who_trades(history, mono=mono)
            parts.append(_line(trading.words, "green" if trading.is_proved else "bold yellow"))
        if runs_out := countdown(history, mono=mono):
            colour = "bold red" if history.state is State.ROLLING_BACK else "bold yellow"
            parts.append(_line(runs_out.words, colour))
            if history.trigger is not None:
                parts.append(_line(history.trigger.payload.sentence, "red"))
            elif runs_out.reason:
                parts.append(_line(runs_out.reason, "yellow"))
        if history.state in PHASES:
            parts.append(self._steps(PHASES[history.state], mono))
        if history.state in _WATCHES and self._now is not None:
            parts.append(self._metrics(self._now))
        if history.closed is not None:
            return Group(*parts)
        leave = "Ctrl-C leaves the run going"
        if history.state is State.HOLDING:
            leave = f"decide: ctp-runbook resume | rollback; {leave}"
        parts.append(_line(leave, "dim"))
        return Group(*parts)

    def _heading(self, mono: float) -> str:
        """``SWITCHING for 0:12, usually 0:14``, or the watch and what is left of it."""
        history = self._history
        if not history.records:
            return "starting"
        if history.outcome is not None:
            return f"{history.outcome.value}; what is left is to write it down"
        words = [history.state.value]
        if history.transitions:
            words = [f"{words[0]} for {minutes(mono - history.transitions[-1].mono_ns / 1e9)}"]
        if history.state in PHASES:
            usual = [self.usual_seconds.get(n) for n in phase_steps(history, PHASES[history.state])]
            if known := [seconds for seconds in usual if seconds is not None]:
                words.append(f"steps usually {minutes(sum(known))}")
        if history.state in _WATCHES and self._now is not None:
            words.append(self._now.headline(mono))
        return ", ".join(words)

    def _steps(self, phase: Phase, mono: float) -> RenderableType:
        from rich.table import Table

        table = _grid(Table.grid(padding=(0, 2, 0, 0)), "mark", "name", "took", "usual", "most")
        for step in steps_now(self._history, phase, self.usual_seconds, mono=mono):
            table.add_row(*_step_cells(step))
        return table

    def _metrics(self, now: WatchNow) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = _grid(Table.grid(padding=(0, 2, 0, 0)), "mark", "name", "value", "limit", "trend")
        room = max(1, self.console.height - _OTHER_ROWS)
        # Where there is no room for all, those that are worst stay in sight.
        ranked = sorted(now.metrics, key=lambda metric: -Verdict[metric.verdict])
        shown = ranked[:room]
        for metric in (metric for metric in now.metrics if metric in shown):
            mark = mark_of(metric)
            style = "bold red" if metric.breaching else colour_of(mark) or ""
            value, limit = amounts(metric)
            row = (f" {mark}", metric.name, value, limit, sparkline(metric.trend))
            table.add_row(*(Text(text, style) for text in row))
        if left_out := len(ranked) - len(shown):
            table.add_row("", Text(f"and {left_out} more, none of them worse", "dim"))
        return table


def _step_cells(step: StepNow) -> Iterator[RenderableType]:
    from rich.text import Text

    style = "bold" if step.is_under_way else "dim" if step.is_due else colour_of(step.mark) or ""
    for text in (f" {step.mark}", step.name, step.took, step.usual, step.most):
        yield Text(text, style)


def _line(text: str, style: str) -> Text:
    """One line, cut where the terminal has no room."""
    from rich.text import Text

    return Text(printable(text.replace("\n", " ")), style, no_wrap=True, overflow="ellipsis")


def _grid(table: Table, *columns: str) -> Table:
    """The table with these columns, each row one line, cut where the terminal has no room."""
    for column in columns:
        right = column in ("took", "value")
        table.add_column(no_wrap=True, overflow="ellipsis", justify="right" if right else "left")
    return table
