"""The gates against the real thing: Apache Kafka (KRaft), Kafka Connect, Debezium, PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp_runbook.gates.canary import HOPS, fly_canaries
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, judge_gate_evidence
from ctp_runbook.plan.gate_table import GATES
from tests.props.real_chain import ROOT, RealChain, plane_part
from tests.props.small_postgres import PASSWORDS
from tests.props.small_servers import valkey

# The first run fetches some 60 MB of jars.
pytestmark = pytest.mark.timeout(420)
INGEST_GATES = ("kafka-topics", "debezium-connectors")


@pytest.mark.parametrize("name", INGEST_GATES)
def test_a_gate_makes_what_is_missing_and_then_changes_nothing(
    chain: RealChain, name: str, tmp_path: Path
) -> None:
    """The first run creates and passes; the second passes and its evidence says CHANGES=0."""
    first, second = chain.gate(name), chain.gate(name)
    assert first.is_ok, first.sentence
    assert second.is_ok, second.sentence
    assert second.changes == 0
    path = tmp_path / GATES[name].file
    path.write_bytes(second.evidence())
    assert f"{GATES[name].prefix}_OBSERVED_CHANGES=0" in path.read_text().splitlines()
    assert list(judge_gate_evidence(path, gate=GATES[name], real=True)) == []


def test_the_topic_is_observed_as_it_is(chain: RealChain) -> None:
    """Partitions, replication, in-sync replicas and retention of the evidence are the broker's."""
    result = chain.gate("kafka-topics")
    assert result.is_ok, result.sentence
    evidence = result.evidence().decode()
    for told in ("PARTITIONS=6", "REPLICATION=1", "IN_SYNC=1", "RETENTION_MS=604800000"):
        assert f"KAFKA_TOPIC_INIT_OBSERVED_MARKET_TICKS_V1_{told}\n" in evidence


def test_connector_task_and_slot_are_observed(chain: RealChain) -> None:
    """Each connector, its task, its slot and the WAL it keeps stand in the evidence; no password."""
    result = chain.gate("debezium-connectors")
    assert result.is_ok, result.sentence
    evidence = result.evidence().decode()
    for told in (
        "STATE_TRADING_CORE_CONNECTOR_CONNECTOR=RUNNING",
        "STATE_TRADING_CORE_CONNECTOR_TASK_0=RUNNING",
        "SLOT_TRADING_CORE_CONNECTOR_ACTIVE=true",
        "SLOT_OPS_AUDIT_CONNECTOR_WAL_STATUS=reserved",
    ):
        assert f"DEBEZIUM_CONNECTOR_INIT_OBSERVED_{told}\n" in evidence
    assert not [secret for secret in PASSWORDS.values() if secret in evidence]


@pytest.mark.parametrize("name", INGEST_GATES)
def test_a_probe_looks_and_changes_nothing(chain: RealChain, name: str) -> None:
    """--probe does what only looks, leaves what acts as simulated, and passes on a sound chain."""
    assert chain.gate(name).is_ok
    result = chain.gate(name, execute=False, probe=True)
    assert result.is_ok, result.sentence
    assert {step.status.value for step in result.steps} == {"ok", "simulated_ok"}
    assert result.changes == 0


@pytest.mark.parametrize("after_seconds", [0.15, 0.4, 0.7, 1.2])
def test_a_gate_killed_in_the_middle_can_be_run_again(
    chain: RealChain, after_seconds: float, tmp_path: Path
) -> None:
    """KILL at any moment of --execute leaves nothing that the next run does not put right."""
    argv = [sys.executable, "-m", "ctp_runbook", "infra", "debezium-connectors", "--execute"]
    argv += ["--connect-url", chain.connect, "--postgres-dsn", chain.postgres.dsn]
    argv += ["--set", "database.hostname=127.0.0.1"]
    argv += ["--set", f"database.port={chain.postgres.port}", "--evidence-dir", str(tmp_path)]
    for connector in chain.rest("GET", "/connectors"):
        chain.rest("DELETE", f"/connectors/{connector}")
    child = subprocess.Popen(argv, cwd=ROOT, env=dict(chain.environ), stdout=subprocess.DEVNULL)
    time.sleep(after_seconds)
    child.kill()
    child.wait()
    done = subprocess.run(argv, cwd=ROOT, env=dict(chain.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert chain.gate("debezium-connectors").changes == 0


def test_the_old_stack_survives_the_bootstrap_gate(chain: RealChain, tmp_path: Path) -> None:
    """An engine's open transaction and a runner's Redis connection are the same ones afterwards."""
    import socket

    with valkey(tmp_path) as redis, chain.postgres.connect() as session:
        host, _, port = redis.removeprefix("redis://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as runner:
            runner.sendall(b"PING\r\n")
            assert runner.recv(16) == b"+PONG\r\n"
            session.execute("BEGIN")
            before = session.execute("SELECT pg_backend_pid(), count(*) FROM trading_core.orders")
            pid = before.fetchone()[0]
            first = chain.gate("bootstrap", redis_url=redis)
            again = chain.gate("bootstrap", redis_url=redis)
            assert first.is_ok, first.sentence
            assert again.changes == 0
            assert session.execute("SELECT pg_backend_pid()").fetchone()[0] == pid
            session.execute("COMMIT")
            runner.sendall(b"PING\r\n")
            assert runner.recv(16) == b"+PONG\r\n"


def test_canaries_arrive_and_every_hop_is_timed(
    chain: RealChain, record_table: Callable[[str, list[str]], None]
) -> None:
    """20 marked records go all the way in a quiet market; the time of each hop is printed."""
    for result in (chain.gate("kafka-topics"), chain.gate("debezium-connectors")):
        assert result.is_ok, result.sentence
    schema = chain.clickhouse.gate()
    assert schema.is_ok, schema.sentence
    context = GateContext.of(GateOptions(**chain.flags), environ=chain.environ, tell=print)
    with plane_part(chain.clickhouse.plane, "ingester"):
        found = fly_canaries(context, runs=20)
    assert found.is_ok, found.sentence
    assert len(found.flights) == 20
    assert all(set(one.hops) == set(HOPS) for one in found.flights)
    rows = [
        f"{name:22} p50 {ms['p50']:8.1f} ms   p99 {ms['p99']:8.1f} ms"
        for name, ms in found.percentiles_ms().items()
    ]
    record_table("canary_real_kafka", rows)


def test_the_command_line_keeps_its_word(chain: RealChain, tmp_path: Path) -> None:
    """RUNBOOK's script passes with exit 0, writes its evidence, and shows no password."""
    script = [str(ROOT / "infra/scripts/init_kafka_topics.sh"), "--execute"]
    script += ["--bootstrap-servers", chain.broker, "--evidence-dir", str(tmp_path)]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", *script], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS=true" in (tmp_path / "kafka_topic_init_result.env").read_text()
