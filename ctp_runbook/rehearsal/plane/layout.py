"""Where everything of a data plane lies: ports, credentials, state, one folder a part.

A plane is a directory; ``Plane(dir)`` names what is in it whether it runs or not. The state file
is the supervisor's word on every part; it is replaced whole at each change.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.protocol import write_atomically

__all__ = ["CONNECTORS", "DATABASE", "PARTS", "Credentials", "Plane", "free_port", "write_private"]

DATABASE = "quant_hft"  # of PostgreSQL and of ClickHouse
PARTS = ("postgres", "valkey", "kafka", "clickhouse", "connect", "ingester")
CONNECTORS = ("trading-core-connector", "ops-audit-connector")
_USERS = ("postgres", "quant_hft", "debezium", "clickhouse")


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
class Plane:
    """The paths and ports of a data plane in ``dir`` (absolute)."""

    dir: Path

    @property
    def state_file(self) -> Path:
        """What the supervisor last said of every part."""
        return self.dir / "state.json"

    @property
    def credentials_file(self) -> Path:
        """The passwords, mode 0600."""
        return self.dir / "credentials.json"

    def pid_file(self, name: str) -> Path:
        """Of a part or of ``supervisor``."""
        return self.dir / "run" / f"{name}.pid"

    def log(self, name: str) -> Path:
        """The output of a part or of ``supervisor``."""
        return self.dir / "logs" / f"{name}.log"

    def home(self, part: str) -> Path:
        """What a part keeps."""
        return self.dir / part

    def port(self, part: str) -> int:
        """The port a part serves on; raises RunbookError before one was chosen."""
        try:
            return int(self._read("ports.json")[part])
        except (OSError, ValueError, KeyError) as error:
            raise RunbookError(f"no port of {part} in {self.dir}: {error!r}; is it up?") from error

    def choose_port(self, part: str) -> int:
        """A port that is free now, recorded as the part's own."""
        path = self.dir / "ports.json"
        ports = self._read(path.name) if path.exists() else {}
        ports[part] = free_port()
        write_atomically(path, json.dumps(ports, indent=2) + "\n")
        return int(ports[part])

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
            return Credentials(**self._read(self.credentials_file.name))
        except (OSError, ValueError, TypeError) as error:
            raise RunbookError(f"cannot read {self.credentials_file}: {error!r}") from error

    def make_credentials(self) -> Credentials:
        """The plane's passwords, made the first time."""
        if not self.credentials_file.exists():
            made = Credentials(**{user: secrets.token_urlsafe(24) for user in _USERS})
            write_private(self.credentials_file, json.dumps(asdict(made)))
        return self.credentials()

    def state(self) -> Mapping[str, Any]:
        """The state file; empty where there is none."""
        try:
            return self._read(self.state_file.name)
        except FileNotFoundError:
            return {}

    def _read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dir / name).read_text(encoding="utf-8"))
        return found


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` whole; nobody but the owner may read it, not even for a moment."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as sink:
        sink.write(text)
    draft.replace(path)
