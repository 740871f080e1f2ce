"""Each metric of configs/rich_engine.watch.toml x each way a watch of it can end: verdict and sentence.

Ten minutes by the rules as they are shipped. Whether the engine itself still lives is asked
beside the metrics, by its identity: a restart of it holds the watch whatever a row here says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule, load_watch
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.samples import Sample, series_key
from ctp_runbook.watch.judge import MetricJudgement
from tests.props.whole_window import judge_window

RULES = load_watch(Path(__file__).parents[2] / "configs" / "rich_engine.watch.toml")
NEVER = parse_trigger(
    "breaker_state > 1000000",
    units={name: rule.unit for name, rule in RULES.metrics.items()},
    file="t",
    line=1,
)
WALL, STARTED, SECONDS, MIDDLE = 1.7e9, 1000.0, 600.0, 300.0
PASSED, INCONCLUSIVE, ERROR, FAILED = Verdict
# Every bound of the engine's histograms that a limit of these rules is.
BOUNDS = (0.001, 0.004, 0.005, 0.0075, 1.0, 5.0, 10.0, 30.0, math.inf)
Series = Mapping[str, float]


class Source:
    """What is asked for one metric: ``answer`` is its series after so many more events."""

    def __init__(self, rule: MetricRule) -> None:
        self.rule = rule
        self.counts = dict.fromkeys(BOUNDS, 0.0)
        self.total = 0.0

    def events(self, *, within: float, rest: float, share: float = 1.0) -> None:
        """A hundred events, ``share`` of them no longer than ``within`` and the rest ``rest``."""
        for bound in BOUNDS:
            self.counts[bound] += 100 * (share * (within <= bound) + (1 - share) * (rest <= bound))

    def reset(self) -> None:
        """The process that counts begins anew."""
        self.counts, self.total = dict.fromkeys(BOUNDS, 0.0), 0.0

    def good(self, at: float) -> Series:
        """An answer of a good second."""
        self.events(within=self._limit / 5, rest=self._limit / 5)
        return self.answer(self.rule.limit / 2)

    def bad(self, at: float) -> Series:
        """An answer of a bad one."""
        self.events(within=self._limit * 1.4, rest=self._limit * 1.4)
        self.total += 1
        return self.answer(self.rule.limit * 2 + 1)

    def at_limit(self, at: float) -> Series:
        """An answer of one that is as bad as it may be."""
        self.events(within=self._limit, rest=self._limit * 1.4, share=self.rule.quantile)
        return self.answer(self.rule.limit)

    def answer(self, value: float) -> Series:
        """The series, by the name that the judge knows them by."""
        rule = self.rule
        if rule.kind == "latency_quantile":
            return {
                f'{rule.query}_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}}': count
                for bound, count in self.counts.items()
            }
        if rule.kind == "counter":
            return {rule.query: self.total if math.isfinite(value) else value}
        name = rule.query if rule.source == "engine" else rule.name
        return {series_key(name, rule.labels or {"scope": "td"}): value}

    def nan(self, at: float) -> Series:
        """An answer that is no number."""
        return dict.fromkeys(self.answer(math.nan), math.nan)

    @property
    def _limit(self) -> float:
        return (self.rule.limit or 1.0) / self.rule.scale


# What the source says after so many seconds: series, an error, or None for no sample at all.
Said = Series | str | None
Story = Callable[[Source, float], Said]


def _breach(source: Source, at: float) -> Said:
    return source.bad(at) if at >= MIDDLE else source.good(at)


def _stops(source: Source, at: float) -> Said:
    return source.good(at) if at < MIDDLE else None


def _stale(source: Source, at: float) -> Said:
    return source.good(at) if at < SECONDS - source.rule.fresh_seconds - 5 else None


def _slow(source: Source, at: float) -> Said:
    return None if round(at / source.rule.interval_seconds) % 3 else source.good(at)


def _down(source: Source, at: float) -> Said:
    return source.good(at) if at < MIDDLE else "connection refused"


def _reset(source: Source, at: float) -> Said:
    if MIDDLE <= at < MIDDLE + source.rule.interval_seconds:
        source.reset()
    return source.good(at)


def _restarted(source: Source, at: float) -> Said:
    if source.rule.source == "engine" and MIDDLE <= at < MIDDLE + 20:
        source.reset()
        return "connection refused"
    return source.good(at)


# Story; verdicts that may come of it; words of every sentence.
ENDINGS: dict[str, tuple[Story, set[Verdict], str]] = {
    "breach": (_breach, {FAILED}, "watch."),
    "flat at limit": (lambda source, at: source.at_limit(at), {PASSED}, "watch."),
    "missing from start": (lambda source, at: {}, {INCONCLUSIVE}, "is not in the sample"),
    "stops midway": (_stops, {INCONCLUSIVE}, "no sample came"),
    "NaN": (lambda source, at: source.nan(at), {INCONCLUSIVE}, "is not finite"),
    "stale": (_stale, {INCONCLUSIVE}, "no fresh measurement for"),
    "source slow": (_slow, {INCONCLUSIVE}, "of the due samples came; min_coverage is"),
    "source down": (_down, {ERROR}, "connection refused"),
    "counter reset": (_reset, {PASSED}, "watch."),
    "engine restarted": (_restarted, {PASSED}, "watch."),
}
NO_DATA = ("missing from start", "stops midway", "NaN", "stale", "source slow", "source down")


def told(rule: MetricRule, story: Story) -> Iterator[Sample]:
    """A sample a turn."""
    source = Source(rule)
    for turn in range(int(SECONDS / rule.interval_seconds) + 1):
        at = turn * rule.interval_seconds
        said = story(source, at)
        if said is None:
            continue
        error, series = (said, {}) if isinstance(said, str) else ("", said)
        target = rule.source if rule.source == "engine" else rule.name
        yield Sample(
            turn, WALL + at, STARTED + at, rule.source, target, not error, error, 1.0, dict(series)
        )


def judged(rule: MetricRule, story: Story) -> MetricJudgement:
    """The last word on the metric."""
    window, _ = judge_window(
        told(rule, story),
        rules=RULES,
        keys=tuple(RULES.metrics),
        trigger=NEVER,
        started_mono=STARTED,
        ends_mono=STARTED + SECONDS,
    )
    assert window.overall is max(one.verdict for one in window.metrics.values())
    return window.metrics[rule.name]


@pytest.fixture(scope="module")
def table() -> Mapping[tuple[str, str], MetricJudgement]:
    """Every row, by metric and ending."""
    return {
        (name, ending): judged(rule, story)
        for name, rule in RULES.metrics.items()
        for ending, (story, _, _) in ENDINGS.items()
    }


def test_each_metric_has_each_ending(
    table: Mapping[tuple[str, str], MetricJudgement],
    record_table: Callable[[str, list[str]], None],
) -> None:
    """Sixty rows: the verdict that is due, and a sentence that says why."""
    assert len(table) == 60
    for (name, ending), found in table.items():
        _, verdicts, words = ENDINGS[ending]
        assert found.verdict in verdicts, (name, ending, found.sentence)
        assert words in found.sentence, (name, ending, found.sentence)
        assert found.sentence.startswith(f"{name} {found.verdict.name}: ")
    record_table(
        "endings", [f"{ending:18} | {found.sentence}" for (_, ending), found in table.items()]
    )


def test_no_row_without_data_is_passed(
    table: Mapping[tuple[str, str], MetricJudgement],
) -> None:
    """Six ways to measure nothing, six metrics, no pass and no failure among them."""
    found = {table[name, ending].verdict for name in RULES.metrics for ending in NO_DATA}
    assert found == {INCONCLUSIVE, ERROR}


def test_a_source_that_answers_too_late_every_time_is_an_error_too() -> None:
    """Slow beyond its patience it says so, and what it would have said is not known."""
    for rule in RULES.metrics.values():
        found = judged(rule, lambda source, at: "no whole answer within 1 s")
        assert found.verdict is ERROR
        assert "no whole answer within 1 s" in found.sentence
