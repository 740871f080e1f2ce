"""What the watch samples: the new engine's page, and each metric that another source knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ctp_runbook.config import MetricRule
from ctp_runbook.env_template import read_variables
from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Role
from ctp_runbook.sampler import Reading, Target
from ctp_runbook.samples import series_key
from ctp_runbook.steps import RunContext

__all__ = ["watch_targets"]

_SCRAPE_SECONDS = 2.0
_STATE_FAMILY = "quant_hft_ctp_session_state"


def watch_targets(context: RunContext) -> list[Target]:
    """The engine's page, then a target a metric of Kafka or ClickHouse, named as the metric.

    A metric whose source this build cannot read stays without data.
    """
    return [*_engine(context), *_others(context)]


def _rules(context: RunContext) -> list[MetricRule]:
    return [context.plan.watch.metrics[key] for key in context.plan.monitor_keys]


def _engine(context: RunContext) -> Iterator[Target]:
    from ctp_runbook.probes.metrics import scrape

    engine = [rule for rule in _rules(context) if rule.source == "engine"]
    if not engine:
        return
    url = context.plan.member(Generation.NEW, Role.CORE_ENGINE).metrics_url
    families = sorted({rule.query for rule in engine} | {_STATE_FAMILY})
    interval = min(rule.interval_seconds for rule in engine)

    def read() -> dict[str, float]:
        return scrape(url, families=families, seconds=_patience(interval))

    yield Target("engine", url, read, interval)


def _patience(interval: float) -> float:
    return min(_SCRAPE_SECONDS, max(interval, 0.5))


def _others(context: RunContext) -> Iterator[Target]:
    """Each sample is one series: the metric's name with the labels of its rule."""
    for rule in _rules(context):
        if make := _READERS.get(rule.source):
            measure = make(rule, context.plan.watch.sources, context.environ)
            yield Target(rule.source, rule.name, _reading(rule, measure), rule.interval_seconds)


_Measure = Callable[[], float | None]


def _reading(rule: MetricRule, measure: _Measure) -> Reading:
    name = series_key(rule.name, rule.labels)

    def read() -> Mapping[str, float]:
        value = measure()
        return {} if value is None else {name: value}

    return read


def _kafka(rule: MetricRule, sources: Mapping[str, str], environ: Mapping[str, str]) -> _Measure:
    from ctp_runbook.probes.kafka import LagReader

    servers, group = sources.get("kafka_bootstrap", ""), rule.labels.get("group", "")
    if not (servers and group):
        return _unasked(rule, "sources.kafka_bootstrap and the label group")
    reader = LagReader(servers, group=group, topic=rule.query)
    return lambda: reader.read(seconds=_patience(rule.interval_seconds))


def _clickhouse(
    rule: MetricRule, sources: Mapping[str, str], environ: Mapping[str, str]
) -> _Measure:
    from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms

    if not (url := sources.get("clickhouse_url", "")):
        return _unasked(rule, "sources.clickhouse_url")

    def measure() -> float | None:
        password = _secret(sources, environ)
        door = ClickHouseDoor(url, sources.get("clickhouse_user", "default"), password)
        return ingest_delay_ms(door, rule.query, seconds=_patience(rule.interval_seconds))

    return measure


def _secret(sources: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """From the environment, else from the file that is named."""
    name, file = sources.get("clickhouse_key_env", ""), sources.get("env_file", "")
    if not name or name in environ or not file:
        return environ.get(name, "")
    try:
        return read_variables(Path(file)).get(name, "")
    except (OSError, ValueError) as error:
        raise ProbeError(f"sources.env_file {file} cannot be read: {error}") from error


def _unasked(rule: MetricRule, wanted: str) -> _Measure:
    def measure() -> float | None:
        raise ProbeError(f"{rule.name} is asked of nobody: watch.toml lacks {wanted}")

    return measure


_READERS: Mapping[str, Callable[[MetricRule, Mapping[str, str], Mapping[str, str]], _Measure]] = {
    "kafka": _kafka,
    "clickhouse": _clickhouse,
}
