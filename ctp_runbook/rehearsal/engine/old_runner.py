"""The old strategy runner: sends its orders to the old engine through the Redis bridge.

Run as ``python -m ctp_runbook.rehearsal.engine.old_runner --config FILE``. It refuses to start
while the Redis path is closed, and stops sending when it is closed under it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctp_runbook.rehearsal.engine.bridge import ACKNOWLEDGEMENTS, COMPAT, INTENTS, bridge_client
from ctp_runbook.rehearsal.engine.runner import ORDERS_PER_SECOND, RunnerSettings, order_of
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.process import say

__all__ = ["main"]

_REFUSED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Trade until TERM; 3 when the Redis path is closed at the start."""
    parser = argparse.ArgumentParser(prog="old_runner")
    parser.add_argument("--config", type=Path, required=True)
    settings = load_settings(RunnerSettings, parser.parse_args(argv).config)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if settings.ignore_term else stopped.set())
    with bridge_client(Path(settings.valkey_dir), name="old_strategy_runner") as client:
        if (compat := client.get(COMPAT)) != "1":
            say(f"refused to trade: {COMPAT} is {compat!r}, expected '1'; restore it")
            return _REFUSED
        _trade(client, stopped)
    say("stopped by TERM")
    return 0


def _trade(client: Any, stopped: threading.Event) -> None:
    say("trading through the Redis bridge")
    was_open = True
    for number in itertools.count():
        if stopped.wait(1 / ORDERS_PER_SECOND):
            return
        is_open = client.get(COMPAT) == "1"
        if is_open != was_open:
            say("the Redis path is open again" if is_open else "the Redis path was closed")
            was_open = is_open
        if is_open:
            intent = {"id": number, "at": time.time(), "order": order_of(number)}
            client.rpush(INTENTS, json.dumps(intent))
            client.lpop(ACKNOWLEDGEMENTS, 100)


if __name__ == "__main__":
    raise SystemExit(main())
