"""Making a run, and whatever else every viewer uses to start it, steer it and follow it.

A viewer (a notebook, a terminal) never acts itself. It starts the detached orchestrator or
finds it running, leaves requests, and reads the journal.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from msgspec import Struct, structs

from ctp_runbook.errors import PlanRefused, RunRefused
from ctp_runbook.host.lock import take_environment_lock
from ctp_runbook.model import Outcome
from ctp_runbook.plan.plan import Plan, window_refusals
from ctp_runbook.plan.preflight import evidence_gap
from ctp_runbook.plan.timing import Measured, undo_refusals
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, header_text
from ctp_runbook.record.kinds import Finding, override_name
from ctp_runbook.record.private_plan import clear_private, keep_private
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import attend, create, starting
from ctp_runbook.run.attend import unstarted_sentence
from ctp_runbook.run.create import Undone, header_of, not_proved_of, overrides_of, write_plan
from ctp_runbook.run.world import HERE, World

__all__ = [
    "HeldEnvironment",
    "RunOptions",
    "answer_in",
    "await_run_of_plan",
    "begin",
    "create_run",
    "execute_refusals",
    "follow",
    "held_environment",
    "is_attended",
    "left_sentence",
    "looks",
    "new_run_dir",
    "operator_name",
    "read_history",
    "read_whole",
    "request",
    "run_of_plan",
    "set_going",
    "start",
    "take_lock",
    "unwritten_sentence",
    "was_being_started",
    "write_run",
]

# Of a run that somebody else starts at this instant, as in run/starting.py.
_START_SECONDS, _POLL_SECONDS = 30.0, 0.1

RunOptions = create.RunOptions
operator_name = create.operator_name
take_lock = take_environment_lock
start = starting.start
set_going = starting.set_going
was_being_started = starting.was_being_started
answer_in = attend.answer_in
follow = attend.follow
looks = attend.looks
is_attended = attend.is_attended
left_sentence = attend.left_sentence
read_history = attend.read_history
read_whole = attend.read_whole
unwritten_sentence = attend.unwritten_sentence


def new_run_dir(environment: str, *, outputs: Path, world: World = HERE) -> Path:
    """A path whose name is a fresh run id: UTC time, environment, four random digits."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", environment).strip("-.") or "run"
    stamp = world.now.strftime("%Y%m%dT%H%M%SZ")
    return outputs / f"{stamp}-{name[:40]}-{world.caller.token()}"


def execute_refusals(
    plan: Plan, options: RunOptions, *, now: datetime, measured: Measured | None = None
) -> tuple[str, ...]:
    """Every reason not to run this plan for real now, at once; empty for a dry run.

    ``measured`` is what earlier runs took, where it was read already.
    """
    asked = options.plan_sha256
    reasons = []
    if asked and asked != plan.sha256:
        reasons.append(
            f"--plan-sha256 {asked[:12]}… is not this plan, which has {plan.sha256}; "
            "review the plan again"
        )
    # Copies asked for by flag are written by a dry run too.
    reasons += [
        f"--{side.lower()}-output {path} {gap}; name a file that the evidence may replace"
        for side in ("CUTOVER", "ROLLBACK")
        if (path := getattr(options, f"{side.lower()}_output")) is not None
        and (gap := evidence_gap(Path(path).absolute(), side=side))
    ]
    if options.execute is not True:
        return tuple(reasons)
    reasons += [*plan.execute_refusals, *window_refusals(plan, now=now)]
    # Outside its window nothing could be undone in time either: one cause is told once.
    if not any("CUTOVER_WINDOW_LOCAL" in reason for reason in reasons):
        reasons += undo_refusals(
            plan,
            measured or options.measured(plan.environment),
            now=now,
            accept_unmeasured=options.accept_unmeasured,
            accept_late=options.accept_late,
        )
    if plan.limits.require_plan_sha256 and not asked:
        reasons.append(
            "limits.toml require_plan_sha256 is true and --plan-sha256 was not given; "
            f"the plan at hand has {plan.sha256}"
        )
    least = plan.limits.min_watch_minutes
    excused = plan.is_rehearsal or options.short_watch_reason.strip()
    if plan.monitor_minutes < least and not excused:
        reasons.append(
            f"POST_SWITCH_MONITOR_MINUTES is {plan.monitor_minutes:g}, below min_watch_minutes "
            f"{least:g} of limits.toml; raise it, or give --short-watch REASON"
        )
    return tuple(reasons)


def create_run(plan: Plan, options: RunOptions, *, world: World = HERE) -> RunDir:
    """Plan a run: its directory with the plan and the journal's header. ``start`` starts it.

    Raises PlanRefused with every reason, RunRefused when the run id is taken; in both cases
    nothing was made.
    """
    _refuse(plan, options, world)
    if options.execute is True:
        # Refuse before anything is made. The lock is not kept: between this and the start lies a
        # person's reading, and a kernel that may die. A start that is refused closes the run.
        locks = world.locks
        _refuse_beside_unfinished(plan, options, world)
        locks.give_back(locks.take_environment_lock(plan.environment, run_id="being prepared"))
    return write_run(plan, options, world=world)


def begin(
    plan: Plan,
    options: RunOptions,
    *,
    reason: str,
    tell: Callable[[RunDir], None] = lambda run: None,
    world: World = HERE,
) -> RunDir:
    """Make a run and start it; a real one with its go, given by ``options.by`` for ``reason``.

    The environment is held from before the run is written until the guardian holds it: of two who
    do this at one instant, the loser has made no run at all. ``tell`` is called with the run
    before it starts. With ``options.once`` none is made where the plan has one, ``run_of_plan``.
    Raises PlanRefused, RunRefused.
    """
    if options.execute is not True:
        run = create_run(plan, options, world=world)
        tell(run)
        start(run, plan=plan, world=world)
        return run
    _refuse(plan, options, world)
    from ctp_runbook.run.requests import Asked

    by = plan.redactor(options.by or world.caller.user_name())
    # Held before anything is written: who comes second must leave nothing that could be started.
    with held_environment(plan, options, world=world) as held:
        _refuse_beside_unfinished(plan, options, world)
        # Looked for before, maybe; a whole run may have come and gone since.
        if options.once and (there := run_of_plan(plan, options, world=world)):
            raise RunRefused(f"run {there.run_id} of this plan was begun meanwhile")
        run = write_run(plan, options, path=held.path, world=world)
        go = Asked.now("go", by=by, reason=plan.redactor(reason), world=world)
        set_going(run, lock_fd=held.lock_fd, asked=go, tell=tell, world=world)
    return run


def run_of_plan(plan: Plan, options: RunOptions, *, world: World = HERE) -> RunDir | None:
    """The run that this plan had here last, over or not; None where one may begin, as of a plan without
    a run, or where ``options.again`` names the last run of the environment.

    The plan is the reviewed one, ``options.plan_sha256``: a cutover may change files that its digest
    covers. Raises RunRefused where the run COMPLETED and another came after it.
    """
    from ctp_runbook.record.charge import last_of_plan

    run, newest = last_of_plan(
        _every_folder(plan, options, world),
        environment=plan.environment,
        host=world.caller.host_name(),
        plan_sha256=options.plan_sha256 or plan.sha256,
        force_rollback=options.force_rollback,
    )
    if run is None or newest is None or newest.run_id == options.again:
        return None
    if run != newest and read_history(run).outcome is Outcome.COMPLETED:
        raise RunRefused(
            f"run {run.run_id} of this plan COMPLETED, and run {newest.run_id} came after it: what "
            f"trades is what that one left; look at it, then `--again {newest.run_id}` begins anew"
        )
    return run


def await_run_of_plan(plan: Plan, options: RunOptions, *, world: World = HERE) -> RunDir | None:
    """``run_of_plan`` once whoever holds the environment has begun its run: two may ask at one instant."""
    from ctp_runbook.record.charge import has_begun

    deadline = world.clock.mono() + _START_SECONDS
    while True:
        holder = world.locks.holder_of(plan.environment)
        is_starting = bool(holder) and not has_begun(RunDir(Path(holder)))
        run = run_of_plan(plan, options, world=world)
        if run is not None or not is_starting or world.clock.mono() > deadline:
            return run
        world.clock.sleep(_POLL_SECONDS)


def _every_folder(plan: Plan, options: RunOptions, world: World) -> set[Path]:
    """Where runs of the environment may lie: where this one will, and where others did."""
    cwd = world.caller.folder()
    folders = {options.outputs, _path_of(plan, options, world).parent}
    return {cwd / folder for folder in (*folders, *world.locks.folders_of(plan.environment))}


def _refuse(plan: Plan, options: RunOptions, world: World) -> None:
    if reasons := execute_refusals(plan, options, now=world.now):
        raise PlanRefused(reasons)


def _refuse_beside_unfinished(plan: Plan, options: RunOptions, world: World) -> None:
    folders = {options.outputs, _path_of(plan, options, world).parent}
    starting.refuse_beside_unfinished(plan.environment, folders, world=world)


class HeldEnvironment(Struct, frozen=True):
    """The environment's lock, and where the run it was taken for is to be written."""

    path: Path
    lock_fd: int


@contextlib.contextmanager
def held_environment(
    plan: Plan, options: RunOptions, *, world: World = HERE
) -> Iterator[HeldEnvironment]:
    """Hold the environment for a run that is yet to be written. Raises EnvironmentHeld."""
    path = _path_of(plan, options, world)
    lock_fd = world.locks.take_environment_lock(plan.environment, run_id=path.name, path=path)
    try:
        yield HeldEnvironment(path, lock_fd)
    finally:
        world.locks.give_back(lock_fd)


def _path_of(plan: Plan, options: RunOptions, world: World) -> Path:
    path = options.run_dir or new_run_dir(plan.environment, outputs=options.outputs, world=world)
    return world.caller.folder() / path


def write_run(
    plan: Plan,
    options: RunOptions,
    *,
    path: Path | None = None,
    undone: Undone | None = None,
    world: World = HERE,
) -> RunDir:
    """Make the directory of a run that was let through, with its plan and its header.

    ``undone`` is the run that this one rolls back. Raises RunRefused when the run id is taken.
    """
    run = RunDir(path or _path_of(plan, options, world))
    run.make()
    try:
        _write(run, plan, options, undone=undone, world=world)
    except BaseException:
        # Without its header it is no run, and nobody would ever come to remove these.
        clear_private(run)
        raise
    return run


def _write(
    run: RunDir, plan: Plan, options: RunOptions, *, undone: Undone | None, world: World
) -> None:
    measured = options.measured(plan.environment)
    overrides = {} if undone else overrides_of(plan, options, measured, world=world)
    overrides |= not_proved_of(plan)
    header = structs.replace(
        header_of(
            run,
            plan,
            options,
            measured=measured,
            overrides={name: reason for name, (reason, _) in overrides.items()},
            undone=undone,
            world=world,
        ),
        plan_files=write_plan(run, plan, measured, undone=undone, world=world),
        kept_files=keep_private(run, plan) if options.execute is True else {},
    )
    # The journal comes to be whole, and before run.json, by which runs are found: nobody starts a
    # run whose first records are still being written, and whoever is killed here leaves none.
    draft = run.journal.with_suffix(".draft")
    journal = Journal(draft, durable=options.execute is True)
    journal.append(header)
    for payload in undone.records if undone else ():
        journal.append(payload)
    for name, (reason, refused) in overrides.items():
        override = f"OVERRIDE {override_name(name)} by {header.created_by}: {reason} ({refused})"
        journal.append(Finding(severity="critical", sentence=plan.redactor(override)))
    for warning in () if undone else _known_of_old_engine(plan, options):
        journal.append(Finding(severity="warning", sentence=plan.redactor(warning)))
    for refusal in _would_refuse(plan, options, measured):
        sentence = plan.redactor(f"--execute would refuse: {refusal}")
        journal.append(Finding(severity="critical", sentence=sentence))
    if options.execute is True:
        _warn_of_host(journal, world, is_rehearsal=header.rehearsal)
    journal.close()
    world.files.rename(draft, run.journal)
    durable = options.execute is True
    world.files.write_atomic(run.run_json, header_text(header), durable=durable)


def _would_refuse(plan: Plan, options: RunOptions, measured: Measured) -> tuple[str, ...]:
    """What a dry run is to say of the real run that it stands for; nothing for a real one."""
    if options.execute is True:
        return ()
    # The clock never affects a dry run: it is asked as if the window had just opened.
    real = structs.replace(options, execute=True)
    return execute_refusals(plan, real, now=plan.window_local, measured=measured)


def _known_of_old_engine(plan: Plan, options: RunOptions) -> Iterable[str]:
    """What a calibration warns of; where there is none nothing is imported for it."""
    if not any(options.outputs.glob("calibration-*/calibration.json")):
        return ()
    from ctp_runbook.record.calibration import calibration_warnings

    return calibration_warnings(plan, [options.outputs])


def _warn_of_host(journal: Journal, world: World, *, is_rehearsal: bool) -> None:
    from ctp_runbook.run.guardian import is_not_taken_up, shares_control_group

    warnings = [shares_control_group(world=world)]
    if not is_rehearsal:  # a twin does not outlive a reboot
        warnings.append(is_not_taken_up(world=world))
    for warning in filter(None, warnings):
        journal.append(Finding(severity="warning", sentence=warning))


def request(
    run: RunDir,
    request: str,
    *,
    by: str,
    reason: str = "",
    seen: History | None = None,
    world: World = HERE,
) -> str:
    """Leave a request for the orchestrator of a run that has begun; its name.

    A go is for the start that the asker saw, ``seen``; without it, for the one there is now. Raises
    RunRefused for a run that was never started: what is left there could only arm it.
    """
    from ctp_runbook.run.requests import send_request

    history = seen or read_whole(run, world=world)
    if not history.has_begun:
        raise RunRefused(f"nothing to {request}: {unstarted_sentence(run)}")
    # The letter is a file like any other of the run: who wrote a password into it has it masked.
    redactor = starting.redactor_of(run, world=world)
    by, reason = redactor(by), redactor(reason)
    # Not whatever start there may be by the time it is read: a go is for what was looked at.
    start = history.conducted.seq if history.conducted else -1
    return send_request(run, request, by=by, reason=reason, start=start, world=world)
