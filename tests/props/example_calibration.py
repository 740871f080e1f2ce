"""A calibration, whole, and any other like it but for what a test says."""

from __future__ import annotations

from typing import Any

from ctp_runbook.record.calibration import AlarmRate, Calibration, MetricCalibration
from ctp_runbook.record.kinds import WatchFacts
from tests.props.recorded_engine import latency_rule

__all__ = ["ALARMED", "MADE", "QUIET", "calibration"]

MADE = "2026-02-02T02:02:02.000002+00:00"
QUIET = AlarmRate(alarms=0, windows=16, low=0.0, high=0.206, sliding_alarms=0, sliding_windows=46)
ALARMED = AlarmRate(
    alarms=4, windows=16, low=0.0727, high=0.524, sliding_alarms=9, sliding_windows=46
)


def calibration(**changes: Any) -> Calibration:
    """One that was rolled back in 4 of 16 windows, but for what a test says."""
    rule = latency_rule()
    facts: dict[str, Any] = {
        "environment": "example",
        "made_utc": MADE,
        "source": "the running engine",
        "samples": 28800,
        "samples_sha256": "5e" * 32,
        "begins_utc": MADE,
        "minutes": 480.0,
        "window_minutes": 30.0,
        "step_minutes": 10.0,
        "false_alarm_rate": 0.01,
        "limits_sha256": "5e" * 32,
        "trigger_text": "order_latency_p99_ms > 5",
        "watch": WatchFacts(
            tolerance_inconclusive_seconds=120.0,
            tolerance_error_seconds=60.0,
            recovery_seconds=120.0,
            metrics={rule.name: rule},
        ),
        "rollbacks": ALARMED,
        "holds": QUIET,
        "metrics": (
            MetricCalibration(
                name=rule.name, samples=0, quantiles={}, alarms=ALARMED, sentence="as it was"
            ),
        ),
        "windows": (),
        **changes,
    }
    return Calibration(**facts)
