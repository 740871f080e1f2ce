"""Facts about cli/click_commands.py: a row is shown and read as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from ctp_runbook.cli.click_commands import click_command
from ctp_runbook.cli.options import Command, Option

ROWS = (
    Option("--folder PATH", "Where.", default=Path("here")),
    Option("--name TEXT...", name="names"),
    Option("--set KEY=VALUE...", name="pairs"),
    Option("--limit FLOAT"),
    Option("--seconds FLOAT>0", default=5.0),
    Option("--runs INTEGER>=1", default=1),
    Option("--keep/--no-keep", default=True),
    Option("--by WHOM"),
    Option("WORDS ...", name="rest"),
)


def values_of(*words: str) -> dict[str, Any]:
    """What click makes of the words."""
    command = click_command("any", Command(lambda **_: None, *ROWS))
    return command.make_context("any", list(words)).params


def test_defaults() -> None:
    """What was not given is the row's default, or the blank of its kind."""
    assert values_of() == {
        "folder": Path("here"),
        "names": (),
        "pairs": {},
        "limit": None,
        "seconds": 5.0,
        "runs": 1,
        "keep": True,
        "by": "",
        "rest": (),
    }


def test_each_kind_is_read_as_its_word_says() -> None:
    """Paths, what comes again, pairs (split at the first =), numbers, switches and free words."""
    words = ["--name", "a", "--name", "b", "--set", "k=v=w", "--seconds", "0.5", "--no-keep"]
    values = values_of(*words, "--folder", "x", "--", "-y")
    assert values["names"] == ("a", "b")
    assert values["pairs"] == {"k": "v=w"}
    assert values["seconds"] == 0.5
    assert values["keep"] is False
    assert values["folder"] == Path("x")
    assert values["rest"] == ("-y",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "k"), "k: expected NAME=VALUE"),
        (("--set", "=v"), "=v: expected NAME=VALUE"),
        (("--seconds", "0"), "0.0 is not in the range x>0"),
        (("--runs", "0"), "0 is not in the range x>=1"),
    ],
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], said: str) -> None:
    """By the option's name and what was expected."""
    with pytest.raises(click.BadParameter) as refused:
        values_of(*words)
    assert said in refused.value.message


def test_help_shows_the_word_the_default_and_the_docstring() -> None:
    """As the row has them."""

    def perform(**_: object) -> None:
        """Do it."""

    command = click_command("any", Command(perform, *ROWS))
    text = command.get_help(click.Context(command, info_name="any"))
    assert "Do it." in text
    assert "--folder PATH" in text
    assert "Where.  [default: here]" in text
    assert "--by WHOM" in text
    assert "[default: 5.0; x>0]" in text
