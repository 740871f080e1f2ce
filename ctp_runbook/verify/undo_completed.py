"""A rollback of a completed run against the journal of that run, of which it carries a copy."""

from __future__ import annotations

from collections.abc import Iterator

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.journal import JournalFile, digest_of, read_journal
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir
from ctp_runbook.verify.journal import clock_findings, plan_findings, sequence_findings

__all__ = ["parent_findings"]

# What the rollback takes over from the header of the run it undoes.
_SAME = ("environment", "plan_sha256", "host", "rehearsal", "cwd", "files", "plan")


def parent_findings(run: RunDir, history: History) -> Iterator[str]:
    """The parent is the run named, ended COMPLETED, and its members are those adopted."""
    named, adopted = history.created.get("parent_run"), history.parent
    if not named and adopted is None:
        return
    if not named or adopted is None or history.records[1] is not adopted:
        yield f"the header names the parent {named!r}; the record after it adopts none, or another"
        return
    path = run.plan / PARENT_JOURNAL
    try:
        data = path.read_bytes()
        journal = read_journal(path)
    except (OSError, JournalError, TypeError) as error:
        yield f"plan/{PARENT_JOURNAL}: {error}"
        return
    if digest_of(data) != adopted.payload["journal_sha256"]:
        yield f"plan/{PARENT_JOURNAL}: not the journal that was adopted (journal_sha256)"
    if history.created["plan_files"].get(PARENT_JOURNAL) != adopted.payload["journal_sha256"]:
        yield f"run_created.plan_files names another {PARENT_JOURNAL} than was adopted"
    beside = run.path.parent / str(named) / "journal.jsonl"
    if beside.is_file() and beside.read_bytes() != data:
        yield f"plan/{PARENT_JOURNAL} is not the journal of run {named} beside this one"
    if broken := [*_broken(journal)]:
        yield from (f"plan/{PARENT_JOURNAL}: {finding}" for finding in broken)
        return
    yield from _adopted(history, History.of(journal.records))


def _broken(journal: JournalFile) -> Iterator[str]:
    records = journal.records
    if not records or records[0].kind != "run_created" or journal.torn:
        yield "no whole journal"
        return
    for find in (plan_findings, clock_findings, sequence_findings):
        yield from find(records)


def _adopted(history: History, parent: History) -> Iterator[str]:
    created, before = history.created, parent.created
    if not parent.run_id == created["parent_run"] == history.records[1].payload["run_id"]:
        yield f"the parent's journal is that of run {parent.run_id}, not of {created['parent_run']}"
    if parent.outcome is not Outcome.COMPLETED:
        yield f"the parent ended {parent.outcome}; only a COMPLETED run is rolled back by another"
    if before.get("parent_run"):
        yield "the parent is itself a rollback of another run"
    for key in _SAME:
        if getattr(created, key) != getattr(before, key):
            yield f"{key} of the header is not that of the parent"
    if parent.records[-1].boot_id != history.records[0].boot_id:
        yield "the parent ran in another boot: its processes cannot be told"
    if parent.records[-1].wall > history.records[0].wall:
        yield "the parent ended after its rollback began"
    yield from _identity_findings(history, parent)


def _identity_findings(history: History, parent: History) -> Iterator[str]:
    """What is pinned right after the parent's record is what the parent pinned, all of it."""
    due = [pinned(name, "", pin) for name, pin in parent.pins.items()]
    adopted = [record.payload for record in history.records[2 : 2 + len(due)]]
    if adopted != due:
        yield f"the members adopted are {adopted}; the parent's journal has {due}"
