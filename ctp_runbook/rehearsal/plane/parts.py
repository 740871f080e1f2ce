"""The parts of a plane: how each is started, when it serves, what it has to be given then."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pwd import struct_passwd

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.sql_files import load_sql
from ctp_runbook.rehearsal.plane.connectors import call_connect, register_connector
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.plane.kafka_broker import kafka_argv, provision_kafka
from ctp_runbook.rehearsal.plane.layout import CONNECTORS, Plane
from ctp_runbook.rehearsal.plane.postgres import (
    connect,
    postgres_argv,
    postgres_user,
    prepare_cluster,
    provision_postgres,
)
from ctp_runbook.rehearsal.plane.tables import infra_folder
from ctp_runbook.rehearsal.plane.valkey import valkey_argv

__all__ = ["Part", "plane_parts"]


def _nothing(plane: Plane) -> None:
    """Nothing to do."""


@dataclass(frozen=True)
class Part:
    """One process (group) of a plane, which every function of it is given.

    ``prepare`` runs before each start and ``provide`` once the part serves, both off the main
    thread; ``serves`` raises ProbeError until it does. ``needs`` must have been provided for
    before the start, ``provided_after`` before ``provide``; with a death of one in ``falls_with``
    this part is started anew too. It is ended by ``end_signal``, in an order and with a grace; by
    ``death_signal`` when that is over, or the supervisor gone and nobody there to wait.
    """

    name: str
    argv: Callable[[Plane], list[str]]
    serves: Callable[[Plane], object]
    prepare: Callable[[Plane], None] = _nothing
    provide: Callable[[Plane], None] = _nothing
    needs: tuple[str, ...] = ()
    provided_after: tuple[str, ...] = ()
    falls_with: tuple[str, ...] = ()
    end_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    has_port: bool = True
    user: struct_passwd | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)


def plane_parts() -> tuple[Part, ...]:
    """Every part, in the order they are ended."""
    return (
        Part(
            "ingester",
            _module("ingester"),
            _nothing,
            has_port=False,
            needs=("kafka", "clickhouse"),
            falls_with=("kafka",),  # the broker's offsets are gone, and its positions void
        ),
        Part(
            "connect",
            _module("connect"),
            _answers,
            provide=_register,
            needs=("kafka",),
            provided_after=("postgres",),
        ),
        Part(
            "postgres",
            postgres_argv,
            _accepts,
            prepare=prepare_cluster,
            provide=provision_postgres,
            end_signal=signal.SIGINT,
            # At once, without waiting for Debezium to take the rest; by KILL it would leave its
            # own processes and its segments in /dev/shm behind.
            death_signal=signal.SIGQUIT,
            user=postgres_user(),
            environment={"LC_ALL": "C", "PATH": os.defpath},
        ),
        Part("clickhouse", _module("clickhouse"), _listens("clickhouse"), provide=_create_tables),
        Part("valkey", _valkey_argv, _listens("valkey")),
        # It waits for its clients to leave; what it holds is gone with it anyway.
        Part(
            "kafka",
            kafka_argv,
            _listens("kafka"),
            provide=provision_kafka,
            end_signal=signal.SIGKILL,
            environment={"RUST_LOG": "warn"},  # its options have variables too
        ),
    )


def _module(name: str) -> Callable[[Plane], list[str]]:
    return lambda plane: plane.argv(name)


def _listens(name: str) -> Callable[[Plane], None]:
    def look(plane: Plane) -> None:
        try:
            socket.create_connection(("127.0.0.1", plane.port(name)), 0.5).close()
        except OSError as error:
            raise ProbeError(f"port {plane.port(name)}: {error}") from error

    return look


def _accepts(plane: Plane) -> None:
    """PostgreSQL listens before it is done with recovery."""
    _listens("postgres")(plane)
    with connect(plane, user="postgres", database="postgres"):
        pass


def _answers(plane: Plane) -> None:
    call_connect(plane, "GET", "/", seconds=2.0)


def _valkey_argv(plane: Plane) -> list[str]:
    return valkey_argv(plane.port("valkey"), folder=plane.home("valkey"))


def _create_tables(plane: Plane) -> None:
    store = Store(plane)
    for file in load_sql(infra_folder() / "clickhouse"):
        for text in (
            *(statement.on_twin().text for statement in file.statements),
            *(statement.text for statement in file.more),
        ):
            store.run(text, database="default")


def _register(plane: Plane) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(CONNECTORS)) as pool:
        list(pool.map(lambda name: register_connector(plane, name), CONNECTORS))
