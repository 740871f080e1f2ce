"""The line that moves while a notebook follows a run; it goes when there is nothing to wait for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.model import State
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Banner, Block, Page
from ctp_runbook.show.terminal import countdown
from ctp_runbook.watch.measure import Point

__all__ = ["HEADLESS_VARIABLE", "LiveView", "progress_sentence", "show"]

HEADLESS_VARIABLE = "CTP_RUNBOOK_HEADLESS"
_LINE_SECONDS = 0.5
_PLOT_SECONDS = 5.0


def progress_sentence(history: History, *, mono: float, drawn: str = "") -> str:
    """Return what the run is doing at ``mono`` (seconds of the host's monotonic clock).

    ``drawn`` is the verdict of the picture below: there are not two at one time.
    """
    if runs_out := countdown(history, mono=mono):
        return runs_out.sentence
    if history.unfinished:
        step = history.unfinished[-1]
        return f"{step.name} for {mono - step.started_mono_ns / 1e9:.0f} s"
    if history.state in (State.WATCHING, State.HOLDING) and history.watch_started is not None:
        gone, minutes = mono - history.watch_started.mono, history.watch_started.payload.minutes
        return f"{gone:.0f} s of {minutes * 60:.0f} s watched; {_judged(history, drawn)}"
    return history.transitions[-1].reason if history.transitions else "starting"


def _judged(history: History, drawn: str) -> str:
    if drawn:
        return f"so far {drawn}"
    if history.judgement is None:
        return "no verdict yet"
    return f"so far {history.judgement.payload.overall}"


def show(page: Page) -> Any:
    """Show a page in the cell's output; a handle to update it, None outside of IPython."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        return None
    return display(page, display_id=True)  # type: ignore[no-untyped-call]


class LiveView:
    """Shows progress in the cell's output until it is closed; outside of IPython nothing.

    With ``plot`` the watch window is drawn every few seconds, unless the notebook runs headless.
    """

    def __init__(self, run: RunDir, *, plot: bool = False) -> None:
        self._run = run
        self._plot = plot and not os.environ.get(HEADLESS_VARIABLE)
        self._handle: Any = None
        self._next_line = self._next_plot = 0.0
        self._picture: list[Block] = []
        self._drawn = ""
        self._old: Mapping[str, tuple[Point, ...]] | None = None

    def close(self) -> None:
        """Take away what was shown: the page that the cell ends with says it better."""
        if self._handle is not None:
            self._handle.update(Page([], run_dir=str(self._run.path)))

    def show(self, history: History) -> None:
        """Show where the run stands, no more often than a person reads."""
        now = time.monotonic()
        if history.closed is not None or now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        if self._plot and history.watch_started is not None and now >= self._next_plot:
            self._draw(history, now)
        page = Page([self._banner(history, now), *self._picture])
        if self._handle is None:
            self._handle = show(page)
        else:
            self._handle.update(page)

    def _banner(self, history: History, now: float) -> Banner:
        kind = "warn" if history.state in (State.HOLDING, State.ROLLING_BACK) else "info"
        sentence = progress_sentence(history, mono=now, drawn=self._drawn)
        if history.state is State.HOLDING:
            sentence += (
                f". {_judged(history, self._drawn)}. Decide in a terminal: `ctp-runbook resume|rollback --run "
                f"{self._run.path}`, or in another notebook: phases.steer('resume', reason='…')"
            )
        # A page that was reloaded keeps what it showed last: let it say when that was.
        return Banner(kind, f"{history.state.value} at {datetime.now(UTC):%H:%M:%S}Z …", sentence)

    def _draw(self, history: History, now: float) -> None:
        from ctp_runbook.show.watch_figure import watch_picture
        from ctp_runbook.watch.baseline import baseline_points
        from ctp_runbook.watch.replay import read_rules, rejudge

        try:
            judged, _ = rejudge(self._run, history, so_far_mono=now)
            if self._old is None:  # read once: nothing is added to them any more
                rules = read_rules(history.plan.watch)
                self._old = baseline_points(self._run, history, rules)
        except RunbookError:  # a sample is being written; the next look will do
            return
        self._picture = [watch_picture(history, judged, before=self._old, dpi=80)]
        self._drawn = judged.overall.name
        self._next_plot = time.monotonic() + _PLOT_SECONDS
