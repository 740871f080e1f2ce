"""Facts about gates/clickhouse.py: what is live is held to its file, and nothing is made twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from tests.props.small_servers import Asked, scripted_http

pytestmark = pytest.mark.twin
SQL = """\
CREATE DATABASE IF NOT EXISTS q;
CREATE TABLE IF NOT EXISTS q.t (id String, price Decimal64(4), at DateTime)
ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (id, at) SETTINGS index_granularity = 8192;
CREATE TABLE IF NOT EXISTS q.queue (raw String) ENGINE = Kafka SETTINGS kafka_format = 'RawBLOB';
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS SELECT raw AS id FROM q.queue;
"""
MORE = "ALTER TABLE q.t ADD COLUMN IF NOT EXISTS later String"
SPELT = {"Decimal64(4)": "Decimal(18, 4)"}


@dataclass(frozen=True)
class Live:
    """A live table: engine and how it was made, order, partition, query, target, rows, columns."""

    engine: str
    full: str = ""
    order: str = ""
    partition: str = ""
    select: str = ""
    target: str = ""
    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)


TABLE = Live(
    "MergeTree",
    "MergeTree PARTITION BY toYYYYMM(at) ORDER BY (id, at) SETTINGS index_granularity = 8192",
    order="id, at",
    partition="toYYYYMM(at)",
    columns={"id": "String", "price": "Decimal(18, 4)", "at": "DateTime"},
)
QUEUE = Live("Kafka", "Kafka SETTINGS kafka_format = 'RawBLOB'", columns={"raw": "String"})
VIEW = Live("MaterializedView", select="SELECT raw AS id FROM q.queue", target="q.t")
WHOLE = {"q.t": TABLE, "q.queue": QUEUE, "q.v": VIEW}


@dataclass
class FakeClickHouse:
    """A server with these tables; what it is told to run makes what it names as wanted."""

    tables: dict[str, Live]
    free_mib: int = 9999
    ran: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> tuple[int, str]:
        """Rows, or nothing for a statement."""
        query = asked[3].decode()
        if not query.startswith("SELECT"):
            return self.run(query)
        return 200, json.dumps({"data": self.rows(query)})

    def run(self, statement: str) -> tuple[int, str]:
        """Make what is wanted."""
        self.ran.append(statement)
        if name := re.search(r"(?:TABLE|VIEW) IF NOT EXISTS (\S+)", statement):
            null = statement.endswith("ENGINE = Null")
            made = replace(WHOLE[name[1]], engine="Null") if null else WHOLE[name[1]]
            self.tables[name[1]] = made
        return 200, ""

    def rows(self, query: str) -> list[list[Any]]:
        """As the real one answers what the gate asks."""
        if "version()" in query:
            return [["26.9"]]
        if "system.disks" in query:
            return [["default", "/var", self.free_mib << 20]]
        if "system.columns" in query:
            columns = [(table, live.columns) for table, live in self.tables.items()]
            return [[table, *column] for table, cs in columns for column in cs.items()]
        if "system.tables" in query:
            return [
                [name, *(getattr(live, key) for key in list(vars(live))[:7])]
                for name, live in self.tables.items()
            ]
        texts = re.findall(r"'((?:[^'\\]|\\.)*)'", query)
        return [[SPELT.get(text, text) for text in texts]]


@contextmanager
def serving(server: FakeClickHouse) -> Iterator[str]:
    """Its address."""
    with scripted_http(server) as url:
        yield url


def gate(server: FakeClickHouse, folder: Path, *, sql: str = SQL, **flags: Any) -> GateResult:
    """How the gate goes with this server and these files."""
    (folder / "clickhouse").mkdir(exist_ok=True)
    (folder / "clickhouse" / "010_all.sql").write_text(sql)
    with serving(server) as url:
        options = {"execute": True, "infra": folder, "clickhouse_url": url, **flags}
        return run_gate("clickhouse-schema", GateOptions(**options), environ={})


def test_a_schema_that_is_as_wanted_is_left_alone(tmp_path: Path) -> None:
    """Nothing is run; engines and column counts are in the evidence."""
    server = FakeClickHouse(dict(WHOLE))
    result = gate(server, tmp_path)
    assert result.is_ok, result.sentence
    assert (server.ran, result.changes) == ([], 0)
    assert result.steps[0].facts == {"version": "26.9", "disk_default_free_mib": "9999"}
    assert result.steps[2].facts == {
        "t_engine": "MergeTree",
        "t_columns": "3",
        "queue_engine": "Kafka",
        "queue_columns": "1",
        "v_engine": "MaterializedView",
        "v_columns": "0",
    }


def test_what_is_missing_is_made_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Of an empty server all of it, and what only adds a column each time."""
    server = FakeClickHouse({})
    result = gate(server, tmp_path, sql=f"{SQL}{MORE};")
    assert result.is_ok, result.sentence
    names = [statement.split("EXISTS ")[1].split()[0] for statement in server.ran]
    assert names == ["q", "q.t", "q.queue", "q.v", "later"]
    assert result.steps[1].facts == {"statements_run": "5", "created": "q.queue, q.t, q.v"}
    assert result.changes == 3
    again = gate(server, tmp_path, sql=f"{SQL}{MORE};")
    assert (again.changes, server.ran[5:]) == (0, [MORE])


def test_on_the_twin_a_queue_is_a_stand_in(tmp_path: Path) -> None:
    """Its engine is Null there, and the evidence says so; elsewhere that is a difference."""
    server = FakeClickHouse({})
    result = gate(server, tmp_path, profile="rehearsal")
    assert result.is_ok, result.sentence
    assert server.ran[2].endswith("(raw String) ENGINE = Null")
    assert result.steps[1].facts["stand_ins"].startswith("1 queues have engine Null")
    assert "table q.queue: engine is Null, expected Kafka" in gate(server, tmp_path).sentence


def test_a_dropped_view_is_not_quietly_made_again(tmp_path: Path) -> None:
    """Its target has rows, so some are missing since: nothing at all is made."""
    filled = {"q.t": replace(TABLE, rows=7), "q.queue": QUEUE}
    server = FakeClickHouse(dict(filled))
    result = gate(server, tmp_path)
    assert "view q.v does not exist, though its target q.t has 7 rows" in result.sentence
    assert "010_all.sql by hand and fill the gap from the topic" in result.sentence
    assert server.ran == []
    empty = FakeClickHouse({"q.t": TABLE, "q.queue": QUEUE})
    assert gate(empty, tmp_path).is_ok


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """On one ClickHouse makes views without a query, and the tasks behind would only fail too."""
    result = gate(FakeClickHouse(dict(WHOLE), free_mib=255), tmp_path)
    assert "disk default (/var) has 255 MiB free, expected at least 256 MiB" in result.sentence
    assert [step.status.value for step in result.steps] == ["failed", "not_run", "not_run"]


def edited(table: Live, **columns: str | None) -> Live:
    """A table with other columns; None takes one away."""
    merged = {**table.columns, **columns}
    return replace(table, columns={name: kind for name, kind in merged.items() if kind})


DIFFERENCES: dict[str, tuple[str, Live, str]] = {
    "a column is missing": (
        "q.t",
        edited(TABLE, price=None),
        "table q.t: column price Decimal(18, 4) is missing; run `ALTER TABLE q.t ADD COLUMN price",
    ),
    "a column of another type": (
        "q.t",
        edited(TABLE, price="Float64"),
        "column price is Float64, expected Decimal(18, 4); in a quiet hour run `ALTER TABLE q.t MOD",
    ),
    "a column of nobody": (
        "q.t",
        edited(TABLE, more="String"),
        "column more String is not in the file; add it there, or drop it",
    ),
    "another engine": (
        "q.t",
        replace(TABLE, engine="Log"),
        "engine is Log, expected MergeTree; it cannot be altered in place",
    ),
    "another order": ("q.t", replace(TABLE, order="at"), "ORDER BY is at, expected (id, at)"),
    "no partitions": (
        "q.t",
        replace(TABLE, partition=""),
        "PARTITION BY is none, expected toYYYYMM(at)",
    ),
    "another setting": (
        "q.queue",
        replace(QUEUE, full="Kafka SETTINGS kafka_format = 'JSON'"),
        "table q.queue: setting kafka_format is not 'RawBLOB': Kafka SETTINGS",
    ),
    "another target": (
        "q.v",
        replace(VIEW, target="`q`.`old`"),
        "view q.v: writes to `q`.`old`, expected q.t",
    ),
    "another query": (
        "q.v",
        replace(VIEW, select="SELECT raw AS other FROM q.queue"),
        "view q.v: selects …SELECT raw AS other FROM q.queue…, expected …SELECT raw AS id FROM",
    ),
    "no query": ("q.v", replace(VIEW, select=""), "view q.v: has no query"),
}


@pytest.mark.parametrize(("name", "live", "said"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_difference_is_told_with_what_mends_it(
    name: str, live: Live, said: str, tmp_path: Path
) -> None:
    """By table and file, and nothing of it is altered by the gate."""
    server = FakeClickHouse({**WHOLE, name: live})
    result = gate(server, tmp_path)
    assert result.exit_code == 3
    assert said in result.sentence
    assert "010_all.sql)" in result.sentence
    assert server.ran == []


SAME = {
    "brackets around the order": ("q.t", replace(TABLE, order="(id,  at)")),
    "backticks": ("q.t", replace(TABLE, order="`id`, at", partition="toYYYYMM(`at`)")),
    "a target in backticks": ("q.v", replace(VIEW, target="`q`.`t`")),
    "a query in brackets": ("q.v", replace(VIEW, select="(SELECT raw AS id FROM q.queue)")),
}


@pytest.mark.parametrize(("name", "live"), SAME.values(), ids=SAME)
def test_how_it_is_written_is_no_difference(name: str, live: Live, tmp_path: Path) -> None:
    """The server writes blanks, backticks and brackets in its own way."""
    result = gate(FakeClickHouse({**WHOLE, name: live}), tmp_path)
    assert result.is_ok, result.sentence


def test_what_is_missing_after_all_is_told(tmp_path: Path) -> None:
    """A probe makes nothing, and says which file's table is not there."""
    server = FakeClickHouse({"q.t": TABLE})
    result = gate(server, tmp_path, execute=False, probe=True)
    assert result.exit_code == 2
    assert "table q.queue does not exist" in result.sentence
    assert "run `ctp-runbook infra clickhouse-schema --execute`" in result.sentence
    assert server.ran == []
