"""Facts about a twin with its data plane: gates, traffic, measures, and a plane that dies."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.process import identity_of
from ctp_runbook.plan.config import load_watch
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms
from ctp_runbook.probes.kafka import LagReader
from ctp_runbook.rehearsal import faults
from ctp_runbook.rehearsal.plane import control
from ctp_runbook.rehearsal.plane.ingester import GROUP, Store
from ctp_runbook.rehearsal.plane.tables import KEYS, TICKS_TOPIC
from ctp_runbook.rehearsal.stack import down, status, up
from ctp_runbook.rehearsal.twin import Twin
from tests.props.twin_tools import template_command, wait_until

pytestmark = pytest.mark.timeout(400)
GATES = ("BOOTSTRAP_INFRA", "INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin with a plane, old generation trading, in a directory no shell splitting survives."""
    made = up(tmp_path_factory.mktemp("planes") / "a twin's $dir", plane=True)
    yield made
    assert down(made.dir).left == ()


def count(twin: Twin, table: str) -> int:
    """Rows of a table in ClickHouse."""
    return int(Store(twin.plane).run(f"SELECT count() FROM {table}"))


def test_it_serves_and_leaves_nothing(tmp_path: Path) -> None:
    """With every part named by ``status``; after ``down`` no process of it is there.

    How soon it serves is measured by ``tests/benchmarks/bench_stack.py``.
    """
    made = up(tmp_path / "twin", plane=True)
    try:
        found = status(made.dir)
        assert found.is_up
        assert found.plane is not None
        told = "\n".join(found.sentences)
        assert all(f"plane {name}: serving" in told for name in found.plane.parts)
        pids = [part.pid for part in found.plane.parts.values() if part.pid]
    finally:
        ended = down(made.dir)
    assert ended.left == ()
    assert not any(identity_of(pid) for pid in pids)


def test_the_gates_pass_and_the_second_time_change_nothing(twin: Twin) -> None:
    """Production's own commands, by the rendered template; the readiness of the pipeline too."""
    for _ in range(2):
        for name in (*GATES, "PRECHECK"):
            done = template_command(twin, f"{name}_CMD")
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    evidence = twin.dir / "evidence"
    texts = [path.read_text() for path in evidence.glob("*_result.env")]
    assert len(texts) == len(GATES)
    assert all("_OBSERVED_CHANGES=0" in text for text in texts)
    slis = json.loads((evidence / "ctp_readiness_precheck.json").read_text())["slis"]
    assert len([sli for sli in slis if sli["healthy"] and sli["provenance"] == "measured"]) == 12


def test_the_engine_writes_everything_down(twin: Twin) -> None:
    """Ticks by Kafka, the rest by CDC: all of it is in ClickHouse, while the old engine trades."""
    for table in set(KEYS) - {"risk_events"}:
        wait_until(lambda table=table: count(twin, f"{table}_cdc"))  # type: ignore[misc]
    wait_until(lambda: count(twin, "market_ticks") > 100)
    assert count(twin, "ingest_refused") == 0


def test_lag_and_delay_are_measured(twin: Twin) -> None:
    """By the sources of the twin's own watch.toml; a group that never committed is late."""
    rules, seconds = load_watch(twin.watch_file), 5.0
    sources = rules.sources
    reader = LagReader(sources["kafka_bootstrap"], group=GROUP, topic=TICKS_TOPIC)
    assert all(0 <= reader.read(seconds=seconds) < 5000 for _ in range(5))
    reader.close()
    nobody = LagReader(twin.plane.bootstrap, group="nobody", topic=TICKS_TOPIC)
    assert nobody.read(seconds=seconds) > 1000
    nobody.close()
    password = twin.plane.credentials().clickhouse
    door = ClickHouseDoor(sources["clickhouse_url"], sources["clickhouse_user"], password)
    query = rules.metrics["clickhouse_ingest_delay_ms"].query
    delay = ingest_delay_ms(door, query, seconds=seconds)
    assert delay is not None
    assert 0 <= delay < 5000
    stale = query.replace("INTERVAL 5 SECOND", "INTERVAL -60 SECOND")
    assert ingest_delay_ms(door, stale, seconds=seconds) is None


def test_a_gate_sees_the_fault(twin: Twin) -> None:
    """The column nobody asked for fails its gate, which names it; taken back, the gate passes."""
    faults.apply(twin, "gate-fails")
    done = template_command(twin, "INIT_CLICKHOUSE_SCHEMA_CMD")
    faults.reset(twin)
    assert done.returncode == 3
    assert "column nobody_asked_for_it String is not in the file" in done.stdout
    assert template_command(twin, "INIT_CLICKHOUSE_SCHEMA_CMD").returncode == 0


def test_passwords_are_nobody_elses(twin: Twin) -> None:
    """The env file is the owner's alone; no template and no configuration has one in it."""
    assert stat.S_IMODE(twin.env_file.stat().st_mode) == 0o600
    values = [line.partition("=")[2] for line in twin.env_file.read_text().splitlines()]
    files = [path for path in twin.dir.glob("[trl]*/**/*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files]
    assert len(files) > 5
    assert not [value for value in values if any(value in text for text in texts)]


def test_a_dead_plane_holds_no_engine_up(tmp_path: Path) -> None:
    """Broker and PostgreSQL gone, the engine answers, and ends within seconds."""
    made = up(tmp_path / "twin", plane=True)
    try:
        control.down(made.plane.dir, keep_data=True)
        for _ in range(3):
            began = time.monotonic()
            assert made.state("old")["td_session"] == "ready"
            assert time.monotonic() - began < 5
            time.sleep(0.3)
    finally:
        ended = down(made.dir)
    assert ended.left == ()
    assert "KILL" not in ended.reports["old_core_engine"].sentence
