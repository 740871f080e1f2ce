"""The name that notebooks import; what is behind it stands in ``notebook.phases``."""

from ctp_runbook.notebook.phases import (
    HOME_VARIABLE,
    OUTPUTS_VARIABLE,
    CalibrationResult,
    PhaseResult,
    calibration,
    infra_gates,
    overview,
    past_runs,
    plan,
    readiness,
    rollback,
    steer,
    switch,
    verify,
    watch,
)

__all__ = [
    "HOME_VARIABLE",
    "OUTPUTS_VARIABLE",
    "CalibrationResult",
    "PhaseResult",
    "calibration",
    "infra_gates",
    "overview",
    "past_runs",
    "plan",
    "readiness",
    "rollback",
    "steer",
    "switch",
    "verify",
    "watch",
]
