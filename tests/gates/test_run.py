"""Facts about gates/run.py: a gate is found by its name, and one without anybody to ask fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.gates import GateOptions, run_gate, write_gate
from ctp_runbook.gates.gate import judge_gate_evidence
from ctp_runbook.gates.run import _step_without_task
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.gate_table import GATES

NOT_SERVICES = [name for name, gate in GATES.items() if gate.component != "services"]


def test_an_unknown_gate_is_refused_with_the_known_ones() -> None:
    """Before anything is asked."""
    with pytest.raises(RunRefused, match="no gate is named 'kafka'; there are bootstrap, kafka-"):
        run_gate("kafka", GateOptions())


@pytest.mark.parametrize("name", NOT_SERVICES)
def test_the_twin_skips_what_it_does_not_have(name: str, tmp_path: Path) -> None:
    """Profile rehearsal: skipped, and the observed line says why; only a rehearsal accepts it."""
    options = GateOptions(execute=True, profile="rehearsal", output_file=tmp_path / "x.env")
    result = run_gate(name, options)
    write_gate(result, options, environ={})
    assert result.exit_code == 0
    assert b"the rehearsal twin has no" in result.evidence()
    judged = {
        rehearsal: list(
            judge_gate_evidence(
                tmp_path / "x.env", gate=GATES[name], real=True, rehearsal=rehearsal
            )
        )
        for rehearsal in (True, False)
    }
    assert judged[True] == []
    assert "a step is skipped" in judged[False][0]


@pytest.mark.parametrize("name", GATES)
def test_nothing_unobserved_passes_elsewhere(name: str) -> None:
    """A gate that finds nobody to ask fails and names the flag that is missing."""
    step = _step_without_task(GATES[name], GateOptions(execute=True, profile="single-host"))
    assert step.status is StepStatus.FAILED
    assert f"no observer for {GATES[name].component} under profile single-host" in step.reason
    assert "name it with --" in step.reason


LOOKS = {
    "a dry run": (GateOptions(profile="rehearsal"), StepStatus.SIMULATED_OK, 0),
    "a probe": (GateOptions(profile="rehearsal", probe=True), StepStatus.FAILED, 2),
    "a real run": (GateOptions(profile="rehearsal", execute=True), StepStatus.FAILED, 3),
}


@pytest.mark.parametrize(("options", "status", "code"), LOOKS.values(), ids=LOOKS)
def test_services_are_not_optional_in_the_twin(
    options: GateOptions, status: StepStatus, code: int
) -> None:
    """A bootstrap that looks at nobody proves nothing, in a rehearsal too."""
    result = run_gate("bootstrap", options, environ={})
    assert [step.status for step in result.steps] == [status]
    assert result.exit_code == code


def test_a_result_is_redacted(tmp_path: Path) -> None:
    """A secret of the environment is in no sentence and in no evidence."""
    environ = {"REDIS_PASSWORD": "geheim-geheim"}
    options = GateOptions(endpoints={"x": "http://me:geheim-geheim@127.0.0.1/geheim-geheim"})
    result = run_gate("bootstrap", options, environ=environ)
    assert b"STEP_1_COMMAND=GET http://127.0.0.1/***" in result.evidence()
    assert b"geheim" not in result.evidence()
