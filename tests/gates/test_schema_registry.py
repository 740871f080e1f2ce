"""Facts about gates/schema_registry.py: what a registry must say for the gate to pass."""

from __future__ import annotations

import pytest

from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from tests.props.small_servers import http_page

pytestmark = pytest.mark.twin
CONFIG = '{"compatibilityLevel": "BACKWARD"}'
LATEST = '{"version": 3, "schema": "{}"}'


def gate_at(*pages: str, status: int = 200) -> GateResult:
    """The gate of a registry that gives these answers, one after the other."""
    with http_page(*pages, status=status) as url:
        endpoint = {"schema-registry": url.removesuffix("/metrics")}
        return run_gate(
            "schema-registry", GateOptions(execute=True, endpoints=endpoint), environ={}
        )


def test_a_sound_registry_passes() -> None:
    """Evidence has what was seen under the gate's prefix."""
    result = gate_at(CONFIG, '["orders-value", "a/b"]', LATEST)
    assert result.is_ok, result.sentence
    lines = result.evidence().decode().splitlines()
    assert "SCHEMA_REGISTRY_OBSERVED_REACH_REGISTRY_COMPATIBILITY=BACKWARD" in lines
    assert "SCHEMA_REGISTRY_OBSERVED_READ_SUBJECTS_SUBJECTS=2" in lines


WRONG = {
    "takes anything": (('{"compatibilityLevel": "NONE"}',), "compatibility is NONE"),
    "no level": (("{}",), "compatibility is unknown"),
    "no subject": ((CONFIG, "[]"), "no subject is registered"),
    "no schema": ((CONFIG, '["a"]', "{}"), "subject a: its latest version has no schema"),
    "no JSON": (("<html>",), "not JSON"),
    "another's JSON": (("[]",), "a list, not a registry's answer"),
}


@pytest.mark.parametrize(("pages", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_fails_the_gate(pages: tuple[str, ...], said: str) -> None:
    """By name, with what was expected."""
    result = gate_at(*pages)
    assert result.exit_code == 3
    assert said in result.sentence


def test_another_status_is_no_answer() -> None:
    """The sentence names the address."""
    assert "HTTP 404; is it the registry's address?" in gate_at("{}", status=404).sentence
