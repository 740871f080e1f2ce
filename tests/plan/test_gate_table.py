"""Facts about plan/gate_table.py: the contract's names stand in one row, and strangers are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.plan.gate_table import GATES, PARTS, find_gate, gates_in, unobserved_gates
from ctp_runbook.plan.step_table import STEP_TABLE

# CONTRACT §3 and §4, RUNBOOK §7: never renamed.
CONTRACT = {
    "bootstrap": ("SINGLE_HOST_BOOTSTRAP", "single_host_bootstrap_result.env"),
    "kafka-topics": ("KAFKA_TOPIC_INIT", "kafka_topic_init_result.env"),
    "clickhouse-schema": ("CLICKHOUSE_SCHEMA_INIT", "clickhouse_schema_init_result.env"),
    "debezium-connectors": ("DEBEZIUM_CONNECTOR_INIT", "debezium_connector_init_result.env"),
}


def test_the_contracts_names_stand() -> None:
    """The four gates of the runbook, whose evidence is due."""
    due = {gate.name: (gate.prefix, gate.file) for gate in GATES.values() if gate.is_due}
    assert due == CONTRACT


def test_every_row_fits_its_tables() -> None:
    """A gate's step is a step, its parts are in the picture, and no two write one file."""
    steps = {step.name for step in STEP_TABLE}
    assert {gate.step for gate in GATES.values()} <= steps
    assert {part for gate in GATES.values() for _, part in gate.parts} <= set(PARTS)
    assert len({gate.file for gate in GATES.values()}) == len(GATES)
    assert len({gate.prefix for gate in GATES.values()}) == len(GATES)


def test_nobodys_gate_is_nobodys() -> None:
    """A name that no distribution offers is no row, and no error."""
    assert find_gate("no-such-gate") is None


def test_evidence_says_which_gates_were_run(tmp_path: Path) -> None:
    """Ours in their order; then whatever else looks like a gate's, by what it says of itself."""
    (tmp_path / GATES["kafka-topics"].file).write_text("KAFKA_TOPIC_INIT_DRY_RUN=0\n")
    (tmp_path / GATES["bootstrap"].file).write_text("SINGLE_HOST_BOOTSTRAP_DRY_RUN=0\n")
    (tmp_path / "stranger_result.env").write_text("STRANGER_GATE_DRY_RUN=0\n")
    (tmp_path / "torn_result.env").write_bytes(b"\xff\x00")
    (tmp_path / "ctp_cutover_result.env").write_text("CUTOVER_DRY_RUN=0\n")
    found = list(gates_in(tmp_path))
    assert [gate.name for gate in found] == ["bootstrap", "kafka-topics", "stranger"]
    assert (found[-1].prefix, found[-1].step) == ("STRANGER_GATE", "")


OURS = {
    "ctp-runbook infra bootstrap --execute": True,
    "bash -lc 'cd /x && ctp-runbook infra bootstrap --execute'": True,
    "python -m ctp_runbook infra bootstrap": True,
    "bash infra/scripts/bootstrap_prodlike.sh --execute": True,
    "ctp-runbook infra kafka-topics --execute": False,
    "ctp-runbook infra bootstrap-mine": False,
    "./bootstrap.sh": False,
    "docker compose up -d": False,
}


@pytest.mark.parametrize(("command", "is_ours"), OURS.items(), ids=OURS)
def test_a_gate_is_known_by_its_command(command: str, is_ours: bool) -> None:
    """Only a command of ours leaves evidence; of another is said that nobody looked."""
    unobserved = unobserved_gates({"bootstrap_infra": command})
    assert [gate.name for gate in unobserved] == ([] if is_ours else ["bootstrap"])


def test_evidence_that_is_there_was_written_by_somebody(tmp_path: Path) -> None:
    """A script of one's own may call ours: then the file is held to what it says, as ever."""
    (tmp_path / "single_host_bootstrap_result.env").write_text("")
    assert unobserved_gates({"bootstrap_infra": "./up.sh"}, evidence=tmp_path) == {}
