"""A client's session with the front: the login sequence, and staying logged in without haste.

``TradingLink`` and ``MarketLink`` hold one channel each, reconnect on their own with growing
pauses, and give up for good after so many failed attempts in a row: repeated failures lead to
CTP error 75, and then nobody logs in any more.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.book import INSTRUMENTS
from ctp_runbook.rehearsal.front.protocol import (
    CtpError,
    Login,
    Message,
    Op,
    ProtocolError,
    Push,
    ReturnCode,
    SessionState,
    decode,
    encode,
    read_ports,
)
from ctp_runbook.rehearsal.process import say

__all__ = ["FrontRefused", "MarketLink", "TradingLink"]

# Of the front's count of attempts left these belong to whoever has to log in after us.
_RESERVED_ATTEMPTS = 2
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.0
_REQUEST_SECONDS = 3.0
_DRAIN_SECONDS = 600.0
_HEARTBEAT_SECONDS = 1.0
_SILENCE_SECONDS = 6.0


class FrontRefused(RunbookError):
    """The front answered a request with an error; ``error_id`` is CTP's."""

    def __init__(self, op: str, answer: Message) -> None:
        self.error_id = int(answer.get("error_id", 0))
        self.return_code = int(answer.get("return_code", 0))
        self.attempts_left = int(answer.get("attempts_left", 99))
        what = f"error {self.error_id} {answer.get('error_msg', '')}".strip()
        if not self.error_id:
            what = f"return code {ReturnCode(self.return_code).name} ({self.return_code})"
        super().__init__(f"the front refused {op}: {what}")


class _Connection:
    """One TCP connection: requests with their answers, and pushes as they come."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on: Mapping[str, Callable[[Message], None]],
    ) -> None:
        self.closed = asyncio.Event()
        self.last_heard = time.monotonic()
        self._writer, self._on = writer, on
        self._waiting: dict[int | str, asyncio.Future[Message]] = {}
        self._rid = 0
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self.last_heard = time.monotonic()
                self._take(decode(line))
        except (ConnectionError, ProtocolError):
            pass  # the same as an end of file: the connection is no good any more
        finally:
            self.close()

    def _take(self, message: Message) -> None:
        waiting = self._waiting.pop(message.get("rid") or message.get("push", ""), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        elif (push := message.get("push", "")) in self._on:
            self._on[push](message)
        elif message.get("reply") == Op.INSERT:
            self._on[Push.ORDER]({**message, "status": "rejected"})

    def send(self, op: Op, **fields: Any) -> int:
        """Write a request without waiting for its answer; its rid."""
        if self._writer.is_closing():
            raise ProtocolError(f"{op} not sent: the connection to the front is closed")
        self._rid += 1
        self._writer.write(encode({"op": op, "rid": self._rid, **fields}))
        return self._rid

    def expect(self, what: int | str) -> asyncio.Future[Message]:
        """The answer with this rid, or the next push of this kind; ProtocolError once closed."""
        self._waiting[what] = asyncio.get_running_loop().create_future()
        return self._waiting[what]

    async def request(self, op: Op, *, timeout: float, **fields: Any) -> Message:
        """The answer; raises FrontRefused, ProtocolError (closed) or TimeoutError."""
        rid = self.send(op, **fields)
        try:
            answer = await asyncio.wait_for(self.expect(rid), timeout)
        finally:
            self._waiting.pop(rid, None)
        if answer.get("error_id") or answer.get("return_code"):
            raise FrontRefused(op, answer)
        return answer

    def close(self) -> None:
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ProtocolError("the front closed the connection"))
                future.exception()  # looked at: whoever waited may have failed before
        self._waiting.clear()
        self.closed.set()


@dataclass
class _Link:
    """What both channels share: connect, log in, keep alive, try again, give up.

    ``attempts`` failed logins in a row end it; pauses between them double up to the longest.
    ``on`` says who is given which push.
    """

    front_dir: Path
    login: Login
    attempts: int = 8
    on: Mapping[str, Callable[[Message], None]] = field(default_factory=dict)
    on_state: Callable[[str, SessionState], None] = lambda channel, state: None
    on_reconnected: Callable[[float], None] = lambda seconds: None
    on_login: Callable[[bool], None] = lambda succeeded: None
    state: SessionState = SessionState.DISCONNECTED
    attempts_left: int = 99
    gave_up: str = ""
    _connection: _Connection | None = field(default=None, repr=False)

    channel: ClassVar[str] = ""

    async def run(self) -> None:
        """Hold the session until cancelled; returns only after giving up (see ``gave_up``)."""
        lost_at, failures = 0.0, 0
        while not self.gave_up:
            try:
                connection = await self._establish()
            except (FrontRefused, ProtocolError, OSError, TimeoutError) as error:
                failures += 1
                self._drop()
                self._note_failure(error, failures)
                pause = _FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16)
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
                continue
            failures = 0
            self.on_login(True)
            if lost_at:
                self.on_reconnected(time.monotonic() - lost_at)
            await self._stay(connection)
            lost_at = time.monotonic()
            self._drop()
            if not self.gave_up:
                say(f"{self.channel}: session lost")

    def _note_failure(self, error: Exception, failures: int) -> None:
        self.on_login(False)
        limit = self.attempts
        say(f"{self.channel}: login attempt {failures} of {limit} failed: {error!r}")
        if failures >= limit:
            self.gave_up = f"{failures} failed attempts in a row, the limit ({limit})"
        if isinstance(error, FrontRefused):
            self.attempts_left = error.attempts_left
            if error.error_id == CtpError.LOGIN_FORBIDDEN:
                self.gave_up = "login forbidden (CTP error 75)"
            elif error.attempts_left <= _RESERVED_ATTEMPTS:
                left = f"{error.attempts_left} login attempts left before CTP error 75"
                self.gave_up = f"{left}; they are kept for whoever comes after"
        if self.gave_up:
            say(f"{self.channel}: gave up: {self.gave_up}")

    def _set_state(self, state: SessionState) -> None:
        self.state = state
        self.on_state(self.channel, state)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._set_state(SessionState.DISCONNECTED)

    async def _establish(self) -> _Connection:
        port = int(read_ports(self.front_dir)[self.channel])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._connection = connection = _Connection(reader, writer, self.on)
        self._set_state(SessionState.CONNECTED)
        await self._log_in(connection)
        return connection

    async def _stay(self, connection: _Connection) -> None:
        """Send heartbeats until the connection closes or the front falls silent."""
        while not connection.closed.is_set():
            if time.monotonic() - connection.last_heard > _SILENCE_SECONDS:
                say(f"{self.channel}: nothing heard for {_SILENCE_SECONDS} s")
                return
            try:
                connection.send(Op.HEARTBEAT)
                await asyncio.wait_for(connection.closed.wait(), _HEARTBEAT_SECONDS)
            except TimeoutError:
                continue
            except ProtocolError:
                return

    async def _ask(self, op: Op, **fields: Any) -> Message:
        if self._connection is None:
            raise ProtocolError(f"{op} not sent: the {self.channel} session is not connected")
        return await self._connection.request(op, timeout=_REQUEST_SECONDS, **fields)

    async def log_out(self) -> None:
        """Log out and close: the front then knows at once that the session is over."""
        self.gave_up = "logged out"
        try:
            if self.state >= SessionState.LOGGED_IN and self._connection is not None:
                await self._connection.request(Op.LOGOUT, timeout=0.5)
        except (FrontRefused, ProtocolError, TimeoutError) as error:
            say(f"{self.channel}: logout was not confirmed: {error!r}")
        self._drop()

    async def _log_in(self, connection: _Connection) -> None:
        raise NotImplementedError


@dataclass
class MarketLink(_Link):
    """The MD channel: login, subscribe, ticks."""

    channel: ClassVar[str] = "md"

    async def _log_in(self, connection: _Connection) -> None:
        await self._ask(Op.LOGIN, **self.login.fields(pid=os.getpid()))
        await self._ask(Op.SUBSCRIBE, instruments=INSTRUMENTS)
        self._set_state(SessionState.LOGGED_IN)


@dataclass
class TradingLink(_Link):
    """The TD channel; orders may be sent once ``state`` is READY: the replay has drained.

    ``account`` is the settlement information; ``replayed`` and ``drain_seconds`` tell how long
    the private stream was.
    """

    on_replay: Callable[[], None] = lambda: None
    on_query: Callable[[float], None] = lambda seconds: None
    front_id: int = 0
    session_id: int = 0
    max_order_ref: int = 0
    next_order_ref: int = 0
    trading_day: str = ""
    replayed: int = 0
    drain_seconds: float = 0.0
    account: Message = field(default_factory=dict)
    _queries: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _last_query: float = 0.0
    channel: ClassVar[str] = "td"

    async def _log_in(self, connection: _Connection) -> None:
        await self._ask(Op.AUTHENTICATE, user=self.login.user, auth_code=self.login.auth_code)
        self._take_login(await self._ask(Op.LOGIN, **self.login.fields(pid=os.getpid())))
        self._set_state(SessionState.LOGGED_IN)
        self.account = await self._ask(Op.CONFIRM_SETTLEMENT)
        self._set_state(SessionState.SETTLEMENT_CONFIRMED)
        await self._first_query()
        await self._drain(connection)
        self._set_state(SessionState.READY)

    def _take_login(self, answer: Message) -> None:
        self.front_id, self.session_id = int(answer["front_id"]), int(answer["session_id"])
        self.max_order_ref = int(answer["max_order_ref"])
        self.next_order_ref = self.max_order_ref + 1
        self.trading_day, self.attempts_left = answer["trading_day"], int(answer["attempts_left"])

    async def _first_query(self) -> None:
        """Instruments, as a login does. A refusal hinders no login: warm-up asks again."""
        try:
            await self.query("instruments")
        except FrontRefused as error:
            say(f"td: {error}")

    async def _drain(self, connection: _Connection) -> None:
        """Read the day's orders and trades until the front says that was all."""
        began = time.monotonic()
        drained = connection.expect(Push.STREAM_DRAINED)
        self.on_replay()
        await self._ask(Op.RESUME)
        end = await asyncio.wait_for(drained, _DRAIN_SECONDS)
        self.replayed, self.drain_seconds = int(end["replayed"]), time.monotonic() - began

    async def query(self, what: str, *, spacing_seconds: float = 1.05) -> Message:
        """Ask, one at a time and no faster than flow control allows (1 a second)."""
        async with self._queries:
            wait = self._last_query + spacing_seconds - time.monotonic()
            await asyncio.sleep(max(0.0, wait))
            self._last_query = time.monotonic()
            return await self.query_at_once(what)

    async def query_at_once(self, what: str) -> Message:
        """Ask with no regard to flow control: only a fault does that by itself."""
        began = time.monotonic()
        answer = await self._ask(Op.QUERY, what=what)
        self.on_query(time.monotonic() - began)
        return answer

    def insert(self, **order: Any) -> int:
        """Send an order; its ref. The answer comes through ``on_order``.

        Raises ProtocolError while the private stream has not drained: what is not known to be
        open must not be traded against.
        """
        if self.state != SessionState.READY or self._connection is None:
            raise ProtocolError(f"order not sent: the td session is {self.state.name}, not READY")
        ref = self.next_order_ref
        self.next_order_ref += 1
        self._connection.send(Op.INSERT, order_ref=ref, **order)
        return ref

    async def cancel(self, *, session_id: int, order_ref: int) -> None:
        """Cancel an order of this session or of an earlier one of the same user."""
        await self._ask(Op.CANCEL, session_id=session_id, order_ref=order_ref)
