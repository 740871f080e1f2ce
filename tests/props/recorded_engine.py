"""A recording of an engine at a known rate of slow orders, second by second, without a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.calibrate import Yardstick

__all__ = [
    "BOUNDS_SECONDS",
    "FAMILY",
    "engine_samples",
    "lag_rule",
    "latency_rule",
    "write",
    "yardstick",
]

FAMILY = "quant_hft_order_latency_seconds"
BOUNDS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1)
_WALL = 1.7e9


def engine_samples(
    seconds: int,
    *,
    seed: int,
    orders_per_second: float = 5.0,
    slow_per_second: float = 0.0,
    slow_ms: float = 7.0,
    lags_ms: bool = False,
) -> Iterator[Sample]:
    """Yield a page a second of an engine whose orders take less than 4 ms but for slow ones, which come
    independently of each other; with ``lags_ms`` a lag each 5 s as well, of 60 ms on average."""
    draw = np.random.default_rng(seed)
    counts = np.zeros(len(BOUNDS_SECONDS) + 1)
    seq = 0
    for at in range(seconds + 1):
        fast = draw.uniform(0.0005, 0.004, draw.poisson(orders_per_second))
        slow = np.full(draw.poisson(slow_per_second), slow_ms / 1000)
        took = np.concatenate([fast, slow])
        counts += [np.count_nonzero(took <= bound) for bound in (*BOUNDS_SECONDS, np.inf)]
        yield _sample(seq, at, "engine", "engine", _page(counts))
        seq += 1
        if lags_ms and at % 5 == 0:
            lag = float(draw.exponential(60))
            yield _sample(
                seq, at, "kafka", "kafka_lag_ms", {"kafka_lag_ms": lag, "kafka_lag_ms_events": 5.0}
            )
            seq += 1


def _page(counts: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    bounds = (*map(str, BOUNDS_SECONDS), "+Inf")
    return {
        f'{FAMILY}_bucket{{le="{bound}"}}': float(count)
        for bound, count in zip(bounds, counts, strict=True)
    }


def _sample(seq: int, at: int, source: str, target: str, series: dict[str, float]) -> Sample:
    return Sample(seq, _WALL + at, 100.0 + at, source, target, True, "", 1.0, series)


def write(path: Path, samples: Iterator[Sample]) -> Path:
    """Write a samples file."""
    path.write_bytes(b"".join(sample.to_line() for sample in samples))
    return path


def latency_rule(**changes: Any) -> MetricRule:
    """At most 5 ms, of the last 10 s: one slow order among 50 is a p99 beyond it at once."""
    facts: dict[str, Any] = {
        "name": "order_latency_p99_ms",
        "label": "Order latency p99",
        "unit": "ms",
        "kind": "latency_quantile",
        "source": "engine",
        "query": FAMILY,
        "scale": 1000.0,
        "limit": 5.0,
        "direction": "max",
        "window_seconds": 10.0,
        "min_events": 20,
        "min_coverage": 0.5,
        **changes,
    }
    return MetricRule(**facts)


def lag_rule(**changes: Any) -> MetricRule:
    """At most a second, a look each 5 s."""
    facts: dict[str, Any] = {
        "name": "kafka_lag_ms",
        "label": "Kafka lag",
        "unit": "ms",
        "kind": "lag",
        "source": "kafka",
        "query": "topic",
        "limit": 1000.0,
        "direction": "max",
        "interval_seconds": 5.0,
        "fresh_seconds": 20.0,
        "min_coverage": 0.5,
        **changes,
    }
    return MetricRule(**facts)


def yardstick(*rules: MetricRule, trigger: str = "order_latency_p99_ms > 5 ms") -> Yardstick:
    """What a recording is held against."""
    named = {rule.name: rule for rule in rules}
    units = {name: rule.unit for name, rule in named.items()}
    parsed = (
        parse_trigger(trigger, units=units, file="test", line=0) if trigger else Trigger("", ())
    )
    return Yardstick(WatchRules(named, 120.0, 60.0, 120.0), tuple(named), parsed)
