"""Facts about gates/canary.py: a record's way hop by hop, and where one is stuck.

Whole flights over real servers are in tests/integration.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
import pytest

from ctp_runbook.gates import canary
from ctp_runbook.gates.canary import (
    HOPS,
    CanaryFlight,
    CanaryResult,
    _Chain,
    fly_canaries,
    percentile,
)
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.gates.run import run_gate


def _flight(seconds: float) -> CanaryFlight:
    return CanaryFlight("m", "2026-11-23T00:00:00Z", dict.fromkeys(HOPS, seconds))


def test_percentiles_are_values_that_occurred() -> None:
    """Nearest rank: of 20 the p50 is the tenth, the p99 the last; of one both are it."""
    values = [float(number) for number in range(20, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (10.0, 20.0)
    assert percentile([3.0], 0.5) == 3.0


def test_arrivals_are_told_hop_by_hop() -> None:
    """Every hop's p50 and p99 are in the sentence and, in milliseconds, in the evidence."""
    result = CanaryResult((_flight(0.1), _flight(0.2)), dry_run=False)
    assert result.exit_code == 0
    assert "debezium_to_kafka p50 100 ms p99 200 ms" in result.sentence
    data = json.loads(msgspec.json.encode(result.file))
    assert data["percentiles_ms"]["total"] == {"p50": 300.0, "p99": 600.0}
    assert data["flights"][0]["hops"][0] == {"hop": "postgres", "ms": 100.0}


def test_one_that_is_stuck_fails_all() -> None:
    """The first trouble is the sentence, exit 3, and no percentile is claimed."""
    stuck = CanaryFlight("m", "t", {"postgres": 0.1}, "m is stuck at Debezium")
    result = CanaryResult((_flight(0.1), stuck), dry_run=False)
    assert (result.exit_code, result.sentence) == (3, "canary FAILED: m is stuck at Debezium")
    assert result.file.percentiles_ms == {}
    assert not CanaryResult((), dry_run=False).is_ok


NO_RESULT = {
    "nothing sent": (CanaryResult((), dry_run=False), 3),
    "a dry run": (CanaryResult((), dry_run=True), 0),
    "no chain": (CanaryResult((), dry_run=False, problem="Kafka: down"), 3),
    "a dry run without addresses": (CanaryResult((), dry_run=True, problem="x"), 3),
}


@pytest.mark.parametrize(("result", "code"), NO_RESULT.values(), ids=NO_RESULT)
def test_what_did_not_fly_claims_no_percentile(result: CanaryResult, code: int) -> None:
    """And only a dry run is well without a flight."""
    assert (result.exit_code, result.percentiles_ms()) == (code, {})


# --- flights ----------------------------------------------------------------------


@dataclass
class FakeChain:
    """PostgreSQL, Kafka and ClickHouse, through which a record comes as far as ``reaches``."""

    reaches: str = "clickhouse"
    refuses: Exception | None = None
    marks: list[str] = field(default_factory=list)
    polls: int = 0

    def execute(self, statement: str, parameters: tuple[str]) -> None:
        """Take the row."""
        if self.refuses is not None:
            raise self.refuses
        self.marks.append(parameters[0])

    def next(self, *, seconds: float) -> bytes:
        """Somebody else's record first."""
        self.polls += 1
        if self.polls % 2 or self.reaches == "postgres":
            time.sleep(0.01)
            return b"another"
        return f'{{"event_desc": "{self.marks[-1]}"}}'.encode()

    def rows(self, query: str, *, seconds: float) -> list[list[int]]:
        """The mark is found, or it is not."""
        return [[int(self.reaches == "clickhouse" and self.marks[-1] in query)]]


def flown(
    chain: FakeChain, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 5.0, **how: Any
) -> CanaryResult:
    """How canaries fly through it."""

    @contextmanager
    def connected(context: GateContext) -> Iterator[_Chain]:
        parts: tuple[Any, Any, Any] = (chain, chain, chain)
        yield _Chain(context, *parts)

    monkeypatch.setattr(canary, "_chain", connected)
    options = GateOptions(execute=True, profile="rehearsal", deadline_seconds=seconds)
    return fly_canaries(GateContext.of(options, environ={}, tell=print), **how)


def test_every_hop_of_every_canary_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a mark of its own with the run's id, and is told of when it is there."""
    chain, told = FakeChain(), list[CanaryFlight]()
    result = flown(chain, monkeypatch, runs=3, run_id="r1", on_flight=told.append)
    assert result.is_ok, result.sentence
    assert result.flights == tuple(told)
    assert len(set(chain.marks)) == 3
    assert all(mark.startswith("canary-r1-") for mark in chain.marks)
    assert all(tuple(flight.hops) == HOPS for flight in result.flights)
    assert all(flight.seconds > 0 for flight in result.flights)


STUCK: dict[str, tuple[FakeChain, tuple[str, ...], str]] = {
    "not taken": (
        FakeChain(refuses=psycopg.errors.DiskFull("no\n space")),
        (),
        "PostgreSQL: no space",
    ),
    "at Debezium": (
        FakeChain(reaches="postgres"),
        ("postgres",),
        "did not come to topic quant_hft_pg.trading_core.risk_events within the 0.5 s of --deadline",
    ),
    "at the ingest": (
        FakeChain(reaches="kafka"),
        ("postgres", "debezium_to_kafka"),
        "and not to quant_hft.risk_events_cdc within the 0.5 s of --deadline-seconds: the ingest",
    ),
}


@pytest.mark.parametrize(("chain", "hops", "said"), STUCK.values(), ids=STUCK)
def test_a_canary_that_is_stuck_names_its_hop(
    chain: FakeChain, hops: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the times of the hops it made; no other is sent behind it."""
    result = flown(chain, monkeypatch, runs=3, seconds=0.5)
    assert result.exit_code == 3
    (flight,) = result.flights
    assert tuple(flight.hops) == hops
    assert said in result.sentence


def test_a_dry_run_sends_nothing_and_an_address_is_needed() -> None:
    """Without --execute nothing is sent; without addresses the flags are named."""
    for execute, said in ((False, "dry run: would send"), (True, "needs --bootstrap-servers")):
        options = GateOptions(execute=execute, profile="rehearsal")
        context = GateContext.of(options, environ={}, tell=print)
        assert said in fly_canaries(context).sentence


@pytest.mark.twin
def test_a_service_that_had_no_time_to_answer_is_not_called_ill_alone() -> None:
    """The deadline is what cut it short, and its flag is named."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = GateOptions(
            execute=True,
            deadline_seconds=0.05,
            bootstrap_servers="127.0.0.1:1",
            clickhouse_url=url,
        )
        found = fly_canaries(GateContext.of(options, environ={}, tell=print))
        schema = run_gate("clickhouse-schema", options, environ={})
    for sentence in (found.sentence, schema.sentence):
        assert "no whole answer" in sentence
        assert "the gate's deadline of 0.05 s was used up (--deadline-seconds)" in sentence
