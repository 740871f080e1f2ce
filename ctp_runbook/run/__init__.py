"""The one process that acts: how it is started, asked, survived."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.run.attend import follow, read_history
    from ctp_runbook.run.context import RunContext
    from ctp_runbook.run.create import RunOptions
    from ctp_runbook.run.launch import create_run, start
else:
    __getattr__ = late(
        __name__,
        {
            "RunContext": "context",
            "RunOptions": "create",
            "create_run": "launch",
            "follow": "attend",
            "read_history": "attend",
            "start": "launch",
        },
    )

__all__ = ["RunContext", "RunOptions", "create_run", "follow", "read_history", "start"]
