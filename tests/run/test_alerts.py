"""Facts about run/alerts.py: a person is called, and no hook ever holds up or fails a run."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ctp_runbook.record.kinds import AlertEnded, AlertSent
from ctp_runbook.run.alerts import AlertDesk
from ctp_runbook.run.context import RunContext
from tests.props.plan_fixtures import make_plan, open_context, wait_for

SECRET = "correct-horse-battery"
TIMEOUT_SECONDS = 1.0
# Hooks that hang have 5 s.
NO_WAIT_SECONDS = 3.0


class Receiver:
    """A webhook on this host; ``path`` decides how it answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(json.loads(body))
                self.send_response(500 if "broken" in self.path else 204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook/{SECRET}"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver, asked without a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def called(
    folder: Path, *, sentence: str = f"no data; the token is {SECRET}", **values: str
) -> tuple[list[dict[str, Any]], float, RunContext]:
    """What the journal says came of one alert, and how long calling took."""
    plan = make_plan(folder, limits=None, environ=None, **values)
    desk = AlertDesk()
    with open_context(folder, plan=plan) as context:
        began = time.monotonic()
        desk.call(context, "holding", sentence)
        took = time.monotonic() - began
        hooks = sum(1 for key in ("ALERT_CMD", "ALERT_WEBHOOK_URL") if key in values)

        def ended() -> list[dict[str, Any]]:
            desk.collect(context)
            ends = context.history.of_kind(AlertEnded)
            return [msgspec.to_builtins(ended.payload) for ended in ends]

        wait_for(lambda: len(ended()) == hooks)
        return ended(), took, context


@pytest.mark.twin
def test_both_hooks_are_called_with_the_facts(tmp_path: Path, receiver: Receiver) -> None:
    """The command by its environment, the webhook by JSON; the journal has when and what came."""
    command = f'printenv CTP_ALERT_OCCASION CTP_ALERT_SENTENCE > "{tmp_path}/told"'
    ended, took, context = called(tmp_path, ALERT_CMD=command, ALERT_WEBHOOK_URL=receiver.url)
    assert took < NO_WAIT_SECONDS
    assert {(one["hook"], one["ok"]) for one in ended} == {("command", True), ("webhook", True)}
    assert (tmp_path / "told").read_text().splitlines()[0] == "holding"
    (body,) = receiver.bodies
    assert body["occasion"] == "holding"
    assert body["environment"] == context.plan.environment
    assert "ctp-runbook hold|resume|rollback --run" in body["decide"]
    (alert,) = context.history.of_kind(AlertSent)
    assert alert.payload.hooks == ("command", "webhook")


def test_any_sentence_calls_a_person(tmp_path: Path) -> None:
    """What a program said last may hold what no environment takes."""
    command = f'printenv CTP_ALERT_SENTENCE > "{tmp_path}/told"'
    ended, _, _ = called(tmp_path, sentence="it said: a\0b \ud800", ALERT_CMD=command)
    assert [one["ok"] for one in ended] == [True], ended
    assert (tmp_path / "told").read_text() == "it said: a\ufffdb \\ud800\n"


@pytest.mark.twin
def test_no_secret_leaves_or_is_written(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the body nor in the journal, and the webhook's own address is one."""
    monkeypatch.setenv("CTP_TOKEN", SECRET)
    _, _, context = called(tmp_path, ALERT_WEBHOOK_URL=receiver.url)
    assert receiver.bodies[0]["sentence"] == "no data; the token is ***"
    assert SECRET.encode() not in context.run.journal.read_bytes()
    plan = context.plan
    assert receiver.url not in plan.redactor(f"see {receiver.url}")
    assert receiver.url.encode() not in context.run.journal.read_bytes()


FAILURES = {
    "it fails": ("echo no route >&2; exit 3", "exit 3; it said: no route"),
    "it hangs": ("trap '' TERM; sleep 600", "no end within alert_timeout_seconds 5 s"),
    "it cannot be run": ("no-such-command-here", "exit 127"),
    "it leaves a child": ("sleep 600 & exit 0", "delivered"),
}


@pytest.mark.parametrize(("command", "said"), FAILURES.values(), ids=FAILURES)
def test_a_command_that_misbehaves_is_told_and_nothing_else(
    tmp_path: Path, command: str, said: str
) -> None:
    """It is ended at its limit, and nothing waited for it."""
    ended, took, _ = called(tmp_path, ALERT_CMD=command)
    assert took < NO_WAIT_SECONDS
    assert said in ended[0]["sentence"]
    assert ended[0]["ok"] is (said == "delivered")
    assert ended[0]["took_ms"] < 30_000


@pytest.mark.twin
def test_a_webhook_that_misbehaves_is_told(tmp_path: Path, receiver: Receiver) -> None:
    """An error, nobody there, and one that takes the connection and says nothing."""
    ended, _, _ = called(tmp_path, ALERT_WEBHOOK_URL=f"{receiver.url}/broken")
    assert (ended[0]["ok"], ended[0]["sentence"]) == (False, "HTTP 500")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        ended, _, _ = called(tmp_path, ALERT_WEBHOOK_URL=url)
        assert ended[0]["sentence"].startswith("not delivered:")
        nobody.listen()
        ended, took, _ = called(tmp_path, ALERT_WEBHOOK_URL=url)
    assert took < NO_WAIT_SECONDS
    assert ended[0]["ok"] is False
    assert ended[0]["took_ms"] < 30_000


def test_without_hooks_nobody_is_called(tmp_path: Path) -> None:
    """And nothing is written."""
    _, _, context = called(tmp_path)
    assert context.journal.records == ()


def test_what_is_under_way_at_the_end_is_told_to_be(tmp_path: Path) -> None:
    """The run closes without waiting."""
    plan = make_plan(tmp_path, ALERT_CMD="sleep 600")
    desk = AlertDesk()
    with open_context(tmp_path, plan=plan) as context:
        desk.call(context, "ended", "over")
        began = time.monotonic()
        desk.leave(context)
        assert time.monotonic() - began < NO_WAIT_SECONDS
        (ended,) = context.history.of_kind(AlertEnded)
        assert ended.payload.sentence == "still under way when the run ended"
        desk.drain(context)


def test_a_webhook_address_is_checked_and_never_shown(tmp_path: Path) -> None:
    """http and https alone; the plan's copy of the template has it masked."""
    from ctp_runbook.errors import TemplateError

    with pytest.raises(TemplateError, match="ALERT_WEBHOOK_URL"):
        make_plan(tmp_path, ALERT_WEBHOOK_URL="ftp://127.0.0.1/x")
    url = f"https://127.0.0.1/hook/{SECRET}"
    plan = make_plan(tmp_path, ALERT_WEBHOOK_URL=url)
    assert SECRET not in repr(plan)
    assert SECRET not in plan.redactor(plan.cutover_template.read_text())
