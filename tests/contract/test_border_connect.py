"""What Kafka Connect may answer, and what the gate makes of it then: border/connect/."""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates import connectors
from ctp_runbook.gates.connector_files import WantedConnector
from ctp_runbook.gates.connectors import _Connector, _Rest
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions
from ctp_runbook.probes import connect

FOLDER = Path(__file__).parent / "border" / "connect"
CASES: dict[str, Mapping[str, object]] = tomllib.loads(
    (FOLDER / "expect.toml").read_text(encoding="utf-8")
)
AGAIN = {name: case for name, case in CASES.items() if case.get("again")}
CONFIG = {"connector.class": "X", "slot.name": "s", "publication.name": "p"}
STATUS = {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "state": "RUNNING"}]}
Wire = Callable[..., tuple[int, bytes]]


class Gate:
    """The gate's questions, answered by ``wire``; ``seconds`` is all its time."""

    def __init__(self, wire: Wire, *, seconds: float) -> None:
        self.wire, self.asked = wire, 0
        options = GateOptions(profile="rehearsal", execute=True, deadline_seconds=seconds)
        self._context = GateContext.of(options, environ={}, tell=lambda _: None)

    def ask(self, call: str) -> object:
        """What one question comes to; words of what is told where that is a problem."""
        rest = _Rest(self._context, "http://c:8083")
        one = _Connector(self._context, rest, WantedConnector("one", CONFIG, "one.json"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connect, "exchange", self._answer)
            patch.setattr(connectors, "_LOOK_SECONDS", 0.01)
            match call:
                case "reach":
                    return rest.reach().facts["connectors"]
                case "live":
                    return one.live()
                case "status":
                    return one.status()
                case _:
                    return "; ".join(one.register().problems) or "registered"

    def _answer(self, url: str, **asked: object) -> tuple[int, bytes]:
        self.asked += 1
        return self.wire(url, **asked)


def well(url: str, *, method: str = "GET", **_: object) -> tuple[int, bytes]:
    """A Connect that has one connector, another one than is wanted of it."""
    if method == "PUT":
        return 201, b"{}"
    if url.endswith("/status"):
        return 200, json.dumps(STATUS).encode()
    if url.endswith("/config"):
        return 404, b'{"message": "unknown"}'
    return 200, b'["one"]' if url.endswith("/connectors") else b'{"version": "4.1"}'


def answering(case: Mapping[str, object]) -> Wire:
    """A Connect that answers the question so: its own two to ``reach``, the PUT to ``register``."""
    status, text = case["status"], str(case["holds"]).replace("{nested}", "[" * 900 + "]" * 900)
    assert isinstance(status, int)
    before = {"register": "/config", "reach": ":8083/"}.get(str(case["call"]), "")

    def answer(url: str, *, method: str = "GET", **asked: object) -> tuple[int, bytes]:
        is_before = method == "GET" and before and url.endswith(before)
        if is_before and (case["call"] == "register" or case.get("names")):
            return well(url, method=method)
        return status, text.encode()

    return answer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer_is_taken_or_told_or_asked_for_again(case: Mapping[str, object]) -> None:
    """In words, whatever it is."""
    gate = Gate(answering(case), seconds=0.8)
    try:
        found = str(gate.ask(str(case["call"])))
    except ProbeError as error:
        found = str(error)
        assert "Kafka Connect" in found
    assert str(case.get("says", case.get("is"))) in found
    # The two questions of `reach`, and the look before a PUT.
    assert (gate.asked > 2) == bool(case.get("again")), gate.asked


@pytest.mark.parametrize("case", AGAIN.values(), ids=AGAIN)
def test_what_is_asked_for_again_ends_well(case: Mapping[str, object]) -> None:
    """Once Connect is ready: what it said before is no failure of the gate."""
    bad, left = answering(case), [None] * 3

    def wire(url: str, **asked: object) -> tuple[int, bytes]:
        if left:
            left.pop()
            return bad(url, **asked)
        return well(url, **asked)  # type: ignore[arg-type]

    gate = Gate(wire, seconds=20)
    assert str(gate.ask(str(case["call"]))) != str(case["says"])
    assert not left


scalars = st.sampled_from([None, True, 0, 10**400, 1.5, "", "a", "RUNNING", "FAILED", "\u2028"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "state", "trace", "message"]), inner, max_size=3)
    ),
    max_leaves=5,
)
looks = st.fixed_dictionaries(
    {"state": scalars}, optional={"id": st.just(0) | scalars, "trace": values}
)
statuses = st.fixed_dictionaries(
    {"connector": looks | values, "tasks": st.lists(looks, max_size=2)}
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(
    answer=values | statuses | statuses,
    call=st.sampled_from(["reach", "live", "status", "register"]),
    status=st.sampled_from([200, 200, 200, 201, 204, 400, 404, 409, 422, 500]),
    cut=st.sampled_from([0, 0, 0, 1, 2]),
)
def test_any_answer_is_taken_or_a_probe_error(
    answer: object, call: str, status: int, cut: int
) -> None:
    """And a connector runs only where it and every task of it say so."""
    body = json.dumps(answer).encode()
    gate = Gate(lambda url, **_: (status, body[: len(body) - cut]), seconds=0.001)
    with contextlib.suppress(ProbeError):
        found = gate.ask(call)
        if isinstance(found, connect.ConnectorLook) and found.is_running:
            assert isinstance(answer, dict)
            tasks = answer["tasks"]
            assert {answer["connector"]["state"], *(one["state"] for one in tasks)} == {"RUNNING"}


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(
    body=st.binary(max_size=40),
    call=st.sampled_from(["reach", "status"]),
    status=st.sampled_from([200, 401, 404, 500, 503]),
)
def test_any_bytes_are_a_probe_error(body: bytes, call: str, status: int) -> None:
    """Connect's own answers are not made by chance."""
    with contextlib.suppress(ProbeError):
        assert Gate(lambda url, **_: (status, body), seconds=0.001).ask(call) is None
