"""Facts about probes/connect.py: any answer is data, and only what is no JSON is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.connect import Answer, ConnectorLook, TaskLook, ask_connect, read_status
from tests.props.small_servers import Asked, free_port, scripted_http

ANSWERS: dict[str, tuple[int, str, object]] = {
    "a list": (200, '["a"]', ["a"]),
    "nothing": (204, "", None),
    "blank": (200, " \n", None),
    "a rebalance": (409, '{"message": "busy"}', {"message": "busy"}),
    "a fault": (500, '{"error_code": 500, "message": "x"}', {"error_code": 500, "message": "x"}),
}


@pytest.mark.twin
@pytest.mark.parametrize(("status", "text", "data"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_its_status_and_its_json(status: int, text: str, data: object) -> None:
    """What a status means is for the gate to say."""
    with scripted_http(lambda asked: (status, text)) as url:
        assert ask_connect(url, "GET", "/connectors", seconds=5) == Answer(status, data)


@pytest.mark.twin
def test_a_path_is_quoted_below_the_base() -> None:
    """A connector's name may have blanks and slashes; the base may have a path of its own."""
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[int, str]:
        seen.append(asked)
        return 200, "{}"

    with scripted_http(answer) as url:
        ask_connect(f"{url}/connect/?x=1", "PUT", "/connectors/a b", seconds=5, body={"k": "v"})
    ((method, path, headers, body),) = seen
    assert (method, path, json.loads(body)) == ("PUT", "/connect/connectors/a%20b", {"k": "v"})
    assert headers["Content-Type"] == headers["Accept"] == "application/json"


@pytest.mark.twin
@pytest.mark.parametrize("text", ["<html>gateway</html>", "{", "[" * 100_000])
def test_what_is_no_json_is_an_error(text: str) -> None:
    """A proxy in front of it, or another service: with what it said."""
    said = r"GET http://127\.0\.0\.1:\d+/: answered HTTP 502"
    with scripted_http(lambda _: (502, text)) as url, pytest.raises(ProbeError, match=said):
        ask_connect(url, "GET", "/", seconds=5)


@pytest.mark.twin
def test_nobody_there_is_an_error() -> None:
    """By method and address, without user and password."""
    url = f"http://me:geheim@127.0.0.1:{free_port()}"
    with pytest.raises(ProbeError, match="refused; is the service up") as caught:
        ask_connect(url, "GET", "/", seconds=2)
    assert "geheim" not in str(caught.value)


MESSAGES: dict[str, tuple[object, str]] = {
    "its own": ({"message": "a\n  b"}, "a b"),
    "none": ({}, "no message"),
    "null": ({"message": None}, "no message"),
    "an empty body": (None, "no message"),
    "a text": ("plain", "plain"),
    "a long one": ({"message": "x" * 999}, "x" * 200),
}


@pytest.mark.parametrize(("data", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_one_line(data: object, message: str) -> None:
    """Connect's traces are long, and an answer need not have one."""
    assert Answer(500, data).message == message


# --- states -----------------------------------------------------------------------


def looking(connector: str, *tasks: str) -> ConnectorLook:
    """A connector in this state, with tasks in these."""
    looks = (TaskLook(number, state) for number, state in enumerate(tasks))
    return ConnectorLook(connector, tuple(looks))


STATES: dict[str, tuple[ConnectorLook, bool, str]] = {
    "all run": (
        looking("RUNNING", "RUNNING", "RUNNING"),
        True,
        "connector RUNNING, task 0 RUNNING, task 1 RUNNING",
    ),
    "a task failed": (
        looking("RUNNING", "RUNNING", "FAILED"),
        False,
        "connector RUNNING, task 0 RUNNING, task 1 FAILED",
    ),
    "no task yet": (looking("RUNNING"), False, "connector RUNNING, no task"),
    "paused": (looking("PAUSED", "PAUSED"), False, "connector PAUSED, task 0 PAUSED"),
    "its tasks alone run": (
        looking("FAILED", "RUNNING"),
        False,
        "connector FAILED, task 0 RUNNING",
    ),
}


@pytest.mark.parametrize(("look", "is_running", "sentence"), STATES.values(), ids=STATES)
def test_a_connector_runs_with_every_task(
    look: ConnectorLook, is_running: bool, sentence: str
) -> None:
    """One of the two may fail while the other runs; without a task nothing is read."""
    assert (look.is_running, look.sentence) == (is_running, sentence)


TRACE = (
    "ConnectException: stopped\n\tat a.b\nCaused by: X: slot\n\tat c\nCaused by: Y: lost\n\tat d"
)
STATUS: dict[str, Any] = {
    "name": "one",
    "connector": {"state": "RUNNING", "worker_id": "w"},
    "tasks": [{"id": 0, "state": "FAILED", "worker_id": "w", "trace": TRACE}],
}


def test_a_status_is_read_with_the_deepest_cause() -> None:
    """Of a trace the first line and the last cause say most; the connector may have one, too."""
    assert read_status("one", STATUS) == ConnectorLook(
        "RUNNING", (TaskLook(0, "FAILED", "ConnectException: stopped / Caused by: Y: lost"),)
    )
    failed = {**STATUS, "connector": {"state": "FAILED", "trace": " x \n y"}, "tasks": []}
    assert read_status("one", failed) == ConnectorLook("FAILED", (), "x")


NO_STATUS: dict[str, object] = {
    "nothing": None,
    "a list": [1],
    "a text": "RUNNING",
    "no connector": {"tasks": []},
    "no tasks": {"connector": {"state": "RUNNING"}},
    "a connector that is a text": {"connector": "RUNNING", "tasks": []},
    "a task without a state": {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0}]},
    "a task that is a number": {"connector": {"state": "RUNNING"}, "tasks": [0]},
    "a task without a number": {"connector": {"state": "R"}, "tasks": [{"id": "x", "state": "R"}]},
    "tasks that are a number": {"connector": {"state": "RUNNING"}, "tasks": 3},
}


@pytest.mark.parametrize("data", NO_STATUS.values(), ids=NO_STATUS)
def test_what_is_no_status_is_an_error(data: object) -> None:
    """It must not be taken for a connector that does not run."""
    with pytest.raises(ProbeError, match="expected connector and tasks with their states"):
        read_status("one", data)
