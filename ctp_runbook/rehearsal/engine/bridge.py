"""The Redis bridge between the old strategy runner and the old engine: keys and both ends.

The runner pushes order intents on a list, the engine pops them and pushes acknowledgements
back. The bridge carries orders only while ``quant_hft:bridge:compat`` is ``1``: the direct
runner turns it off, the rollback's restore step turns it on again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.rehearsal.process import say

__all__ = [
    "ACKNOWLEDGEMENTS",
    "COMPAT",
    "INTENTS",
    "STALE_SECONDS",
    "bridge_client",
    "serve_bridge",
    "set_compat",
    "valkey_port",
]

INTENTS = "quant_hft:bridge:intents"
ACKNOWLEDGEMENTS = "quant_hft:bridge:acks"
COMPAT = "quant_hft:bridge:compat"
STALE_SECONDS = 1.0  # an intent this old was meant for a market that is gone
_RETRY_SECONDS = 0.2


def valkey_port(valkey_dir: Path) -> int:
    """The port Valkey serves on; raises RunbookError while it has not come up."""
    try:
        return int((valkey_dir / "port").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise RunbookError(f"no Valkey port in {valkey_dir}: {error}; is it up?") from error


def _address(valkey_dir: Path, name: str) -> dict[str, Any]:
    port = valkey_port(valkey_dir)
    return {"host": "127.0.0.1", "port": port, "client_name": name, "decode_responses": True}


@contextlib.contextmanager
def bridge_client(valkey_dir: Path, *, name: str) -> Iterator[Any]:
    """A client that CLIENT LIST shows as ``name``; raises ProbeError when Valkey fails it.

    Imports valkey (0.2 s), hence late.
    """
    valkey = importlib.import_module("valkey")
    seconds = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    client = valkey.Valkey(**_address(valkey_dir, name), **seconds)
    try:
        yield client
    except valkey.ValkeyError as error:
        raise ProbeError(f"Valkey on port {valkey_port(valkey_dir)}: {error}") from error
    finally:
        client.close()


def set_compat(valkey_dir: Path, *, enabled: bool) -> None:
    """Open or close the Redis path; raises ProbeError unless Valkey then says so."""
    wanted = "1" if enabled else "0"
    with bridge_client(valkey_dir, name="bridge_switch") as client:
        client.set(COMPAT, wanted)
        compat = client.get(COMPAT)
    if compat != wanted:
        raise ProbeError(f"{COMPAT} is {compat!r} after it was set to {wanted!r}")


async def serve_bridge(
    valkey_dir: Path, *, name: str, place: Callable[[dict[str, Any]], bool]
) -> None:
    """The engine's end: pop intents, place their orders, acknowledge; until cancelled.

    One connection is held throughout; intents older than ``STALE_SECONDS`` are refused, so
    that an engine that comes back does not trade on what piled up meanwhile.
    """
    module = await asyncio.to_thread(importlib.import_module, "valkey.asyncio")
    client = module.Valkey(**_address(valkey_dir, name), single_connection_client=True)
    try:
        while True:
            try:
                await _carry_one(client, place)
            except (module.ConnectionError, module.TimeoutError, OSError) as error:
                say(f"bridge: {error}; trying again")
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await client.aclose()


async def _carry_one(client: Any, place: Callable[[dict[str, Any]], bool]) -> None:
    popped = await client.blpop([INTENTS], timeout=1)
    if popped is None:
        return
    intent = json.loads(popped[1])
    fresh = time.time() - float(intent["at"]) <= STALE_SECONDS
    done = "placed" if fresh and place(intent["order"]) else "refused"
    await client.rpush(ACKNOWLEDGEMENTS, json.dumps({"id": intent["id"], "done": done}))
    await client.ltrim(ACKNOWLEDGEMENTS, -100, -1)
