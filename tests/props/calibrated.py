"""A calibration made of an hour that is known: one slow order each two minutes, windows of two."""

from __future__ import annotations

from pathlib import Path

from ctp_runbook.notebook.calibrate import Asked, Recording, Subject, make
from ctp_runbook.record.calibration import Calibration, CalibrationDir
from ctp_runbook.record.kinds import WatchFacts
from tests.props.recorded_engine import engine_samples, lag_rule, latency_rule, write, yardstick

__all__ = ["calibrated_folder", "example_subject"]


def example_subject(*, minutes: float = 2.0) -> Subject:
    """Latency and lag, with a window of so many minutes."""
    by = yardstick(latency_rule(), lag_rule())
    watch = WatchFacts(
        tolerance_inconclusive_seconds=120.0,
        tolerance_error_seconds=60.0,
        recovery_seconds=120.0,
        metrics={rule.name: rule for rule in by.watched},
    )
    return Subject("example", watch, by.keys, by.trigger, minutes)


def calibrated_folder(folder: Path) -> tuple[Calibration, CalibrationDir]:
    """The record and the folder it stands in."""
    samples = engine_samples(3600, seed=5, slow_per_second=1 / 120, lags_ms=True)
    recording = Recording(source="a test", samples=write(folder / "recorded.jsonl", samples))
    return make(example_subject(), Asked(2.0, step_minutes=2.0), recording, outputs=folder)
