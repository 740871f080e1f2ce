"""Asking something of a run, from whatever window, and hearing what comes of it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from ctp_runbook.errors import RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from ctp_runbook.run.attend import unstarted_sentence
from ctp_runbook.run.starting import close_unstarted, first_record
from ctp_runbook.run.undo_completed import roll_back_by_new_run

__all__ = ["Steered", "steer"]

_ANSWER_SECONDS = 3.0
# Asking for one of these is asking that somebody conducts the run.
_TAKES_UP = ("abort", "resume", "rollback")


@dataclass(frozen=True)
class Steered:
    """What was asked came to ``sentence``; ``run`` is the run to follow, maybe a new one."""

    run: RunDir
    sentence: str
    is_new: bool = False


def steer(run: RunDir, request: str, *, by: str = "", reason: str = "") -> Steered:
    """Ask ``request`` (hold, resume, abort, rollback, go) of a run and wait for the answer.

    No request starts a run: one that was planned and never started is discarded by ``abort``, and
    by nothing else touched. A run that has begun and that nobody conducts is taken up again, but
    for a hold or a go. A rollback of a COMPLETED run is a new run. Raises RunRefused where nothing
    can come of it.
    """
    by = by or launch.operator_name()
    history = launch.read_history(run)
    if history.outcome is not None:
        if request != "rollback":
            raise RunRefused(
                f"run {run.run_id} is over ({history.outcome.value}); there is nothing to {request}"
            )
        return _roll_back(run, by=by, reason=reason)
    if history.is_dry_run:
        raise RunRefused(f"run {run.run_id} is a dry run, which does nothing to {request}")
    if not history.has_begun:
        if request == "abort":
            return _discard(run, by=by, reason=reason)
        if not launch.was_being_started(run):
            raise RunRefused(f"nothing to {request}: {unstarted_sentence(run)}")
    return _ask(run, request, by=by, reason=reason)


def _ask(run: RunDir, request: str, *, by: str, reason: str) -> Steered:
    is_lost = not launch.is_attended(run)
    if is_lost and request not in _TAKES_UP:
        raise RunRefused(
            f"nobody conducts run {run.run_id}, so nobody can {request} it: `ctp-runbook resume "
            f"--run {run.path}` takes it up again, `ctp-runbook rollback --run {run.path}` ends it"
        )
    name = launch.request(run, request, by=by, reason=reason)
    if is_lost:
        try:
            launch.start(run, resume=f"taken up again by {by}")
        except RunRefused:
            # What was refused must not wait there for whoever takes the run up one day.
            with contextlib.suppress(OSError):
                (run.control / name).unlink()
            raise
    answer = _answer(run, name)
    if answer is None:
        told = "no answer yet; see `ctp-runbook status`"
    else:
        told = str(answer.payload["sentence"])
        told = told if answer.payload["obeyed"] else f"not obeyed: {told}"
    return Steered(run, f"{request} asked of run {run.run_id}: {told}")


def _discard(run: RunDir, *, by: str, reason: str) -> Steered:
    """Close a run that was never started; it is asked in the ordinary way if it just began."""
    why = f": {reason}" if reason else ""
    told = f"abort asked for by {by}{why}; the run was never started, and nothing was touched"
    with first_record(run):
        done = close_unstarted(run, outcome=Outcome.ABORTED_BEFORE_SWITCH, sentence=told)
    if not done:
        return steer(run, "abort", by=by, reason=reason)
    return Steered(run, f"abort asked of run {run.run_id}: it was never started and is closed")


def _roll_back(run: RunDir, *, by: str, reason: str) -> Steered:
    made = roll_back_by_new_run(run, by=by, reason=reason)
    told = f"run {made.run_id} rolls back what run {run.run_id} switched: {made.path}"
    return Steered(made, told, is_new=True)


def _answer(run: RunDir, name: str) -> Record | None:
    """The orchestrator's answer to the request in file ``name``; None when none came in time."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        history: History = launch.read_whole(run)
        answer = launch.answer_in(history, name)
        if answer is not None or history.closed is not None:
            return answer
        time.sleep(0.05)
    return None
