"""A test that may be read at every look: is more than the allowed share of orders over the limit? Pure.

``p99 <= L`` says that at most 1 % of the orders take longer than L. The evidence against it is a
wealth: what someone would own who began with 1 and bet, at fair odds, that more of them do. Whoever
is right about the 1 % lets nobody become 100 times as rich but in one watch of a hundred, however
often is looked and whenever is stopped (Ville's inequality): at ``1 / false_alarm_rate`` the claim is
rejected, and that rate is one of the whole watch.

The bets are likelihood ratios, a few shares above the allowed one each with a part of the wealth.
``_FROM_START`` of it is bet from the first look on; the rest is handed out over all later seconds,
for what only goes wrong later: the parts add up to 1 in a watch of any length.

Slow orders come in bursts, and a bet that takes them for independent loses its rate on the first of
them. So looks are counted, not orders. For each share that is bet on a look is bad where half as many
of its orders are slow as that share would make, one at least. However slow orders cluster, no more
than ``allowed share x orders / that number`` of the looks can be bad while the claim is true (Markov's
inequality), and against that a bad look is held. It opens an incident: what comes in the
``span_seconds`` after it is not counted at all, for that bet. So a burst counts once; all that is
assumed is that bursts last no longer and come independently of one another. The price is time: a bet
sees no more than one incident in a span.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from msgspec import Struct, structs

__all__ = [
    "AlarmRate",
    "Decided",
    "ShareState",
    "ShareTest",
    "alarm_rate",
    "assumption",
    "decide",
    "proved_quantile",
    "share_interval",
    "upper_share",
]

# The shares that are bet on, by their odds as a multiple of those allowed; and with how much each.
_ODDS = (2.0, 6.0, 18.0, 60.0, 600.0)
_PARTS = (0.1, 0.25, 0.25, 0.25, 0.15)
_FROM_START = 0.5
# Of what is left half is bet on a change within so many seconds.
_HALF_SECONDS = 900.0
# More is bet on no look: what is sure to win would be lost by one good look among bad ones.
_SUREST = 0.9
# Far beyond every threshold, and no overflow.
_MOST = 1e300
_MOST_LOG = 690.0
_THIRTY_MINUTES = 1800.0
_SLACK_SECONDS = 1e-6


class ShareTest(Struct, frozen=True):
    """``share`` of the orders (0..1) may be over the limit: 0.01 of a p99. ``false_alarm_rate`` is of
    the whole watch. Slow orders within ``span_seconds`` are one incident; 0 takes each order for
    independent of the others."""

    share: float
    false_alarm_rate: float = 0.01
    span_seconds: float = 10.0

    @property
    def threshold(self) -> float:
        """The evidence (natural logarithm) at which the claim is rejected."""
        return -math.log(self.false_alarm_rate)


class ShareState(Struct):
    """All that the next look needs, however long the watch: ``wealth`` by bet, until when the incident
    is open that each does not look at, and the first and the last look (seconds, monotonic).

    ``incidents`` are slow orders further apart than a span, whatever the bets make of them. ``spans``
    of time had orders in them, ``bad_spans`` slow ones; ``span`` and ``bad_span`` are the last of each.
    ``rejected_at`` is the look of the first rejection.
    """

    wealth: tuple[float, ...]
    open_until: tuple[float, ...]
    began: float
    seconds: float
    events: int = 0
    over: int = 0
    incidents: int = 0
    incident_until: float = -math.inf
    spans: int = 0
    bad_spans: int = 0
    span: int = -1
    bad_span: int = -1
    rejected_at: float | None = None


class Decided(Struct, frozen=True):
    """``evidence`` after each look (natural logarithm of the wealth), the look that rejects the claim,
    as a place in the columns, and what the next look needs; None before the first."""

    state: ShareState | None
    evidence: tuple[float, ...]
    rejected_row: int | None

    @property
    def rejected(self) -> bool:
        """True once a look, of these or before, has rejected the claim."""
        return self.state is not None and self.state.rejected_at is not None


def decide(
    test: ShareTest,
    seconds: Iterable[float],
    events: Iterable[int],
    over: Iterable[int],
    state: ShareState | None = None,
) -> Decided:
    """Take looks in: when (seconds, monotonic), how many orders came since the look before, and how
    many of them were over the limit.

    Looks one by one, each with the state after the last, give what all of them at once give.
    """
    now = None if state is None else structs.replace(state)
    evidence: list[float] = []
    rejected_row, enough = None, test.threshold
    for row, (at, came, slow) in enumerate(zip(seconds, events, over, strict=True)):
        now = now or _new_state(float(at))
        _take(test, now, float(at), int(came), int(slow))
        wealth = sum(now.wealth)
        evidence.append(math.log(wealth) if wealth > 0 else -math.inf)
        # However rare it should be, one slow order is no proof.
        if evidence[-1] >= enough and now.incidents > 1 and now.rejected_at is None:
            now.rejected_at, rejected_row = now.seconds, row
    return Decided(now, tuple(evidence), rejected_row)


def _new_state(at: float) -> ShareState:
    wealth = tuple(_FROM_START * part for part in _PARTS)
    return ShareState(wealth, (-math.inf,) * len(_PARTS), began=at, seconds=at)


def _take(test: ShareTest, state: ShareState, at: float, came: int, slow: int) -> None:
    # What came in the last second of an incident may still be of the burst that opened it: a look is
    # out of it by its begin, not by its end.
    begins, state.seconds = state.seconds, at
    more = _handed_out(begins - state.began, at - state.began)
    wealth = [own + more * part for own, part in zip(state.wealth, _PARTS, strict=True)]
    if came:
        state.events += came
        state.over += slow
        if test.span_seconds:
            _count_spans(test, state, begins, came, slow)
            gains = _gains_of_look(test, state, begins, came, slow)
        else:
            state.incidents += slow
            gains = _order_gains(test.share, came, slow)
        wealth = [min(own * gain, _MOST) for own, gain in zip(wealth, gains, strict=True)]
    state.wealth = tuple(wealth)


def _gains_of_look(
    test: ShareTest, state: ShareState, begins: float, came: int, slow: int
) -> Iterable[float]:
    leasts, if_good, if_bad = _look_gains(test.share, came)
    closed = begins + _SLACK_SECONDS
    if not slow and max(state.open_until) <= closed:
        return if_good
    gains, open_until = [], []
    for until, least, good, bad in zip(state.open_until, leasts, if_good, if_bad, strict=True):
        is_open, is_bad = until > closed, slow >= least
        gains.append(1.0 if is_open else bad if is_bad else good)
        open_until.append(until if is_open or not is_bad else state.seconds + test.span_seconds)
    state.open_until = tuple(open_until)
    return gains


def _count_spans(test: ShareTest, state: ShareState, begins: float, came: int, slow: int) -> None:
    if slow and state.incident_until <= begins + _SLACK_SECONDS:
        state.incidents += 1
        state.incident_until = state.seconds + test.span_seconds
    span = int((begins - state.began) // test.span_seconds)
    if came and span != state.span:
        state.spans, state.span = state.spans + 1, span
    if slow and span != state.bad_span:
        state.bad_spans, state.bad_span = state.bad_spans + 1, span


def _handed_out(since: float, until: float) -> float:
    """Return how much of the wealth is first bet between two moments, in seconds from the start; all
    of time together gets what was not bet at the start."""
    kept = _HALF_SECONDS / (_HALF_SECONDS + since) - _HALF_SECONDS / (_HALF_SECONDS + until)
    return (1 - _FROM_START) * kept


# What each bet makes of a look: from how many slow orders on it is bad, and what the bet multiplies by
# where it is good, and where it is bad.
_Gains = tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]


@lru_cache(maxsize=4096)
def _look_gains(share: float, came: int) -> _Gains:
    gains = [_look_gain(share, _share_bet_on(share, odds), came) for odds in _ODDS]
    leasts, if_good, if_bad = zip(*gains, strict=True)
    return leasts, if_good, if_bad


def _look_gain(share: float, bet: float, came: int) -> tuple[int, float, float]:
    least = max(1, math.ceil(bet * came / 2))
    allowed = share * came / least
    # Any guess is fair; this is what it would be for orders that are slow one by one, or near it.
    guess = -math.expm1(came / min(least, 2) * math.log1p(-bet))
    guess = guess if least == 1 else min(guess, _SUREST)
    if guess <= allowed:
        return least, 1.0, 1.0
    return least, (1 - guess) / (1 - allowed), guess / allowed


@lru_cache(maxsize=4096)
def _order_gains(share: float, came: int, slow: int) -> tuple[float, ...]:
    """Return what each bet multiplies by where orders are independent of one another."""
    gains = []
    for odds in _ODDS:
        bet = _share_bet_on(share, odds)
        fast = math.log1p(-bet) - math.log1p(-share)
        log = slow * (math.log(bet) - math.log(share)) + (came - slow) * fast
        gains.append(math.exp(min(log, _MOST_LOG)))
    return tuple(gains)


def _share_bet_on(share: float, odds: float) -> float:
    return odds * share / (1 - share + odds * share)


def assumption(test: ShareTest) -> str:
    """Say in a clause for a verdict what the stated rate of false alarms rests on."""
    if test.span_seconds == 0:
        return "each order is taken as independent of the others"
    span = f"{test.span_seconds:g} s"
    return f"a burst of slow orders counts once, and is taken to last {span} at most"


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
    return 1.0 if over >= events else _root(lambda p: _most(events, over, p) - tail)


def _low(events: int, over: int, tail: float) -> float:
    return 1 - _high(events, events - over, tail) if over else 0.0


def _root(falling: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def _most(events: int, over: int, share: float) -> float:
    """Return the chance of ``over`` or fewer of so many events (binomial)."""
    if not 0 < share < 1:
        return float(share <= 0)
    all_ways = math.lgamma(events + 1)
    logs = [
        all_ways
        - math.lgamma(k + 1)
        - math.lgamma(events - k + 1)
        + k * math.log(share)
        + (events - k) * math.log1p(-share)
        for k in range(over + 1)
    ]
    return math.fsum(map(math.exp, logs))


# --- what a ``for_seconds`` buys ----------------------------------------------------


class AlarmRate(Struct, frozen=True):
    """In ``alarmed`` of ``windows`` a value stayed beyond the limit; ``low`` to ``high`` is where the
    share of such windows lies (95 %, Clopper-Pearson)."""

    windows: int
    alarmed: int
    low: float
    high: float

    @property
    def share(self) -> float | None:
        """The share of windows with an alarm; None for no window."""
        return self.alarmed / self.windows if self.windows else None


def alarm_rate(
    seconds: Iterable[float],
    values: Iterable[float],
    *,
    limit: float,
    for_seconds: float,
    direction: str = "max",
    fresh_seconds: float = math.inf,
    window_seconds: float = _THIRTY_MINUTES,
) -> AlarmRate:
    """Return in how many windows of a recorded series a rule would have failed: its value was beyond
    ``limit`` for ``for_seconds`` without a break.

    ``seconds`` are the monotonic times of the values, in order. Windows follow one another from the
    first value on; one that the series does not fill is left out. NaN, which is no value, and silence
    longer than ``fresh_seconds`` are a break.
    """
    points = [*zip(map(float, seconds), map(float, values), strict=True)]
    if not points:
        return AlarmRate(0, 0, 0.0, 1.0)
    began, ended = points[0][0], points[-1][0]
    windows = int((ended - began + _SLACK_SECONDS) // window_seconds)
    alarms = _alarms(points, limit, for_seconds, direction, fresh_seconds, window_seconds)
    alarmed = len({window for window in alarms if window < windows})
    return AlarmRate(windows, alarmed, *share_interval(windows, alarmed))


def _alarms(
    points: Iterable[tuple[float, float]],
    limit: float,
    for_seconds: float,
    direction: str,
    fresh_seconds: float,
    window_seconds: float,
) -> Iterator[int]:
    """Yield the window of each point at which the rule fails. A window begins anew, as a watch does."""
    began = last = since = None
    window = -1
    for at, value in points:
        began = at if began is None else began
        own = int((at - began) // window_seconds)
        is_beyond = value > limit if direction == "max" else value < limit
        goes_on = last is not None and own == window and at - last <= fresh_seconds + _SLACK_SECONDS
        since = (since if goes_on and since is not None else at) if is_beyond else None
        if since is not None and at - since >= for_seconds - _SLACK_SECONDS:
            yield own
        last, window = at, own
