"""The sequential test: the same looks in any portions, its rate, what it finds, and what it cannot."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
import ville
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.watch.sequential import (
    ShareState,
    ShareTest,
    assumption,
    proved_quantile,
    share_interval,
    upper_share,
)
from tests.props.decided_looks import decide

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
    """By another way and slowly: each bet of its own, from each moment on at which some is handed out."""
    gains = gains_alone if test.span_seconds == 0 else gains_in_spans
    for last in range(len(looks)):
        wealth = 0.0
        for part, steps in gains(test, looks[: last + 1]):
            for start, (handed_out, _) in enumerate(steps):
                wealth += part * handed_out * math.prod(gain for _, gain in steps[start:])
        yield math.log(wealth)


def handed_out(since: float, until: float) -> float:
    """Half of the wealth at once, of the rest half within fifteen minutes."""
    return 0.5 * (900 / (900 + since) - 900 / (900 + until)) + (0.5 if since == 0 else 0)


# What is handed out before, and what it is multiplied by.
Step = tuple[float, float]


def gains_alone(test: ShareTest, looks: Sequence[Look]) -> Iterator[tuple[float, list[Step]]]:
    """Of each bet on a share its part, and by how much a look is likelier if the bet is right."""
    seconds, events, over = columns(looks)
    for multiple, part in ((2, 0.1), (6, 0.25), (18, 0.25), (60, 0.25), (600, 0.15)):
        bet = multiple * test.share / (1 - test.share + multiple * test.share)
        steps = [(0.5, 1.0)]
        for row, (came, slow) in enumerate(zip(events, over, strict=True)):
            since, until = seconds[max(0, row - 1)] - seconds[0], seconds[row] - seconds[0]
            right = bet**slow * (1 - bet) ** (came - slow)
            gain = right / (test.share**slow * (1 - test.share) ** (came - slow))
            steps.append((0.5 * (900 / (900 + since) - 900 / (900 + until)), gain))
        yield part, steps


def gains_in_spans(test: ShareTest, looks: Sequence[Look]) -> Iterator[tuple[float, list[Step]]]:
    """Of each stake its part, and the root of what each span multiplies by; the last span is filled up
    with as many orders as came in the watch so far."""
    seconds, events, over = columns(looks)
    spans: dict[int, list[int]] = {}
    for row, (came, slow) in enumerate(zip(events, over, strict=True)):
        begins = seconds[max(0, row - 1)] - seconds[0]
        counts = spans.setdefault(int((begins + 1e-6) // test.span_seconds), [0, 0])
        counts[0] += came
        counts[1] += slow
    took, last = seconds[-1] - seconds[0], max(spans)
    left = max(0.0, (last + 1) * test.span_seconds - took)
    more = sum(events) / took * left if took else 0.0
    for stake, part in ((0.15, 0.2), (0.5, 0.4), (0.9, 0.4)):
        steps = []
        for span, (came, slow) in spans.items():
            orders = came + (more if span == last else 0)
            gain = 1 - stake + stake * slow / orders / test.share if orders else 1.0
            since = span * test.span_seconds
            steps.append((handed_out(since, since + test.span_seconds), math.sqrt(gain)))
        yield part, steps


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
        bet = 1 - 0.5 * 900 / 905 if span == 0 else 1 - 0.5 * 900 / 906
        assert total <= bet * (1 + 1e-9)
        assert (total == pytest.approx(bet, rel=1e-9)) is (true == share and span == 0)


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


@given(over=st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_kept_library_gets_as_rich(over: list[bool]) -> None:
    """The e-process of ville for one share, with all its prior at the share that is bet on, is the bet
    of independent orders."""
    sure = 1e9
    bets = [odds * 0.01 / (0.99 + odds * 0.01) for odds in (2, 6, 18, 60, 600)]
    known = [
        ville.BernoulliTest(0.01, prior=(bet * sure, (1 - bet) * sure)).fit(np.array(over, float))
        for bet in bets
    ]
    shares = (0.1, 0.25, 0.25, 0.25, 0.15)
    total = sum(
        0.5 * share * np.exp(own.log_e_values_) for share, own in zip(shares, known, strict=True)
    )
    # In one moment nothing more is handed out.
    alone = decide(ALONE, [0.0] * len(over), [1] * len(over), [*map(int, over)]).evidence
    assert alone == pytest.approx(np.log(total).tolist(), abs=1e-4)


@pytest.mark.parametrize("test", [P99, ALONE, ShareTest(0.001), ShareTest(0.01, 0.2, 0)], ids=str)
def test_a_single_slow_order_proves_nothing(test: ShareTest) -> None:
    """Among 20 to 99, wherever among them it is, and whatever the rate that is asked for."""
    for orders in (20, 21, 50, 99):
        for slow in range(orders):
            over = [int(order == slow) for order in range(orders)]
            assert not decide(test, range(orders), [1] * orders, over).rejected


@pytest.mark.parametrize("begins", [0, 200, 205, 1000])
def test_a_burst_is_no_proof_and_some_of_them_are(begins: int) -> None:
    """Ten seconds in which all orders are slow, wherever they begin; every minute of them is too many."""
    slow = {*range(begins, begins + 10)}
    done = decide(P99, range(1800), [5] * 1800, [5 * (second in slow) for second in range(1800)])
    assert not done.rejected
    assert done.state is not None
    assert (done.state.over, done.state.spans) == (50, 180)
    assert done.state.bad_spans in (1, 2)
    again = [5 * (second % 60 < 10 and second >= begins) for second in range(1800)]
    assert decide(P99, range(1800), [5] * 1800, again).rejected


@pytest.mark.parametrize("every", [5, 7, 10, 11, 12, 15, 20, 30, 60])
@pytest.mark.parametrize("phase", [0, 3])
def test_slow_orders_by_the_clock_within_the_limit_prove_nothing(every: int, phase: int) -> None:
    """A page that is scraped each 15 s may cost an order each time: nine in a thousand are allowed."""
    came = math.ceil(1 / 0.009 / every)
    over = [int(second % every == phase) for second in range(1800)]
    for test in (P99, ALONE):
        assert not decide(test, range(1800), [came] * 1800, over).rejected


@pytest.mark.parametrize("begins", [0, 900])
@pytest.mark.parametrize("test", [P99, ALONE])
def test_a_real_change_is_found_soon_and_late_in_the_watch_too(
    test: ShareTest, begins: int
) -> None:
    """Three orders of ten slow, one or five a second: found within 150 s, and never before."""
    for rate, dice in itertools.product((1, 5), map(random.Random, range(20))):
        over = [
            sum(dice.random() < 0.3 for _ in range(rate)) if second >= begins else 0
            for second in range(1800)
        ]
        done = decide(test, range(1800), [rate] * 1800, over)
        assert done.rejected_row is not None
        assert begins <= done.rejected_row < begins + 150
        assert done.state is not None
        assert done.state.rejected_at == done.rejected_row


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("came", [1, 10, 10_000])
def test_every_quantile_is_failed_by_an_engine_that_is_always_slow(share: float, came: int) -> None:
    """From the median to p999, at whatever rate: within ten minutes where bursts count once."""
    for test in (ShareTest(share), ShareTest(share, span_seconds=0)):
        done = decide(test, range(600), [came] * 600, [came] * 600)
        assert done.rejected


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
    assert assumption(P99) == ("slow orders may come in bursts of 10 s at most")
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


@given(events=st.integers(1, 60), part=st.floats(0, 1))
def test_the_bound_is_where_the_chance_is_as_said(events: int, part: float) -> None:
    """Added up term by term in whole numbers: at the bound five of a hundred see no more."""
    over = min(events - 1, int(part * events))
    share = Fraction(upper_share(events, over))
    chance = sum(
        math.comb(events, count) * share**count * (1 - share) ** (events - count)
        for count in range(over + 1)
    )
    assert float(chance) == pytest.approx(0.05, rel=1e-9)


def test_a_bound_of_a_day_of_orders_takes_no_time() -> None:
    """Of a million orders, few or most of them slow, it is close to what was seen."""
    for over in (0, 10_000, 500_000, 999_999):
        low, high = share_interval(1_000_000, over)
        assert low <= over / 1_000_000 <= high <= low + 0.0021


def test_what_is_proved_needs_orders() -> None:
    """With 30 fast orders only p90, with 299 p99, with one less p98; with a handful not the median."""
    proved = {events: proved_quantile(events, 0) for events in (3, 30, 298, 299, 3000)}
    assert proved == {3: None, 30: 0.9, 298: 0.98, 299: 0.99, 3000: 0.999}
    assert proved_quantile(1000, 5) == 0.98
