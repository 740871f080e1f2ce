"""A watch of one metric made of a few pages in a text file, judged as a run would judge it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.triggers import Trigger, parse_trigger
from ctp_runbook.probes.metrics import parse_page
from ctp_runbook.record.sample_blocks import chunks_of
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import MetricJudgement, WindowJudge
from ctp_runbook.watch.measure import MetricSeries
from ctp_runbook.watch.verdicts import Firing, missing_buckets

__all__ = ["Seen", "judge_pages"]

_SECONDS = 30
_AT = re.compile(r"^# at (\d+) s\n", re.MULTILINE)


class Seen(Struct, frozen=True):
    """What came of the pages: a verdict, a firing, how many events, and what was told before."""

    judged: MetricJudgement
    firing: Firing | None
    events: float
    missing: tuple[str, ...]


def judge_pages(path: Path, *, trigger: str = "m > 1e9", **rule: Any) -> Seen:
    """Judge the metric ``m`` by the pages of a file, live and in blocks, which must say the same.

    Each page follows a line ``# at N s`` and stays until the next one. A file without such a line is
    one page, shown after one of the same series at zero.
    """
    given = MetricRule(name="m", label="M", source="engine", **{**_USUAL, **rule})
    fires = parse_trigger(trigger, units={"m": given.unit}, file="expect.toml", line=1)
    samples, series = [*_samples(path.read_text(), given)], MetricSeries(given, started_mono=0.0)
    live, blocks = _judge(given, fires), _judge(given, fires)
    for sample in samples:
        live.add(sample)
        series.add(sample)
    for chunk in chunks_of(samples):
        blocks.take(chunk)
    seen, again = (
        Seen(
            judged=judge.at(float(_SECONDS), final=True).metrics["m"],
            firing=judge.firing,
            events=series.events,
            missing=tuple(missing_buckets([given], fires, samples[-1])),
        )
        for judge in (live, blocks)
    )
    assert seen == again, f"{path.name}: the replay says otherwise than the live judge"
    return seen


_USUAL: Mapping[str, Any] = {
    "unit": "s",
    "kind": "latency_quantile",
    "limit": 10.0,
    "direction": "max",
    "window_seconds": 10.0,
    "fresh_seconds": 3.0,
    "min_coverage": 0.5,
    "zero_events": "pass",
}


def _judge(rule: MetricRule, fires: Trigger) -> WindowJudge:
    return WindowJudge(
        rules=WatchRules({"m": rule}, 1.0, 1.0, 1.0),
        keys=("m",),
        trigger=fires,
        started_mono=0.0,
        ends_mono=float(_SECONDS),
    )


def _samples(text: str, rule: MetricRule) -> Iterator[Sample]:
    for mono, series in enumerate(_pages(text, rule)):
        yield Sample(mono, 1.7e9 + mono, float(mono), "engine", "engine", True, "", 1.0, series)


def _pages(text: str, rule: MetricRule) -> list[dict[str, float]]:
    """The page of each second."""
    _, *parts = _AT.split(text)
    if not parts:
        page = parse_page(text, families=[rule.query])
        return [dict.fromkeys(page, 0.0), *[page] * _SECONDS]
    pages: list[dict[str, float]] = []
    for begins, shown_text in zip(map(int, parts[::2]), parts[1::2], strict=True):
        shown = parse_page(shown_text, families=[rule.query])
        pages = [*pages[:begins], *[shown] * (_SECONDS + 1 - begins)]
    return pages
