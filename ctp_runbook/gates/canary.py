"""The canary: one marked record through the whole chain, and how long each hop took.

PostgreSQL → Debezium → Kafka → ClickHouse. The record is a row of ``trading_core.risk_events`` of
type ``canary``, level 0 and account ``CANARY``, so it needs no market. The row stays: taking it
away again would send a second record through the chain and leave the audit trail with a gap.
All times are of this process's monotonic clock: from the insert's start to its commit, from there
to the record seen by a consumer of the topic, from there to the row a query of ClickHouse finds.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.context import GateContext
from ctp_runbook.probes.clickhouse import ClickHouseDoor, quoted
from ctp_runbook.probes.kafka import Tail
from ctp_runbook.record.gate_files import CanaryFile, FlownCanary, FlownHop
from ctp_runbook.record.journal import utc_text

__all__ = ["HOPS", "CanaryFlight", "CanaryResult", "fly_canaries", "percentile"]

HOPS = ("postgres", "debezium_to_kafka", "kafka_to_clickhouse")
_SOURCE = "trading_core.risk_events"
_TOPIC = f"quant_hft_pg.{_SOURCE}"
_TABLE = "quant_hft.risk_events_cdc"
_CALL_SECONDS = 5.0
_LOOK_SECONDS = 0.01
_INSERT = (
    f"INSERT INTO {_SOURCE} (account_id, strategy_id, event_type, event_level, event_desc)"
    " VALUES ('CANARY', 'ctp-runbook', 'canary', 0, %s)"
)
_STUCK_BEFORE_KAFKA = (
    f"was committed in {_SOURCE} and did not come to topic {_TOPIC} {{most}}: it is stuck at "
    "Debezium; run `ctp-runbook infra debezium-connectors --probe` for connector, task and slot"
)
_STUCK_BEFORE_CLICKHOUSE = (
    f"came to topic {_TOPIC} and not to {_TABLE} {{most}}: the ingest is stuck; run "
    "`ctp-runbook infra clickhouse-schema --probe`, and see system.kafka_consumers and "
    "quant_hft.ingest_refused"
)


@dataclass(frozen=True)
class CanaryFlight:
    """One record's way: seconds of each hop it made, and why it did not make the next."""

    mark: str
    sent_utc: str
    hops: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def seconds(self) -> float:
        """End to end, as far as it came."""
        return sum(self.hops.values())

    @property
    def flown(self) -> FlownCanary:
        """The flight as the evidence has it; times in milliseconds."""
        return FlownCanary(
            mark=self.mark,
            sent_utc=self.sent_utc,
            hops=tuple(FlownHop(hop, round(took * 1000, 3)) for hop, took in self.hops.items()),
            total_ms=round(self.seconds * 1000, 3),
            problem=self.problem,
        )


@dataclass(frozen=True)
class CanaryResult:
    """Every flight of one call; a dry run has none."""

    flights: tuple[CanaryFlight, ...]
    dry_run: bool
    problem: str = ""

    @property
    def trouble(self) -> str:
        """The first thing that went wrong."""
        return next(filter(None, [self.problem, *(flight.problem for flight in self.flights)]), "")

    @property
    def is_ok(self) -> bool:
        """True when every record arrived; a dry run claims nothing."""
        return not self.trouble and (self.dry_run or bool(self.flights))

    @property
    def exit_code(self) -> int:
        """0, or 3 as of a gate."""
        return 0 if self.is_ok else 3

    def percentiles_ms(self) -> dict[str, dict[str, float]]:
        """Return p50 and p99 of each hop and of the ``total``; none where something is stuck."""
        if self.dry_run or not self.is_ok:
            return {}
        times = {hop: [flight.hops[hop] for flight in self.flights] for hop in HOPS}
        times["total"] = [flight.seconds for flight in self.flights]
        return {
            name: {
                f"p{percent}": round(percentile(values, percent / 100) * 1000, 3)
                for percent in (50, 99)
            }
            for name, values in times.items()
        }

    @property
    def sentence(self) -> str:
        """Hops with their p50 and p99, or the first trouble."""
        if self.trouble:
            return f"canary FAILED: {self.trouble}"
        if self.dry_run:
            return f"canary dry run: would send one marked row of {_SOURCE} to {_TABLE}"
        words = ", ".join(
            f"{name} p50 {ms['p50']:.0f} ms p99 {ms['p99']:.0f} ms"
            for name, ms in self.percentiles_ms().items()
        )
        return f"canary ok: {len(self.flights)} arrived: {words}"

    @property
    def file(self) -> CanaryFile:
        """The evidence."""
        return CanaryFile(
            success=self.is_ok,
            dry_run=self.dry_run,
            problem=self.trouble,
            source=_SOURCE,
            topic=_TOPIC,
            table=_TABLE,
            mark_is="kept: a row of type canary, level 0, account CANARY",
            percentiles_ms=self.percentiles_ms(),
            flights=tuple(flight.flown for flight in self.flights),
        )


def percentile(values: list[float], fraction: float) -> float:
    """Return the nearest-rank percentile of what is not empty."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def fly_canaries(
    context: GateContext,
    *,
    runs: int = 1,
    run_id: str = "",
    on_flight: Callable[[CanaryFlight], None] = lambda flight: None,
) -> CanaryResult:
    """Send ``runs`` records one after the other; stops at the first that does not arrive."""
    if not context.options.execute:
        return CanaryResult((), dry_run=True)
    flights, problem = list[CanaryFlight](), ""
    try:
        with _chain(context) as chain:
            while len(flights) < runs and not (flights and flights[-1].problem):
                flights.append(_fly(chain, run_id))
                on_flight(flights[-1])
    except ProbeError as error:
        problem = context.redact(context.deadline.reason(error))
    return CanaryResult(tuple(flights), dry_run=False, problem=problem)


@dataclass(frozen=True)
class _Chain:
    context: GateContext
    source: Any
    tail: Tail
    target: ClickHouseDoor


@contextmanager
def _chain(context: GateContext) -> Iterator[_Chain]:
    """Yield the three ends, connected before the first record is sent."""
    servers, target = context.bootstrap_servers, context.clickhouse
    if not servers or target is None:
        raise ProbeError(
            "the canary needs --bootstrap-servers, --clickhouse-url and --postgres-dsn; "
            f"given: {servers or 'no Kafka'}, {context.clickhouse_url or 'no ClickHouse'}"
        )
    deadline = context.deadline
    # Asked before anything is sent: a canary that cannot be seen to arrive is not to fly.
    target.rows(f"SELECT count() FROM {_TABLE} WHERE 0", seconds=deadline.call(_CALL_SECONDS))
    with (
        context.postgres.open(seconds=deadline.call(_CALL_SECONDS)) as source,
        Tail.open(servers, _TOPIC, seconds=deadline.call(_CALL_SECONDS)) as tail,
    ):
        yield _Chain(context, source, tail, target)


def _fly(chain: _Chain, run_id: str) -> CanaryFlight:
    import psycopg

    mark = "-".join(filter(None, ["canary", run_id, uuid.uuid4().hex]))
    sent_utc, hops, began = utc_text(), dict[str, float](), time.monotonic()
    try:
        chain.source.execute(_INSERT, (mark,))
    except psycopg.Error as error:
        return CanaryFlight(mark, sent_utc, hops, f"PostgreSQL: {' '.join(str(error).split())}")
    for name, arrived, stuck in (
        ("debezium_to_kafka", _in_kafka, _STUCK_BEFORE_KAFKA),
        ("kafka_to_clickhouse", _in_clickhouse, _STUCK_BEFORE_CLICKHOUSE),
    ):
        # One reading of the clock ends a hop and begins the next: their sum is the whole way.
        hops.setdefault("postgres", (now := time.monotonic()) - began)
        if not arrived(chain, mark):
            most = f"within the {chain.context.deadline.seconds:g} s of --deadline-seconds"
            return CanaryFlight(mark, sent_utc, hops, f"{mark} {stuck.format(most=most)}")
        hops[name] = time.monotonic() - now
    return CanaryFlight(mark, sent_utc, hops)


def _in_kafka(chain: _Chain, mark: str) -> bool:
    wanted, deadline = mark.encode(), chain.context.deadline
    while deadline.left > 0:
        if wanted in chain.tail.next(seconds=min(0.5, deadline.left)):
            return True
    return False


def _in_clickhouse(chain: _Chain, mark: str) -> bool:
    query = f"SELECT count() FROM {_TABLE} WHERE event_desc = {quoted(mark)}"
    deadline = chain.context.deadline
    while deadline.left > 0:
        if chain.target.rows(query, seconds=deadline.call(_CALL_SECONDS))[0][0]:
            return True
        if not deadline.pause(_LOOK_SECONDS):
            return False
    return False
