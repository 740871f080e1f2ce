"""How a notebook waits for a run, and what moves meanwhile; it goes when there is nothing to wait for.

That is a line. Where a person looks on it is a panel: who trades, the steps with the time they usually
take, or each metric beside its limit; and buttons.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, ParamSpec, TypeVar, cast

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.viewers import Look
from ctp_runbook.model import State
from ctp_runbook.notebook.checkout import look_at
from ctp_runbook.notebook.controls import HEADLESS_VARIABLE, Controls, is_person_there
from ctp_runbook.record.durations import usual_step_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Banner, Block, Facts, Page, Table
from ctp_runbook.show.standing import PHASES, steps_now, who_trades
from ctp_runbook.show.terminal import (
    WatchNow,
    amounts,
    countdown,
    mark_of,
    sparkline,
    watch_as_judged,
)
from ctp_runbook.watch.points import Point

__all__ = ["LiveView", "Waiting", "panel_blocks", "progress_sentence", "show"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LINE_SECONDS = 0.5
_PLOT_SECONDS = 5.0


class Waiting(Generic[_P, _R]):
    """A function made of looks at a run, which yields the seconds until the next one.

    ``watch(...)`` and ``await watch.live(...)`` do and return the same. Called, it blocks. Awaited in a
    cell it leaves the kernel to the page: one that was closed, or loaded anew, gets the panel back.
    """

    def __init__(self, looks: Callable[_P, Generator[float, None, _R]]) -> None:
        self._looks = looks
        functools.update_wrapper(self, looks)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Look until it is over; sleep in between."""
        waiting = _over(self._looks(*args, **kwargs), sleep=_block)
        try:
            waiting.send(None)  # it never waits for anybody, and so is at its end
        except StopIteration as end:
            return cast("_R", end.value)
        raise AssertionError("a wait that blocks was suspended")

    async def live(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Look until it is over, for a notebook's cell; in between others have the kernel."""
        import asyncio

        return await _over(self._looks(*args, **kwargs), sleep=asyncio.sleep)


async def _block(seconds: float) -> None:
    time.sleep(seconds)


async def _over(
    looking: Generator[float, None, _R], *, sleep: Callable[[float], Coroutine[Any, Any, None]]
) -> _R:
    """What the looks come to; who interrupts the sleep between two of them interrupts the next."""
    from asyncio import CancelledError

    interrupt = None
    while True:
        try:
            seconds = looking.throw(interrupt) if interrupt else next(looking)
        except StopIteration as end:
            return cast("_R", end.value)
        interrupt = None
        try:
            await sleep(seconds)
        except (KeyboardInterrupt, CancelledError):  # of a cell that awaits, ipykernel cancels it
            interrupt = KeyboardInterrupt()


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


def panel_blocks(
    history: History, *, mono: float, usual_seconds: Mapping[str, float], watch: WatchNow | None
) -> Iterator[Block]:
    """Say below the line who trades, and show the steps under way, or the metrics."""
    trading = who_trades(history, mono=mono)
    why = history.trigger.payload.sentence if history.trigger else ""
    yield Banner("good" if trading.is_proved else "warn", trading.words, why)
    if phase := PHASES.get(history.state):
        steps = steps_now(history, phase, usual_seconds, mono=mono)
        rows = [(f"{step.mark} {step.name}", step.took, step.usual, step.most) for step in steps]
        yield Table(("step", "took", "earlier runs", "limit"), rows, numbers=("took",))
    if history.state in (State.WATCHING, State.HOLDING) and watch is not None:
        metrics = [
            (
                f"{mark_of(metric)} {metric.name}",
                *amounts(metric),
                sparkline(metric.trend),
            )
            for metric in watch.metrics
        ]
        yield Table(("metric", "now", "limit", "last minutes"), metrics, numbers=("now",))


class LiveView:
    """Shows progress in the cell's output until it is closed; outside of IPython nothing.

    With ``plot`` the watch window is drawn every few seconds, unless the notebook runs headless.
    ``is_panel``: a person looks on, and is shown more, with buttons.
    """

    def __init__(self, run: RunDir, *, plot: bool = False) -> None:
        self._run = run
        self._plot = plot and not os.environ.get(HEADLESS_VARIABLE)
        self.is_panel = is_person_there()
        self._controls: Controls | None = None
        self._look: Look | None = None
        self._usual: Mapping[str, float] = {}
        self._watch: WatchNow | None = None
        self._handle: Any = None
        self._next_line = self._next_plot = 0.0
        self._picture: list[Block] = []
        self._drawn = ""
        self._old: Mapping[str, tuple[Point, ...]] | None = None

    def close(self) -> None:
        """Take away what was shown: the page that the cell ends with says it better."""
        if self._controls is not None:
            self._controls.close()
        if self._look is not None:
            self._look.close()
        if self._handle is not None:
            self._handle.update(Page([], run_dir=str(self._run.path)))

    def show(self, history: History) -> None:
        """Show where the run stands, no more often than a person reads."""
        now = time.monotonic()
        if history.closed is not None or now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        if history.state is State.ROLLING_BACK:
            self._picture = []  # how the watch stood says nothing any more of how the run does
        elif self._plot and history.watch_started is not None and now >= self._next_plot:
            self._draw(history, now)
        line = self._banner(history, now)
        if self.is_panel and not history.is_dry_run:
            controls = self._controls or self._begin_panel(history)
            controls.tell(Page([line, *self._panel(history, now)]), Page(self._picture))
            controls.show(history)
        elif self._handle is None:
            self._handle = show(Page([line, *self._picture]))
        else:
            self._handle.update(Page([line, *self._picture]))

    def _begin_panel(self, history: History) -> Controls:
        self._usual = usual_step_seconds(self._run)
        self._look = look_at(self._run)
        self._controls = Controls(self._run, history)
        self._controls.display()
        return self._controls

    def _panel(self, history: History, now: float) -> Iterator[Block]:
        """What a person is shown of a real run below the line."""
        others = [viewer.sentence for viewer in self._look.others()] if self._look else []
        looking = "; ".join(others) or "nobody else"
        yield Facts([("run", self._run.run_id), ("also looking", looking)])
        yield from panel_blocks(history, mono=now, usual_seconds=self._usual, watch=self._watch)

    def _banner(self, history: History, now: float) -> Banner:
        kind = "warn" if history.state in (State.HOLDING, State.ROLLING_BACK) else "info"
        sentence = progress_sentence(history, mono=now, drawn=self._drawn)
        if history.state is State.HOLDING:
            sentence += f". {_judged(history, self._drawn)}"
        if history.state is State.HOLDING and not self.is_panel:
            sentence += (
                ". Decide in a terminal: `ctp-runbook resume|rollback --run "
                f"{self._run.path}`, or in another notebook: phases.steer('resume', reason='…')"
            )
        # A page that is not connected keeps what it showed last: let it say when that was.
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
        self._watch = watch_as_judged(history, judged, mono=now)
        self._picture = [watch_picture(history, judged, before=self._old, dpi=80)]
        self._drawn = judged.overall.name
        self._next_plot = time.monotonic() + _PLOT_SECONDS
