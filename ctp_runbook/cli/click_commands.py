"""The commands as click sees them: help, and what is wrong with the words that were typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ctp_runbook.cli.options import HOMES, Command, Option, load_command

__all__ = ["cli", "click_command"]


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, joint, value in pairs:
        if not (name and joint and value):
            raise click.BadParameter(f"{name}{joint}{value}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


# What click is told of an option by its METAVAR; any other word is a text's, and shown as it is.
_KINDS: dict[str, dict[str, Any]] = {
    "": {"is_flag": True},
    "PATH": {"type": click.Path(path_type=Path)},
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
        return click.Argument([option.name], nargs=-1, type=click.UNPROCESSED)
    word = option.metavar.removesuffix("...")
    kind = {"metavar": word.removesuffix("="), "multiple": word != option.metavar}
    if "=" in word:
        kind["callback"] = _pairs
    shown = bool(word and option.settings["default"])
    settings = {**_KINDS.get(option.metavar, kind), "show_default": shown, **option.settings}
    return click.Option([option.flag, option.name], help=option.help, **settings)


class _Group(click.Group):
    """The commands of ``HOMES``, in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in HOMES:
            return None
        found = load_command(cmd_name)
        return click_command(cmd_name, found) if isinstance(found, Command) else found


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ctp-runbook", prog_name="ctp-runbook")
def cli() -> None:
    """Cut over a live CTP trading engine: plan, gates, switch, watch, rollback, proof.

    Every command is a dry run unless --execute is given.

    Exit codes: 0 done and verified; 2 refused, nothing was touched; 3 a gate failed, the old
    stack still trades; 4 rolled back in time; 5 rolled back, late or not validated; 6 rollback
    failed: act now; 7 left while the run is holding.
    """
