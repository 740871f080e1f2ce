"""The sabotage table: each fault made in a running component, each ending in a FAILED gate.

A row's test proves that the gate's own words name the thing that is wrong and what to do about
it. Kafka and Connect are the real ones; Connect's misbehaviour as a peer is a few lines of HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.probes.kafka import Brokers, NewTopicSpec
from tests.props.plan_fixtures import wait_for
from tests.props.real_chain import ROOT, RealChain, SmallClickHouse, copy_infra, small_clickhouse
from tests.props.small_postgres import PASSWORDS
from tests.props.small_servers import free_port, http_page, scripted_http, valkey

pytestmark = pytest.mark.timeout(420)


def assert_failed(result: GateResult, *words: str) -> None:
    """The gate FAILED with exit code 3, and its reasons say all of ``words``."""
    reasons = " ".join(step.reason for step in result.steps if step.is_bad)
    assert result.exit_code == 3, result.sentence
    assert b"_SUCCESS=false\n" in result.evidence()
    assert not [word for word in words if word not in reasons], reasons


# --- Kafka -------------------------------------------------------------------------


def _topics(folder: Path, name: str, **fields: object) -> Path:
    """An infra folder that wants one topic."""
    wanted: dict[str, object] = {"partitions": 6, "replication": 1, "min_insync_replicas": 1}
    wanted |= {"retention_ms": 604800000, "cleanup_policy": "delete", **fields}
    (folder / "kafka").mkdir()
    lines = [f'[topics."{name}"]', *(f"{key} = {json.dumps(one)}" for key, one in wanted.items())]
    (folder / "kafka" / "topics.toml").write_text("\n".join(lines) + "\n")
    return folder


def test_topic_with_one_partition(chain: RealChain, tmp_path: Path) -> None:
    """An existing topic with 1 partition where 6 are wanted: by name, with the command to run."""
    spec = NewTopicSpec("sabotage.ticks", 1, 1, {})
    Brokers(chain.broker).create([spec], seconds=10)
    result = chain.gate("kafka-topics", infra=_topics(tmp_path, "sabotage.ticks"))
    fix = f"kafka-topics.sh --bootstrap-server {chain.broker} --alter --topic sabotage.ticks"
    assert_failed(result, "sabotage.ticks: partitions 1, expected 6", f"{fix} --partitions 6")


def test_retention_changed(chain: RealChain, tmp_path: Path) -> None:
    """retention.ms that somebody lowered is seen, with its two values and the command to run."""
    infra = _topics(tmp_path, "sabotage.retention")
    assert chain.gate("kafka-topics", infra=infra).is_ok
    _alter(chain.broker, "sabotage.retention", {"retention.ms": "60000"})
    result = chain.gate("kafka-topics", infra=infra)
    assert_failed(
        result,
        "sabotage.retention: retention.ms 60000, expected 604800000",
        "--entity-name sabotage.retention --add-config retention.ms=[604800000]",
    )


def _alter(broker: str, topic: str, configs: Mapping[str, str]) -> None:
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        for key, value in configs.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    # What the controller took a broker learns a moment later.
    asked = ConfigResource(ResourceType.TOPIC, topic)
    wait_for(
        lambda: all(
            described.result(10)[key].value == value
            for described in admin.describe_configs([asked]).values()
            for key, value in configs.items()
        )
    )


# --- ClickHouse --------------------------------------------------------------------


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallClickHouse]:
    """A ClickHouse of the twin."""
    with small_clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def schema(clickhouse: SmallClickHouse, tmp_path: Path) -> tuple[Path, str]:
    """infra/ with a database of this test's own, applied; and that database's name."""
    infra, database = copy_infra(tmp_path), f"sabotage_{time.time_ns()}"
    for path in (infra / "clickhouse").glob("*.sql"):
        path.write_text(path.read_text().replace("quant_hft.", f"{database}."))
    first = infra / "clickhouse" / "010_database.sql"
    first.write_text(first.read_text().replace("EXISTS quant_hft;", f"EXISTS {database};"))
    result = clickhouse.gate(infra)
    assert result.is_ok, result.sentence
    assert clickhouse.gate(infra).changes == 0
    return infra, database


SCHEMA_FAULTS = {
    "missing column": (
        "ALTER TABLE {db}.orders_cdc DROP COLUMN volume_traded",
        "table {db}.orders_cdc: column volume_traded Int32 is missing",
        "ALTER TABLE {db}.orders_cdc ADD COLUMN volume_traded Int32",
    ),
    "column of another type": (
        "ALTER TABLE {db}.trades_cdc MODIFY COLUMN price Float64",
        "table {db}.trades_cdc: column price is Float64, expected Decimal(16, 4)",
        "ALTER TABLE {db}.trades_cdc MODIFY COLUMN price Decimal(16, 4)",
    ),
    "column nobody wanted": (
        "ALTER TABLE {db}.orders_cdc ADD COLUMN surprise String",
        "column surprise String is not in the file",
        "add it there, or drop it",
    ),
    "view that selects something else": (
        "ALTER TABLE {db}.market_ticks_mv MODIFY QUERY SELECT raw AS raw_payload "
        "FROM {db}.market_ticks_kafka",
        "view {db}.market_ticks_mv: selects",
        "in a quiet hour run `ALTER TABLE {db}.market_ticks_mv MODIFY QUERY` with the file's",
    ),
}


@pytest.mark.parametrize("fault", SCHEMA_FAULTS.values(), ids=SCHEMA_FAULTS)
def test_schema_drift(
    clickhouse: SmallClickHouse, schema: tuple[Path, str], fault: tuple[str, str, str]
) -> None:
    """A live schema that is not the files' is told table by table, with the statement to run."""
    infra, database = schema
    statement, *words = (text.format(db=database) for text in fault)
    clickhouse.run(statement)
    assert_failed(clickhouse.gate(infra), *words)


def test_view_dropped(clickhouse: SmallClickHouse, schema: tuple[Path, str]) -> None:
    """A view that is gone while its target holds rows is not quietly made again."""
    infra, database = schema
    record = json.dumps({"instrument_id": "rb2601", "published_ts_ms": 1_770_000_000_000})
    clickhouse.run(f"INSERT INTO {database}.market_ticks_kafka VALUES ('{record}')")
    clickhouse.run(f"DROP VIEW {database}.market_ticks_mv")
    result = clickhouse.gate(infra)
    assert_failed(
        result,
        f"view {database}.market_ticks_mv does not exist, though its target",
        "has 1 rows: it was dropped",
        "020_market_ticks.sql by hand and fill the gap from the topic",
    )
    assert result.changes == 0


def test_a_queue_without_kafka_fails_outside_rehearsal(
    clickhouse: SmallClickHouse, schema: tuple[Path, str]
) -> None:
    """The twin's stand-in for a queue passes under profile rehearsal alone."""
    infra, database = schema
    result = clickhouse.gate(infra, profile="single-host")
    assert_failed(result, f"table {database}.orders_cdc_kafka: engine is Null, expected Kafka")


@pytest.mark.parametrize("after_seconds", [0.1, 0.2, 0.3, 0.45])
def test_a_schema_gate_killed_in_the_middle_can_be_run_again(
    after_seconds: float, tmp_path: Path
) -> None:
    """KILL at any moment of --execute; the next run makes what is missing, the one after nothing."""
    with small_clickhouse(tmp_path / "plane") as server:
        argv = [sys.executable, "-m", "ctp_runbook", "infra", "clickhouse-schema", "--execute"]
        argv += ["--profile", "rehearsal", "--clickhouse-url", server.url]
        argv += ["--evidence-dir", str(tmp_path)]
        environ = {**os.environ, **server.environ}
        child = subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
        time.sleep(after_seconds)
        child.kill()
        child.wait()
        again = server.gate()
        assert again.is_ok, again.sentence
        assert server.gate().changes == 0


def test_clickhouse_down(tmp_path: Path) -> None:
    """A ClickHouse that was there and is gone: by its address, with where to look."""
    with small_clickhouse(tmp_path) as server:
        assert server.gate().is_ok
    assert_failed(server.gate(), f"ClickHouse at {server.url}", "docker compose ps clickhouse")


def test_disk_full(tmp_path: Path) -> None:
    """A data directory on a full disk (a small tmpfs) fails with what the server says of it."""
    with _small_disk(tmp_path / "disk", mib=320) as disk, small_clickhouse(disk) as server:
        assert server.gate().is_ok
        _fill(disk)
        result = server.gate()
    assert_failed(result, "has 0 MiB free, expected at least 256 MiB", "make room on that disk")


@contextlib.contextmanager
def _small_disk(folder: Path, *, mib: int) -> Iterator[Path]:
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small tmpfs here (mount: {done.stderr.strip()}); needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path) -> None:
    """Write until nothing more fits."""
    with (disk / "ballast").open("wb", buffering=0) as sink, contextlib.suppress(OSError):
        while True:
            sink.write(os.urandom(1 << 16))


# --- Connect and its slots ---------------------------------------------------------


@pytest.fixture
def connector(chain: RealChain, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An infra folder with one connector of this test's own, and its name; removed at the end."""
    name = f"sabotage-{time.time_ns()}"
    slot = name.replace("-", "_")
    infra = tmp_path / "infra"
    (infra / "debezium").mkdir(parents=True)
    source = json.loads(
        (copy_infra(tmp_path / "o") / "debezium/ops-audit-connector.json").read_text()
    )
    config = {**source["config"], "slot.name": slot, "topic.prefix": slot}
    (infra / "debezium" / "one.json").write_text(json.dumps({"name": name, "config": config}))
    yield infra, name
    if name in chain.rest("GET", "/connectors"):
        chain.rest("DELETE", f"/connectors/{name}")
    _drop_slot(chain, slot)


def _drop_slot(chain: RealChain, slot: str) -> None:
    """Drop a slot once nobody reads it any more."""
    query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    with chain.postgres.connect() as connection:
        end = time.monotonic() + 20
        while (row := connection.execute(query, (slot,)).fetchone()) and row[0]:
            assert time.monotonic() < end, f"{slot} is still read"
            time.sleep(0.1)
        if row:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def test_connector_config_wrong(chain: RealChain, connector: tuple[Path, str]) -> None:
    """A live key that is not the file's fails by name; --update NAME puts it right, once."""
    infra, name = connector
    assert chain.gate("debezium-connectors", infra=infra).is_ok
    config = chain.rest("GET", f"/connectors/{name}/config")
    chain.rest("PUT", f"/connectors/{name}/config", {**config, "poll.interval.ms": "999"})
    result = chain.gate("debezium-connectors", infra=infra)
    assert_failed(
        result,
        f"connector {name}: poll.interval.ms is '999', expected '100'",
        f"infra debezium-connectors --update {name} --execute",
    )
    mended = chain.gate("debezium-connectors", infra=infra, update=(name,))
    assert mended.is_ok, mended.sentence
    assert mended.changes == 1


def test_connector_refused(chain: RealChain, connector: tuple[Path, str]) -> None:
    """A configuration that Connect refuses (400) fails with its message and the file to correct."""
    infra, name = connector
    result = chain.gate("debezium-connectors", infra=infra, connector_set={"tasks.max": "many"})
    assert_failed(result, f"connector {name}: PUT was answered HTTP 400", "correct ", "one.json")


def test_task_failed_while_connector_runs(chain: RealChain, connector: tuple[Path, str]) -> None:
    """Connector RUNNING, task FAILED: the gate fails with the task's trace and the restart call."""
    infra, name = connector
    over = {**chain.flags["connector_set"], "publication.name": "nobody_made_it"}
    chain.gate("debezium-connectors", infra=infra, connector_set=over, deadline_seconds=30.0)
    result = chain.gate("debezium-connectors", infra=infra, connector_set=over)
    assert_failed(
        result,
        f"connector {name}: connector RUNNING, task 0 FAILED",
        "nobody_made_it",
        f"curl -X POST {chain.connect}/connectors/{name}/tasks/0/restart",
        "publication nobody_made_it of",
    )


def _stopped(chain: RealChain, name: str) -> None:
    """The connector stopped, its slot read by nobody."""
    chain.rest("PUT", f"/connectors/{name}/stop")
    query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
    with chain.postgres.connect() as connection:
        end = time.monotonic() + 20
        while connection.execute(query, (name.replace("-", "_"),)).fetchone():
            assert time.monotonic() < end
            time.sleep(0.1)


def test_slot_dropped(chain: RealChain, connector: tuple[Path, str]) -> None:
    """A slot that somebody dropped: changes since are lost, and the gate says how to begin anew."""
    infra, name = connector
    assert chain.gate("debezium-connectors", infra=infra).is_ok
    _stopped(chain, name)
    _drop_slot(chain, name.replace("-", "_"))
    result = chain.gate("debezium-connectors", infra=infra, deadline_seconds=8.0)
    assert_failed(
        result,
        f"connector {name}: connector STOPPED",
        f"/connectors/{name}/resume",
        f"slot {name.replace('-', '_')} of {name} does not exist",
        f"curl -X DELETE {chain.connect}/connectors/{name}",
    )


def test_wal_piling_up(chain: RealChain, connector: tuple[Path, str]) -> None:
    """A slot that keeps more WAL than it may: how much, the limit with its flag, what to do."""
    infra, name = connector
    assert chain.gate("debezium-connectors", infra=infra).is_ok
    _stopped(chain, name)
    with chain.postgres.connect() as connection:
        connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))")
    result = chain.gate(
        "debezium-connectors", infra=infra, max_slot_wal_mib=2.0, deadline_seconds=8.0
    )
    assert_failed(
        result,
        f"slot {name.replace('-', '_')} of {name} is not active",
        "MiB of WAL, expected at most 2 MiB (--max-slot-wal-mib)",
        "pg_drop_replication_slot",
    )


CONNECT_ANSWERS = {
    "409": (409, '{"error_code":409,"message":"rebalance is in process"}', "HTTP 409 until the"),
    "500 for a moment": (
        500,
        '{"message":"Request cannot be completed because a rebalance is expected"}',
        "HTTP 500 until the",
    ),
    "500": (500, '{"error_code":500,"message":"request timed out"}', "until the deadline of 1.5 s"),
    "garbage": (200, "<html>It works!</html>", "expected JSON; is this address Connect's REST"),
    "JSON of another": (200, '{"status":"ok"}', "is this Connect (--connect-url)?"),
}


@pytest.mark.parametrize(("status", "body", "said"), CONNECT_ANSWERS.values(), ids=CONNECT_ANSWERS)
def test_connect_misbehaves(status: int, body: str, said: str) -> None:
    """409 for ever, 500 and what is no JSON each end in time, in Connect's own words."""
    with scripted_http(lambda _: (status, body)) as url:
        began = time.monotonic()
        options = GateOptions(execute=True, connect_url=url, deadline_seconds=1.5)
        result = run_gate("debezium-connectors", options, environ=PASSWORDS)
    assert_failed(result, "Kafka Connect", said)
    assert time.monotonic() - began < 25


# --- Redis, passwords, ports -------------------------------------------------------


def _bootstrap(**more: Any) -> GateResult:
    return run_gate("bootstrap", GateOptions(execute=True, profile="rehearsal", **more), environ={})


def test_redis_is_a_replica(tmp_path: Path) -> None:
    """A replica is no place for the bridge: whom it follows, and what to name instead."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with valkey(tmp_path / "a") as primary:
        port = primary.rpartition(":")[2]
        with valkey(tmp_path / "b", "--replicaof", f"127.0.0.1 {port}") as replica:
            result = _bootstrap(redis_url=replica)
    assert_failed(result, "role slave", f"follows 127.0.0.1:{port}", "name the primary by")


def test_redis_disk_full(tmp_path: Path) -> None:
    """A Redis whose last snapshot failed because its disk is full says so before it matters."""
    with _small_disk(tmp_path / "disk", mib=1) as disk, valkey(tmp_path, "--dir", str(disk)) as url:
        _fill(disk)
        _bgsave(url)
        result = _bootstrap(redis_url=url)
    assert_failed(result, "rdb_last_bgsave_status is err, expected ok", "disk")


def _bgsave(url: str) -> None:
    import valkey as client

    with client.Valkey.from_url(url, decode_responses=True) as server:
        server.set("x", "x" * 100_000)
        server.bgsave()
        end = time.monotonic() + 10
        while server.info("persistence")["rdb_last_bgsave_status"] == "ok":
            assert time.monotonic() < end
            time.sleep(0.05)


def test_password_wrong_for_postgres(chain: RealChain) -> None:
    """PostgreSQL refuses: whose password, and from which variable it was taken; never its value."""
    options = GateOptions(**chain.flags)
    environ = {**chain.environ, "TIMESCALE_PASSWORD": "falsch-falsch"}
    result = run_gate("bootstrap", options, environ=environ)
    assert_failed(result, "password authentication failed", "from TIMESCALE_PASSWORD of the env")
    assert b"falsch-falsch" not in result.evidence()


def test_password_wrong_for_clickhouse(clickhouse: SmallClickHouse) -> None:
    """ClickHouse refuses: which variables to correct; never the value."""
    options = GateOptions(execute=True, clickhouse_url=clickhouse.url)
    environ = {"CLICKHOUSE_PASSWORD": "falsch-falsch"}
    result = run_gate("clickhouse-schema", options, environ=environ)
    assert_failed(result, "Authentication failed", "CLICKHOUSE_PASSWORD of the env")
    assert b"falsch-falsch" not in result.evidence()


def test_password_wrong_for_redis(tmp_path: Path) -> None:
    """Redis refuses: which variable to correct; never the value."""
    with valkey(tmp_path, "--requirepass", "geheim-geheim") as url:
        result = _bootstrap(redis_url=url.replace("//", "//:falsch-falsch@"))
    assert_failed(result, "AUTH was refused", "REDIS_PASSWORD")
    assert b"falsch-falsch" not in result.evidence()


def test_port_held_by_someone_else() -> None:
    """A web server where Redis, Kafka, ClickHouse or Connect should be is told from each of them."""
    with http_page("It works!\n") as page:
        port = page.split(":")[2].partition("/")[0]
        here = f"127.0.0.1:{port}"
        asked: dict[str, dict[str, Any]] = {
            "bootstrap": {"redis_url": f"redis://{here}"},
            "kafka-topics": {"bootstrap_servers": here},
            "clickhouse-schema": {"clickhouse_url": f"http://{here}"},
            "debezium-connectors": {"connect_url": f"http://{here}"},
        }
        for name, flags in asked.items():
            options = GateOptions(execute=True, profile="rehearsal", deadline_seconds=4.0, **flags)
            result = run_gate(name, options, environ=PASSWORDS)
            assert_failed(result, here)


def test_nobody_there() -> None:
    """A port nobody listens on fails every gate within its deadline, by address."""
    here = f"127.0.0.1:{free_port()}"
    asked: dict[str, dict[str, Any]] = {
        "bootstrap": {"redis_url": f"redis://{here}"},
        "kafka-topics": {"bootstrap_servers": here},
        "clickhouse-schema": {"clickhouse_url": f"http://{here}"},
        "debezium-connectors": {"connect_url": f"http://{here}"},
    }
    for name, flags in asked.items():
        options = GateOptions(execute=True, profile="rehearsal", deadline_seconds=3.0, **flags)
        began = time.monotonic()
        assert_failed(run_gate(name, options, environ=PASSWORDS), here)
        assert time.monotonic() - began < 25
