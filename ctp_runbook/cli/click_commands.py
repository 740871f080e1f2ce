"""The commands as click sees them: help, and what is wrong with the words that were typed."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import click

from ctp_runbook.cli.options import HOMES, Command, Option, load_command

__all__ = ["LateGroup", "cli", "click_command"]


# What click is told of an option by its METAVAR; any other word is a text's, and shown as it is.
_KINDS: dict[str, dict[str, Any]] = {
    "": {"is_flag": True},
    "PATH": {"metavar": "PATH"},
    "FLOAT": {"type": float},
    "FLOAT>0": {"type": click.FloatRange(min=0, min_open=True)},
    "FLOAT>=1": {"type": click.FloatRange(min=1)},
    "INTEGER>=1": {"type": click.IntRange(min=1)},
    "INTEGER>=2": {"type": click.IntRange(min=2)},
}


def click_command(name: str, command: Command) -> click.Command:
    """Return ``command`` as click has it, under ``name``."""
    return click.Command(
        name,
        callback=command.perform,
        params=list(map(_parameter, command.options)),
        **{"help": command.perform.__doc__, **command.settings},
    )


def _parameter(option: Option) -> click.Parameter:
    if option.flag == "WORDS":
        shown_as = option.help or None
        return click.Argument([option.name], nargs=-1, type=click.UNPROCESSED, metavar=shown_as)
    word = option.metavar.removesuffix("...")
    kind = {"metavar": word.removesuffix("="), "multiple": word != option.metavar}
    shown = bool(word and option.settings["default"])
    settings = {**_KINDS.get(option.metavar, kind), "show_default": shown, **option.settings}
    if word:
        settings["callback"] = _checked(option)
    return click.Option([option.flag, option.name], help=option.help, **settings)


def _checked(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return what refuses a word by its sentence, and makes a path or pairs of those that are."""

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, float) and not isfinite(word):
                raise click.BadParameter(f"{word} is no finite number")
            if isinstance(word, str) and word and (problem := option.problem(word)):
                # Of paths alone: an address may hold a password.
                shown = f"{word!r} is" if option.metavar == "PATH" else "it is"
                raise click.BadParameter(f"{shown} {problem}")
        if option.metavar == "PATH":
            if value == "":
                raise click.BadParameter(f"it is {option.problem(value)}")
            return None if value is None else Path(value)
        return _pairs(value) if option.metavar not in _KINDS and "=" in option.metavar else value

    return check


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, joint, value in pairs:
        if not (name and joint and value):
            raise click.BadParameter(f"{name}{joint}{value}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


class LateGroup(click.Group):
    """A group that knows its commands by name alone, and what a word that is none was meant as."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; it suggests only commands that are loaded already."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near or near[0] in error.format_message():
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx
            ) from error


class _Group(LateGroup):
    """The commands of ``HOMES``, in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in HOMES:
            return None
        loaded = load_command(cmd_name)
        return click_command(cmd_name, loaded) if isinstance(loaded, Command) else loaded


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ctp-runbook", prog_name="ctp-runbook")
def cli() -> None:
    """Cut over a live CTP trading engine: plan, gates, switch, watch, rollback, proof.

    Every command is a dry run unless --execute is given.

    Exit codes: 0 done and verified; 2 refused, nothing was touched; 3 a gate failed, the old
    stack still trades; 4 rolled back in time; 5 rolled back, late or not validated; 6 rollback
    failed: act now; 7 this command no longer follows the run: look.

    \b
    To complete commands and flags, in ~/.bashrc (zsh and fish alike, by their names):
      eval "$(_CTP_RUNBOOK_COMPLETE=bash_source ctp-runbook)"
    """
