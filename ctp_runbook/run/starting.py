"""Starting a run: once, by the one request that asks for it, or not at all and then for good.

The environment's lock says who may act; the run's own first record after the plan says whether it
began: an orchestrator's begins the run, ``closed`` ends it unbegun. Whoever writes either holds the
run's own lock meanwhile and reads the journal under it, so that it is one of the two. A start that
is refused, or that comes to nothing, closes the run as REFUSED, so that nothing is left that somebody
could arm later: an orchestrator that is still starting finds the run closed, and goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import EnvironmentHeld, JournalError, RunbookError, RunRefused
from ctp_runbook.model import Identity, Outcome, Phase, State, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.evidence import finalise
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import Closed, StateEntered, StepNotDone
from ctp_runbook.record.private_plan import load_private_plan
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.redact import Redactor
from ctp_runbook.run.attend import (
    end_silent,
    is_attended,
    read_history,
    read_whole,
    set_aside_sentence,
    unstarted_sentence,
)
from ctp_runbook.run.world import HERE, World

if TYPE_CHECKING:
    from ctp_runbook.run.context import RunContext
    from ctp_runbook.run.requests import Asked

__all__ = [
    "close_unstarted",
    "first_record",
    "redactor_of",
    "refuse_beside_unfinished",
    "set_going",
    "start",
    "was_being_started",
]

# Two interpreters start and load the plan; a busy host takes its time over that.
_START_SECONDS = 30.0
_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.02
_PHASES = (Phase.GATE, Phase.SWITCH)
_SIMULATED = (State.GATING, State.READY, State.SWITCHING)


def start(run: RunDir, *, plan: Plan | None = None, resume: str = "", world: World = HERE) -> None:
    """Set a planned run going: detached for a real run, simulated to its end for a dry one.

    With ``resume``, the reason, it takes up a run that has begun and that nobody conducts, and
    starts no other. A run that is attended or over is left as it is. A start that is refused, or
    comes to nothing, closes the run as REFUSED, unless somebody else is just starting it. Raises
    RunRefused.
    """
    history = read_history(run)
    if history.is_dry_run:
        with first_record(run, history, world=world):
            _simulate(run, plan, probe=history.created.probe, world=world)
        return
    with first_record(run, history, world=world):
        # Again, under the lock: until now somebody may have started or discarded it.
        history = read_history(run)
        if history.closed is not None:
            close_unstarted(run, outcome=Outcome.REFUSED, sentence="", world=world)
            return
        if resume:
            end_silent(run, history, world=world)
        if is_attended(run, world=world):
            return
        _refuse_wrong_start(run, history, resume=resume, world=world)
        guardian: Identity | None = None
        # It goes to the command lines of guardian and orchestrator, where everybody reads it.
        resume = redactor_of(run, world=world)(resume) if resume else ""
        try:
            if not resume:
                refuse_beside_unfinished(
                    history.created.environment, [run.path.parent], but=run, world=world
                )
            guardian = _guard(run, history.created.environment, resume=resume, world=world)
        except RunRefused as error:
            # Two viewers of one run may start it at one instant: the second one just follows.
            if not (isinstance(error, EnvironmentHeld) and _is_of(run, error.holder)):
                raise _close_refused(run, str(error), world) from error
    _await_record(run, guardian, after=len(history.records), world=world)


def _refuse_wrong_start(run: RunDir, history: History, *, resume: str, world: World) -> None:
    """Raise RunRefused for a run that is to begin and has, or is to be taken up and has not or cannot."""
    if history.has_begun is not bool(resume):
        raise RunRefused(_begun_sentence(run) if history.has_begun else unstarted_sentence(run))
    if resume:
        _refuse_what_cannot_be_taken_up(run, history, world)


def _refuse_what_cannot_be_taken_up(run: RunDir, history: History, world: World) -> None:
    """Raise RunRefused for a run whose orchestrator would not come up, with what closes it."""
    host, here = history.created.host, world.caller.host_name()
    if host != here:
        # Whoever conducts it is not to be seen from here, nor are its members.
        raise RunRefused(
            f"run {run.run_id} is of host {host}, and this is {here}: `ctp-runbook resume --run "
            f"{run.path}` there takes it up; if that host is lost, {set_aside_sentence(run)}"
        )
    try:
        load_private_plan(run)
    except (RunbookError, OSError) as error:
        raise RunRefused(
            f"run {run.run_id} cannot be taken up: {error}. Put its files back as they were, or "
            f"else {set_aside_sentence(run)}"
        ) from error


def refuse_beside_unfinished(
    environment: str, folders: Iterable[Path], *, but: RunDir | None = None, world: World = HERE
) -> None:
    """Raise RunRefused where a run of the environment began, never ended, and nobody conducts it.

    One that is conducted holds the environment, and is told of by its lock; so is where else runs of
    it may lie. To be asked with the environment's lock held, or before it is taken.
    """
    from ctp_runbook.record.charge import unfinished_runs

    host, cwd = world.caller.host_name(), world.caller.folder()
    every = {cwd / folder for folder in (*folders, *world.locks.folders_of(environment))}
    own = but and cwd / but.path
    for run in unfinished_runs(every, environment=environment, host=host):
        if run.path != own and not is_attended(run, world=world):
            raise RunRefused(
                f"run {run.run_id} of this environment is unfinished: `ctp-runbook resume --run "
                f"{run.path}` takes it up again; until it is over no other run may begin"
            )


def _guard(run: RunDir, environment: str, *, resume: str, world: World) -> Identity:
    lock = world.locks.take_environment_lock(environment, run_id=run.run_id, path=run.path)
    try:
        return _spawn(run, lock_fd=lock, resume=resume, world=world)
    finally:
        # The guardian holds it too by now: the environment stays taken when this viewer goes.
        world.locks.give_back(lock)


def set_going(
    run: RunDir,
    *,
    lock_fd: int,
    asked: Asked,
    tell: Callable[[RunDir], None] = lambda run: None,
    world: World = HERE,
) -> None:
    """Start the run that was written under ``lock_fd``, for what is ``asked``.

    Should that fail, or ``tell``, the run is closed as REFUSED. Raises RunRefused.
    """
    after = len(read_history(run).records)
    try:
        tell(run)
        guardian = _spawn(run, lock_fd=lock_fd, asked=asked, world=world)
    except BaseException as error:
        # Ctrl-C too: what is on disk by now must not wait there, planned and ready to be armed.
        with first_record(run, world=world):
            _close(run, str(error) or type(error).__name__, world)
        raise
    _await_record(run, guardian, after=after, world=world)


def _spawn(
    run: RunDir, *, lock_fd: int, resume: str = "", asked: Asked | None = None, world: World
) -> Identity:
    # A dry run has no guardian: it is not to pay for one.
    from ctp_runbook.run import guardian

    text = asked.text if asked else ""
    try:
        return guardian.spawn_guardian(run, lock_fd=lock_fd, resume=resume, asked=text, world=world)
    except OSError as error:
        raise RunRefused(f"the guardian of run {run.run_id} cannot be started: {error}") from error


def _await_record(run: RunDir, guardian: Identity | None, *, after: int, world: World) -> None:
    """Wait until somebody wrote the next record; without ``guardian`` it is another's start.

    A start that takes too long is closed under the first record's lock: an orchestrator that comes
    up later finds that and goes, so that nothing begins which somebody was told had not.
    """
    deadline = world.clock.mono() + _START_SECONDS
    while len(read_whole(run, world=world).records) <= after:
        log = f"{run.logs}/orchestrator.log"
        if guardian is not None and not world.processes.is_running(guardian):
            why = f"the orchestrator did not start; see {log}"
        elif world.clock.mono() > deadline:
            why = f"the orchestrator did not start within {_START_SECONDS:g} s; see {log}"
        else:
            world.clock.sleep(_POLL_SECONDS)
            continue
        with first_record(run, world=world):
            if len(read_whole(run, world=world).records) > after:
                return  # it came after all
            raise _close_refused(run, why, world)


def _close_refused(run: RunDir, sentence: str, world: World) -> RunRefused:
    """Close a run that did not start; the refusal to raise, with what became of the run."""
    if _close(run, sentence, world):
        return RunRefused(f"{sentence}; run {run.run_id} is closed as REFUSED: plan again")
    return RunRefused(
        f"{sentence}; run {run.run_id}: `ctp-runbook status --run {run.path}`, and if it cannot be "
        f"taken up, {set_aside_sentence(run)}"
    )


def _close(run: RunDir, why: str, world: World) -> bool:
    """Close the run, if it can be written; False when somebody has begun it."""
    # Why it did not start is what is raised, and a full disk must not hide that. The run is
    # unarmed either way: nothing but a start of its own would start it.
    with contextlib.suppress(JournalError, OSError):
        sentence = f"not started: {why}"
        return close_unstarted(run, outcome=Outcome.REFUSED, sentence=sentence, world=world)
    return False


def _is_of(run: RunDir, holder: str) -> bool:
    """True when the environment's lock names this very run as its holder."""
    return bool(holder) and Path(holder).resolve() == run.path.resolve()


def _begun_sentence(run: RunDir) -> str:
    return (
        f"run {run.run_id} was started before and nobody conducts it; take it up again with "
        f"`ctp-runbook resume --run {run.path}`"
    )


def was_being_started(run: RunDir, *, world: World = HERE) -> bool:
    """True once a start of this run by somebody else is through, False when there is none."""
    environment = read_history(run).created.environment
    deadline = world.clock.mono() + _START_SECONDS
    while not (history := read_whole(run, world=world)).has_begun and history.closed is None:
        holder = world.locks.holder_of(environment)
        if not _is_of(run, holder) or world.clock.mono() > deadline:
            return False
        world.clock.sleep(_POLL_SECONDS)
    return True


def _simulate(run: RunDir, plan: Plan | None, *, probe: bool, world: World) -> None:
    from ctp_runbook.run.context import RunContext

    journal = Journal(run.journal, durable=False)
    if History.of(journal.records).closed is not None:
        journal.close()
        return
    if plan is None:
        plan, _ = load_private_plan(run)
    context = RunContext(
        run=run,
        plan=plan,
        journal=journal,
        cwd=world.caller.folder(),
        environ=world.caller.environ(),
        world=world,
    )
    gaps: list[str] = []
    if probe:
        from ctp_runbook.run.old_engine import warn_of_buckets
        from ctp_runbook.run.switch import probe_gaps

        gaps = probe_gaps(context)
        warn_of_buckets(context)
    _write_down(context, gaps=gaps)
    journal.close()
    finalise(run, History.of(journal.records))


def _write_down(context: RunContext, *, gaps: Sequence[str]) -> None:
    """Write a dry run down, every step simulated, and close it; ``gaps`` is what its probes found."""
    plan = context.plan
    for state, steps in zip(_SIMULATED, (plan.gates, (), plan.switch), strict=True):
        context.record(StateEntered(to=state, reason="dry run"))
        for step in steps:
            context.record_not_done(step, reason="dry run: not run", status=StepStatus.SIMULATED_OK)
    for warning in plan.warnings:
        if warning not in plan.execute_refusals:  # those stand behind the header already
            context.warn(warning)
    for exception in plan.declared:
        context.warn(exception)
    # Nothing stands in the way is all that a dry run can say: no step of it proved an effect.
    outcome = Outcome.REFUSED if gaps else Outcome.DRY_RUN_OK
    sentence = "; ".join(gaps) if gaps else _dry_sentence(len(context.history.would_refuse))
    context.record(
        Closed(
            outcome=outcome,
            exit_code=outcome.exit_code,
            sentence=sentence,
            failed_step="preflight" if gaps else "",
            running={},
        )
    )


def _dry_sentence(refusals: int) -> str:
    if not refusals:
        return "dry run: nothing stands in the way; nothing was done"
    reasons = "a reason" if refusals == 1 else f"{refusals} reasons"
    return f"dry run: nothing was done; --execute would refuse this plan, for {reasons}"


@contextlib.contextmanager
def first_record(
    run: RunDir, history: History | None = None, *, world: World = HERE
) -> Iterator[None]:
    """Hold the right to write the first record after the plan; at once where it is written.

    ``history`` is what the caller has just read; what may have come since is for it to read. Raises RunRefused when somebody else keeps it too long.
    """
    # A run that has begun must be taken up whatever some viewer of it does: no lock is asked for.
    if (history or History.of(read_journal(run.journal).records)).has_begun:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(world.locks.exclusive(run.journal, seconds=_LOCK_SECONDS))
        except TimeoutError as error:
            raise RunRefused(
                f"run {run.run_id} has been kept from its first record for {_LOCK_SECONDS:g} s "
                "by another process that starts or closes it; see `ctp-runbook status --run "
                f"{run.path}`, then try again"
            ) from error
        yield


def close_unstarted(run: RunDir, *, outcome: Outcome, sentence: str, world: World = HERE) -> bool:
    """Close a run that nobody has begun; False when somebody has, or when it is over.

    To be called within ``first_record``. Its requests and private files go with it, its evidence
    says what became of it. Raises JournalError when that cannot be written.
    """
    history = History.of(read_journal(run.journal).records)
    if history.has_begun:
        return False
    if history.closed is not None:
        # Whoever closed it may have been killed before the last act.
        if not world.files.exists(run.manifest):
            _clear_away(run, world)
        return False
    redactor = redactor_of(run, world=world)
    journal = Journal(run.journal)
    for step in history.plan.steps:
        if step.phase in _PHASES:
            journal.append(
                StepNotDone(
                    step=step.name,
                    phase=step.phase,
                    status=StepStatus.SKIPPED if step.skipped else StepStatus.NOT_RUN,
                    reason=step.skipped or "the run was never started",
                    command=step.command,
                )
            )
    journal.append(
        Closed(
            outcome=outcome,
            exit_code=outcome.exit_code,
            sentence=redactor(sentence),
            failed_step="",
            # Nobody looked at what runs: this run had no business with it.
            running={},
        )
    )
    journal.close()
    _clear_away(run, world)
    return True


def _clear_away(run: RunDir, world: World) -> None:
    # A go that was left here is for no start, and nobody is to find it and wonder.
    world.mailbox(run.control).clear()
    try:
        finalise(run)
    except OSError as error:
        # It is closed, which is what was asked for.
        world.outcry.cry_out(
            f"run {run.run_id} is closed, and its evidence cannot be written: {error}; mend that, "
            f"then `ctp-runbook resume --run {run.path}` writes it"
        )


def redactor_of(run: RunDir, *, world: World = HERE) -> Redactor:
    """Return what keeps the run's secrets out of a sentence; where its plan is gone, those of the
    environment."""
    try:
        plan, _ = load_private_plan(run)
    except (RunbookError, OSError, ValueError):
        return Redactor.gather(environ=world.caller.environ())
    return plan.redactor
