"""Facts about errors.py: everything an operator can be told has its sentence and its exit code."""

from __future__ import annotations

import pytest

from ctp_runbook import errors
from ctp_runbook.errors import InputError, PlanRefused, Problem, RunbookError, RunEnded

WHOLE = Problem("a.env", 3, "KEY", "'x'", "a number", "correct KEY")


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (WHOLE, "a.env:3: KEY: found 'x'; expected a number; correct KEY"),
        (WHOLE._replace(line=0), "a.env: KEY: found 'x'; expected a number; correct KEY"),
        (WHOLE._replace(key=""), "a.env:3: found 'x'; expected a number; correct KEY"),
        (
            WHOLE._replace(nearest="KEYS"),
            "a.env:3: KEY: found 'x'; expected a number (did you mean KEYS?); correct KEY",
        ),
    ],
)
def test_a_problem_is_one_sentence(problem: Problem, sentence: str) -> None:
    """Where, what was found and expected, what to do; no line and no key where there is none."""
    assert problem.sentence == sentence


def test_bad_input_names_every_problem() -> None:
    """A line each, in their order."""
    error = InputError([WHOLE, WHOLE._replace(line=9)])
    assert str(error).splitlines() == [problem.sentence for problem in error.problems]


def test_a_refused_plan_carries_every_reason() -> None:
    """And ends with 2, as whatever names no code of its own."""
    error = PlanRefused(reason for reason in ("too early", "no window"))
    assert (error.reasons, error.exit_code) == (("too early", "no window"), 2)


def test_a_run_that_ended_otherwise_has_its_own_code() -> None:
    """That of the run."""
    assert RunEnded("rolled back", exit_code=4).exit_code == 4


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "Problem"])
def test_all_are_of_one_tree(name: str) -> None:
    """One boundary catches them all."""
    assert issubclass(getattr(errors, name), RunbookError)


def test_a_traceback_carries_nothing_that_a_terminal_obeys() -> None:
    """The last words of a step may be among them."""
    (line,) = RunEnded("it said: \x1b[31mred\x07", exit_code=4)._render_traceback_()
    assert line == "✗ RunEnded: it said: [31mred"


def test_a_notebook_shows_the_sentence_and_no_code() -> None:
    """Each line marked, long ones broken between words."""
    (shown,) = PlanRefused(["word " * 40])._render_traceback_()
    lines = shown.splitlines()
    assert lines[0].startswith("✗ PlanRefused: word")
    assert len(lines) > 1
    assert all(len(line) <= 100 and "wor " not in line for line in lines)
