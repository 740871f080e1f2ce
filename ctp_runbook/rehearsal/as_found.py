"""A twin of the engines as they are found: its files, how its members start, what they can be asked.

``Twin.is_as_found`` tells one. Its commands are an operator's own: a shell starts a member and writes
its bare pid down, and nothing here knows more of an engine than what that engine writes.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError, RunbookError
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.engine.as_found_redis import (
    STRATEGY,
    batch_key,
    last_tick_seconds,
    read_orders,
    read_positions,
    read_trading_day,
)
from ctp_runbook.rehearsal.engine.as_found_told import read_write_ahead_log
from ctp_runbook.rehearsal.engine.bridge import bridge_client
from ctp_runbook.rehearsal.front.log import trading_generations
from ctp_runbook.rehearsal.twin import Twin

__all__ = [
    "AS_FOUND_PROBES",
    "Delays",
    "read_session",
    "read_state",
    "start_member",
    "template_values",
    "trades_alone",
    "write_releases",
    "write_supervisor",
]

_FRESH_SECONDS = 3.0
_TRADES_SECONDS = 5.0
_PROGRAMS = {
    "old_core_engine": ("core_engine", "as_found old"),
    "old_strategy_runner": ("run_strategy", "as_found_runner"),
    "new_core_engine": ("core_engine", "as_found new"),
}
_WRAPPER = """#!/bin/sh
exec {python} -m ctp_runbook.rehearsal.engine.{module} "$@"
"""
# What keeps an old engine alive on somebody's host, and was forgotten: it knows the pid file, and
# not that anybody switches. It begins once the new engine may trade.
_SUPERVISOR = """#!/bin/sh
# {dir}/
until grep -qs '"mode": "Ready"' {readiness}; do sleep 0.2; done
sleep {seconds:g}
while :; do
  kill -0 "$(cat {pid_file})" 2>/dev/null || {{ {start} }}
  sleep 1
done
"""


@dataclass(frozen=True)
class Delays:
    """How long the new engine as found only closes after it has recovered, and how long TERM takes."""

    close_only_seconds: float = 30.0
    stop_seconds: float = 40.0


def template_values(delays: Delays) -> dict[str, str]:
    """What the templates say of those delays: how long no order is no failure, and the rollback's
    budget, of which a clean stop of the new engine has about a sixth."""
    return {
        "close_only_seconds": f"{delays.close_only_seconds:g}",
        "close_only_patience_seconds": f"{delays.close_only_seconds + 4:g}",
        "patience_seconds": f"{delays.close_only_seconds + 6:g}",
        "max_rollback_seconds": f"{max(60.0, (delays.stop_seconds + 4) * 6):g}",
    }


def write_releases(twin: Twin, delays: Delays) -> None:
    """Each generation's program and configuration, and where its engine writes."""
    for generation in ("old", "new"):
        is_old = generation == "old"
        twin.data(generation).mkdir(parents=True, exist_ok=True)
        engine: dict[str, Any] = {
            "generation": generation,
            "front_dir": str(twin.front_dir),
            "dir": str(twin.data(generation)),
            "behaviour_file": str(twin.behaviour_file(generation)),
        }
        if is_old:
            engine |= {"valkey_dir": str(twin.valkey_dir)}
            _write_json(
                twin.release("old") / "strategy_runner.json", {"valkey_dir": str(twin.valkey_dir)}
            )
        else:
            engine |= {"metrics_port": twin.metrics_port("new"), **vars(delays)}
        _write_json(twin.release(generation) / "core_engine.json", engine)
    for member, (name, module) in _PROGRAMS.items():
        text = _WRAPPER.format(python=shlex.quote(str(twin.python)), module=module)
        write_atomic(_release_of(twin, member) / name, text.encode(), mode=0o755)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def _release_of(twin: Twin, member: str) -> Path:
    return twin.release(member.partition("_")[0])


def _start_line(twin: Twin, member: str) -> str:
    """How an operator starts it: in the background, its bare pid written down."""
    folder = _release_of(twin, member)
    flag = "--config " if member.startswith("new") else ""
    role = member.partition("_")[2]
    program, config, log, pid_file = (
        shlex.quote(str(path))
        for path in (
            folder / _PROGRAMS[member][0],
            folder / f"{role}.json",
            twin.log(member),
            twin.pid_file(member),
        )
    )
    command = f"setsid nohup {program} {flag}{config} >>{log} 2>&1 </dev/null &"
    return f"{command} echo $! >{pid_file};"


def start_member(twin: Twin, member: str) -> None:
    """Start it as its operator does, who does not wait for what becomes of it."""
    for path in (twin.pid_file(member), twin.log(member)):
        path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["bash", "-c", _start_line(twin, member)], check=True)


def write_supervisor(twin: Twin, seconds: float) -> list[str]:
    """The loop that starts the old engine again, begun so long after the new one may trade; its argv."""
    script = twin.dir / "as_found" / "supervisor.sh"
    text = _SUPERVISOR.format(
        dir=twin.dir,
        readiness=shlex.quote(str(twin.data("new") / "readiness.json")),
        seconds=seconds,
        pid_file=shlex.quote(str(twin.pid_file("old_core_engine"))),
        start=_start_line(twin, "old_core_engine"),
    )
    write_atomic(script, text.encode(), mode=0o755)
    return [str(script)]


# --- what can be asked --------------------------------------------------------------


def read_session(twin: Twin, generation: str) -> dict[str, Any]:
    """What is known of an engine's session. Raises ProbeError where nothing is.

    The old one tells nothing: ticks flow only after TD and MD are logged in and settlement is
    confirmed, so a fresh tick since its start says that much, and no more.
    """
    if generation == "new":
        return _session_of_new(twin)
    tick = last_tick_seconds(twin.valkey_dir)
    pid_file = twin.pid_file("old_core_engine")
    try:
        started = pid_file.stat().st_mtime
    except OSError as error:
        raise ProbeError(f"{pid_file}: {error.strerror}: no old engine was started") from error
    if tick <= started or time.time() - tick > _FRESH_SECONDS:
        age = time.time() - tick
        raise ProbeError(f"the newest tick in Redis is {age:.1f} s old, or of before its start")
    inferred = dict.fromkeys(("td_logged_in", "md_logged_in", "settlement_confirmed"), True)
    return {**inferred, "as_of": _utc(tick)}


def _session_of_new(twin: Twin) -> dict[str, Any]:
    path = twin.data("new") / "readiness.json"
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ProbeError(f"{path}: {error}") from error
    return {
        "logged_in": said["trader_ready"],
        "settlement_confirmed": said["settlement_confirmed"],
        "recovered": said["recovery_complete"],
        "trading_mode": said["mode"],
        "as_of": _utc(said["heartbeat_ts_ns"] / 1e9),
    }


def read_state(twin: Twin, generation: str) -> dict[str, Any]:
    """Positions and working orders, as the engine keeps them: no references, no funds.

    Raises ProbeError where they cannot be read.
    """
    if generation == "new":
        path = twin.data("new") / "wal.jsonl"
        try:
            state = read_write_ahead_log(path)
        except (OSError, ValueError) as error:
            raise ProbeError(f"{path}: {error}") from error
        return {**state, "as_of": _utc(state.pop("as_of_ns") / 1e9)}
    orders = read_orders(twin.valkey_dir)
    return {
        "as_of": _utc(last_tick_seconds(twin.valkey_dir)),
        "trading_day": read_trading_day(twin.valkey_dir),
        "orders": len(orders),
        "working_orders": [each for each in orders if each.pop("status") == "working"],
        "positions": read_positions(twin.valkey_dir),
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _bridge(twin: Twin, generation: str) -> str:
    """The old runner's last batch is young, and the engine has placed it: both ends of the bridge."""
    with bridge_client(twin.valkey_dir, name="") as client:
        batch = json.loads(client.get(batch_key(STRATEGY)) or "{}")
    if (age := time.time() - batch.get("at", 0.0)) > _FRESH_SECONDS:
        raise ProbeError(
            f"bridge: the last batch of intents is {age:.1f} s old: no runner sends any"
        )
    placed = (twin.data("old") / "last_batch").read_text(encoding="ascii")
    if batch["batch"] - int(placed) > 2 * _FRESH_SECONDS * 5:
        raise ProbeError(
            f"bridge: batch {batch['batch']} lies there, and the engine is at {placed}"
        )
    return f"bridge: batch {batch['batch']} is {age:.1f} s old, the engine is at {placed}"


def _session(twin: Twin, generation: str) -> str:
    """Logged in and confirmed, as far as the engine tells."""
    said = read_session(twin, generation)
    if not all(value is not False for value in said.values()):
        raise ProbeError(f"{generation} engine: {json.dumps(said)}")
    return f"{generation} engine: {json.dumps(said)}"


def _trading(twin: Twin, generation: str) -> str:
    """Orders come into Redis while we look, and the front knows of this generation alone."""
    session = _session(twin, generation)
    orders = trades_alone(
        twin, generation, lambda: len(read_orders(twin.valkey_dir)), what="placed"
    )
    return f"{session}; {orders}"


def trades_alone(twin: Twin, generation: str, count: Callable[[], int], *, what: str) -> str:
    """Say that orders were ``what`` (placed, answered) while we looked, by what ``count`` returns, and
    that the front knows of this generation alone. Raises ProbeError."""
    before, end = count(), time.monotonic() + _TRADES_SECONDS
    while (now := count()) == before:
        if time.monotonic() > end:
            raise ProbeError(f"{generation} engine: no order {what} in {_TRADES_SECONDS} s")
        time.sleep(0.05)
    if (able := trading_generations(twin.front_log)) != {generation}:
        raise ProbeError(f"able to trade by the front's log: {sorted(able)}; expected {generation}")
    return f"{now - before} orders {what} while watching; alone at the front"


def _stale_intents(twin: Twin, generation: str) -> str:
    """What lies in Redis for an engine that starts: nothing there has a time to live."""
    with bridge_client(twin.valkey_dir, name="") as client:
        batches = [json.loads(client.get(key)) for key in client.scan_iter(batch_key("*"))]
    lying = [f"batch {each['batch']} of {time.time() - each['at']:.1f} s ago" for each in batches]
    return f"intents that an engine without its log would place again: {', '.join(lying) or 'none'}"


def _as_object(twin: Twin, generation: str) -> str:
    """SESSION_CMD's object."""
    return json.dumps(read_session(twin, generation))


def _state(twin: Twin, generation: str) -> str:
    """TRADING_STATE_CMD's object."""
    return json.dumps(read_state(twin, generation))


def _not_there(twin: Twin, generation: str) -> str:
    raise RunbookError("engines as found have no door to ask this by")


AS_FOUND_PROBES = {
    "bridge": _bridge,
    "session": _session,
    "session-object": _as_object,
    "trading": _trading,
    "stale-intents": _stale_intents,
    "state": _state,
    "warmup": _session,
    "cancel-working": _not_there,
}
