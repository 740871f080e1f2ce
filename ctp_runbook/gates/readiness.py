"""The readiness gate's file: each SLI, its target, and whether it was measured (CONTRACT §3).

A file is judged by recomputation: health follows from value and target, never from what the
file claims. A declared value is a typed number, and no proof for a real run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import InputError, Problem
from ctp_runbook.plan.template_keys import SLI_NAMES
from ctp_runbook.record.journal import utc_text
from ctp_runbook.record.rundir import write_atomic

__all__ = [
    "DECLARED_FLAGS",
    "SLIS",
    "Readiness",
    "SliReading",
    "SliSpec",
    "declared_readings",
    "judge_readiness",
    "judge_readiness_file",
    "not_measured",
    "write_readiness",
]

_CLOCK_SLACK_SECONDS = 1.0
# A file that stands alone is not to be older than this.
_EDGE_OF_FUTURE_SECONDS = 2.0


@dataclass(frozen=True)
class SliSpec:
    """One SLI: ``op`` compares value and ``target``; numbers lie between ``low`` and ``high``.

    ``words`` are the values of an SLI that is no number; ``core`` ones every file must hold
    but for what the rehearsal twin does not have.
    """

    name: str
    op: str
    target: float | str | bool
    unit: str
    low: float = 0.0
    high: float = math.inf
    words: tuple[str | bool, ...] = ()
    core: bool = True
    in_twin: bool = True

    def is_value(self, value: Any) -> bool:
        """True for a value this SLI can have; NaN and an infinity are none."""
        if self.words:
            return any(
                value is word or (value == word and isinstance(value, str)) for word in self.words
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isfinite(value) and self.low <= value <= self.high

    def is_healthy(self, value: Any) -> bool:
        """Whether ``value`` meets the target; what is no value never does."""
        if not self.is_value(value):
            return False
        if self.op == "==":
            return bool(value == self.target)
        assert isinstance(self.target, float)
        return bool(value <= self.target if self.op == "<=" else value >= self.target)

    @property
    def expected(self) -> str:
        """``<= 2000 ms``, or the words allowed."""
        return f"{self.op} {_shown(self.target)} {self.unit}".rstrip()

    @property
    def range(self) -> str:
        """What values there are, in words."""
        if self.words:
            return " or ".join(_shown(word) for word in self.words)
        top = "" if math.isinf(self.high) else f" and <= {self.high:g}"
        return f"a finite number >= {self.low:g}{top}"


_HEALTH = ("healthy", "unhealthy")
_SPECS = (
    SliSpec("quant_hft_ctp_query_latency_p99_ms", "<=", 2000.0, "ms"),
    SliSpec("quant_hft_ctp_flow_control_hits", "<=", 10.0, "count"),
    SliSpec("quant_hft_ctp_disconnect_recovery_success_rate", ">=", 0.99, "ratio", high=1.0),
    SliSpec("quant_hft_ctp_reject_classified_ratio", ">=", 0.95, "ratio", high=1.0),
    SliSpec("quant_hft_core_process_alive", "==", True, "", words=(True, False)),
    SliSpec("quant_hft_storage_redis_health", "==", "healthy", "", words=_HEALTH),
    SliSpec(
        "quant_hft_storage_timescale_health", "==", "healthy", "", words=_HEALTH, in_twin=False
    ),
    SliSpec(
        "quant_hft_strategy_bridge_chain_integrity",
        "==",
        "complete",
        "",
        words=("complete", "incomplete"),
    ),
    SliSpec("quant_hft_kafka_publish_success_rate", ">=", 0.99, "ratio", high=1.0, core=False),
    SliSpec("quant_hft_kafka_spool_backlog", "<=", 0.0, "count", core=False),
    SliSpec("quant_hft_cdc_lag_seconds", "<=", 5.0, "s", core=False),
    SliSpec("quant_hft_clickhouse_ingest_lag_seconds", "<=", 5.0, "s", core=False),
)
SLIS: Mapping[str, SliSpec] = {spec.name: spec for spec in _SPECS}
assert tuple(SLIS) == SLI_NAMES  # CONTRACT §3 names them once

# The flags of RUNBOOK §4.2, without their dashes.
DECLARED_FLAGS: Mapping[str, str] = {
    "query-latency-ms": "quant_hft_ctp_query_latency_p99_ms",
    "flow-control-hits": "quant_hft_ctp_flow_control_hits",
    "disconnect-recovery-success-rate": "quant_hft_ctp_disconnect_recovery_success_rate",
    "reject-classified-ratio": "quant_hft_ctp_reject_classified_ratio",
    "core-process-alive": "quant_hft_core_process_alive",
    "redis-health": "quant_hft_storage_redis_health",
    "timescale-health": "quant_hft_storage_timescale_health",
    "strategy-bridge-chain-status": "quant_hft_strategy_bridge_chain_integrity",
}


@dataclass(frozen=True)
class SliReading:
    """One SLI as read; ``value`` None where it could not be measured, which is never healthy."""

    name: str
    value: float | str | bool | None
    provenance: str
    detail: str
    source: str
    sampled_utc: str

    @property
    def is_healthy(self) -> bool:
        """Recomputed from value and target."""
        return SLIS[self.name].is_healthy(self.value)

    @property
    def sentence(self) -> str:
        """``quant_hft_… FAILED: 2400 ms, expected <= 2000 ms (measured: …)``."""
        spec, word = SLIS[self.name], "ok" if self.is_healthy else "FAILED"
        value = "no value" if self.value is None else f"{_shown(self.value)} {spec.unit}".rstrip()
        told = f": {self.detail}" if self.detail else ""
        return f"{self.name} {word}: {value}, expected {spec.expected} ({self.provenance}{told})"

    def to_json(self) -> dict[str, Any]:
        """The entry of ``slis[]``."""
        spec = SLIS[self.name]
        return {
            "name": self.name,
            "value": self.value,
            "target": spec.target,
            "unit": spec.unit,
            "healthy": self.is_healthy,
            "provenance": self.provenance,
            "detail": self.detail,
            "source": self.source,
            "sampled_utc": self.sampled_utc,
        }


@dataclass(frozen=True)
class Readiness:
    """What the file says. ``absent`` are SLIs of components this environment does not have."""

    readings: tuple[SliReading, ...]
    environment: str
    profile: str = ""
    absent: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_healthy(self) -> bool:
        """True when something was read and all of it is healthy."""
        return bool(self.readings) and all(one.is_healthy for one in self.readings)

    @property
    def exit_code(self) -> int:
        """0, or 3: the gate failed and the old stack still trades."""
        return 0 if self.is_healthy else 3

    @property
    def sentences(self) -> tuple[str, ...]:
        """One a reading."""
        return tuple(one.sentence for one in self.readings)

    def to_bytes(self) -> bytes:
        """The JSON file, keys sorted."""
        body = {
            "overall_healthy": self.is_healthy,
            "slis": [one.to_json() for one in self.readings],
            "metadata": {
                **self.metadata,
                "environment": self.environment,
                "profile": self.profile,
                "not_in_this_environment": list(self.absent),
            },
        }
        return (json.dumps(body, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def write_readiness(path: Path, readiness: Readiness) -> None:
    """Write the file whole or not at all."""
    write_atomic(path, readiness.to_bytes())


def declared_readings(declared: Mapping[str, str]) -> tuple[SliReading, ...]:
    """Readings of the values typed by hand, by flag of ``DECLARED_FLAGS``.

    Raises InputError with every value that its SLI cannot have (latency -5, ratio 42, NaN).
    """
    problems, readings = [], []
    for flag, text in declared.items():
        spec = SLIS[DECLARED_FLAGS[flag]]
        value = _typed(spec, text.strip())
        if not spec.is_value(value):
            problems.append(
                Problem("command line", 0, f"--{flag}", repr(text), spec.range, "correct the value")
            )
            continue
        source = f"--{flag}"
        detail = "typed by hand; fails the gate of a real run"
        readings.append(SliReading(spec.name, value, "declared", detail, source, utc_text()))
    if problems:
        raise InputError(problems)
    return tuple(readings)


def not_measured(name: str, *, detail: str, source: str = "") -> SliReading:
    """A reading without a value: why there is none."""
    return SliReading(name, None, "measured", detail, source, utc_text())


def judge_readiness_file(
    path: Path, *, real: bool, since: float, until: float | None = None, rehearsal: bool = False
) -> list[str]:
    """What is wrong with a readiness file; ``since`` and ``until`` are seconds since the epoch."""
    try:
        payload = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except OSError as error:
        return [f"{path.name}: cannot be read: {error.strerror}; the readiness step writes it"]
    except ValueError as error:
        return [f"{path.name}: not JSON: {error}"]
    found = judge_readiness(payload, real=real, since=since, until=until, rehearsal=rehearsal)
    return [f"{path.name}: {finding}" for finding in found]


def judge_readiness(
    payload: Any, *, real: bool, since: float, until: float | None = None, rehearsal: bool = False
) -> Iterator[str]:
    """What is wrong with a readiness report, its health recomputed.

    ``real`` refuses declared values; SLIs may be absent in a ``rehearsal`` only, and only those
    of components the twin lacks.
    """
    slis = payload.get("slis") if isinstance(payload, dict) else None
    metadata = payload.get("metadata") if isinstance(payload, dict) else None
    if not isinstance(slis, list) or not isinstance(metadata, dict):
        yield "expected an object with overall_healthy, slis and metadata"
        return
    names = [one.get("name") if isinstance(one, dict) else None for one in slis]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield f"{name} stands in it twice"
    due_until = time.time() + _EDGE_OF_FUTURE_SECONDS if until is None else until
    healthy = bool(slis)
    for one in slis:
        found = list(_judge_sli(one, real=real, since=since, until=due_until))
        yield from found
        healthy = healthy and isinstance(one, dict) and _recomputed(one)
    yield from _missing(names, metadata, rehearsal=rehearsal)
    if payload.get("overall_healthy") is not healthy:
        yield f"overall_healthy is {payload.get('overall_healthy')}; the SLIs make it {healthy}"


def _judge_sli(one: Any, *, real: bool, since: float, until: float) -> Iterator[str]:
    spec = SLIS.get(str(one.get("name"))) if isinstance(one, dict) else None
    if spec is None:
        yield f"{str(one)[:80]!r} is no known SLI"
        return
    for key in SliReading(spec.name, None, "", "", "", "").to_json():
        if key not in one:
            yield f"{spec.name}: {key} is missing"
    value = one.get("value")
    target = one.get("target")
    same_type = isinstance(target, bool) == isinstance(spec.target, bool)
    if not same_type or target != spec.target or one.get("unit") != spec.unit:
        given = f"{one.get('target')} {one.get('unit')}"
        yield f"{spec.name}: target {given}; CONTRACT §3 has {spec.expected}"
    if one.get("healthy") is not spec.is_healthy(value):
        yield f"{spec.name}: healthy is {one.get('healthy')} with the value {value!r}"
    if not spec.is_healthy(value):
        shown = "no value" if value is None else repr(value)
        yield f"{spec.name}: {shown}, expected {spec.expected}: {one.get('detail')}"
    if one.get("provenance") not in ("measured", "declared"):
        yield f"{spec.name}: provenance {one.get('provenance')!r}; expected measured or declared"
    elif real and one["provenance"] == "declared":
        yield f"{spec.name}: declared ({one.get('source')}); a real run wants it measured"
    yield from _judge_instant(spec.name, one.get("sampled_utc"), since=since, until=until)


def _judge_instant(name: str, text: Any, *, since: float, until: float) -> Iterator[str]:
    try:
        moment = datetime.fromisoformat(text)
        sampled = moment.timestamp() if moment.tzinfo else math.nan
    except (TypeError, ValueError):
        sampled = math.nan
    if not since - _CLOCK_SLACK_SECONDS <= sampled <= until + _CLOCK_SLACK_SECONDS:
        yield (
            f"{name}: sampled_utc {text!r} is not between {utc_text(since)} and {utc_text(until)}: "
            "stale, or not from this step"
        )


def _recomputed(one: Mapping[str, Any]) -> bool:
    spec = SLIS.get(str(one.get("name")))
    return spec is not None and spec.is_healthy(one.get("value"))


def _missing(
    names: Iterable[Any], metadata: Mapping[str, Any], *, rehearsal: bool
) -> Iterator[str]:
    given = set(names)
    absent = metadata.get("not_in_this_environment")
    if not isinstance(absent, list):
        yield "metadata.not_in_this_environment is missing"
        absent = []
    excused = {one.name for one in _SPECS if rehearsal and not one.in_twin and one.name in absent}
    for spec in _SPECS:
        if spec.core and spec.name not in given | excused:
            yield f"{spec.name} is missing"


def _typed(spec: SliSpec, text: str) -> float | str | bool | None:
    if spec.words == (True, False):
        return {"true": True, "false": False}.get(text)
    if spec.words:
        return text
    try:
        return float(text)
    except ValueError:
        return None


def _shown(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
