"""What the old engine showed before the switch, drawn beside the new one and told in figures.

Of the old stack only its /metrics page is read. No page is no baseline, said plainly. It decides
nothing: which limits the old engine keeps is for ``ctp-runbook calibrate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.sample_blocks import chunks_of
from ctp_runbook.record.samples import Sample, each_sample
from ctp_runbook.watch.measure import MetricSeries, concerns, pages_of
from ctp_runbook.watch.points import CODES, Point, PointLog, Points

__all__ = ["Usual", "baseline_points", "usual_of"]

# The nearest to the switch is the fairest: READY may have waited for hours.
_LEAST_SECONDS = 300.0
# Points without which the quantile is one of them or another by chance.
_LEAST_FOR = {0.5: 20, 0.99: 100}


class Usual(Struct, frozen=True):
    """Where an engine's points of a metric lie, in its unit; ``many`` is how many have a value.

    A quantile is None of too few points, and infinite above the widest bucket of a histogram.
    """

    many: int
    median: float | None
    p99: float | None


def baseline_points(
    run: RunDir, history: History, rules: WatchRules
) -> Mapping[str, tuple[Point, ...]]:
    """Return the old engine's points by metric, those nearest to the switch.

    Raises JournalError for unreadable samples.
    """
    watched = {key: rules.metrics[key] for key in history.plan.monitor_keys}
    return _points(watched, _nearest(run, history))


def usual_of(points: Points) -> Usual:
    """Return where the points lie that were made after the warm-up."""
    import numpy as np

    monos, values, status = points.columns()
    values = np.where(np.isin(monos, points.over()[0]), np.inf, values)
    values = values[~np.isnan(values) & (status != CODES["warm_up"])]
    median, p99 = (
        # A point, and none between two: there is nothing between a value and what is above all.
        float(np.quantile(values, share, method="inverted_cdf")) if len(values) >= least else None
        for share, least in _LEAST_FOR.items()
    )
    return Usual(len(values), median, p99)


def _nearest(run: RunDir, history: History) -> Sequence[Sample]:
    if history.baseline_ended is None:
        return ()
    length = max(history.plan.monitor_minutes * 60, _LEAST_SECONDS)
    since = history.baseline_ended.mono - length
    return [sample for sample in each_sample(run.baseline) if sample.mono >= since]


def _points(
    rules: Mapping[str, MetricRule], before: Sequence[Sample]
) -> dict[str, tuple[Point, ...]]:
    pages, points = pages_of(rules.values()), {}
    blocks = [block for chunk in chunks_of(before) for block in chunk.items]
    for key, rule in rules.items():
        # As the watch makes them, without a warm-up: this engine is warm.
        series = MetricSeries(structs.replace(rule, warm_up_seconds=0.0), started_mono=0.0)
        log = PointLog()
        for block in blocks:
            if concerns(block, rule, pages=pages):
                series.take(block, log)
        points[key] = tuple(log.points)
    return points
