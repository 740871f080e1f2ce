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

from msgspec import to_builtins

from ctp_runbook.errors import InputError, ProbeError, Problem
from ctp_runbook.host.files import read_small
from ctp_runbook.plan.template_keys import SLI_NAMES
from ctp_runbook.record.gate_files import (
    UNMEASURABLE,
    ReadinessFacts,
    ReadinessFile,
    SliEntry,
    SliValue,
    readiness_of,
)
from ctp_runbook.record.journal import utc_text
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.strict_json import decode_json

__all__ = [
    "DECLARED_FLAGS",
    "SLIS",
    "Readiness",
    "SliReading",
    "SliSpec",
    "declared_readings",
    "judge_readiness",
    "judge_readiness_file",
    "measured",
    "write_readiness",
]

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

    @property
    def entry(self) -> SliEntry:
        """Its entry of ``slis[]``."""
        spec = SLIS[self.name]
        return SliEntry(**vars(self), target=spec.target, unit=spec.unit, healthy=self.is_healthy)


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
        file = ReadinessFile(
            overall_healthy=self.is_healthy,
            slis=tuple(reading.entry for reading in self.readings),
            metadata=ReadinessFacts(
                **self.metadata,
                environment=self.environment,
                profile=self.profile,
                not_in_this_environment=self.absent,
            ),
        )
        body = to_builtins(file)
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
    file, refused = readiness_of(report)
    for name, why in refused.items():
        yield f"{name}: {why}" if name else why
    if "" in refused:
        return
    names = [entry.name for entry in file.slis]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} stands in it twice"
    due_until = time.time() + _EDGE_OF_FUTURE_SECONDS if until is None else until
    for entry in file.slis:
        if (spec := SLIS.get(entry.name)) is None:
            yield f"{str(entry)[:80]!r} is no known SLI"
        else:
            yield from _entry_findings(spec, entry, real=real, excused=excused)
            yield from _instant_findings(entry, since=since, until=due_until)
    yield from _gaps({*names, *refused}, file.metadata, rehearsal=rehearsal)
    asked = [entry for entry in file.slis if not entry.is_unmeasurable]
    healthy = bool(asked) and not refused and all(map(_is_well, asked))
    if file.overall_healthy is not healthy:
        yield f"overall_healthy is {file.overall_healthy}; the SLIs make it {healthy}"


def _is_well(entry: SliEntry) -> bool:
    spec = SLIS.get(entry.name)
    return spec is not None and spec.is_healthy(entry.value)


def _entry_findings(
    spec: SliSpec, entry: SliEntry, *, real: bool, excused: Collection[str]
) -> Iterator[str]:
    # To Python true is 1: a target of another type is another one.
    same_type = isinstance(entry.target, bool) == isinstance(spec.target, bool)
    if not same_type or entry.target != spec.target or entry.unit != spec.unit:
        yield f"{spec.name}: target {entry.target} {entry.unit}; CONTRACT §3 has {spec.expected}"
    is_healthy = spec.is_healthy(entry.value)
    if entry.healthy is not is_healthy:
        yield f"{spec.name}: healthy is {entry.healthy} with the value {entry.value!r}"
    if entry.is_unmeasurable:
        if spec.name not in excused:
            yield (
                f"{spec.name}: said not to be measurable ({entry.detail}), and the template "
                "does not say so"
            )
        return
    if not is_healthy:
        shown = "no value" if entry.value is None else repr(entry.value)
        yield f"{spec.name}: {shown}, expected {spec.expected}: {entry.detail}"
    if entry.provenance not in ("measured", "declared"):
        yield f"{spec.name}: provenance {entry.provenance!r}; expected measured or declared"
    elif real and entry.provenance == "declared":
        yield f"{spec.name}: declared ({entry.source}); a real run wants it measured"


def _instant_findings(entry: SliEntry, *, since: float, until: float) -> Iterator[str]:
    try:
        moment = datetime.fromisoformat(entry.sampled_utc)
        sampled = moment.timestamp() if moment.tzinfo else math.nan
    except ValueError:
        sampled = math.nan
    if not since - _CLOCK_SLACK_SECONDS <= sampled <= until + _CLOCK_SLACK_SECONDS:
        yield (
            f"{entry.name}: sampled_utc {entry.sampled_utc!r} is not between {utc_text(since)} and "
            f"{utc_text(until)}: stale, or not from this step"
        )


def _gaps(names: Collection[str], facts: ReadinessFacts, *, rehearsal: bool) -> Iterator[str]:
    for spec in _SPECS:
        is_excused = rehearsal and not spec.in_twin and spec.name in facts.not_in_this_environment
        if spec.core and spec.name not in names and not is_excused:
            yield f"{spec.name} is missing"


def _shown(value: SliValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else value
