"""Reading a run as it stands, and following it: what every viewer of a run does, and all it does."""

from __future__ import annotations

import time
from collections.abc import Callable

from ctp_runbook.errors import JournalError, RunRefused
from ctp_runbook.host.process import is_running
from ctp_runbook.model import Identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, read_journal
from ctp_runbook.record.kinds import GuardianStarted, OrchestratorStarted
from ctp_runbook.record.rundir import RunDir

__all__ = ["answer_in", "follow", "is_attended", "read_history", "read_whole", "unstarted_sentence"]

_UNATTENDED_SECONDS = 15.0


def read_history(run: RunDir) -> History:
    """The run as its journal tells it now. Raises JournalError, RunRefused for no run."""
    if not run.journal.exists():
        raise RunRefused(f"{run.path} holds no run (no journal.jsonl); check --run")
    return History.of(read_journal(run.journal).records)


def is_attended(run: RunDir) -> bool:
    """True while an orchestrator or a guardian of this run lives."""
    return _is_attended(read_history(run))


def _is_attended(history: History) -> bool:
    return any(is_running(identity) for identity in _attendants(history.records))


def _attendants(records: tuple[Record, ...]) -> list[Identity]:
    found = []
    for record in records:
        if isinstance(record.payload, OrchestratorStarted):
            writer = record.writer
            found.append(Identity(writer.pid, writer.start_ticks, record.boot_id))
            if guardian := record.payload.guardian:
                found.append(Identity(guardian.pid, guardian.start_ticks, record.boot_id))
        elif isinstance(record.payload, GuardianStarted):
            started = record.payload
            found.append(Identity(started.pid, started.start_ticks, record.boot_id))
    return found


def follow(
    run: RunDir,
    *,
    until: Callable[[History], bool],
    on_change: Callable[[History], None] | None = None,
    poll_seconds: float = 0.2,
) -> History:
    """Read the journal until ``until`` holds or the run is over and its evidence written.

    ``on_change`` is called with each new state of affairs. Raises RunRefused when nobody
    conducts the run any more.
    """
    seen = -1
    unattended_since: float | None = None
    while True:
        history = read_whole(run)
        if len(history.records) != seen:
            seen = len(history.records)
            if on_change is not None:
                on_change(history)
        is_over = history.closed is not None and run.manifest.exists()
        if is_over or (history.closed is None and until(history)):
            return history
        if _is_attended(history):
            unattended_since = None
        else:
            unattended_since = unattended_since or time.monotonic()
            if time.monotonic() - unattended_since > _UNATTENDED_SECONDS:
                raise RunRefused(_unattended_sentence(run, history))
        time.sleep(poll_seconds)


def answer_in(history: History, name: str) -> Record | None:
    """The orchestrator's answer to the request in file ``name``; None while there is none."""
    answers = (r for r in reversed(history.records) if r.kind == "answer")
    return next((record for record in answers if record.payload["file"] == name), None)


def _unattended_sentence(run: RunDir, history: History) -> str:
    if not history.has_begun:
        return unstarted_sentence(run)
    return (
        f"run {run.run_id} is {history.state.value} and nobody conducts it; take it up again with "
        f"`ctp-runbook resume --run {run.path}`"
    )


def unstarted_sentence(run: RunDir) -> str:
    """What such a run is, and what starts or discards it."""
    return (
        f"run {run.run_id} was planned and never started, and nothing but its own start starts "
        f"it: 02_infra_gate with run_dir = {run.path} does, `ctp-runbook abort --run {run.path}` "
        "discards it"
    )


def read_whole(run: RunDir) -> History:
    """The history; a record caught in the middle of its write is read a moment later."""
    for _ in range(20):
        try:
            return read_history(run)
        except JournalError:
            time.sleep(0.05)
    return read_history(run)
