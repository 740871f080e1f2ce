"""Facts about how a window can end: every metric of watch.toml in every way, with its sentence.

Sources are scripted here, and the window is judged at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ctp_runbook.config import MetricRule, load_watch
from ctp_runbook.judge import MetricJudgement, judge_window
from ctp_runbook.model import Verdict
from ctp_runbook.samples import Sample, series_key
from ctp_runbook.triggers import parse_trigger

RULES = load_watch(Path(__file__).parents[2] / "configs" / "watch.toml")
SECONDS, HALF, STARTED = 600, 300, 1000.0
EVENTS = ("latency_quantile", "counter")


def value(rule: MetricRule, word: str, events: float) -> dict[str, float]:
    """What the source shows after so many events: good, beyond the limit, or exactly at it."""
    name = rule.query if rule.source == "engine" else rule.name
    raw = {"good": 0.0, "bad": rule.limit * 2 + 1, "limit": rule.limit}[word] / rule.scale
    if rule.kind == "counter":
        return {name: 7.0 + (events if word == "bad" else 0.0)}
    if rule.kind != "latency_quantile":
        return {series_key(name, rule.labels): raw}
    bound = rule.limit / rule.scale
    # At the limit: all of the events in a bucket so narrow that its quantile is the limit.
    low = {"good": events, "bad": 0.0, "limit": 0.0}[word]
    edge = 0.0 if word == "bad" else events
    shape = {bound * 0.999999: low, bound: edge, bound * 3: events, math.inf: events}
    return {
        series_key(f"{name}_bucket", {"le": "+Inf" if math.isinf(le) else repr(le)}): count
        for le, count in shape.items()
    }


Story = Callable[[MetricRule, float], tuple[dict[str, float], str] | None]


def _shown(word: str) -> Story:
    return lambda rule, at: (value(rule, word, at * 2), "")


def _half(second: Story) -> Story:
    return lambda rule, at: (_shown("good") if at < HALF else second)(rule, at)


def _nan(rule: MetricRule, at: float) -> tuple[dict[str, float], str]:
    return dict.fromkeys(value(rule, "good", at), math.nan), ""


def _anew(rule: MetricRule, at: float) -> tuple[dict[str, float], str]:
    """The counts begin again from nothing halfway."""
    if rule.kind == "counter" and at >= HALF:
        return {rule.query: 0.0}, ""
    return value(rule, "good", (at if at < HALF else at - HALF) * 2), ""


def _restarted(rule: MetricRule, at: float) -> tuple[dict[str, float], str]:
    """Down for 5 s halfway, and then it counts anew."""
    down = HALF <= at < HALF + 5
    return ({}, "connection refused") if down else _anew(rule, at)


# Each ending: what the source says, and the verdicts it may have. None is no sample at all.
NO_PASS = {Verdict.INCONCLUSIVE, Verdict.ERROR}
ENDINGS: Mapping[str, tuple[Story, set[Verdict]]] = {
    "breach": (_shown("bad"), {Verdict.FAILED}),
    "flat at limit": (_shown("limit"), {Verdict.PASSED}),
    "missing from start": (lambda rule, at: ({}, ""), NO_PASS),
    "stops midway": (_half(lambda rule, at: None), NO_PASS),
    "NaN": (_nan, NO_PASS),
    "stale": (lambda rule, at: _shown("good")(rule, at) if at < SECONDS - 40 else None, NO_PASS),
    "source slow": (_half(lambda rule, at: ({}, "no whole answer within 1 s")), NO_PASS),
    "source down": (lambda rule, at: ({}, "connection refused"), NO_PASS),
    "counter reset": (_anew, {Verdict.PASSED}),
    "engine restarted": (_restarted, {Verdict.PASSED}),
}


def samples(rule: MetricRule, story: Story) -> Iterator[Sample]:
    """The samples of a window of ten minutes."""
    for turn in range(int(SECONDS / rule.interval_seconds) + 1):
        at = turn * rule.interval_seconds
        if (said := story(rule, at)) is not None:
            series, error = said
            target = "url" if rule.source == "engine" else rule.name
            yield Sample(
                turn, 1.7e9 + at, STARTED + at, rule.source, target, not error, error, 1.0, series
            )


def ending(rule: MetricRule, story: Story) -> MetricJudgement:
    """How the metric ends."""
    units = {rule.name: rule.unit}
    judged, _ = judge_window(
        samples(rule, story),
        rules=RULES,
        keys=(rule.name,),
        trigger=parse_trigger(f"{rule.name} > 1e9", units=units, file="t", line=1),
        started_mono=STARTED,
        ends_mono=STARTED + SECONDS,
    )
    return judged.metrics[rule.name]


def test_each_ending_of_each_metric(record_table: Callable[[str, list[str]], None]) -> None:
    """Sixty rows; none without data is PASSED, and each says why."""
    rows, wrong = list[str](), list[str]()
    for rule in RULES.metrics.values():
        for name, (story, allowed) in ENDINGS.items():
            judged = ending(rule, story)
            rows.append(f"{name:<20}{judged.sentence}")
            if judged.verdict not in allowed:
                wrong.append(rows[-1])
    record_table("table_of_endings", rows)
    assert len(rows) == 60
    assert wrong == []
