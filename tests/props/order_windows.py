"""Made-up half hours of orders, thousands at once, and both rules of a p99 over all of them.

Columns have the shape (seconds, windows). What is counted begins with the end of the warm-up: nothing
is known from before it. The product's test goes look by look; here it is done again for all windows at
a time, and held against the product on some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ctp_runbook.watch import sequential
from ctp_runbook.watch.sequential import ShareTest
from tests.props.decided_looks import decide

__all__ = [
    "BURST_SECONDS",
    "NEVER",
    "Orders",
    "bound_in_bursts",
    "bound_of_independent",
    "fire_plain",
    "fire_sequential",
    "product_fires",
    "wald_seconds",
]

BURST_SECONDS = 10
NEVER = 1 << 30
Counts = NDArray[np.int64]
Values = NDArray[np.float64]


class Orders(Struct, frozen=True):
    """``rate`` orders a second (Poisson), of which ``share`` are over the limit, from ``begins`` on: one
    by one where ``density`` is 0, else in bursts of 10 s, in which that share of the orders is slow and
    outside of which none is. Bursts begin by chance at any moment (Poisson), may overlap, and may be
    under way when the window begins."""

    rate: float
    share: float
    density: float = 0.0
    begins: int = 0

    @property
    def bursts_a_second(self) -> float:
        """How many bursts begin in a second, so that the share is as said."""
        return -math.log1p(-self.share / self.density) / BURST_SECONDS

    def windows(
        self, dice: np.random.Generator, *, seconds: int, windows: int
    ) -> tuple[Counts, Counts]:
        """Return how many orders come in each second of each window, and how many of them are slow."""
        events = dice.poisson(self.rate, (seconds, windows))
        share: Values | float = self.share
        if self.density:
            share = self.density * self._in_bursts(dice, seconds, windows)
        over = dice.binomial(events, share)
        over[: self.begins] = 0
        return events, over

    def _in_bursts(self, dice: np.random.Generator, seconds: int, windows: int) -> Values:
        """Return which part of each second is in a burst."""
        before = BURST_SECONDS + 1
        shape = (before + seconds, windows)
        begins = dice.poisson(self.bursts_a_second, shape) > 0
        at = dice.random(shape)
        part = np.where(begins, 1 - at, 0)
        part[BURST_SECONDS:] += np.where(begins, at, 0)[:-BURST_SECONDS]
        for later in range(1, BURST_SECONDS):
            part[later:] += begins[:-later]
        return np.minimum(part[before:], 1)


# --- the rules ----------------------------------------------------------------------


def fire_plain(
    events: Counts, over: Counts, *, for_seconds: int = 0, window: int = 60, min_events: int = 20
) -> Counts:
    """Return the second at which the plain rule fires in each window: the p99 of the last minute's
    orders is beyond the limit, for so long without a break."""
    came, slow = (np.cumsum(column, axis=0) for column in (events, over))
    came[window:], slow[window:] = came[window:] - came[:-window], slow[window:] - slow[:-window]
    beyond = (came >= min_events) & (100 * slow > came)
    if for_seconds:
        lasted = np.cumsum(beyond, axis=0, dtype=np.int64)
        lasted[for_seconds + 1 :] -= lasted[: -for_seconds - 1].copy()
        beyond = lasted == for_seconds + 1
    return _first(beyond)


def fire_sequential(test: ShareTest, events: Counts, over: Counts) -> Counts:
    """Return the second at which the sequential test rejects in each window."""
    wealths = _wealth_in_spans if test.span_seconds else _wealth_alone
    fired = np.full(events.shape[1], NEVER)
    enough = math.exp(test.threshold)
    for second, (wealth, repeated) in enumerate(wealths(test, events, over)):
        fired[(wealth >= enough) & (repeated > 1) & (fired == NEVER)] = second
    return fired


def _wealth_alone(test: ShareTest, events: Counts, over: Counts) -> Iterator[tuple[Values, Counts]]:
    parts = np.array(sequential._ODDS)[:, 1:]
    wealth = np.repeat(sequential._FROM_START * parts, events.shape[1], axis=1)
    gains = np.minimum(_order_gains(test.share, int(events.max())), 1e150)
    total = np.zeros(events.shape[1], np.int64)
    for second, (came, slow) in enumerate(zip(events, over, strict=True)):
        wealth += parts * sequential._handed_out(max(0, second - 1), second)
        wealth = np.minimum(wealth * gains[:, came, slow], 1e150)
        total += slow
        yield wealth.sum(axis=0), total


def _wealth_in_spans(
    test: ShareTest, events: Counts, over: Counts
) -> Iterator[tuple[Values, Counts]]:
    stakes, parts = np.hsplit(np.array(sequential._STAKES), 2)
    wealth = np.repeat(sequential._FROM_START * parts, events.shape[1], axis=1)
    bad = np.zeros(events.shape[1], np.int64)
    total, came, slow = bad.copy(), bad.copy(), bad.copy()
    length = int(test.span_seconds)

    def after(orders: Values) -> Values:
        excess = np.where(orders > 0, slow / np.maximum(orders, 1e-9) / test.share - 1, 0)
        more = sequential._handed_out(span * length, (span + 1) * length)
        grown: Values = np.minimum((wealth + parts * more) * np.sqrt(1 + stakes * excess), 1e150)
        return grown

    span = 0
    for second in range(len(events)):
        if max(0, second - 1) // length != span:
            wealth = after(came.astype(float))
            span += 1
            came, slow = np.zeros_like(came), np.zeros_like(slow)
        bad = bad + ((over[second] > 0) & (slow == 0))
        came, slow, total = came + events[second], slow + over[second], total + events[second]
        rest = total / second * ((span + 1) * length - second) if second else 0.0
        yield after(came + rest).sum(axis=0), bad


def _order_gains(share: float, most: int) -> Values:
    gains = np.ones((len(sequential._ODDS), most + 1, most + 1))
    for came in range(1, most + 1):
        for slow in range(came + 1):
            gains[:, came, slow] = sequential._order_gains(share, came, slow)
    return gains


def product_fires(test: ShareTest, events: Counts, over: Counts) -> Iterator[int]:
    """Yield the second at which the product's own test rejects, window by window."""
    for came, slow in zip(events.T.tolist(), over.T.tolist(), strict=True):
        row = decide(test, range(len(came)), came, slow).rejected_row
        yield NEVER if row is None else row


def _first(happens: NDArray[np.bool_]) -> Counts:
    return np.where(happens.any(axis=0), happens.argmax(axis=0), NEVER)


# --- what no test can do better -----------------------------------------------------


def bound_of_independent(
    orders: Orders, *, allowed: float, rate: float, seconds: int, dice: np.random.Generator
) -> float:
    """Return the largest share of windows in which any test finds the change within so many seconds,
    where ``rate`` is all its false alarms in that time (Neyman and Pearson), orders being independent."""
    events, over = orders.windows(dice, seconds=seconds, windows=200_000)
    came, slow = events.sum(axis=0), over.sum(axis=0)
    log = slow * math.log(orders.share / allowed)
    log = log + (came - slow) * (math.log1p(-orders.share) - math.log1p(-allowed))
    return _power(-log, rate)


def bound_in_bursts(
    orders: Orders, *, allowed: float, rate: float, seconds: int, dice: np.random.Generator
) -> float:
    """Return the same for tests that hold their rate while bursts of 10 s bring the allowed share.

    The claim is true of an engine in whose bursts as many orders are slow as after the change: the
    change looks like bursts that follow on each other. Whole seconds are in a burst or not.
    """
    events, over = orders.windows(dice, seconds=seconds, windows=100_000)
    begins = -math.expm1(math.log1p(-allowed / orders.share) / BURST_SECONDS)
    # How likely what was seen is by how many seconds the burst still lasts, over how likely it is after
    # the change; 0 is in no burst.
    by_left = np.zeros((BURST_SECONDS + 1, events.shape[1]))
    by_left[0] = 1 - allowed / orders.share
    lasts = [begins * (1 - begins) ** late for late in range(BURST_SECONDS)]
    by_left[1:] = np.array(lasts[::-1])[:, None]
    log = np.zeros(events.shape[1])
    for second in range(seconds):
        if second:
            total = by_left.sum(axis=0)
            moved = np.zeros_like(by_left)
            moved[:-1] = by_left[1:] * (1 - begins)
            moved[0] += by_left[0] * (1 - begins)
            moved[-1] = total * begins
            by_left = moved
        quiet = (1 - orders.share) ** -events[second].astype(float)
        by_left[0] *= np.where(over[second] > 0, 0, quiet)
        scale = by_left.sum(axis=0)
        by_left /= scale
        log += np.log(scale)
    return _power(log, rate)


def _power(log: Values, rate: float) -> float:
    """Return how much of what happens after the change the best test of a rate rejects; ``log`` is how
    much likelier each window was before it."""
    ordered = np.sort(log)
    alarms = np.cumsum(np.exp(ordered)) / len(ordered)
    surely = int(np.searchsorted(alarms, rate))
    if surely == len(ordered):
        return 1.0
    # The last of them by a coin, so that the rate is used up.
    used = alarms[surely - 1] if surely else 0.0
    rest = (rate - used) / (alarms[surely] - used)
    return float((surely + rest) / len(ordered))


def wald_seconds(orders: Orders, *, allowed: float, rate: float) -> float:
    """Return the mean number of seconds that every test needs which finds each change in the end, of
    independent orders, with so many false alarms (Wald)."""
    q = orders.share
    known = q * math.log(q / allowed) + (1 - q) * (math.log1p(-q) - math.log1p(-allowed))
    return -math.log(rate) / known / orders.rate
