"""ClickHouse's files read as what they are to make; what could take something away is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ConfigError
from ctp_runbook.gates.sql_files import Statement, WantedColumn, load_sql, squeezed

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
    """Columns with their types, engine, order, partition and settings; no index, no comment."""
    table = _read(tmp_path)["q.t"]
    assert table.columns == (
        WantedColumn("id", "String"),
        WantedColumn("price", "Decimal(16, 4)"),
        WantedColumn("at", "DateTime64(3, 'UTC')"),
    )
    assert (table.engine, table.database, table.short) == ("ReplacingMergeTree", "q", "t")
    assert (table.order_by, table.partition_by) == ("(id, at)", "toYYYYMM(at)")
    assert table.settings == (("index_granularity", "8192"),)


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
    assert (queue.engine, queue.settings) == ("Null", ())
    assert found["q.queue"].settings[0] == ("kafka_topic_list", "'a,b'")
    assert found["q.t"].on_twin() is found["q.t"]


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE q.t",
        "TRUNCATE TABLE q.t",
        "CREATE TABLE q.t (a String) ENGINE = Null",
        "CREATE OR REPLACE VIEW q.v AS SELECT 1",
        "ALTER TABLE q.t DROP COLUMN a",
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


COLUMNS: dict[str, tuple[str, WantedColumn | None]] = {
    "a default with a comma": ("a String DEFAULT concat('x', 'y')", WantedColumn("a", "String")),
    "brackets": ("a Map(String, Array(UInt8))", WantedColumn("a", "Map(String, Array(UInt8))")),
    "an enum": ("a Enum8('x, y' = 1)", WantedColumn("a", "Enum8('x, y' = 1)")),
    "a codec": ("a Int64 CODEC(Delta, ZSTD)", WantedColumn("a", "Int64")),
    "a time to live": ("a Date TTL a + INTERVAL 1 DAY", WantedColumn("a", "Date")),
    "blanks": ("a   DateTime64(3,   'UTC')", WantedColumn("a", "DateTime64(3, 'UTC')")),
    "a constraint": ("CONSTRAINT c CHECK a > 0", None),
    "a projection": ("PROJECTION p (SELECT a)", None),
    "a key": ("PRIMARY KEY (a)", None),
}


@pytest.mark.parametrize(("text", "column"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_is_its_name_and_its_type(
    text: str, column: WantedColumn | None, tmp_path: Path
) -> None:
    """What comes behind the type, and what is no column, is not compared."""
    made = f"CREATE TABLE IF NOT EXISTS q.t (z String, {text}) ENGINE = Log"
    table = _read(tmp_path, made)["q.t"]
    assert table.columns == (WantedColumn("z", "String"), *([column] if column else []))


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
        assert by_name[f"quant_hft.{name}"].columns
        assert by_name[f"quant_hft.{name}"].order_by
        assert by_name[f"quant_hft.{name}_mv"].target == f"quant_hft.{name}"


def test_squeezed_forgets_how_it_was_written() -> None:
    """Blanks, backticks and outer brackets say nothing; inner ones do."""
    assert squeezed("( `a`,  b )") == squeezed("a, b") == "a,b"
    assert squeezed("(a), (b)") == "(a),(b)"
