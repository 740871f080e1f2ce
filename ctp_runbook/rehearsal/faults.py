"""What a rehearsal can break on purpose: one function a fault, each given the twin.

All are applied before a run: some at once (a gate or the warm-up will find them), the others
armed to happen some seconds after the new engine has logged in. Each is real: the front really
delays, the engine really dies; but nobody waits for a reconnect of 300 s, which the engine only
counts. ``reset`` takes them back. What is done to the run itself is done by a thread of whoever
applied the fault, for as long as that lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.host.lock import holder_of
from ctp_runbook.host.proc import start, stop
from ctp_runbook.model import State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir, write_atomic
from ctp_runbook.rehearsal.as_found import write_supervisor
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.plane.ingester import Store
from ctp_runbook.rehearsal.seams import PARTITIONS, write_topic
from ctp_runbook.rehearsal.twin import SUPERVISORS, Twin
from ctp_runbook.rehearsal.twin_files import set_keys

__all__ = [
    "FAULTS",
    "apply",
    "bridge_lost",
    "check",
    "close_only",
    "deadlock",
    "engine_dies",
    "fault_names",
    "gate_fails",
    "held_up",
    "no_way_back",
    "nobody_conducts",
    "open_bucket",
    "order_latency",
    "query_flood",
    "reconnect_storm",
    "reset",
    "segfault",
    "stale_intents",
    "supervisor",
    "warmup_fails",
]

_AFTER_SECONDS = 3.0
_COLUMN = "nobody_asked_for_it"
# The host stands still for longer than the whole rollback may take: whatever a step may take of the
# budget, it was over before any of them.
_STILL_SECONDS = 2.5
_POLL_SECONDS = 0.05


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


def held_up(twin: Twin, after_seconds: float) -> None:
    """The new engine dies, and the host stands still: the rollback ends late, exit 5."""
    _grant(twin, rollback_seconds=2)
    _misbehave(twin, die_after_login_seconds=after_seconds)

    def stand_still(history: History) -> None:
        assert history.conducted is not None  # for it rolls back
        with contextlib.suppress(ProcessLookupError):
            os.kill(history.conducted.writer.pid, signal.SIGSTOP)
            time.sleep(_STILL_SECONDS)
            os.kill(history.conducted.writer.pid, signal.SIGCONT)

    _once(twin, State.ROLLING_BACK, stand_still)


def bridge_lost(twin: Twin, after_seconds: float) -> None:
    """The new engine dies; the old one comes back, and no order reaches it: exit 5."""
    _misbehave(twin, die_after_login_seconds=after_seconds)
    _misbehave(twin, generation="old", valkey_dir="")


def no_way_back(twin: Twin, after_seconds: float) -> None:
    """The new engine dies, and the old one at each start: nothing trades, exit 6."""
    _grant(twin, rollback_seconds=10)
    _misbehave(twin, die_after_login_seconds=after_seconds)
    _misbehave(twin, generation="old", die_after_seconds=0.01)


def nobody_conducts(twin: Twin, after_seconds: float) -> None:
    """Orchestrator and guardian are killed in the watch: resume the run yourself, exit 7."""

    def kill_both(history: History) -> None:
        conducted = history.conducted
        assert conducted is not None  # for it watches
        assert conducted.payload.guardian is not None
        time.sleep(after_seconds)
        # Stopped first: the one that lives a moment longer would start the other anew.
        for sign in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (conducted.payload.guardian.pid, conducted.writer.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)

    _once(twin, State.WATCHING, kill_both)


def deadlock(twin: Twin, after_seconds: float) -> None:
    """As found: the new engine stands still: alive, connected, heartbeat fresh, and no order moves."""
    _misbehave(twin, deadlock_after_seconds=after_seconds)


def close_only(twin: Twin, after_seconds: float) -> None:
    """As found: the new engine recovers, and may only close for as long as it runs."""
    _misbehave(twin, stays_close_only=True)


def supervisor(twin: Twin, after_seconds: float) -> None:
    """As found: a forgotten shell loop starts the old engine again in the middle of the watch."""
    argv = write_supervisor(twin, after_seconds)
    start(twin.pid_file(SUPERVISORS[0]), argv, log=twin.log(SUPERVISORS[0])).raise_if_failed()


def stale_intents(twin: Twin, after_seconds: float) -> None:
    """As found: the new engine dies; the old one, without its log, places its last batch again."""
    _misbehave(twin, segfault_after_seconds=after_seconds)
    _misbehave(twin, generation="old", forgets_batches=True)


def segfault(twin: Twin, after_seconds: float) -> None:
    """As found: the new engine dies of SIGSEGV in the watch."""
    _misbehave(twin, segfault_after_seconds=after_seconds)


_OF_TWIN = (
    *(order_latency, engine_dies, reconnect_storm, query_flood),
    *(open_bucket, gate_fails, warmup_fails),
    *(held_up, bridge_lost, no_way_back, nobody_conducts),
)
_AS_FOUND = (deadlock, close_only, supervisor, stale_intents, segfault)
FAULTS: Mapping[str, Callable[[Twin, float], None]] = {
    fault.__name__.replace("_", "-"): fault for fault in (*_OF_TWIN, *_AS_FOUND)
}


def apply(twin: Twin, name: str, *, after_seconds: float = _AFTER_SECONDS) -> None:
    """Apply or arm the fault ``name``; raises RunRefused for a name that is none."""
    check(name, as_found=twin.is_as_found)
    FAULTS[name](twin, after_seconds)


def check(name: str, *, as_found: bool) -> None:
    """Raise RunRefused for a name that is no fault, or none of these engines."""
    known = fault_names(as_found=as_found)
    near = "".join(f", did you mean {close}?" for close in get_close_matches(name, known, 1))
    if name not in FAULTS:
        raise RunRefused(
            f"fault {name!r} is not known{near or ';'} expected one of {', '.join(FAULTS)}"
        )
    if name not in known:
        whose = "engines as found" if as_found else "the twin's own engines"
        raise RunRefused(f"fault {name!r} is none of {whose}; expected one of {', '.join(known)}")


def fault_names(*, as_found: bool) -> tuple[str, ...]:
    """The faults of engines as found, or those of the twin's own."""
    return tuple(name for name, fault in FAULTS.items() if (fault in _AS_FOUND) == as_found)


def reset(twin: Twin) -> None:
    """Take every fault back that is applied or armed; what has happened has happened."""
    for generation in ("old", "new"):
        twin.behaviour_file(generation).unlink(missing_ok=True)
    _armed(twin).unlink(missing_ok=True)
    if (before := _template_before(twin)).exists():
        before.replace(twin.rollback_template)
    stop(twin.pid_file(SUPERVISORS[0]), grace_seconds=1.0)
    if twin.has_plane:
        Store(twin.plane).run(f"ALTER TABLE market_ticks DROP COLUMN IF EXISTS {_COLUMN}")
    else:
        write_topic(twin, partitions=PARTITIONS)
    front_control(twin.front_dir, reset=True)


def _once(twin: Twin, state: State, act: Callable[[History], None]) -> None:
    """Have this done as soon as a run of the twin is seen in ``state``, if nobody resets it before."""
    armed = _armed(twin)
    armed.touch()

    def look() -> None:
        with contextlib.suppress(RunbookError, OSError):  # not there yet, or half a record
            run = RunDir(Path(holder_of(twin.environment)))
            history = History.of(read_journal(run.journal).records)
            if history.state is state:
                armed.unlink()
                act(history)

    def wait() -> None:
        while armed.exists():
            look()
            time.sleep(_POLL_SECONDS)

    threading.Thread(target=wait, name="fault", daemon=True).start()


def _armed(twin: Twin) -> Path:
    return twin.dir / "faults" / "armed"


def _grant(twin: Twin, *, rollback_seconds: int) -> None:
    """Give the rollback another budget."""
    _template_before(twin).write_bytes(twin.rollback_template.read_bytes())
    set_keys(twin.rollback_template, MAX_ROLLBACK_SECONDS=str(rollback_seconds))


def _template_before(twin: Twin) -> Path:
    return twin.dir / "faults" / twin.rollback_template.name


def _misbehave(twin: Twin, *, generation: str = "new", **behaviour: float | str) -> None:
    """Written for an engine to read when it starts."""
    write_atomic(twin.behaviour_file(generation), json.dumps(behaviour).encode())
