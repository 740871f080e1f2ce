"""A rollback after a declared success: a run of its own that undoes what its parent did.

It takes from the parent's closed journal what was started and who it is, and carries a copy of
that journal, so that its evidence can be verified without the parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError, RunbookError, RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.journal import begun_at, digest_of, read_journal
from ctp_runbook.record.kinds import ParentAdopted, Payload
from ctp_runbook.record.private_plan import named_files, plan_of_files
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir
from ctp_runbook.run.create import Undone
from ctp_runbook.run.launch import (
    RunOptions,
    held_environment,
    read_history,
    set_going,
    write_run,
)
from ctp_runbook.run.requests import Asked
from ctp_runbook.run.world import HERE, World

__all__ = ["roll_back_by_new_run", "rollback_gap"]


def rollback_gap(run: RunDir, history: History, *, world: World = HERE) -> str:
    """Why a run that is over cannot be rolled back by another, or nothing."""
    created, outcome = history.created, history.outcome
    if history.is_dry_run:
        return "it was a dry run: it switched nothing, so there is nothing to roll back"
    # Undoing a rollback starts the new stack: a switch without gates, READY and watch.
    if created.parent_run:
        return (
            f"it is itself the rollback of run {created.parent_run}; to go forward again, plan "
            "a new cutover"
        )
    if outcome is not Outcome.COMPLETED:
        word = outcome.value if outcome else history.state.value
        return f"it ended {word}: only what a COMPLETED run switched can be rolled back"
    # The pids in its journal are those of that host and of that boot: here they name strangers, and
    # the rollback ends what they name.
    if created.host != (host := world.caller.host_name()):
        return f"it ran on host {created.host}, and this is {host}; ask there"
    if history.records[0].boot_id != world.clock.boot_id():
        return (
            "the host was rebooted since: no process that it recorded can be proved to run or to "
            "be gone; follow plan/ctp_one_shot_cutover_checklist.md by hand"
        )
    return "; ".join(_newer_runs(run, history))


class _Header(Struct):
    """What is asked of another run's run.json, whatever else stands there."""

    environment: str
    dry_run: bool


def _newer_runs(run: RunDir, history: History) -> Iterator[str]:
    """Runs of the same environment beside this one that came later and touched something."""
    for path in sorted(run.path.parent.glob("*/run.json")):
        other = RunDir(path.parent)
        if other.path == run.path:
            continue
        try:
            header = decoder(_Header).decode(path.read_bytes())
            if header.environment != history.created.environment or header.dry_run:
                continue
            newer = read_history(other)
        except (OSError, ValueError, RecursionError, RunbookError) as error:
            # A run of an earlier version is older, and stands in nobody's way. What else cannot be
            # read may be what trades now, and its engine would be stopped by name.
            begun = begun_at(other.journal)
            if begun is not None and begun < history.records[0].wall:
                continue
            yield f"run {other.run_id} beside it cannot be read ({error}), and may be newer"
            continue
        if newer.records[0].wall > history.records[0].wall and _is_in_the_way(newer, history):
            word = newer.outcome.value if newer.outcome else newer.state.value
            yield (
                f"run {other.run_id} of environment {history.created.environment} is newer "
                f"({word}): roll that one back, or plan a new cutover"
            )


def _is_in_the_way(newer: History, history: History) -> bool:
    """A newer run counts when it is not over or switched; a failed try at this rollback does not.

    One that was planned and never started is in nobody's way: whoever rolls back holds the
    environment, and starting it is a decision of its own.
    """
    if newer.closed is None:
        return newer.has_begun
    failed_try = newer.outcome is Outcome.ROLLBACK_FAILED
    if failed_try and newer.created.parent_run == history.run_id:
        return False
    phases = {step.phase for step in newer.steps.values() if step.attempt}
    return bool(phases & {"switch", "rollback"})


def roll_back_by_new_run(
    run: RunDir, *, by: str = "", reason: str = "", world: World = HERE
) -> RunDir:
    """Make the run that rolls ``run`` back, beside it, and start it.

    Of two who ask at one instant one has the environment, and the other made nothing. Raises
    RunRefused, with every reason, when it makes no sense or the plan is not the parent's.
    """
    _, history = _read_parent(run, world)
    plan = _plan_of(run, history)
    options = RunOptions(
        execute=True,
        outputs=run.path.parent,
        by=by or world.caller.user_name(),
        parent_run=run.run_id,
    )
    asked = Asked.now(
        "rollback", by=plan.redactor(options.by), reason=plan.redactor(reason), world=world
    )
    with held_environment(plan, options, world=world) as held:
        # Again: somebody may have rolled it back, or switched, until the environment was ours.
        data, history = _read_parent(run, world)
        undoing = write_run(
            plan,
            options,
            path=held.path,
            undone=Undone(
                reason=plan.redactor(reason),
                rehearsal=history.created.rehearsal,
                cwd=history.created.cwd,
                plan_files={PARENT_JOURNAL: data},
                records=tuple(_adopted(history, journal_sha256=digest_of(data))),
            ),
            world=world,
        )
        set_going(undoing, lock_fd=held.lock_fd, asked=asked, world=world)
    return undoing


def _read_parent(run: RunDir, world: World) -> tuple[bytes, History]:
    """The journal of a run that can be rolled back now. Raises RunRefused."""
    data = world.files.read(run.journal)
    history = History.of(read_journal(run.journal).records)
    if gap := rollback_gap(run, history, world=world):
        raise RunRefused(f"run {run.run_id} cannot be rolled back: {gap}")
    return data, history


def _plan_of(run: RunDir, history: History) -> Plan:
    """The parent's plan, made again; what was reviewed is what undoes it."""
    try:
        plan = plan_of_files(named_files(history.created), base=Path(history.created.cwd))
    except RunbookError as error:
        raise RunRefused(
            f"the plan of run {run.run_id} cannot be made again ({error}); restore its templates, "
            "or follow plan/ctp_one_shot_cutover_checklist.md by hand"
        ) from error
    # A stop command that was edited since stops something else than what was started.
    if plan.sha256 != history.created.plan_sha256:
        raise RunRefused(
            f"the plan of run {run.run_id} had sha256 {history.created.plan_sha256[:12]}…; its "
            f"files now make {plan.sha256[:12]}…: a template, limits, watch rules, the CTP "
            "configuration or an executable changed since. Restore them, or follow "
            "plan/ctp_one_shot_cutover_checklist.md by hand"
        )
    return plan


def _adopted(history: History, *, journal_sha256: str) -> Iterator[Payload]:
    """What the new run knows from the start: its parent, and who the members are."""
    if history.outcome is not Outcome.COMPLETED:
        raise JournalError("only a COMPLETED run is undone by another")
    yield ParentAdopted(run_id=history.run_id, journal_sha256=journal_sha256, outcome="COMPLETED")
    for member, pin in history.pins.items():
        yield pinned(member, "", pin)
