"""What the watch samples: engines' pages, and each metric that another source knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Role
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.record.samples import series_key
from ctp_runbook.watch.sampler import Reading, Target

if TYPE_CHECKING:
    # A recording is not needed, and so not paid for, in most watches.
    from ctp_runbook.probes.recording import Recording

__all__ = ["watch_targets"]

_SCRAPE_SECONDS = 2.0
_STATE_FAMILY = "quant_hft_ctp_session_state"
_LACKS = "watch.toml lacks sources."


@dataclass(frozen=True)
class _Surroundings:
    """Whom the rules of a plan are asked of: from where, and with which environment."""

    plan: Plan
    cwd: Path
    environ: Mapping[str, str]


def watch_targets(plan: Plan, *, cwd: Path, environ: Mapping[str, str]) -> list[Target]:
    """A target an engine's page, whatever is watched on it; then one a metric of another source,
    named as the metric."""
    around = _Surroundings(plan, cwd, environ)
    return [*_engines(around), *_recording(around), *_others(around)]


def _rules(around: _Surroundings) -> list[MetricRule]:
    return [around.plan.watch.metrics[key] for key in around.plan.monitor_keys]


def _engines(around: _Surroundings) -> Iterator[Target]:
    """The new engine's page goes by ``engine``, a page that a rule names by its url."""
    own = around.plan.member(Generation.NEW, Role.CORE_ENGINE).metrics_url
    pages: dict[str, list[MetricRule]] = {}
    for rule in _rules(around):
        if rule.source == "engine":
            pages.setdefault(rule.url, []).append(rule)
    for url, rules in pages.items():
        families = {rule.query for rule in rules} | (set() if url else {_STATE_FAMILY})
        interval = min(rule.interval_seconds for rule in rules)
        read = _page_reading(url or own, sorted(families), seconds=_patience(interval))
        yield Target("engine", url or "engine", read, interval)


def _page_reading(url: str, families: list[str], *, seconds: float) -> Reading:
    from ctp_runbook.probes.metrics import scrape

    return lambda: scrape(url, families=families, seconds=seconds)


def _recording(around: _Surroundings) -> Iterator[Target]:
    """One recording for all that is replayed; the file is opened at the first look."""
    rules = [rule for rule in _rules(around) if rule.source == "replay"]
    if not rules:
        return
    interval = min(rule.interval_seconds for rule in rules)
    file = around.plan.watch.sources.get("replay_file", "")
    opened: list[Recording] = []

    def read() -> Mapping[str, float]:
        if not file:
            raise ProbeError(f"{rules[0].name} is replayed from nothing: {_LACKS}replay_file")
        from ctp_runbook.probes.recording import Recording

        if not opened:
            opened.append(Recording(around.cwd / file))
        return opened[0].read()

    yield Target("replay", "replay", read, interval)


def _patience(interval: float) -> float:
    return min(_SCRAPE_SECONDS, max(interval, 0.5))


def _others(around: _Surroundings) -> Iterator[Target]:
    """Each sample is one series: the metric's name with the labels of its rule."""
    for rule in _rules(around):
        if make := _READERS.get(rule.source):
            measure = make(rule, around)
            yield Target(
                rule.source,
                rule.name,
                _reading(rule, measure),
                rule.interval_seconds,
                by_wall_seconds=0.0 if rule.source == "command" else rule.window_seconds,
            )


_Measure = Callable[[], float | None]


def _reading(rule: MetricRule, measure: _Measure) -> Reading:
    name = series_key(rule.name, rule.labels)

    def read() -> Mapping[str, float]:
        value = measure()
        return {} if value is None else {name: value}

    return read


def _kafka(rule: MetricRule, around: _Surroundings) -> _Measure:
    from ctp_runbook.probes.kafka import LagReader

    sources = around.plan.watch.sources
    servers, group = sources.get("kafka_bootstrap", ""), rule.labels.get("group", "")
    if not (servers and group):
        return _unasked(rule, "kafka_bootstrap and the label group")
    reader = LagReader(servers, group=group, topic=rule.query)
    return lambda: reader.read(seconds=_patience(rule.interval_seconds))


def _clickhouse(rule: MetricRule, around: _Surroundings) -> _Measure:
    from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms

    sources, environ = around.plan.watch.sources, around.environ
    if not (url := sources.get("clickhouse_url", "")):
        return _unasked(rule, "clickhouse_url")

    def measure() -> float | None:
        password = _secret(sources, environ)
        door = ClickHouseDoor(url, sources.get("clickhouse_user", "default"), password)
        return ingest_delay_ms(door, rule.query, seconds=_patience(rule.interval_seconds))

    return measure


def _prometheus(rule: MetricRule, around: _Surroundings) -> _Measure:
    from ctp_runbook.probes.prometheus import PrometheusDoor

    if not (url := around.plan.watch.sources.get("prometheus_url", "")):
        return _unasked(rule, "prometheus_url")
    door, seconds = PrometheusDoor(url), _patience(rule.interval_seconds)
    fresh = rule.fresh_seconds
    return lambda: door.value(rule.query, seconds=seconds, fresh_seconds=fresh)


def _command(rule: MetricRule, around: _Surroundings) -> _Measure:
    from ctp_runbook.probes.command import spoken_value

    env, seconds = around.environ, _patience(rule.interval_seconds)
    return lambda: spoken_value(rule.query, cwd=around.cwd, env=env, seconds=seconds)


def _secret(sources: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """From the environment, else from the file that is named."""
    name, file = sources.get("clickhouse_key_env", ""), sources.get("env_file", "")
    if not name or name in environ or not file:
        return environ.get(name, "")
    try:
        return read_variables(Path(file)).get(name, "")
    except (OSError, ValueError) as error:
        raise ProbeError(f"env_file {file} cannot be read: {error}") from error


def _unasked(rule: MetricRule, wanted: str) -> _Measure:
    def measure() -> float | None:
        raise ProbeError(f"{rule.name} is asked of nobody: {_LACKS}{wanted}")

    return measure


_READERS: Mapping[str, Callable[[MetricRule, _Surroundings], _Measure]] = {
    "prometheus": _prometheus,
    "kafka": _kafka,
    "clickhouse": _clickhouse,
    "command": _command,
}
