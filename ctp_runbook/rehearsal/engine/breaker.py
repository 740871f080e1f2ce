"""A circuit breaker: too many failures open it, time half-opens it, one success closes it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum

__all__ = ["Breaker", "BreakerState"]


class BreakerState(IntEnum):
    """The value of ``quant_hft_breaker_state``."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after ``threshold`` failures within ``window_seconds``.

    Open, it lets nothing through for ``cooldown_seconds``; then one trial at a time
    (half-open), whose success closes it and whose failure opens it again.
    """

    def __init__(
        self,
        scope: str,
        *,
        threshold: int = 5,
        window_seconds: float = 5.0,
        cooldown_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scope = scope
        self._threshold, self._window = threshold, window_seconds
        self._cooldown, self._clock = cooldown_seconds, clock
        self._failures: deque[float] = deque()
        self._opened_at: float | None = None
        self._on_trial = False

    @property
    def state(self) -> BreakerState:
        """Open turns half-open by itself when the cool-down is over."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        cooled = self._clock() - self._opened_at >= self._cooldown
        return BreakerState.HALF_OPEN if cooled else BreakerState.OPEN

    def allows(self) -> bool:
        """Whether to go ahead; half-open says yes once, until that trial's result is in."""
        if self.state == BreakerState.HALF_OPEN and not self._on_trial:
            self._on_trial = True
            return True
        return self.state == BreakerState.CLOSED

    def succeeded(self) -> None:
        """Closes a half-open breaker; an open one is not closed by a late answer."""
        if self.state == BreakerState.HALF_OPEN:
            self.close()

    def close(self) -> None:
        """Close it whatever it was: for a scope where one success settles the matter."""
        self._opened_at, self._on_trial = None, False
        self._failures.clear()

    def failed(self) -> None:
        """Counts towards the threshold; opens a half-open breaker again."""
        now = self._clock()
        self._failures.append(now)
        while self._failures[0] < now - self._window:
            self._failures.popleft()
        if self.state == BreakerState.HALF_OPEN or len(self._failures) >= self._threshold:
            self._opened_at, self._on_trial = now, False
