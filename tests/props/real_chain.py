"""PostgreSQL, real Kafka, real Connect with Debezium, ClickHouse and the ingester, as one chain.

ClickHouse and the ingester are the twin's: no ClickHouse server comes out of a package. All the
rest is the real thing (see maven_kafka.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from ctp_runbook.probes.connect import ask_connect
from ctp_runbook.rehearsal.plane.layout import Plane
from tests.props.maven_kafka import fetch_jars, kafka_broker, kafka_connect
from tests.props.small_postgres import PASSWORDS, SmallPostgres, small_postgres
from tests.props.small_servers import free_port

__all__ = [
    "ROOT",
    "RealChain",
    "SmallClickHouse",
    "copy_infra",
    "plane_part",
    "real_chain",
    "small_clickhouse",
]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class SmallClickHouse:
    """A running ClickHouse of the twin, and the ``Plane`` it lies in."""

    plane: Plane

    @property
    def url(self) -> str:
        """For --clickhouse-url."""
        return self.plane.url("clickhouse")

    @property
    def environ(self) -> dict[str, str]:
        """The login, as the environment gives it."""
        return {"CLICKHOUSE_PASSWORD": self.plane.credentials().clickhouse}

    @property
    def door(self) -> ClickHouseDoor:
        """The way in."""
        return ClickHouseDoor(self.url, "quant_hft", self.plane.credentials().clickhouse)

    def run(self, statement: str) -> None:
        """Run a statement."""
        self.door.run(statement, seconds=20)

    def gate(self, infra: Path | None = None, **more: Any) -> GateResult:
        """The gate clickhouse-schema, executed, under profile rehearsal."""
        given: dict[str, Any] = {
            "clickhouse_url": self.url,
            "deadline_seconds": 30.0,
            "profile": "rehearsal",
        }
        options = GateOptions(
            **{**given, "execute": True, "infra": infra or ROOT / "infra", **more}
        )
        return run_gate("clickhouse-schema", options, environ=self.environ)


@contextlib.contextmanager
def small_clickhouse(folder: Path, *, kafka_port: int = 0) -> Iterator[SmallClickHouse]:
    """A ClickHouse on a plane of its own, whose broker is the one at ``kafka_port``."""
    plane = Plane(folder)
    for name in ("clickhouse", "logs", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plane.make_credentials()
    port = free_port()
    (folder / "ports.json").write_text(json.dumps({"clickhouse": port, "kafka": kafka_port}))
    with plane_part(plane, "clickhouse"):
        server = SmallClickHouse(plane)
        _wait(lambda: _answers(server))
        yield server


def _answers(server: SmallClickHouse) -> bool:
    from ctp_runbook.errors import ProbeError

    try:
        return bool(server.door.rows("SELECT 1", seconds=1))
    except ProbeError:
        return False


@contextlib.contextmanager
def plane_part(plane: Plane, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the twin's data plane as a process of its own."""
    argv = [sys.executable, "-m", f"ctp_runbook.rehearsal.plane.{name}", "--plane", str(plane.dir)]
    with (plane.dir / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class RealChain:
    """Every end of the chain, and its gates."""

    broker: str
    connect: str
    postgres: SmallPostgres
    clickhouse: SmallClickHouse
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> dict[str, Any]:
        """The options that name this chain."""
        return {
            "execute": True,
            "profile": "single-host",
            "infra": ROOT / "infra",
            "bootstrap_servers": self.broker,
            "clickhouse_url": self.clickhouse.url,
            "connect_url": self.connect,
            "postgres_dsn": self.postgres.dsn,
            "connector_set": {
                "database.hostname": "127.0.0.1",
                "database.port": str(self.postgres.port),
            },
            "deadline_seconds": 60.0,
        }

    def gate(self, name: str, **more: Any) -> GateResult:
        """A gate, executed."""
        return run_gate(name, GateOptions(**{**self.flags, **more}), environ=self.environ)

    def rest(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of Connect, asked again while it rebalances."""
        end = time.monotonic() + 30
        while True:
            answer = ask_connect(self.connect, method, path, seconds=15, body=body)
            if answer.status != 409 or time.monotonic() > end:
                assert answer.status < 300, f"{method} {path}: {answer}"
                return answer.data
            time.sleep(0.2)


@contextlib.contextmanager
def real_chain(folder: Path) -> Iterator[RealChain]:
    """The chain, with its topics, schema and connectors made by the gates themselves."""
    jars = fetch_jars()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(small_postgres())
        broker = stack.enter_context(kafka_broker(jars, folder))
        port = int(broker.rpartition(":")[2])
        clickhouse = stack.enter_context(small_clickhouse(folder / "plane", kafka_port=port))
        connect = stack.enter_context(kafka_connect(jars, folder, broker=broker, environ=PASSWORDS))
        path = {"PATH": os.environ["PATH"]}
        environ = {**path, **PASSWORDS, **clickhouse.environ}
        yield RealChain(broker, connect, postgres, clickhouse, environ)


def _wait(is_there: Any) -> None:
    end = time.monotonic() + 20
    while not is_there():
        assert time.monotonic() < end, "not up within 20 s"
        time.sleep(0.05)


def copy_infra(folder: Path) -> Path:
    """A copy of infra/ that a test may change."""
    return Path(shutil.copytree(ROOT / "infra", folder / "infra"))
