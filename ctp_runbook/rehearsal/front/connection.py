"""One client's connection to the simulated front: where it stands, and what it may do there.

The order is CTP's: authenticate, login, settlement confirmation, then queries, orders, and the
private stream. Each handler answers with the reply's fields; what the whole front decides
(who may log in, what an order becomes) is asked of ``FrontDesk``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ctp_runbook.rehearsal.front.book import INSTRUMENTS, PRE_BALANCE, Book, Order
from ctp_runbook.rehearsal.front.faults import Faults, FrontSettings
from ctp_runbook.rehearsal.front.log import FrontLog
from ctp_runbook.rehearsal.front.protocol import (
    AUTH_CODE,
    CtpError,
    Message,
    Op,
    Push,
    ReturnCode,
    decode,
    encode,
    trading_day,
)

__all__ = ["FrontDesk", "FrontSession"]

_REPLAY_CHUNK = 500
_AFTER_LOGIN = (Op.CONFIRM_SETTLEMENT, Op.QUERY, Op.SUBSCRIBE)


class FrontDesk(Protocol):
    """What a session needs of the front it is connected to."""

    settings: FrontSettings
    log: FrontLog
    faults: Faults
    book: Book

    def admit(self, session: FrontSession, request: Message) -> Message:
        """Decide on a login: the reply's fields, ``error_id`` 0 when admitted."""

    def broadcast(self, message: Message) -> None:
        """Send to every session that reads the private stream."""


class FrontSession:
    """A connection; ``generation`` and ``role`` are what its login request said."""

    def __init__(
        self, desk: FrontDesk, *, channel: str, session_id: int, writer: asyncio.StreamWriter
    ) -> None:
        self.desk, self.channel, self.session_id = desk, channel, session_id
        self.generation = self.role = self.user = ""
        self.pid = 0
        self.authenticated = self.logged_in = self.confirmed = False
        self.drained = self.logged_out = False
        self.subscribed: tuple[str, ...] = ()
        self.last_seen = time.monotonic()
        self.last_order_ref = 0
        self._writer = writer
        self._recent_queries: deque[float] = deque()
        self._recent_orders: deque[float] = deque()
        self._pending_queries = 0
        self._backlog: list[Message] | None = None  # while the private stream is replayed
        self._replaying: asyncio.Task[None] | None = None
        self._handlers: dict[str, Callable[[Message], Message | None]] = {
            Op.AUTHENTICATE: self._authenticate,
            Op.LOGIN: self._login,
            Op.CONFIRM_SETTLEMENT: self._confirm_settlement,
            Op.QUERY: self._query,
            Op.RESUME: self._resume,
            Op.SUBSCRIBE: self._subscribe,
            Op.INSERT: self._insert,
            Op.CANCEL: self._cancel,
            Op.HEARTBEAT: self._heartbeat,
            Op.LOGOUT: self._logout,
        }

    @property
    def who(self) -> dict[str, Any]:
        """The fields every log line about this session carries."""
        return {
            "channel": self.channel,
            "generation": self.generation,
            "role": self.role,
            "session_id": self.session_id,
            "pid": self.pid,
        }

    def note(self, event: str, **facts: Any) -> None:
        """Write an event of this session to the front's log."""
        self.desk.log.append(event, **self.who, **facts)

    def send(self, message: Message) -> None:
        """Write without waiting; a client that is gone is noticed by its reader."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    def stream(self, message: Message) -> None:
        """Pass on what happens to the account, behind what is still to be replayed."""
        if self.drained:
            self.send(message)
        elif self._backlog is not None:
            self._backlog.append(message)

    def close(self) -> None:
        """Drop the connection and what still ran for it."""
        if self._replaying is not None:
            self._replaying.cancel()
        self._writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer requests until the client leaves."""
        while line := await reader.readline():
            self.last_seen = time.monotonic()
            request = decode(line)
            answer = self._answer(request)
            if answer is not None:
                self.reply(request, **answer)

    def _answer(self, request: Message) -> Message | None:
        op = request.get("op", "")
        if op not in self._handlers:
            return {"error_id": CtpError.NOT_INITED}
        if op in _AFTER_LOGIN and not self.logged_in:
            return self._refuse(request, CtpError.NOT_LOGIN_YET)
        return self._handlers[op](request)

    def reply(self, request: Message, **facts: Any) -> None:
        """Answer ``request``; error 0 and return code 0 unless told otherwise."""
        head = {"reply": request.get("op"), "rid": request.get("rid")}
        self.send({**head, "error_id": 0, "return_code": 0, **facts})

    def _refuse(self, request: Message, error: CtpError, **facts: Any) -> Message:
        self.note("refused", op=request["op"], error_id=error, error=error.name, **facts)
        return {"error_id": error, "error_msg": error.name}

    def _keep_back(self, op: Op, code: ReturnCode) -> Message:
        self.note("refused", op=op, return_code=code, error=code.name)
        return {"return_code": code}

    def _authenticate(self, request: Message) -> Message:
        if request.get("auth_code") != AUTH_CODE:
            return self._refuse(request, CtpError.AUTHENTICATION_FAILED)
        self.authenticated = True
        self.note("authenticated")
        return {}

    def _login(self, request: Message) -> Message:
        self.generation, self.role = str(request["generation"]), str(request["role"])
        self.user, self.pid = str(request["user"]), int(request.get("pid", 0))
        answer = self.desk.admit(self, request)
        if error := CtpError(answer.get("error_id", 0)):
            return {**answer, **self._refuse(request, error)}
        self.logged_in = True
        self.last_order_ref = self.desk.book.max_order_ref
        facts = {"front_id": 1, "max_order_ref": self.last_order_ref, "trading_day": trading_day()}
        self.note("login", **facts)
        return {**answer, **facts, "session_id": self.session_id}

    def _confirm_settlement(self, request: Message) -> Message:
        self.confirmed = True
        self.note("settlement_confirmed")
        return {"pre_balance": PRE_BALANCE, "deposit": 0.0, "withdraw": 0.0}

    def _query(self, request: Message) -> Message | None:
        if code := self._query_flow():
            return self._keep_back(Op.QUERY, code)
        self._pending_queries += 1
        wait = self.desk.settings.query_latency_ms / 1000
        self._later(wait, lambda: self._answer_query(request))
        return None

    def _query_flow(self) -> ReturnCode:
        """Flow control: one query at a time, and so many a second; refused ones do not count."""
        if _too_many(self._recent_queries, self.desk.settings.queries_per_second):
            return ReturnCode.TOO_MANY_PER_SECOND
        if self._pending_queries:
            return ReturnCode.TOO_MANY_PENDING
        self._recent_queries.append(time.monotonic())
        return ReturnCode.SENT

    def _answer_query(self, request: Message) -> None:
        self._pending_queries -= 1
        refused = self.desk.faults.rejects_instrument_query(self.generation)
        if refused and request.get("what") == "instruments":
            self.reply(request, **self._refuse(request, CtpError.QUERY_NOT_READY))
            return
        self.note("query", what=request.get("what"))
        self.reply(request, instruments=INSTRUMENTS)

    def _resume(self, request: Message) -> Message:
        if not self.confirmed:
            return self._refuse(request, CtpError.SETTLEMENT_NOT_CONFIRMED)
        self._replaying = asyncio.create_task(self._replay())
        return {}

    async def _replay(self) -> None:
        """Send the day so far, then what happened meanwhile, then the marker."""
        began, sent = time.monotonic(), 0
        await asyncio.sleep(self.desk.faults.replay_delay_ms / 1000)
        self._backlog = self.desk.book.replay(extra=self.desk.faults.replay_size)
        while sent < len(self._backlog):
            for message in self._backlog[sent : sent + _REPLAY_CHUNK]:
                self.send(message)
                sent += 1
            await self._writer.drain()
        self.drained, self._backlog = True, None
        took = round((time.monotonic() - began) * 1000, 3)
        self.note("stream_drained", replayed=sent, took_ms=took)
        self.send({"push": Push.STREAM_DRAINED, "replayed": sent})

    def _subscribe(self, request: Message) -> Message:
        self.subscribed = tuple(request.get("instruments", ()))
        return {}

    def _insert(self, request: Message) -> Message | None:
        ref = {"order_ref": request["order_ref"]}
        if error := self._order_problem(request):
            return {**self._refuse(request, error, **ref), **ref}
        if _too_many(self._recent_orders, self.desk.settings.orders_per_second):
            return {**self._keep_back(Op.INSERT, ReturnCode.TOO_MANY_PER_SECOND), **ref}
        self._recent_orders.append(time.monotonic())
        order = Order.of(request, session_id=self.session_id)
        self.last_order_ref = order.order_ref
        self.note("order", order_ref=order.order_ref, before_drain=not self.drained)
        wait = self.desk.faults.order_latency_seconds(self.generation)
        self._later(wait, lambda: self._place(order))
        return None

    def _order_problem(self, request: Message) -> CtpError:
        if not self.confirmed:
            return CtpError.SETTLEMENT_NOT_CONFIRMED
        if request["instrument"] not in INSTRUMENTS:
            return CtpError.INSTRUMENT_NOT_FOUND
        if int(request["order_ref"]) <= self.last_order_ref:
            return CtpError.DUPLICATE_ORDER_REF
        if self.desk.faults.rejects_next_order(self.generation):
            return CtpError.INSUFFICIENT_MONEY
        return CtpError.NONE

    def _place(self, order: Order) -> None:
        for message in self.desk.book.accept(order):
            self.desk.broadcast(message)

    def _cancel(self, request: Message) -> Message | None:
        session_id = int(request.get("session_id", self.session_id))
        returned = self.desk.book.cancel(session_id, int(request["order_ref"]))
        if returned is None:
            return self._refuse(request, CtpError.ORDER_NOT_FOUND, order_ref=request["order_ref"])
        self.note("cancel", order_ref=request["order_ref"], of_session=session_id)
        self.desk.broadcast(returned)
        return {}

    def _heartbeat(self, request: Message) -> Message | None:
        self.send({"push": Push.HEARTBEAT})
        return None

    def _logout(self, request: Message) -> Message:
        if self.logged_in:
            self.logged_in, self.logged_out = False, True
            self.note("logout")
        return {}

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Act in the order of the requests; at once when there is nothing to wait for."""
        if seconds <= 0:
            act()
        else:
            asyncio.get_running_loop().call_later(seconds, act)


def _too_many(recent: deque[float], per_second: float) -> bool:
    """Whether one more within this second would exceed the limit."""
    while recent and recent[0] <= time.monotonic() - 1:
        recent.popleft()
    return len(recent) >= per_second
