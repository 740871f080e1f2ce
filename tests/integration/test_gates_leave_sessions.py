"""All gates, executed twice, while the old generation trades: nothing of it is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from ctp_runbook.rehearsal.engine.bridge import bridge_client
from ctp_runbook.rehearsal.front.log import overlaps, read_front_log, trading_intervals
from ctp_runbook.rehearsal.stack import down, up
from ctp_runbook.rehearsal.twin import Twin
from tests.props.plan_fixtures import wait_for
from tests.props.twin_tools import template_command

pytestmark = pytest.mark.timeout(400)

GATES = (
    "BOOTSTRAP_INFRA",
    "INIT_KAFKA_TOPIC",
    "INIT_CLICKHOUSE_SCHEMA",
    "INIT_DEBEZIUM_CONNECTOR",
    "PRECHECK",
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin with a data plane, its old generation trading."""
    made = up(tmp_path_factory.mktemp("planes") / "twin", plane=True)
    yield made
    assert down(made.dir).left == ()


@contextlib.contextmanager
def database(twin: Twin) -> Iterator[psycopg.Connection]:
    """A superuser's session."""
    secret = twin.plane.credentials().postgres
    dsn = f"host=127.0.0.1 port={twin.plane.port('postgres')} dbname=quant_hft user=postgres"
    with psycopg.connect(dsn, password=secret, autocommit=True) as connection:
        yield connection


def bridge_sessions(twin: Twin) -> dict[str, str]:
    """Redis' own id of each connection of the old generation, by its name."""
    with bridge_client(twin.valkey_dir, name="test") as client:
        found = client.client_list()
    return {one["name"]: one["id"] for one in found if one["name"].startswith("old_")}


def database_sessions(twin: Twin) -> set[tuple[object, ...]]:
    """Backends of whoever keeps one open, each with its start; Debezium looks at its slot by others, which
    come and go."""
    query = (
        "SELECT pid, backend_start, application_name FROM pg_stat_activity WHERE datname ="
        " 'quant_hft' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND application_name <> 'Debezium Slot Info'"
    )
    with database(twin) as connection:
        return set(connection.execute(query).fetchall())


def old_orders(twin: Twin) -> int:
    """Orders of the old generation that the front has taken."""
    records = read_front_log(twin.front_log)
    return sum((one["event"], one.get("generation")) == ("order", "old") for one in records)


def test_every_gate_leaves_the_old_generation_its_sessions(twin: Twin) -> None:
    """Same Redis connections, same database sessions, an open transaction, orders all along."""
    bridge, engine = bridge_sessions(twin), database_sessions(twin)
    assert {"old_core_engine", "old_strategy_runner"} <= set(bridge)
    assert engine
    with database(twin) as held, bridge_client(twin.valkey_dir, name="held") as client:
        held.execute("BEGIN")
        mine = held.execute("SELECT pg_backend_pid(), count(*) FROM trading_core.orders").fetchone()
        number = client.client_id()
        trading = trading_intervals(read_front_log(twin.front_log))
        assert [(one.generation, one.until_ns) for one in trading] == [("old", None)]
        for name in GATES * 2:
            before = old_orders(twin)
            done = template_command(twin, f"{name}_CMD")
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

            def has_traded(before: int = before) -> bool:
                return old_orders(twin) > before

            # A gate that finds all as it is may be done between two orders.
            wait_for(has_traded)
        again = held.execute("SELECT pg_backend_pid()").fetchone()
        assert mine is not None
        assert again == mine[:1]
        held.execute("COMMIT")
        assert client.client_id() == number
    assert bridge_sessions(twin) == bridge
    assert engine <= database_sessions(twin)
    assert trading_intervals(read_front_log(twin.front_log)) == trading
    assert overlaps(twin.front_log) == []
