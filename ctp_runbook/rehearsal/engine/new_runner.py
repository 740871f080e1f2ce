"""The new strategy runner: a session of its own, orders straight to CTP.

Run as ``python -m ctp_runbook.rehearsal.engine.new_runner --config FILE`` with ``--run-once``,
``--run-seconds N`` or neither (until TERM), as ``run_ctp_strategy.py`` is. TERM cancels what
rests, logs out and exits 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.bridge import set_compat
from ctp_runbook.rehearsal.engine.order_flow import OrderFlow
from ctp_runbook.rehearsal.engine.session import LinkSettings, MarketLink, TradingLink
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.book import INSTRUMENTS
from ctp_runbook.rehearsal.front.protocol import Login, Message, SessionState, utc_text

__all__ = ["RunnerSettings", "main"]

_READY_SECONDS = 20.0


@dataclass(frozen=True)
class RunnerSettings:
    """``valkey_dir`` given: the Redis path is closed once the direct one stands."""

    front_dir: str
    valkey_dir: str = ""
    generation: str = "new"
    orders_per_second: float = 5.0
    order_ttl_seconds: float = 0.1
    instrument: str = "au2512"
    ignore_term: bool = False

    @property
    def link(self) -> LinkSettings:
        """How its sessions log in: the same user as the engine, another role."""
        login = Login(generation=self.generation, role="strategy_runner")
        return LinkSettings(Path(self.front_dir), login, instruments=INSTRUMENTS)


class _Runner:
    """Two sessions and a flow of orders."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._td = TradingLink(settings.link, _say)
        self._md = MarketLink(settings.link, _say)
        self._flow = OrderFlow(self._td, Breaker("order"), ttl_seconds=settings.order_ttl_seconds)
        self._td.on_order = self._take_order
        self._stopped = asyncio.Event()

    def _take_order(self, message: Message) -> None:
        self._flow.take(message)

    async def run(self, *, seconds: float | None, once: bool) -> int:
        """Trade for so long (None: until TERM); 1 when there never was a session to trade on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        work = [self._td.run(), self._md.run(), self._flow.sweep()]
        tasks = [loop.create_task(each) for each in work]
        ready = await self._until_ready()
        if ready:
            await self._close_redis_path()
            await self._trade(seconds=seconds, once=once)
        await self._flow.cancel_resting()
        await asyncio.gather(self._td.log_out(), self._md.log_out())
        for task in tasks:
            task.cancel()
        _say(f"ended after {self._flow.answered} answered orders")
        return 0 if ready or self._stopped.is_set() else 1

    def _stop(self) -> None:
        if not self._settings.ignore_term:
            self._stopped.set()

    async def _until_ready(self) -> bool:
        """True once both sessions stand; False on TERM, on giving up, or too late."""
        end = asyncio.get_running_loop().time() + _READY_SECONDS
        while asyncio.get_running_loop().time() < end and not self._stopped.is_set():
            if self._td.state == SessionState.READY and self._md.state == SessionState.LOGGED_IN:
                _say(f"ready: {self._td.replayed} returns replayed; trading directly")
                return True
            if self._td.gave_up or self._md.gave_up:
                break
            await asyncio.sleep(0.02)
        return False

    async def _close_redis_path(self) -> None:
        if self._settings.valkey_dir:
            path = Path(self._settings.valkey_dir)
            await asyncio.to_thread(set_compat, path, enabled=False)

    async def _trade(self, *, seconds: float | None, once: bool) -> None:
        """An order every so often: buys that open, sells that close."""
        end = asyncio.get_running_loop().time() + (seconds if seconds is not None else 1e12)
        for number in itertools.count():
            if self._td.gave_up or asyncio.get_running_loop().time() >= end:
                return
            opens = number % 2 == 0
            self._flow.place(
                instrument=self._settings.instrument,
                direction="buy" if opens else "sell",
                offset="open" if opens else "close",
                price=550.0,
                immediate=False,
            )
            with contextlib.suppress(TimeoutError):
                pause = 1 / self._settings.orders_per_second
                await asyncio.wait_for(self._stopped.wait(), pause)
            if once or self._stopped.is_set():
                return


def main(argv: Sequence[str] | None = None) -> int:
    """Run the direct runner; see the module."""
    parser = argparse.ArgumentParser(prog="run_ctp_strategy.py")
    parser.add_argument("--config", type=Path, required=True)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--run-once", action="store_true")
    how_long.add_argument("--run-seconds", type=float)
    options = parser.parse_args(argv)
    settings = replace(load_settings(RunnerSettings, options.config))
    return asyncio.run(_run(settings, options))


async def _run(settings: RunnerSettings, options: argparse.Namespace) -> int:
    return await _Runner(settings).run(seconds=options.run_seconds, once=options.run_once)


def _say(sentence: str) -> None:
    print(utc_text(), sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
