"""The shipped rules and the runbook's usual trigger over half an hour of made-up market."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import WatchRules, load_watch
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.verdicts import Firing
from tests.props.whole_window import judge_recorded, judge_window

ROOT = Path(__file__).parents[2]
RULES = load_watch(ROOT / "configs" / "rich_engine.watch.toml")
KEYS = tuple(RULES.metrics)
LATENCY = "order_latency_p99_ms"
# As it was judged before a test was named: by the quantile of the window.
PLAIN = replace(
    RULES, metrics={**RULES.metrics, LATENCY: replace(RULES.metrics[LATENCY], test="plain")}
)
USUAL = "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s"
STARTED, MINUTES = 5000.0, 30
URL = "http://127.0.0.1:18081/metrics"
BOUNDS = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, math.inf)
AGAIN = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, math.inf)
# Orders that a second brings (each took so many ms), reconnects (each took so many s).
Orders = Callable[[int], list[float]]


def window(orders: Orders, reconnects: Mapping[int, float] | None = None) -> list[Sample]:
    """A page a second, Kafka and ClickHouse every five, everything else as it should be."""
    latency, again = dict.fromkeys(BOUNDS, 0.0), dict.fromkeys(AGAIN, 0.0)
    taken: list[Sample] = []
    for second in range(MINUTES * 60 + 1):
        for bound in BOUNDS:
            latency[bound] += sum(took / 1000 <= bound for took in orders(second))
        if (lasted := (reconnects or {}).get(second)) is not None:
            for bound in AGAIN:
                again[bound] += lasted <= bound
        series = {
            **_buckets("quant_hft_order_latency_seconds", latency),
            **_buckets("quant_hft_ctp_reconnect_seconds", again),
            'quant_hft_breaker_state{scope="td"}': 0.0,
            "quant_hft_query_rate_violation_total": 0.0,
        }
        _take(taken, second, "engine", URL, series)
        if second % 5 == 0:
            lag = {'kafka_lag_ms{group="clickhouse-ingest"}': 80.0}
            _take(taken, second, "kafka", "kafka_lag_ms", lag)
            delay = {"clickhouse_ingest_delay_ms": 700.0}
            _take(taken, second, "clickhouse", "clickhouse_ingest_delay_ms", delay)
    return taken


def _buckets(name: str, counts: Mapping[float, float]) -> dict[str, float]:
    return {
        f'{name}_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}}': count
        for bound, count in counts.items()
    }


def _take(
    taken: list[Sample], at: float, source: str, target: str, series: Mapping[str, float]
) -> None:
    wall, mono = 1.77e9 + at, STARTED + at
    taken.append(Sample(len(taken), wall, mono, source, target, True, "", 2.0, dict(series)))


def judged(
    samples: list[Sample], room: Path, rules: WatchRules = RULES
) -> tuple[WindowJudgement, Firing | None]:
    """The window by the shipped rules: from the samples, and the same from their file."""
    units = {name: rule.unit for name, rule in RULES.metrics.items()}
    given = {
        "rules": rules,
        "keys": KEYS,
        "trigger": parse_trigger(USUAL, units=units, file="t", line=1),
        "started_mono": STARTED,
        "ends_mono": STARTED + MINUTES * 60,
    }
    path = room / "samples.jsonl"
    path.write_bytes(b"".join(sample.to_line() for sample in samples))
    found = judge_window(samples, **given)  # type: ignore[arg-type]
    assert judge_recorded(path, **given) == found  # type: ignore[arg-type]
    return found


def first_beyond(orders: Orders) -> int | None:
    """By another way: the first second past the warm-up at which of the orders of the last minute,
    20 at least, the p99 is beyond 5 ms, each bucket taken as evenly filled."""
    came = [sorted(orders(second)) for second in range(MINUTES * 60 + 1)]
    for second in range(60, len(came)):
        took = sorted(itertools.chain.from_iterable(came[second - 59 : second + 1]))
        if len(took) < 20:
            continue
        rank = 0.99 * len(took)
        upto = [bisect.bisect_right(took, bound * 1000) for bound in BOUNDS]
        at = next(number for number, count in enumerate(upto) if count >= rank)
        lower, below = (BOUNDS[at - 1], upto[at - 1]) if at else (0.0, 0)
        share = (rank - below) / (upto[at] - below)
        if 1000 * (lower + (BOUNDS[at] - lower) * share) > 5:
            return second
    return None


def climbing(seed: int, begins: int) -> Orders:
    """Two orders a second, about 2 ms each, and slower and slower from ``begins`` on."""

    def orders(second: int) -> list[float]:
        dice = random.Random(seed * 10_000 + second)
        slower = 1 + max(0, second - begins) / 200
        return [dice.lognormvariate(0.5, 0.25) * slower for _ in range(2)]

    return orders


@pytest.mark.parametrize(("seed", "begins"), [(1, 0), (2, 300), (3, 777), (4, 1200)])
def test_the_usual_trigger_fires_on_the_first_sample_beyond_5_ms(
    seed: int, begins: int, tmp_path: Path
) -> None:
    """By the plain rule a climbing latency fires on the very second that another way to reckon the
    p99 names; by the shipped one later, once it is proved."""
    orders = climbing(seed, begins)
    samples, due = window(orders), first_beyond(orders)
    assert due is not None
    _, proved = judged(samples, tmp_path)
    assert proved is not None
    assert due < proved.mono - STARTED < due + 240
    assert proved.metric == LATENCY
    _, firing = judged(samples, tmp_path, PLAIN)
    assert firing is not None
    assert (firing.metric, firing.mono) == ("order_latency_p99_ms", STARTED + due)
    assert samples[firing.sample_seq].mono == firing.mono
    assert samples[firing.sample_seq].source == "engine"
    assert firing.value > 5 == firing.limit


# A reconnect at this second took so many seconds; when the trigger fires.
RECONNECTS: dict[str, tuple[dict[int, float], int | None]] = {
    "10.1 s at 610": ({610: 10.1}, 610),
    "exactly 10 s": ({610: 10.0}, None),
    "quick ones, then a slow one": ({100: 1.0, 101: 4.0, 900: 25.0}, 900),
    "in the first second: the zero of its counter": ({0: 25.0}, None),
    "in the second second": ({1: 25.0}, 1),
}


@pytest.mark.parametrize(("reconnects", "due"), RECONNECTS.values(), ids=RECONNECTS)
def test_the_usual_trigger_fires_on_a_slow_reconnect(
    reconnects: dict[int, float], due: int | None, tmp_path: Path
) -> None:
    """On the scrape that shows it first, and not for one of 10 s sharp."""
    _, firing = judged(window(lambda _: [2.0, 2.1], reconnects), tmp_path)
    if due is None:
        assert firing is None
        return
    assert firing is not None
    assert (firing.metric, firing.mono) == ("reconnect_p99_s", STARTED + due)


def test_a_healthy_window_with_sparse_orders_passes(tmp_path: Path) -> None:
    """No reconnect, no violation, and orders that come in bursts with quiet minutes between."""
    bursts = window(lambda second: [1.5, 2.5, 3.5] if second % 300 < 20 else [])
    found, firing = judged(bursts, tmp_path)
    assert firing is None
    assert {one.verdict for one in found.metrics.values()} == {Verdict.PASSED}, found.sentence
    assert found.overall is Verdict.PASSED
    assert "fresh scrapes prove no event at all" in found.metrics["reconnect_p99_s"].sentence
    statuses = found.metrics["order_latency_p99_ms"].points.statuses
    assert statuses >= {"good", "few_events", "zero_events"}


def test_a_healthy_window_without_orders_proves_nothing(tmp_path: Path) -> None:
    """The same with no order at all is INCONCLUSIVE, and the sentence says why."""
    found, firing = judged(window(lambda _: []), tmp_path)
    assert firing is None
    assert found.overall is Verdict.INCONCLUSIVE
    assert found.sentence.startswith(
        "order_latency_p99_ms INCONCLUSIVE: 0 events in the window; min_events is 20: too few to judge"
    )
    others = {name: one.verdict for name, one in found.metrics.items() if name != KEYS[0]}
    assert set(others.values()) == {Verdict.PASSED}


def test_slow_orders_too_few_to_judge_fire_nothing(tmp_path: Path) -> None:
    """Nineteen orders of 50 ms within a minute are noise by the plain rule; the twentieth fires. The
    shipped one counts over the whole watch, and knows a burst of seven seconds for one."""
    few = window(lambda second: [50.0] if second % 60 < 19 and 100 <= second < 160 else [])
    assert judged(few, tmp_path, PLAIN)[1] is None
    slow = window(lambda second: [50.0] if 100 <= second < 120 else [])
    _, firing = judged(slow, tmp_path, PLAIN)
    assert firing is not None
    assert firing.mono == STARTED + 119
    burst = window(lambda second: [50.0] * 3 if 100 <= second < 107 else [2.0])
    assert judged(burst, tmp_path, PLAIN)[1] is not None
    assert judged(burst, tmp_path)[1] is None
