"""Ask Kafka Connect over its REST interface, and take any answer for what it is.

Connect answers 409 while its workers rebalance, 404 for what it does not know yet, 500 with a
message, and a proxy in front of it anything at all: the status is data, and only what is no
answer, or no JSON, is a ProbeError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import exchange

__all__ = ["Answer", "ConnectorLook", "TaskLook", "ask_connect", "read_status"]

_SHOWN = 200
_IS_IT_CONNECT = "is this address Connect's REST interface (--connect-url)?"


@dataclass(frozen=True)
class Answer:
    """A status and the JSON that came with it (None for an empty body)."""

    status: int
    data: Any

    @property
    def message(self) -> str:
        """What Connect says of an error, cut to a line."""
        text = self.data.get("message", "") if isinstance(self.data, dict) else self.data
        return " ".join(str(text or "no message").split())[:_SHOWN]


@dataclass(frozen=True)
class TaskLook:
    """One task's state, and the first line of its trace."""

    number: int
    state: str
    trace: str = ""


@dataclass(frozen=True)
class ConnectorLook:
    """A connector's own state and that of every task: one may fail while the other runs."""

    state: str
    tasks: tuple[TaskLook, ...]
    trace: str = ""

    @property
    def is_running(self) -> bool:
        """True when the connector and at least one task run, and no task does anything else."""
        states = {self.state, *(task.state for task in self.tasks)}
        return bool(self.tasks) and states == {"RUNNING"}

    @property
    def sentence(self) -> str:
        """``connector RUNNING, task 0 FAILED``."""
        tasks = ", ".join(f"task {task.number} {task.state}" for task in self.tasks)
        return f"connector {self.state}, {tasks or 'no task'}"


def ask_connect(
    base: str, method: str, path: str, *, seconds: float, body: Mapping[str, Any] | None = None
) -> Answer:
    """Make one call; ``path`` is quoted here. Raises ProbeError for no answer, or no JSON in it."""
    parts = urlsplit(base)
    where = f"{method} {parts.scheme}://{parts.hostname}:{parts.port or 80}{path}"
    url = parts._replace(path=parts.path.rstrip("/") + quote(path), query="").geturl()
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        status, raw = exchange(url, seconds=seconds, method=method, body=data, headers=headers)
    except ProbeError as error:
        raise ProbeError(f"Kafka Connect: {where}: {error}; is the service up?") from error
    try:
        # A PUT that needed nothing is answered 204, with nothing.
        return Answer(status, json.loads(raw) if raw.strip() else None)
    except (ValueError, RecursionError) as error:
        shown = raw[:60].decode("utf-8", "replace")
        raise ProbeError(
            f"Kafka Connect: {where}: answered HTTP {status} with {shown!r}, expected JSON; "
            f"{_IS_IT_CONNECT}"
        ) from error


def read_status(name: str, data: Any) -> ConnectorLook:
    """Read a ``…/status`` answer. Raises ProbeError for one that is not of that form."""
    try:
        tasks = [
            TaskLook(int(task["id"]), str(task["state"]), _causes(task.get("trace", "")))
            for task in data["tasks"]
        ]
        connector = data["connector"]
        trace = _causes(connector.get("trace", ""))
        return ConnectorLook(str(connector["state"]), tuple(tasks), trace)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ProbeError(
            f"Kafka Connect: the status of {name} is {str(data)[:60]!r}, expected connector and "
            f"tasks with their states; {_IS_IT_CONNECT}"
        ) from error


def _causes(trace: str) -> str:
    """Return a trace's first line, and the deepest cause where there is one."""
    lines = [line.strip() for line in str(trace).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    return " / ".join([*lines[:1], *causes[-1:]])[: 2 * _SHOWN]
