"""The host as gates and readiness saw it: each part with its state, and the canary's hops. Pure
but for reading evidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctp_runbook.plan.gate_table import PARTS, Gate, gates_in
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
        return tuple(one for one in self.stations if one.problem)

    @property
    def sentence(self) -> str:
        """What the picture says, in words."""
        if self.bad:
            told = "; ".join(f"{one.title} {one.state}: {one.problem}" for one in self.bad)
        else:
            looked = [one.title for one in self.stations if one.state]
            told = f"as wanted: {', '.join(looked)}"
        if self.canary_problem:
            return f"{told}; canary FAILED: {self.canary_problem}"
        hops = ", ".join(f"{name} {self.median(name):.0f} ms" for name in self.hop_names)
        return f"{told}; canary, median of {len(self.flights)}: {hops}" if hops else told

    @property
    def hop_names(self) -> tuple[str, ...]:
        """The hops that were made, in order."""
        return tuple(dict.fromkeys(name for one in self.flights for name in one.hops))

    def median(self, hop: str) -> float:
        """The middle time of a hop, in milliseconds; the upper one of two."""
        times = sorted(one.hops[hop] for one in self.flights if hop in one.hops)
        return times[len(times) // 2]


def gate_topology(run: RunDir) -> Topology | None:
    """The parts as the evidence of the infra gates has them; None before any gate has ended."""
    looks = list(_gate_looks(run))
    if not looks:
        return None
    flights, problem = _canary(run)
    return Topology(_stations(looks), flights, problem)


def sli_topology(report: Mapping[str, Any]) -> Topology:
    """The parts as a readiness file has them."""
    looks = []
    for one in report.get("slis", ()):
        if (known := _SLIS.get(str(one.get("name")))) is None:
            continue
        part, label = known
        good, told = bool(one.get("healthy")), _measured(one)
        seen = f"{label} {told}".strip()
        problem = "" if good else f"{seen}, target {_shown(one.get('target'))}"
        looks.append(_Look(part, "ok" if good else "failed", (seen,), problem))
    return Topology(_stations(looks))


def speaker_of(gate: Gate) -> str:
    """Return the step that a gate's evidence is due with, else the gate's own name."""
    return gate.step if gate.is_due else gate.name


def drift_rows(run: RunDir) -> list[tuple[str, str, str]]:
    """Gate, step and reason of everything that is not as wanted."""
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
    state = next((one for one in _WORST if one in states), "")
    facts = dict.fromkeys(fact for look in looks for fact in look.facts)
    return Station(
        key, state, tuple(facts), next((one.problem for one in looks if one.problem), "")
    )


def _gate_looks(run: RunDir) -> Iterator[_Look]:
    for gate, env in _evidence(run):
        for name, status, reason in _steps_of(env):
            # A part that the picture does not have cannot be drawn; its drift is told all the same.
            part = next((p for start, p in gate.parts if name.startswith(start)), "")
            if part in PARTS:
                bad = status in ("failed", "timed_out")
                yield _Look(part, status, (), f"{name}: {reason}" if bad else "")
        yield from _FACTS.get(gate.name, _no_facts)(env)


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
    """What a step observed, blank where it does not say."""
    key = "".join(c if c.isalnum() else "_" for c in f"{step}_{fact}".upper())
    while "__" in key:
        key = key.replace("__", "_")
    return env.text(f"OBSERVED_{key}")


def _observed(env: ResultEnv, *parts: tuple[str, str, str]) -> tuple[str, ...]:
    """``words`` filled with what a step saw, for those that saw it."""
    return tuple(
        words.format(value) for step, fact, words in parts if (value := _seen(env, step, fact))
    )


def _bootstrap_facts(env: ResultEnv) -> Iterator[_Look]:
    timescale = _observed(
        env,
        ("observe_timescale", "version", "version {}"),
        ("observe_timescale", "wal_level", "wal_level {}"),
        ("observe_timescale", "partitioned_tables", "{} partitioned tables"),
    )
    redis = _observed(
        env, ("observe_redis", "role", "role {}"), ("observe_redis", "version", "version {}")
    )
    front = _observed(
        env, ("observe_front_td", "tcp", "TD {}"), ("observe_front_md", "tcp", "MD {}")
    )
    for part, facts in (("postgres", timescale), ("redis", redis), ("front", front)):
        if facts:
            yield _Look(part, "ok", facts)


def _kafka_facts(env: ResultEnv) -> Iterator[_Look]:
    topics = [
        (name, _seen(env, name, "partitions"))
        for name, _, _ in _steps_of(env)
        if _seen(env, name, "partitions")
    ]
    if topics:
        partitions = sum(int(count) for _, count in topics if count.isdecimal())
        told = (f"{len(topics)} topics", f"{partitions} partitions")
        created = _observed(env, ("create_topics", "created", "created {}"))
        yield _Look("kafka", "ok", (*told, *(c for c in created if c != "created none")))


def _clickhouse_facts(env: ResultEnv) -> Iterator[_Look]:
    files = [name for name, status, _ in _steps_of(env) if name[:3].isdecimal()]
    good = [name for name, status, _ in _steps_of(env) if name[:3].isdecimal() and status == "ok"]
    facts = _observed(env, ("reach_clickhouse", "version", "version {}"))
    if files:
        yield _Look("clickhouse", "ok", (*facts, f"{len(good)} of {len(files)} files as wanted"))


def _debezium_facts(env: ResultEnv) -> Iterator[_Look]:
    names = [n.removeprefix("state_") for n, _, _ in _steps_of(env) if n.startswith("state_")]
    facts, kept = [], []
    for name in names:
        connector = _seen(env, f"state_{name}", "connector")
        task = _seen(env, f"state_{name}", "task_0") or "none"
        runs = f"task {task}" if connector == "RUNNING" else f"connector {connector}"
        facts += [f"{name.removesuffix('-connector')}: {runs}"] if connector else []
        kept += [wal] if (wal := _seen(env, f"slot_{name}", "retained_wal_mib")) else []
    facts += [f"slots keep {', '.join(kept)} MiB of WAL"] if kept else []
    if facts:
        yield _Look("debezium", "ok", tuple(facts))


def _no_facts(env: ResultEnv) -> Iterator[_Look]:
    """Of most gates the picture shows how their steps went, and what they saw is a table."""
    return iter(())


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
        told = json.loads(path.read_bytes())
        flights = tuple(_flight(one) for one in told["flights"])
        return flights, str(told["problem"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return (), f"{_CANARY_FILE} cannot be read: {error}"


def _flight(told: Mapping[str, Any]) -> Flight:
    hops: Iterable[Mapping[str, Any]] = told["hops"]
    return Flight({str(one["hop"]): float(one["ms"]) for one in hops}, str(told["problem"]))


def _measured(sli: Mapping[str, Any]) -> str:
    value, unit = sli.get("value"), str(sli.get("unit") or "")
    if unit == "ratio" and isinstance(value, float):
        return f"{value:.1%}"
    return _shown(value) if unit == "count" else f"{_shown(value)} {unit}".strip()


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
