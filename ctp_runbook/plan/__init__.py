"""Inputs to one typed plan: templates, rules, limits. Pure but for reading files."""

from typing import TYPE_CHECKING

from ctp_runbook._late import late

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule, WatchRules
    from ctp_runbook.plan.plan import Plan, load_plan
    from ctp_runbook.plan.step_table import STEP_TABLE
    from ctp_runbook.plan.triggers import Trigger
else:
    __getattr__ = late(
        __name__,
        {
            "STEP_TABLE": "step_table",
            "MetricRule": "config",
            "Plan": "plan",
            "Trigger": "triggers",
            "WatchRules": "config",
            "load_plan": "plan",
        },
    )

__all__ = ["STEP_TABLE", "MetricRule", "Plan", "Trigger", "WatchRules", "load_plan"]
