"""``ctp-runbook``: the commands of RUNBOOK.md and those around them (CONTRACT §4, §5)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from ctp_runbook.cli.options import (
    PATH,
    flags,
    follow_to_end,
    options_of,
    outputs_option,
    plan_of,
    running,
    template_files,
    template_options,
)
from ctp_runbook.errors import InputError, RunbookError

__all__ = ["cli", "drill", "main", "orchestrate", "plan", "proc", "run", "verify"]


def main() -> NoReturn:
    """Run the command line; whatever happens, an operator sees sentences and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except RunbookError as error:
        _say(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing of a running run was stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  the last boundary: no traceback for an operator
        click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
        click.echo(f"details: {_keep_traceback()}; please report it", err=True)
        sys.exit(70)


def _say(error: RunbookError) -> None:
    lines = [one.sentence for one in error.problems] if isinstance(error, InputError) else [error]
    for line in lines:
        click.secho(f"error: {line}", err=True, fg="red")


def _keep_traceback() -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="ctp-runbook-", suffix=".log", delete=False
    ) as sink:
        sink.write(traceback.format_exc())
    return sink.name


# Commands that live in modules of their own, imported when one is asked for: starting must
# stay quick. The order is that of --help, which is the order of use.
_ELSEWHERE = {
    "readiness": "gates",
    "infra": "gates",
    "status": "runs",
    "hold": "runs",
    "resume": "runs",
    "abort": "runs",
    "rollback": "runs",
    "report": "runs",
    "rejudge": "runs",
    "rehearse": "twin",
    "stack": "twin",
    "lab": "twin",
}


class _Group(click.Group):
    """The commands of this module, then those of ``_ELSEWHERE``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        import importlib

        module = importlib.import_module(f"ctp_runbook.cli.{_ELSEWHERE[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ctp-runbook", prog_name="ctp-runbook")
def cli() -> None:
    """Cut over a live CTP trading engine: plan, gates, switch, watch, rollback, proof.

    Every command is a dry run unless --execute is given.

    Exit codes: 0 done and verified; 2 refused, nothing was touched; 3 a gate failed, the old
    stack still trades; 4 rolled back in time; 5 rolled back, late or not validated; 6 rollback
    failed: act now; 7 left while the run is holding.
    """


@cli.command()
@template_options
@click.option("--output-md", type=PATH)
@click.option("--output-json", type=PATH)
@outputs_option
def plan(
    output_md: Path | None, output_json: Path | None, outputs: Path, **files: Path | None
) -> None:
    """Check the templates and write the checklist (RUNBOOK §2)."""
    from ctp_runbook.plan.checklist import checklist_json, checklist_markdown
    from ctp_runbook.record.durations import measured_durations
    from ctp_runbook.record.rundir import write_atomic

    made = plan_of(**files)
    measured = measured_durations(made.environment, [outputs])
    markdown = checklist_markdown(made, measured)
    if output_md:
        write_atomic(output_md, markdown.encode())
    if output_json:
        write_atomic(output_json, checklist_json(made, measured).encode())
    if not (output_md or output_json):
        click.echo(markdown)
    for warning in made.warnings:
        click.secho(f"warning: {warning}", err=True, fg="yellow")
    click.echo(f"earlier runs: cutover {measured.cutover}, rollback {measured.rollback}")
    click.echo(f"plan {made.environment}: {len(made.steps)} steps, sha256 {made.sha256}")


_copies = flags(
    click.option("--cutover-output", type=PATH, help="Copy of ctp_cutover_result.env"),
    click.option("--rollback-output", type=PATH, help="Copy of ctp_rollback_result.env"),
)


@cli.command()
@template_options
@running
@_copies
def orchestrate(**given: Any) -> int:
    """Gates, switch and watch without notebooks (RUNBOOK §3)."""
    return _conduct(given, "orchestrate")


@cli.command()
@template_options
@running
@_copies
def drill(**given: Any) -> int:
    """The rollback drill (RUNBOOK §6): orchestrate --force-rollback under its own name."""
    return _conduct({**given, "force_rollback": True}, "drill")


def _conduct(given: dict[str, Any], name: str) -> int:
    from ctp_runbook.run import launch

    made = plan_of(**template_files(given))
    options = options_of(given)
    run = launch.begin(
        made,
        options,
        reason=f"{name} --execute",
        tell=lambda run: click.echo(f"run {run.run_id}: {run.path}"),
    )
    return follow_to_end(run, quiet=not options.execute)


@cli.command()
@template_options
@running
@click.option("--notebooks", type=PATH, help="Directory of the seven notebooks")
def run(**given: Any) -> int:
    """The seven notebooks, headless: executed notebooks are the evidence."""
    from ctp_runbook.notebook.runner import run_all

    return run_all(
        **template_files(given),
        options=options_of(given),
        notebooks_dir=given["notebooks"],
        on_progress=lambda line: click.echo(line),
    )


@cli.command()
@click.option("--run", "run_dir", type=PATH, help="Run directory: recompute everything.")
@click.option("--cutover-evidence-file", type=PATH)
@click.option("--rollback-evidence-file", type=PATH)
@click.option("--allow-cutover-rollback", is_flag=True)
@click.option("--max-rollback-seconds", type=float)
def verify(
    run_dir: Path | None,
    cutover_evidence_file: Path | None,
    rollback_evidence_file: Path | None,
    allow_cutover_rollback: bool,
    max_rollback_seconds: float | None,
) -> int:
    """Verify a run, or a bare pair of result files (RUNBOOK §8)."""
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.verify.pair import verify_pair
    from ctp_runbook.verify.run import verify_run

    wanted = {
        "allow_cutover_rollback": allow_cutover_rollback,
        "max_rollback_seconds": max_rollback_seconds,
    }
    if run_dir is not None:
        report = verify_run(RunDir(run_dir.absolute()), **wanted)  # type: ignore[arg-type]
    elif cutover_evidence_file and rollback_evidence_file:
        report = verify_pair(cutover_evidence_file, rollback_evidence_file, **wanted)  # type: ignore[arg-type]
    else:
        raise click.UsageError(
            "give --run DIR, or both --cutover-evidence-file and --rollback-evidence-file"
        )
    for check in report.checks:
        click.echo(f"{'✓' if check.ok else '✗'} {check.name}: {check.sentence}")
    click.secho(report.sentence, fg="green" if report.ok else "red")
    return 0 if report.ok else 2


# --- parts ------------------------------------------------------------------------


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def proc(words: tuple[str, ...]) -> int:
    """proc start | stop | alive --pid-file F [-- CMD]: daemons with an identity."""
    from ctp_runbook.host import proc as daemons

    return daemons.main(list(words))


if __name__ == "__main__":
    main()
