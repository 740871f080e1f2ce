"""What the watch samples: engines' pages, and each metric that another source knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import PlanRefused, ProbeError
from ctp_runbook.model import Generation, Role
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.sources import (
    PAGES,
    SOURCES,
    Counted,
    Measure,
    Source,
    Surroundings,
    find_source,
)
from ctp_runbook.record.samples import series_key
from ctp_runbook.watch.measure import events_key
from ctp_runbook.watch.sampler import Reading, Target

if TYPE_CHECKING:
    # A recording is not needed, and so not paid for, in most watches.
    from ctp_runbook.record.recording import Recording

__all__ = ["watch_targets"]

_STATE_FAMILY = "quant_hft_ctp_session_state"
# An engine shows it from its start: beside it a family that is not on the page is none yet.
_FIRST_FAMILY = "quant_hft_ctp_connected"


def watch_targets(plan: Plan, *, cwd: Path, environ: Mapping[str, str]) -> list[Target]:
    """A target an engine's page, whatever is watched on it; then one a metric of another source,
    named as the metric."""
    around = Surroundings(plan.watch.sources, cwd, environ)
    rules = [plan.watch.metrics[key] for key in plan.monitor_keys]
    own = plan.member(Generation.NEW, Role.CORE_ENGINE).metrics_url
    values = [_value(rule, around) for rule in rules if rule.source not in PAGES]
    return [*_engines(rules, own), *_recording(rules, around), *values]


def _engines(rules: list[MetricRule], own: str) -> Iterator[Target]:
    """The new engine's page goes by ``engine``, a page that a rule names by its url."""
    pages: dict[str, list[MetricRule]] = {}
    for rule in rules:
        if rule.source == "engine":
            pages.setdefault(rule.url, []).append(rule)
    for url, on_it in pages.items():
        families = {family for rule in on_it for family in rule.families}
        families |= set() if url else {_STATE_FAMILY}
        if any(rule.absent == "zero" for rule in on_it):
            families.add(_FIRST_FAMILY)
        seconds = min(rule.patience_seconds for rule in on_it)
        fresh = min(rule.fresh_seconds for rule in on_it)
        read = _page_reading(url or own, sorted(families), seconds=seconds, fresh=fresh)
        yield Target("engine", url or "engine", read, min(rule.interval_seconds for rule in on_it))


def _page_reading(url: str, families: list[str], *, seconds: float, fresh: float) -> Reading:
    from ctp_runbook.probes.metrics import scrape

    return lambda: scrape(url, families=families, seconds=seconds, fresh_seconds=fresh)


def _recording(rules: list[MetricRule], around: Surroundings) -> Iterator[Target]:
    """One recording for all that is replayed; the file is opened at the first look."""
    rules = [rule for rule in rules if rule.source == "replay"]
    if not rules:
        return

    @cache
    def recording() -> Recording:
        _must_have_all(SOURCES["replay"], rules[0], around)
        from ctp_runbook.record.recording import Recording

        return Recording(around.cwd / around.settings["replay_file"])

    seconds = min(rule.interval_seconds for rule in rules)
    yield Target("replay", "replay", lambda: recording().read(), seconds)


def _value(rule: MetricRule, around: Surroundings) -> Target:
    """Each sample is one series: the metric's name with the labels of its rule; behind it, where the
    source counts, the number of its events, and how far it has read."""
    source = _row(rule)
    return Target(
        rule.source,
        rule.name,
        _reading(rule, source, around),
        rule.interval_seconds,
        by_wall_seconds=rule.window_seconds if source.by_wall_clock else 0.0,
        is_shared=source.is_shared,
    )


def _row(rule: MetricRule) -> Source:
    """The row of a rule's source, or one that nothing can be read from.

    The plan was refused without it: what is missing was taken away since, maybe with the old
    engine stopped already. Then it is a source that does not answer, and no reason to end.
    """
    try:
        source = find_source(rule.source)
    except PlanRefused:
        source = None
    return source or Source(rule.source, "")


def _reading(rule: MetricRule, source: Source, around: Surroundings) -> Reading:
    name, of_events = series_key(rule.name, rule.labels), events_key(rule)

    # Made at the first look: what cannot be made is an error of that look, and of its metric.
    @cache
    def measure() -> Measure:
        _must_have_all(source, rule, around)
        try:
            return source.measure(rule, around)
        except (AttributeError, ImportError, ValueError) as error:
            raise ProbeError(f"source {source.name} cannot be read any more: {error}") from error

    def read() -> Mapping[str, float]:
        value: object = measure()()
        if isinstance(value, Counted):
            known = {} if value.value is None else {name: value.value}
            return {**known, of_events: value.events, **value.places}
        if value is None:
            return {}
        if isinstance(value, bool) or not isinstance(value, int | float):
            kind = type(value).__name__
            raise ProbeError(f"source {source.name} gave a {kind} for {rule.name}, no number")
        return {name: float(value)}

    return read


def _must_have_all(source: Source, rule: MetricRule, around: Surroundings) -> None:
    if lacking := source.lacking(around.settings, rule.labels):
        raise ProbeError(f"{rule.name} is asked of nobody: watch.toml lacks {lacking}")
