"""What a cell calls, and how notebooks are run."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.notebook.checkout import find_config
    from ctp_runbook.notebook.engine import execute_notebook
    from ctp_runbook.notebook.lab import open_lab
    from ctp_runbook.notebook.results import PhaseResult
    from ctp_runbook.notebook.runner import run_all
else:
    __getattr__ = late(
        __name__,
        {
            "PhaseResult": "results",
            "execute_notebook": "engine",
            "find_config": "checkout",
            "open_lab": "lab",
            "run_all": "runner",
        },
    )

__all__ = ["PhaseResult", "execute_notebook", "find_config", "open_lab", "run_all"]
