"""What an old engine as found keeps in Redis: ticks, orders, positions, and the last batch of intents.

Nothing here has a time to live, no connection has a name, and no order a reference: what there is to
be known of such an engine is in these keys and nowhere else.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.rehearsal.engine.bridge import bridge_client, valkey_port
from ctp_runbook.rehearsal.front.protocol import USER, Message

__all__ = [
    "STRATEGY",
    "EngineStore",
    "batch_key",
    "last_tick_seconds",
    "read_orders",
    "read_positions",
    "read_trading_day",
]

STRATEGY = "demo"
_FLUSH_SECONDS = 0.1
_TICK = "market:tick:{}:latest"
_ORDER = "trade:order:{}:info"
_POSITION = "trade:position:{}:{}:{}"
_ACCOUNT = f"trade:account:{USER}:info"
_SAID = ("instrument", "direction", "offset", "volume", "price", "status")


def batch_key(strategy: str) -> str:
    """Where a strategy's runner leaves its batch: no time to live, so it stays for whoever reads it."""
    return f"strategy:intent:{strategy}:latest"


class EngineStore:
    """The engine's end: what it is told it keeps, and writes down a few times a second."""

    def __init__(self, valkey_dir: Path) -> None:
        self._address = {"host": "127.0.0.1", "port": valkey_port(valkey_dir)}
        self._fresh: dict[str, dict[str, Any]] = {}
        self._held: set[str] = set()
        self._client: Any = None

    async def open(self) -> None:
        """Connect; raises OSError where Redis does not answer."""
        module = await asyncio.to_thread(importlib.import_module, "valkey.asyncio")
        client = module.Valkey(
            **self._address, decode_responses=True, single_connection_client=True
        )
        try:
            await client.ping()
        except module.ValkeyError as error:
            raise OSError(str(error)) from error
        self._client = client

    async def close(self) -> None:
        """Write what is left, and disconnect."""
        if self._client is not None:
            await self._flush()
            await self._client.aclose()

    def tick(self, message: Message) -> None:
        """Keep the last price of an instrument."""
        key = _TICK.format(message["instrument"])
        self._fresh[key] = {"price": message["price"], "ts_ns": time.time_ns()}

    def order(self, number: int, message: Message) -> None:
        """Keep how an order stands, under the engine's own number of it."""
        self._fresh[_ORDER.format(number)] = {name: message[name] for name in _SAID}

    def positions(self, held: list[dict[str, Any]], *, trading_day: str) -> None:
        """Keep what is held; what is held no more stays, with no lots."""
        rows = {
            _POSITION.format(USER, each["instrument"], each["direction"].upper()): each["volume"]
            for each in held
        }
        self._held |= rows.keys()
        for key in self._held:
            self._fresh[key] = {"volume": rows.get(key, 0)}
        self._fresh[_ACCOUNT] = {"trading_day": trading_day}

    async def last_batch(self) -> dict[str, Any]:
        """The batch that lies there, of whatever age; empty where none was ever left."""
        text = await self._client.get(batch_key(STRATEGY))
        return dict(json.loads(text)) if text else {}

    async def run(self) -> None:
        """Write down what is new, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        fresh, self._fresh = self._fresh, {}
        if fresh:
            pipeline = self._client.pipeline(transaction=False)
            for key, said in fresh.items():
                pipeline.hset(key, mapping=said)
            await pipeline.execute()


def read_orders(valkey_dir: Path) -> list[dict[str, Any]]:
    """Every order the engine kept, whatever became of it; raises ProbeError without an answer."""
    return [
        {"order_id": key.split(":")[2], **said}
        for key, said in _read(valkey_dir, _ORDER.format("*"))
    ]


def read_positions(valkey_dir: Path) -> list[dict[str, Any]]:
    """What is held by instrument and direction; raises ProbeError without an answer."""
    rows = _read(valkey_dir, _POSITION.format(USER, "*", "*"))
    return [
        {
            "instrument": key.split(":")[3],
            "direction": key.split(":")[4].lower(),
            "hedge_flag": "speculation",
            "volume": int(said["volume"]),
        }
        for key, said in rows
        if int(said["volume"])
    ]


def read_trading_day(valkey_dir: Path) -> str:
    """The day that positions and orders are of; raises ProbeError where none was written."""
    for _, said in _read(valkey_dir, _ACCOUNT):
        return said["trading_day"]
    raise ProbeError(f"Redis has no {_ACCOUNT}: no engine has written down what is held yet")


def last_tick_seconds(valkey_dir: Path) -> float:
    """When the newest tick was written, in seconds since the epoch; ProbeError where none was."""
    ticks = [int(said["ts_ns"]) for _, said in _read(valkey_dir, _TICK.format("*"))]
    if not ticks:
        raise ProbeError(f"Redis has no {_TICK.format('*')}: the engine has seen no market yet")
    return max(ticks) / 1e9


def _read(valkey_dir: Path, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
    with bridge_client(valkey_dir, name="") as client:
        for key in sorted(client.scan_iter(pattern, count=500)):
            yield key, client.hgetall(key)
