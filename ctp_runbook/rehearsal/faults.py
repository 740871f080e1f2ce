"""What a rehearsal can break on purpose: one function a fault, each given the twin.

All are applied before a run: some at once (a gate or the warm-up will find them), the others
armed to happen some seconds after the new engine has logged in. Each is real: the front really
delays, the engine really dies; but nobody waits for a reconnect of 300 s, which the engine only
counts. ``reset`` takes them back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from ctp_runbook.errors import RunRefused
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.seams import PARTITIONS, write_topic
from ctp_runbook.rehearsal.twin import Twin

__all__ = [
    "FAULTS",
    "apply",
    "engine_dies",
    "gate_fails",
    "open_bucket",
    "order_latency",
    "query_flood",
    "reconnect_storm",
    "reset",
    "warmup_fails",
]

_AFTER_SECONDS = 3.0
_COLUMN = "nobody_asked_for_it"


def order_latency(twin: Twin, after_seconds: float) -> None:
    """The front answers the new generation's orders 400 ms late; fires the rollback trigger."""
    front_control(
        twin.front_dir,
        order_latency_ms=400.0,
        order_latency_generation="new",
        after_login_of="new",
        after_seconds=after_seconds,
    )


def engine_dies(twin: Twin, after_seconds: float) -> None:
    """The new engine is ended by SIGKILL: no logout, its session lingers at the front."""
    _misbehave(twin, die_after_login_seconds=after_seconds)


def reconnect_storm(twin: Twin, after_seconds: float) -> None:
    """The front drops the new generation and refuses its logins for 5 s, three times over."""
    front_control(
        twin.front_dir,
        disconnect="new",
        refuse_logins="new",
        refuse_seconds=5.0,
        after_login_of="new",
        after_seconds=after_seconds,
        repeat=3,
        repeat_every_seconds=9.0,
    )


def query_flood(twin: Twin, after_seconds: float) -> None:
    """The new engine forgets its pacing and queries for 5 s; the front answers -3."""
    _misbehave(twin, flood_after_login_seconds=after_seconds)


def open_bucket(twin: Twin, after_seconds: float) -> None:
    """The new engine's reconnects have the client library's buckets, and it counts one of 300 s every
    5 s: above them all."""
    _misbehave(twin, open_bucket_after_login_seconds=after_seconds)


def gate_fails(twin: Twin, after_seconds: float) -> None:
    """ClickHouse has a column nobody asked for (without a plane: the topic 1 partition, not 6)."""
    if twin.has_plane:
        Store(twin.plane).run(f"ALTER TABLE market_ticks ADD COLUMN IF NOT EXISTS {_COLUMN} String")
    else:
        write_topic(twin, partitions=1)


def warmup_fails(twin: Twin, after_seconds: float) -> None:
    """The front refuses the new engine's instrument queries: warmup_query fails."""
    front_control(twin.front_dir, reject_instrument_query=True, reject_generation="new")


_ALL = (
    *(order_latency, engine_dies, reconnect_storm, query_flood),
    *(open_bucket, gate_fails, warmup_fails),
)
FAULTS: Mapping[str, Callable[[Twin, float], None]] = {
    fault.__name__.replace("_", "-"): fault for fault in _ALL
}


def apply(twin: Twin, name: str, *, after_seconds: float = _AFTER_SECONDS) -> None:
    """Apply or arm the fault ``name``; raises RunRefused for a name that is none."""
    if name not in FAULTS:
        raise RunRefused(f"fault {name!r} is not known; expected one of {', '.join(FAULTS)}")
    FAULTS[name](twin, after_seconds)


def reset(twin: Twin) -> None:
    """Take every fault back that is applied or armed; what has happened has happened."""
    twin.behaviour_file("new").unlink(missing_ok=True)
    if twin.has_plane:
        Store(twin.plane).run(f"ALTER TABLE market_ticks DROP COLUMN IF EXISTS {_COLUMN}")
    else:
        write_topic(twin, partitions=PARTITIONS)
    front_control(twin.front_dir, reset=True)


def _misbehave(twin: Twin, **behaviour: float) -> None:
    """Written for the new engine to read when it starts."""
    write_atomic(twin.behaviour_file("new"), json.dumps(behaviour).encode())
