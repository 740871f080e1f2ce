"""What a run leaves, and how it is read back."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.record.history import History
    from ctp_runbook.record.journal import Journal, read_journal
    from ctp_runbook.record.rundir import RunDir, write_atomic
    from ctp_runbook.record.samples import Sample
else:
    __getattr__ = late(
        __name__,
        {
            "History": "history",
            "Journal": "journal",
            "RunDir": "rundir",
            "Sample": "samples",
            "read_journal": "journal",
            "write_atomic": "rundir",
        },
    )

__all__ = ["History", "Journal", "RunDir", "Sample", "read_journal", "write_atomic"]
