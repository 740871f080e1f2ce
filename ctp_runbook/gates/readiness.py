"""The readiness gate's file: each SLI, its target, and whether it was measured (CONTRACT §3).

A file is judged by recomputation: health follows from value and target, never from what the
file claims. A declared value is a typed number, and no proof for a real run.
"""

from __future__ import annotations

import json
import math
import operator
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import InputError, ProbeError, Problem
from ctp_runbook.host.files import read_small
from ctp_runbook.plan.template_keys import SLI_NAMES
from ctp_runbook.probes.strict_json import decode_json
from ctp_runbook.record.journal import utc_text
from ctp_runbook.record.rundir import write_atomic

__all__ = [
    "DECLARED_FLAGS",
    "SLIS",
    "UNMEASURABLE",
    "Readiness",
    "SliReading",
    "SliSpec",
    "SliValue",
    "declared_readings",
    "judge_readiness",
    "judge_readiness_file",
    "measured",
    "write_readiness",
]

SliValue = float | str | bool
# The provenance of what this engine cannot have; its detail is the reason.
UNMEASURABLE = "not_measurable"
_CLOCK_SLACK_SECONDS = 1.0
# A file that stands alone is not to be older than this.
_EDGE_OF_FUTURE_SECONDS = 2.0
# A dozen SLIs take some kilobytes.
_MOST_BYTES = 1 << 20
_BOOLS = {"true": True, "false": False}


@dataclass(frozen=True)
class SliSpec:
    """One SLI: ``op`` compares value and ``target``; numbers lie between 0 and ``high``.

    ``words`` are the values of an SLI that is no number; ``core`` ones every file must hold
    but for what the rehearsal twin does not have.
    """

    name: str
    op: str
    target: SliValue
    unit: str
    high: float = math.inf
    words: tuple[str | bool, ...] = ()
    core: bool = True
    in_twin: bool = True

    def is_value(self, value: Any) -> bool:
        """True for a value this SLI can have; NaN and an infinity are none."""
        if self.words:
            return isinstance(value, str | bool) and value in self.words
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        # NaN fails these comparisons, and a whole number of any size stands them.
        return 0.0 <= value <= self.high and value < math.inf

    def is_healthy(self, value: Any) -> bool:
        """Return whether ``value`` meets the target; what is no value never does."""
        compare = {"==": operator.eq, "<=": operator.le, ">=": operator.ge}[self.op]
        return self.is_value(value) and bool(compare(value, self.target))

    def read(self, text: str) -> SliValue | None:
        """Return the value that was typed or printed; None for what it cannot have."""
        try:
            value: SliValue = _BOOLS.get(text, text) if self.words else float(text)
        except ValueError:
            return None
        return value if self.is_value(value) else None

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
        return f"a finite number >= 0{top}"


_HEALTH = ("healthy", "unhealthy")
_CHAIN = ("complete", "incomplete")
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
    SliSpec("quant_hft_strategy_bridge_chain_integrity", "==", "complete", "", words=_CHAIN),
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
    value: SliValue | None
    provenance: str
    detail: str
    source: str
    sampled_utc: str

    @property
    def is_healthy(self) -> bool:
        """Recomputed from value and target."""
        return SLIS[self.name].is_healthy(self.value)

    @property
    def is_excused(self) -> bool:
        """True of what this engine cannot have, by the word of its template."""
        return self.provenance == UNMEASURABLE

    @property
    def sentence(self) -> str:
        """``quant_hft_… FAILED: 2400 ms, expected <= 2000 ms (measured: …)``."""
        if self.is_excused:
            return f"{self.name} NOT MEASURED: this engine cannot have it ({self.detail})"
        spec, word = SLIS[self.name], "ok" if self.is_healthy else "FAILED"
        value = "no value" if self.value is None else f"{_shown(self.value)} {spec.unit}".rstrip()
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.name} {word}: {value}, expected {spec.expected} ({self.provenance}{detail})"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``slis[]``."""
        spec = SLIS[self.name]
        own = {"target": spec.target, "unit": spec.unit, "healthy": self.is_healthy}
        return {**vars(self), **own}


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
        """True when something was read and all that can be is healthy."""
        asked = [reading for reading in self.readings if not reading.is_excused]
        return bool(asked) and all(reading.is_healthy for reading in asked)

    @property
    def exit_code(self) -> int:
        """0, or 3: the gate failed and the old stack still trades."""
        return 0 if self.is_healthy else 3

    def to_bytes(self) -> bytes:
        """Return the JSON file, keys sorted."""
        body = {
            "overall_healthy": self.is_healthy,
            "slis": [reading.to_json() for reading in self.readings],
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


def measured(name: str, value: SliValue | None, *, detail: str, source: str) -> SliReading:
    """Return a reading of now; without a value ``detail`` says why there is none."""
    return SliReading(name, value, "measured", detail, source, utc_text())


def declared_readings(declared: Mapping[str, str]) -> tuple[SliReading, ...]:
    """Return readings of the values typed by hand, by flag of ``DECLARED_FLAGS``.

    Raises InputError with every value that its SLI cannot have (latency -5, ratio 42, NaN).
    """
    problems, readings = list[Problem](), list[SliReading]()
    detail = "typed by hand; fails the gate of a real run"
    for flag, text in declared.items():
        spec, key = SLIS[DECLARED_FLAGS[flag]], f"--{flag}"
        if (value := spec.read(text.strip())) is None:
            words = (repr(text), spec.range, "correct the value")
            problems.append(Problem("command line", 0, key, *words))
        else:
            readings.append(SliReading(spec.name, value, "declared", detail, key, utc_text()))
    if problems:
        raise InputError(problems)
    return tuple(readings)


# --- judging a file ---------------------------------------------------------------


def judge_readiness_file(
    path: Path,
    *,
    real: bool,
    since: float,
    until: float | None = None,
    rehearsal: bool = False,
    excused: Collection[str] = (),
) -> list[str]:
    """Return what is wrong with a readiness file; times are seconds since the epoch.

    ``excused`` are the SLIs that the template says this engine cannot have.
    """
    try:
        report, odd = decode_json(read_small(path, most=_MOST_BYTES), subject=path.name)
    except OSError as error:
        return [f"{path.name}: cannot be read: {error.strerror}; the readiness step writes it"]
    except ProbeError as error:
        return [str(error)]
    if odd:
        return [f"{path.name}: not JSON: {odd[0]} is no number"]
    findings = judge_readiness(
        report, real=real, since=since, until=until, rehearsal=rehearsal, excused=excused
    )
    return [f"{path.name}: {finding}" for finding in findings]


def judge_readiness(
    report: Any,
    *,
    real: bool,
    since: float,
    until: float | None = None,
    rehearsal: bool = False,
    excused: Collection[str] = (),
) -> Iterator[str]:
    """Yield what is wrong with a readiness report, its health recomputed.

    ``real`` refuses declared values; SLIs may be absent in a ``rehearsal`` only, and only those
    of components the twin lacks.
    """
    parts = report if isinstance(report, dict) else {}
    slis, metadata = parts.get("slis"), parts.get("metadata")
    if not isinstance(slis, list) or not isinstance(metadata, dict):
        yield "expected an object with overall_healthy, slis and metadata"
        return
    entries = [sli if isinstance(sli, dict) else {"no object": sli} for sli in slis]
    names = [str(entry.get("name")) for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} stands in it twice"
    due_until = time.time() + _EDGE_OF_FUTURE_SECONDS if until is None else until
    healthy = any(entry.get("provenance") != UNMEASURABLE for entry in entries)
    for name, entry in zip(names, entries, strict=True):
        if (spec := SLIS.get(name)) is None:
            yield f"{str(entry)[:80]!r} is no known SLI"
        else:
            yield from _entry_findings(spec, entry, real=real, excused=excused)
            yield from _instant_findings(name, entry, since=since, until=due_until)
        is_well = spec is not None and spec.is_healthy(entry.get("value"))
        healthy = healthy and (is_well or entry.get("provenance") == UNMEASURABLE)
    yield from _gaps(names, metadata, rehearsal=rehearsal)
    if (claim := parts.get("overall_healthy")) is not healthy:
        yield f"overall_healthy is {claim}; the SLIs make it {healthy}"


def _entry_findings(
    spec: SliSpec, entry: Mapping[str, Any], *, real: bool, excused: Collection[str]
) -> Iterator[str]:
    for key in SliReading(spec.name, None, "", "", "", "").to_json():
        if key not in entry:
            yield f"{spec.name}: {key} is missing"
    value, target, unit = (entry.get(key) for key in ("value", "target", "unit"))
    # To Python true is 1: a target of another type is another one.
    same_type = isinstance(target, bool) == isinstance(spec.target, bool)
    if not same_type or target != spec.target or unit != spec.unit:
        yield f"{spec.name}: target {target} {unit}; CONTRACT §3 has {spec.expected}"
    if (claim := entry.get("healthy")) is not spec.is_healthy(value):
        yield f"{spec.name}: healthy is {claim} with the value {value!r}"
    if entry.get("provenance") == UNMEASURABLE:
        if spec.name not in excused:
            yield (
                f"{spec.name}: said not to be measurable ({entry.get('detail')}), and the template "
                "does not say so"
            )
        return
    if not spec.is_healthy(value):
        shown = "no value" if value is None else repr(value)
        yield f"{spec.name}: {shown}, expected {spec.expected}: {entry.get('detail')}"
    provenance = entry.get("provenance")
    if provenance not in ("measured", "declared"):
        yield f"{spec.name}: provenance {provenance!r}; expected measured or declared"
    elif real and provenance == "declared":
        yield f"{spec.name}: declared ({entry.get('source')}); a real run wants it measured"


def _instant_findings(
    name: str, entry: Mapping[str, Any], *, since: float, until: float
) -> Iterator[str]:
    text = entry.get("sampled_utc")
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
        sampled = moment.timestamp() if moment.tzinfo else math.nan
    except (TypeError, ValueError):
        sampled = math.nan
    if not since - _CLOCK_SLACK_SECONDS <= sampled <= until + _CLOCK_SLACK_SECONDS:
        yield (
            f"{name}: sampled_utc {text!r} is not between {utc_text(since)} and {utc_text(until)}: "
            "stale, or not from this step"
        )


def _gaps(names: list[str], metadata: Mapping[str, Any], *, rehearsal: bool) -> Iterator[str]:
    absent = metadata.get("not_in_this_environment")
    if not isinstance(absent, list):
        yield "metadata.not_in_this_environment is missing"
        absent = []
    for spec in _SPECS:
        is_excused = rehearsal and not spec.in_twin and spec.name in absent
        if spec.core and spec.name not in names and not is_excused:
            yield f"{spec.name} is missing"


def _shown(value: SliValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else value
