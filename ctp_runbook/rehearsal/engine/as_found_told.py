"""What a new engine as found tells of itself: a log, a file of readiness, a write-ahead log.

No order reference stands in any of them. Its page is ``as_found_page``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctp_runbook.rehearsal.engine.account import Account
from ctp_runbook.rehearsal.front.protocol import Message

__all__ = ["Readiness", "WriteAheadLog", "log_event", "read_write_ahead_log"]

_KEPT = ("instrument", "direction", "offset", "volume", "price", "status")
_TRADE = ("instrument", "direction", "offset", "volume", "price", "commission", "close_profit")


def log_event(event: str, *, level: str = "info", **facts: object) -> None:
    """Write one event as one line to stderr: ``ts_ns=… level=… app=… event=… key="value"``."""
    said = "".join(f' {key}="{value}"' for key, value in facts.items())
    line = f"ts_ns={time.time_ns()} level={level} app=core_engine event={event}{said}\n"
    # One write a line: a line that is read while it is written may be torn, two never mix.
    os.write(sys.stderr.fileno(), line.encode())


@dataclass
class Readiness:
    """The file of readiness. Nothing takes it away: a dead engine leaves its last word behind."""

    path: Path
    mode: str = "Blocked"
    trader_ready: bool = False
    settlement_confirmed: bool = False
    recovery_complete: bool = False
    reasons: tuple[str, ...] = ("starting",)

    def change_mode(self, mode: str, *reasons: str) -> None:
        """Change what may be traded, and log that; the same mode again is none."""
        if (mode, reasons) != (self.mode, self.reasons):
            self.mode, self.reasons = mode, reasons
            log_event("trading_permission_changed", mode=mode, reasons=",".join(reasons))

    def write(self) -> None:
        """Replace the file by what is so now."""
        said = {name: value for name, value in vars(self).items() if name != "path"}
        said |= {"heartbeat_ts_ns": time.time_ns(), "unresolved_mapping_count": 0}
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(said))
        beside.replace(self.path)


@dataclass
class WriteAheadLog:
    """Every return in a file, one JSON object a line, under the engine's own numbers of orders."""

    path: Path
    _numbers: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open it to append; nothing is ever taken out of it."""
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def begin(self, trading_day: str) -> None:
        """The whole day follows again: whoever reads starts anew here."""
        self._append("replay", trading_day=trading_day)

    def order(self, message: Message) -> None:
        """An order return."""
        key = (int(message["session_id"]), int(message["order_ref"]))
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        self._append("order", order_id=number, **{name: message[name] for name in _KEPT})

    def trade(self, message: Message) -> None:
        """A trade return."""
        self._append("trade", **{name: message[name] for name in _TRADE})

    def beat(self) -> None:
        """A mark that the engine lives, so that a reader knows of when this is."""
        self._append("mark")

    def _append(self, kind: str, **said: object) -> None:
        line = json.dumps({"ts_ns": time.time_ns(), "kind": kind, **said})
        os.write(self._fd, line.encode() + b"\n")


def read_write_ahead_log(path: Path) -> dict[str, Any]:
    """Fold the log: ``as_of_ns``, ``trading_day``, ``working_orders`` and ``positions``, no more.

    A torn last line is left out. Raises OSError or ValueError where there is nothing to read.
    """
    account, day, last = Account(), "", 0
    orders: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        last = int(entry["ts_ns"])
        if entry["kind"] == "replay":
            account.clear()
            orders.clear()
            day = entry["trading_day"]
        elif entry["kind"] == "order":
            orders[entry["order_id"]] = entry
        elif entry["kind"] == "trade":
            account.take_trade(entry)
    if not day:
        raise ValueError(f"{path} has no day in it: the engine has not recovered yet")
    working = [
        {name: order[name] for name in ("order_id", *_KEPT[:-1])}
        for order in orders.values()
        if order["status"] == "working"
    ]
    return {
        "as_of_ns": last,
        "trading_day": day,
        "working_orders": working,
        "positions": account.positions(),
    }
