"""The last act of a run: derive evidence and manifest from the closed journal, forget secrets."""

from __future__ import annotations

from ctp_runbook.record.evidence import write_evidence, write_manifest
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.private_plan import clear_private
from ctp_runbook.record.rundir import RunDir

__all__ = ["finalise"]


def finalise(run: RunDir) -> None:
    """Write evidence/ and manifest.json of a run whose journal is closed; may be repeated."""
    write_evidence(run, History.of(read_journal(run.journal).records))
    write_manifest(run, sealed=False)
    clear_private(run)
