"""Facts about probes/postgres.py: a real server answers in time, and a refusal says what to mend."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.postgres import PostgresDoor, SlotLook, look_at_slot, published_tables
from tests.props.small_postgres import PASSWORDS, SmallPostgres, small_postgres
from tests.props.small_servers import free_port

SHOWN = {
    "host=h port=5433 dbname=d user=u": "postgresql://h:5433/d",
    "dbname=d": "postgresql://localhost:5432/d",
    "postgresql://u@h/d": "postgresql://h:5432/d",
    "": "postgresql://localhost:5432/",
}


@pytest.mark.parametrize(("dsn", "shown"), SHOWN.items())
def test_an_address_is_shown_without_secrets(dsn: str, shown: str) -> None:
    """Host, port and database, as libpq would take them; no user, and no password."""
    door = PostgresDoor(dsn, "geheim")
    assert door.shown == shown
    assert repr(door) == f"PostgresDoor({shown})"


def test_a_slot_keeps_so_much() -> None:
    """In MiB, as max_slot_wal_keep_size is set."""
    assert SlotLook(True, "reserved", 3 << 19, 0).retained_mib == 1.5


@pytest.fixture(scope="module")
def server() -> Iterator[SmallPostgres]:
    """A server with a database and nothing in it."""
    with small_postgres(migrated=False) as running:
        yield running


@pytest.fixture
def door(server: SmallPostgres) -> PostgresDoor:
    """The way into it."""
    return PostgresDoor(server.dsn, PASSWORDS["TIMESCALE_PASSWORD"], "TIMESCALE_PASSWORD")


@pytest.mark.twin
def test_a_connection_is_for_this_host_s_files(door: PostgresDoor) -> None:
    """Each statement stands by itself, in UTF-8, under a name that an operator finds."""
    with door.open(seconds=7.5) as connection:
        settings = [
            connection.execute(f"SHOW {name}").fetchall()[0][0]
            for name in ("statement_timeout", "client_encoding", "application_name")
        ]
        assert connection.autocommit
    assert settings == ["7500ms", "UTF8", "ctp-runbook"]


@pytest.mark.twin
def test_a_statement_that_takes_too_long_is_ended(door: PostgresDoor) -> None:
    """By the server, in its time; and any other fault of one is told on one line."""
    began = time.monotonic()
    for statement, said in (
        ("SELECT pg_sleep(60)", "canceling statement due to statement timeout"),
        ("SELECT *\nFROM nowhere", 'relation "nowhere" does not exist LINE 2: FROM nowhere'),
    ):
        with pytest.raises(ProbeError) as caught, door.open(seconds=0.3) as connection:
            connection.execute(statement)
        assert str(caught.value).startswith(f"PostgreSQL at {door.shown}: {said}")
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.twin
def test_a_refused_login_names_the_password_s_variable(server: SmallPostgres) -> None:
    """Whose it is, where it was read from, and not what it was."""
    for password in ("falsch-falsch", ""):
        with (
            pytest.raises(ProbeError) as caught,
            PostgresDoor(server.dsn, password, "TIMESCALE_PASSWORD").open(seconds=5),
        ):
            pass
        assert "the password of postgres is taken from PGPASSWORD, else from TIMESCALE" in str(
            caught.value
        )
        assert "falsch-falsch" not in str(caught.value)


@pytest.mark.twin
def test_a_server_that_stalls_behind_its_login_is_not_waited_for() -> None:
    """One that hangs ends no statement itself; it let us in, and that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stalled = threading.Thread(target=_let_in_and_stall, args=(listener,), daemon=True)
        stalled.start()
        port = listener.getsockname()[1]
        door = PostgresDoor(
            f"host=127.0.0.1 port={port} dbname=d user=u sslmode=disable gssencmode=disable", ""
        )
        began = time.monotonic()
        with (
            pytest.raises(ProbeError, match=r"no answer within 0\.8 s although it let us in"),
            door.open(seconds=0.3) as connection,
        ):
            connection.execute("SELECT 1")
        assert time.monotonic() - began < 20
        stalled.join(20)


def _let_in_and_stall(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(4096)  # the startup message
        name = b"client_encoding\0UTF8\0"
        parts = [(b"R", bytes(4)), (b"S", name), (b"Z", b"I")]
        for kind, body in parts:
            peer.sendall(kind + (len(body) + 4).to_bytes(4, "big") + body)
        while peer.recv(4096):
            pass  # it is taken and not answered


@pytest.mark.twin
def test_nobody_there_is_an_error() -> None:
    """With libpq's words."""
    door = PostgresDoor(f"host=127.0.0.1 port={free_port()} dbname=d user=u", "")
    with (
        pytest.raises(ProbeError, match=r"PostgreSQL at .*[Cc]onnection refused"),
        door.open(seconds=2),
    ):
        pass


@pytest.mark.twin
def test_a_slot_is_looked_at_by_its_name(door: PostgresDoor) -> None:
    """None where there is none; one that nobody reads says so, and what it keeps grows."""
    with door.open(seconds=30) as connection:
        assert look_at_slot(connection, "dbz") is None
        connection.execute("SELECT pg_create_logical_replication_slot('dbz', 'pgoutput')")
        before = look_at_slot(connection, "dbz")
        connection.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 1 << 20))")
        after = look_at_slot(connection, "dbz")
        connection.execute("SELECT pg_drop_replication_slot('dbz')")
    assert before is not None
    assert after is not None
    assert (before.active, before.wal_status) == (False, "reserved")
    assert after.retained_mib >= before.retained_mib + 1
    assert after.unconfirmed_bytes >= 1 << 20


@pytest.mark.twin
def test_a_publication_is_its_tables(door: PostgresDoor) -> None:
    """None where there is none, which an empty one is not; all tables are listed one by one."""
    with door.open(seconds=30) as connection:
        assert published_tables(connection, "dbz") is None
        connection.execute("CREATE PUBLICATION dbz")
        assert published_tables(connection, "dbz") == ()
        connection.execute("CREATE TABLE b (id int); CREATE TABLE a (id int)")
        connection.execute("ALTER PUBLICATION dbz ADD TABLE b, a")
        assert published_tables(connection, "dbz") == ("public.a", "public.b")
        connection.execute("CREATE PUBLICATION every FOR ALL TABLES")
        assert published_tables(connection, "every") == ("public.a", "public.b")
