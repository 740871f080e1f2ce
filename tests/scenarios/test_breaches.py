"""From the first offending sample to the first rollback command, over injected breaches.

One twin is reused: each run switches, is breached, and rolls back. All are ``make prove``; CI injects
the first few of the same seeded draw. ``tests/run/test_breach_latency.py`` does fifty, on members of its
own; what counts here is the session of the previous engine.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.gates.readiness import SLIS, Readiness, SliReading
from ctp_runbook.plan.timing import p95
from ctp_runbook.record.history import History
from ctp_runbook.rehearsal import faults
from ctp_runbook.rehearsal.front.control import front_control
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.watch.replay import rejudge
from tests.props.cutover_tools import Cutover, cutover_of, edited, fresh_twin

ALL, IN_CI = 15, 2
TRIES = 3
INTERVAL_SECONDS = 0.5  # of the engine's metrics in the light rehearsal's watch.toml
SLACK_SECONDS = 0.1
SESSION_SECONDS = 10.0
_DRAW = random.Random(20261125)
# Seconds into the watch at which each breach begins, so that it meets the samples at any phase.
BREACHES = [round(_DRAW.uniform(0.2, 1.7), 3) for _ in range(ALL)]


@dataclass(frozen=True)
class Breach:
    """What one breach came to, in seconds from its first offending sample."""

    injected: float
    to_command: float
    to_session: float
    to_validated: float

    @property
    def row(self) -> str:
        """One line of a table."""
        return (
            f"injected {self.injected:5.3f} s into the watch: first rollback command after {self.to_command * 1000:6.1f} ms, "
            f"session verified after {self.to_session:5.2f} s, validated after "
            f"{self.to_validated:5.2f} s"
        )


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin whose gates cost no time: what is measured begins in the watch."""
    room = tmp_path_factory.mktemp("breaches")
    with fresh_twin(room / "twin", watch_seconds=15.0) as made:
        gates = ("BOOTSTRAP_INFRA", "INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA")
        edited(
            made.cutover_template,
            **{f"{gate}_CMD": "ls" for gate in (*gates, "INIT_DEBEZIUM_CONNECTOR")},
            PRECHECK_CMD=_readiness_command(room, "precheck"),
        )
        condition = "order_latency_p99_ms > 100"
        edited(
            made.rollback_template,
            ROLLBACK_TRIGGER_CONDITION=condition,
            POST_ROLLBACK_VALIDATE_CMD=_readiness_command(room, "rollback"),
        )
        yield made


def _readiness_command(room: Path, name: str) -> str:
    """Write the readiness file of a healthy stack, measured now."""
    readings = tuple(
        SliReading(spec.name, spec.target, "measured", "seen", "probe", "@NOW@")
        for spec in SLIS.values()
        if spec.core
    )
    report = room / "readiness.json"
    report.write_bytes(Readiness(readings, "twin", "single-host").to_bytes())
    now = "$(date -u +%Y-%m-%dT%H:%M:%S.%6N+00:00)"
    source = shlex.quote(str(report))
    return f'sed "s/@NOW@/{now}/" {source} > "$CTP_EVIDENCE_DIR/ctp_readiness_{name}.json"'


def breached(twin: Twin, outputs: Path, injected: float) -> Breach:
    """A breach; on a busy host the twin's own pacing may end a switch before there is a watch."""
    for _ in range(TRIES):
        if (found := _try(twin, outputs, injected)) is not None:
            return found
    raise AssertionError(f"no watch was reached in {TRIES} runs; see {outputs}")


def _try(twin: Twin, outputs: Path, injected: float) -> Breach | None:
    """One run, breached so long after the watch began; the old generation trades after it."""
    with cutover_of(twin, outputs) as cutover:
        if not cutover.wait_for(lambda history: history.watch_started is not None):
            assert cutover.end().exit_code == 4, cutover.story()
            return None
        time.sleep(injected)
        front_control(twin.front_dir, order_latency_ms=400.0, order_latency_generation="new")
        try:
            ending = cutover.end()
        finally:
            faults.reset(twin)
        assert ending.exit_code == 4, f"{ending.row}\n{cutover.story()}"
        assert ending.trading == frozenset({"old"})
        assert ending.overlaps == 0
        return _measured(injected, cutover)


def _measured(injected: float, cutover: Cutover) -> Breach:
    """From the journal; the first offending sample is found again in the raw samples."""
    history = cutover.history
    _, firing = rejudge(cutover.run, history)
    assert firing is not None
    assert history.trigger is not None
    assert history.trigger.payload.sample_mono_ns == int(firing.mono * 1e9)
    at = firing.mono

    def after(is_it: Callable[[History, int], bool]) -> float:
        for number, record in enumerate(history.records):
            if record.mono_ns / 1e9 >= at and is_it(history, number):
                return record.mono_ns / 1e9 - at
        raise AssertionError("not in the journal")

    return Breach(
        injected,
        after(lambda h, n: _is(h, n, "step_started", step="stop_new_strategy_runner")),
        after(
            lambda h, n: _is(h, n, "probe", subject="old_core_engine", question="session", ok=True)
        ),
        after(lambda h, n: _is(h, n, "step_ended", step="post_rollback_validate", status="ok")),
    )


def _is(history: History, number: int, kind: str, **payload: object) -> bool:
    record = history.records[number]
    said = structs.asdict(record.payload)
    return record.kind == kind and payload.items() <= said.items()


def distribution(name: str, seconds: Sequence[float]) -> str:
    """Least, median, p95 and most."""
    ordered = sorted(seconds)
    median = ordered[len(ordered) // 2]
    return (
        f"{name:38} least {ordered[0]:7.3f} s  median {median:7.3f} s  p95 {p95(ordered):7.3f} s  "
        f"most {ordered[-1]:7.3f} s  ({len(ordered)} breaches)"
    )


def check(found: Sequence[Breach]) -> list[str]:
    """The rows of the table; every breach was answered in time."""
    rows = [breach.row for breach in found]
    rows += [
        distribution("offending sample to rollback command", [b.to_command for b in found]),
        distribution("offending sample to session verified", [b.to_session for b in found]),
        distribution("offending sample to validated", [b.to_validated for b in found]),
    ]
    return rows


def late(found: Sequence[Breach]) -> list[str]:
    """Breaches that were answered too late."""
    limit = INTERVAL_SECONDS + SLACK_SECONDS
    return [b.row for b in found if b.to_command > limit or b.to_session > SESSION_SECONDS]


@pytest.mark.timeout(300)
def test_a_breach_is_answered_within_an_interval(twin: Twin, tmp_path: Path) -> None:
    """One sampling interval + 100 ms to the first rollback command; a session within 10 s."""
    found = [breached(twin, tmp_path, breach) for breach in BREACHES[:IN_CI]]
    print("\n".join(check(found)))
    assert late(found) == []


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_many_breaches_are_answered_within_an_interval(
    twin: Twin, tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """All of them, and their distribution is kept."""
    found = [breached(twin, tmp_path, breach) for breach in BREACHES]
    record_table("breach_table", check(found))
    assert late(found) == []
