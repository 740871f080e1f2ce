"""Measure the SLIs of the pipeline: PostgreSQL, CDC into Kafka, ingest into ClickHouse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.readiness import SliReading, not_measured
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.record.journal import utc_text

__all__ = ["PipelineSources", "pipeline_readings"]

_TABLE = "trading_core.orders"
_TOPIC = f"quant_hft_pg.{_TABLE}"
_NEWEST = f"SELECT extract(epoch FROM max(updated_at)) * 1000 FROM {_TABLE}"
_INGEST = (
    "SELECT quantile(0.99)(dateDiff('millisecond', event_time, ingested_at)), count() "
    "FROM quant_hft.market_ticks WHERE ingested_at > now64(3) - INTERVAL 60 SECOND"
)
_Value = float | str | None


@dataclass(frozen=True)
class PipelineSources:
    """Where to ask; what is not given is not measured. CDC lag needs PostgreSQL and Kafka."""

    bootstrap_servers: str = ""
    clickhouse: ClickHouseDoor | None = None
    postgres: PostgresDoor | None = None
    seconds: float = 5.0


def pipeline_readings(sources: PipelineSources) -> Iterator[SliReading]:
    """A reading an SLI whose source is given."""
    if door := sources.postgres:
        health, seconds = "quant_hft_storage_timescale_health", sources.seconds
        yield _read(health, door.shown, partial(_health, door, seconds))
    if (door := sources.postgres) and (servers := sources.bootstrap_servers):
        where = f"max(updated_at) of {_TABLE} at {door.shown}, newest of {_TOPIC} at {servers}"
        yield _read("quant_hft_cdc_lag_seconds", where, partial(_cdc_lag, door, servers, sources))
    if target := sources.clickhouse:
        yield _read(
            "quant_hft_clickhouse_ingest_lag_seconds",
            f"{_INGEST} at {target.shown}",
            partial(_ingest_lag, target, sources.seconds),
        )


def _read(name: str, source: str, measure: Callable[[], tuple[_Value, str]]) -> SliReading:
    try:
        value, detail = measure()
    except ProbeError as error:
        return not_measured(name, detail=str(error), source=source)
    return SliReading(name, value, "measured", detail, source, utc_text())


def _health(door: PostgresDoor, seconds: float) -> tuple[_Value, str]:
    with door.open(seconds=seconds) as connection:
        row = connection.execute(
            "SELECT pg_is_in_recovery(), current_setting('server_version')"
        ).fetchone()
    assert row is not None  # one row, always
    if row[0]:
        return "unhealthy", f"PostgreSQL {row[1]} is a standby, expected the primary"
    return "healthy", f"PostgreSQL {row[1]} answers and is the primary"


def _cdc_lag(door: PostgresDoor, servers: str, sources: PipelineSources) -> tuple[_Value, str]:
    """By record time: how much newer the newest order is than the newest change in Kafka."""
    from ctp_runbook.probes.kafka import newest_record

    with door.open(seconds=sources.seconds) as connection:
        row = connection.execute(_NEWEST).fetchone()
    if row is None or row[0] is None:
        return None, f"{_TABLE} has no row: no lag is proved; fly a canary (`infra canary`)"
    record = newest_record(servers, _TOPIC, seconds=sources.seconds)
    try:
        seen = float(json.loads(record or b"")["__source_ts_ms"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProbeError(f"topic {_TOPIC}: newest record {record!r:.60} has no time") from error
    lag = max(0.0, float(row[0]) - seen) / 1000
    return round(lag, 3), "newest order written against newest change in Kafka"


def _ingest_lag(door: ClickHouseDoor, seconds: float) -> tuple[_Value, str]:
    delay = ingest_delay_ms(door, _INGEST, seconds=seconds)
    if delay is None:
        return None, "no tick came in during the last minute: no lag is proved"
    return round(delay / 1000, 3), "p99 of the ticks of the last minute"
