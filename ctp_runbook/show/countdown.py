"""What runs out, and when: the time a hold leaves for a decision, the budget of a rollback. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ctp_runbook.model import State
from ctp_runbook.record.history import History

__all__ = ["Countdown", "countdown"]


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
