"""What the old engine showed before the switch: sampled, kept, and held against the new one.

Of the old stack only its /metrics page is read. No page is no baseline, said plainly; it fails
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from ctp_runbook.plan.config import WatchRules
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Comparison, ComparisonFacts
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.watch.comparison import block_seconds, compare_metric
from ctp_runbook.watch.measure import MetricSeries, Point

if TYPE_CHECKING:
    from ctp_runbook.record.sample_blocks import Block
    from ctp_runbook.watch.readings import Readings

__all__ = ["NOT_COMPARED", "Baseline", "BothEngines", "baseline_points", "read_baseline"]

# The nearest to the switch is the fairest: READY may have waited for hours.
_LEAST_SECONDS = 300.0


@dataclass(frozen=True)
class Baseline:
    """The old engine's samples and what they say; ``compared`` is empty without any."""

    sentence: str
    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    compared: Mapping[str, Comparison] = field(default_factory=dict)

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
        self._rules, self._compared = rules, history.watch_started is not None
        self._keys = tuple(history.plan.monitor_keys)
        self._before = _nearest(run, history)
        self._ended = history.baseline_ended
        self._old: dict[str, Readings] = {}
        self._new: dict[str, Readings] = {}
        if not _has_engine(self._before) or history.watch_started is None:
            return
        from ctp_runbook.watch.readings import Readings

        begins = history.watch_started.mono_ns / 1e9
        length = history.plan.monitor_minutes * 60
        pages = {rule.url for rule in rules.metrics.values() if rule.url}
        lasted = max(0.0, self._before[-1].mono - self._before[0].mono)
        for key in self._keys:
            rule = rules.metrics[key]
            seconds = block_seconds(rule, lasted, length)
            since, until = begins + rule.warm_up_seconds, begins + length
            self._old[key] = Readings(rule, seconds=seconds, pages=pages)
            self._new[key] = Readings(rule, seconds=seconds, since=since, until=until, pages=pages)
            for sample in self._before:
                self._old[key].add(sample)

    def add(self, item: Sample | Block) -> None:
        """Take a sample of the watch in, or a block of them."""
        for readings in self._new.values():
            readings.add(item)

    def baseline(self) -> Baseline:
        """What was taken in so far, compared."""
        if self._ended is None:
            return Baseline("no baseline: the old engine was not sampled")
        points = {key: _points(self._rules, key, self._before) for key in self._keys}
        if not _has_engine(self._before):
            return Baseline(self._ended.payload.sentence, points)
        if not self._compared:
            return Baseline("no comparison: there was no watch window", points)
        compared = {
            key: compare_metric(self._rules.metrics[key], self._old[key], self._new[key])
            for key in self._keys
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
        for item in chunk.items:
            both.add(item[1] if isinstance(item, tuple) else item)
    return both.baseline()


def _has_engine(samples: list[Sample]) -> bool:
    return any(sample.ok and sample.source == "engine" for sample in samples)


def baseline_points(
    run: RunDir, history: History, rules: WatchRules
) -> Mapping[str, tuple[Point, ...]]:
    """The old engine's points by metric, those nearest to the switch.

    Raises JournalError for unreadable samples.
    """
    before = _nearest(run, history)
    return {key: _points(rules, key, before) for key in history.plan.monitor_keys}


def _nearest(run: RunDir, history: History) -> list[Sample]:
    if history.baseline_ended is None:
        return []
    length = max(history.plan.monitor_minutes * 60, _LEAST_SECONDS)
    since = history.baseline_ended.mono_ns / 1e9 - length
    return [sample for sample in read_samples(run.baseline) if sample.mono >= since]


def _in_short(compared: Mapping[str, Comparison]) -> str:
    judged = [one for one in compared.values() if one.median or one.p99]
    failed = [one.metric for one in compared.values() if one.failed]
    told = f"{len(judged)} of {len(compared)} metrics compared with the old engine"
    small = [name for name, one in compared.items() if not (one.median or one.p99)]
    told += f"; no shift known of: {', '.join(small)}" if small else ""
    return f"{told}; shifted beyond baseline_max_shift: {', '.join(failed)}" if failed else told


def _points(rules: WatchRules, key: str, samples: list[Sample]) -> tuple[Point, ...]:
    """As the watch makes them, without a warm-up: this engine is warm."""
    rule = structs.replace(rules.metrics[key], warm_up_seconds=0.0)
    series = MetricSeries(rule, started_mono=samples[0].mono if samples else 0.0)
    named = ("", rule.source, rule.name)
    mine = (s for s in samples if s.source == rule.source)
    return tuple(series.add(s) for s in mine if s.source == "engine" or s.target in named)
