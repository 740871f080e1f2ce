"""Facts about gates/connectors.py: a connector is as its file, runs with every task, and is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.gates import connectors
from ctp_runbook.gates.connector_files import WantedConnector
from ctp_runbook.gates.connectors import _Connector, _Rest
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.probes.postgres import PostgresDoor, SlotLook
from tests.props.small_servers import Asked, scripted_http

CONFIG = {"connector.class": "X", "slot.name": "s", "publication.name": "p"}
RUNNING = {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "state": "RUNNING"}]}
READ = SlotLook(True, "reserved", 1 << 20, 7)


def status(connector: str, *tasks: str, trace: str = "X: lost\n at y") -> dict[str, Any]:
    """A status as Connect writes it."""
    told = [{"id": number, "state": state, "trace": trace} for number, state in enumerate(tasks)]
    return {"connector": {"state": connector, "trace": trace}, "tasks": told}


@dataclass
class FakeConnect:
    """A Connect that has these connectors; its answers before are used up first."""

    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    statuses: list[object] = field(default_factory=lambda: [RUNNING])
    first: list[tuple[int, str]] = field(default_factory=list)
    refuses: str = ""
    asked: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> tuple[int, str]:
        """Answer one call."""
        method, path, _, body = asked
        self.asked.append(f"{method} {path}")
        if self.first:
            return self.first.pop(0)
        name = path.split("/")[2] if path.count("/") > 1 else ""
        if path == "/":
            return 200, '{"version": "4.1"}'
        if path == "/connectors":
            return 200, json.dumps(list(self.configs))
        if method == "PUT" and self.refuses:
            return 400, json.dumps({"message": self.refuses})
        if method == "PUT":
            self.configs[name] = json.loads(body)
            return 201, "{}"
        if name not in self.configs:
            return 404, '{"message": "unknown"}'
        if path.endswith("/config"):
            return 200, json.dumps({"name": name, **self.configs[name]})
        return 200, json.dumps(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@pytest.fixture(autouse=True)
def postgres(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What PostgreSQL says of slot and publication, without one."""
    facts: dict[str, Any] = {"slots": [READ], "tables": ("a.b",)}

    @contextmanager
    def opened(self: PostgresDoor, *, seconds: float) -> Iterator[None]:
        yield None

    def slot(connection: object, name: str) -> SlotLook | None:
        looks = facts["slots"]
        found: SlotLook | None = looks.pop(0) if len(looks) > 1 else looks[0]
        return found

    monkeypatch.setattr(PostgresDoor, "open", opened)
    monkeypatch.setattr(connectors, "look_at_slot", slot)
    monkeypatch.setattr(connectors, "published_tables", lambda connection, name: facts["tables"])
    return facts


def gate(server: Callable[[Asked], tuple[int, str]], folder: Path, **flags: Any) -> GateResult:
    """How the gate goes with this Connect and one connector wanted."""
    (folder / "debezium").mkdir(exist_ok=True)
    (folder / "debezium" / "one.json").write_text(json.dumps({"name": "one", "config": CONFIG}))
    with scripted_http(server) as url:
        options = {"execute": True, "infra": folder, "connect_url": url, **flags}
        options.setdefault("postgres_dsn", "host=h dbname=d")
        return run_gate("debezium-connectors", GateOptions(**options), environ={})


# --- the whole gate ---------------------------------------------------------------


@pytest.mark.twin
def test_a_connector_that_is_missing_is_registered(tmp_path: Path) -> None:
    """As its file says; then it is compared, waited for and looked behind."""
    server = FakeConnect(statuses=[status("UNASSIGNED"), status("RUNNING"), RUNNING])
    result = gate(server, tmp_path)
    assert result.is_ok, result.sentence
    assert server.configs == {"one": CONFIG}
    assert [step.name for step in result.steps[1:]] == [
        f"{what}_one" for what in ("register", "config", "state", "slot")
    ]
    facts = [step.facts for step in result.steps]
    assert facts[0] == {"version": "4.1", "connectors": ""}
    assert (facts[1], result.changes) == ({"registered": "now"}, 1)
    assert facts[2] == {"keys": "4", "different": "0"}
    assert facts[3] == {"connector": "RUNNING", "tasks": "1", "task_0": "RUNNING"}
    assert facts[4] == {
        "slot": "s",
        "publication": "p",
        "active": "true",
        "wal_status": "reserved",
        "retained_wal_mib": "1.0",
        "unconfirmed_bytes": "7",
        "published_tables": "1",
    }


@pytest.mark.twin
def test_one_that_is_as_wanted_is_left_alone(tmp_path: Path) -> None:
    """A PUT restarts its tasks, so there is none; and a probe makes none at all."""
    server = FakeConnect({"one": CONFIG})
    assert gate(server, tmp_path, update=("one",)).changes == 0
    assert not any(asked.startswith("PUT") for asked in server.asked)
    looked = gate(FakeConnect(), tmp_path, execute=False, probe=True)
    assert "connector one: is not registered; `ctp-runbook infra debezium" in looked.sentence


@pytest.mark.twin
def test_one_that_drifted_is_replaced_only_by_name(tmp_path: Path) -> None:
    """Its difference is a failure that says the flag; with the flag it is put."""
    server = FakeConnect({"one": {**CONFIG, "slot.name": "old"}})
    result = gate(server, tmp_path, update=("another",))
    assert result.steps[1].facts == {"registered": "already"}
    assert "slot.name is 'old', expected 's'" in result.sentence
    assert "debezium-connectors --update one --execute` (its tasks restart)" in result.sentence
    updated = gate(server, tmp_path, update=("one",))
    assert updated.is_ok, updated.sentence
    assert updated.steps[1].facts == {"registered": "updated"}


@pytest.mark.twin
def test_a_put_that_is_refused_is_quoted(tmp_path: Path) -> None:
    """With the file to correct."""
    result = gate(FakeConnect(refuses="no such host: db"), tmp_path)
    assert "PUT was answered HTTP 400: no such host: db; correct" in result.sentence
    assert "one.json" in result.sentence


BUSY = {
    "a rebalance": (409, '{"message": "rebalancing"}'),
    "just after a PUT": (
        500,
        '{"message": "Request cannot be completed: a rebalance is expected"}',
    ),
}


@pytest.mark.twin
@pytest.mark.parametrize("answer", BUSY.values(), ids=BUSY)
def test_workers_that_rebalance_are_waited_for(answer: tuple[int, str], tmp_path: Path) -> None:
    """Asked again; until the deadline, and then told with what to look at."""
    result = gate(FakeConnect({"one": CONFIG}, first=[answer] * 2), tmp_path)
    assert result.is_ok, result.sentence
    never = gate(FakeConnect(first=[answer] * 999), tmp_path, deadline_seconds=0.7)
    assert f"GET /: HTTP {answer[0]} until the deadline of 0.7 s" in never.sentence
    assert "its workers do not finish their rebalance" in never.sentence


NO_CONNECT = {
    "a fault": ([(500, '{"message": "disk"}')], "HTTP 500: disk; see the worker's log"),
    "another service": ([(200, "[]"), (200, "[]")], "is this Connect (--connect-url)?"),
    "another service's list": ([(200, "{}"), (404, "{}")], "answered HTTP 200 and 404, expected"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("answers", "said"), NO_CONNECT.values(), ids=NO_CONNECT)
def test_what_is_no_connect_ends_the_gate(
    answers: list[tuple[int, str]], said: str, tmp_path: Path
) -> None:
    """Nothing behind it is run."""
    result = gate(FakeConnect(first=list(answers)), tmp_path)
    assert said in result.sentence
    assert {step.status.value for step in result.steps[1:]} == {"not_run"}


STATES: dict[str, tuple[dict[str, Any], str]] = {
    "a failed task": (
        status("RUNNING", "FAILED"),
        "task 0 FAILED: X: lost; when the cause is mended: `curl -X POST http://",
    ),
    "a failed connector": (status("FAILED"), "/connectors/one/restart?includeTasks=true'`"),
    "a paused one": (
        status("PAUSED", "PAUSED"),
        "expected RUNNING; somebody paused it: `curl -X PUT http://",
    ),
    "a stopped one": (status("STOPPED"), "connector STOPPED, no task, expected RUNNING"),
}


@pytest.mark.twin
@pytest.mark.parametrize(("seen", "said"), STATES.values(), ids=STATES)
def test_what_waiting_does_not_mend_is_told_at_once(
    seen: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """With Connect's own call that mends it."""
    result = gate(FakeConnect({"one": CONFIG}, statuses=[seen]), tmp_path)
    assert said in result.sentence


@pytest.mark.twin
def test_one_that_does_not_come_up_is_waited_for(tmp_path: Path) -> None:
    """Until the deadline; a probe looks once."""
    server = FakeConnect({"one": CONFIG}, statuses=[status("RUNNING")])
    late = gate(server, tmp_path, deadline_seconds=3.0)
    assert "connector RUNNING, no task, expected connector and every task RUNNING" in late.sentence
    assert sum(asked.endswith("/status") for asked in server.asked) > 2
    looked = gate(server, tmp_path, execute=False, probe=True)
    assert "every task RUNNING within 120 s (--deadline-seconds)" in looked.sentence


@pytest.mark.twin
def test_a_look_that_is_cut_short_does_not_hide_what_was_seen(tmp_path: Path) -> None:
    """Connect hangs in the last call before the deadline: that a call had no time is no reason."""
    server = FakeConnect({"one": CONFIG}, statuses=[status("RUNNING", "UNASSIGNED")])

    def hanging(asked: Asked) -> tuple[int, str]:
        if "GET /connectors/one/status" in server.asked:
            time.sleep(4.0)
        return server(asked)

    late = gate(hanging, tmp_path, deadline_seconds=2.0)
    assert "connector RUNNING, task 0 UNASSIGNED (a later look was cut short" in late.sentence


@pytest.mark.twin
def test_a_slot_is_given_a_moment(tmp_path: Path, postgres: dict[str, Any]) -> None:
    """The engine connects a moment after its task says RUNNING; not one that does not run."""
    unread = SlotLook(False, "reserved", 0, 0)
    postgres["slots"] = [None, unread, READ]
    assert gate(FakeConnect({"one": CONFIG}), tmp_path).is_ok
    postgres["slots"] = [unread]
    paused = gate(FakeConnect({"one": CONFIG}, statuses=[status("PAUSED", "PAUSED")]), tmp_path)
    assert "slot s of one is not active" in paused.steps[4].reason


# --- behind it --------------------------------------------------------------------


def connector(**config: str) -> _Connector:
    """One that is wanted so."""
    context = GateContext.of(GateOptions(profile="rehearsal"), environ={}, tell=print)
    wanted = WantedConnector("one", {**CONFIG, **config}, "one.json")
    return _Connector(context, _Rest(context, "http://c"), wanted)


SLOTS: dict[str, tuple[SlotLook | None, list[str]]] = {
    "read": (READ, []),
    "gone": (
        None,
        ["slot s of one does not exist in postgresql://h: changes since it was dropped are lost"],
    ),
    "lost": (SlotLook(False, "lost", 0, 0), ["slot s of one is lost: PostgreSQL removed WAL"]),
    "unread": (
        SlotLook(False, "extended", 0, 0),
        ["not active: nobody reads it and its WAL piles up; restart the connector, or `SELECT pg_"],
    ),
    "keeps much": (
        SlotLook(True, "extended", 2000 << 20, 0),
        ["keeps 2000.0 MiB of WAL, expected at most 1024 MiB (--max-slot-wal-mib)"],
    ),
    "unread, and keeps much": (SlotLook(False, "x", 2000 << 20, 0), ["is not active", "keeps"]),
}


@pytest.mark.parametrize(("look", "said"), SLOTS.values(), ids=SLOTS)
def test_a_slot_is_held_to_be_read(look: SlotLook | None, said: list[str]) -> None:
    """A connector may say RUNNING while the disk fills with WAL."""
    problems = list(connector().slot_problems(look, "postgresql://h"))
    assert len(problems) == len(said)
    assert all(words in problem for words, problem in zip(said, problems, strict=True))


PUBLICATIONS: dict[str, tuple[tuple[str, ...] | None, str]] = {
    "all there": (("a.b", "a.c", "a.d"), ""),
    "gone": (None, "publication p of one does not exist; create it: `ctp-runbook infra bootstrap"),
    "one lacking": (("a.c",), "lacks a.b: `ALTER PUBLICATION p ADD TABLE a.b`"),
    "two lacking": ((), "lacks a.b, a.c: `ALTER PUBLICATION p ADD TABLE a.b, a.c`"),
}


@pytest.mark.parametrize(("tables", "said"), PUBLICATIONS.values(), ids=PUBLICATIONS)
def test_a_publication_has_the_tables_of_the_file(
    tables: tuple[str, ...] | None, said: str
) -> None:
    """What is not published never comes to Kafka, and nothing else says so."""
    wanted = connector(**{"table.include.list": "a.b,a.c"})
    problems = list(wanted.publication_problems(tables))
    assert len(problems) == bool(said)
    assert said in "".join(problems)
