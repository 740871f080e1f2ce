"""Facts about engine/breaker.py: when it opens, what it lets through, and what closes it."""

from __future__ import annotations

from ctp_runbook.rehearsal.engine.breaker import Breaker, BreakerState


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now


def state_of(breaker: Breaker) -> BreakerState:
    """Its state, read anew (a type checker takes a property for a constant)."""
    return breaker.state


def opened(clock: Clock) -> Breaker:
    """A breaker that has just opened: three failures within five seconds."""
    breaker = Breaker("order", threshold=3, window_seconds=5, cooldown_seconds=2, clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_failures_within_the_window_open_it() -> None:
    """At the threshold, not before; open lets nothing through."""
    breaker = Breaker("order", threshold=3, clock=Clock())
    breaker.failed()
    breaker.failed()
    assert state_of(breaker) == BreakerState.CLOSED
    assert breaker.allows()
    breaker.failed()
    assert state_of(breaker) == BreakerState.OPEN
    assert not breaker.allows()


def test_failures_far_apart_do_not_open_it() -> None:
    """Only what lies within the window counts."""
    clock = Clock()
    breaker = Breaker("order", threshold=3, window_seconds=5, clock=clock)
    for clock.now in (0.0, 4.0, 8.0, 12.0):
        breaker.failed()
    assert state_of(breaker) == BreakerState.CLOSED


def test_half_open_lets_one_trial_through() -> None:
    """After the cool-down one, and no second before its result is in."""
    clock = Clock()
    breaker = opened(clock)
    clock.now = 2.0
    assert state_of(breaker) == BreakerState.HALF_OPEN
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_trial_decides() -> None:
    """Its failure opens the breaker for another cool-down, its success closes it."""
    clock = Clock()
    breaker = opened(clock)
    clock.now = 2.0
    assert breaker.allows()
    breaker.failed()
    assert state_of(breaker) == BreakerState.OPEN
    clock.now = 4.0
    assert breaker.allows()
    breaker.succeeded()
    assert state_of(breaker) == BreakerState.CLOSED


def test_a_late_answer_does_not_close_an_open_one() -> None:
    """An order sent before it opened may still be answered; that is no trial."""
    breaker = opened(Clock())
    breaker.succeeded()
    assert state_of(breaker) == BreakerState.OPEN
    breaker.close()
    assert state_of(breaker) == BreakerState.CLOSED
