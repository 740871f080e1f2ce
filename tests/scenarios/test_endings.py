"""Each ending of a rehearsal, as `ctp-runbook rehearse` shows it, with its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from ctp_runbook.model import Generation, Role, State
from ctp_runbook.record.evidence import read_manifest, trading_downtime_seconds
from ctp_runbook.record.rundir import newest_run
from ctp_runbook.rehearsal import faults, stack
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import read_history, read_whole
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.run import verify_run
from tests.props.cutover_tools import ROOT, cutover_of, edited, fresh_twin

_ROLLED_BACK = "with --allow-cutover-rollback: verification passed"
ENDINGS = {
    "order-latency": (4, "now able to trade: old"),
    "engine-dies": (4, "now able to trade: old"),
    "reconnect-storm": (4, "now able to trade: old"),
    "query-flood": (4, "now able to trade: old"),
    "warmup-fails": (4, "now able to trade: old"),
    "held-up": (5, "ROLLED_BACK_LATE: "),
    "bridge-lost": (5, "but it could not be validated: step post_rollback_validate failed"),
    "no-way-back": (6, "An operator must act now"),
}


def rehearse(outputs: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of a rehearsal with a watch of 12 s."""
    argv = ["-m", "ctp_runbook", "rehearse", "--watch-seconds", "12", "--outputs", str(outputs)]
    done = subprocess.run(
        [sys.executable, *argv, *options], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("fault", ENDINGS)
def test_a_fault_has_its_ending(fault: str, tmp_path: Path) -> None:
    """Exit code, who trades, and evidence that verifies as what it is."""
    said = ended(tmp_path, fault, *ENDINGS[fault])
    assert (_ROLLED_BACK in said) == (ENDINGS[fault][0] == 4), said


def ended(outputs: Path, fault: str, expected: int, sentence: str) -> str:
    """What a rehearsal with a fault said that ended as it should."""
    code, said = rehearse(outputs, "--no-plane", "--no-notebooks", "--fault", fault)
    assert code == expected, said
    assert sentence in said
    assert "at no instant two generations able to trade" in said
    assert "Traceback" not in said
    return said


def test_a_run_that_nobody_conducts_is_left_to_who_resumes_it(tmp_path: Path) -> None:
    """Exit 7; the new generation trades, nothing was asked of the run, and its twin is up."""
    code, said = rehearse(tmp_path, "--no-plane", "--no-notebooks", "--fault", "nobody-conducts")
    (twin,) = (Twin(folder) for folder in (tmp_path / "twins").iterdir())
    try:
        run = newest_run(tmp_path)
        assert code == 7, said
        assert "nobody conducts it; by the processes it pinned: " in said
        assert f"Now: `ctp-runbook resume --run {run.path}`" in said
        assert f"take it down with `ctp-runbook stack down --dir {twin.dir}`" in said
        assert read_whole(run).state is State.WATCHING
        assert stack.status(twin.dir).trading == {"new"}
    finally:
        stack.down(twin.dir)


def test_a_reconnect_above_all_buckets_fires_the_shipped_trigger(tmp_path: Path) -> None:
    """A new engine whose widest bucket is 10 s and a reconnect of 300 s: by the condition that
    configs/ops ships, more than 10 s, the run rolls back and the old generation trades."""
    shipped = (ROOT / "configs/ops/ctp_rollback_drill.template.env").read_text().splitlines()
    (line,) = [line for line in shipped if line.startswith("ROLLBACK_TRIGGER_CONDITION=")]
    condition = line.partition("_or_")[2]
    assert condition == "reconnect_p99_s_gt_10s"
    with fresh_twin(tmp_path / "twin", watch_seconds=30.0) as twin:
        edited(twin.rollback_template, ROLLBACK_TRIGGER_CONDITION=condition)
        faults.apply(twin, "open-bucket")
        with cutover_of(twin, tmp_path / "outputs") as cutover:
            ending = cutover.end()
            told = cutover.history.trigger
    assert (ending.exit_code, ending.trading) == (4, frozenset({"old"})), cutover.story()
    assert ending.verified, ending.findings
    assert told is not None
    assert "reconnect_p99_s is more than 10 s at" in str(told.payload.sentence)


def test_a_gate_that_fails_costs_no_trading_time(tmp_path: Path) -> None:
    """Zero downtime, and the old generation is the very processes it was; told as JSON, line by line."""
    code, printed = rehearse(
        tmp_path, "--no-plane", "--no-notebooks", "--fault", "gate-fails", "--json"
    )
    history = read_history(newest_run(tmp_path))
    assert code == 3, printed
    lines = [json.loads(line) for line in printed.splitlines()]
    schema = json.loads((ROOT / "infra" / "schemas" / "told.json").read_bytes())
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    assert {line["run_id"] for line in lines} == {history.created.run_id}
    assert [line["seq"] for line in lines if line["event"] == "record"] == [
        record.seq for record in history.records
    ]
    assert (lines[-1]["event"], lines[-1]["exit_code"]) == ("end", 3)
    said = "\n".join(line["sentence"] for line in lines if line["event"] == "note")
    assert said.startswith("twin up in ")
    assert said.endswith("twin down: every process proved gone")
    assert "the old generation never stopped trading" in said
    assert "at no instant two generations able to trade" in said
    assert _ROLLED_BACK not in said
    assert trading_downtime_seconds(history) == 0.0
    assert history.closed is not None
    assert [history.closed.payload.running[f"{Generation.OLD}_{role}"] for role in Role] == [
        "alive",
        "alive",
    ]


def test_a_forced_rollback_verifies_only_when_allowed(tmp_path: Path) -> None:
    """`rehearse --force-rollback`, notebooks and all: exit 4, and verify needs its flag."""
    code, said = rehearse(tmp_path, "--no-plane", "--force-rollback")
    assert code == 4, said
    assert "verification failed: run" in said
    assert _ROLLED_BACK in said


def test_a_drill_is_a_cutover_that_is_rolled_back(tmp_path: Path) -> None:
    """`ctp-runbook drill --execute` ends with 4, the old generation trading, in its own evidence."""
    with (
        fresh_twin(tmp_path / "twin", watch_seconds=4.0) as twin,
        cutover_of(twin, tmp_path / "outputs", command="drill") as cutover,
    ):
        ending = cutover.end()
    assert ending.exit_code == 4, cutover.story()
    assert (ending.trading, ending.verified) == (frozenset({"old"}), True), ending.findings
    assert cutover.history.created.force_rollback is True


def test_a_run_without_notebooks_is_sealed_by_whoever_closes_it(tmp_path: Path) -> None:
    """`orchestrate` alone: every file is listed, logs included; one more, one less and one of other
    words are findings, and a report written later is listed then."""
    with (
        fresh_twin(tmp_path / "twin", watch_seconds=4.0) as twin,
        cutover_of(twin, tmp_path / "outputs") as cutover,
    ):
        ending = cutover.end()
    assert (ending.exit_code, ending.verified) == (0, True), cutover.story()
    run = cutover.run
    manifest = read_manifest(run.manifest.read_bytes())
    assert manifest.sealed
    assert {"logs/orchestrator.log", "logs/guardian.log"} <= manifest.files.keys()

    def found() -> str:
        return "\n".join(verify_run(run).findings)

    write_report(run)
    assert found() == ""
    (run.path / "note.txt").write_text("seen by nobody\n")
    assert found() == "note.txt: not listed in the sealed manifest.json"
    (run.path / "note.txt").unlink()
    log = run.logs / "orchestrator.log"
    kept = log.read_bytes()
    log.write_bytes(kept + b"all well\n")
    assert found().startswith("logs/orchestrator.log: sha256 ")
    log.unlink()
    assert found() == "manifest.json lists logs/orchestrator.log, which is not there"
    log.write_bytes(kept)
    assert found() == ""
