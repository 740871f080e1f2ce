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
them. So incidents are counted: the first look with a slow order opens one, and what comes in the
``span_seconds`` after it, slow or not, is not counted at all. Orders that are slow one by one are so
counted rightly, and those of a burst as one of them, which is too few. The price is time: no more than
one incident is seen in a span.
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
_ALTERNATIVES = ((2.0, 0.1), (6.0, 0.3), (18.0, 0.3), (54.0, 0.3))
_FROM_START = 0.5
# Of what is left half is bet on a change within so many seconds.
_HALF_SECONDS = 900.0
# However rare it should be, one slow order is no proof.
_LEAST_INCIDENTS = 2
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
    """All that the next look needs, however long the watch: ``wealth`` by alternative, the first and
    the last look, and until when the last incident is open (seconds, monotonic).

    ``spans`` of ``span_seconds`` had orders in them, ``bad_spans`` slow ones, and ``span`` and
    ``bad_span`` are the last of each; ``rejected_at`` is the look of the first rejection.
    """

    wealth: tuple[float, ...]
    began: float
    seconds: float
    open_until: float = -math.inf
    events: int = 0
    over: int = 0
    incidents: int = 0
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
    rejected_row, threshold = None, test.threshold
    evidence: list[float] = []
    now = None if state is None else structs.replace(state)
    for row, (at, came, slow) in enumerate(zip(seconds, events, over, strict=True)):
        now = now or _new_state(float(at))
        _take(test, now, float(at), int(came), int(slow))
        evidence.append(_log(sum(now.wealth)))
        is_proof = evidence[-1] >= threshold and now.incidents >= _LEAST_INCIDENTS
        if is_proof and now.rejected_at is None:
            now.rejected_at, rejected_row = now.seconds, row
    return Decided(now, tuple(evidence), rejected_row)


def _new_state(at: float) -> ShareState:
    return ShareState(tuple(_FROM_START * part for _, part in _ALTERNATIVES), at, at)


def _take(test: ShareTest, state: ShareState, at: float, came: int, slow: int) -> None:
    before, state.seconds = state.seconds, at
    more = _handed_out(before - state.began, at - state.began)
    wealth = [own + more * part for own, (_, part) in zip(state.wealth, _ALTERNATIVES, strict=True)]
    # By its begin: the last look of an incident holds orders of a burst that ends within the span.
    if came and before >= state.open_until - _SLACK_SECONDS:
        state.incidents += slow if test.span_seconds == 0 else slow > 0
        if slow and test.span_seconds:
            state.open_until = at + test.span_seconds
        gains = _gains(test.share, came, slow, test.span_seconds > 0)
        wealth = [min(own * gain, _MOST) for own, gain in zip(wealth, gains, strict=True)]
    state.wealth = tuple(wealth)
    _count(test, state, before, came, slow)


def _count(test: ShareTest, state: ShareState, before: float, came: int, slow: int) -> None:
    state.events += came
    state.over += slow
    span = int((before - state.began) // test.span_seconds) if test.span_seconds else -1
    if came and span != state.span:
        state.spans, state.span = state.spans + 1, span
    if slow and span != state.bad_span:
        state.bad_spans, state.bad_span = state.bad_spans + 1, span


def _handed_out(since: float, until: float) -> float:
    """Return how much of the wealth is first bet between two moments, in seconds from the start; all
    of time together gets what was not bet at the start."""
    kept = _HALF_SECONDS / (_HALF_SECONDS + since) - _HALF_SECONDS / (_HALF_SECONDS + until)
    return (1 - _FROM_START) * kept


@lru_cache(maxsize=4096)
def _gains(share: float, came: int, slow: int, is_incident: bool) -> tuple[float, ...]:
    """Return what each bet multiplies by: how much likelier the look is at its share of slow orders
    than at the allowed one. As an incident a look is slow or not, whatever number it holds."""
    gains = []
    for odds, _ in _ALTERNATIVES:
        bet = odds * share / (1 - share + odds * share)
        fast = math.log1p(-bet) - math.log1p(-share)
        if slow and is_incident:
            gains.append(
                math.expm1(came * math.log1p(-bet)) / math.expm1(came * math.log1p(-share))
            )
        else:
            log = slow * (math.log(bet) - math.log(share)) + (came - slow) * fast
            gains.append(math.exp(min(log, _MOST_LOG)))
    return tuple(gains)


def _log(wealth: float) -> float:
    # Seven figures: no processor's last bit gets into a record.
    return float(f"{math.log(wealth):.7g}") if wealth > 0 else -math.inf


def assumption(test: ShareTest) -> str:
    """Say in a clause for a verdict what the stated rate of false alarms rests on."""
    if test.span_seconds == 0:
        return "each order is taken as independent of the others"
    span = f"{test.span_seconds:g} s"
    return f"slow orders within {span} are one incident; bursts are taken to last {span} at most"


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
