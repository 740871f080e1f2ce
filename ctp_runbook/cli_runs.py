"""Commands for a run from any terminal: status, hold, resume, abort, rollback, report, rejudge."""

from __future__ import annotations

from pathlib import Path

import click

from ctp_runbook.cli_options import PATH, find_run, which_run, why

__all__ = ["abort", "hold", "rejudge", "report", "resume", "rollback", "status"]


@click.command()
@which_run
def status(run_dir: Path | None, outputs: Path) -> int:
    """Where a run stands."""
    from ctp_runbook import launch
    from ctp_runbook.narrate import sentence_of

    found = find_run(run_dir, outputs)
    history = launch.read_history(found)
    ended = history.outcome.value if history.outcome else history.state.value
    attended = "conducted" if launch.is_attended(found) else "not conducted by anybody"
    click.echo(f"run {found.run_id}: {ended}; {attended}; {found.path}")
    for line in [line for record in history.records if (line := sentence_of(record))][-8:]:
        click.echo(line)
    return history.outcome.exit_code if history.outcome else 0


def _steer(name: str, text: str) -> click.Command:
    @which_run
    @why
    def steer(run_dir: Path | None, outputs: Path, reason: str, by: str) -> None:
        from ctp_runbook import launch
        from ctp_runbook.errors import RunRefused

        found = find_run(run_dir, outputs)
        history = launch.read_history(found)
        if history.outcome is not None:
            raise RunRefused(
                f"run {found.run_id} is over ({history.outcome.value}); there is nothing to {name}"
            )
        launch.request(found, name, by=by or launch.operator_name(), reason=reason)
        if not launch.is_attended(found):
            launch.start(found, resume=f"taken up again by {by or launch.operator_name()}")
        click.echo(f"{name} asked of run {found.run_id}; follow it with `ctp-runbook status`")

    return click.command(name=name, help=text)(steer)


hold = _steer("hold", "Hold the watch for a decision.")
resume = _steer("resume", "Go on watching; or take up a run that nobody conducts.")
abort = _steer("abort", "Before the switch: end the run. After it: roll back.")
rollback = _steer("rollback", "Roll back now.")


@click.command()
@which_run
def report(run_dir: Path | None, outputs: Path) -> None:
    """Write report.html from the journal and the samples."""
    from ctp_runbook.report import write_report

    click.echo(str(write_report(find_run(run_dir, outputs))))


@click.command()
@which_run
@click.option("--watch", type=PATH, help="Other rules: what would they have changed?")
@click.option("--output-json", type=PATH, help="The same for a program.")
def rejudge(
    run_dir: Path | None, outputs: Path, watch: Path | None, output_json: Path | None
) -> None:
    """Judge a finished watch again from its raw samples, offline."""
    from ctp_runbook.rejudge import rejudge_run
    from ctp_runbook.rundir import write_atomic

    found = rejudge_run(find_run(run_dir, outputs), watch=watch)
    if output_json:
        write_atomic(output_json, found.json)
    click.echo(found.text, nl=False)
