"""The key table: complete against the contract, typed, and strict about ranges."""

from __future__ import annotations

import re

import pytest

from ctp_runbook.plan.step_table import STEP_TABLE, StepSpec
from ctp_runbook.plan.template_keys import KEYS, READINESS_KEYS, SLI_NAMES, nearest_name, read_keys
from ctp_runbook.plan.template_text import parse_template

CUTOVER = str.split(
    """
    CUTOVER_ENV_NAME CUTOVER_WINDOW_LOCAL CTP_CONFIG_PATH OLD_CORE_ENGINE_STOP_CMD
    OLD_STRATEGY_RUNNER_STOP_CMD PRECHECK_CMD BOOTSTRAP_INFRA_CMD INIT_KAFKA_TOPIC_CMD
    INIT_CLICKHOUSE_SCHEMA_CMD INIT_DEBEZIUM_CONNECTOR_CMD NEW_CORE_ENGINE_START_CMD
    NEW_STRATEGY_RUNNER_START_CMD WARMUP_QUERY_CMD POST_SWITCH_MONITOR_MINUTES MONITOR_KEYS
    CUTOVER_EVIDENCE_OUTPUT
"""
)
ROLLBACK = str.split(
    """
    ROLLBACK_ENV_NAME ROLLBACK_TRIGGER_CONDITION NEW_CORE_ENGINE_STOP_CMD
    NEW_STRATEGY_RUNNER_STOP_CMD RESTORE_PREVIOUS_BINARIES_CMD RESTORE_REDIS_BRIDGE_COMPAT_CMD
    PREVIOUS_CORE_ENGINE_START_CMD PREVIOUS_STRATEGY_RUNNER_START_CMD POST_ROLLBACK_VALIDATE_CMD
    MAX_ROLLBACK_SECONDS ROLLBACK_EVIDENCE_OUTPUT
"""
)
OURS = str.split(
    """
    OLD_CORE_ENGINE_ALIVE_CMD OLD_STRATEGY_RUNNER_ALIVE_CMD NEW_CORE_ENGINE_ALIVE_CMD
    NEW_STRATEGY_RUNNER_ALIVE_CMD OLD_CORE_ENGINE_PID_FILE OLD_STRATEGY_RUNNER_UNIT
    NEW_CORE_ENGINE_UNIT NEW_STRATEGY_RUNNER_PID_FILE OLD_CORE_ENGINE_METRICS_URL
    NEW_CORE_ENGINE_METRICS_URL CUTOVER_LEAD_MINUTES CUTOVER_WINDOW_MINUTES SESSION_POLICY
    HOLD_SECONDS HOLD_EXPIRY FORCED_ROLLBACK_AFTER_SECONDS TRADING_STATE_CMD WORKING_ORDERS_POLICY
    CANCEL_WORKING_ORDERS_CMD HANDOVER_COMPARES ROLLBACK_CANCEL_SECONDS
    RESTORE_REDIS_BRIDGE_COMPAT
    READINESS_QUANT_HFT_CTP_QUERY_LATENCY_P99_MS_CMD READINESS_CORE_PROCESS_ALIVE_CMD
    READINESS_QUERY_LATENCY_P99_MS_CMD
"""
)


def test_required_keys_are_those_of_the_contract() -> None:
    """Not one more: files that people already fill in stay valid."""
    required = {key.name: key.home for key in KEYS.values() if key.required}
    assert required == {
        **dict.fromkeys(CUTOVER, "cutover"),
        **dict.fromkeys(ROLLBACK, "rollback"),
    }


def test_our_keys_are_known_and_may_stand_in_either_template() -> None:
    """The contract does not say which of the two, so neither is wrong."""
    assert all(KEYS[name].home == "either" for name in OURS)
    assert not any(KEYS[name].required for name in OURS)


def test_every_step_command_has_a_timeout_key() -> None:
    """``<STEP>_TIMEOUT_SECONDS`` for every ``<STEP>_CMD`` of the two templates."""
    commands = [name for name in (*CUTOVER, *ROLLBACK) if name.endswith("_CMD")]
    assert len(commands) == 17
    for name in commands:
        assert KEYS[name.removesuffix("_CMD") + "_TIMEOUT_SECONDS"].kind == "number"


def test_every_sli_has_a_command_key() -> None:
    """An old engine without metrics can be asked for each of the twelve."""
    assert set(READINESS_KEYS.values()) == set(SLI_NAMES)
    assert len(SLI_NAMES) == 12


def refused(line: str) -> str:
    """What is said of ``line`` in the cutover template, blank where it is accepted."""
    key = line.partition("=")[0]
    values = read_keys(
        parse_template(line.encode(), file="c.env"), parse_template(b"", file="r.env")
    )
    return "".join(problem.found for problem in values.problems if problem.key == key)


ACCEPTED = (
    *("HOLD_SECONDS=0", "HOLD_SECONDS=86400", "HOLD_SECONDS=+1.5e1", "HOLD_SECONDS=.5"),
    *("PRECHECK_TIMEOUT_SECONDS=0.001", "CUTOVER_ENV_NAME=single-host.ubuntu_1"),
    *("CUTOVER_WINDOW_LOCAL=2026-03-02T08:30Z", "CUTOVER_WINDOW_LOCAL=20260302T083000+0800"),
    *("CUTOVER_WINDOW_LOCAL=2026-03-02 08:30:00-05:30", "OLD_CORE_ENGINE_UNIT=core@old.service"),
    *("OLD_CORE_ENGINE_METRICS_URL=https://engine.local:18080/metrics?a=b",),
    *("OLD_CORE_ENGINE_METRICS_URL=http://[::1]:18080", "PRECHECK_CMD=cat <name> | x"),
    *("CTP_CONFIG_PATH=/opt/a b/ctp.yaml", "SESSION_POLICY=in_session"),
)
REFUSED = (
    *("HOLD_SECONDS=-1", "HOLD_SECONDS=86400.1", "HOLD_SECONDS=1,5", "HOLD_SECONDS=٣"),
    *("HOLD_SECONDS=0x10", "HOLD_SECONDS=infinity", "HOLD_SECONDS=1 s", "HOLD_SECONDS=--1"),
    *("PRECHECK_TIMEOUT_SECONDS=0", "CUTOVER_ENV_NAME=a/b", "CUTOVER_ENV_NAME=a b"),
    *("CUTOVER_ENV_NAME=.hidden", f"CUTOVER_ENV_NAME={'x' * 65}", "HOLD_EXPIRY=Rollback"),
    *("CUTOVER_WINDOW_LOCAL=2026-03-02", "CUTOVER_WINDOW_LOCAL=2026-02-30T08:30+08:00"),
    *("CUTOVER_WINDOW_LOCAL=1999-12-31T23:59Z", "CUTOVER_WINDOW_LOCAL=9999-12-31T23:59-12:00"),
    *("OLD_CORE_ENGINE_METRICS_URL=http://h/metrics", "OLD_CORE_ENGINE_METRICS_URL=ftp://h:1/"),
    *("OLD_CORE_ENGINE_METRICS_URL=http://u@h:1/", "OLD_CORE_ENGINE_METRICS_URL=http://h:0/"),
    *("OLD_CORE_ENGINE_METRICS_URL=http://h:65536/", "OLD_CORE_ENGINE_METRICS_URL=h:18080"),
    *("OLD_CORE_ENGINE_UNIT=a b", "CTP_CONFIG_PATH=<path>", "MONITOR_KEYS=<keys>"),
)


@pytest.mark.parametrize("line", ACCEPTED)
def test_value_is_accepted(line: str) -> None:
    """What an operator may rightly write."""
    assert refused(line) == ""


@pytest.mark.parametrize("line", REFUSED)
def test_value_is_refused(line: str) -> None:
    """What has the wrong type or range, told by its own words."""
    assert refused(line) != ""


def test_numbers_fall_back() -> None:
    """A key left out or left blank is its default, then limits.toml's, then 0."""
    text = parse_template(b"HOLD_SECONDS=\nCUTOVER_LEAD_MINUTES=5", file="c.env")
    values = read_keys(text, parse_template(b"", file="r.env"))
    assert values.number("HOLD_SECONDS", default=300) == 300
    assert values.number("CUTOVER_LEAD_MINUTES") == 5
    assert values.number("CUTOVER_WINDOW_MINUTES") == 60
    assert values.number("PRECHECK_TIMEOUT_SECONDS") == 0


def test_nearest_name_is_one_of_the_known() -> None:
    """A typing mistake is recognised; something else, or an endless key, is not guessed at."""
    assert nearest_name("MONITOR_KEY", tuple(KEYS)) == "MONITOR_KEYS"
    assert nearest_name("ZZZ", tuple(KEYS)) == ""
    assert nearest_name("MONITOR_KEYS" * 9, tuple(KEYS)) == ""


STEP_SPELLINGS = {
    "START_NEW_CORE_ENGINE_TIMEOUT_SECONDS": "NEW_CORE_ENGINE_START_TIMEOUT_SECONDS",
    "START_NEW_CORE_ENGNE_TIMEOUT_SECONDS": "NEW_CORE_ENGINE_START_TIMEOUT_SECONDS",
    "START_NEW_CORE_ENGINE": "NEW_CORE_ENGINE_START_CMD",
    "STOP_NEW_RUNNER_CMD": "NEW_STRATEGY_RUNNER_STOP_CMD",
    "OLD_CORE_ENGINE_START_CMD": "PREVIOUS_CORE_ENGINE_START_CMD",
    "PREVIOUS_CORE_ENGINE_STOP_CMD": "OLD_CORE_ENGINE_STOP_CMD",
    "CUTOVER_START_NEW_CORE_ENGINE_CMD": "NEW_CORE_ENGINE_START_CMD",
    "ROLLBACK_START_PREVIOUS_CORE_ENGINE_CMD": "PREVIOUS_CORE_ENGINE_START_CMD",
    "VALIDATE_POST_ROLLBACK_COMMAND": "POST_ROLLBACK_VALIDATE_CMD",
    "TIMEOUT_PRECHECK_S": "PRECHECK_TIMEOUT_SECONDS",
    "ROLLBACK_MAX_SECONDS": "MAX_ROLLBACK_SECONDS",
}


@pytest.mark.parametrize("name", STEP_SPELLINGS)
def test_the_nearest_key_has_the_words_of_the_step(name: str) -> None:
    """Somebody writes a step's verb first, as the step has it, or puts a template's name before it:
    the hint is never the key of another step that is spelt more alike."""
    assert nearest_name(name, tuple(KEYS)) == STEP_SPELLINGS[name]


@pytest.mark.parametrize("step", STEP_TABLE, ids=lambda step: step.name)
def test_each_step_leads_to_its_own_keys(step: StepSpec) -> None:
    """``<STEP>_CMD`` and ``<STEP>_TIMEOUT_SECONDS``, and a step's key in limits.toml by its words."""
    step_names = tuple(each.name for each in STEP_TABLE)
    assert nearest_name(f"{step.name.upper()}_CMD", tuple(KEYS)) == step.command_key
    assert nearest_name(f"{step.name.upper()}_TIMEOUT_SECONDS", tuple(KEYS)) == step.timeout_key
    assert nearest_name(step.command_key.removesuffix("_CMD").lower(), step_names) == step.name


def test_no_known_key_names_a_secret() -> None:
    """No secret has a place in a template: such a key is unknown, and its value masked."""
    assert not [name for name in KEYS if re.search("PASSWORD|TOKEN|SECRET|AUTH", name)]
