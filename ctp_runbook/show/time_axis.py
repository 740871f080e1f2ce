"""The time axis of a watch's figure, and the stretches of time that have a name on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ctp_runbook.model import Generation, Phase, State
from ctp_runbook.plan.step_table import sender_of
from ctp_runbook.record import kinds
from ctp_runbook.record.history import History
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.points import Point

__all__ = ["Clock", "Span", "clock_of", "new_sender", "runner_started", "spans_of"]

_BEFORE_SHARE = 0.4  # of the watched length, for what the old engine showed


@dataclass(frozen=True)
class Clock:
    """Monotonic seconds of the run as the figure's x: seconds or minutes after the watch began.

    ``before`` are the old engine's points by metric, ``stopped`` when its generation was stopped.
    """

    zero: float
    first: float
    last: float
    unit: str
    per_unit: float
    stopped: float | None = None
    before: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)

    def at(self, mono: float) -> float:
        """Return where a moment of the monotonic clock stands on the axis."""
        return (mono - self.zero) / self.per_unit


@dataclass(frozen=True)
class Span:
    """A stretch of time with a name: a hold, a gap, the time before the watch."""

    name: str
    first: float
    last: float


def clock_of(
    history: History,
    judged: WindowJudgement,
    *,
    before: Mapping[str, tuple[Point, ...]] | None = None,
) -> Clock:
    """From the old engine's last values, else the new runner's start when that is near, to the end
    of what was watched."""
    assert history.watch_started is not None  # asked by the caller
    zero = history.watch_started.mono
    last = [metric.points[-1].mono for metric in judged.metrics.values() if len(metric.points)]
    watched = max(last, default=zero) - zero
    length = max(history.watch_started.payload.minutes * 60, watched)
    # Of a watch that was cut short nothing more will come, and room for it would say otherwise.
    if history.watch_ended is not None and history.watch_ended.payload.stopped_early:
        length = max(watched * 1.1, 5.0)
    # A start long before a short watch would leave most of the axis empty: it is not shown then.
    lead = zero - runner_started(history)
    first = zero - lead * 1.1 if 0 < lead <= 0.15 * length else zero - 0.01 * length
    unit, per_unit = ("s", 1.0) if length <= 240 else ("min", 60.0)
    stopped = _old_stopped(history)
    old = [p.mono for points in (before or {}).values() for p in points if p.value is not None]
    if stopped is None or not old:
        return Clock(zero, first, zero + length, unit, per_unit)
    first = max(min(old), stopped - _BEFORE_SHARE * length) - 0.01 * length
    return Clock(zero, first, zero + length, unit, per_unit, stopped, before or {})


def _old_stopped(history: History) -> float | None:
    """When the first step of the switch began; None when it never did."""
    started = history.of_kind(kinds.StepStarted)
    return next((step.mono for step in started if step.payload.phase is Phase.SWITCH), None)


def runner_started(history: History) -> float:
    """Return when the start step of the new runner ended, or of whoever sends the new generation's
    orders; infinitely late when it never did."""
    ended, start = history.of_kind(kinds.StepEnded), f"start_{new_sender(history)}"
    return next((step.mono for step in ended if step.payload.step == start), math.inf)


def new_sender(history: History) -> str:
    """Return the name of the member that sends the new generation's orders."""
    return sender_of(Generation.NEW, history.members)


def spans_of(history: History, clock: Clock) -> Iterator[Span]:
    """Yield holds and gaps, as the journal has them."""
    held: float | None = None
    for entry in history.transitions:
        moment = entry.mono_ns / 1e9
        if entry.state is State.HOLDING:
            held = moment
        elif held is not None:
            yield Span("hold", held, moment)
            held = None
    if held is not None:
        yield Span("hold", held, clock.last)
    for record in history.of_kind(kinds.WatchGap):
        gap = record.payload
        length = datetime.fromisoformat(gap.to_utc) - datetime.fromisoformat(gap.from_utc)
        yield Span("gap", record.mono - length.total_seconds(), record.mono)
    for pause in history.of_kind(kinds.WatchDisturbed):
        if pause.payload.what == "paused":
            yield Span("gap", pause.payload.from_mono, pause.payload.to_mono)
