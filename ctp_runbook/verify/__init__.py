"""The record recomputed; nothing that was written is trusted."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.verify.pair import verify_pair
    from ctp_runbook.verify.rejudge import rejudge_run
    from ctp_runbook.verify.report import VerificationReport
    from ctp_runbook.verify.run import verify_run
else:
    __getattr__ = late(
        __name__,
        {
            "VerificationReport": "report",
            "rejudge_run": "rejudge",
            "verify_pair": "pair",
            "verify_run": "run",
        },
    )

__all__ = ["VerificationReport", "rejudge_run", "verify_pair", "verify_run"]
