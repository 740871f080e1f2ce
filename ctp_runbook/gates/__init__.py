"""The infra gates, one module a component: what is wanted, what is done, what is wrong."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.gates.context import GateContext
    from ctp_runbook.gates.gate import GateOptions, write_gate
    from ctp_runbook.gates.readiness import judge_readiness_file
    from ctp_runbook.gates.run import run_gate
else:
    __getattr__ = late(
        __name__,
        {
            "GateContext": "context",
            "GateOptions": "gate",
            "judge_readiness_file": "readiness",
            "run_gate": "run",
            "write_gate": "gate",
        },
    )

__all__ = ["GateContext", "GateOptions", "judge_readiness_file", "run_gate", "write_gate"]
