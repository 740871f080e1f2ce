"""A run that was planned and that nobody has begun: who may begin it, and how it is closed instead.

The first record after the plan decides: an orchestrator's begins the run, ``closed`` ends it unbegun.
Whoever writes either holds the run's own lock meanwhile and reads the journal under it, so that it
is one of the two. A start that came to nothing can thus be closed for good: an orchestrator that is
only late finds the run closed, and goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ctp_runbook.errors import RunbookError, RunRefused
from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.record.finish import finalise
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.private_plan import load_private_plan
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.redact import Redactor

__all__ = ["close_unstarted", "first_record", "unstarted_sentence"]

_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.01
_PHASES = ("gate", "switch")


@contextlib.contextmanager
def first_record(run: RunDir) -> Iterator[None]:
    """Hold the right to write the first record after the plan; at once where it is written.

    Raises RunRefused when somebody else keeps it too long.
    """
    # A run that has begun must be taken up whatever some viewer of it does: no lock is asked for.
    if History.of(read_journal(run.journal).records).has_begun:
        yield
        return
    fd = os.open(run.journal, os.O_RDWR | os.O_CLOEXEC)
    try:
        _flock(run, fd)
        yield
    finally:
        os.close(fd)


def _flock(run: RunDir, fd: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RunRefused(
                    f"run {run.run_id} has been kept from its first record for {_LOCK_SECONDS:g} s "
                    "by another process that starts or closes it; see `ctp-runbook status --run "
                    f"{run.path}`, then try again"
                ) from error
        time.sleep(_POLL_SECONDS)


def unstarted_sentence(run: RunDir) -> str:
    """What such a run is, and what starts or discards it."""
    return (
        f"run {run.run_id} was planned and never started, and nothing but its own start starts "
        f"it: 02_infra_gate with run_dir = {run.path} does, `ctp-runbook abort --run {run.path}` "
        "discards it"
    )


def close_unstarted(run: RunDir, *, outcome: Outcome, sentence: str) -> bool:
    """Close a run that nobody has begun; False when somebody has, or when it is over.

    To be called within ``first_record``. Its requests and private files go with it, its evidence
    says what became of it. Raises JournalError when that cannot be written.
    """
    history = History.of(read_journal(run.journal).records)
    if history.has_begun:
        return False
    if history.closed is not None:
        if not run.manifest.exists():  # whoever closed it was killed before the last act
            _clear_away(run)
        return False
    redactor = _redactor(run)
    journal = Journal(run.journal)
    for step in history.plan.get("steps", ()):
        if step["phase"] in _PHASES:
            not_run = {"status": StepStatus.NOT_RUN.value, "reason": "the run was never started"}
            named = {"step": step["name"], "phase": step["phase"], "command": step["command"]}
            journal.append("step_not_done", {**named, **not_run})
    end = {"outcome": outcome.value, "exit_code": outcome.exit_code, "failed_step": ""}
    # Nobody looked at what runs: this run had no business with it.
    journal.append("closed", {**end, "sentence": redactor(sentence), "running": {}})
    journal.close()
    _clear_away(run)
    return True


def _clear_away(run: RunDir) -> None:
    for left in run.control.iterdir():
        with contextlib.suppress(OSError):
            left.unlink()
    finalise(run)


def _redactor(run: RunDir) -> Redactor:
    """What keeps secrets out of the sentence; where the plan is gone, those of the environment."""
    try:
        plan, _ = load_private_plan(run)
    except (RunbookError, OSError):
        return Redactor.gather(environ=os.environ)
    return plan.redactor
