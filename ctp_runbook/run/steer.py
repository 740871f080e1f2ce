"""Asking something of a run, from whatever window, and hearing what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.charge import unfinished_runs
from ctp_runbook.record.evidence import (
    finalise,
    is_left_unsealed,
    seal_left,
    write_missing_copies,
)
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.record.kinds import RequestAnswered
from ctp_runbook.record.rundir import RunDir, behind_path
from ctp_runbook.run import launch
from ctp_runbook.run.attend import (
    answer_in,
    end_silent,
    has_records_behind,
    is_attended,
    read_whole,
    silence_of,
    silent_sentence,
    unstarted_sentence,
    unwritten_sentence,
)
from ctp_runbook.run.starting import close_unstarted, first_record, start, was_being_started
from ctp_runbook.run.undo_completed import roll_back_by_new_run
from ctp_runbook.run.world import HERE, World

__all__ = ["Steered", "steer", "take_up", "take_up_unattended"]

_ANSWER_SECONDS = 3.0
_POLL_SECONDS = 0.05
# Of one that was asked something and did not answer.
_SILENT_SECONDS = 2.0
# CONTRACT §5: nothing was touched, and look what is.
_UNTOUCHED, _UNKNOWN = 2, 7
# Asking for one of these is asking that somebody conducts the run.
_TAKES_UP = ("abort", "resume", "rollback")


@dataclass(frozen=True)
class Steered:
    """What was asked came to ``sentence``; ``run`` is the run to follow, maybe a new one.

    ``exit_code`` is 0 where it was obeyed; else 2 before the first stop, and 7 after it or where
    nobody answered.
    """

    run: RunDir
    sentence: str
    is_new: bool = False
    exit_code: int = 0


def steer(
    run: RunDir, request: str, *, by: str = "", reason: str = "", world: World = HERE
) -> Steered:
    """Ask ``request`` (hold, resume, abort, rollback, go) of a run and wait for the answer.

    No request starts a run: one that was planned and never started is discarded by ``abort``, and
    by nothing else touched. A run that has begun and that nobody conducts is taken up again, but
    for a hold or a go. A rollback of a COMPLETED run is a new run. Raises RunRefused where nothing
    can come of it.
    """
    by = by or world.caller.user_name()
    history = read_whole(run, world=world)
    if history.outcome is not None:
        if request == "resume" and (
            unwritten_sentence(run, history, world=world)
            or silence_of(run, history, world=world).is_left
        ):
            return _finish(run, history, world=world)
        if request != "rollback":
            raise RunRefused(
                f"run {run.run_id} is over ({history.outcome.value}); there is nothing to {request}"
            )
        return _roll_back(run, by=by, reason=reason, world=world)
    if history.is_dry_run:
        raise RunRefused(f"run {run.run_id} is a dry run, which does nothing to {request}")
    if not history.has_begun:
        if request == "abort":
            return _discard(run, by=by, reason=reason, world=world)
        if not was_being_started(run, world=world):
            raise RunRefused(f"nothing to {request}: {unstarted_sentence(run)}")
    return _ask(run, request, by=by, reason=reason, world=world)


def _ask(run: RunDir, request: str, *, by: str, reason: str, world: World) -> Steered:
    is_lost = _is_lost(run, world)
    if is_lost and read_whole(run, world=world).closed is not None:
        # It ended since it was read, and they with it.
        return steer(run, request, by=by, reason=reason, world=world)
    if is_lost and request not in _TAKES_UP:
        raise RunRefused(
            f"nobody conducts run {run.run_id}, so nobody can {request} it: `ctp-runbook resume "
            f"--run {run.path}` takes it up again, `ctp-runbook rollback --run {run.path}` ends it"
        )
    # Before it is taken up: the orchestrator that comes finds the request, and obeys it first.
    name = launch.request(run, request, by=by, reason=reason, world=world)
    if is_lost:
        try:
            start(run, resume=f"taken up again by {by}", world=world)
        except RunRefused:
            # What was refused must not wait there for whoever takes the run up one day.
            with contextlib.suppress(OSError):
                world.mailbox(run.control).remove(name)
            raise
    answer = _answer(run, name, world)
    reply, exit_code = _reply(run, request, answer, is_taken_up=is_lost, world=world)
    return Steered(run, f"{request} asked of run {run.run_id}: {reply}", exit_code=exit_code)


def _is_lost(run: RunDir, world: World) -> bool:
    """True when nobody conducts a run, or all who do hang."""
    if not is_attended(run, world=world):
        return True
    return silence_of(run, read_whole(run, world=world), world=world).is_left


def take_up_unattended(
    outputs: Path, *, by: str = "", world: World = HERE
) -> Iterator[tuple[RunDir, RunbookError | None]]:
    """Take up each run of this host under ``outputs`` that began, never ended and that nobody conducts.

    Each with why it could not be. A run that is conducted is asked nothing: what a person holds stays
    held.
    """
    by = by or world.caller.user_name()
    for run in unfinished_runs([outputs], host=world.caller.host_name()):
        try:
            if not take_up(run, by=by, world=world):
                continue
        except RunbookError as error:  # one that cannot be read must not keep the others waiting
            yield run, error
        else:
            yield run, None


def take_up(run: RunDir, *, by: str, world: World = HERE) -> bool:
    """Take up a run that began and that nobody conducts; False for one that needs nobody."""
    if read_whole(run, world=world).closed is not None or not _is_lost(run, world):
        return False
    # No request of a person: it goes on as after any death of whoever conducts it.
    start(run, resume=f"nobody conducted it; taken up by {by}", world=world)
    return True


def _reply(
    run: RunDir,
    request: str,
    answer: Record[RequestAnswered] | None,
    *,
    is_taken_up: bool,
    world: World,
) -> tuple[str, int]:
    """What a request came to, and the exit code of it."""
    history = read_whole(run, world=world)
    if is_taken_up and request == "resume":
        # That was what it asked for, whether or not there was a hold to end besides.
        more = f"; {answer.payload.sentence}" if answer and answer.payload.obeyed else ""
        return f"the run is taken up again{more}", 0
    if answer is not None and answer.payload.obeyed:
        return answer.payload.sentence, 0
    is_untouched = history.state.is_before_switch and history.closed is None
    is_untouched = is_untouched and history.parent is None  # what that undoes, touched
    code = _UNTOUCHED if is_untouched else _UNKNOWN
    if answer is not None:
        return f"not obeyed: {answer.payload.sentence}", code
    if history.closed is not None:
        closed = history.closed.payload
        return f"the run ended meanwhile, {closed.outcome.value}: {closed.sentence}", _UNKNOWN
    silence = silence_of(run, history, after=_SILENT_SECONDS, is_awake=True, world=world)
    if silence.seconds("orchestrator"):
        silent_words = silent_sentence(run, history, silence)
        return f"{silent_words}. Whoever conducts the run next answers this first", _UNKNOWN
    return (
        f"no answer within {_ANSWER_SECONDS:g} s; see `ctp-runbook status --run {run.path}`",
        _UNKNOWN,
    )


def _discard(run: RunDir, *, by: str, reason: str, world: World) -> Steered:
    """Close a run that was never started; it is asked in the ordinary way if it just began."""
    why = f": {reason}" if reason else ""
    sentence = f"abort asked for by {by}{why}; the run was never started, and nothing was touched"
    aborted = Outcome.ABORTED_BEFORE_SWITCH
    with first_record(run, world=world):
        done = close_unstarted(run, outcome=aborted, sentence=sentence, world=world)
    if not done:
        return steer(run, "abort", by=by, reason=reason, world=world)
    return Steered(run, f"abort asked of run {run.run_id}: it was never started and is closed")


def _finish(run: RunDir, history: History, *, world: World) -> Steered:
    """Write the evidence of a run that is over and was not let write it. Raises RunRefused.

    Those of it that hang are ended before: two would write it, and they hold the environment.
    """
    ended = " and ".join(end_silent(run, history, world=world))
    if ended and not unwritten_sentence(run, history, world=world):
        return Steered(run, f"run {run.run_id} is over; its {ended} hung, and was ended")
    try:
        if has_records_behind(run):
            # Nobody seals a journal that lacks its end.
            Journal(run.journal, behind=behind_path(run)).close()
            if has_records_behind(run):
                raise RunRefused(
                    f"run {run.run_id} is over, and {run.journal} has no room for its last records: make "
                    "room, then ask again"
                )
            gaps = finalise(run)
        elif world.files.exists(run.manifest):
            # Its folder is whole: copies elsewhere alone, for what was listed stays as it is.
            gaps = write_missing_copies(run)
            gaps += seal_left(run) if is_left_unsealed(run) else ()
        else:
            gaps = finalise(run)
    except OSError as error:
        raise RunRefused(
            f"run {run.run_id} is over, and its evidence cannot be written: {error}"
        ) from error
    if gaps:
        raise RunRefused(f"run {run.run_id} is over, but {'; '.join(gaps)}")
    return Steered(run, f"run {run.run_id} is over; its evidence is written now: {run.evidence}")


def _roll_back(run: RunDir, *, by: str, reason: str, world: World) -> Steered:
    undoing = roll_back_by_new_run(run, by=by, reason=reason, world=world)
    sentence = f"run {undoing.run_id} rolls back what run {run.run_id} switched: {undoing.path}"
    return Steered(undoing, sentence, is_new=True)


def _answer(run: RunDir, name: str, world: World) -> Record[RequestAnswered] | None:
    """The orchestrator's answer to the request in file ``name``; None when none came in time."""
    deadline = world.clock.mono() + _ANSWER_SECONDS
    while world.clock.mono() < deadline:
        history = read_whole(run, world=world)
        answer = answer_in(history, name)
        if answer is not None or history.closed is not None:
            return answer
        world.clock.sleep(_POLL_SECONDS)
    return None
