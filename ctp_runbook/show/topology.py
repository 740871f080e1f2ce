"""The host as gates and readiness saw it: each part with its state, and the canary's hops. Pure
but for reading evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high

from ctp_runbook.decoding import decoder
from ctp_runbook.host.files import read_small
from ctp_runbook.plan.gate_table import PARTS, Gate, gates_in
from ctp_runbook.record.gate_files import CanaryFile, FlownCanary, ReadinessFile, SliEntry
from ctp_runbook.record.result_env import ResultEnv, parse_env
from ctp_runbook.record.rundir import RunDir

__all__ = [
    "Flight",
    "Station",
    "Topology",
    "drift_rows",
    "gate_topology",
    "sli_topology",
    "speaker_of",
]

_CANARY_FILE = "ctp_canary.json"
# A canary takes some 300 bytes, and somebody may fly a thousand.
_CANARY_BYTES = 1 << 20
_SLIS: Mapping[str, tuple[str, str]] = {
    "quant_hft_core_process_alive": ("engine", "alive"),
    "quant_hft_ctp_query_latency_p99_ms": ("engine", "query p99"),
    "quant_hft_ctp_flow_control_hits": ("engine", "flow control hits"),
    "quant_hft_ctp_disconnect_recovery_success_rate": ("front", "recovered"),
    "quant_hft_ctp_reject_classified_ratio": ("front", "rejects classified"),
    "quant_hft_storage_redis_health": ("redis", "Redis"),
    "quant_hft_strategy_bridge_chain_integrity": ("redis", "chain"),
    "quant_hft_storage_timescale_health": ("postgres", "database"),
    "quant_hft_cdc_lag_seconds": ("debezium", "CDC lag"),
    "quant_hft_kafka_publish_success_rate": ("kafka", "published"),
    "quant_hft_kafka_spool_backlog": ("kafka", "spool backlog"),
    "quant_hft_clickhouse_ingest_lag_seconds": ("clickhouse", "ingest lag"),
}
_WORST = ("failed", "timed_out", "unknown", "not_run", "skipped", "simulated_ok", "ok")


@dataclass(frozen=True)
class Station:
    """One part of the host. ``state`` is the worst status of what was asked of it, blank where
    nothing was; ``facts`` are short lines of what was seen; ``problem`` what is wrong."""

    key: str
    state: str
    facts: tuple[str, ...] = ()
    problem: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return PARTS[self.key]


@dataclass(frozen=True)
class Flight:
    """One canary: milliseconds of each hop it made, and why it did not make the next."""

    hops: Mapping[str, float]
    problem: str = ""

    @property
    def milliseconds(self) -> float:
        """End to end, as far as it came."""
        return sum(self.hops.values())


@dataclass(frozen=True)
class Topology:
    """All parts, in the order of ``PARTS``, and the canaries that flew through them."""

    stations: tuple[Station, ...]
    flights: tuple[Flight, ...] = ()
    canary_problem: str = ""

    @property
    def bad(self) -> tuple[Station, ...]:
        """Parts with something wrong."""
        return tuple(station for station in self.stations if station.problem)

    @property
    def sentence(self) -> str:
        """What the picture says, in words."""
        looked = ", ".join(station.title for station in self.stations if station.state)
        bad = "; ".join(f"{part.title} {part.state}: {part.problem}" for part in self.bad)
        words = bad or f"as wanted: {looked}"
        if self.canary_problem:
            return f"{words}; canary FAILED: {self.canary_problem}"
        names = dict.fromkeys(name for flight in self.flights for name in flight.hops)
        hops = ", ".join(f"{name} {self._median(name):.0f} ms" for name in names)
        return f"{words}; canary, median of {len(self.flights)}: {hops}" if hops else words

    def _median(self, hop: str) -> float:
        return median_high(flight.hops[hop] for flight in self.flights if hop in flight.hops)


def gate_topology(run: RunDir) -> Topology | None:
    """Return the parts as the evidence of the infra gates has them; None before any has ended."""
    looks = list(_gate_looks(run))
    return Topology(_stations(looks), *_canary(run)) if looks else None


def sli_topology(report: ReadinessFile) -> Topology:
    """Return the parts as a readiness file has them; what is no part of the host is left out."""
    looks = []
    for sli in report.slis:
        if sli.is_unmeasurable:
            continue  # it says neither well nor ill of the part
        part, label = _SLIS.get(sli.name, ("", ""))
        seen = f"{label} {_measured(sli)}".strip()
        problem = "" if sli.healthy else f"{seen}, target {_shown(sli.target)}"
        looks.append(_Look(part, "ok" if sli.healthy else "failed", (seen,), problem))
    return Topology(_stations(looks))


def speaker_of(gate: Gate) -> str:
    """Return the step that a gate's evidence is due with, else the gate's own name."""
    return gate.step if gate.is_due else gate.name


def drift_rows(run: RunDir) -> list[tuple[str, str, str]]:
    """Return gate, step and reason of everything that is not as wanted."""
    return [
        (speaker_of(gate), name, reason)
        for gate, env in _evidence(run)
        for name, status, reason in _steps_of(env)
        if status in ("failed", "timed_out")
    ]


@dataclass(frozen=True)
class _Look:
    """What one step, or one SLI, says of a part."""

    part: str
    state: str
    facts: tuple[str, ...] = ()
    problem: str = ""


def _stations(looks: Sequence[_Look]) -> tuple[Station, ...]:
    return tuple(_station(key, [look for look in looks if look.part == key]) for key in PARTS)


def _station(key: str, looks: Sequence[_Look]) -> Station:
    states = {look.state for look in looks}
    worst = next((state for state in _WORST if state in states), "")
    facts = dict.fromkeys(fact for look in looks for fact in look.facts)
    problem = next((look.problem for look in looks if look.problem), "")
    return Station(key, worst, tuple(facts), problem)


def _gate_looks(run: RunDir) -> Iterator[_Look]:
    for gate, env in _evidence(run):
        for name, status, reason in _steps_of(env):
            # A part that the picture does not have cannot be drawn; its drift is told all the same.
            part = next((p for start, p in gate.parts if name.startswith(start)), "")
            if part in PARTS:
                bad = status in ("failed", "timed_out")
                yield _Look(part, status, (), f"{name}: {reason}" if bad else "")
        if gate.name in _FACTS:
            parts = _FACTS[gate.name](env).items()
            yield from (_Look(part, "ok", facts) for part, facts in parts if facts)


def _evidence(run: RunDir) -> Iterator[tuple[Gate, ResultEnv]]:
    for gate in gates_in(run.evidence):
        values, _ = parse_env(run.evidence / gate.file)
        yield gate, ResultEnv(gate.file, gate.prefix, values)


def _steps_of(env: ResultEnv) -> Iterator[tuple[str, str, str]]:
    """Name, status and reason of each step."""
    for number in env.numbers:
        name = env.step(number, "NAME")
        yield name, env.step(number, "STATUS"), _seen(env, name, "reason")


def _seen(env: ResultEnv, step: str, fact: str) -> str:
    """What a step observed, blank where it does not say; its key is as GateResult writes it."""
    key = re.sub(r"[^A-Z0-9]+", "_", f"{step}_{fact}".upper()).strip("_")
    return env.text(f"OBSERVED_{key}")


def _observed(env: ResultEnv, step: str, **words: str) -> tuple[str, ...]:
    """What a step saw, each fact in its ``words``; nothing of what it did not see."""
    seen = ((text, _seen(env, step, fact)) for fact, text in words.items())
    return tuple(text.format(value) for text, value in seen if value)


def _bootstrap_facts(env: ResultEnv) -> Mapping[str, tuple[str, ...]]:
    tables = "{} partitioned tables"
    wal = {"wal_level": "wal_level {}", "partitioned_tables": tables}
    return {
        "postgres": _observed(env, "observe_timescale", version="version {}", **wal),
        "redis": _observed(env, "observe_redis", role="role {}", version="version {}"),
        "front": _observed(env, "observe_front_td", tcp="TD {}")
        + _observed(env, "observe_front_md", tcp="MD {}"),
    }


def _kafka_facts(env: ResultEnv) -> Mapping[str, tuple[str, ...]]:
    counts = [n for name, _, _ in _steps_of(env) if (n := _seen(env, name, "partitions"))]
    if not counts:
        return {}
    partitions = sum(int(count) for count in counts if count.isdecimal())
    created = _seen(env, "create_topics", "created")
    new = (f"created {created}",) if created not in ("", "none") else ()
    return {"kafka": (f"{len(counts)} topics", f"{partitions} partitions", *new)}


def _clickhouse_facts(env: ResultEnv) -> Mapping[str, tuple[str, ...]]:
    # A file of the schema has its number in front; other steps have none.
    files = [status for name, status, _ in _steps_of(env) if name[:3].isdecimal()]
    version = _observed(env, "reach_clickhouse", version="version {}")
    whole = f"{files.count('ok')} of {len(files)} files as wanted"
    return {"clickhouse": (*version, whole)} if files else {}


def _debezium_facts(env: ResultEnv) -> Mapping[str, tuple[str, ...]]:
    names = [n.removeprefix("state_") for n, _, _ in _steps_of(env) if n.startswith("state_")]
    facts = []
    for name in names:
        connector = _seen(env, f"state_{name}", "connector")
        task = _seen(env, f"state_{name}", "task_0") or "none"
        runs = f"task {task}" if connector == "RUNNING" else f"connector {connector}"
        facts += [f"{name.removesuffix('-connector')}: {runs}"] if connector else []
    kept = [wal for name in names if (wal := _seen(env, f"slot_{name}", "retained_wal_mib"))]
    facts += [f"slots keep {', '.join(kept)} MiB of WAL"] if kept else []
    return {"debezium": tuple(facts)}


# Of other gates the picture shows how their steps went, and what they saw is a table.
_FACTS = {
    "bootstrap": _bootstrap_facts,
    "kafka-topics": _kafka_facts,
    "clickhouse-schema": _clickhouse_facts,
    "debezium-connectors": _debezium_facts,
}


def _canary(run: RunDir) -> tuple[tuple[Flight, ...], str]:
    path = run.evidence / _CANARY_FILE
    if not path.is_file():
        return (), ""
    try:
        canary = decoder(CanaryFile).decode(read_small(path, most=_CANARY_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        return (), f"{_CANARY_FILE} cannot be read: {error}"
    return tuple(map(_flight, canary.flights)), canary.problem


def _flight(flown: FlownCanary) -> Flight:
    return Flight({hop.hop: hop.ms for hop in flown.hops}, flown.problem)


def _measured(sli: SliEntry) -> str:
    if sli.unit == "ratio" and isinstance(sli.value, float):
        return f"{sli.value:.1%}"
    return _shown(sli.value) if sli.unit == "count" else f"{_shown(sli.value)} {sli.unit}".strip()


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
