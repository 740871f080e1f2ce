"""Rates of the sequential test over made-up half hours; tests/benchmarks/sequential.txt has many more."""

from __future__ import annotations

import numpy as np
import pytest

from ctp_runbook.watch.sequential import ShareTest
from tests.props.order_windows import (
    NEVER,
    Orders,
    bound_in_bursts,
    bound_of_independent,
    fire_plain,
    fire_sequential,
    product_fires,
    wald_seconds,
)

SHIPPED, ALONE = ShareTest(0.01), ShareTest(0.01, span_seconds=0)


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("rate", "share"), [(0.2, 0.01), (1.0, 0.001), (1.0, 0.01), (10.0, 0.01)])
def test_an_engine_within_its_limit_is_left_alone(
    rate: float, share: float, density: float
) -> None:
    """In 300 half hours no more than three alarms, in bursts or not; the product alarms in the same."""
    events, over = Orders(rate, share, density).windows(
        np.random.default_rng(1), seconds=1800, windows=300
    )
    assert over.sum() / events.sum() == pytest.approx(share, rel=0.3)
    for test in (SHIPPED, ALONE):
        fired = fire_sequential(test, events, over)
        assert [*product_fires(test, events[:, :6], over[:, :6])] == fired[:6].tolist()
        if test is SHIPPED or not density:
            assert (fired < NEVER).sum() <= 3


def test_whoever_takes_bursts_for_independent_orders_alarms() -> None:
    """So often, where the share is a tenth of the allowed one, that spans have to be judged."""
    events, over = Orders(10.0, 0.001, 0.5).windows(
        np.random.default_rng(2), seconds=1800, windows=300
    )
    assert (fire_sequential(ALONE, events, over) < NEVER).mean() > 0.2
    assert (fire_sequential(SHIPPED, events, over) < NEVER).sum() == 0


def test_an_engine_ten_times_better_than_its_limit_stays() -> None:
    """Of 180 half hours at an order a second the plain rule ends most, the shipped test none."""
    events, over = Orders(1.0, 0.001).windows(np.random.default_rng(3), seconds=1800, windows=180)
    assert (fire_plain(events, over) < NEVER).sum() > 120
    assert (fire_sequential(SHIPPED, events, over) < NEVER).sum() <= 2


@pytest.mark.parametrize(
    ("rate", "share", "seconds"), [(1.0, 0.3, 75), (10.0, 0.1, 80), (10.0, 1.0, 30)]
)
def test_a_change_is_found(rate: float, share: float, seconds: int) -> None:
    """In 95 of 100 half hours within the seconds of the table, and sooner where orders are independent."""
    events, over = Orders(rate, share).windows(np.random.default_rng(4), seconds=300, windows=300)
    shipped, alone = (fire_sequential(test, events, over) for test in (SHIPPED, ALONE))
    assert (shipped < seconds).mean() > 0.95
    assert np.median(alone) < np.median(shipped)


@pytest.mark.parametrize(
    ("rate", "share", "seconds"), [(1.0, 0.1, 60), (10.0, 0.1, 5), (1.0, 0.3, 15)]
)
def test_no_test_finds_more_than_can_be_found(rate: float, share: float, seconds: int) -> None:
    """The best possible test misses the asked 99 of 100, and one that bursts do not fool misses more."""
    dice, orders = np.random.default_rng(5), Orders(rate, share)
    alone = bound_of_independent(orders, allowed=0.01, rate=0.01, seconds=seconds, dice=dice)
    in_bursts = bound_in_bursts(orders, allowed=0.01, rate=0.01, seconds=seconds, dice=dice)
    assert in_bursts < alone < 0.97
    events, over = orders.windows(dice, seconds=seconds, windows=1000)
    assert (fire_sequential(ALONE, events, over) < NEVER).mean() < alone
    assert (fire_sequential(SHIPPED, events, over) < NEVER).mean() < in_bursts


def test_the_bounds_are_those_of_simple_cases() -> None:
    """What hardly differs is found as often as it is a false alarm; what differs fully, always."""
    dice = np.random.default_rng(6)
    same, sure = Orders(1.0, 0.010001), Orders(10.0, 0.9)
    bound = bound_of_independent(same, allowed=0.01, rate=0.05, seconds=60, dice=dice)
    assert bound == pytest.approx(0.05, abs=0.002)
    assert bound_of_independent(sure, allowed=0.01, rate=0.01, seconds=10, dice=dice) > 0.999
    assert wald_seconds(Orders(1.0, 0.1), allowed=0.01, rate=0.01) == pytest.approx(31.9, abs=0.1)
