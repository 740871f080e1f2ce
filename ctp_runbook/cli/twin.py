"""Commands around the rehearsal twin: rehearse, stack, lab."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctp_runbook.cli.click_commands import click_command
from ctp_runbook.cli.options import NEW_OUTPUTS, Option, command, say
from ctp_runbook.host.interruption import answered, raised

if TYPE_CHECKING:
    from ctp_runbook.rehearsal.twin import Twin

__all__ = ["lab", "rehearse", "stack"]


def _watch_seconds(default: float, help: str = "") -> Option:
    return Option("--watch-seconds FLOAT", help, default=default)


# As long as a real run holds where its template does not say: to decide is what one practises here.
_LAB_HOLD_SECONDS = 300.0
_WHAT_PLANE = "With PostgreSQL, Kafka, Debezium and ClickHouse; without: Valkey alone."
_PLANE = Option("--plane/--no-plane", _WHAT_PLANE, default=True)
_DIR = Option("--dir PATH", name="folder", default=Path("outputs/twin"))
_NEW_DIR = Option("--dir PATH", name="folder", writes="folder", default=Path("outputs/twin"))


@command(
    Option("--fault TEXT", "Break the new stack on purpose: see --list-faults"),
    Option("--list-faults"),
    Option("--force-rollback"),
    _watch_seconds(30.0),
    Option(
        "--engine twin|as-found",
        "as-found: engines that prove little, and stop late.",
        default="twin",
    ),
    Option(
        "--close-only-seconds FLOAT", "As found, the new engine only closes so long.", default=30.0
    ),
    Option("--stop-seconds FLOAT", "As found, TERM takes the new engine so long.", default=40.0),
    NEW_OUTPUTS,
    Option("--notebooks/--no-notebooks", "Without: orchestrate only.", default=True),
    Option("--keep", "Leave the twin up."),
    Option("--json", "Say it as JSON lines: infra/schemas/told.json.", name="as_json"),
    _PLANE,
)
def rehearse(list_faults: bool, **values: Any) -> int:
    """Bring the twin up, cut it over for real, verify, report, take the twin down.

    Ctrl-C asks the run to abort; once it is over, by rollback where it had switched, the twin goes
    down. What a killed rehearsal left is found by `ctp-runbook stack down --all`.
    """
    from ctp_runbook.rehearsal.rehearse import Rehearsal, fault_names, rehearse_cutover

    if list_faults:
        for name, meaning in fault_names().items():
            say(f"{name:16} {meaning}")
        return 0
    return rehearse_cutover(Rehearsal(**values), say=say)


@command(
    NEW_OUTPUTS,
    Option("--twin/--no-twin", "Bring the rehearsal twin up first."),
    _watch_seconds(60.0, "With --twin."),
    Option("WORDS ...", name="jupyter_arguments"),
)
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
    with raised():
        minutes = watch_seconds / 60
        twin = rehearsal_twin.up(
            room, watch_minutes=minutes, plane=True, hold_seconds=_LAB_HOLD_SECONDS
        )
        try:
            say(f"twin up in {twin.dir}: {twin.sentence}")
            parameters = rehearsal_parameters(twin.cutover_template, twin.rollback_template)
            return open_lab(outputs=outputs, parameters=parameters, arguments=arguments)
        finally:
            with answered("the lab has ended, and its twin is seen to"):
                _leave_twin(twin, outputs)


def _leave_twin(twin: Twin, outputs: Path) -> None:
    """Take the twin down, unless a run is still at work on it: it would roll back into a ruin."""
    from ctp_runbook.notebook.lab import run_going_on
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    if run := run_going_on(outputs, environment=twin.environment):
        say(f"run {run.run_id} goes on; end it with `ctp-runbook abort --run {run.path}`,")
        say(f"then take the twin down with `ctp-runbook stack down --dir {twin.dir}`")
    else:
        say(rehearsal_twin.down(twin.dir).sentence)


@click.group()
def stack() -> None:
    """The rehearsal twin: up, down, status."""


@command(_NEW_DIR, _watch_seconds(30.0), _PLANE)
def _up(folder: Path, watch_seconds: float, plane: bool) -> None:
    """Bring the twin up: front, data plane, the old engine and runner."""
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    began = time.monotonic()
    with raised():
        twin = rehearsal_twin.up(folder, watch_minutes=watch_seconds / 60, plane=plane)
    say(f"twin up in {time.monotonic() - began:.1f} s in {twin.dir}: {twin.sentence}")
    for line in rehearsal_twin.status(folder).sentences:
        say(f"  {line}")
    say(f"templates: {twin.cutover_template} and {twin.rollback_template}")


@command(
    _DIR,
    Option("--all", "Every twin of yours that a killed rehearse, lab or stack left.", name="every"),
    Option("--force", "A twin that a run or another command uses, too."),
)
def _down(folder: Path, every: bool, force: bool) -> int:
    """Stop every process of the twin, with proof."""
    from ctp_runbook.errors import RunRefused
    from ctp_runbook.rehearsal import stack as rehearsal_twin
    from ctp_runbook.rehearsal.twin import Twin

    if every:
        return _down_all(force=force)
    if (use := rehearsal_twin.use_of(Twin(folder.resolve()))) and not force:
        raise RunRefused(f"{folder} is left up: {use}, or --force takes the twin from under it")
    ended = rehearsal_twin.down(folder)
    for name, report in ended.reports.items():
        say(f"{name}: {report.sentence}")
    return 1 if ended.left else 0


def _down_all(*, force: bool) -> int:
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    twins = rehearsal_twin.down_all(force=force)
    for twin, became, _ in twins:
        say(f"{twin.dir}: {became}")
    if not twins:
        say("no twin of yours is up")
    return 0 if all(is_down for *_, is_down in twins) else 1


@command(_DIR, Option("--all", "Every twin of yours.", name="every"))
def _status(folder: Path, every: bool) -> int:
    """What of the twin runs."""
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    if every:
        return _status_all()
    seen = rehearsal_twin.status(folder)
    for line in seen.sentences:
        say(line)
    return 0 if seen.is_up else 1


def _status_all() -> int:
    from ctp_runbook.rehearsal import registry
    from ctp_runbook.rehearsal import stack as rehearsal_twin

    entries = registry.entries()
    for entry in entries:
        up = "up" if rehearsal_twin.status(entry.twin.dir).is_up else "NOT wholly up"
        use = rehearsal_twin.use_of(entry.twin, entry)
        say(f"{entry.twin.dir}: {up}; {use or 'nobody uses it'}")
    if not entries:
        say("no twin of yours is up")
    return 0


for _name, _row in (("up", _up), ("down", _down), ("status", _status)):
    stack.add_command(click_command(_name, _row))
