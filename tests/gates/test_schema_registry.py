"""Facts about gates/schema_registry.py: what a registry must say for the gate to pass."""

from __future__ import annotations

import pytest

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.gates.schema_registry import registry_tasks
from tests.props.small_servers import Asked, http_page, scripted_http

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


def test_where_it_is_comes_from_flag_or_environment() -> None:
    """The endpoint's flag first; a slash at its end is no part of it; nobody named has no task."""
    environ = {"SCHEMA_REGISTRY_URL": "http://environ:1/"}
    for endpoints, url in (
        ({"schema-registry": "http://flag:1/"}, "http://flag:1"),
        ({}, "http://environ:1"),
    ):
        options = GateOptions(endpoints=endpoints)
        tasks = registry_tasks(GateContext.of(options, environ=environ, tell=print))
        assert [task.question for task in tasks] == [f"GET {url}/config", f"GET {url}/subjects"]
    assert registry_tasks(GateContext.of(GateOptions(), environ={}, tell=print)) == ()


def test_a_subject_s_name_is_quoted() -> None:
    """It may have slashes; its latest version is what a writer is given."""
    seen: list[str] = []

    def answer(asked: Asked) -> tuple[int, str]:
        seen.append(asked[1])
        pages = {"/config": CONFIG, "/subjects": '["a/b c"]'}
        return 200, pages.get(asked[1], LATEST)

    with scripted_http(answer) as url:
        options = GateOptions(execute=True, endpoints={"schema-registry": url})
        assert run_gate("schema-registry", options, environ={}).is_ok
    assert seen == ["/config", "/subjects", "/subjects/a%2Fb%20c/versions/latest"]


@pytest.mark.parametrize("level", ["BACKWARD", "FULL_TRANSITIVE", "FORWARD"])
def test_any_compatibility_is_better_than_none(level: str) -> None:
    """Which one is for whoever owns the schemas."""
    config = f'{{"compatibilityLevel": "{level}"}}'
    result = gate_at(config, '["a"]', LATEST)
    assert result.is_ok, result.sentence
    assert result.steps[0].facts == {"compatibility": level}
