"""A simulated CTP front: TD and MD listeners apart, on loopback ports the OS gives.

Run as ``python -m ctp_runbook.rehearsal.front.server --dir D``. It writes ``D/ports.json`` when it
listens and ``D/front_log.jsonl`` as it goes; ``control`` changes its behaviour at run time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.front.book import Book
from ctp_runbook.rehearsal.front.connection import FrontSession
from ctp_runbook.rehearsal.front.faults import FaultOrder, Faults, FrontSettings
from ctp_runbook.rehearsal.front.log import FrontLog
from ctp_runbook.rehearsal.front.protocol import (
    PASSWORD,
    CtpError,
    Message,
    ProtocolError,
    Push,
    decode,
    encode,
    read_ports,
)
from ctp_runbook.rehearsal.process import on_term

__all__ = ["Front", "main"]

_ENGINES = 2
_PARTY = attrgetter("user", "role", "channel")


class Front:
    """The front's state and its decisions; one user, one trading day."""

    def __init__(self, settings: FrontSettings) -> None:
        self.settings = settings
        self.log = FrontLog(settings.dir / "front_log.jsonl")
        self.faults = Faults()
        self.book = Book(max_order_ref=self.log.max_order_ref)
        self._sessions: dict[int, FrontSession] = {}
        self._lingering: dict[int, tuple[FrontSession, float]] = {}
        self._failures: dict[str, int] = {}
        self._armed: list[FaultOrder] = []
        self._next_session_id = 1000
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_ports: list[socket.socket] = []

    # -- sessions ---------------------------------------------------------------------------

    async def connected(
        self, channel: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection from accept to its end."""
        self._next_session_id += 1
        session = FrontSession(
            self, channel=channel, session_id=self._next_session_id, writer=writer
        )
        self._sessions[session.session_id] = session
        session.note("connect")
        reason = "eof"
        try:
            await session.serve(reader)
        except ConnectionError as error:
            reason = f"connection lost: {error}"
        except (ProtocolError, ValueError, KeyError) as error:
            reason = f"bad request: {error!r}"
        finally:
            self.lose(session, reason=reason)

    def lose(self, session: FrontSession, *, reason: str, expired: bool = False) -> None:
        """Note the end of a connection; a login without a logout lingers until it expires."""
        if self._sessions.pop(session.session_id, None) is None:
            return
        session.close()
        if not session.logged_in:
            if not session.logged_out:
                session.note("disconnect", reason=reason)
            return
        session.logged_in = False
        session.note("session_lost", reason=reason)
        if expired:
            session.note("session_expired")
        else:
            until = session.last_seen + self.settings.heartbeat_seconds
            self._lingering[session.session_id] = (session, until)

    def admit(self, session: FrontSession, request: Message) -> Message:
        """Decide on a login. Failed passwords count towards error 75, for good."""
        failures = self._failures.get(session.user, 0)
        left = self.settings.lockout_failures - failures
        if left <= 0:
            return {"error_id": CtpError.LOGIN_FORBIDDEN, "attempts_left": 0}
        if self.faults.refuses_login(session.generation):
            return {"error_id": CtpError.NOT_INITED, "attempts_left": left}
        if session.channel == "td" and not session.authenticated:
            return {"error_id": CtpError.AUTHENTICATION_FAILED, "attempts_left": left}
        if request.get("password") != PASSWORD:
            self._failures[session.user] = failures + 1
            return {"error_id": CtpError.INVALID_LOGIN, "attempts_left": left - 1}
        return self._admit_beside(session)

    def _admit_beside(self, session: FrontSession) -> Message:
        """Decide on a login that is right by itself, beside those that are there."""
        others = list(self._same_party(session))
        if others and self.settings.second_login == "refuse":
            return {"error_id": CtpError.DUPLICATE_LOGIN, "attempts_left": self.attempts_left}
        if self.settings.second_login == "kick":
            for other in others:
                self.lose(other, reason="kicked by a second login", expired=True)
        self._failures.pop(session.user, None)
        if session.channel == "td" and session.role == "core_engine":
            self._spring(session.generation)
        return {"attempts_left": self.settings.lockout_failures}

    @property
    def attempts_left(self) -> int:
        """Failed logins until error 75, for the user worst off."""
        return self.settings.lockout_failures - max(self._failures.values(), default=0)

    def _same_party(self, session: FrontSession) -> Iterator[FrontSession]:
        """Logged in (or lingering) as the same user in the same role on the same channel."""
        lingering = [each for each, _ in self._lingering.values()]
        for other in [*self._sessions.values(), *lingering]:
            is_same = _PARTY(other) == _PARTY(session)
            if other is not session and is_same and (other.logged_in or other in lingering):
                yield other

    def broadcast(self, message: Message) -> None:
        """Send to every session that reads the private stream."""
        for session in self._sessions.values():
            session.stream(message)

    # -- time -------------------------------------------------------------------------------

    async def watch_heartbeats(self) -> None:
        """Expire sessions that fell silent, and lingering ones whose time has come."""
        while True:
            await asyncio.sleep(min(0.2, self.settings.heartbeat_seconds / 5))
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if now - session.last_seen > self.settings.heartbeat_seconds:
                    self.lose(session, reason="no heartbeat", expired=True)
            for session_id, (session, until) in list(self._lingering.items()):
                if now >= until:
                    del self._lingering[session_id]
                    session.note("session_expired")

    async def send_ticks(self) -> None:
        """Send a tick of every subscribed instrument, so many times a second."""
        price = 100.0
        while True:
            await asyncio.sleep(1 / self.settings.ticks_per_second)
            price = 100.0 + (price * 7.3) % 5
            for session in self._sessions.values():
                for instrument in session.subscribed:
                    session.send({"push": Push.TICK, "instrument": instrument, "price": price})

    # -- control ----------------------------------------------------------------------------

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer: ``{"faults": {…}}`` changes, anything else only reports."""
        try:
            request = decode(await reader.readline())
            if wanted := request.get("faults"):
                self._take(FaultOrder.parse(wanted))
            answer: Message = {"ok": True, **self._report()}
        except RunbookError as error:
            answer = {"ok": False, "error": str(error)}
        writer.write(encode(answer))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _report(self) -> Message:
        sessions = [
            {**each.who, "logged_in": each.logged_in, "drained": each.drained}
            for each in self._sessions.values()
        ]
        return {
            "sessions": sessions,
            "lingering": len(self._lingering),
            "armed": len(self._armed),
            "attempts_left": self.attempts_left,
            "orders": len(self.book.orders),
            "working": sum(each.status == "working" for each in self.book.orders.values()),
            "trades": len(self.book.trades),
            "max_order_ref": self.book.max_order_ref,
        }

    def _take(self, order: FaultOrder) -> None:
        if order.after_login_of:
            self._armed.append(order)
            return
        if order.reset:
            self._disarm()
            self.faults = Faults()
        self.faults.take(order)
        self.log.append("fault", **{k: v for k, v in vars(order).items() if v})
        for session in list(self._sessions.values()):
            if order.disconnect and session.generation == order.disconnect:
                self.lose(session, reason="disconnected by the front")

    def _spring(self, generation: str) -> None:
        """Set off what was armed for this generation's login; each once."""
        for order in [each for each in self._armed if each.after_login_of == generation]:
            self._armed.remove(order)
            task = asyncio.create_task(self._happen(order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _disarm(self) -> None:
        self._armed.clear()
        for task in self._tasks:
            task.cancel()

    async def _happen(self, order: FaultOrder) -> None:
        await asyncio.sleep(order.after_seconds)
        now = replace(order, after_login_of="", after_seconds=0.0, repeat=1)
        for turn in range(order.repeat):
            if turn:
                await asyncio.sleep(order.repeat_every_seconds)
            self._take(now)

    # -- the process ------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until TERM or INT."""
        stopped = asyncio.Event()
        on_term(stopped.set)
        ports: dict[str, Any] = {"reserved": self._reserve()}
        servers = []
        for channel in ("td", "md", "control"):
            serve = self.control if channel == "control" else partial(self.connected, channel)
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            servers.append(server)
            ports[channel] = server.sockets[0].getsockname()[1]
        beats = [
            asyncio.create_task(self.watch_heartbeats()),
            asyncio.create_task(self.send_ticks()),
        ]
        write_atomic(self.settings.dir / "ports.json", encode(ports))
        await stopped.wait()
        for each in servers:
            each.close()
        for beat in beats:
            beat.cancel()
        self.log.close()

    def _reserve(self) -> list[int]:
        """Hold ports for engines, the ones of an earlier front in this directory if it left any.

        They are bound, never listened on: an engine may listen there (SO_REUSEADDR), and nothing
        else gets them meanwhile.
        """
        try:
            before = read_ports(self.settings.dir)["reserved"]
        except (ProtocolError, KeyError):
            before = [0] * _ENGINES
        return [self._hold(port) for port in before]

    def _hold(self, port: int) -> int:
        """Bind without listening; a port that its engine listens on already needs no holding."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            return port
        self._held_ports.append(held)
        return int(held.getsockname()[1])


def _parse(argv: Sequence[str] | None) -> FrontSettings:
    parser = argparse.ArgumentParser(prog="front", description="A simulated CTP front.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--second-login", choices=("accept", "kick", "refuse"), default="accept")
    for each in fields(FrontSettings)[2:]:  # behind dir and second_login all are numbers
        flag = "--" + each.name.replace("_", "-")
        parser.add_argument(flag, type=type(each.default), default=each.default)
    return FrontSettings(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the front until TERM; 0 then."""
    settings = _parse(argv)
    settings.dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(Front(settings).run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
