"""What tests of the twin work with: started processes, a client by hand, waiting with a limit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.front.log import read_front_log
from ctp_runbook.rehearsal.front.protocol import (
    AUTH_CODE,
    Login,
    Message,
    decode,
    encode,
    read_ports,
)
from ctp_runbook.rehearsal.twin import Twin

__all__ = [
    "ROOT",
    "Client",
    "FrontHandle",
    "StartFront",
    "StartModule",
    "Started",
    "events",
    "python",
    "template_command",
    "wait_until",
    "write_json",
]

ROOT = Path(__file__).parents[2]
StartModule = Callable[..., "Started"]
StartFront = Callable[..., "FrontHandle"]


def wait_until(is_so: Callable[[], Any], *, seconds: float = 60.0, what: str = "") -> Any:
    """The first true answer of ``is_so``; a RunbookError counts as a no."""
    end, last = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if answer := is_so():
                return answer
        except RunbookError as error:
            last = str(error)
        time.sleep(0.02)
    return pytest.fail(f"not within {seconds} s: {what or is_so} {last}")


@dataclass
class Started:
    """A process a test started; ``log`` holds its output."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def ends(self, *, seconds: float = 60.0) -> int:
        """Its exit code; fails the test when it goes on."""
        return self.process.wait(timeout=seconds)

    def says(self) -> str:
        """What it has written so far."""
        return self.log.read_text()


@dataclass
class FrontHandle:
    """A front of its own, without the rest of a twin."""

    dir: Path
    process: Started
    clients: list[Client] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """Its front_log.jsonl."""
        return self.dir / "front_log.jsonl"

    def control(self, **faults: Any) -> Message:
        """Inject faults; the front's state."""
        return front_control(self.dir, **faults)

    def client(
        self, generation: str = "old", role: str = "core_engine", channel: str = "td", **login: str
    ) -> Client:
        """A connected client, closed with the front."""
        self.clients.append(Client(self.dir, channel, Login(generation, role, **login)))
        return self.clients[-1]


@dataclass
class Client:
    """The protocol by hand, one line at a time: what an engine's session does by itself."""

    front_dir: Path
    channel: str
    login: Login
    pushes: list[Message] = field(default_factory=list)
    rid: int = 0

    def __post_init__(self) -> None:
        """Connect."""
        port = read_ports(self.front_dir)[self.channel]
        self.line = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.stream = self.line.makefile("rb")

    def send(self, op: str, **fields: Any) -> int:
        """Send a request; its rid."""
        self.rid += 1
        self.line.sendall(encode({"op": op, "rid": self.rid, **fields}))
        return self.rid

    def read(self) -> Message:
        """The next message; raises EOFError when the front closed the connection."""
        try:
            text = self.stream.readline()
        except ConnectionError as error:
            raise EOFError from error
        if not text:
            raise EOFError
        return decode(text)

    def ask(self, op: str, **fields: Any) -> Message:
        """The answer to a request; pushes that come before it are kept."""
        rid = self.send(op, **fields)
        while (message := self.read()).get("rid") != rid:
            self.pushes.append(message)
        return message

    def push(self, kind: str) -> Message:
        """The next push of this kind, kept ones first."""
        while True:
            message = self.pushes.pop(0) if self.pushes else self.read()
            if message.get("push") == kind:
                return message

    def log_in(self) -> Message:
        """Authenticate (TD) and log in."""
        if self.channel == "td":
            self.ask("authenticate", auth_code=AUTH_CODE)
        return self.ask("login", **self.login.fields(pid=os.getpid()))

    def get_ready(self) -> Message:
        """Everything up to a drained private stream; the login's answer."""
        answer = self.log_in()
        self.ask("confirm_settlement")
        self.ask("resume")
        self.push("stream_drained")
        return answer

    def order(self, ref: int, **fields: Any) -> int:
        """Send an order that rests, unless told otherwise."""
        order = {"instrument": "rb2601", "direction": "buy", "offset": "open", "volume": 1}
        return self.send("insert", **{**order, "price": 1.0, "order_ref": ref, **fields})

    def close(self) -> None:
        """End the connection without a logout, as a killed process does."""
        self.stream.close()
        self.line.close()


def events(log: Path, *names: str) -> list[str]:
    """The events of a front's log, in order; only those named, where any are."""
    found = [record["event"] for record in read_front_log(log)]
    return [event for event in found if not names or event in names]


def python(twin: Twin, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the twin's own interpreter from a directory that has nothing to do with it."""
    argv = [str(twin.python), *map(str, words)]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False, timeout=240)


def template_command(twin: Twin, key: str) -> subprocess.CompletedProcess[str]:
    """Run the command of ``key`` in the twin's rendered templates as a step would."""
    text = twin.cutover_template.read_text() + twin.rollback_template.read_text()
    entries = dict(
        line.split("=", 1) for line in text.splitlines() if not line.startswith("#") and line
    )
    evidence = twin.dir / "evidence"
    evidence.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "-c", entries[key]],
        cwd=evidence,
        env={**os.environ, "CTP_EVIDENCE_DIR": str(evidence), "CTP_STEP": key.lower()},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def write_json(path: Path, content: Any) -> Path:
    """``content`` as a JSON file."""
    path.write_text(json.dumps(content))
    return path
