"""A rollback of a completed run against the journal of that run, of which it carries a copy."""

from __future__ import annotations

from collections.abc import Iterator

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir
from ctp_runbook.verify.journal import clock_findings, plan_findings, sequence_findings

__all__ = ["parent_findings"]

# What the rollback takes over from the header of the run it undoes.
_SAME = ("environment", "plan_sha256", "host", "rehearsal", "cwd", "files", "plan")
_COPY = f"plan/{PARENT_JOURNAL}"


def parent_findings(run: RunDir, history: History) -> Iterator[str]:
    """The parent is the run named, ended COMPLETED, and its members are those adopted."""
    named, adopted = history.created.parent_run, history.parent
    if not named and adopted is None:
        return
    if not named or adopted is None or history.records[1] is not adopted:
        yield f"the header names the parent {named!r}; the record after it adopts none, or another"
        return
    path, sha256 = run.plan / PARENT_JOURNAL, adopted.payload.journal_sha256
    try:
        data, journal = path.read_bytes(), read_journal(path)
    except (OSError, JournalError) as error:
        yield f"{_COPY}: {error}"
        return
    if digest_of(data) != sha256:
        yield f"{_COPY}: not the journal that was adopted (journal_sha256)"
    if history.created.plan_files.get(PARENT_JOURNAL) != sha256:
        yield f"run_created.plan_files names another {PARENT_JOURNAL} than was adopted"
    beside = run.path.parent / named / "journal.jsonl"
    if beside.is_file() and beside.read_bytes() != data:
        yield f"{_COPY} is not the journal of run {named} beside this one"
    parent = History.of(journal.records)
    if parent.header is None or journal.records[0].kind != "run_created" or journal.torn:
        yield f"{_COPY}: no whole journal"
        return
    wrong = (plan_findings(parent), clock_findings(parent.records), sequence_findings(parent))
    if broken := [finding for findings in wrong for finding in findings]:
        yield from (f"{_COPY}: {finding}" for finding in broken)
        return
    yield from _adopted(history, parent)


def _adopted(history: History, parent: History) -> Iterator[str]:
    created, before = history.created, parent.created
    first, last = history.records[0], parent.records[-1]
    adopted = history.parent.payload.run_id if history.parent else ""
    if not parent.run_id == created.parent_run == adopted:
        yield f"the parent's journal is that of run {parent.run_id}, not of {created.parent_run}"
    if parent.outcome is not Outcome.COMPLETED:
        yield f"the parent ended {parent.outcome}; only a COMPLETED run is rolled back by another"
    if before.parent_run:
        yield "the parent is itself a rollback of another run"
    for key in _SAME:
        if getattr(created, key) != getattr(before, key):
            yield f"{key} of the header is not that of the parent"
    if last.boot_id != first.boot_id:
        yield "the parent ran in another boot: its processes cannot be told"
    # Not by the wall clock: it may have been set back between the two.
    elif last.mono_ns > first.mono_ns:
        yield "the parent ended after its rollback began"
    # What is pinned right after the parent's record is what the parent pinned, all of it.
    due = [pinned(name, "", pin) for name, pin in parent.pins.items()]
    members = [record.payload for record in history.records[2 : 2 + len(due)]]
    if members != due:
        yield f"the members adopted are {members}; the parent's journal has {due}"
