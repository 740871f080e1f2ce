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
    ],
)
def test_what_could_take_away_is_refused(text: str, tmp_path: Path) -> None:
    """Only what adds is run, whatever else stands in the file."""
    with pytest.raises(ConfigError, match="migrations only add"):
        _read(tmp_path, f"{SQL};{text};")


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
