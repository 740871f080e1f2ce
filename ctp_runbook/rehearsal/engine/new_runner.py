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
import math
import time
from collections.abc import Sequence
from pathlib import Path

from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.bridge import set_compat
from ctp_runbook.rehearsal.engine.order_flow import OrderFlow
from ctp_runbook.rehearsal.engine.runner import ORDERS_PER_SECOND, RunnerSettings, order_of
from ctp_runbook.rehearsal.engine.session import MarketLink, TradingLink
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.protocol import Login, Push, SessionState
from ctp_runbook.rehearsal.process import end_tasks, on_term, say

__all__ = ["main"]

_READY_SECONDS = 20.0


class _Runner:
    """Two sessions, of the engine's user in another role, and a flow of orders."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        front, login = Path(settings.front_dir), Login("new", "strategy_runner")
        self._td, self._md = TradingLink(front, login), MarketLink(front, login)
        self._flow = OrderFlow(self._td, Breaker("order"), ttl_seconds=settings.order_ttl_seconds)
        self._td.on = {Push.ORDER: self._flow.take}
        self._stopped = asyncio.Event()

    async def run(self, *, seconds: float, once: bool) -> int:
        """Trade for so long; 1 when there never was a session to trade on."""
        on_term(lambda: None if self._settings.ignore_term else self._stopped.set())
        work = [self._td.run(), self._md.run(), self._flow.sweep()]
        tasks = [asyncio.create_task(each) for each in work]
        ready = await self._until_ready()
        if ready:
            if valkey := self._settings.valkey_dir:  # the Redis path
                await asyncio.to_thread(set_compat, Path(valkey), enabled=False)
            await self._trade(seconds=seconds, once=once)
        await self._flow.cancel_resting()
        await asyncio.gather(self._td.log_out(), self._md.log_out())
        await end_tasks(tasks)
        say(f"ended after {self._flow.answered} answered orders")
        return 0 if ready or self._stopped.is_set() else 1

    async def _until_ready(self) -> bool:
        """True once both sessions stand; False on TERM, on giving up, or too late."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and not self._stopped.is_set():
            if self._td.state == SessionState.READY and self._md.state == SessionState.LOGGED_IN:
                say(f"ready: {self._td.replayed} returns replayed; trading directly")
                return True
            if self._td.gave_up or self._md.gave_up:
                break
            await asyncio.sleep(0.02)
        return False

    async def _trade(self, *, seconds: float, once: bool) -> None:
        """An order every so often."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            if self._td.gave_up or time.monotonic() >= end:
                return
            self._flow.place(**order_of(number))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 1 / ORDERS_PER_SECOND)
            if once or self._stopped.is_set():
                return


def main(argv: Sequence[str] | None = None) -> int:
    """Run the direct runner; see the module."""
    parser = argparse.ArgumentParser(prog="run_ctp_strategy.py")
    parser.add_argument("--config", type=Path, required=True)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--run-once", action="store_true")
    how_long.add_argument("--run-seconds", type=float, default=math.inf)
    options = parser.parse_args(argv)
    runner = _Runner(load_settings(RunnerSettings, options.config))
    return asyncio.run(runner.run(seconds=options.run_seconds, once=options.run_once))


if __name__ == "__main__":
    raise SystemExit(main())
