"""What the rehearsal's gates and checks look at: real probes of the twin, honest about what.

Run as ``python -m ctp_runbook.rehearsal.gate_probe WHAT --dir D``: prints what was observed,
exit 0 when it is as it should be, 1 when not. The engine a probe means is named by
``--generation``, else by CTP_GENERATION (as for TRADING_STATE_CMD), else it is the one that
answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.rehearsal.as_found import AS_FOUND_PROBES, trades_alone
from ctp_runbook.rehearsal.engine.bridge import COMPAT, bridge_client, set_compat
from ctp_runbook.rehearsal.front.protocol import USER, Login, Op, Push, decode, encode, read_ports
from ctp_runbook.rehearsal.seams import PARTITIONS, TOPIC, read_topics
from ctp_runbook.rehearsal.twin import Twin

__all__ = ["PROBES", "main"]


def _topic(twin: Twin, generation: str) -> str:
    """The stand-in topic has as many partitions as wanted (seam: Kafka is not in this twin)."""
    partitions = read_topics(twin).get(TOPIC)
    seen = f"topic {TOPIC}: {partitions} partitions"
    if partitions != str(PARTITIONS):
        raise ProbeError(f"{seen}, expected {PARTITIONS} (stand-in)")
    return f"{seen} (stand-in in Valkey)"


def _market_data(twin: Twin, generation: str) -> str:
    """An MD login of its own gets a tick within 3 s."""
    port = int(read_ports(twin.front_dir)["md"])
    login = Login("probe", "gate_probe", user=f"{USER}-probe")
    with socket.create_connection(("127.0.0.1", port), timeout=3.0) as line:
        line.sendall(encode({"op": Op.LOGIN, "rid": 1, **login.fields(pid=os.getpid())}))
        line.sendall(encode({"op": Op.SUBSCRIBE, "rid": 2, "instruments": ["rb2601"]}))
        with line.makefile("rb") as stream:
            for text in stream:
                message = decode(text)
                if message.get("error_id"):
                    raise ProbeError(f"market data: refused: {message}")
                if message.get("push") == Push.TICK:
                    line.sendall(encode({"op": Op.LOGOUT, "rid": 3}))
                    return f"market data: tick {message['instrument']} {message['price']}"
    raise ProbeError("market data: the front closed the connection before the first tick")


def _bridge(twin: Twin, generation: str) -> str:
    """The Redis path is open and both its ends are connected."""
    with bridge_client(twin.valkey_dir, name="gate_probe") as client:
        names = {each["name"] for each in client.client_list()}
        is_open = client.get(COMPAT)
    missing = {"old_core_engine", "old_strategy_runner"} - names
    if is_open != "1" or missing:
        raise ProbeError(f"bridge: {COMPAT} is {is_open!r}; not connected: {sorted(missing)}")
    return "bridge: open; old engine and old runner are connected"


def _session(twin: Twin, generation: str) -> str:
    """TD ready (settlement confirmed, private stream drained) and MD logged in."""
    state = _state_of(twin, generation)
    td, md = state["td_session"], state["md_session"]
    seen = f"{state['generation']} engine: td {td}, md {md}"
    if td != "ready" or md != "logged_in":
        raise ProbeError(f"{seen}; expected ready, logged_in")
    return f"{seen}, {state['replayed']} returns replayed in {state['drain_seconds']} s"


def _trading(twin: Twin, generation: str) -> str:
    """Orders are answered while we look, and the front knows of this generation alone."""
    session = _session(twin, generation)

    def count() -> int:
        return int(_state_of(twin, generation)["orders_answered"])

    return f"{session}; {trades_alone(twin, generation, count, what='answered')}"


def _warmup(twin: Twin, generation: str) -> str:
    """A real instrument query through the engine."""
    answer = twin.call(generation or _answering(twin), "GET", "/warmup", seconds=10.0)
    return f"instrument query answered: {', '.join(answer['instruments'])}"


def _state(twin: Twin, generation: str) -> str:
    """TRADING_STATE_CMD's object, printed as it is."""
    return json.dumps(_state_of(twin, generation))


def _cancel_working(twin: Twin, generation: str) -> str:
    """Cancel every working order the engine knows."""
    return str(twin.call(generation or _answering(twin), "POST", "/cancel_working_orders"))


def _restore_bridge(twin: Twin, generation: str) -> str:
    """Open the Redis path again, and read it back. The one word here that changes something."""
    set_compat(twin.valkey_dir, enabled=True)
    return f"{COMPAT} is 1"


PROBES: dict[str, Callable[[Twin, str], str]] = {
    "topic": _topic,
    "market-data": _market_data,
    "bridge": _bridge,
    "session": _session,
    "trading": _trading,
    "warmup": _warmup,
    "state": _state,
    "cancel-working": _cancel_working,
    "restore-bridge": _restore_bridge,
}


def _state_of(twin: Twin, generation: str) -> dict[str, Any]:
    return twin.state(generation or _answering(twin))


def _answering(twin: Twin) -> str:
    """The generation whose engine answers; raises ProbeError for none or both."""
    answering = []
    for generation in ("old", "new"):
        with contextlib.suppress(ProbeError):
            twin.state(generation)
            answering.append(generation)
    if len(answering) != 1:
        raise ProbeError(f"engines that answer: {answering}; expected one; name it by --generation")
    return answering[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one probe, print what it saw; 1 when it is not as it should be."""
    parser = argparse.ArgumentParser(prog="gate_probe")
    parser.add_argument("what", choices=sorted({**PROBES, **AS_FOUND_PROBES}))
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--generation", default=os.environ.get("CTP_GENERATION", ""))
    options = parser.parse_args(argv)
    twin = Twin(options.dir.resolve())
    probes = {**PROBES, **(AS_FOUND_PROBES if twin.is_as_found else {})}
    try:
        print(probes[options.what](twin, options.generation))
    except (RunbookError, OSError) as error:
        print(f"{options.what}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
