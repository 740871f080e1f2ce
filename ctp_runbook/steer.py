"""Asking something of a run, from whatever window, and hearing what comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ctp_runbook import launch
from ctp_runbook.errors import RunRefused
from ctp_runbook.history import History
from ctp_runbook.journal import Record
from ctp_runbook.parent import create_rollback
from ctp_runbook.rundir import RunDir

__all__ = ["Steered", "steer"]

_ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class Steered:
    """What was asked came to ``sentence``; ``run`` is the run to follow, maybe a new one."""

    run: RunDir
    sentence: str
    is_new: bool = False


def steer(run: RunDir, request: str, *, by: str = "", reason: str = "") -> Steered:
    """Ask ``request`` (hold, resume, abort, rollback, go) of a run and wait for the answer.

    A run that nobody conducts is taken up again. A rollback of a COMPLETED run is a new run.
    Raises RunRefused where nothing can come of it.
    """
    by = by or launch.operator_name()
    history = launch.read_history(run)
    if history.outcome is not None:
        if request != "rollback":
            raise RunRefused(
                f"run {run.run_id} is over ({history.outcome.value}); there is nothing to {request}"
            )
        return _roll_back(run, by=by, reason=reason)
    name = launch.request(run, request, by=by, reason=reason)
    if not launch.is_attended(run):
        launch.start(run, resume=f"taken up again by {by}")
    answer = _answer(run, name)
    if answer is None:
        told = "no answer yet; see `ctp-runbook status`"
    else:
        told = str(answer.payload["sentence"])
        told = told if answer.payload["obeyed"] else f"not obeyed: {told}"
    return Steered(run, f"{request} asked of run {run.run_id}: {told}")


def _roll_back(run: RunDir, *, by: str, reason: str) -> Steered:
    made = create_rollback(run, by=by, reason=reason)
    launch.request(made, "rollback", by=by, reason=reason)
    launch.start(made)
    told = f"run {made.run_id} rolls back what run {run.run_id} switched: {made.path}"
    return Steered(made, told, is_new=True)


def _answer(run: RunDir, name: str) -> Record | None:
    """The orchestrator's answer to the request in file ``name``; None when none came in time."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        history: History = launch.read_whole(run)
        for record in reversed(history.records):
            if record.kind == "answer" and record.payload["file"] == name:
                return record
        if history.closed is not None:
            return None
        time.sleep(0.05)
    return None
