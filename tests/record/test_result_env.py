"""Facts about record/result_env.py: KEY=VALUE lines written, read back, and held to their form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ctp_runbook.record.result_env import (
    ResultEnv,
    env_lines,
    form_findings,
    number_of,
    parse_env,
    step_group_findings,
)

STEP = {
    "STEP_1_NAME": "precheck",
    "STEP_1_STATUS": "ok",
    "STEP_1_DURATION_MS": "250",
    "STEP_1_EXIT_CODE": "0",
    "STEP_1_COMMAND": "/opt/quant-hft/bin/precheck",
}
ROLLBACK = {
    "ROLLBACK_ENV": "prod",
    "ROLLBACK_TRIGGER_CONDITION": "order_latency_p99_ms > 5",
    "ROLLBACK_DRY_RUN": "0",
    "ROLLBACK_TRIGGERED": "true",
    "ROLLBACK_SUCCESS": "true",
    "ROLLBACK_TOTAL_STEPS": "1",
    "ROLLBACK_FAILED_STEP": "",
    "ROLLBACK_MAX_SECONDS": "180",
    "ROLLBACK_DURATION_SECONDS": "8.5",
    "ROLLBACK_SLO_MET": "true",
    "ROLLBACK_STARTED_UTC": "2026-02-02T02:40:00.000000+00:00",
    "ROLLBACK_COMPLETED_UTC": "2026-02-02T02:40:08.500000+00:00",
    **STEP,
}

NUMBERS = {
    "0": 0.0,
    "12.5": 12.5,
    "-3": -3.0,
    "+1e3": 1000.0,
    "1E-2": 0.01,
}
NO_NUMBERS = ("", "nan", "inf", "-inf", "1e999", " 1", "1 ", "1_000", "0x1", "1.", ".5", "٣", "1\n")


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_a_decimal_number_is_read(text: str, value: float) -> None:
    """With sign and exponent, as any tool may write it."""
    assert number_of(text) == value


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_anything_else_is_no_number(text: str) -> None:
    """Neither what Python alone would read, nor what is not finite: it compares with nothing."""
    assert math.isnan(number_of(text))
    assert not number_of(text) >= 0


READ: dict[str, tuple[bytes, dict[str, str], str]] = {
    "a line": (b"A=1\n", {"A": "1"}, ""),
    "an empty value": (b"A=\n", {"A": ""}, ""),
    "an equals sign in a value": (b"A=b=c\n", {"A": "b=c"}, ""),
    "blanks around a value": (b"A= 1 \n", {"A": "1"}, ""),
    "a comment and a blank line": (b"# why\n\nA=1\n", {"A": "1"}, ""),
    "another line ending": (b"A=1\r\n", {"A": "1"}, ""),
    "a torn last line": (b"A=1\nB=2", {"A": "1", "B": "2"}, "its last line is torn"),
    "no equals sign": (b"A=1\nB\n", {"A": "1", "B": ""}, ":2: 'B' is not KEY=VALUE"),
    "a key of small letters": (b"a=1\n", {"a": "1"}, ":1: 'a=1' is not KEY=VALUE"),
    "a key that begins with a digit": (b"1A=1\n", {"1A": "1"}, "is not KEY=VALUE"),
    "a key twice": (b"A=1\nA=2\n", {"A": "1"}, ":2: A stands here a second time"),
    "nothing": (b"", {}, "its last line is torn"),
    "no text": (b"\xff\n", {}, "not UTF-8 text"),
}


@pytest.mark.parametrize(("data", "values", "said"), READ.values(), ids=READ)
def test_lines_are_read_and_the_others_are_told(
    data: bytes, values: dict[str, str], said: str, tmp_path: Path
) -> None:
    """By file and line; the first of two values counts, for it was the one written first."""
    path = tmp_path / "x.env"
    path.write_bytes(data)
    read, problems = parse_env(path)
    assert said in "".join(problems)
    assert bool(problems) is bool(said)
    assert read == values


def test_what_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """With why it cannot be read, and not an exception."""
    values, (problem,) = parse_env(tmp_path / "x.env")
    assert (values, "cannot be read: No such file" in problem) == ({}, True)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """A line break in a command stays on its line, and whatever is not a text is written as one."""
    pairs = [("STEP_1_COMMAND", "a\nb"), ("TOTAL", 3), ("EMPTY", "")]
    path = tmp_path / "x.env"
    path.write_bytes(env_lines(pairs))
    assert parse_env(path) == ({"STEP_1_COMMAND": "a\\nb", "TOTAL": "3", "EMPTY": ""}, [])


def test_a_result_says_its_own_keys() -> None:
    """By the prefix of its kind; what is missing reads blank, false and no number."""
    env = ResultEnv("x.env", "ROLLBACK", ROLLBACK)
    assert env.text("ENV") == "prod"
    assert env.flag("SUCCESS")
    assert env.seconds("MAX_SECONDS") == 180.0
    assert (env.text("NOBODY"), env.flag("NOBODY")) == ("", False)
    assert math.isnan(env.seconds("NOBODY"))


def test_the_steps_are_counted_by_their_highest_number() -> None:
    """A number of seven digits is no step: such a file is not walked through for an hour."""
    env = ResultEnv("x.env", "ROLLBACK", {**STEP, "STEP_3_NAME": "x", "STEP_9999999_NAME": "y"})
    assert env.steps == 3
    assert list(env.numbers) == [1, 2, 3]
    assert (env.step(3, "NAME"), env.step(2, "NAME")) == ("x", "")


def test_a_result_in_form_has_no_findings() -> None:
    """All keys of its kind there, each with a value it may have."""
    assert list(form_findings(ResultEnv("x.env", "ROLLBACK", ROLLBACK))) == []


@pytest.mark.parametrize("key", [key for key in ROLLBACK if key.startswith("ROLLBACK_")])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    """Each of the twelve, by its whole name."""
    values = {name: value for name, value in ROLLBACK.items() if name != key}
    assert f"x.env: {key} is missing" in form_findings(ResultEnv("x.env", "ROLLBACK", values))


WRONG = {
    "ROLLBACK_ENV": ("", "is blank"),
    "ROLLBACK_DRY_RUN": ("true", "is 'true'; expected 0 or 1"),
    "ROLLBACK_TRIGGERED": ("1", "is '1'; expected true or false"),
    "ROLLBACK_SUCCESS": ("True", "is 'True'; expected true or false"),
    "ROLLBACK_SLO_MET": ("", "expected true or false"),
    "ROLLBACK_MAX_SECONDS": ("inf", "is 'inf'; expected a finite number >= 0"),
    "ROLLBACK_DURATION_SECONDS": ("-1", "is '-1'; expected a finite number >= 0"),
    "ROLLBACK_TOTAL_STEPS": ("2", "1 step groups; the total says '2'"),
    "ROLLBACK_JOURNAL_SHA256": ("abc", "is 'abc'; expected a SHA-256 in hex"),
    "STEP_1_STATUS": ("fine", "is 'fine'; expected one of ok, failed, timed_out"),
    "STEP_1_DURATION_MS": ("fast", "is 'fast'; expected a number of milliseconds >= 0"),
    "STEP_1_EXIT_CODE": ("9", "STATUS is ok with exit code 9"),
    "STEP_1_COMMAND": ("", "COMMAND is blank"),
    "STEP_1_OUTPUT_SHA256": ("Z" * 64, "expected a SHA-256 in hex"),
}


@pytest.mark.parametrize(("key", "value", "said"), [(key, *row) for key, row in WRONG.items()])
def test_a_value_of_another_kind_is_told(key: str, value: str, said: str) -> None:
    """What stands there, and what was expected."""
    env = ResultEnv("x.env", "ROLLBACK", {**ROLLBACK, key: value})
    assert any(said in finding for finding in form_findings(env))


MAY_BE = {
    "ROLLBACK_FAILED_STEP": "",
    "ROLLBACK_STARTED_UTC": "",
    "ROLLBACK_COMPLETED_UTC": "",
    "STEP_1_OUTPUT_SHA256": "",
    "ROLLBACK_NOTE": "whatever a later tool adds",
}


@pytest.mark.parametrize(("key", "value"), MAY_BE.items())
def test_what_may_be_blank_or_added_is_let_through(key: str, value: str) -> None:
    """A rollback that never began has no times, and no step that failed."""
    env = ResultEnv("x.env", "ROLLBACK", {**ROLLBACK, key: value})
    assert list(form_findings(env)) == []


@pytest.mark.parametrize("status", ["skipped", "not_run", "simulated_ok"])
def test_what_never_ran_has_no_exit_code(status: str) -> None:
    """None, or 0 of earlier tools; any other would be that of a command."""
    step = {**STEP, "STEP_1_STATUS": status, "STEP_1_EXIT_CODE": ""}
    assert list(step_group_findings("x", step, total="1")) == []
    step["STEP_1_EXIT_CODE"] = "3"
    (finding,) = step_group_findings("x", step, total="1")
    assert finding == f"x: STEP_1_STATUS is {status} with exit code 3"


def test_a_step_is_whole() -> None:
    """Each of its five lines is there, and no number is left out between two steps."""
    step = {key: value for key, value in STEP.items() if key != "STEP_1_NAME"}
    assert list(step_group_findings("x", step, total="1")) == ["x: STEP_1_NAME is missing"]
    third = {key.replace("_1_", "_3_"): value for key, value in STEP.items()}
    findings = list(step_group_findings("x", {**STEP, **third}, total="3"))
    assert "x: STEP_2_STATUS is missing" in findings
