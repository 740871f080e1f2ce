"""The plane's two connectors: their configuration, and registering them with Connect."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.gates.connector_files import load_connectors
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
    where = f"{method} {path} of Connect on port {plane.port('connect')}"
    connection = http.client.HTTPConnection("127.0.0.1", plane.port("connect"), timeout=seconds)
    body = None if data is None else json.dumps(data)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"{where}: no answer: {error!r}") from error
    finally:
        connection.close()
    if reply.status // 100 != 2:
        raise ProbeError(f"{where}: status {reply.status}: {text.strip()[:500]}")
    return json.loads(text) if text else None


def register_connector(plane: Plane, name: str) -> None:
    """Create a connector unless it is there; one that is there keeps its configuration."""
    if name not in call_connect(plane, "GET", "/connectors"):
        call_connect(plane, "PUT", f"/connectors/{name}/config", connector_config(plane, name))


def failed_task(plane: Plane, name: str, *, seconds: float = 1.0) -> str | None:
    """The last word on a connector: None while it comes up, '' when it runs, else what is wrong."""
    status = call_connect(plane, "GET", f"/connectors/{name}/status", seconds=seconds)
    if status["connector"]["state"] != "RUNNING":
        return f"connector is {status['connector']['state']}"
    if not status["tasks"]:
        return None
    task = status["tasks"][0]
    if task["state"] == "FAILED":
        first = (task.get("trace") or "no trace").splitlines()[0]
        return f"task 0 is FAILED while the connector is RUNNING: {first}"
    return "" if task["state"] == "RUNNING" else None
