"""Histograms as a metrics page has them: which series are one, what has no value, and quantiles. Pure.

Buckets are cumulative: each counts the events up to its bound, and ``+Inf`` counts them all. Above
the widest finite bound nothing is known of an event but that it was more than that.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from operator import add, le

from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import series_key

__all__ = [
    "Buckets",
    "Quantile",
    "SeriesKey",
    "added",
    "bucket_quantile",
    "bucket_series",
    "counts_fault",
    "first_fault",
    "label_sets",
    "scaled_bound",
    "worst_quantile",
]

# A series that counts: its labels as a page writes them, without ``le``, and the bound of its bucket.
SeriesKey = tuple[str, float]
# What float() takes beside these (``1_0``, ``nan``, Arabic digits) is no number in the format.
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_INFINITE = ("+inf", "inf", "+infinity", "infinity")


class Quantile(Struct, frozen=True):
    """A quantile; where ``is_over`` it lies above the widest finite bound, which ``value`` is.

    ``labels`` are those of the series it is of; blank where it is of all of them.
    """

    value: float
    is_over: bool
    labels: str = ""


class Buckets(Struct, frozen=True):
    """The series of a histogram, label set by label set and the narrowest bucket first, each with its
    place in the page; ``fault`` says why they have no value, "" for none."""

    keys: tuple[tuple[SeriesKey, int], ...] = ()
    fault: str = ""


def bucket_quantile(
    bounds: Sequence[float], counts: Sequence[float], *, quantile: float
) -> Quantile | None:
    """Return the quantile of cumulative counts, the narrowest bucket first; None for no events.

    Interpolated within its bucket, as Prometheus' histogram_quantile does. In the open bucket there
    is nothing to interpolate to: all that is known is that the value is more than its lower bound.
    """
    if not bounds or not counts[-1] > 0 or math.isinf(bounds[0]):
        return None
    rank = quantile * counts[-1]
    at = bisect_left(counts, rank)
    lower, below = (bounds[at - 1], counts[at - 1]) if at else (min(0.0, bounds[0]), 0.0)
    if math.isinf(bounds[at]):
        return Quantile(lower, is_over=True)
    inside = counts[at] - below
    share = (rank - below) / inside if inside else 1.0
    return Quantile(lower + (bounds[at] - lower) * share, is_over=False)


def worst_quantile(
    bounds: Sequence[float],
    sets: Mapping[str, Sequence[float]],
    *,
    quantile: float,
    min_events: int,
    direction: str = "max",
) -> Quantile | None:
    """Return the worst of the quantiles of all label sets together and of each that has
    ``min_events`` itself; None where all have fewer: a p99 of one event is none. Each has a count a
    bound.

    Together, a thousand fast orders of one instrument hide ten slow ones of another.
    """
    together, least = added(sets.values()), max(1, min_events)
    if not together or together[-1] < least:
        return None
    own = sets.items() if len(sets) > 1 else ()
    judged = [("", together), *((labels, counts) for labels, counts in own if counts[-1] >= least)]
    quantiles = [
        structs.replace(each, labels=labels) if labels else each
        for labels, counts in judged
        if (each := bucket_quantile(bounds, counts, quantile=quantile)) is not None
    ]
    is_max = direction == "max"
    # Of equals the first, which is of all; more than a value is beyond it, whichever side is bad.
    return max(
        quantiles,
        key=lambda each: (each.value if is_max else -each.value, each.is_over is is_max),
        default=None,
    )


def added(sets: Iterable[Sequence[float]]) -> Sequence[float]:
    """Return the counts of all label sets together, added one after the other."""
    total: Sequence[float] = ()
    for counts in sets:
        # Not by ``sum``, which adds floats otherwise from Python 3.12 on.
        total = [*map(add, total, counts)] if total else counts
    return total


def label_sets(counts: Mapping[SeriesKey, float]) -> dict[str, dict[float, float]]:
    """Return the bucket counts of each label set."""
    sets: dict[str, dict[float, float]] = {}
    for (labels, bound), count in counts.items():
        sets.setdefault(labels, {})[bound] = count
    return sets


def scaled_bound(rule: MetricRule, bound: float) -> float:
    """Return a bucket's bound in the rule's unit. By decimals: 0.0049 s must not fall short of 4.9 ms."""
    return float(Decimal(repr(bound)) * Decimal(repr(rule.scale)))


def first_fault(bounds: Sequence[float], counts: Sequence[float]) -> str:
    """Return why the counts of a label set, one after the other here, are none of a histogram's; ""
    where those of each are."""
    for at in range(0, len(counts), len(bounds) or 1):
        own = counts[at : at + len(bounds)]
        if not (own[0] >= 0 and all(map(le, own, own[1:]))):
            return counts_fault(bounds, own)
    return ""


def counts_fault(bounds: Sequence[float], counts: Sequence[float]) -> str:
    """Return why these counts are none of a histogram's, "" where they are: none is below the count
    of a narrower bucket, which it holds as well. No numbers: a page broken all day has one reason."""
    below = 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if not count >= below:
            than = "a narrower one" if below else "none"
            return f"bucket {_name(bound)} counts fewer events than {than}"
        below = count
    return ""


def bucket_series(series: Iterable[tuple[int, Mapping[str, str]]]) -> Buckets:
    """Return the series of one histogram, each given with its place in the page and its labels.

    Series that differ in other labels than ``le`` are added up. That is right only where each has
    the same buckets: else what is between two bounds of one is in no bucket of the other.
    """
    sets: dict[str, dict[float, int]] = {}
    for place, labels in series:
        text = labels.get("le", "")
        if (bound := _bound(text)) is None:
            return Buckets(fault=f'le="{text[:40]}" is no bound of a bucket')
        others = series_key("", {key: value for key, value in labels.items() if key != "le"})
        own = sets.setdefault(others, {})
        if bound in own:
            return Buckets(fault=f"bucket {_name(bound)} is there twice")
        own[bound] = place
    if fault := next(filter(None, map(_bounds_fault, sets.values())), ""):
        return Buckets(fault=fault)
    if any(own.keys() != other.keys() for own, other in pairwise(sets.values())):
        return Buckets(fault="its series have different buckets, which cannot be added up")
    keys = [((who, bound), place) for who, own in sets.items() for bound, place in own.items()]
    return Buckets(tuple(sorted(keys)))


def _bounds_fault(bounds: Collection[float]) -> str:
    if math.inf not in bounds:
        return "there is no bucket +Inf, which counts all events"
    return "" if len(bounds) > 1 else "there is no bucket but +Inf"


def _bound(text: str) -> float | None:
    """Return the bound of a bucket; None for what is none."""
    if text.lower() in _INFINITE:
        return math.inf
    bound = float(text) if _NUMBER.fullmatch(text) else math.inf
    return bound if math.isfinite(bound) else None


def _name(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else f"{bound:g}"
