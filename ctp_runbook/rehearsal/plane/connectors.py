"""The plane's two connectors: their configuration, and registering them with Connect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.gates.connector_files import load_connectors
from ctp_runbook.probes.connect import ask_connect, read_status
from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.plane.tables import infra_folder

__all__ = ["call_connect", "connector_config", "failed_task", "register_connector", "resolved"]

# Connect's own reference to a variable: it goes out and comes back as it stands.
_REFERENCE = re.compile(r"\$\{env:DEBEZIUM_PASSWORD\}")


def connector_config(plane: Plane, name: str) -> dict[str, str]:
    """A connector's configuration as ``infra/debezium`` has it, with this plane's PostgreSQL."""
    over = {"database.hostname": "127.0.0.1", "database.port": str(plane.port("postgres"))}
    for wanted in load_connectors(infra_folder() / "debezium", values={}, over=over):
        if wanted.name == name:
            return dict(wanted.config)
    raise RunbookError(f"no connector {name} in {infra_folder()}/debezium")


def resolved(plane: Plane, config: Mapping[str, str]) -> dict[str, str]:
    """``config`` with its password in place of the reference: for a connector, never for a log."""
    secret = plane.credentials().debezium
    return {key: _REFERENCE.sub(lambda _: secret, value) for key, value in config.items()}


def call_connect(
    plane: Plane, method: str, path: str, data: Any = None, *, seconds: float = 40.0
) -> Any:
    """Ask Connect; the answer's JSON, None without one. ProbeError unless it is a 2xx."""
    answer = ask_connect(plane.url("connect"), method, path, seconds=seconds, body=data)
    if answer.status // 100 != 2:
        where = f"{method} {path} of Connect on port {plane.port('connect')}"
        raise ProbeError(f"{where}: status {answer.status}: {answer.message}")
    return answer.data


def register_connector(plane: Plane, name: str) -> None:
    """Create a connector unless it is there; one that is there keeps its configuration."""
    if name not in call_connect(plane, "GET", "/connectors"):
        call_connect(plane, "PUT", f"/connectors/{name}/config", connector_config(plane, name))


def failed_task(plane: Plane, name: str, *, seconds: float = 1.0) -> str | None:
    """The last word on a connector: None while it comes up, '' when it runs, else what is wrong."""
    status = call_connect(plane, "GET", f"/connectors/{name}/status", seconds=seconds)
    look = read_status(name, status)
    if look.state != "RUNNING":
        return f"connector is {look.state}"
    for task in look.tasks:
        if task.state == "FAILED":
            first = task.trace or "no trace"
            return f"task 0 is FAILED while the connector is RUNNING: {first}"
    return "" if look.is_running else None
