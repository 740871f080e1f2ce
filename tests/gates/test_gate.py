"""Facts about gates/gate.py: what is observed is written down, and what is not does not pass."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ctp_runbook.errors import InputError, ProbeError
from ctp_runbook.gates.gate import (
    GateOptions,
    GateResult,
    GateStep,
    Observation,
    Task,
    judge_gate_evidence,
    output_path,
    perform,
    write_gate,
)
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES

ROOT = Path(__file__).parents[2]
KAFKA = GATES["kafka-topics"]
SEEN = Observation({"partitions": "6"})


def answering(answer: Observation | str, name: str = "observe_kafka") -> Task:
    """A task that sees this, or whose probe fails with these words."""

    def run() -> Observation:
        if isinstance(answer, str):
            raise ProbeError(answer)
        return answer

    return Task(name, "describe market.ticks.v1", run)


def result_of(*tasks: Task, execute: bool = True, probe: bool = False) -> GateResult:
    """How a gate of these tasks goes."""
    return GateResult(KAFKA, not execute, perform(tasks, execute=execute, probe=probe))


# --- doing tasks ------------------------------------------------------------------


def test_evidence_has_outcome_steps_and_what_was_seen() -> None:
    """CONTRACT §3: four keys with the gate's prefix, step lines, then observations."""
    lines = result_of(answering(SEEN)).evidence().decode().splitlines()
    assert lines[:4] == [
        "KAFKA_TOPIC_INIT_DRY_RUN=0",
        "KAFKA_TOPIC_INIT_SUCCESS=true",
        "KAFKA_TOPIC_INIT_FAILED_STEP=",
        "KAFKA_TOPIC_INIT_TOTAL_STEPS=1",
    ]
    assert lines[4:6] == ["STEP_1_NAME=observe_kafka", "STEP_1_STATUS=ok"]
    assert lines[7:9] == ["STEP_1_EXIT_CODE=0", "STEP_1_COMMAND=describe market.ticks.v1"]
    assert lines[-2:] == [
        "KAFKA_TOPIC_INIT_OBSERVED_OBSERVE_KAFKA_PARTITIONS=6",
        "KAFKA_TOPIC_INIT_OBSERVED_CHANGES=0",
    ]


def test_a_dry_run_asks_nobody() -> None:
    """Without --execute no task is done, and nothing is claimed to be seen."""
    result = result_of(answering("asked!"), execute=False)
    assert result.dry_run
    assert result.exit_code == 0
    assert b"STEP_1_STATUS=simulated_ok" in result.evidence()
    assert b"OBSERVED" not in result.evidence()


def test_a_probe_leaves_out_what_acts() -> None:
    """--probe looks for real, and what may change something is only said to be there."""
    acts = replace(answering("acted!", "create"), acts=True)
    result = result_of(acts, answering(SEEN), execute=False, probe=True)
    assert [step.status.value for step in result.steps] == ["simulated_ok", "ok"]
    assert result.exit_code == 0
    assert result_of(answering("down"), execute=False, probe=True).exit_code == 2


@pytest.mark.parametrize("flag", ["1", 1, "false", None])
def test_only_true_acts(flag: object) -> None:
    """What is neither True nor False is no order to act, whoever passes it."""
    steps = perform([answering("acted!")], execute=flag, probe=flag)  # type: ignore[arg-type]
    assert [step.status for step in steps] == [StepStatus.SIMULATED_OK]
    with pytest.raises(InputError, match="options of the gate"):
        GateOptions(execute=flag)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [Observation({}, ("1 partition, wanted 6",)), "no answer"])
def test_a_problem_fails_the_gate_with_what_was_seen(answer: Observation | str) -> None:
    """A topic with one partition where six are wanted, and a dead broker, both exit 3."""
    result = result_of(answering(answer))
    words = answer if isinstance(answer, str) else answer.problems[0]
    assert result.exit_code == 3
    assert words in result.sentence
    assert b"KAFKA_TOPIC_INIT_FAILED_STEP=observe_kafka" in result.evidence()
    assert f"_OBSERVE_KAFKA_REASON={words}".encode() in result.evidence()


def test_what_is_vital_ends_the_gate() -> None:
    """What comes after it would only fail with it, and is not run; others do not end it."""
    down, late = replace(answering("down", "reach"), is_vital=True), answering("late", "look")
    result = result_of(answering("odd", "first"), down, late)
    assert [step.status.value for step in result.steps] == ["failed", "failed", "not_run"]
    assert result.steps[2].reason == "not run: reach failed before it"
    assert result.sentence == "gate kafka-topics FAILED: first: odd (and reach)"


OUTCOMES: dict[str, tuple[Observation, StepStatus, str]] = {
    "seen": (Observation({"a": "1"}), StepStatus.OK, ""),
    "two problems": (Observation({}, ("x", "y")), StepStatus.FAILED, "x; y"),
    "skipped": (Observation({}, skipped="no such thing"), StepStatus.SKIPPED, "no such thing"),
    "skipped, with a problem": (Observation({}, ("x",), skipped="no"), StepStatus.FAILED, "x"),
}


@pytest.mark.parametrize(("seen", "status", "reason"), OUTCOMES.values(), ids=OUTCOMES)
def test_a_step_is_what_was_seen(seen: Observation, status: StepStatus, reason: str) -> None:
    """A problem outweighs whatever else was seen."""
    (step,) = perform([answering(seen)], execute=True)
    assert (step.status, step.reason, step.facts) == (status, reason, seen.facts)


# --- in words ---------------------------------------------------------------------


def step(status: StepStatus, *, name: str = "look", **more: object) -> GateStep:
    """A step of this status."""
    return GateStep(name, status, 1.5, "ask", **more)  # type: ignore[arg-type]


STEP_SENTENCES = {
    "✓ look ok: partitions 6, in_sync 1": step(
        StepStatus.OK, facts={"partitions": "6", "in_sync": "1"}
    ),
    "✗ look failed: down": step(StepStatus.FAILED, facts={"a": "1"}, reason="down"),
    "– look simulated_ok: ask": step(StepStatus.SIMULATED_OK),
    "– look skipped: not here": step(StepStatus.SKIPPED, reason="not here"),
    "✓ look ok": replace(step(StepStatus.OK), question=""),
}


@pytest.mark.parametrize(("sentence", "said"), STEP_SENTENCES.items())
def test_a_step_says_why_or_what(sentence: str, said: GateStep) -> None:
    """The reason, else the facts, else the question."""
    assert said.sentence == sentence


GATE_SENTENCES: dict[str, tuple[Callable[[], GateResult], int]] = {
    "gate kafka-topics ok: look ok": (
        lambda: GateResult(KAFKA, False, (step(StepStatus.OK),)),
        0,
    ),
    "gate kafka-topics dry run: look simulated_ok": (
        lambda: GateResult(KAFKA, True, (step(StepStatus.SIMULATED_OK),)),
        0,
    ),
    "gate kafka-topics ok: 5 steps ok": (
        lambda: GateResult(KAFKA, False, (step(StepStatus.OK),) * 5),
        0,
    ),
    "gate kafka-topics ok: ": (lambda: GateResult(KAFKA, False, ()), 3),
}


@pytest.mark.parametrize(("sentence", "made"), GATE_SENTENCES.items())
def test_a_gate_says_how_it_went(sentence: str, made: tuple[Callable[[], GateResult], int]) -> None:
    """By its steps, counted where they are many; a gate that asked nothing is not passed."""
    result = made[0]()
    assert (result.sentence, result.exit_code) == (sentence, made[1])


def test_two_facts_of_one_key_both_stand_in_the_evidence() -> None:
    """A key that stands twice in a file is refused, so the second is another."""
    result = result_of(
        answering(Observation({"a b": "1", "a-b": "2"}), "look"),
        answering(Observation({"a_b": "3"}, changes=2), "look"),
    )
    lines = [line for line in result.evidence().decode().splitlines() if "OBSERVED" in line]
    start = "KAFKA_TOPIC_INIT_OBSERVED"
    assert lines == [
        f"{start}_LOOK_A_B=1",
        f"{start}_LOOK_A_B_AGAIN=2",
        f"{start}_LOOK_A_B_AGAIN_AGAIN=3",
        f"{start}_CHANGES=2",
    ]


# --- where it goes, and what it proves --------------------------------------------


def test_where_evidence_goes(tmp_path: Path) -> None:
    """--output-file, then --evidence-dir, then the run's; a dry run writes only what was asked."""
    gate = GATES["bootstrap"]
    name = "single_host_bootstrap_result.env"
    run = {"CTP_EVIDENCE_DIR": "/run/evidence"}
    file, folder = tmp_path / "f.env", tmp_path
    assert (
        output_path(gate, GateOptions(output_file=file, evidence_dir=folder), environ=run) == file
    )
    assert output_path(gate, GateOptions(evidence_dir=folder), environ=run) == folder / name
    assert output_path(gate, GateOptions(), environ=run) == Path("/run/evidence") / name
    assert output_path(gate, GateOptions(execute=True), environ={}) == Path("outputs") / name
    assert output_path(gate, GateOptions(), environ={}) is None


def test_evidence_that_was_written_verifies(tmp_path: Path) -> None:
    """What a good gate writes proves it; the same of a dry run does not prove a real one."""
    options = GateOptions(execute=True, output_file=tmp_path / "gate.env")
    for result, real, count in (
        (result_of(answering(SEEN)), True, 0),
        (result_of(answering(SEEN), execute=False, probe=True), False, 0),
        (result_of(answering(SEEN), execute=False, probe=True), True, 1),
    ):
        write_gate(result, options, environ={})
        findings = list(judge_gate_evidence(tmp_path / "gate.env", gate=KAFKA, real=real))
        assert len(findings) == count, findings


BAD_FILES = {
    "missing": (None, "cannot be read"),
    "dry run": (b"X_DRY_RUN=1\n", "DRY_RUN is '1'"),
    "failed": (b"X_SUCCESS=false\n", "SUCCESS is 'false'"),
    "empty": (b"", "torn"),
    "no dry run said": (b"X_SUCCESS=true\nX_FAILED_STEP=\nX_TOTAL_STEPS=0\n", "DRY_RUN is None"),
    "a failed step": (b"X_FAILED_STEP=look\n", "FAILED_STEP is 'look'; expected ''"),
    "fewer steps than it says": (b"X_TOTAL_STEPS=2\n", "0 step groups; the total says '2'"),
    "a step not run": (b"STEP_1_STATUS=not_run\n", "a step is not_run; expected ok"),
    "a line that is none": (b"KEY\n", "is not KEY=VALUE"),
    "changes alone": (b"X_OBSERVED_CHANGES=0\n", "it does not say what was seen"),
    "no steps": (b"X_DRY_RUN=0\nX_SUCCESS=true\nX_FAILED_STEP=\nX_TOTAL_STEPS=0\n", "nothing was"),
}


@pytest.mark.parametrize(("data", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_evidence_that_proves_nothing_is_refused(
    data: bytes | None, said: str, tmp_path: Path
) -> None:
    """A gate's evidence that is missing, dry, failed or empty is a finding."""
    path = tmp_path / "gate.env"
    if data is not None:
        path.write_bytes(data.replace(b"X_", b"KAFKA_TOPIC_INIT_"))
    findings = judge_gate_evidence(path, gate=GATES["kafka-topics"], real=True)
    assert said in "\n".join(findings)


def test_the_four_scripts_are_wrappers() -> None:
    """infra/scripts/*.sh stay three lines and hand their flags on."""
    names = (
        "bootstrap_prodlike",
        "init_kafka_topics",
        "init_clickhouse_schema",
        "init_debezium_connectors",
    )
    of_the_runbook = [gate.name for gate in GATES.values() if gate.is_due]
    for name, gate in zip(names, of_the_runbook, strict=True):
        script = ROOT / "infra/scripts" / f"{name}.sh"
        lines = script.read_text().splitlines()
        assert len(lines) == 3
        assert lines[-1].endswith(f'/.venv/bin" exec ctp-runbook infra {gate} "$@"')
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)
