"""Commands around the rehearsal twin: rehearse, stack, lab."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctp_runbook.cli.options import PATH, outputs_option

if TYPE_CHECKING:
    from ctp_runbook.rehearsal.twin import Twin

__all__ = ["lab", "rehearse", "stack"]

_plane_option = click.option(
    "--plane/--no-plane",
    default=True,
    help="With PostgreSQL, Kafka, Debezium and ClickHouse; without: Valkey alone.",
)


@click.command()
@click.option("--fault", default="", help="Break the new stack on purpose: see --list-faults")
@click.option("--list-faults", is_flag=True)
@click.option("--force-rollback", is_flag=True)
@click.option("--watch-seconds", type=float, default=30.0, show_default=True)
@outputs_option
@click.option("--notebooks/--no-notebooks", default=True, help="Without: orchestrate only.")
@click.option("--keep", is_flag=True, help="Leave the twin up.")
@_plane_option
def rehearse(list_faults: bool, **given: Any) -> int:
    """Bring the twin up, cut it over for real, verify, report, take the twin down."""
    from ctp_runbook.rehearsal.rehearse import Rehearsal, fault_names, rehearse_cutover

    if list_faults:
        for name, meaning in fault_names().items():
            click.echo(f"{name:16} {meaning}")
        return 0
    return rehearse_cutover(Rehearsal(**given), say=lambda line: click.echo(line))


@click.command()
@outputs_option
@click.option("--twin/--no-twin", default=False, help="Bring the rehearsal twin up first.")
@click.option("--watch-seconds", type=float, default=60.0, show_default=True, help="With --twin.")
@click.argument("jupyter_arguments", nargs=-1, type=click.UNPROCESSED)
def lab(outputs: Path, twin: bool, watch_seconds: float, jupyter_arguments: tuple[str, ...]) -> int:
    """Open the notebooks in JupyterLab, on a copy that may be executed.

    It prints the address to open. Leaving it stops nothing of a run. What stands after -- goes to
    JupyterLab.
    """
    from ctp_runbook.notebook.lab import open_lab

    if twin:
        return _lab_on_twin(outputs, watch_seconds, jupyter_arguments)
    return open_lab(outputs=outputs, parameters={}, arguments=jupyter_arguments)


def _lab_on_twin(outputs: Path, watch_seconds: float, arguments: tuple[str, ...]) -> int:
    from datetime import UTC, datetime

    from ctp_runbook.notebook.lab import open_lab, rehearsal_parameters
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    room = outputs.absolute() / "twins" / f"lab-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    made = rehearsal_twin.up(room, watch_minutes=watch_seconds / 60, plane=True)
    click.echo(f"twin up in {made.dir}: {made.sentence}")
    parameters = rehearsal_parameters(made.cutover_template, made.rollback_template)
    try:
        return open_lab(outputs=outputs, parameters=parameters, arguments=arguments)
    finally:
        _leave_twin(made, outputs)


def _leave_twin(made: Twin, outputs: Path) -> None:
    """Take the twin down, unless a run is still at work on it: it would roll back into a ruin."""
    from ctp_runbook.notebook.lab import run_going_on
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    if run := run_going_on(outputs, environment=made.environment):
        click.echo(f"run {run.run_id} goes on; end it with `ctp-runbook abort --run {run.path}`,")
        click.echo(f"then take the twin down with `ctp-runbook stack down --dir {made.dir}`")
    else:
        click.echo(rehearsal_twin.down(made.dir).sentence)


@click.group()
def stack() -> None:
    """The rehearsal twin: up, down, status."""


@stack.command("up")
@click.option("--dir", "twin_dir", type=PATH, default=Path("outputs/twin"), show_default=True)
@click.option("--watch-seconds", type=float, default=30.0, show_default=True)
@_plane_option
def _up(twin_dir: Path, watch_seconds: float, plane: bool) -> None:
    """Bring the twin up: front, data plane, the old engine and runner."""
    from ctp_runbook.rehearsal import stack as twin

    began = time.monotonic()
    made = twin.up(twin_dir, watch_minutes=watch_seconds / 60, plane=plane)
    click.echo(f"twin up in {time.monotonic() - began:.1f} s in {made.dir}: {made.sentence}")
    for line in twin.status(twin_dir).sentences:
        click.echo(f"  {line}")
    click.echo(f"templates: {made.cutover_template} and {made.rollback_template}")


@stack.command("down")
@click.option("--dir", "twin_dir", type=PATH, default=Path("outputs/twin"), show_default=True)
def _down(twin_dir: Path) -> int:
    """Stop every process of the twin, with proof."""
    from ctp_runbook.rehearsal import stack as twin

    ended = twin.down(twin_dir)
    for name, report in ended.reports.items():
        click.echo(f"{name}: {report.sentence}")
    return 1 if ended.left else 0


@stack.command("status")
@click.option("--dir", "twin_dir", type=PATH, default=Path("outputs/twin"), show_default=True)
def _status(twin_dir: Path) -> int:
    """What of the twin runs."""
    from ctp_runbook.rehearsal import stack as twin

    found = twin.status(twin_dir)
    for line in found.sentences:
        click.echo(line)
    return 0 if found.is_up else 1
