"""A trading engine of the twin, old or new: sessions, orders, breakers, metrics, state.

Run as ``python -m ctp_runbook.rehearsal.engine.core_engine --config FILE [--generation old|new]``.
TERM logs out and exits 0 within a second. ``EngineSettings`` names what it can be made to do wrong.

HTTP on its metrics port: ``GET /metrics``, ``/state`` (TRADING_STATE_CMD's object), ``/warmup``
(a real instrument query), ``POST /cancel_working_orders``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.engine.account import Account
from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.bridge import serve_bridge
from ctp_runbook.rehearsal.engine.metrics import EngineMetrics
from ctp_runbook.rehearsal.engine.order_flow import OrderFlow
from ctp_runbook.rehearsal.engine.records import Records
from ctp_runbook.rehearsal.engine.session import FrontRefused, MarketLink, TradingLink
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.book import INSTRUMENTS
from ctp_runbook.rehearsal.front.protocol import (
    PASSWORD,
    Login,
    Message,
    ProtocolError,
    Push,
    SessionState,
)
from ctp_runbook.rehearsal.plane.web import Reply, Request, serve
from ctp_runbook.rehearsal.process import end_tasks, on_term, say, utc_text

__all__ = ["Engine", "EngineSettings", "main"]

_QUERY_EVERY_SECONDS = 2.0
# Far above the widest bucket that the client library brings, 10 s; nobody waits for it.
_LONG_RECONNECT_SECONDS = 300.0
_LONG_RECONNECTS, _LONG_RECONNECT_EVERY_SECONDS = 5, 5.0


@dataclass(frozen=True)
class EngineSettings:
    """An engine's configuration, and below it what it can be made to do wrong.

    With ``valkey_dir`` orders come through the Redis bridge; with ``plane_dir`` what it sees and
    does is written there. ``quotes_per_second``: its own hedging quotes, which never fill
    (immediate or cancel) and so leave positions alone. ``behaviour_file`` is read at the start,
    after the configuration, and wins.
    """

    generation: str
    front_dir: str
    metrics_port: int
    valkey_dir: str = ""
    plane_dir: str = ""
    behaviour_file: str = ""
    quotes_per_second: float = 0.0
    login_attempts: int = 8
    password: str = PASSWORD

    ignore_term: bool = False
    hang_at_login: bool = False
    die_after_seconds: float = 0.0
    die_after_login_seconds: float | None = None
    flood_after_login_seconds: float | None = None
    flood_seconds: float = 5.0
    open_bucket_after_login_seconds: float | None = None
    leave_working_orders: int = 0
    first_order_ref: int = 0


class Engine:
    """One engine: two links, one account, its breakers, its metrics."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        usual_buckets = settings.open_bucket_after_login_seconds is not None
        self.metrics = EngineMetrics(usual_reconnect_buckets=usual_buckets)
        self.account = Account()
        self._order, self._query, self._login = map(Breaker, ("order", "query", "login"))
        for breaker in (self._order, self._query, self._login):
            self.metrics.watch_breaker(breaker)
        self._records = Records(settings.plane_dir, self.trading_state)
        self._kept_back = self.metrics.risk_rejects.labels("breaker_open")  # on the page from now
        if self._records:
            self.metrics.watch_records(self._records)
        login = Login(settings.generation, "core_engine", password=settings.password)
        link = (Path(settings.front_dir), login, settings.login_attempts)
        self._td = TradingLink(
            *link,
            on={Push.ORDER: self._take_order, Push.TRADE: self._take_trade},
            on_state=self._note_state,
            on_reconnected=self._note_reconnect,
            on_login=self._note_login,
            on_replay=self.account.clear,
            on_query=self.metrics.query_latency.observe,
        )
        self._md = MarketLink(*link, on={Push.TICK: self._records.tick}, on_state=self._note_state)
        self._flow = OrderFlow(
            self._td,
            self._order,
            on_answer=self.metrics.order_latency.observe,
            on_kept_back=self._note_kept_back,
        )
        self._stopped, self._ready = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- what the links report --------------------------------------------------------------

    def _note_state(self, channel: str, state: SessionState) -> None:
        self.metrics.session(channel, state)
        if channel == "td" and state == SessionState.READY:
            replay = f"{self._td.replayed} returns replayed in {self._td.drain_seconds:.3f} s"
            say(f"td: ready; {replay}; next OrderRef {self._td.next_order_ref}")
            self._ready.set()

    def _note_reconnect(self, seconds: float) -> None:
        self.metrics.reconnects.inc()
        self.metrics.reconnect_seconds.observe(seconds)

    def _note_login(self, succeeded: bool) -> None:
        if succeeded:
            self._login.close()
            if self.settings.first_order_ref:
                self._td.next_order_ref = self.settings.first_order_ref
        else:
            self._login.failed()

    def _take_order(self, message: Message) -> None:
        if message["status"] != "rejected":
            self.account.take_order(message)
        self._records.order(message)
        self._flow.take(message)

    def _take_trade(self, message: Message) -> None:
        self.account.take_trade(message)
        self._records.trade(message)

    def _note_kept_back(self) -> None:
        self._kept_back.inc()
        self._records.risk("breaker_open", "an order was kept back", level=2)

    # -- work -------------------------------------------------------------------------------

    async def _quote(self) -> None:
        """Its own quotes: immediate or cancel, so the front answers and nothing is left."""
        await self._ready.wait()
        while True:
            await asyncio.sleep(1 / self.settings.quotes_per_second)
            if self._td.state == SessionState.READY:
                self._flow.place(
                    instrument="rb2601", direction="buy", offset="open", price=1.0, immediate=True
                )

    async def _ask_regularly(self) -> None:
        """A paced query now and then: measures query latency, and closes a half-open breaker."""
        await self._ready.wait()
        while True:
            await asyncio.sleep(_QUERY_EVERY_SECONDS)
            if self._td.state == SessionState.READY and self._query.allows():
                await self._ask("positions")

    async def _ask(self, what: str, *, paced: bool = True) -> str:
        """Ask the front; what went wrong, in words, or nothing."""
        try:
            await (self._td.query(what) if paced else self._td.query_at_once(what))
        except (FrontRefused, ProtocolError, TimeoutError) as error:
            if isinstance(error, FrontRefused) and error.return_code:
                self.metrics.rate_violations.inc()
            self._query.failed()
            return str(error) or repr(error)
        self._query.succeeded()
        return ""

    async def _flood(self) -> None:
        """Query without pacing, as a broken engine would; the front refuses nearly all."""
        say(f"flooding the front with queries for {self.settings.flood_seconds} s")
        end = time.monotonic() + self.settings.flood_seconds
        while time.monotonic() < end:
            await self._ask("instruments", paced=False)
            await asyncio.sleep(0.05)

    async def _misbehave(self) -> None:
        """What was asked for after the login: resting orders, a flood, a long reconnect, death."""
        await self._ready.wait()
        for number in range(self.settings.leave_working_orders):
            self._td.insert(
                instrument="IF2512", direction="buy", offset="open", volume=1, price=1.0 + number
            )
        if self.settings.flood_after_login_seconds is not None:
            await asyncio.sleep(self.settings.flood_after_login_seconds)
            await self._flood()
        if self.settings.open_bucket_after_login_seconds is not None:
            await asyncio.sleep(self.settings.open_bucket_after_login_seconds)
            # A watch counts from its first look on, and may begin after the first of them.
            for _ in range(_LONG_RECONNECTS):
                self._note_reconnect(_LONG_RECONNECT_SECONDS)
                await asyncio.sleep(_LONG_RECONNECT_EVERY_SECONDS)
        if self.settings.die_after_login_seconds is not None:
            await asyncio.sleep(self.settings.die_after_login_seconds)
            _die()

    async def _die_later(self) -> None:
        await asyncio.sleep(self.settings.die_after_seconds)
        _die()

    # -- the HTTP door ----------------------------------------------------------------------

    async def _page(self) -> Reply:
        return Reply(200, self.metrics.page(), "text/plain; version=0.0.4; charset=utf-8")

    async def _state(self) -> Reply:
        return Reply.of(self.trading_state())

    async def _warm_up(self) -> Reply:
        if problem := await self._ask("instruments"):
            return Reply.of({"ok": False, "error": problem}, status=503)
        return Reply.of({"ok": True, "instruments": INSTRUMENTS})

    async def _cancel_working(self) -> Reply:
        problems = []
        for session_id, ref in list(self.account.working):
            try:
                await self._td.cancel(session_id=session_id, order_ref=ref)
            except (FrontRefused, ProtocolError, TimeoutError) as error:
                problems.append(f"order {session_id}/{ref}: {error!r}")
        done = {"ok": not problems, "problems": problems}
        return Reply.of(done, status=503 if problems else 200)

    def trading_state(self) -> dict[str, Any]:
        """DOMAIN.md's trading state, of what this engine knows now."""
        td, md = self._td, self._md
        return {
            "generation": self.settings.generation,
            "td_session": td.state.name.lower(),
            "md_session": md.state.name.lower(),
            "settlement_confirmed": td.state >= SessionState.SETTLEMENT_CONFIRMED,
            "stream_drained": td.state == SessionState.READY,
            "trading_day": td.trading_day,
            "front_id": td.front_id,
            "session_id": td.session_id,
            "max_order_ref": td.max_order_ref,
            "next_order_ref": td.next_order_ref,
            "login_attempts_left": td.attempts_left,
            "gave_up": td.gave_up,
            "replayed": td.replayed,
            "drain_seconds": round(td.drain_seconds, 3),
            "orders_answered": self._flow.answered,
            "working_orders": self.account.working_orders(),
            "positions": self.account.positions(),
            "funds": self.account.funds(td.account),
            "as_of": utc_text(),
        }

    # -- the process ------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_tell_failure)
        self._tasks.append(task)

    async def run(self) -> None:
        """Serve until TERM."""
        on_term(self._stop)
        if self.settings.ignore_term:
            # Not heard at all: one that hears it and does nothing looks like one that is ending.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        door = serve(self.settings.metrics_port, self._door(), name="engine")
        threading.Thread(target=door.serve_forever, daemon=True).start()
        for work in self._work():
            self._begin(work)
        await self._stopped.wait()
        began = time.monotonic()
        ending = end_tasks(self._tasks[2:])  # the two links go on until they are logged out
        await asyncio.gather(ending, self._td.log_out(), self._md.log_out(), self._records.close())
        say(f"logged out and ended in {time.monotonic() - began:.3f} s")

    def _door(self) -> Callable[[Request], Reply]:
        """What answers requests, each on a thread of its own: it asks the engine on its loop."""
        loop = asyncio.get_running_loop()
        routes: dict[str, Callable[[], Coroutine[Any, Any, Reply]]] = {
            "GET /metrics": self._page,
            "GET /state": self._state,
            "GET /warmup": self._warm_up,
            "POST /cancel_working_orders": self._cancel_working,
        }

        def answer(request: Request) -> Reply:
            asked = f"{request.method} {request.path}"
            if asked not in routes:
                return Reply.of({"error": f"no {asked}"}, status=404)
            return asyncio.run_coroutine_threadsafe(routes[asked](), loop).result()

        return answer

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        settings = self.settings
        if settings.hang_at_login:
            say("hanging before the login, as configured")
            return []
        work = [self._td.run(), self._md.run(), self._flow.sweep(), self._ask_regularly()]
        work.append(self._misbehave())
        if self._records:
            work.append(self._records.run())
        if settings.quotes_per_second:
            work.append(self._quote())
        if settings.die_after_seconds:
            work.append(self._die_later())
        if settings.valkey_dir:
            name = f"{settings.generation}_core_engine"
            valkey = Path(settings.valkey_dir)
            bridge = serve_bridge(valkey, name=name, place=lambda order: self._flow.place(**order))
            work.append(bridge)
        return work

    def _stop(self) -> None:
        if not self.settings.ignore_term:
            self._stopped.set()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        say(f"a part of the engine failed: {error!r}")


def _die() -> None:
    """End as a crash does: no logout, no exit handler."""
    say("ending by SIGKILL, as configured")
    os.kill(os.getpid(), signal.SIGKILL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engine; 0 after TERM, 2 for a configuration that does not fit."""
    parser = argparse.ArgumentParser(prog="core_engine")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--generation", choices=("old", "new"))
    options = parser.parse_args(argv)
    try:
        settings = _load(options.config, options.generation)
    except RunbookError as error:
        say(f"refused to start: {error}")
        return error.exit_code
    asyncio.run(Engine(settings).run())
    return 0


def _load(config: Path, generation: str | None) -> EngineSettings:
    settings = load_settings(EngineSettings, config)
    if settings.behaviour_file:
        settings = load_settings(EngineSettings, config, Path(settings.behaviour_file))
    if generation not in (None, settings.generation):
        raise RunbookError(
            f"{config} is of the {settings.generation} generation, started as {generation}; "
            "restore the right release"
        )
    return settings


if __name__ == "__main__":
    raise SystemExit(main())
