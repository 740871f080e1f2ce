"""A test that may be read at every look: is more than the allowed share of orders over the limit? Pure.

``p99 <= L`` says that at most 1 % of the orders take longer than L. The evidence against it is a
wealth: what someone would own who began with 1 and bet, at fair odds, that more of them do. Whoever
is right about the 1 % lets nobody become 100 times as rich but in one watch of a hundred, however
often is looked and whenever is stopped (Ville's inequality): at ``1 / false_alarm_rate`` the claim is
rejected, and that rate is one of the whole watch.

Several bets are made side by side, for a little more than the allowed share and for much more.
``_FROM_START`` of the wealth is bet from the first look on; the rest is handed out over all later
time, for what only goes wrong later: the parts add up to 1 in a watch of any length.

Slow orders come in bursts, and a bet that takes them for independent loses its rate on the first of
them. So spans of time are bet on, as long as a burst may last. Of a span the share ``x`` of its orders
is slow, and however these depend on each other a bet of the part ``c`` multiplies by ``1 + c (x /
allowed - 1)``, which is 1 on average. A burst may lie in two spans that follow each other. Bets on
every second span know nothing of that; those on the even and those on the odd ones are each fair, and
what is told is their geometric mean: the square root of each factor, over all spans. It is beyond a
threshold only where one of the two is, so the threshold is twice as high. That is paid in time: what
lasts no longer than a burst is not told from one. What is bought beside: a root of a factor gains only
where more are slow than allowed, so no pattern in time, by chance or by the clock, rejects a claim
that holds of what was seen. Spans count alike, however many orders are in them, as minutes did before:
an engine that is slow whenever it is quiet is slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

__all__ = [
    "ShareState",
    "ShareTest",
    "assumption",
    "begin",
    "proved_quantile",
    "share_interval",
    "take_look",
    "upper_share",
]

# The bets of independent orders are on shares, by their odds as a multiple of the allowed ones; those on
# spans are of so much of the wealth. And how much goes to each.
_ODDS = ((2.0, 0.1), (6.0, 0.25), (18.0, 0.25), (60.0, 0.25), (600.0, 0.15))
_STAKES = ((0.15, 0.2), (0.5, 0.4), (0.9, 0.4))
_FROM_START = 0.5
# Of what is left half is bet on a change within so many seconds.
_HALF_SECONDS = 900.0
# Far beyond every threshold, and no overflow.
_MOST = 1e300
_MOST_LOG = 690.0
_SLACK_SECONDS = 1e-6


class ShareTest(Struct, frozen=True):
    """``share`` of the orders (0..1) may be over the limit: 0.01 of a p99. ``false_alarm_rate`` is of
    the whole watch. A burst of slow orders lasts ``span_seconds`` at most; 0 takes each order for
    independent of the others."""

    share: float
    false_alarm_rate: float = 0.01
    span_seconds: float = 10.0

    @property
    def threshold(self) -> float:
        """The evidence (natural logarithm) at which the claim is rejected."""
        return math.log(2 if self.span_seconds else 1) - math.log(self.false_alarm_rate)


class ShareState(Struct):
    """All that the next look needs, however long the watch: ``wealth`` by bet, before the span that is
    open; the first and the last look (seconds, monotonic); what came in all, and in the open ``span``.

    ``spans`` had orders in them, and ``bad_spans`` of these slow ones. ``rejected_at`` is the look of
    the first rejection, ``calm`` the evidence after the open span if nothing in it is slow.
    """

    wealth: tuple[float, ...]
    began: float
    seconds: float
    events: int = 0
    over: int = 0
    spans: int = 0
    bad_spans: int = 0
    span: int = 0
    span_events: int = 0
    span_over: int = 0
    rejected_at: float | None = None
    calm: float | None = None


def begin(test: ShareTest, at: float) -> ShareState:
    """Return the state before the first look."""
    bets = _STAKES if test.span_seconds else _ODDS
    return ShareState(tuple(_FROM_START * part for _, part in bets), began=at, seconds=at)


def take_look(test: ShareTest, state: ShareState, at: float, came: int, slow: int) -> float:
    """Take one look into ``state``, and return the evidence after it."""
    take = _take_in_span if test.span_seconds else _take_alone
    evidence = take(test, state, at, came, slow)
    # However rare it should be, one slow order is no proof, nor is one burst.
    repeated = state.bad_spans if test.span_seconds else state.over
    if repeated > 1 and state.rejected_at is None and evidence >= test.threshold:
        state.rejected_at = state.seconds
    return evidence


def _log(wealth: float) -> float:
    return math.log(wealth) if wealth > 0 else -math.inf


def _take_alone(test: ShareTest, state: ShareState, at: float, came: int, slow: int) -> float:
    """Take in a look at orders that are independent, and return the evidence after it."""
    more = _handed_out(state.seconds - state.began, at - state.began)
    wealth = [own + more * part for own, (_, part) in zip(state.wealth, _ODDS, strict=True)]
    if came:
        gains = _order_gains(test.share, came, slow)
        wealth = [min(own * gain, _MOST) for own, gain in zip(wealth, gains, strict=True)]
    state.wealth, state.seconds = tuple(wealth), at
    state.events += came
    state.over += slow
    return _log(sum(wealth))


def _take_in_span(test: ShareTest, state: ShareState, at: float, came: int, slow: int) -> float:
    """Take in a look, and return what the evidence will be when its span is over, if no more slow
    orders come in it, and others as many as in the watch so far."""
    # What came since the look before is of the span that it was in.
    span = int((state.seconds - state.began + _SLACK_SECONDS) // test.span_seconds)
    elapsed = at - state.began
    if span != state.span:
        state.wealth = tuple(_after_span(test, state, state.span_events))
        state.span, state.span_events, state.span_over, state.calm = span, 0, 0, None
    state.seconds = at
    state.events += came
    state.over += slow
    state.spans += came > 0 and not state.span_events
    state.bad_spans += slow > 0 and not state.span_over
    state.span_events += came
    state.span_over += slow
    left = max(0.0, (span + 1) * test.span_seconds - elapsed)
    events = state.span_events + (state.events / elapsed * left if elapsed > 0 else 0.0)
    if state.span_over or not events:
        return _log(sum(_after_span(test, state, events)))
    # Of a span without a slow order it does not matter how many orders are in it.
    if state.calm is None:
        state.calm = _log(sum(_after_span(test, state, events)))
    return state.calm


def _after_span(test: ShareTest, state: ShareState, events: float) -> Iterator[float]:
    """Yield the wealth of each bet after the open span, with so many orders in it."""
    begins = state.span * test.span_seconds
    more = _handed_out(begins, begins + test.span_seconds)
    excess = state.span_over / (events * test.share) - 1 if events else 0.0
    for own, (stake, part) in zip(state.wealth, _STAKES, strict=True):
        yield min((own + more * part) * math.sqrt(1 + stake * excess), _MOST)


def _handed_out(since: float, until: float) -> float:
    """Return how much of the wealth is first bet between two moments, in seconds from the start; all
    of time together gets what was not bet at the start."""
    kept = _HALF_SECONDS / (_HALF_SECONDS + since) - _HALF_SECONDS / (_HALF_SECONDS + until)
    return (1 - _FROM_START) * kept


@lru_cache(maxsize=4096)
def _order_gains(share: float, came: int, slow: int) -> tuple[float, ...]:
    """Return what each bet multiplies by: how much likelier the look is at its share than at the
    allowed one."""
    gains = []
    for odds, _ in _ODDS:
        bet = odds * share / (1 - share + odds * share)
        fast = math.log1p(-bet) - math.log1p(-share)
        log = slow * (math.log(bet) - math.log(share)) + (came - slow) * fast
        gains.append(math.exp(min(log, _MOST_LOG)))
    return tuple(gains)


def assumption(test: ShareTest) -> str:
    """Say in a clause for a verdict what the stated rate of false alarms rests on."""
    if test.span_seconds == 0:
        return "each order is taken as independent of the others"
    return f"slow orders may come in bursts of {test.span_seconds:g} s at most"


# --- what is proved the other way ---------------------------------------------------


def share_interval(events: int, over: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, ``over`` of ``events``, of independent events."""
    tail = (1 - confidence) / 2
    return _low(events, over, tail), _high(events, over, tail)


def upper_share(events: int, over: int, confidence: float = 0.95) -> float:
    """Return the share that is surely not exceeded where ``over`` of ``events`` were over the limit
    (one-sided Clopper-Pearson bound); 1 for no events.

    For one look, at the end: it is no bound at every look. Its events must be independent: orders
    where bursts are ruled out, else spans (``ShareState.spans``, ``bad_spans``).
    """
    return _high(events, over, 1 - confidence)


def proved_quantile(events: int, over: int, confidence: float = 0.95) -> float | None:
    """Return the highest of the usual quantiles that is surely within the limit, 0.9 for p90; None
    where not even the median is."""
    most = upper_share(events, over, confidence)
    usual = (0.999, 0.995, 0.99, 0.98, 0.95, 0.9, 0.75, 0.5)
    return next((quantile for quantile in usual if most <= 1 - quantile), None)


def _high(events: int, over: int, tail: float) -> float:
    """Return the share at which so few would be over the limit but by a chance of ``tail``."""
    if over >= events:
        return 1.0
    # At the share that was seen half of the chances lie on either side.
    low, high = over / events, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        is_likelier = 0 < middle < 1 and _chance_of_most(events, over, middle) > tail
        low, high = (middle, high) if is_likelier else (low, middle)
    return high


def _low(events: int, over: int, tail: float) -> float:
    return 1 - _high(events, events - over, tail) if over else 0.0


def _chance_of_most(events: int, over: int, share: float) -> float:
    """Return the chance of ``over`` or fewer of so many events, where more are to be expected."""
    ways = math.lgamma(events + 1) - math.lgamma(over + 1) - math.lgamma(events - over + 1)
    term = math.exp(ways + over * math.log(share) + (events - over) * math.log1p(-share))
    total, odds = term, share / (1 - share)
    for count in range(over, 0, -1):
        term *= count / ((events - count + 1) * odds)
        total += term
        # Fewer are less and less likely; of a million events most add nothing that counts.
        if term <= total * 1e-17:
            break
    return total
