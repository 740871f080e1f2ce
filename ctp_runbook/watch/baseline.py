"""What the old engine showed before the switch: sampled, kept, and held against the new one.

Of the old stack only its /metrics page is read. No page is no baseline, said plainly; it fails
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Comparison, ComparisonFacts
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, each_sample
from ctp_runbook.watch.comparison import block_seconds, compare_metric
from ctp_runbook.watch.measure import MetricSeries, Point, concerns, pages_of

if TYPE_CHECKING:
    from ctp_runbook.record.sample_blocks import Chunk
    from ctp_runbook.watch.readings import Readings

__all__ = ["NOT_COMPARED", "Baseline", "BothEngines", "baseline_points", "read_baseline"]

# The nearest to the switch is the fairest: READY may have waited for hours.
_LEAST_SECONDS = 300.0


class Baseline(Struct, frozen=True):
    """The old engine's samples and what they say; ``compared`` is empty without any."""

    sentence: str
    points: Mapping[str, tuple[Point, ...]] = {}
    compared: Mapping[str, Comparison] = {}

    @property
    def payload(self) -> ComparisonFacts:
        """As it stands in watch_ended."""
        return ComparisonFacts(sentence=self.sentence, metrics=dict(self.compared))


NOT_COMPARED = Baseline("not compared: the watch was stopped before its end")


class BothEngines:
    """The old engine's samples, and the new one's as they are read: what both come to.

    Raises JournalError for unreadable samples.
    """

    def __init__(self, run: RunDir, history: History, rules: WatchRules) -> None:
        self._history, self._rules = history, _watched(history, rules)
        self._before = _nearest(run, history)
        self._old: dict[str, Readings] = {}
        self._new: dict[str, Readings] = {}
        if not _has_engine(self._before) or history.watch_started is None:
            return
        # Only where there is something to compare: numpy comes with both.
        from ctp_runbook.record.sample_blocks import chunks_of
        from ctp_runbook.watch.readings import Readings

        begins = history.watch_started.mono
        length, pages = history.plan.monitor_minutes * 60, pages_of(self._rules.values())
        # Both engines are cut into stretches of the same length, or their values were no match.
        lasted = max(0.0, self._before[-1].mono - self._before[0].mono)
        for key, rule in self._rules.items():
            seconds = block_seconds(rule, lasted, length)
            since, until = begins + rule.warm_up_seconds, begins + length
            self._old[key] = Readings(rule, seconds=seconds, pages=pages)
            self._new[key] = Readings(rule, seconds=seconds, since=since, until=until, pages=pages)
        for chunk in chunks_of(self._before):
            _read(chunk, self._old)

    def add(self, chunk: Chunk) -> None:
        """Take a part of the watch's samples in."""
        _read(chunk, self._new)

    def baseline(self) -> Baseline:
        """Return what was taken in so far, compared."""
        if self._history.baseline_ended is None:
            return Baseline("no baseline: the old engine was not sampled")
        points = _points(self._rules, self._before)
        if not _has_engine(self._before):
            return Baseline(self._history.baseline_ended.payload.sentence, points)
        if self._history.watch_started is None:
            return Baseline("no comparison: there was no watch window", points)
        compared = {
            key: compare_metric(rule, self._old[key], self._new[key])
            for key, rule in self._rules.items()
        }
        return Baseline(_in_short(compared), points, compared)


def read_baseline(run: RunDir, history: History, rules: WatchRules) -> Baseline:
    """Compare both engines by the samples in the run's directory; the new one's as far as they
    go, within the window.

    Raises JournalError for unreadable samples.
    """
    from ctp_runbook.record.sample_blocks import read_chunks

    both = BothEngines(run, history, rules)
    for chunk in read_chunks(run.samples):
        both.add(chunk)
    return both.baseline()


def baseline_points(
    run: RunDir, history: History, rules: WatchRules
) -> Mapping[str, tuple[Point, ...]]:
    """Return the old engine's points by metric, those nearest to the switch.

    Raises JournalError for unreadable samples.
    """
    return _points(_watched(history, rules), _nearest(run, history))


def _read(chunk: Chunk, readings: Mapping[str, Readings]) -> None:
    for block in chunk.blocks:
        for metric in readings.values():
            metric.add(block)


def _watched(history: History, rules: WatchRules) -> dict[str, MetricRule]:
    return {key: rules.metrics[key] for key in history.plan.monitor_keys}


def _has_engine(samples: Sequence[Sample]) -> bool:
    return any(sample.ok and sample.source == "engine" for sample in samples)


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
    for key, rule in rules.items():
        # As the watch makes them, without a warm-up: this engine is warm.
        series = MetricSeries(structs.replace(rule, warm_up_seconds=0.0), started_mono=0.0)
        own = (sample for sample in before if concerns(sample, rule, pages=pages))
        points[key] = tuple(map(series.add, own))
    return points


def _in_short(compared: Mapping[str, Comparison]) -> str:
    small = [name for name, metric in compared.items() if not (metric.median or metric.p99)]
    failed = [metric.metric for metric in compared.values() if metric.failed]
    judged = len(compared) - len(small)
    sentence = f"{judged} of {len(compared)} metrics compared with the old engine"
    sentence += f"; no shift known of: {', '.join(small)}" if small else ""
    sentence += f"; shifted beyond baseline_max_shift: {', '.join(failed)}" if failed else ""
    return sentence
