"""The host as gates and readiness saw it: states, facts, drift and the canary's hops."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ctp_runbook.gates.gate import GateResult, GateStep
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES, PARTS, Gate
from ctp_runbook.record.gate_files import CanaryFile, FlownCanary, FlownHop
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.figure_style import DARK, LIGHT, Theme
from ctp_runbook.show.topology import (
    Station,
    Topology,
    drift_rows,
    gate_topology,
    sli_topology,
)
from ctp_runbook.show.topology_figure import topology_figure, topology_picture
from tests.props.example_readiness import readiness_file
from tests.show.test_watch_figure import texts


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose gates have not ended yet."""
    made = RunDir(tmp_path / "run")
    made.evidence.mkdir(parents=True)
    return made


def say(run: RunDir, gate: str, *steps: GateStep) -> None:
    """A gate's evidence, as the gate itself writes it."""
    path = run.evidence / GATES[gate].file
    path.write_bytes(GateResult(GATES[gate], False, steps).evidence())


def ok(name: str, **facts: str) -> GateStep:
    """A step that found everything as wanted."""
    return GateStep(name, StepStatus.OK, 1.0, "asked", facts)


def bad(name: str, reason: str) -> GateStep:
    """A step that did not."""
    return GateStep(name, StepStatus.FAILED, 1.0, "asked", {}, reason)


def part(seen: Topology | None, key: str) -> Station:
    """One part of what was seen."""
    assert seen is not None
    return next(one for one in seen.stations if one.key == key)


def test_before_any_gate_there_is_nothing_to_show(run: RunDir) -> None:
    """No evidence, no picture: nothing is claimed of parts that nobody looked at."""
    assert gate_topology(run) is None
    assert drift_rows(run) == []


def test_each_gate_speaks_for_its_parts(run: RunDir) -> None:
    """States come from step statuses, facts from what was observed; the rest is not looked at."""
    say(run, "bootstrap", ok("observe_redis", role="master"), ok("observe_timescale", version="16"))
    say(run, "kafka-topics", ok("market.ticks.v1", partitions="6"), ok("orders", partitions="1"))
    seen = gate_topology(run)
    assert part(seen, "redis") == Station("redis", "ok", ("role master",))
    assert part(seen, "postgres").facts == ("version 16",)
    assert part(seen, "kafka").facts == ("2 topics", "7 partitions")
    assert part(seen, "clickhouse").state == ""


def test_a_connector_that_runs_without_its_task_says_so(run: RunDir) -> None:
    """The task's state stands in the box, not the connector's alone."""
    state = ok("state_trading-core-connector", connector="RUNNING", task_0="FAILED")
    slot = ok("slot_trading-core-connector", retained_wal_mib="12.5")
    say(run, "debezium-connectors", state, slot)
    facts = part(gate_topology(run), "debezium").facts
    assert facts == ("trading-core: task FAILED", "slots keep 12.5 MiB of WAL")


def test_what_drifted_is_told_with_its_reason(run: RunDir) -> None:
    """A failed step makes its part FAILED, and its reason is in picture, words and table."""
    why = "market.ticks.v1: partitions 1, expected 6"
    say(run, "kafka-topics", ok("reach_brokers"), bad("market.ticks.v1", why))
    seen = gate_topology(run)
    kafka = part(seen, "kafka")
    assert (kafka.state, kafka.problem) == ("failed", f"market.ticks.v1: {why}")
    assert seen is not None
    assert why in seen.sentence
    assert drift_rows(run) == [("init_kafka_topic", "market.ticks.v1", why)]
    assert "✗ failed" in texts(topology_figure(seen))


HOPS = (FlownHop("postgres", 1.0), FlownHop("debezium_to_kafka", 200.0))


def canary_file(*flights: FlownCanary, problem: str) -> bytes:
    """What a call of the canary leaves."""
    rest = dict.fromkeys(("source", "topic", "table", "mark_is"), "x")
    file = CanaryFile(
        success=False, dry_run=False, problem=problem, percentiles_ms={}, flights=flights, **rest
    )
    return msgspec.json.encode(file)


def flown(*hops: FlownHop, problem: str = "") -> FlownCanary:
    """One flight."""
    total = sum(hop.ms for hop in hops)
    return FlownCanary(mark="m", sent_utc="", hops=hops, total_ms=total, problem=problem)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_canary_is_drawn_hop_by_hop(run: RunDir, theme: Theme) -> None:
    """Each flight is a bar with its total; one that was lost says after how long."""
    say(run, "bootstrap", ok("observe_redis", role="master"))
    whole, lost = flown(*HOPS, FlownHop("kafka_to_clickhouse", 99.0)), flown(*HOPS, problem="stuck")
    data = canary_file(whole, lost, problem="it is stuck at the ingest")
    (run.evidence / "ctp_canary.json").write_bytes(data)
    seen = gate_topology(run)
    assert seen is not None
    said = texts(topology_figure(seen, theme=theme))
    assert "300 ms" in said
    assert "✗ lost after 201 ms" in said
    assert "canary FAILED: it is stuck at the ingest" in said


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"flights": [1], "problem": ""}', '{"x": ' + "[" * 99_999]
)
def test_a_canary_file_that_is_none_is_a_failure(run: RunDir, content: str) -> None:
    """What cannot be read proves nothing, and is not drawn as if it had."""
    say(run, "bootstrap", ok("observe_redis", role="master"))
    (run.evidence / "ctp_canary.json").write_text(content)
    seen = gate_topology(run)
    assert seen is not None
    assert "canary FAILED: ctp_canary.json cannot be read" in seen.sentence


def test_readiness_speaks_for_the_engine_too() -> None:
    """An SLI beyond its target makes its part FAILED with value and target."""
    slis = [
        {"name": "quant_hft_ctp_query_latency_p99_ms", "value": 2500.0, "target": 2000.0}
        | {"unit": "ms", "healthy": False},
        {"name": "quant_hft_core_process_alive", "value": True, "target": True}
        | {"unit": "", "healthy": True},
        {"name": "quant_hft_kafka_publish_success_rate", "value": 1.0, "target": 0.99}
        | {"unit": "ratio", "healthy": True},
        {"name": "of nobody", "value": 1.0, "target": 1.0, "unit": "", "healthy": False},
    ]
    seen = sli_topology(readiness_file(*slis))
    engine = part(seen, "engine")
    assert engine.state == "failed"
    assert engine.problem == "query p99 2500 ms, target 2000"
    assert part(seen, "kafka").facts == ("published 100.0%",)
    assert [one.key for one in seen.bad] == ["engine"]


def test_every_part_is_on_the_picture() -> None:
    """Also those that nobody looked at, and the picture is told in words."""
    seen = sli_topology(readiness_file())
    said = texts(topology_figure(seen))
    assert [title for title in PARTS.values() if title not in said] == []
    assert said.count("not looked at") == len(PARTS)
    assert "the host" in topology_picture(seen).text


def test_a_gate_that_nobody_knows_breaks_nothing(run: RunDir) -> None:
    """Its drift is told under its own name; the picture shows the parts it has."""
    stranger = Gate("moon-base", "", "MOON_BASE", "moon_base_result.env", "moon", "")
    steps = (ok("reach_moon", tide="low"), bad("land", "no ground"))
    (run.evidence / stranger.file).write_bytes(GateResult(stranger, False, steps).evidence())
    assert gate_topology(run) is None
    say(run, "kafka-topics", ok("reach_brokers", brokers="1"))
    assert part(gate_topology(run), "kafka").state == "ok"
    assert drift_rows(run) == [("moon_base", "land", "no ground")]
