"""Histograms as a metrics page has them: which series are one, what has no value, and quantiles. Pure.

Buckets are cumulative: each counts the events up to its bound, and ``+Inf`` counts them all. Above
the widest finite bound nothing is known of an event but that it was more than that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.samples import series_key

__all__ = [
    "Buckets",
    "Grouping",
    "Quantile",
    "SeriesKey",
    "bucket_keys",
    "bucket_quantile",
    "counts_fault",
    "first_fault",
    "group_buckets",
    "label_sets",
    "merged",
    "scaled_bound",
    "summed",
    "worst_quantile",
]

# Bucket bounds (or a number for each other series), each with the places of its series in a page.
Grouping = tuple[tuple[float, tuple[int, ...]], ...]
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
    """A histogram's series by bucket bound; ``fault`` says why they have no value, "" for none."""

    groups: Grouping = ()
    fault: str = ""


def bucket_quantile(buckets: Mapping[float, float], *, quantile: float) -> Quantile | None:
    """Return the quantile of cumulative bucket counts ``{upper bound: count}``; None for no events.

    Interpolated within its bucket, as Prometheus' histogram_quantile does. In the open bucket there
    is nothing to interpolate to: all that is known is that the value is more than its lower bound.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total > 0 or math.isinf(bounds[0]):
        return None
    rank = quantile * total
    lower, below = min(0.0, bounds[0]), 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                break
            inside = buckets[bound] - below
            share = (rank - below) / inside if inside else 1.0
            return Quantile(lower + (bound - lower) * share, is_over=False)
        lower, below = bound, buckets[bound]
    return Quantile(lower, is_over=True)


def worst_quantile(
    counts: Mapping[SeriesKey, float], *, quantile: float, min_events: int, direction: str = "max"
) -> Quantile | None:
    """Return the worst of the quantiles of all series together and of each label set that has
    ``min_events`` itself; None where all have fewer: a p99 of one event is none.

    Together, a thousand fast orders of one instrument hide ten slow ones of another.
    """
    sets, least = label_sets(counts), max(1, min_events)
    together = merged(sets.values())
    if not together or together[max(together)] < least:
        return None
    own = sets.items() if len(sets) > 1 else ()
    judged = [("", together), *((name, own) for name, own in own if own[max(own)] >= least)]
    quantiles = [
        structs.replace(found, labels=name)
        for name, buckets in judged
        if (found := bucket_quantile(buckets, quantile=quantile)) is not None
    ]
    is_max = direction == "max"
    # Of equals the first, which is of all; more than a value is beyond it, whichever side is bad.
    return max(
        quantiles,
        key=lambda found: (found.value if is_max else -found.value, found.is_over is is_max),
        default=None,
    )


def bucket_keys(series: Iterable[tuple[int, Mapping[str, str]]]) -> list[tuple[SeriesKey, int]]:
    """Return the key of each series of a histogram that ``group_buckets`` finds no fault with, and
    its place in the page; label set by label set, the narrowest bucket first."""
    keys = []
    for place, labels in series:
        others = {key: value for key, value in labels.items() if key != "le"}
        bound = _bound(labels["le"])
        assert bound is not None  # that would be a fault
        keys.append(((series_key("", others), bound), place))
    return sorted(keys)


def label_sets(counts: Mapping[SeriesKey, float]) -> dict[str, dict[float, float]]:
    """Return the bucket counts of each label set."""
    sets: dict[str, dict[float, float]] = {}
    for (labels, bound), count in counts.items():
        sets.setdefault(labels, {})[bound] = count
    return sets


def merged(sets: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """Return the bucket counts of all label sets together, added one after the other."""
    total: dict[float, float] = {}
    for buckets in sets:
        for bound, count in buckets.items():
            total[bound] = total.get(bound, 0.0) + count
    return total


def summed(counts: Mapping[SeriesKey, float]) -> dict[float, float]:
    """Return the bucket counts of all series together."""
    return merged(label_sets(counts).values())


def first_fault(counts: Mapping[SeriesKey, float]) -> str:
    """Return why the counts of a label set are none of a histogram's; "" where those of each are."""
    return next(filter(None, map(counts_fault, label_sets(counts).values())), "")


def scaled_bound(rule: MetricRule, bound: float) -> float:
    """Return a bucket's bound in the rule's unit. By decimals: 0.0049 s must not fall short of 4.9 ms."""
    return float(Decimal(repr(bound)) * Decimal(repr(rule.scale)))


def counts_fault(buckets: Mapping[float, float]) -> str:
    """Return why these counts are none of a histogram's, "" where they are: none is below the count
    of a narrower bucket, which it holds as well. No numbers: a page broken all day has one reason."""
    below = 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if not count >= below:
            than = "a narrower one" if below else "none"
            return f"bucket {_name(bound)} counts fewer events than {than}"
        below = count
    return ""


def group_buckets(series: Iterable[tuple[int, Mapping[str, str]]]) -> Buckets:
    """Group series of one histogram, each with its place in the page and its labels, by bucket
    bound, the narrowest first.

    Series that differ in other labels than ``le`` are added up. That is right only where each has
    the same buckets: else what is between two bounds of one is in no bucket of the other.
    """
    groups: dict[float, list[int]] = {}
    bounds: dict[tuple[tuple[str, str], ...], set[float]] = {}
    for place, labels in series:
        text = labels.get("le", "")
        if (bound := _bound(text)) is None:
            return Buckets(fault=f'le="{text[:40]}" is no bound of a bucket')
        others = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        own = bounds.setdefault(others, set())
        if bound in own:
            return Buckets(fault=f"bucket {_name(bound)} is there twice")
        own.add(bound)
        groups.setdefault(bound, []).append(place)
    if fault := next(filter(None, map(_bounds_fault, bounds.values())), ""):
        return Buckets(fault=fault)
    if any(own != groups.keys() for own in bounds.values()):
        return Buckets(fault="its series have different buckets, which cannot be added up")
    return Buckets(tuple((bound, tuple(groups[bound])) for bound in sorted(groups)))


def _bounds_fault(bounds: set[float]) -> str:
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
