"""False alarms and seconds of detection of a p99: the sequential test, and the plain rule beside it.

Ten thousand made-up half hours a cell, the same for every rule. Of each bar that a test of detection has
to reach the table says what no test whatever can do better. ``--quick`` is 50 half hours a cell, to see
that it runs. Ends with 1 where a rate of false alarms is over its bar, or a bound does not hold.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from ctp_runbook.watch.sequential import ShareTest, assumption, share_interval
from tests.benchmarks.bars import exit_code, judged
from tests.props.order_windows import (
    NEVER,
    Counts,
    Orders,
    bound_in_bursts,
    bound_of_independent,
    fire_plain,
    fire_sequential,
    product_fires,
    wald_seconds,
)

__all__ = ["main"]

WINDOWS = 50 if sys.argv[1:2] == ["--quick"] else 10_000
# So many at a time are held in memory; of the first of them so many are judged by the product as well.
AT_ONCE, BY_PRODUCT = 1000, 20
HALF_HOUR, ALLOWED, RATE = 1800, 0.01, 0.01
SPANS, ALONE = ShareTest(ALLOWED, RATE, 10), ShareTest(ALLOWED, RATE, 0)
RULES: dict[str, Callable[[Counts, Counts], Counts]] = {
    "spans": lambda events, over: fire_sequential(SPANS, events, over),
    "orders": lambda events, over: fire_sequential(ALONE, events, over),
    "plain": fire_plain,
    "plain 10 s": lambda events, over: fire_plain(events, over, for_seconds=10),
}
CLUSTERED = {0.0: "one by one", 0.5: "bursts, half slow", 1.0: "bursts, all slow"}
# Orders a second, share over the limit, how they cluster, and within how many seconds 99 of 100 are to
# be found.
FOUND = (
    (1.0, 0.1, 0.0, 60),
    (10.0, 0.1, 0.0, 5),
    (1.0, 0.3, 0.0, 15),
    (0.1, 0.3, 0.0, None),
    (1.0, 0.05, 0.0, None),
    (10.0, 0.3, 0.0, None),
    (10.0, 1.0, 0.0, None),
    (1.0, 0.1, 0.5, None),
    (10.0, 0.1, 0.5, None),
)
_SEED = 12
_problems: list[str] = []


def main() -> None:
    """Print the tables; say at the end what is over its bar."""
    _head()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        _false_alarms(pool)
        _engine_of_the_issue()
        _single_slow_order()
        _by_the_clock()
        _detection(pool)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in usage)
    print(f"\n{cpu:.0f} s of CPU ({judged(cpu, 600, 's')})")
    for problem in _problems:
        print(f"OVER: {problem}")
    sys.exit(bool(_problems) or exit_code())


def _head() -> None:
    print(
        f"p99 <= L, which is: at most {ALLOWED:.0%} of the orders over L. {WINDOWS} half hours a cell, a look\n"
        "a second, orders at random (Poisson). Four rules on the same half hours:\n"
        f"  spans       sequential, false_alarm_rate {RATE:g}, burst_seconds 10 (as shipped)\n"
        f"              {assumption(SPANS)}\n"
        f"  orders      sequential, false_alarm_rate {RATE:g}, burst_seconds 0\n"
        f"              {assumption(ALONE)}\n"
        "  plain       p99 of the last 60 s, min_events 20: the trigger order_latency_p99_ms_gt_5ms\n"
        "  plain 10 s  the same for 10 s without a break: FAILED by the shipped for_seconds\n"
        "Bursts last 10 s and begin at any moment, independently of one another (Poisson; they may overlap\n"
        "and be under way at the start); in one half or all of the orders are slow, outside of them none,\n"
        "and so many bursts come that the share over the limit is as stated. Counting begins after the\n"
        "warm-up with nothing known from before it; the plain rule's minute fills up from there as well."
    )


def _fired(
    orders: Orders, *, seconds: int, windows: int, rules: tuple[str, ...]
) -> dict[str, Counts]:
    """Return when each rule fires in each window; the product has to agree on the first of them."""
    dice = np.random.default_rng([_SEED, *(int(1000 * value) for value in _numbers(orders))])
    fired: dict[str, list[Counts]] = {name: [] for name in rules}
    for first in range(0, windows, AT_ONCE):
        events, over = orders.windows(dice, seconds=seconds, windows=min(AT_ONCE, windows - first))
        for name in rules:
            fired[name].append(RULES[name](events, over))
        for name, test in (("spans", SPANS), ("orders", ALONE)):
            few = slice(0, BY_PRODUCT if first == 0 else 1)
            assert [*product_fires(test, events[:, few], over[:, few])] == fired[name][-1][
                few
            ].tolist()
    return {name: np.concatenate(parts) for name, parts in fired.items()}


def _numbers(orders: Orders) -> Iterator[float]:
    yield from (orders.rate, orders.share, orders.density, orders.begins)


# --- what must not happen -----------------------------------------------------------


def _false_alarms(pool: Executor) -> None:
    print(
        "\nFALSE ALARMS, % of half hours, with 95 % Clopper-Pearson intervals. Bar: spans <= 1 % in every cell\n"
        "orders/s   over  slow orders come    spans                   orders                  plain    plain 10 s"
    )
    cells = [
        Orders(rate, share, density)
        for rate in (0.1, 0.2, 1.0, 10.0)
        for share in (0.001, 0.01)
        for density in CLUSTERED
    ]
    for orders, alarms in zip(cells, pool.map(_alarms, cells), strict=True):
        row = f"{orders.rate:8g}  {orders.share:5.1%}  {CLUSTERED[orders.density]:18}"
        if alarms["spans"] > RATE * WINDOWS:
            _problems.append(f"false alarms at {row.strip()}")
        told = [_with_interval(alarms[name], WINDOWS) for name in ("spans", "orders")]
        plain = [f"{alarms[name] / WINDOWS:8.2%}" for name in ("plain", "plain 10 s")]
        print(row, *(f"{text:24}" for text in told), *plain, flush=True)


def _alarms(orders: Orders) -> dict[str, int]:
    fired = _fired(orders, seconds=HALF_HOUR, windows=WINDOWS, rules=(*RULES,))
    return {name: int((at < NEVER).sum()) for name, at in fired.items()}


def _with_interval(alarms: int, windows: int) -> str:
    low, high = share_interval(windows, alarms)
    return f"{100 * alarms / windows:5.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _engine_of_the_issue() -> None:
    print(
        "\nAN ENGINE TEN TIMES BETTER THAN ITS LIMIT (0.1 % over): watches rolled back. Bar: <= 2 of 180\n"
        "orders/s  watches      spans   orders    plain  plain 10 s"
    )
    for rate, watches in ((1.0, 180), (2.0, 40), (5.0, 40)):
        orders = Orders(rate, 0.001)
        fired = _fired(orders, seconds=HALF_HOUR, windows=watches, rules=(*RULES,))
        alarms = [int((at < NEVER).sum()) for at in fired.values()]
        if alarms[0] > watches // 90:
            _problems.append(f"{alarms[0]} of {watches} watches at {rate:g} orders/s")
        print(
            f"{rate:8g}  {watches:7}  {alarms[0]:9}  {alarms[1]:7}  {alarms[2]:7}  {alarms[3]:10}"
        )


def _single_slow_order() -> None:
    """Every place of it among 20 to 99 orders, at one order a second."""
    counts = dict.fromkeys(RULES, 0)
    places = 0
    for came in range(20, 100):
        events = np.ones((came, came), int)
        places += came
        for name, rule in RULES.items():
            counts[name] += int((rule(events, np.eye(came, dtype=int)) < NEVER).sum())
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(
        f"\nONE SLOW ORDER AMONG 20 TO 99, each place of it ({places} watches): alarms: {said}. Bar: none"
    )
    if counts["spans"] or counts["orders"]:
        _problems.append("a single slow order")


def _by_the_clock() -> None:
    """One slow order at even distances, as what a timer or a scrape costs."""
    windows = min(WINDOWS, 200)
    print(
        f"\nONE SLOW ORDER BY THE CLOCK, alarms in {windows} half hours, %. Bar: none\n"
        "   every       over 0.9 %:     spans  orders    over 0.5 %:     spans  orders    over 0.2 %:     spans  orders"
    )
    for every in (5, 11, 12, 15, 20, 30, 60):
        row = f"{every:6} s"
        for share in (0.009, 0.005, 0.002):
            events = Orders(1 / share / every, share).windows(
                np.random.default_rng(_SEED), seconds=HALF_HOUR, windows=windows
            )[0]
            over = np.zeros_like(events)
            over[::every] = np.minimum(events[::every], 1)
            fired = [RULES[name](events, over) < NEVER for name in ("spans", "orders")]
            row += f"{'':16}{fired[0].mean():9.1%} {fired[1].mean():7.1%}"
        print(row, flush=True)


# --- what must be found -------------------------------------------------------------


def _detection(pool: Executor) -> None:
    print(
        "\nDETECTION of slow orders that come one by one (in the last rows in bursts, half slow), from the first\n"
        "look on or from the 900th second.\n"
        "In time: % found by the bar. Median and p99: seconds, of all watches. Best possible: % that any test\n"
        "can find by then whose false alarms are 1 % (Neyman-Pearson; of a change at any of 1800 seconds, on\n"
        "average, with its part of them, bar / 1800 s): of tests that take orders for independent, and of those\n"
        "that hold 1 % while bursts of 10 s bring the allowed share as well. Wald: mean seconds, at least.\n"
        "orders/s  over  slow orders come    begins   bar    rule         in time   median     p99   best: orders  bursts   Wald"
    )
    cells = [
        (Orders(rate, share, density, begins), bar)
        for rate, share, density, bar in FOUND
        for begins in (0, 900)
    ]
    for (orders, bar), (fired, bounds) in zip(cells, pool.map(_found, cells), strict=True):
        for name, at in fired.items():
            _told(orders, bar, name, at, bounds)
    print(
        "\nA bar of detection that is not met is out of reach where its best possible is below 99 %: no test with\n"
        "1 % of false alarms reaches it. That test knows the share, the bursts' shape and the one moment it is\n"
        "asked at. What `spans` stays behind it is the price of holding 1 % at every look, for every share, and\n"
        "however the orders of a span, and of two that follow each other, depend on one another.\n"
        "What bursts make impossible: ten seconds in which a tenth of the orders\n"
        "are slow are, at 1 % over all, what every hundred seconds bring in bursts; nothing that lasts no longer\n"
        "than a burst can be told from one. A test that is to find it in 5 s must take orders for independent\n"
        "(burst_seconds = 0), and then alarms as the column `orders` shows where they are not. The plain rule is\n"
        "quick for alarming at whatever comes: see its false alarms. What must never happen even once is for `cap`."
    )


def _found(cell: tuple[Orders, int | None]) -> tuple[dict[str, Counts], tuple[float, float] | None]:
    orders, bar = cell
    rules = ("spans", "orders", "plain")
    fired = _fired(orders, seconds=orders.begins + 900, windows=WINDOWS, rules=rules)
    return fired, _bounds(orders, bar)


def _bounds(orders: Orders, bar: int | None) -> tuple[float, float] | None:
    if bar is None:
        return None
    dice = np.random.default_rng(_SEED)
    rate = RATE * (bar / HALF_HOUR if orders.begins else 1)
    after = Orders(orders.rate, orders.share)
    return (
        bound_of_independent(after, allowed=ALLOWED, rate=rate, seconds=bar, dice=dice),
        bound_in_bursts(after, allowed=ALLOWED, rate=rate, seconds=bar, dice=dice),
    )


def _told(
    orders: Orders, bar: int | None, name: str, at: Counts, bounds: tuple[float, float] | None
) -> None:
    # A look at the end of a second shows what came in it.
    took = np.where((at >= orders.begins) & (at < NEVER), at - orders.begins + 1, NEVER)
    row = f"{orders.rate:8g}  {orders.share:4.0%}  {CLUSTERED[orders.density]:17}  {orders.begins:6}  {f'{bar} s' if bar else '':>5}   {name:10}"
    median, last = (_seconds(np.sort(took)[math.ceil(q * len(took)) - 1]) for q in (0.5, 0.99))
    in_time, best = " " * 7, ""
    if bar and bounds:
        share = float((took <= bar).mean())
        in_time = f"{share:7.1%}"
        own = {"orders": bounds[0], "spans": min(bounds)}.get(name)
        if own is not None:
            best = f"{bounds[0]:12.1%}  {bounds[1]:6.1%}"
            missed = (
                "met" if share >= 0.99 else "not met, out of reach" if own < 0.99 else "NOT MET"
            )
            best += f"  {wald_seconds(orders, allowed=ALLOWED, rate=RATE):5.1f}   {missed}"
            if share > own + 3 * math.sqrt(own * (1 - own) / len(took)) + 0.005:
                _problems.append(f"more is found than can be: {row}")
    print(f"{row}  {in_time}  {median:>7} {last:>7}   {best}".rstrip(), flush=True)


def _seconds(took: float) -> str:
    return "never" if took >= NEVER else f"{took:.0f}"


if __name__ == "__main__":
    main()
