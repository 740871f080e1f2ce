"""The Python runner beside an old engine as found: it leaves batches of intents in Redis.

Run as ``python -m ctp_runbook.rehearsal.engine.as_found_runner CONFIG``. The last batch stays there
when it ends: nothing has a time to live.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctp_runbook.rehearsal.engine.as_found_redis import STRATEGY, batch_key
from ctp_runbook.rehearsal.engine.bridge import bridge_client
from ctp_runbook.rehearsal.engine.runner import ORDERS_PER_SECOND, RunnerSettings, order_of
from ctp_runbook.rehearsal.engine.settings_file import load_settings

__all__ = ["main"]

_LAST_ORDER_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Leave a batch of one order a few times a second until TERM."""
    parser = argparse.ArgumentParser(prog="run_strategy.py")
    parser.add_argument("config", type=Path)
    settings = load_settings(RunnerSettings, parser.parse_args(argv).config)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with bridge_client(Path(settings.valkey_dir), name="") as client:
        number = _last(client)
        while not stopped.wait(1 / ORDERS_PER_SECOND):
            number += 1
            batch = {"batch": number, "at": time.time(), "orders": [order_of(number)]}
            client.set(batch_key(STRATEGY), json.dumps(batch))
    # It leaves when what it asked for last has been filled or cancelled.
    time.sleep(_LAST_ORDER_SECONDS)
    return 0


def _last(client: Any) -> int:
    """The number of the batch that lies there: a runner goes on counting where one before it ended."""
    text = client.get(batch_key(STRATEGY))
    return int(json.loads(text)["batch"]) if text else 0


if __name__ == "__main__":
    raise SystemExit(main())
