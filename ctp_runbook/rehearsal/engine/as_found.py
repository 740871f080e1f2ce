"""The engines as they are found (DOMAIN.md): they prove little, stop late, and say no references.

Run as ``python -m ctp_runbook.rehearsal.engine.as_found old [CONFIG] [--run-seconds N]`` or ``…
as_found new --config FILE [--run-seconds N]``; no engine writes a pid file, and none is told one.

*old*: silent while all is well, free text on stderr when not; no page; what it knows is in Redis
(``as_found_redis``), and the orders of its runner come from there. Exit 0 clean, 1 arguments, 2 no
session, 5 no Redis.

*new*: strategies inside; what it tells, ``as_found_told`` writes. TERM is answered at once and obeyed
after ``stop_seconds``, logged in to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.files import write_atomic
from ctp_runbook.rehearsal.engine.account import Account
from ctp_runbook.rehearsal.engine.as_found_page import Page
from ctp_runbook.rehearsal.engine.as_found_redis import EngineStore
from ctp_runbook.rehearsal.engine.as_found_told import Readiness, WriteAheadLog, log_event
from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.order_flow import OrderFlow
from ctp_runbook.rehearsal.engine.session import MarketLink, TradingLink
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.protocol import Login, Message, Push, SessionState
from ctp_runbook.rehearsal.plane.web import Reply, serve
from ctp_runbook.rehearsal.process import end_tasks, on_term, say

__all__ = ["AsFoundSettings", "main"]

_CLEAN, _ARGUMENTS, _NO_SESSION, _NO_REDIS = 0, 1, 2, 5
_TTL_SECONDS = 0.1
_POLL_SECONDS = 0.05
_BEAT_SECONDS = 1.0
# A batch this old has no runner behind it that would cancel what it asked for.
_ATTENDED_SECONDS = 2.0


@dataclass(frozen=True)
class AsFoundSettings:
    """An engine's configuration, and below it what it can be made to do wrong.

    ``dir`` is where it writes; ``stop_seconds`` is how long TERM takes. ``behaviour_file`` is read at
    the start, after the configuration, and wins. Seconds of the faults count from when the new engine
    may trade.
    """

    generation: str
    front_dir: str
    dir: str
    metrics_port: int = 0
    valkey_dir: str = ""
    behaviour_file: str = ""
    stop_seconds: float = 1.0
    close_only_seconds: float = 30.0
    quotes_per_second: float = 10.0

    deadlock_after_seconds: float | None = None
    segfault_after_seconds: float | None = None
    stays_close_only: bool = False
    forgets_batches: bool = False


class _Engine:
    """What both are: two links, an account that the replay fills, and orders on their way."""

    def __init__(self, settings: AsFoundSettings) -> None:
        self.settings = settings
        self.account = Account()
        self.ended = asyncio.Event()
        self.exit_code = _CLEAN
        login = Login(settings.generation, "core_engine")
        front = Path(settings.front_dir)
        self.td = TradingLink(
            front,
            login,
            on={Push.ORDER: self.take_order, Push.TRADE: self.take_trade},
            on_state=self.note_state,
            on_replay=self.begin_replay,
        )
        self.md = MarketLink(front, login, on={Push.TICK: self.take_tick}, on_state=self.note_state)
        self.flow = OrderFlow(self.td, Breaker("order"), ttl_seconds=_TTL_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []

    def begin_replay(self) -> None:
        """The whole day follows."""
        self.account.clear()

    def take_order(self, message: Message) -> None:
        """An order return, this session's or another's."""
        if message["status"] != "rejected":
            self.account.take_order(message)
        self.flow.take(message)

    def take_trade(self, message: Message) -> None:
        """A trade return."""
        self.account.take_trade(message)

    def take_tick(self, message: Message) -> None:
        """A tick."""

    def note_state(self, channel: str, state: SessionState) -> None:
        """A channel got so far."""

    @property
    def is_ready(self) -> bool:
        """Both channels stand and the replay is drained."""
        return self.td.state == SessionState.READY and self.md.state == SessionState.LOGGED_IN

    async def until_ready(self) -> bool:
        """False where a link gave up before."""
        while not self.is_ready:
            if self.td.gave_up or self.md.gave_up:
                self.end(_NO_SESSION)
                return False
            await asyncio.sleep(0.02)
        return True

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What it does besides holding its sessions."""
        return []

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done until the end; what fails there is said, and ends nothing."""
        task = asyncio.create_task(work)
        task.add_done_callback(_tell_failure)
        self._tasks.append(task)

    def end(self, exit_code: int = _CLEAN) -> None:
        """End with that code."""
        self.exit_code = exit_code
        self.ended.set()

    async def run(self, *, run_seconds: float) -> int:
        """Serve until TERM or so long; the exit code."""
        for work in (self.td.run(), self.md.run(), self.flow.sweep(), *self.work()):
            self.begin(work)
        with contextlib.suppress(TimeoutError):  # its time is up, which is as good as TERM
            await asyncio.wait_for(self.ended.wait(), run_seconds or None)
        await end_tasks(self._tasks[2:])  # the links go on until they are logged out
        await self.close()
        await asyncio.gather(self.td.log_out(), self.md.log_out())
        return self.exit_code

    async def close(self) -> None:
        """What is to be done between the last order and the logout."""


class _OldEngine(_Engine):
    """Silent; orders come from Redis, where its runner leaves a batch at a time."""

    def __init__(self, settings: AsFoundSettings) -> None:
        super().__init__(settings)
        self._store = EngineStore(Path(settings.valkey_dir))
        self._numbers: dict[tuple[int, int], int] = {}
        # Its event log: which batch it placed last. Without it, the one that lies there is new to it.
        self._done = Path(settings.dir) / "last_batch"

    def take_order(self, message: Message) -> None:
        super().take_order(message)
        if message["status"] != "rejected":
            key = (int(message["session_id"]), int(message["order_ref"]))
            self._store.order(self._numbers.setdefault(key, len(self._numbers) + 1), message)

    def take_trade(self, message: Message) -> None:
        super().take_trade(message)
        self._note_positions()

    def take_tick(self, message: Message) -> None:
        # The engine subscribes when all else stands, so a tick says that all else stood.
        if self.is_ready:
            self._store.tick(message)

    def _note_positions(self) -> None:
        self._store.positions(self.account.positions(), trading_day=self.td.trading_day)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        return [self._trade()]

    async def _trade(self) -> None:
        try:
            await self._store.open()
        except OSError as error:
            say(f"redis client unhealthy: {error}")
            self.end(_NO_REDIS)
            return
        if not await self.until_ready():
            say("CTP settlement confirm failed")
            return
        on_term(self.end)  # until here TERM kills
        self._note_positions()
        self.begin(self._store.run())
        if self.settings.forgets_batches:
            self._done.unlink(missing_ok=True)
        done = self._done.read_text() if self._done.exists() else ""
        while True:
            batch = await self._store.last_batch()
            is_attended = time.time() - batch.get("at", 0.0) < _ATTENDED_SECONDS
            # Who cancels is the strategy: a batch that nobody attends to rests.
            self.flow.ttl_seconds = _TTL_SECONDS if is_attended else 0.0
            if batch and str(batch["batch"]) != done:
                done = str(batch["batch"])
                # Read by others at any moment, and never half written.
                write_atomic(self._done, done.encode(), durable=False)
                for order in batch["orders"]:
                    self.flow.place(**order)
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        await asyncio.sleep(self.settings.stop_seconds)
        await self._store.close()


class _NewEngine(_Engine):
    """Its strategies inside; it tells in a file, in a log and on a page."""

    def __init__(self, settings: AsFoundSettings) -> None:
        super().__init__(settings)
        folder = Path(settings.dir)
        self._readiness = Readiness(folder / "readiness.json")
        self._wal = WriteAheadLog(folder / "wal.jsonl")
        self._page = Page()
        self._is_deadlocked = False

    def begin_replay(self) -> None:
        super().begin_replay()
        self._wal.begin(self.td.trading_day)

    def take_order(self, message: Message) -> None:
        super().take_order(message)
        if message["status"] == "rejected":
            self._page.count("risk_reject")
            log_event("order_rejected", level="warn", reason=message.get("error_msg", ""))
        else:
            self._wal.order(message)

    def take_trade(self, message: Message) -> None:
        super().take_trade(message)
        self._wal.trade(message)

    def note_state(self, channel: str, state: SessionState) -> None:
        if channel == "md":
            return
        file = self._readiness
        self._page.connected.set(state >= SessionState.LOGGED_IN)
        if state == SessionState.DISCONNECTED and file.settlement_confirmed:
            log_event("ctp_front_disconnected", level="warn", channel=channel)
            file.change_mode("Blocked", "trader_disconnected")
        if state == SessionState.SETTLEMENT_CONFIRMED:
            log_event("ctp_settlement_confirmed", trading_day=self.td.trading_day)
        file.trader_ready = state >= SessionState.LOGGED_IN
        file.settlement_confirmed = state >= SessionState.SETTLEMENT_CONFIRMED
        file.recovery_complete = state == SessionState.READY

    def work(self) -> list[Coroutine[Any, Any, None]]:
        on_term(self._stop)
        self._serve()
        # So it begins each time, and so it ends.
        log_event("ctp_trader_connection_lost", level="warn", reason="not connected yet")
        return [self._beat(), self._trade()]

    def _serve(self) -> None:
        """The page, of which nobody is told that it could not be served."""
        try:
            page = "text/plain; version=0.0.4; charset=utf-8"
            port = self.settings.metrics_port
            door = serve(port, lambda _: Reply(200, self._page.text(), page), name="engine")
        except OSError as error:
            log_event("metrics_exporter_failed", level="warn", error=error)
            return
        threading.Thread(target=door.serve_forever, daemon=True).start()

    async def _beat(self) -> None:
        while True:
            self._readiness.write()
            self._wal.beat()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _trade(self) -> None:
        while await self.until_ready():
            await self._recover()
            while self.is_ready:
                await asyncio.sleep(1 / self.settings.quotes_per_second)
                if not self._is_deadlocked:
                    self._quote()

    async def _recover(self) -> None:
        """What follows a drained replay: only closing, for a while; then everything."""
        replayed, seconds = self.td.replayed, self.td.drain_seconds
        log_event(
            "ctp_recovery_report",
            order_query_complete="true",
            trade_query_complete="true",
            callbacks_drained="true",
            unresolved_mappings=0,
            duplicate_trades_suppressed=0,
            position_differences=0,
            replayed=replayed,
            elapsed_ms=round(seconds * 1000),
        )
        settings = self.settings
        reasons = ("strategy_state_unproven",) if settings.stays_close_only else ("recovery",)
        self._readiness.change_mode("CloseOnly", *reasons)
        self._readiness.write()
        if settings.stays_close_only:
            await asyncio.Event().wait()
        await asyncio.sleep(settings.close_only_seconds)
        self._readiness.change_mode("Ready")
        self._readiness.write()
        self.begin(self._break_down())

    async def _break_down(self) -> None:
        """What was asked for: to die at once, or to stand still and look well."""
        if (seconds := self.settings.segfault_after_seconds) is not None:
            await asyncio.sleep(seconds)
            os.kill(os.getpid(), signal.SIGSEGV)
        if (seconds := self.settings.deadlock_after_seconds) is not None:
            await asyncio.sleep(seconds)
            log_event("order_rejected", level="warn", reason="ledger")
            self._page.count("risk_reject")
            self._is_deadlocked = True

    def _quote(self) -> None:
        """Immediate or cancel, so the front answers and nothing is left."""
        order = {"instrument": "rb2601", "direction": "buy", "offset": "open", "price": 1.0}
        began = time.monotonic()
        if self.flow.place(**order, immediate=True):
            # How long it took to submit it: what the front answers is not in it.
            self._page.order(time.monotonic() - began)
            log_event("order_submitted", instrument=order["instrument"], price=order["price"])

    def _stop(self) -> None:
        if not self._is_deadlocked:
            self.end()

    async def close(self) -> None:
        # A thread that sleeps is joined, and the session stands meanwhile.
        self._readiness.change_mode("Blocked", "stopping")
        self._readiness.write()
        await asyncio.sleep(self.settings.stop_seconds)
        log_event("ctp_trader_connection_lost", level="warn", reason="logout")


_KINDS: dict[str, type[_Engine]] = {"old": _OldEngine, "new": _NewEngine}


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        say(f"a part of the engine failed: {error!r}")


class _Arguments(argparse.ArgumentParser):
    """As theirs: what does not fit is exit 1."""

    def error(self, message: str) -> Any:
        self.exit(_ARGUMENTS, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine as found; the exit codes are in the module's words."""
    parser = _Arguments(prog="core_engine", allow_abbrev=False)
    parsers = parser.add_subparsers(dest="generation", required=True, parser_class=_Arguments)
    old = parsers.add_parser("old", allow_abbrev=False)
    old.add_argument("config", nargs="?", type=Path, default=Path("configs/sim/ctp.yaml"))
    new = parsers.add_parser("new", allow_abbrev=False)
    new.add_argument("--config", type=Path, required=True)
    new.add_argument("--force-instrument-refresh", action="store_true")
    for each in (old, new):
        each.add_argument("--run-seconds", type=float, default=0.0)
    options = parser.parse_args(argv)
    try:
        settings = _load(options.config, options.generation)
    except RunbookError as error:
        say(f"config error: {error}")
        return _ARGUMENTS
    # It dies as engines do, and nobody looks into what is left of it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return asyncio.run(_run(settings, run_seconds=options.run_seconds))


async def _run(settings: AsFoundSettings, *, run_seconds: float) -> int:
    try:
        engine = _KINDS[settings.generation](settings)
    except RunbookError as error:
        say(f"redis client unhealthy: {error}")
        return _NO_REDIS
    return await engine.run(run_seconds=run_seconds)


def _load(config: Path, generation: str) -> AsFoundSettings:
    settings = load_settings(AsFoundSettings, config)
    if settings.behaviour_file:
        settings = load_settings(AsFoundSettings, config, Path(settings.behaviour_file))
    if settings.generation != generation:
        raise RunbookError(
            f"{config} is of the {settings.generation} engine, started as {generation}"
        )
    return settings


if __name__ == "__main__":
    raise SystemExit(main())
