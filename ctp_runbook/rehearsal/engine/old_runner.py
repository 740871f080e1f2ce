"""The old strategy runner: sends its orders to the old engine through the Redis bridge.

Run as ``python -m ctp_runbook.rehearsal.engine.old_runner --config FILE``. It refuses to start while
the Redis path is closed, and stops sending when it is closed under it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.rehearsal.engine.bridge import ACKNOWLEDGEMENTS, COMPAT, INTENTS, bridge_client
from ctp_runbook.rehearsal.engine.settings_file import load_settings
from ctp_runbook.rehearsal.front.protocol import utc_text

__all__ = ["RunnerSettings", "main"]

_REFUSED = 3


@dataclass(frozen=True)
class RunnerSettings:
    """``valkey_dir`` holds Valkey's port."""

    valkey_dir: str
    orders_per_second: float = 5.0
    instrument: str = "au2512"
    ignore_term: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Trade until TERM; 3 when the Redis path is closed at the start."""
    parser = argparse.ArgumentParser(prog="old_runner")
    parser.add_argument("--config", type=Path, required=True)
    settings = load_settings(RunnerSettings, parser.parse_args(argv).config)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if settings.ignore_term else stopped.set())
    with bridge_client(Path(settings.valkey_dir), name="old_strategy_runner") as client:
        if (found := client.get(COMPAT)) != "1":
            _say(f"refused to trade: {COMPAT} is {found!r}, expected '1'; restore it")
            return _REFUSED
        _trade(client, settings, stopped)
    _say("stopped by TERM")
    return 0


def _trade(client: Any, settings: RunnerSettings, stopped: threading.Event) -> None:
    _say("trading through the Redis bridge")
    was_open = True
    for number in itertools.count(1):
        if stopped.wait(1 / settings.orders_per_second):
            return
        is_open = client.get(COMPAT) == "1"
        if is_open != was_open:
            _say("the Redis path is open again" if is_open else "the Redis path was closed")
            was_open = is_open
        if is_open:
            client.rpush(INTENTS, json.dumps(_intent(number, settings.instrument)))
            client.lpop(ACKNOWLEDGEMENTS, 100)


def _intent(number: int, instrument: str) -> dict[str, Any]:
    opens = number % 2 == 1
    return {
        "id": number,
        "at": time.time(),
        "instrument": instrument,
        "direction": "buy" if opens else "sell",
        "offset": "open" if opens else "close",
        "price": 550.0,
    }


def _say(sentence: str) -> None:
    print(utc_text(), sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
