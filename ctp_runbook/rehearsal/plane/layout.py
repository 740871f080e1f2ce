"""Where everything of a data plane lies: ports, credentials, state, one folder a part.

A plane is a directory; ``Plane(dir)`` names what is in it whether it runs or not. The state file
is the supervisor's word on every part; it is replaced whole at each change.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.process import ProcessFolder

__all__ = [
    "CONNECTORS",
    "DATABASE",
    "PARTS",
    "Credentials",
    "PartState",
    "Plane",
    "PlaneEvent",
    "PlaneState",
    "free_port",
]

DATABASE = "quant_hft"  # of PostgreSQL and of ClickHouse
PARTS = ("postgres", "valkey", "kafka", "clickhouse", "connect", "ingester")
CONNECTORS = ("trading-core-connector", "ops-audit-connector")


@dataclass(frozen=True)
class Credentials:
    """A password for each role, made for one plane alone; ``postgres`` is the superuser."""

    postgres: str
    quant_hft: str
    debezium: str
    clickhouse: str

    def __repr__(self) -> str:
        return "Credentials(***)"


@dataclass(frozen=True)
class PartState:
    """A part or connector: ``state`` is starting, serving, dead, failed, left or down.

    ``resident_mb`` is measured by who asks.
    """

    state: str = "down"
    sentence: str = ""
    pid: int | None = None
    start_ticks: int = 0
    port: int | None = None
    restarts: int = 0
    serving_seconds: float | None = None
    resident_mb: float = 0.0


@dataclass(frozen=True)
class PlaneEvent:
    """What became of a part or connector, and when."""

    at: str
    part: str
    state: str
    sentence: str


@dataclass(frozen=True)
class PlaneState:
    """The supervisor's word on its plane; events are the last ones, oldest first."""

    serving_after_seconds: float | None = None
    parts: Mapping[str, PartState] = field(default_factory=dict)
    events: tuple[PlaneEvent, ...] = ()


@dataclass(frozen=True)
class Plane(ProcessFolder):
    """The paths and ports of a data plane; its processes are the parts and ``supervisor``."""

    @classmethod
    def of_command_line(cls) -> Plane:
        """The plane that ``--plane DIR`` names, of a process of it."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--plane", type=Path, required=True)
        return cls(parser.parse_args().plane)

    def argv(self, module: str) -> list[str]:
        """What starts such a process."""
        module = f"ctp_runbook.rehearsal.plane.{module}"
        return [sys.executable, "-m", module, "--plane", str(self.dir)]

    @property
    def state_file(self) -> Path:
        """What the supervisor last said of every part."""
        return self.dir / "state.json"

    @property
    def credentials_file(self) -> Path:
        """The passwords, mode 0600."""
        return self.dir / "credentials.json"

    def home(self, part: str) -> Path:
        """What a part keeps."""
        return self.dir / part

    def port(self, part: str) -> int:
        """The port a part serves on; raises RunbookError before one was chosen."""
        try:
            return self._ports()[part]
        except (OSError, ValueError, KeyError) as error:
            raise RunbookError(f"no port of {part} in {self.dir}: {error!r}; is it up?") from error

    def choose_port(self, part: str) -> int:
        """A port that is free now, recorded as the part's own."""
        port = free_port()
        write_atomic(self._ports_file, json.dumps({**self._ports(), part: port}).encode())
        return port

    @property
    def _ports_file(self) -> Path:
        return self.dir / "ports.json"

    def _ports(self) -> dict[str, int]:
        if not self._ports_file.exists():
            return {}
        ports: dict[str, int] = json.loads(self._ports_file.read_bytes())
        return ports

    @property
    def bootstrap(self) -> str:
        """The broker's address, as Kafka clients want it."""
        return f"127.0.0.1:{self.port('kafka')}"

    def url(self, part: str) -> str:
        """Base URL of ``clickhouse`` or ``connect``."""
        return f"http://127.0.0.1:{self.port(part)}"

    def credentials(self) -> Credentials:
        """The plane's passwords; raises RunbookError where there are none."""
        try:
            return Credentials(**json.loads(self.credentials_file.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise RunbookError(f"cannot read {self.credentials_file}: {error!r}") from error

    def make_credentials(self) -> None:
        """Make the plane's passwords, the first time."""
        if not self.credentials_file.exists():
            passwords = {user.name: secrets.token_urlsafe(24) for user in fields(Credentials)}
            write_atomic(self.credentials_file, json.dumps(passwords).encode(), mode=0o600)

    def state(self) -> PlaneState:
        """The state file; nothing known where there is none."""
        if not self.state_file.exists():
            return PlaneState()
        state = json.loads(self.state_file.read_bytes())
        parts = {name: PartState(**part) for name, part in state["parts"].items()}
        events = tuple(PlaneEvent(**event) for event in state["events"])
        return PlaneState(state["serving_after_seconds"], parts, events)

    def part_state(self, part: str) -> PartState:
        """The supervisor's word on a part or connector."""
        return self.state().parts.get(part, PartState())


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
