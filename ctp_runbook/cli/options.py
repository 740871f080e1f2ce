"""What the commands share: options, and how their values become a plan or a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = [
    "PATH",
    "find_run",
    "flags",
    "follow_to_end",
    "options_of",
    "outputs_option",
    "plan_of",
    "running",
    "template_files",
    "template_options",
    "which_record",
    "which_run",
    "why",
]

_LEFT = 7  # this viewer left while the run is holding for a decision
PATH = click.Path(path_type=Path)


def flags(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several click options as one decorator, in the order given."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


outputs_option = click.option("--outputs", type=PATH, default=Path("outputs"), show_default=True)
template_options = flags(
    click.option(
        "--cutover-template",
        type=PATH,
        default=Path("configs/ops/ctp_cutover.template.env"),
        show_default=True,
    ),
    click.option(
        "--rollback-template",
        type=PATH,
        default=Path("configs/ops/ctp_rollback_drill.template.env"),
        show_default=True,
    ),
    click.option("--limits", type=PATH, help="[default: beside the template, else configs/]"),
    click.option("--watch", type=PATH, help="[default: beside the template, else configs/]"),
)
running = flags(
    click.option("--execute", is_flag=True, help="Act. Without it nothing is run."),
    click.option("--probe", is_flag=True, help="Dry run: do the read-only probes for real."),
    click.option(
        "--force-rollback", is_flag=True, help="Drill: roll back after a verified switch."
    ),
    click.option("--plan-sha256", default="", metavar="HEX", help="Run only the plan reviewed."),
    click.option(
        "--short-watch", default="", metavar="REASON", help="Allow a watch below 30 minutes."
    ),
    click.option(
        "--accept-unmeasured",
        default="",
        metavar="REASON",
        help="Act although no earlier run measured how long cutover and rollback take here.",
    ),
    click.option(
        "--accept-late",
        default="",
        metavar="REASON",
        help="Act although a rollback may not end in time.",
    ),
    outputs_option,
    click.option(
        "--run-dir", type=PATH, help="The run's own directory  [default: a new one in --outputs]"
    ),
    click.option("--by", default="", help="Who asks, for the record."),
)
which_run = flags(
    click.option(
        "--run",
        "run_dir",
        type=PATH,
        help="Directory or id  [default: the one under way, else the last that was]",
    ),
    outputs_option,
)
which_record = flags(
    click.option("--run", "run_dir", type=PATH, help="Directory or id  [default: the newest]"),
    outputs_option,
)
why = flags(
    click.option("--reason", default="", help="Why, for the record."),
    click.option("--by", default="", help="Who asks, for the record."),
)


def template_files(given: dict[str, Any]) -> dict[str, Any]:
    """The four files of a plan among a command's options."""
    return {key: given[key] for key in ("cutover_template", "rollback_template", "limits", "watch")}


def plan_of(
    *,
    cutover_template: Path | None,
    rollback_template: Path | None,
    limits: Path | None,
    watch: Path | None,
) -> Any:
    """The plan these files make; raises TemplateError or ConfigError with every problem."""
    from ctp_runbook.notebook.checkout import find_config
    from ctp_runbook.plan.plan import load_plan

    assert cutover_template is not None  # both have defaults
    assert rollback_template is not None
    return load_plan(
        cutover_template,
        rollback_template,
        limits=limits or find_config("limits.toml", template=cutover_template),
        watch=watch or find_config("watch.toml", template=cutover_template),
        environ=os.environ,
        base=Path.cwd(),
    )


def options_of(given: dict[str, Any]) -> Any:
    """What is asked of a run, from a command's options."""
    from ctp_runbook.run.launch import RunOptions

    return RunOptions(
        execute=given["execute"],
        probe=given["probe"],
        force_rollback=given["force_rollback"],
        plan_sha256=given["plan_sha256"],
        short_watch_reason=given["short_watch"],
        accept_unmeasured=given["accept_unmeasured"],
        accept_late=given["accept_late"],
        outputs=given["outputs"],
        run_dir=given["run_dir"],
        by=given["by"],
        cutover_output=given.get("cutover_output"),
        rollback_output=given.get("rollback_output"),
    )


def find_run(run_dir: Path | None, outputs: Path, *, newest: bool = False) -> Any:
    """The run named by ``--run``, a directory or an id in ``--outputs``, else the one in charge.

    With ``newest``, for what only reads, it is the newest instead. Raises RunRefused when there is
    none.
    """
    from ctp_runbook.record.charge import run_in_charge
    from ctp_runbook.record.rundir import RunDir, newest_run

    if run_dir is None:
        return (newest_run if newest else run_in_charge)(outputs.absolute())
    by_id = outputs / run_dir
    return RunDir((by_id if by_id.is_dir() and not run_dir.is_dir() else run_dir).absolute())


def follow_to_end(run: Any, *, quiet: bool) -> int:
    """Follow a run to its end; Ctrl-C leaves it going."""
    from ctp_runbook.model import State
    from ctp_runbook.run import launch

    try:
        if quiet:
            history = launch.follow(run, until=lambda _: False)
        else:
            from ctp_runbook.show.terminal import Narrator

            with Narrator().on_terminal() as narrator:
                history = launch.follow(run, until=narrator.tick, on_change=narrator)
    except KeyboardInterrupt:
        state = launch.read_history(run).state
        click.echo(
            f"left; run {run.run_id} goes on ({state.value}). Come back with `ctp-runbook status "
            f"--run {run.path}`, end it with `ctp-runbook abort --run {run.path}`"
        )
        return _LEFT if state is State.HOLDING else 0
    assert history.closed is not None  # follow returned, so it is over
    assert history.outcome is not None
    click.echo(f"{history.outcome.value}: {history.closed.payload['sentence']}")
    click.echo(f"evidence: {run.evidence}")
    return history.outcome.exit_code
