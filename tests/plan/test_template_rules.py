"""Rules over several keys speak only of values that are good by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.template_keys import read_keys
from ctp_runbook.plan.template_rules import cross_problems, monitor_keys, trigger_of
from ctp_runbook.plan.template_text import parse_template

RULES = load_watch(Path(__file__).parents[2] / "configs" / "watch.toml")


def said(cutover: str, rollback: str) -> list[tuple[str, str]]:
    """Key and finding of each problem between keys."""
    values = read_keys(
        parse_template(cutover.encode(), file="c.env"),
        parse_template(rollback.encode(), file="r.env"),
    )
    return [(problem.key, problem.found) for problem in cross_problems(values, RULES)]


def test_one_mistake_is_one_problem() -> None:
    """A value already refused is not accused again by a rule that needs it."""
    assert said("CUTOVER_ENV_NAME=a b", "ROLLBACK_ENV_NAME=c") == []
    assert said("ROLLBACK_CANCEL_SECONDS=nan", "MAX_ROLLBACK_SECONDS=10") == []


def test_wrong_monitor_keys_do_not_make_the_trigger_wrong() -> None:
    """The trigger is then held against all of watch.toml."""
    found = said("MONITOR_KEYS=what", "ROLLBACK_TRIGGER_CONDITION=reconnect_gt_10s")
    assert [key for key, _ in found] == ["MONITOR_KEYS"]


def test_trigger_is_held_against_what_is_watched() -> None:
    """A metric nobody samples could never fire."""
    found = said("MONITOR_KEYS=breaker_state", "ROLLBACK_TRIGGER_CONDITION=reconnect_gt_10s")
    assert [key for key, _ in found] == ["ROLLBACK_TRIGGER_CONDITION"]


@pytest.mark.parametrize("role", ["CORE_ENGINE", "STRATEGY_RUNNER"])
@pytest.mark.parametrize("previous", ["run  new", "run new", " run \u00a0new "])
def test_rollback_must_start_something_else(role: str, previous: str) -> None:
    """Blanks do not make another command of it."""
    found = said(f"NEW_{role}_START_CMD=run new", f"PREVIOUS_{role}_START_CMD={previous}")
    assert [key for key, _ in found] == [f"PREVIOUS_{role}_START_CMD"]


def test_other_commands_are_other_commands() -> None:
    """An engine and a runner may be started alike, and a flag is a difference."""
    assert said("NEW_CORE_ENGINE_START_CMD=a", "PREVIOUS_STRATEGY_RUNNER_START_CMD=a") == []
    assert said("NEW_CORE_ENGINE_START_CMD=a", "PREVIOUS_CORE_ENGINE_START_CMD=a -x") == []


@pytest.mark.parametrize("other", ["run/a", "run//a", "./run/a", "run/b/../a"])
def test_pid_files_are_compared_as_paths(other: str) -> None:
    """Two spellings of one file are one file, in whichever generation."""
    found = said(f"OLD_CORE_ENGINE_PID_FILE=run/a\nNEW_STRATEGY_RUNNER_PID_FILE={other}", "")
    assert [key for key, _ in found] == ["NEW_STRATEGY_RUNNER_PID_FILE"]


def test_monitor_keys_may_have_blanks_around_commas() -> None:
    """The list is read as people write lists."""
    cutover = parse_template(b"MONITOR_KEYS=breaker_state , reconnect_p99_s", file="c.env")
    rollback = parse_template(b"ROLLBACK_TRIGGER_CONDITION=reconnect_gt_10s", file="r.env")
    values = read_keys(cutover, rollback)
    assert monitor_keys(values) == ("breaker_state", "reconnect_p99_s")
    assert trigger_of(values, RULES).metrics == ("reconnect_p99_s",)
