"""Where a run stands at this moment: who trades, and its steps beside the time they usually take.

The terminal and the notebooks' panel show the same facts, each in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ctp_runbook.model import Generation, Phase, Role, State, StepKind, StepStatus
from ctp_runbook.plan.step_table import order_steps, step_spec
from ctp_runbook.record.history import History, StepHistory
from ctp_runbook.record.journal import Record
from ctp_runbook.record.kinds import (
    ProbeAnswered,
    StepEnded,
    StepNotDone,
    StepStarted,
    Triggered,
)
from ctp_runbook.show.blocks import symbol_of
from ctp_runbook.show.terminal import minutes

__all__ = ["PHASES", "StepNow", "Trading", "phase_steps", "steps_now", "who_trades"]

# The phase whose steps are under way in a state.
PHASES: Mapping[State, Phase] = {
    State.GATING: Phase.GATE,
    State.SWITCHING: Phase.SWITCH,
    State.ROLLING_BACK: Phase.ROLLBACK,
}


class StepNow(NamedTuple):
    """A step as a person reads it: its mark, and its times in words, blank where there are none."""

    mark: str
    name: str
    took: str
    usual: str
    most: str
    is_under_way: bool
    is_due: bool


class Trading(NamedTuple):
    """Who trades, in plain words; ``is_proved`` where a stack was proved to."""

    words: str
    is_proved: bool


def phase_steps(history: History, phase: Phase) -> list[str]:
    """The names of the plan's steps of a phase, in order."""
    return [step.name for step in history.plan.steps if step.phase is phase]


def steps_now(
    history: History, phase: Phase, usual_seconds: Mapping[str, float], *, mono: float
) -> list[StepNow]:
    """Each step of a phase at ``mono`` (seconds of the host's monotonic clock)."""
    names = phase_steps(history, phase)
    return [_step_now(history.step(name), usual_seconds.get(name), mono) for name in names]


def _step_now(step: StepHistory, usual: float | None, mono: float) -> StepNow:
    usually = "" if usual is None else f"usually {usual:.1f} s"
    if step.status is StepStatus.UNKNOWN:
        seconds = mono - step.started_mono_ns / 1e9
        most = max(0.0, (step.due_mono_ns - step.started_mono_ns) / 1e9)
        most_words = f"at most {most:.3g} s"
        return StepNow("…", step.name, f"{seconds:.1f} s", usually, most_words, True, False)
    if step.status is StepStatus.NOT_RUN and not step.started_utc:
        return StepNow(" ", step.name, "", usually, "", False, True)
    took = f"{step.duration_ms / 1000:.1f} s" if step.attempt else step.status.value
    return StepNow(symbol_of(step.status), step.name, took, usually, "", False, False)


def who_trades(history: History, *, mono: float) -> Trading:
    """Say in plain words who trades at ``mono`` by the journal of a run that is not over.

    ``The old stack trades``; ``Nothing trades since 2.1 s``, from the first stop on, as the downtime
    is counted; ``The new stack trades; 12:40 left to watch``, or ``closes only``, or ``is not proved to
    trade`` where its session says no more.
    """
    kinds = order_steps(history.members)
    trades = Generation.NEW if history.created.parent_run else Generation.OLD
    down: Record | None = None
    # Of what is being stopped or started nobody knows how far that is; nor where it failed.
    doubtful: set[Generation] = set()
    sessions: dict[str, ProbeAnswered] = {}
    for record in history.records:
        match record.payload:
            case StepStarted(step=step) if step in kinds:
                down = down or record
                doubtful.add(_generation(step))
            case StepEnded(step=step, status=status) | StepNotDone(step=step, status=status) if (
                step in kinds and status in _STANDS
            ):
                doubtful.discard(_generation(step))
                if kinds[step] is StepKind.START:
                    trades, down = _generation(step), None
            case Triggered(cause="member_died"):
                down = down or record
                doubtful.add(trades)
            case ProbeAnswered(question="session") as look:
                sessions[look.subject] = look
    if down is not None:
        nobody = "Nothing is proved to trade" if doubtful else "Nothing trades"
        return Trading(f"{nobody} since {_since(down, history, mono)}", is_proved=False)
    gap = _gap_in(sessions.get(f"{trades}_{Role.CORE_ENGINE}"))
    stands = (f"The {trades} stack {gap or 'trades'}", _what_is_left(history, mono))
    return Trading("; ".join(filter(None, stands)), is_proved=not gap)


def _gap_in(look: ProbeAnswered | None) -> str:
    """What the last look at a session leaves of trading; blank where it says that all is well."""
    if look is None:
        return ""
    if not look.ok:
        return "is not proved to trade"
    return "closes only" if look.closes_only else ""


# Skipped: in a rollback it runs, and is kept; of a stop, it was gone.
_STANDS = (StepStatus.OK, StepStatus.SKIPPED)


def _generation(step: str) -> Generation:
    acts_on = step_spec(step).acts_on
    assert acts_on is not None  # of a step that stops or starts who sends orders
    return acts_on[0]


def _since(record: Record, history: History, mono: float) -> str:
    if record.boot_id != history.records[-1].boot_id:
        return f"{datetime.fromisoformat(record.wall_utc):%H:%M:%S}Z"
    return f"{max(0.0, mono - record.mono):.1f} s"


def _what_is_left(history: History, mono: float) -> str:
    """What the state waits for, where the time for it runs out or a person decides."""
    if history.state is State.READY:
        return "the switch waits for a go" if history.go is None else ""
    if history.state is not State.WATCHING or history.watch_started is None:
        return ""
    ends = history.watch_started.mono + history.watch_started.payload.minutes * 60
    return f"{minutes(ends - mono)} left to watch"
