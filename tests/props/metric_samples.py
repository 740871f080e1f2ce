"""Rules and samples of one metric, in as few words as a table has room for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.sample_blocks import Block, chunks_of
from ctp_runbook.record.samples import Sample

__all__ = ["WALL", "blocks", "histogram", "rule", "sample", "states"]

WALL = 1.7e9


def rule(kind: str = "state", **changes: Any) -> MetricRule:
    """The metric ``m`` of the engine's family ``f``: at most 5 ms, for 2 s, fresh for 3 s."""
    facts: dict[str, Any] = {
        "name": "m",
        "label": "M",
        "unit": "ms",
        "kind": kind,
        "source": "engine",
        "query": "f",
        "limit": 5.0,
        "direction": "max",
        "for_seconds": 2.0,
        "window_seconds": 10.0,
        "fresh_seconds": 3.0,
        **changes,
    }
    return MetricRule(**facts)


def sample(mono: float, series: Mapping[str, float], *, error: str = "", seq: int = 0) -> Sample:
    """A sample of the engine's page, ok unless it has an error."""
    return Sample(seq, WALL + mono, mono, "engine", "", not error, error, 1.0, dict(series))


def states(values: Iterable[float | str | None], *, every: float = 1.0) -> list[Sample]:
    """A sample a value: a text is an error, None a page without the family."""
    taken = []
    for seq, value in enumerate(values):
        error = value if isinstance(value, str) else ""
        series = {} if value is None or isinstance(value, str) else {"f": value}
        taken.append(sample(seq * every, series, error=error, seq=seq))
    return taken


def histogram(counts: Mapping[float, float]) -> dict[str, float]:
    """Cumulative buckets ``{bound: count}`` as a page names them."""
    return {
        f'f_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}}': count
        for bound, count in counts.items()
    }


def blocks(samples: Iterable[Sample]) -> Iterator[Block]:
    """The samples in blocks."""
    for chunk in chunks_of(samples):
        yield from chunk.items
