"""The time axis of a watch's figure, and the stretches of time that have a name on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ctp_runbook.model import State
from ctp_runbook.record.history import History
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.measure import Point

__all__ = ["Clock", "Span", "clock_of", "runner_started", "spans_of"]

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
        """Where a moment of the monotonic clock stands on the axis."""
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
    assert history.watch_started is not None
    zero = history.watch_started.mono_ns / 1e9
    planned = float(history.watch_started.payload["minutes"]) * 60
    last = [one.points[-1].mono for one in judged.metrics.values() if len(one.points)]
    watched = max(last, default=zero) - zero
    ended = history.watch_ended
    stopped = ended is not None and ended.payload.get("stopped_early")
    length = max(watched * 1.1, 5.0) if stopped else max(planned, watched)
    lead = zero - runner_started(history)
    first = zero - lead * 1.1 if 0 < lead <= 0.15 * length else zero - 0.01 * length
    unit, per_unit = ("s", 1.0) if length <= 240 else ("min", 60.0)
    stopped = _old_stopped(history)
    known = [p.mono for points in (before or {}).values() for p in points if p.value is not None]
    if stopped is None or not known:
        return Clock(zero, first, zero + length, unit, per_unit)
    first = max(min(known), stopped - _BEFORE_SHARE * length) - 0.01 * length
    return Clock(zero, first, zero + length, unit, per_unit, stopped, before or {})


def _old_stopped(history: History) -> float | None:
    """When the first step of the switch began; None when it never did."""
    for record in history.records:
        if record.kind == "step_started" and record.payload["phase"] == "switch":
            return record.mono_ns / 1e9
    return None


def runner_started(history: History) -> float:
    """When the new runner's start step ended; infinitely late when it never did."""
    for record in history.records:
        if record.kind == "step_ended" and record.payload["step"] == "start_new_strategy_runner":
            return record.mono_ns / 1e9
    return math.inf


def spans_of(history: History, clock: Clock) -> Iterator[Span]:
    """Holds and gaps, as the journal has them."""
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
    for record in history.records:
        if record.kind == "watch_gap":
            length = (
                datetime.fromisoformat(record.payload["to_utc"])
                - datetime.fromisoformat(record.payload["from_utc"])
            ).total_seconds()
            last = record.mono_ns / 1e9
            yield Span("gap", last - length, last)
        elif record.kind == "watch_disturbed" and record.payload["what"] == "paused":
            yield Span("gap", record.payload["from_mono"], record.payload["to_mono"])
