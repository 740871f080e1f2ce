"""Facts about gates/clickhouse.py: what is live is held to its file, and nothing is made twice.

What counts as a difference, and what it is told with: tests/contract/border/schema.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates import clickhouse as gate_module
from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.host.process import boot_id, own_identity
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from tests.props.small_clickhouse import small_clickhouse
from tests.props.small_servers import Asked, scripted_http

pytestmark = pytest.mark.twin
SQL = """\
CREATE DATABASE IF NOT EXISTS q;
CREATE TABLE IF NOT EXISTS q.t (id String, price Decimal64(4), at DateTime)
ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (id, at) SETTINGS index_granularity = 8192;
CREATE TABLE IF NOT EXISTS q.queue (raw String) ENGINE = Kafka
SETTINGS kafka_broker_list = 'k:9', kafka_topic_list = 't', kafka_group_name = 'g', kafka_format = 'RawBLOB';
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS SELECT raw AS id FROM q.queue;
"""
MORE = "ALTER TABLE q.t ADD COLUMN IF NOT EXISTS later String"


@pytest.fixture(scope="module")
def engine() -> Iterator[ClickHouseDoor]:
    """A real engine; its queues are those of the twin."""
    with small_clickhouse() as door:
        yield door


@pytest.fixture
def server(engine: ClickHouseDoor) -> ClickHouseDoor:
    """The engine, with nothing in it."""
    for name in (*databases(engine), "q"):
        if name == "q" or "scratch" in name:
            engine.run(f"DROP DATABASE IF EXISTS `{name}` SYNC", seconds=10)
    return engine


def databases(server: ClickHouseDoor) -> list[str]:
    """Their names."""
    return [name for (name,) in server.rows("SELECT name FROM system.databases", seconds=10)]


def gate(server: ClickHouseDoor, folder: Path, *, sql: str = SQL, **flags: Any) -> GateResult:
    """How the gate goes with this server and these files."""
    (folder / "clickhouse").mkdir(exist_ok=True)
    (folder / "clickhouse" / "010_all.sql").write_text(sql)
    given = {"execute": True, "infra": folder, "clickhouse_url": server.url, **flags}
    return run_gate(
        "clickhouse-schema", GateOptions(**{"profile": "rehearsal", **given}), environ={}
    )


def test_what_is_missing_is_made_and_then_left_alone(
    server: ClickHouseDoor, tmp_path: Path
) -> None:
    """Of an empty server all of it, once; engines and column counts are in the evidence."""
    first = gate(server, tmp_path, sql=f"{SQL}{MORE};")
    assert first.is_ok, first.sentence
    assert first.changes == 3
    assert first.steps[1].facts["statements_run"] == "5"
    assert first.steps[1].facts["created"] == "q.queue, q.t, q.v"
    again = gate(server, tmp_path, sql=f"{SQL}{MORE};")
    assert again.is_ok, again.sentence
    assert (again.changes, again.steps[1].facts["statements_run"]) == (0, "1")
    assert again.steps[2].facts == {
        "t_engine": "MergeTree",
        "t_columns": "4",
        "queue_engine": "Null",
        "queue_columns": "1",
        "v_engine": "MaterializedView",
        "v_columns": "1",
    }
    assert {"version", "disk_default_free_mib"} <= set(again.steps[0].facts)


def test_on_the_twin_a_queue_is_a_stand_in(server: ClickHouseDoor, tmp_path: Path) -> None:
    """Its engine is Null there, and the evidence says so; elsewhere that is a difference."""
    result = gate(server, tmp_path)
    assert result.is_ok, result.sentence
    assert result.steps[1].facts["stand_ins"].startswith("1 queues have engine Null")
    sentence = gate(server, tmp_path, profile="single-host").sentence
    assert "table q.queue: engine is Null, expected Kafka" in sentence


def test_a_dropped_view_is_not_quietly_made_again(server: ClickHouseDoor, tmp_path: Path) -> None:
    """Its target has rows, so some are missing since: nothing at all is made."""
    assert gate(server, tmp_path).is_ok
    server.run("DROP TABLE q.v SYNC", seconds=10)
    assert gate(server, tmp_path).changes == 1
    server.run("INSERT INTO q.queue VALUES ('a')", seconds=10)
    server.run("DROP TABLE q.v SYNC", seconds=10)
    result = gate(server, tmp_path)
    assert "view q.v does not exist, though its target q.t has 1 rows" in result.sentence
    assert "010_all.sql by hand and fill the gap from the topic" in result.sentence
    assert result.changes == 0


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """On one ClickHouse makes views without a query, and the tasks behind would only fail too."""
    rows = {"version": [["26.9"]], "disks": [["default", "/var", 255 << 20]]}

    def answer(asked: Asked) -> tuple[int, str]:
        return 200, json.dumps({"data": rows["disks" if b"disks" in asked[3] else "version"]})

    with scripted_http(answer) as url:
        result = gate(ClickHouseDoor(url, "", ""), tmp_path)
    assert "disk default (/var) has 255 MiB free, expected at least 256 MiB" in result.sentence
    assert [step.status.value for step in result.steps] == ["failed", "not_run", "not_run"]


def test_an_answer_of_another_shape_fails_the_gate(tmp_path: Path) -> None:
    """In words: what is no number of bytes is no room."""
    with scripted_http(lambda asked: (200, '{"data": [["default", "/var", "much"]]}')) as url:
        result = gate(ClickHouseDoor(url, "", ""), tmp_path)
    assert result.exit_code == 3
    assert "expected rows in JSON" in result.sentence


# --- a look -----------------------------------------------------------------------


def test_a_look_makes_nothing_and_says_what_it_did_not_ask(
    server: ClickHouseDoor, tmp_path: Path
) -> None:
    """What is missing is told; what is there is not compared: a scratch database is a write."""
    look: dict[str, Any] = {"execute": False, "probe": True}
    server.run("CREATE DATABASE q", seconds=10)
    result = gate(server, tmp_path, **look)
    assert result.exit_code == 2
    assert "table q.t does not exist" in result.sentence
    assert "run `ctp-runbook infra clickhouse-schema --execute`" in result.sentence
    assert gate(server, tmp_path).is_ok
    before = databases(server)
    result = gate(server, tmp_path, **look)
    assert result.is_ok, result.sentence
    assert [step.status.value for step in result.steps] == ["ok", "simulated_ok", "skipped"]
    assert "not asked whether what is there is as wanted" in result.steps[2].reason
    assert result.steps[2].facts["t_engine"] == "MergeTree"
    assert databases(server) == before


# --- the scratch database ---------------------------------------------------------


def test_what_the_server_does_not_take_is_no_match(server: ClickHouseDoor, tmp_path: Path) -> None:
    """A file that cannot be run is told in the server's words, and the scratch is gone."""
    assert gate(server, tmp_path).is_ok
    result = gate(server, tmp_path, sql=SQL.replace("Decimal64(4)", "Dezimal(4)"))
    assert "table q.t: cannot be compared: ClickHouse at http" in result.sentence
    assert "Dezimal" in result.sentence
    result = gate(server, tmp_path, sql=f"{SQL}{MORE} DEFAULT nonsense(id);")
    assert not result.is_ok
    assert [name for name in databases(server) if "scratch" in name] == []


LOG = ["q.t", "Log", "Log", "", "", "", "", "CREATE TABLE q.t (`id` String) ENGINE = Log", "", 0]
ANSWERS: dict[bytes, list[list[Any]]] = {
    b"version()": [["26.9"]],
    b"system.disks": [["default", "/var", 999 << 20]],
    b"system.databases": [],
    b"system.tables": [LOG],
}


def test_a_scratch_that_may_not_be_made_is_told_with_who_grants_it(tmp_path: Path) -> None:
    """In the words of the first refusal, not of the one that its removal meets."""

    def answer(asked: Asked) -> tuple[int, str]:
        if asked[3].startswith(b"SELECT"):
            found = next(rows for words, rows in ANSWERS.items() if words in asked[3])
            return 200, json.dumps({"data": found})
        return 403, f"Code: 497. DB::Exception: Not enough privileges: {asked[3][:6].decode()}"

    sql = "CREATE TABLE IF NOT EXISTS q.t (id String) ENGINE = Log;"
    with scripted_http(answer) as url:
        result = gate(ClickHouseDoor(url, "me", ""), tmp_path, sql=sql)
    assert "Not enough privileges: CREATE" in result.sentence
    assert "an administrator grants user quant_hft what is named there" in result.sentence


def scratch(server: ClickHouseDoor, *fields: object) -> str:
    """A scratch database as a process of those fields would have left it."""
    name = f"{gate_module._SCRATCH}{'_'.join(map(str, fields))}"
    server.run(f"CREATE DATABASE `{name}`", seconds=10)
    return name


def test_only_what_nobody_will_take_away_is_taken_away(
    server: ClickHouseDoor, tmp_path: Path
) -> None:
    """Of a process that is gone, or of another boot and old; never what holds a row, or another name."""
    me, here, now = own_identity(), boot_id()[:8], int(time.time())
    gone = [
        scratch(server, here, me.pid, me.start_ticks + 1, now, "aa"),
        scratch(server, "00000000", 1, 1, now - 100_000, "aa"),
    ]
    kept = [
        scratch(server, here, me.pid, me.start_ticks, now, "aa"),
        scratch(server, "00000000", 1, 1, now, "aa"),
        scratch(server, "of", "a", "person"),
        scratch(server, here, me.pid, me.start_ticks + 2, now, "rows"),
    ]
    server.run(
        f"CREATE TABLE `{kept[-1]}`.t ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", seconds=10
    )
    result = gate(server, tmp_path)
    assert result.is_ok, result.sentence
    assert result.steps[1].facts["scratch_removed"] == ", ".join(sorted(gone))
    assert sorted(name for name in databases(server) if "scratch" in name) == sorted(kept)
    assert gate(server, tmp_path).changes == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from ctp_runbook.gates import clickhouse
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.gates.run import run_gate
clickhouse._SchemaGate.refusal = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
options = GateOptions(execute=True, profile="rehearsal", infra=Path(sys.argv[1]), clickhouse_url=sys.argv[2])
run_gate("clickhouse-schema", options, environ={})
"""


def test_a_killed_gate_leaves_its_scratch_to_the_next(
    server: ClickHouseDoor, tmp_path: Path
) -> None:
    """Which takes it away before it makes one of its own."""
    assert gate(server, tmp_path).is_ok
    argv = [sys.executable, "-c", KILLED, str(tmp_path), server.url]
    died = subprocess.run(argv, env=dict(os.environ), timeout=240, check=False)
    assert died.returncode == -signal.SIGKILL
    assert [name for name in databases(server) if "scratch" in name]
    again = gate(server, tmp_path)
    assert again.is_ok, again.sentence
    assert [name for name in databases(server) if "scratch" in name] == []
