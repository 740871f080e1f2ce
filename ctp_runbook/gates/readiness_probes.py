"""Measure the readiness SLIs: the engine's metrics page, Redis, PostgreSQL, the pipeline, commands."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from msgspec import to_builtins

from ctp_runbook.errors import InputError, ProbeError, Problem
from ctp_runbook.gates.gate import REHEARSAL
from ctp_runbook.gates.readiness import (
    SLIS,
    Readiness,
    SliReading,
    SliSpec,
    declared_readings,
    measured,
)
from ctp_runbook.host import caller
from ctp_runbook.host.files import read_small, write_atomic
from ctp_runbook.model import lag_fault
from ctp_runbook.plan.shell.commands import is_idle
from ctp_runbook.plan.template_keys import NOT_MEASURABLE
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms
from ctp_runbook.probes.command import Running, run_probe, run_probe_apart
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.probes.redis import RedisLook, look_at_redis, shown_url
from ctp_runbook.record.gate_files import UNMEASURABLE, SliValue, readiness_of
from ctp_runbook.record.samples import series_key, split_series
from ctp_runbook.strict_json import decode_json
from ctp_runbook.watch.histogram import (
    SeriesKey,
    bucket_series,
    first_fault,
    label_sets,
    worst_quantile,
)

__all__ = [
    "COMMANDS_VARIABLE",
    "ReadinessSources",
    "add_commands",
    "by_command",
    "commands_of_run",
    "measure",
]

# What a readiness step is handed of the template's READINESS_<SLI>_CMD: JSON, by SLI.
COMMANDS_VARIABLE = "CTP_READINESS_COMMANDS"
_BY_COMMAND = "SLI command"
_MOST_BYTES = 1 << 20

_RECOVERY = "quant_hft_ctp_disconnect_recovery_success_rate"
_QUERY_P99 = "quant_hft_ctp_query_latency_p99_ms"
_QUERIES = "quant_hft_ctp_query_latency_seconds"
_VIOLATIONS = "quant_hft_query_rate_violation_total"
_RECONNECTS = "quant_hft_ctp_reconnect_total"
_CONNECTED = "quant_hft_ctp_connected"
_REJECTS = "quant_hft_risk_reject_total"
_PUBLISHED = "quant_hft_kafka_publish_total"
_SPOOL = "quant_hft_kafka_spool_backlog"
_FAMILIES = (
    *(_QUERIES, _VIOLATIONS, _RECONNECTS, _CONNECTED, _REJECTS),
    *(_PUBLISHED, _SPOOL),
)
# What stands for a reason where there is none, in one language or another.
_UNCLASSIFIED = frozenset(
    ("", "-", "n/a", "nan", "nil", "none", "null", "unclassified", "undefined", "unknown")
)
_LOOK_SECONDS = 0.25
_TABLE = "trading_core.orders"
_TOPIC = f"quant_hft_pg.{_TABLE}"
_NEWEST = f"SELECT extract(epoch FROM max(updated_at)) * 1000 FROM {_TABLE}"
_INGEST = (
    "WITH dateDiff('millisecond', event_time, ingested_at) AS ms "
    # Some from the future are not made up for by the others.
    "SELECT if(-1000 > quantile(0.01)(ms), quantile(0.01)(ms), quantile(0.99)(ms)), count() "
    "FROM quant_hft.market_ticks WHERE ingested_at > now64(3) - INTERVAL 60 SECOND"
)


@dataclass(frozen=True)
class ReadinessSources:
    """Where to measure, and what was declared instead (by flag, without dashes).

    ``commands`` maps an SLI to a command that prints its value. The bridge chain is complete
    when Redis has a client of every name in ``bridge_clients`` and every key of
    ``bridge_keys`` at its value. The p99 is that of the next queries: ``query_min_events`` of them
    are waited for, for ``window_seconds`` at most, and with fewer there is no p99. CDC lag needs
    PostgreSQL and Kafka.
    """

    environment: str
    profile: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)
    metrics_url: str = ""
    redis_url: str = ""
    alive_command: str = ""
    bridge_clients: tuple[str, ...] = ()
    bridge_keys: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    bootstrap_servers: str = ""
    clickhouse: ClickHouseDoor | None = None
    postgres: PostgresDoor | None = None
    seconds: float = 5.0
    window_seconds: float = 10.0
    query_min_events: int = 5
    cwd: Path = Path()
    environ: Mapping[str, str] = field(default_factory=caller.environ)

    @property
    def running(self) -> Running:
        """How its commands run."""
        return {"cwd": self.cwd, "env": self.environ, "seconds": self.seconds}


def measure(sources: ReadinessSources) -> Readiness:
    """Read every SLI; a measured value wins over a declared one.

    Raises InputError for declared values that cannot be, and for a command of an unknown SLI.
    """
    if unknown := [name for name in sources.commands if name not in SLIS]:
        raise InputError(
            Problem("command line", 0, "--sli-cmd", name, ", ".join(SLIS), "name an SLI")
            for name in unknown
        )
    own = (*declared_readings(sources.declared), *_measured(sources))
    readings = {reading.name: reading for reading in own}
    missing = [spec for spec in SLIS.values() if spec.name not in readings]
    absent = [spec.name for spec in missing if sources.profile == REHEARSAL and not _on_twin(spec)]
    for spec in missing:
        if spec.core and spec.name not in absent:
            readings[spec.name] = measured(spec.name, None, detail=_remedy(spec.name), source="")
    return Readiness(
        readings=tuple(readings[name] for name in SLIS if name in readings),
        environment=sources.environment,
        profile=sources.profile,
        absent=tuple(absent),
        metadata={
            "host": socket.gethostname(),
            "run_id": sources.environ.get("CTP_RUN_ID", ""),
            "step": sources.environ.get("CTP_STEP", ""),
        },
    )


def _on_twin(spec: SliSpec) -> bool:
    return spec.core and spec.in_twin


def _remedy(name: str) -> str:
    short = name.removeprefix("quant_hft_").upper()
    return (
        f"no source was given; use --metrics-url, --redis-url or --alive-cmd, or "
        f"READINESS_{short}_CMD for an engine without metrics"
    )


# A value, None where there is none, and what is to be said of it.
_Answer = tuple[SliValue | None, str]


def _reading(name: str, source: str, ask: Callable[[], _Answer]) -> SliReading:
    try:
        value, detail = ask()
    except ProbeError as error:
        value, detail = None, str(error)
    if value is not None and not SLIS[name].is_value(value):
        value, detail = None, f"{detail}: {value} is no value of it"
    return measured(name, value, detail=detail, source=source)


def _measured(sources: ReadinessSources) -> Iterator[SliReading]:
    if sources.metrics_url:
        yield from _engine(sources)
    if sources.redis_url:
        yield from _redis(sources)
    if command := sources.alive_command:
        alive = partial(_alive, command, sources.running)
        yield _reading("quant_hft_core_process_alive", "alive command", alive)
    yield from _pipeline(sources)
    for name, command in sources.commands.items():
        yield by_command(name, command, **sources.running)


def by_command(name: str, command: str, **running: Unpack[Running]) -> SliReading:
    """Return what READINESS_<SLI>_CMD says of an SLI.

    A command that only prints measures nothing: what it prints was declared by whoever wrote it.
    Instead of a command there may be the reason why this engine has no such SLI.
    """
    if command.startswith(NOT_MEASURABLE):
        reason = command.removeprefix(NOT_MEASURABLE).strip()
        reading = measured(name, None, detail=reason, source=_BY_COMMAND)
        return replace(reading, provenance=UNMEASURABLE)
    reading = _reading(name, _BY_COMMAND, partial(_printed, SLIS[name], command, running))
    if not is_idle(command):
        return reading
    detail = f"{reading.detail}: a command that only prints measures nothing"
    return replace(reading, provenance="declared", detail=detail)


def commands_of_run(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the template's commands of SLIs, as the orchestrator hands them to a readiness step."""
    try:
        commands = json.loads(environ.get(COMMANDS_VARIABLE, "{}"))
    except ValueError:
        return {}
    # Somebody may have set it by hand: what names no SLI is nobody's.
    return {name: text for name, text in commands.items() if name in SLIS and isinstance(text, str)}


def add_commands(path: Path, commands: Mapping[str, str], **running: Unpack[Running]) -> None:
    """Add to a readiness file what the template's commands say, where whatever wrote it did not ask
    them. A file that is none stays as it is: its judge says so. Raises OSError."""
    try:
        report, _ = decode_json(read_small(path, most=_MOST_BYTES), subject=path.name)
    except (OSError, ProbeError):
        return
    file, refused = readiness_of(report)
    asked = [entry.name for entry in file.slis if entry.source == _BY_COMMAND]
    missing = [name for name in commands if name not in asked]
    if refused or not missing:
        return
    added = [by_command(name, commands[name], **running).entry for name in missing]
    kept = [at for at, entry in enumerate(file.slis) if entry.name not in missing]
    entries = [*(file.slis[at] for at in kept), *added]
    counted = [entry for entry in entries if not entry.is_unmeasurable]
    report["overall_healthy"] = bool(counted) and all(entry.healthy for entry in counted)
    # As it stands: somebody may have written more into it than is known here.
    report["slis"] = [*(report["slis"][at] for at in kept), *to_builtins(added)]
    write_atomic(path, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())


# --- the engine's metrics page ----------------------------------------------------

_Page = Mapping[str, float]


def _engine(sources: ReadinessSources) -> Iterator[SliReading]:
    source = f"GET {shown_url(sources.metrics_url)}"
    try:
        before = scrape(sources.metrics_url, families=_FAMILIES, seconds=sources.seconds)
        page = _after_queries(sources, before)
    except ProbeError as error:
        for name in (_QUERY_P99, *_FROM_PAGE):
            yield measured(name, None, detail=str(error), source=source)
        return
    # By its name alone: one whose counts are no numbers is told so, and does not vanish.
    is_publisher = any(
        _series(text, _PUBLISHED) or _series(text, _SPOOL) for text in (page, before)
    )
    for name, read in (_FROM_PAGE | (_FROM_PUBLISHER if is_publisher else {})).items():
        yield _reading(name, source, partial(read, page))
    queries = partial(_query_p99_ms, page, before, least=sources.query_min_events)
    yield _reading(_QUERY_P99, source, queries)


def _after_queries(sources: ReadinessSources, before: _Page) -> dict[str, float]:
    """Return the page once the engine has queried again often enough for a p99, or when
    ``window_seconds`` are over."""
    end = time.monotonic() + sources.window_seconds
    while True:
        time.sleep(_LOOK_SECONDS)
        page = scrape(sources.metrics_url, families=_FAMILIES, seconds=sources.seconds)
        if _has_queried(page, before, sources.query_min_events) or time.monotonic() > end:
            return page


def _has_queried(page: _Page, before: _Page, least: int) -> bool:
    """True as well where waiting for longer mends nothing: the histogram is none."""
    try:
        return _events(_recent_queries(page, before)) >= max(1, least)
    except ProbeError:
        return True


def _events(counts: Mapping[SeriesKey, float]) -> float:
    return sum(count for (_, bound), count in counts.items() if math.isinf(bound))


def _bounds(counts: Mapping[SeriesKey, float]) -> list[float]:
    return sorted({bound for _, bound in counts})


def _fault(counts: Mapping[SeriesKey, float]) -> str:
    return first_fault(_bounds(counts), [*counts.values()])


def _recent_queries(page: _Page, before: _Page) -> dict[SeriesKey, float]:
    """Return the bucket counts of the queries made between the two pages; empty for none.

    Raises ProbeError for a page whose histogram is none, or that says less than the one before.
    """
    now, then = _buckets(page), _buckets(before)
    bounds = {bound for _, bound in now}
    if then and bounds != {bound for _, bound in then}:
        raise ProbeError(f"{_QUERIES} has no value: it has other buckets than a moment ago")
    recent = {key: count - then.get(key, 0.0) for key, count in now.items()}
    if fault := _fault(recent):
        raise ProbeError(f"{_QUERIES} has no value: of the queries just now {fault}")
    return recent if _events(recent) > 0 else {}


def _query_p99_ms(page: _Page, before: _Page, *, least: int) -> _Answer:
    if not _buckets(page):
        return None, f"{_QUERIES} is not on the page"
    recent = _recent_queries(page, before)
    if not recent:
        return None, "the engine made no query while it was watched: no latency is proved"
    bounds, events = _bounds(recent), _events(recent)
    sets = {labels: [*counts.values()] for labels, counts in label_sets(recent).items()}
    quantile = worst_quantile(bounds, sets, quantile=0.99, min_events=least)
    if quantile is None:
        return None, (
            f"{events:g} queries while it was watched, at least {least} are needed: a p99 of fewer "
            "is none; let it query meanwhile, wait longer (--query-window-seconds), or take fewer for "
            "enough (--query-min-events)"
        )
    words = f"p99 of {events:g} queries just now"
    words += f", the worst of {quantile.labels}" if quantile.labels else ""
    p99, target = round(quantile.value * 1000, 3), float(SLIS[_QUERY_P99].target)
    if not quantile.is_over:
        # Within a bucket that the target cuts in two, the value is a guess between its bounds.
        has_bucket = any(round(bound * 1000, 6) == target for bound in bounds)
        words += "" if has_bucket else f"; {_QUERIES} has no bucket at {target:g} ms: add one"
        return p99, words
    words += f" is more than {p99:g} ms, above the widest bucket of {_QUERIES}"
    # A number says no more than itself: up to the target, the bound would be read as healthy.
    return (None if SLIS[_QUERY_P99].is_healthy(p99) else p99), words


def _buckets(page: _Page) -> dict[SeriesKey, float]:
    """Return counts by label set and bound; none where there are none. ProbeError for no histogram."""
    series = _series(page, f"{_QUERIES}_bucket")
    if not series:
        return {}
    places = [(place, labels) for place, (labels, _) in enumerate(series)]
    buckets = bucket_series(places)
    counts = {key: series[place][1] for key, place in buckets.keys}
    fault = buckets.fault or ("" if all(map(math.isfinite, counts.values())) else "not finite")
    if fault := fault or _fault(counts):
        raise ProbeError(f"{_QUERIES} has no value: {fault}")
    return counts


def _series(page: _Page, family: str) -> list[tuple[Mapping[str, str], float]]:
    # In the order of their keys: floats add up differently in another one.
    split = ((*split_series(key), value) for key, value in sorted(page.items()))
    return [(labels, value) for name, labels, value in split if name == family]


def _by_labels(page: _Page, family: str, *, but: str = "") -> dict[str, dict[str, float]]:
    """Return the values of a family: of each label set, by what its label ``but`` says.

    Raises ProbeError for a family that is not there, and for one of its values that is none: what
    is beside it does not make up for it.
    """
    values: dict[str, dict[str, float]] = {}
    for labels, value in _series(page, family):
        others = {name: text for name, text in labels.items() if name != but}
        if not 0 <= value < math.inf:
            raise ProbeError(f"{series_key(family, labels)}: {value} is no value of it")
        values.setdefault(series_key("", others), {})[labels.get(but, "")] = value
    if not values:
        raise ProbeError(f"{family} is not on the page")
    return values


def _total(page: _Page, family: str) -> float:
    return sum(sum(values.values()) for values in _by_labels(page, family).values())


def _flow_control_hits(page: _Page) -> _Answer:
    return _total(page, _VIOLATIONS), "queries refused (-2, -3) since the engine's start"


def _recovery_rate(page: _Page) -> _Answer:
    """Judge each session on its own: market data that is there says nothing of trading."""
    connected = _by_labels(page, _CONNECTED) if _series(page, _CONNECTED) else {}
    lost = [name for name, own in connected.items() if min(own.values()) < 1]
    named = f": {', '.join(filter(None, lost))}" if any(lost) else ""
    if not (connected and _series(page, _RECONNECTS)):
        also = f"; {len(lost)} is lost now{named}" if lost else ""
        return None, f"{_RECONNECTS} or {_CONNECTED} is not on the page{also}"
    recovered = _total(page, _RECONNECTS)
    rate = recovered / (recovered + len(lost)) if recovered + len(lost) else 1.0
    words = f"{recovered:g} sessions came back, {len(lost)} is lost now{named}"
    # However often it came back before: one that is lost has not, and the rate would hide it.
    is_hidden = lost and SLIS[_RECOVERY].is_healthy(rate)
    return (None if is_hidden else rate), words


def _worst_ratio(
    page: _Page, family: str, *, by: str, is_good: Callable[[str], bool]
) -> tuple[float, float, str] | None:
    """Return how many are good, of how many, and of which label set, where that is the least share;
    None where none was counted. In a sum, many of one label set hide that all of another are bad."""
    shares = []
    for labels, counts in _by_labels(page, family, but=by).items():
        if total := sum(counts.values()):
            good = sum(count for word, count in counts.items() if is_good(word))
            shares.append((good / total, good, total, labels))
    if not shares:
        return None
    _, good, total, labels = min(shares)
    return good, total, f" of {labels}" if labels else ""


def _classified_ratio(page: _Page) -> _Answer:
    def has_reason(text: str) -> bool:
        return text.strip().lower() not in _UNCLASSIFIED

    if (worst := _worst_ratio(page, _REJECTS, by="reason", is_good=has_reason)) is None:
        return 1.0, "no reject since the engine's start: none is left unclassified"
    classified, total, whose = worst
    return classified / total, f"{classified:g} of {total:g} rejects{whose} carry a reason"


def _publish_rate(page: _Page) -> _Answer:
    worst = _worst_ratio(page, _PUBLISHED, by="result", is_good=lambda result: result == "ok")
    if worst is None:
        return None, "nothing was published since the engine's start: no rate is proved"
    ok, total, whose = worst
    return ok / total, f"{ok:g} of {total:g} records{whose}"


def _spool_backlog(page: _Page) -> _Answer:
    if not _series(page, _SPOOL):
        return None, f"{_SPOOL} is not there"
    return _total(page, _SPOOL), f"{_SPOOL} of the page"


_FROM_PAGE: dict[str, Callable[[_Page], _Answer]] = {
    "quant_hft_ctp_flow_control_hits": _flow_control_hits,
    _RECOVERY: _recovery_rate,
    "quant_hft_ctp_reject_classified_ratio": _classified_ratio,
}
# Of an engine that publishes to Kafka.
_FROM_PUBLISHER: dict[str, Callable[[_Page], _Answer]] = {
    "quant_hft_kafka_publish_success_rate": _publish_rate,
    "quant_hft_kafka_spool_backlog": _spool_backlog,
}


# --- Redis, commands --------------------------------------------------------------


def _redis(sources: ReadinessSources) -> Iterator[SliReading]:
    health, chain = "quant_hft_storage_redis_health", "quant_hft_strategy_bridge_chain_integrity"
    shown = shown_url(sources.redis_url)
    names = [health, *([chain] if sources.bridge_clients or sources.bridge_keys else [])]
    try:
        look = look_at_redis(sources.redis_url, seconds=sources.seconds, keys=sources.bridge_keys)
    except ProbeError as error:
        source = f"PING, INFO {shown}"
        for name in names:
            yield measured(name, None, detail=str(error), source=source)
        return
    word = "healthy" if look.is_healthy else "unhealthy"
    yield measured(health, word, detail=look.sentence, source=f"PING, INFO {shown}")
    if chain in names:
        gaps = list(_gaps_in_chain(look, sources))
        keys = (f"{key}={value}" for key, value in sources.bridge_keys.items())
        detail = "; ".join(gaps) or f"seen: {', '.join([*sources.bridge_clients, *keys])}"
        word = "incomplete" if gaps else "complete"
        yield measured(chain, word, detail=detail, source=f"CLIENT LIST, GET {shown}")


def _gaps_in_chain(look: RedisLook, sources: ReadinessSources) -> Iterator[str]:
    for client in sources.bridge_clients:
        if client not in look.clients:
            yield f"no client {client}"
    for key, value in sources.bridge_keys.items():
        if look.keys[key] != value:
            yield f"{key} is {look.keys[key]!r}, expected {value!r}"


def _alive(command: str, running: Running) -> _Answer:
    """Ask the alive command: 0 alive, 1 gone, anything else could not tell (CONTRACT §1)."""
    code, _ = run_probe(command, **running)
    value = {0: True, 1: False}.get(_in_time(code, running))
    remark = ": could not tell (0 is alive, 1 is gone)" if value is None else ""
    return value, f"exit {code}{remark}"


def _printed(spec: SliSpec, command: str, running: Running) -> _Answer:
    """Take the last word a command prints, if it exits 0."""
    code, output, _ = run_probe_apart(command, **running)
    text = " ".join(output.decode(errors="replace").split()[-1:])
    value = spec.read(text)
    if _in_time(code, running) != 0 or value is None:
        return None, f"exit {code}, printed {text[:40]!r}; expected exit 0, {spec.range}"
    return value, "exit 0"


def _in_time(code: int | None, running: Running) -> int:
    if code is None:
        raise ProbeError(f"the command did not end within {running['seconds']:g} s")
    return code


# --- the pipeline -----------------------------------------------------------------


def _pipeline(sources: ReadinessSources) -> Iterator[SliReading]:
    """Read each SLI whose source is named: PostgreSQL, CDC into Kafka, ingest into ClickHouse."""
    seconds = sources.seconds
    if door := sources.postgres:
        health = partial(_postgres_health, door, seconds)
        yield _reading("quant_hft_storage_timescale_health", door.shown, health)
    if door and (servers := sources.bootstrap_servers):
        where = f"max(updated_at) of {_TABLE} at {door.shown}, newest of {_TOPIC} at {servers}"
        lag = partial(_cdc_lag, door, servers, seconds)
        yield _reading("quant_hft_cdc_lag_seconds", where, lag)
    if target := sources.clickhouse:
        where = f"{_INGEST} at {target.shown}"
        ingest = partial(_ingest_lag, target, seconds)
        yield _reading("quant_hft_clickhouse_ingest_lag_seconds", where, ingest)


def _postgres_health(door: PostgresDoor, seconds: float) -> _Answer:
    query = "SELECT pg_is_in_recovery(), current_setting('server_version')"
    with door.open(seconds=seconds) as connection:
        [(is_standby, version)] = connection.execute(query).fetchall()
    if is_standby:
        return "unhealthy", f"PostgreSQL {version} is a standby, expected the primary"
    return "healthy", f"PostgreSQL {version} answers and is the primary"


def _cdc_lag(door: PostgresDoor, servers: str, seconds: float) -> _Answer:
    """Compare by record time: the newest order with the newest change in Kafka."""
    from ctp_runbook.probes.kafka import newest_record

    # Kafka first: what is written meanwhile makes the lag longer than it is, never less than none.
    record = newest_record(servers, _TOPIC, seconds=seconds)
    with door.open(seconds=seconds) as connection:
        [(written_ms,)] = connection.execute(_NEWEST).fetchall()
    if written_ms is None:
        return None, f"{_TABLE} has no row: no lag is proved; fly a canary (`infra canary`)"
    try:
        seen_ms = float(json.loads(record or b"")["__source_ts_ms"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProbeError(f"topic {_TOPIC}: newest record {record!r:.60} has no time") from error
    lag, now_ms = float(written_ms) - seen_ms, time.time() * 1000
    if fault := lag_fault(min(lag, now_ms - float(written_ms), now_ms - seen_ms), "ms"):
        return None, f"newest order written against newest change in Kafka: {fault}"
    return round(max(0.0, lag) / 1000, 3), "newest order written against newest change in Kafka"


def _ingest_lag(door: ClickHouseDoor, seconds: float) -> _Answer:
    delay = ingest_delay_ms(door, _INGEST, seconds=seconds)
    if delay is None:
        return None, "no tick came in during the last minute: no lag is proved"
    return round(delay / 1000, 3), "p99 of the ticks of the last minute"
