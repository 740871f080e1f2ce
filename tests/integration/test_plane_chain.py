"""The data plane whole: rows and ticks through every part, Connect's refusals, nothing left."""

from __future__ import annotations

import json
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.host.process import identity_of
from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.connectors import call_connect, connector_config
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, Plane
from ctp_runbook.rehearsal.plane.publisher import Publisher
from tests.props.data_plane import plane_up, resident_mb

TRADING = CONNECTORS[0]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A plane that serves, in a directory with spaces that only its owner may enter."""
    folder = tmp_path_factory.mktemp("data plane") / "of a twin"
    yield plane_up(folder)
    control.down(folder)


def wait_count(plane: Plane, query: str, *, at_least: int, seconds: float = 60.0) -> None:
    """Until ClickHouse counts so many."""
    store, end = Store(plane), time.monotonic() + seconds
    while (found := int(store.run(query))) < at_least:
        assert time.monotonic() < end, f"{query}: {found}, expected at least {at_least}"
        time.sleep(0.02)


def test_every_table_arrives_in_clickhouse(plane: Plane) -> None:
    """A row of each kind and ticks, given to the publisher, are in the targets within seconds."""
    publisher = Publisher(plane, name="test")
    publisher.row("orders", {"order_id": "o1", "limit_price": 3500.5})
    publisher.row("trades", {"trade_id": "t1", "price": 3500.5, "volume": 1})
    keys = {"account_id": "a", "instrument_id": "rb2501", "direction": "long", "hedge_flag": "s"}
    publisher.row("position_detail", {**keys, "volume": 3})
    publisher.row("account_funds", {"account_id": "a", "trading_day": "20261123"})
    publisher.row("risk_events", {"account_id": "a", "event_type": "reject"})
    for turn in range(30):
        publisher.tick("rb2501", last_price=3500.0 + turn)
    assert publisher.close() == 0, publisher.refused
    for table in ("orders", "trades", "position_detail", "account_funds", "risk_events"):
        wait_count(plane, f"SELECT count() FROM {table}_cdc", at_least=1)
    wait_count(plane, "SELECT count() FROM market_ticks", at_least=30)
    row = Store(plane).run("SELECT limit_price, op FROM orders_cdc FORMAT TSV")
    assert row.split() == ["3500.5", "c"]


def test_connect_refuses_as_connect_does(plane: Plane) -> None:
    """Unknown names are 404, wrong configurations 400 in the connector's own words."""
    config = connector_config(plane, TRADING)
    cases = [
        ("GET", "/connectors/nobody/status", None, "404"),
        ("POST", f"/connectors/{TRADING}/tasks/3/restart", None, "404"),
        ("POST", "/connectors", {"name": TRADING, "config": config}, "409"),
        ("PUT", f"/connectors/{TRADING}/config", {**config, "name": "other"}, "400"),
        ("PUT", "/connectors/new/config", {"connector.class": "no.Such"}, "500"),
    ]
    for method, path, data, status in cases:
        with pytest.raises(ProbeError, match=f"status {status}"):
            call_connect(plane, method, path, data)
    wrong = {**config, "database.password": "wrong", "name": "new"}
    with pytest.raises(ProbeError, match=r"status 400.*password authentication failed"):
        call_connect(plane, "PUT", "/connectors/new/config", wrong)
    assert call_connect(plane, "GET", "/connectors") == sorted(CONNECTORS)


def test_clickhouse_connect_is_served(plane: Plane) -> None:
    """The usual client connects, runs DDL, inserts (compressed) and queries with parameters."""
    import clickhouse_connect

    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=plane.port("clickhouse"),
        username="quant_hft",
        password=plane.credentials().clickhouse,
        database="quant_hft",
    )
    client.command("CREATE TABLE probe (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    client.insert("probe", [[1, "x"], [2, "y"]], column_names=["a", "b"])
    query = "SELECT b FROM probe WHERE a > {least:UInt64}"
    assert client.query(query, parameters={"least": 1}).result_rows == [("y",)]
    client.close()


def test_a_second_plane_is_refused(plane: Plane) -> None:
    """A directory whose plane runs is not started in again."""
    with pytest.raises(RunRefused, match="down first"):
        plane_up(plane.dir)


def test_no_password_is_seen(plane: Plane) -> None:
    """The file of passwords is its owner's alone, and no process of the plane has one in argv."""
    assert stat.S_IMODE(plane.credentials_file.stat().st_mode) == 0o600
    secrets = list(json.loads(plane.credentials_file.read_text()).values())
    argvs = [
        Path(f"/proc/{part.pid}/cmdline").read_text()
        for part in control.status(plane.dir).parts.values()
        if part.pid
    ]
    assert len(argvs) == 8
    logs = [path.read_text(errors="replace") for path in (plane.dir / "logs").iterdir()]
    assert not [text for text in (*argvs, *logs) if any(each in text for each in secrets)]


def test_down_leaves_nothing(tmp_path: Path) -> None:
    """After ``down`` no process, port, pid file or lock file of the plane is there."""
    plane = plane_up(tmp_path / "short life")
    status = control.status(plane.dir)
    assert resident_mb(status) < 1536
    reports = control.down(plane.dir)
    assert {report.exit_code for report in reports.values()} == {0}
    assert [part.pid for part in status.parts.values() if part.pid and identity_of(part.pid)] == []
    for port in filter(None, (part.port for part in status.parts.values())):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert list((plane.dir / "run").iterdir()) == []
    assert not (plane.home("postgres") / "data").exists()
