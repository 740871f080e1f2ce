"""ClickHouse's files read as what they are to make; what could take something away is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ConfigError
from ctp_runbook.gates.sql_files import (
    Statement,
    clauses,
    definitions,
    load_sql,
    settings,
    unbracketed,
    view_target,
)

ROOT = Path(__file__).parents[2]
SQL = """\
-- a comment; with a semicolon, and CREATE in it
CREATE DATABASE IF NOT EXISTS q;
CREATE TABLE IF NOT EXISTS q.t (
    `id` String DEFAULT 'a;b' COMMENT 'x, y',
    price Decimal(16, 4) CODEC(ZSTD(3)), /* in between */
    at DateTime64(3, 'UTC'),
    INDEX by_id id TYPE minmax,
) ENGINE = ReplacingMergeTree(at) PARTITION BY toYYYYMM(at) ORDER BY (id, at)
SETTINGS index_granularity = 8192;
CREATE TABLE IF NOT EXISTS q.queue (raw String) ENGINE = Kafka
SETTINGS kafka_topic_list = 'a,b', kafka_num_consumers = 1;
CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS SELECT raw AS id FROM q.queue;
ALTER TABLE q.t ADD COLUMN IF NOT EXISTS later String
"""


def _read(tmp_path: Path, text: str = SQL) -> dict[str, Statement]:
    (tmp_path / "010.sql").write_text(text)
    (file,) = load_sql(tmp_path)
    return {one.name: one for one in file.statements}


def test_a_table_is_read(tmp_path: Path) -> None:
    """Its name and its engine; what is in its brackets is the server's to read."""
    table = _read(tmp_path)["q.t"]
    assert (table.engine, table.database, table.short) == ("ReplacingMergeTree", "q", "t")
    assert (table.quoted, table.is_view) == ("q.t", False)


def test_a_view_is_read(tmp_path: Path) -> None:
    """Its target and its query."""
    view = _read(tmp_path)["q.v"]
    assert view.is_view
    assert (view.target, view.select) == ("q.t", "SELECT raw AS id FROM q.queue")


def test_a_queue_on_the_twin_has_the_engine_null(tmp_path: Path) -> None:
    """Kafka's engine and its settings go; its columns stay. Other tables stay as they are."""
    found = _read(tmp_path)
    queue = found["q.queue"].on_twin()
    assert queue.text.endswith("(raw String) ENGINE = Null")
    assert queue.engine == "Null"
    assert found["q.t"].on_twin() is found["q.t"]


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE q.t",
        "TRUNCATE TABLE q.t",
        "CREATE TABLE q.t (a String) ENGINE = Null",
        "CREATE OR REPLACE VIEW q.v AS SELECT 1",
        "ALTER TABLE q.t DROP COLUMN a",
        "ALTER TABLE q.t ADD COLUMN IF NOT EXISTS a String, DROP COLUMN b",
        "CREATE TABLE IF NOT EXISTS t (a String) ENGINE = Null",
        "CREATE DATABASE IF NOT EXISTS q.t",
        "CREATE TABLE IF NOT EXISTS q.x (a String; DROP TABLE q.t",
        "/* CREATE TABLE IF NOT EXISTS q.x */ DROP TABLE q.t",
        "-- CREATE TABLE IF NOT EXISTS q.x\nDROP TABLE q.t",
    ],
)
def test_what_could_take_away_is_refused(text: str, tmp_path: Path) -> None:
    """Only what adds is run, whatever else stands in the file."""
    with pytest.raises(ConfigError, match="migrations only add"):
        _read(tmp_path, f"{SQL};{text};")


PARTS: dict[str, tuple[str, list[str]]] = {
    "a semicolon in a text": ("CREATE VIEW IF NOT EXISTS q.v AS SELECT ';'", ["q.v"]),
    "a quote in a text": (r"CREATE VIEW IF NOT EXISTS q.v AS SELECT '\';'", ["q.v"]),
    "a doubled quote": ("CREATE VIEW IF NOT EXISTS q.v AS SELECT ''';'", ["q.v"]),
    "a quote in a comment": ("-- it's\nCREATE DATABASE IF NOT EXISTS q; -- ;", ["q"]),
    "a name in backticks": ("CREATE TABLE IF NOT EXISTS `q`.`t` (a String) ENGINE = Log", ["q.t"]),
    "small letters": ("create database if not exists q;;\n;", ["q"]),
    "nothing": ("-- nothing\n;", []),
}


@pytest.mark.parametrize(("text", "names"), PARTS.values(), ids=PARTS)
def test_a_statement_ends_at_its_semicolon(text: str, names: list[str], tmp_path: Path) -> None:
    """Not at one in a text or a comment."""
    assert list(_read(tmp_path, text)) == names


# A statement, and what makes the same under the name `s.w`.
MOVED: dict[str, tuple[str, str]] = {
    "a table": (
        "CREATE TABLE IF NOT EXISTS q . `t` (a String) ENGINE = Log",
        "CREATE TABLE IF NOT EXISTS s.w (a String) ENGINE = Log",
    ),
    "a view": ("CREATE VIEW IF NOT EXISTS q.v AS SELECT 1", "CREATE VIEW s.w AS SELECT 1"),
    "a view with columns": (
        "CREATE VIEW IF NOT EXISTS q.v (as String) AS (SELECT 1)",
        "CREATE VIEW s.w AS (SELECT 1)",
    ),
    "one that is fed": (
        "CREATE MATERIALIZED VIEW IF NOT EXISTS q.v TO q.t AS WITH 1 AS x SELECT x AS y",
        "CREATE VIEW s.w AS WITH 1 AS x SELECT x AS y",
    ),
    "one that keeps its rows": (
        "CREATE MATERIALIZED VIEW IF NOT EXISTS q.v ENGINE = Log AS SELECT 1",
        "CREATE VIEW s.w AS SELECT 1",
    ),
}


@pytest.mark.parametrize(("text", "moved"), MOVED.values(), ids=MOVED)
def test_a_statement_is_moved_by_its_name(text: str, moved: str, tmp_path: Path) -> None:
    """Nothing else of it changes; a view is made as one that takes nothing in."""
    (statement,) = _read(tmp_path, text).values()
    assert statement.moved("s.w") == moved


def test_an_alter_is_moved_too(tmp_path: Path) -> None:
    """It belongs to the table it alters."""
    (tmp_path / "010.sql").write_text(SQL)
    (more,) = load_sql(tmp_path)[0].more
    assert (more.name, more.kind) == ("q.t", "ALTER")
    assert more.moved("s.w") == "ALTER TABLE s.w ADD COLUMN IF NOT EXISTS later String"


NAMES = {"q.t": "q.t", "`q`.`a.b`": "q.a.b", '"q"."t"': "q.t", r"q.`a\`b`": "q.a`b", "q . t": "q.t"}


@pytest.mark.parametrize(("written", "name"), NAMES.items())
def test_a_name_is_read_without_its_quotes(written: str, name: str, tmp_path: Path) -> None:
    """As the server lists it."""
    found = _read(tmp_path, f"CREATE TABLE IF NOT EXISTS {written} (a String) ENGINE = Log")
    assert list(found) == [name]
    assert found[name].database == "q"


def test_a_name_that_needs_quotes_gets_them(tmp_path: Path) -> None:
    """Where a statement holds it."""
    written = r"q.`a\`b`"
    found = _read(tmp_path, f"CREATE TABLE IF NOT EXISTS {written} (a String) ENGINE = Log")
    assert found["q.a`b"].quoted == written


def test_every_problem_is_told_in_one_go(tmp_path: Path) -> None:
    """By file, with what is expected; a file that is no text, too."""
    (tmp_path / "020.sql").write_bytes(b"\xff")
    with pytest.raises(ConfigError) as refused:
        _read(tmp_path, "DROP TABLE a; TRUNCATE TABLE b")
    files = [problem.file.rpartition("/")[2] for problem in refused.value.problems]
    assert files == ["010.sql", "010.sql", "020.sql"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """No file is no schema."""
    with pytest.raises(ConfigError, match=r"no \*\.sql"):
        load_sql(tmp_path)


def test_the_shipped_files_are_read_whole() -> None:
    """Each topic has its queue, its target with columns and order, and its view into the target."""
    statements = [one for file in load_sql(ROOT / "infra/clickhouse") for one in file.statements]
    by_name = {one.name: one for one in statements}
    for name in ("market_ticks", "orders_cdc", "trades_cdc", "risk_events_cdc"):
        assert by_name[f"quant_hft.{name}_kafka"].engine == "Kafka"
        assert by_name[f"quant_hft.{name}"].engine == "MergeTree"
        assert by_name[f"quant_hft.{name}_mv"].target == f"quant_hft.{name}"


# --- what the server wrote --------------------------------------------------------

CREATE = r"""CREATE TABLE q.t (`id` String COMMENT 'it\'s a, b)', `x y` UInt8 DEFAULT 3 COMMENT 'COMMENT'
 CODEC(ZSTD(1)), `COMMENT` String, INDEX i id TYPE minmax GRANULARITY 1, CONSTRAINT c CHECK id != ',')
 ENGINE = MergeTree ORDER BY id COMMENT 'x'""".replace("\n", "")


def test_definitions_are_cut_at_their_commas() -> None:
    """Not at one in a text or a bracket; without comments, which change nothing."""
    assert definitions(CREATE) == {
        "column id": "String",
        "column `x y`": "UInt8 DEFAULT 3 CODEC(ZSTD(1))",
        "column COMMENT": "String",
        "index i": "id TYPE minmax GRANULARITY 1",
        "constraint c": "CHECK id != ','",
    }
    assert definitions("CREATE VIEW q.v AS SELECT 1") == {}


def test_clauses_are_cut_at_their_keywords() -> None:
    """Not at one in a text, a name or a bracket."""
    assert clauses(
        "ReplacingMergeTree(v) PARTITION BY toYYYYMM(at) PRIMARY KEY id ORDER BY (id, `TTL`)"
        " SAMPLE BY id TTL at + toIntervalDay(30) SETTINGS a = 'SETTINGS, TTL', b = 2"
    ) == {
        "": "ReplacingMergeTree(v)",
        "PARTITION BY": "toYYYYMM(at)",
        "PRIMARY KEY": "id",
        "ORDER BY": "(id, `TTL`)",
        "SAMPLE BY": "id",
        "TTL": "at + toIntervalDay(30)",
        "SETTINGS": "a = 'SETTINGS, TTL', b = 2",
    }
    assert clauses("") == {"": ""}
    assert settings("a = 'x, y', b = 2") == {"a": "'x, y'", "b": "2"}
    assert settings("") == {}


TARGETS = {
    "CREATE MATERIALIZED VIEW q.v TO q.t (`id` String) AS SELECT 1": "q.t",
    "CREATE MATERIALIZED VIEW q.v REFRESH EVERY 1 HOUR TO `q`.`t u` (`id` String) AS ": "q.t u",
    "CREATE MATERIALIZED VIEW q.v (`id` String) ENGINE = Log AS SELECT x TO q.t": "",
    "CREATE VIEW q.v (`id` String) AS SELECT 'TO q.t'": "",
}


@pytest.mark.parametrize(("create", "target"), TARGETS.items())
def test_a_target_is_what_stands_behind_to(create: str, target: str) -> None:
    """Before its query."""
    assert view_target(create) == target


def test_brackets_around_a_whole_key_say_nothing() -> None:
    """Those inside do."""
    assert unbracketed("(id)") == unbracketed("id") == "id"
    assert unbracketed("(a), (b)") == "(a), (b)"
    assert unbracketed("(a, b) % 2") == "(a, b) % 2"
    assert unbracketed("tuple()") == "tuple()"
