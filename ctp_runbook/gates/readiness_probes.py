"""Measure the readiness SLIs: the engine's metrics page, Redis, alive and SLI commands."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctp_runbook.errors import InputError, ProbeError, Problem
from ctp_runbook.gates.readiness import (
    SLIS,
    Readiness,
    SliReading,
    SliSpec,
    declared_readings,
    not_measured,
)
from ctp_runbook.gates.readiness_pipeline import PipelineSources, pipeline_readings
from ctp_runbook.host.process import end_group
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.record.journal import utc_text
from ctp_runbook.watch.histogram import bucket_quantile, counts_fault, group_buckets

__all__ = ["REHEARSAL_PROFILE", "ReadinessSources", "measure"]

REHEARSAL_PROFILE = "rehearsal"
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
_UNCLASSIFIED = ("", "unknown", "unclassified")
_LOOK_SECONDS = 0.25
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class ReadinessSources:
    """Where to measure, and what was declared instead (by flag, without dashes).

    ``commands`` maps an SLI to a command that prints its value. The bridge chain is complete
    when Redis has a client of every name in ``bridge_clients`` and every key of
    ``bridge_keys`` at its value. The p99 is that of the next
    queries, which are waited for ``window_seconds`` at most.
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
    pipeline: PipelineSources = field(default_factory=PipelineSources)
    seconds: float = 5.0
    window_seconds: float = 10.0
    cwd: Path = Path()
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def measure(sources: ReadinessSources) -> Readiness:
    """Read every SLI; a measured value wins over a declared one.

    Raises InputError for declared values that cannot be, and for a command of an unknown SLI.
    """
    if unknown := [name for name in sources.commands if name not in SLIS]:
        raise InputError(
            Problem("command line", 0, "--sli-cmd", name, ", ".join(SLIS), "name an SLI")
            for name in unknown
        )
    declared = {one.name: one for one in declared_readings(sources.declared)}
    measured = {one.name: one for one in _measured(sources)}
    found = {**declared, **measured}
    absent = tuple(spec.name for spec in SLIS.values() if _is_absent(spec, sources, found))
    readings = tuple(
        found.get(name) or not_measured(name, detail=_remedy(name))
        for name, spec in SLIS.items()
        if name not in absent and (spec.core or name in found)
    )
    return Readiness(
        readings=readings,
        environment=sources.environment,
        profile=sources.profile,
        absent=absent,
        metadata={
            "host": socket.gethostname(),
            "run_id": sources.environ.get("CTP_RUN_ID", ""),
            "step": sources.environ.get("CTP_STEP", ""),
        },
    )


def _is_absent(spec: SliSpec, sources: ReadinessSources, found: Mapping[str, SliReading]) -> bool:
    lacks = not spec.core or not spec.in_twin
    return sources.profile == REHEARSAL_PROFILE and lacks and spec.name not in found


def _remedy(name: str) -> str:
    short = name.removeprefix("quant_hft_").upper()
    return (
        f"no source was given; use --metrics-url, --redis-url or --alive-cmd, or "
        f"READINESS_{short}_CMD for an engine without metrics"
    )


def _measured(sources: ReadinessSources) -> Iterable[SliReading]:
    if sources.metrics_url:
        yield from _engine(sources)
    if sources.redis_url:
        yield from _redis(sources)
    if sources.alive_command:
        yield _alive(sources)
    yield from pipeline_readings(sources.pipeline)
    for name, command in sources.commands.items():
        yield _by_command(name, command, sources)


# --- the engine's metrics page ----------------------------------------------------


def _engine(sources: ReadinessSources) -> Iterable[SliReading]:
    from ctp_runbook.probes.redis import shown_url

    source = f"GET {shown_url(sources.metrics_url)}"
    try:
        before = scrape(sources.metrics_url, families=_FAMILIES, seconds=sources.seconds)
        page = _after_a_query(sources, before)
    except ProbeError as error:
        for name in _FROM_PAGE:
            yield not_measured(name, detail=str(error), source=source)
        return
    published = _sum(page, _PUBLISHED) is not None
    for name, read in (_FROM_PAGE | (_PUBLISHER if published else {})).items():
        value, detail = read(page, before)
        if value is not None and not SLIS[name].is_value(value):
            value, detail = None, f"{detail}: {value} is no value of it"
        yield SliReading(name, value, "measured", detail, source, utc_text())


def _after_a_query(sources: ReadinessSources, before: Mapping[str, float]) -> dict[str, float]:
    """The page once the engine has queried again, or when ``window_seconds`` are over."""
    end = time.monotonic() + sources.window_seconds
    while True:
        time.sleep(_LOOK_SECONDS)
        page = scrape(sources.metrics_url, families=_FAMILIES, seconds=sources.seconds)
        if _has_queried(page, before) or time.monotonic() > end:
            return page


def _has_queried(page: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """True as well where waiting for longer mends nothing: the histogram is none."""
    try:
        return bool(_recent_queries(page, before))
    except ProbeError:
        return True


def _recent_queries(page: Mapping[str, float], before: Mapping[str, float]) -> dict[float, float]:
    """Bucket counts of the queries made between the two pages; empty for none.

    Raises ProbeError for a page whose histogram is none, or that says less than the one before.
    """
    now, then = _buckets(page), _buckets(before)
    if then and now.keys() != then.keys():
        raise ProbeError(f"{_QUERIES} has no value: it has other buckets than a moment ago")
    recent = {bound: count - then.get(bound, 0.0) for bound, count in now.items()}
    if fault := counts_fault(recent):
        raise ProbeError(f"{_QUERIES} has no value: of the queries just now {fault}")
    return recent if recent and recent[max(recent)] > 0 else {}


_Page = Mapping[str, float]
_Read = tuple[float | None, str]


def _query_p99_ms(page: _Page, before: _Page) -> _Read:
    try:
        if not _buckets(page):
            return None, f"{_QUERIES} is not on the page"
        recent = _recent_queries(page, before)
    except ProbeError as error:
        return None, str(error)
    found = bucket_quantile(recent, quantile=0.99)
    if found is None:
        return None, "the engine made no query while it was watched: no latency is proved"
    told = f"p99 of {recent[max(recent)]:g} queries just now"
    p99 = round(found.value * 1000, 3)
    if not found.is_over:
        return p99, told
    told += f" is more than {p99:g} ms, above the widest bucket of {_QUERIES}"
    # A number says no more than itself: up to the target, the bound would be read as healthy.
    return (None if SLIS[_QUERY_P99].is_healthy(p99) else p99), told


def _buckets(page: _Page) -> dict[float, float]:
    """Counts by bucket bound; empty where there are none. Raises ProbeError for no histogram."""
    from ctp_runbook.record.samples import split_series

    # In the order of their keys: floats add up differently in another one.
    series = [(split_series(key), value) for key, value in sorted(page.items())]
    own = [(labels, n) for (name, labels), n in series if name == f"{_QUERIES}_bucket"]
    if not own:
        return {}
    buckets = group_buckets(enumerate(labels for labels, _ in own))
    counts = {bound: sum(own[at][1] for at in places) for bound, places in buckets.groups}
    fault = buckets.fault or ("" if all(map(math.isfinite, counts.values())) else "not finite")
    if fault := fault or counts_fault(counts):
        raise ProbeError(f"{_QUERIES} has no value: {fault}")
    return counts


def _flow_control_hits(page: _Page, before: _Page) -> _Read:
    total = _sum(page, _VIOLATIONS)
    return total, "queries refused (-2, -3) since the engine's start" if total is not None else (
        f"{_VIOLATIONS} is not on the page"
    )


def _recovery_rate(page: _Page, before: _Page) -> _Read:
    recovered, connected = _sum(page, _RECONNECTS), _sum(page, _CONNECTED)
    if recovered is None or connected is None:
        return None, f"{_RECONNECTS} or {_CONNECTED} is not on the page"
    lost = 0.0 if connected >= 1 else 1.0
    told = f"{recovered:g} sessions came back, {lost:g} is lost now"
    return (recovered / (recovered + lost) if recovered + lost else 1.0), told


def _classified_ratio(page: _Page, before: _Page) -> _Read:
    from ctp_runbook.record.samples import split_series

    total, classified = 0.0, 0.0
    series = [(split_series(key), value) for key, value in page.items()]
    rejects = [(labels, value) for (name, labels), value in series if name == _REJECTS]
    if not rejects or any(math.isnan(value) for _, value in rejects):
        return None, f"{_REJECTS} is not on the page"
    for labels, value in rejects:
        total += value
        if labels.get("reason", "").lower() not in _UNCLASSIFIED:
            classified += value
    if total == 0:
        return 1.0, "no reject since the engine's start: none is left unclassified"
    return classified / total, f"{classified:g} of {total:g} rejects carry a reason"


def _sum(page: _Page, family: str) -> float | None:
    from ctp_runbook.record.samples import split_series

    values = [value for key, value in page.items() if split_series(key)[0] == family]
    return sum(values) if values and not any(map(math.isnan, values)) else None


def _publish_rate(page: _Page, before: _Page) -> _Read:
    from ctp_runbook.record.samples import split_series

    series = [(split_series(key), value) for key, value in page.items()]
    counts = {labels.get("result"): n for (name, labels), n in series if name == _PUBLISHED}
    total = sum(counts.values())
    if not total:
        return None, "nothing was published since the engine's start: no rate is proved"
    return counts.get("ok", 0.0) / total, f"{counts.get('ok', 0.0):g} of {total:g} records"


def _spool_backlog(page: _Page, before: _Page) -> _Read:
    waiting = _sum(page, _SPOOL)
    return waiting, f"{_SPOOL} of the page" if waiting is not None else f"{_SPOOL} is not there"


# Of an engine that publishes to Kafka.
_PUBLISHER: dict[str, Callable[[_Page, _Page], _Read]] = {
    "quant_hft_kafka_publish_success_rate": _publish_rate,
    "quant_hft_kafka_spool_backlog": _spool_backlog,
}
_FROM_PAGE: dict[str, Callable[[_Page, _Page], _Read]] = {
    _QUERY_P99: _query_p99_ms,
    "quant_hft_ctp_flow_control_hits": _flow_control_hits,
    "quant_hft_ctp_disconnect_recovery_success_rate": _recovery_rate,
    "quant_hft_ctp_reject_classified_ratio": _classified_ratio,
}


# --- Redis, commands --------------------------------------------------------------


def _redis(sources: ReadinessSources) -> Iterable[SliReading]:
    from ctp_runbook.probes.redis import look_at_redis, shown_url

    health, chain = "quant_hft_storage_redis_health", "quant_hft_strategy_bridge_chain_integrity"
    source = f"PING, INFO {shown_url(sources.redis_url)}"
    wants_chain = bool(sources.bridge_clients or sources.bridge_keys)
    try:
        look = look_at_redis(sources.redis_url, seconds=sources.seconds, keys=sources.bridge_keys)
    except ProbeError as error:
        for name in (health, *((chain,) if wants_chain else ())):
            yield not_measured(name, detail=str(error), source=source)
        return
    word = "healthy" if look.is_healthy else "unhealthy"
    yield SliReading(health, word, "measured", look.sentence, source, utc_text())
    if not wants_chain:
        return
    missing = [f"no client {one}" for one in sources.bridge_clients if one not in look.clients]
    missing += [
        f"{key} is {look.keys[key]!r}, expected {value!r}"
        for key, value in sources.bridge_keys.items()
        if look.keys[key] != value
    ]
    parts = [*sources.bridge_clients, *(f"{k}={v}" for k, v in sources.bridge_keys.items())]
    detail = "; ".join(missing) or f"seen: {', '.join(parts)}"
    word = "incomplete" if missing else "complete"
    source = f"CLIENT LIST, GET {shown_url(sources.redis_url)}"
    yield SliReading(chain, word, "measured", detail, source, utc_text())


def _alive(sources: ReadinessSources) -> SliReading:
    """Exit 0 alive, 1 gone, anything else could not tell (CONTRACT §1)."""
    name = "quant_hft_core_process_alive"
    try:
        code, _ = _run(sources.alive_command, sources)
    except ProbeError as error:
        return not_measured(name, detail=str(error), source="alive command")
    detail = f"exit {code}"
    value = {0: True, 1: False}.get(code)
    if value is None:
        detail += ": could not tell (0 is alive, 1 is gone)"
    return SliReading(name, value, "measured", detail, "alive command", utc_text())


def _by_command(name: str, command: str, sources: ReadinessSources) -> SliReading:
    """The last word a command prints, if it exits 0."""
    spec, source = SLIS[name], "SLI command"
    try:
        code, output = _run(command, sources)
    except ProbeError as error:
        return not_measured(name, detail=str(error), source=source)
    text = output.split()[-1] if output.strip() else ""
    value = _value(spec, text)
    if code != 0 or value is None:
        detail = f"exit {code}, printed {text[:40]!r}; expected exit 0, {spec.range}"
        return not_measured(name, detail=detail, source=source)
    return SliReading(name, value, "measured", "exit 0", source, utc_text())


def _value(spec: SliSpec, text: str) -> float | str | bool | None:
    value: float | str | bool
    if spec.words:
        value = _WORDS.get(text, text)
    else:
        try:
            value = float(text)
        except ValueError:
            return None
    return value if spec.is_value(value) else None


def _run(command: str, sources: ReadinessSources) -> tuple[int, str]:
    """Exit code and output of a command; one that does not end in time is ended, group and all."""
    child = subprocess.Popen(
        ["bash", "-c", command],
        cwd=sources.cwd,
        env=dict(sources.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with child:
        try:
            output, _ = child.communicate(timeout=sources.seconds)
        except subprocess.TimeoutExpired as error:
            end_group(child.pid, term_grace=0.5, kill_grace=1.0)
            raise ProbeError(f"the command did not end within {sources.seconds:g} s") from error
    return child.returncode, output
