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
from urllib.parse import quote

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import below, default_port_of, split_url
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.strict_json import LONGEST_ANSWER_BYTES, decode_answer

__all__ = ["Answer", "ConnectorLook", "NoJson", "TaskLook", "ask_connect", "read_status"]

_SHOWN = 200
_IS_IT_CONNECT = "is this address Connect's REST interface (--connect-url)?"


@dataclass(frozen=True)
class Answer:
    """A status and the JSON that came with it (None for an empty body), or what else came."""

    status: int
    data: Any
    is_json: bool = True

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


class NoJson(ProbeError):
    """Connect, or what stands before it, answered with something that is no JSON."""

    def __init__(self, sentence: str, *, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def ask_connect(
    base: str, method: str, path: str, *, seconds: float, body: Mapping[str, Any] | None = None
) -> Answer:
    """Make one call; ``path`` is quoted here. Raises ProbeError for no answer, NoJson for no JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    where = f"Kafka Connect: {method} {path}"
    try:
        parts, own_port = split_url(base)
        port = own_port or default_port_of(base)
        where = f"Kafka Connect: {method} {parts.scheme}://{parts.hostname}:{port}{path}"
        url = below(base, quote(path))
        status, raw = exchange(
            url,
            seconds=seconds,
            method=method,
            body=data,
            headers=headers,
            most_bytes=LONGEST_ANSWER_BYTES,
        )
    except (ProbeError, ValueError) as error:
        raise ProbeError(
            f"{where}: {error}; is the service up, and is this its address here "
            "(infra/runbook/ports.md)?"
        ) from error
    # A PUT that needed nothing is answered 204, with nothing.
    if not raw.strip():
        return Answer(status, None, is_json=status < 300)
    try:
        return Answer(status, decode_answer(raw, subject="its answer"))
    except ProbeError as error:
        shown = raw[:60].decode("utf-8", "replace")
        raise NoJson(
            f"{where}: answered HTTP {status} with {shown!r}, expected JSON; {_IS_IT_CONNECT}",
            status=status,
        ) from error


def read_status(name: str, data: Any) -> ConnectorLook:
    """Read a ``…/status`` answer. Raises ProbeError for one that is not of that form."""
    try:
        tasks = [
            TaskLook(_number(task["id"]), _state(task), _causes(task.get("trace", "")))
            for task in data["tasks"]
        ]
        connector = data["connector"]
        return ConnectorLook(_state(connector), tuple(tasks), _causes(connector.get("trace", "")))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ProbeError(
            f"Kafka Connect: the status of {name} is {str(data)[:60]!r}, expected connector and "
            f"tasks with their states; {_IS_IT_CONNECT}"
        ) from error


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a task's number is a whole one")
    return value


def _state(look: Mapping[str, object]) -> str:
    if not isinstance(state := look["state"], str):
        raise TypeError("a state is a word")
    return state


def _causes(trace: str) -> str:
    """Return a trace's first line, and the deepest cause where there is one."""
    lines = [line.strip() for line in str(trace).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    return " / ".join([*lines[:1], *causes[-1:]])[: 2 * _SHOWN]
