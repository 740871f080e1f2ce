"""The sequential test: the same looks in any portions, its rate, what it finds, and what it cannot."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.watch.sequential import (
    ShareState,
    ShareTest,
    alarm_rate,
    assumption,
    decide,
    proved_quantile,
    share_interval,
    upper_share,
)

P99 = ShareTest(0.01)
ALONE = ShareTest(0.01, span_seconds=0)
# Seconds since the look before, orders that came, and how many of them were slow.
Look = tuple[float, int, int]
LOOKS = st.lists(
    st.tuples(
        st.sampled_from((0.25, 1.0, 1.003, 5.0, 40.0)),
        st.integers(0, 30),
        st.sampled_from((0, 0, 0, 1, 2, 30)),
    ).map(lambda look: (look[0], look[1], min(look[1], look[2]))),
    max_size=60,
)


def columns(
    looks: Sequence[Look], began: float = 5000.0
) -> tuple[list[float], list[int], list[int]]:
    """Seconds, events and slow ones of each look."""
    seconds = [*itertools.accumulate((look[0] for look in looks), initial=began)][1:]
    return seconds, [look[1] for look in looks], [look[2] for look in looks]


def by_hand(test: ShareTest, looks: Sequence[Look]) -> Iterator[float]:
    """By another way and slowly: each bet of its own, from each look on, as it was handed out."""
    seconds = columns(looks)[0]
    bets = [multiple * test.share / (1 - test.share) for multiple in (2, 6, 18, 60, 600)]
    gains = [[*gains_by_hand(test, looks, odds / (1 + odds))] for odds in bets]
    shares = (0.1, 0.25, 0.25, 0.25, 0.15)

    def begun(at: float) -> float:
        """How much is bet at all by then."""
        return 1 - 0.5 * 900 / (900 + at - seconds[0])

    for last in range(len(looks)):
        wealth = 0.0
        for share, gain in zip(shares, gains, strict=True):
            wealth += share * 0.5 * math.prod(gain[: last + 1])
            for start in range(1, last + 1):
                own = begun(seconds[start]) - begun(seconds[start - 1])
                wealth += share * own * math.prod(gain[start : last + 1])
        yield math.log(wealth)


def gains_by_hand(test: ShareTest, looks: Sequence[Look], bet: float) -> Iterator[float]:
    """What a bet on a share multiplies by at each look: how likely it is if the bet is right, by how
    likely it is, at most, while the claim is true."""
    seconds, events, over = columns(looks)
    until = -math.inf
    for row, (came, slow) in enumerate(zip(events, over, strict=True)):
        if test.span_seconds == 0:
            right = bet**slow * (1 - bet) ** (came - slow)
            yield right / (test.share**slow * (1 - test.share) ** (came - slow))
            continue
        least = max(1, math.ceil(bet * came / 2))
        guess = 1 - (1 - bet) ** came if least == 1 else min(0.9, 1 - (1 - bet) ** (came / 2))
        allowed = test.share * came / least
        is_bad, skipped = slow >= least, seconds[max(0, row - 1)] < until - 1e-6
        if is_bad and not skipped:
            until = seconds[row] + test.span_seconds
        if skipped or guess <= allowed:
            yield 1.0
        else:
            yield guess / allowed if is_bad else (1 - guess) / (1 - allowed)


@given(looks=LOOKS, cuts=st.sets(st.integers(0, 60)), span=st.sampled_from((0.0, 2.0, 10.0)))
def test_looks_give_the_same_in_any_portions(
    looks: list[Look], cuts: set[int], span: float
) -> None:
    """One by one, all at once, or some at a time: the same evidence, rejection and state."""
    test = ShareTest(0.01, span_seconds=span)
    whole = decide(test, *columns(looks))
    state: ShareState | None = None
    evidence: list[float] = []
    rejected: list[int] = []
    for first, end in itertools.pairwise(
        sorted({0, *(cut for cut in cuts if cut < len(looks)), len(looks)})
    ):
        seconds, events, over = columns(looks)
        seconds, events, over = seconds[first:end], events[first:end], over[first:end]
        done = decide(test, seconds, events, over, state)
        assert decide(test, seconds, events, over, state) == done, "a state is never changed"
        state = done.state
        evidence += done.evidence
        rejected += [first + done.rejected_row] if done.rejected_row is not None else []
    assert (state, tuple(evidence)) == (whole.state, whole.evidence)
    assert rejected == ([] if whole.rejected_row is None else [whole.rejected_row])
    assert whole.rejected is bool(rejected)


@given(looks=LOOKS.filter(len), span=st.sampled_from((0.0, 2.0, 10.0)))
def test_the_evidence_is_that_of_every_bet_by_itself(looks: list[Look], span: float) -> None:
    """The one recursion is the sum of all bets from all starts."""
    test = ShareTest(0.01, span_seconds=span)
    assert decide(test, *columns(looks)).evidence == pytest.approx(
        [*by_hand(test, looks)], rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("share", [0.01, 0.001, 0.1])
@pytest.mark.parametrize("came", [1, 3])
@pytest.mark.parametrize("span", [0.0, 2.0])
def test_nobody_gets_richer_on_average_while_the_claim_is_true(
    share: float, came: int, span: float
) -> None:
    """Over all that six looks may show, each weighed by its chance: the wealth that is bet is 1 at
    most; exactly 1 for independent orders of which as many are slow as may be."""
    test = ShareTest(share, span_seconds=span)
    for true in (share, share / 2):
        chances = [
            math.comb(came, slow) * true**slow * (1 - true) ** (came - slow)
            for slow in range(came + 1)
        ]
        total = 0.0
        for over in itertools.product(range(came + 1), repeat=6):
            chance = math.prod(chances[slow] for slow in over)
            total += chance * math.exp(decide(test, range(6), [came] * 6, over).evidence[-1])
        handed_out = 1 - 0.5 * 900 / 905
        is_exact = true == share and (span == 0 or came == 1)
        assert total <= handed_out * (1 + 1e-9)
        assert (total == pytest.approx(handed_out, rel=1e-9)) is is_exact


def test_nobody_gets_richer_on_average_in_bursts_either() -> None:
    """Bursts of two looks, of all orders or of half of them, at a share of one in ten: over all the ways
    in which they may begin within twelve looks the wealth that is bet is 1 at most."""
    test = ShareTest(0.1, span_seconds=2)
    for came, burst in ((4, 4), (4, 2), (1, 1)):
        share_of_time = 0.1 * came / burst
        begins = 1 - math.sqrt(1 - share_of_time)
        total = 0.0
        for starts in itertools.product((0, 1), repeat=13):
            chance = math.prod(begins if start else 1 - begins for start in starts)
            over = [burst * max(pair) for pair in itertools.pairwise(starts)]
            total += chance * math.exp(decide(test, range(12), [came] * 12, over).evidence[-1])
        assert total <= 1 - 0.5 * 900 / 911


@pytest.mark.parametrize("test", [P99, ALONE, ShareTest(0.001), ShareTest(0.01, 0.2, 0)], ids=str)
def test_a_single_slow_order_proves_nothing(test: ShareTest) -> None:
    """Among 20 to 99, wherever among them it is, and whatever the rate that is asked for."""
    for orders in (20, 21, 50, 99):
        for slow in range(orders):
            over = [int(order == slow) for order in range(orders)]
            assert not decide(test, range(orders), [1] * orders, over).rejected


def test_a_burst_is_one_incident_and_the_next_another() -> None:
    """Ten seconds of slow orders count once, wherever in a look they begin; others count anew."""
    for begins in (200, 205):
        slow = {*range(begins, begins + 10), *range(400, 405)}
        over = [5 if second in slow else 0 for second in range(600)]
        done = decide(P99, range(600), [5] * 600, over)
        assert done.state is not None
        assert (done.state.incidents, done.state.over) == (2, 75)
        assert (done.state.spans, done.state.bad_spans) == (
            60,
            3 if begins % 10 == 1 else done.state.bad_spans,
        )
        assert not done.rejected


@pytest.mark.parametrize("begins", [0, 900])
@pytest.mark.parametrize("test", [P99, ALONE])
def test_a_real_change_is_found_soon_and_late_in_the_watch_too(
    test: ShareTest, begins: int
) -> None:
    """Three orders of ten slow, one or five a second: found within two minutes, and never before."""
    for rate, dice in itertools.product((1, 5), map(random.Random, range(20))):
        over = [
            sum(dice.random() < 0.3 for _ in range(rate)) if second >= begins else 0
            for second in range(1800)
        ]
        done = decide(test, range(1800), [rate] * 1800, over)
        assert done.rejected_row is not None
        assert begins <= done.rejected_row < begins + 120
        assert done.state is not None
        assert done.state.rejected_at == done.rejected_row


def test_nothing_overflows() -> None:
    """A day on which every order is slow, a million at a look, and a day on which none is."""
    for slow in (0, 1_000_000):
        for test in (P99, ALONE):
            rows = 8640
            done = decide(test, range(0, 86400, 10), [1_000_000] * rows, [slow] * rows)
            assert done.rejected is bool(slow)
            assert not any(map(math.isnan, done.evidence))


def test_no_look_no_orders_no_evidence() -> None:
    """Silence says nothing: nobody wins a bet, and nothing is rejected."""
    assert decide(P99, [], [], []).state is None
    done = decide(P99, range(1800), [0] * 1800, [0] * 1800)
    assert not done.rejected
    assert max(done.evidence) < 0
    assert done.state is not None
    assert (done.state.spans, done.state.events) == (0, 0)


def test_the_assumption_is_said() -> None:
    """A verdict's clause on bursts, by the test's own span."""
    assert assumption(P99) == (
        "a burst of slow orders counts once, and is taken to last 10 s at most"
    )
    assert assumption(ALONE) == "each order is taken as independent of the others"


# Bounds from Clopper and Pearson's definition, of tables: events, slow, upper at 95 %.
@pytest.mark.parametrize(
    ("events", "over", "upper"),
    [(30, 0, 0.0950), (299, 0, 0.00997), (100, 1, 0.0466), (10, 5, 0.7776), (7, 7, 1), (0, 0, 1)],
)
def test_the_upper_share_is_that_of_the_tables(events: int, over: int, upper: float) -> None:
    """The one-sided Clopper-Pearson bound."""
    assert upper_share(events, over) == pytest.approx(upper, abs=6e-5)


def test_the_interval_is_that_of_the_tables() -> None:
    """Two-sided, 10 of 100 and the two ends."""
    assert share_interval(100, 10) == pytest.approx((0.0490, 0.1762), abs=1e-4)
    assert share_interval(16, 0) == pytest.approx((0.0, 0.2059), abs=1e-4)
    assert share_interval(16, 16) == pytest.approx((0.7941, 1.0), abs=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)


def test_what_is_proved_needs_orders() -> None:
    """With 30 fast orders only p90, with 299 p99, with one less p98; with a handful not the median."""
    proved = {events: proved_quantile(events, 0) for events in (3, 30, 298, 299, 3000)}
    assert proved == {3: None, 30: 0.9, 298: 0.98, 299: 0.99, 3000: 0.999}
    assert proved_quantile(1000, 5) == 0.98


HALF_HOURS = 16


def series(beyond: dict[int, int], step: int = 1) -> tuple[list[float], list[float]]:
    """Eight hours of a value that is 20 for so many seconds from each second named, else 1."""
    seconds = [float(second) for second in range(0, HALF_HOURS * 1800 + 1, step)]
    high = [any(begins <= at < begins + long for begins, long in beyond.items()) for at in seconds]
    return seconds, [20.0 if is_high else 1.0 for is_high in high]


def test_the_windows_that_a_rule_would_have_failed_in_are_counted() -> None:
    """By how long it was beyond the limit; each window once, with its interval."""
    seconds, values = series({100: 5, 2000: 11, 2100: 30, 9000: 60})
    rates = {
        lasting: alarm_rate(seconds, values, limit=10, for_seconds=lasting)
        for lasting in (0.0, 10.0, 20.0, 60.0)
    }
    assert {lasting: rate.alarmed for lasting, rate in rates.items()} == {0: 3, 10: 2, 20: 2, 60: 0}
    assert rates[10.0].share == 2 / 16
    assert (rates[10.0].low, rates[10.0].high) == share_interval(16, 2)
    assert alarm_rate(seconds, values, limit=10, for_seconds=0, direction="min").alarmed == 16


def test_a_break_in_the_series_is_a_break() -> None:
    """No value, silence and the end of a window each begin the count anew."""
    seconds, values = series({100: 30})
    values[110] = math.nan
    values[121] = math.nan
    assert alarm_rate(seconds, values, limit=10, for_seconds=10).alarmed == 0
    seconds, values = series({100: 30}, step=5)
    assert alarm_rate(seconds, values, limit=10, for_seconds=10, fresh_seconds=4).alarmed == 0
    assert alarm_rate(seconds, values, limit=10, for_seconds=10, fresh_seconds=5).alarmed == 1
    seconds, values = series({1790: 20})
    assert alarm_rate(seconds, values, limit=10, for_seconds=12).alarmed == 0


def test_too_short_a_series_is_no_window() -> None:
    """Then nothing is known of the rate."""
    assert alarm_rate([], [], limit=1, for_seconds=0).share is None
    short = alarm_rate([0.0, 10.0], [5.0, 5.0], limit=1, for_seconds=0)
    assert (short.windows, short.alarmed, short.low, short.high) == (0, 0, 0.0, 1.0)
