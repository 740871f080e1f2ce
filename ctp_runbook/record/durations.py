"""How long cutover and rollback took in an environment: read from the journals of its runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.model import Outcome, Phase
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.plan.timing import Measured, p95
from ctp_runbook.record.evidence import rollback_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir, glance_at, runs_under

__all__ = ["measured_durations"]

# One that failed has no duration.
_ROLLED_BACK = (
    Outcome.ROLLED_BACK_IN_BUDGET,
    Outcome.ROLLED_BACK_LATE,
    Outcome.ROLLED_BACK_UNVALIDATED,
)


def measured_durations(environment: str, outputs: Iterable[Path]) -> Measured:
    """p95 over the real runs of exactly this environment under ``outputs``.

    A journal that cannot be read, or whose chain does not hold, measures nothing.
    """
    cutovers, rollbacks = [], []
    for history in _histories(environment, {path.resolve() for path in outputs}):
        if (seconds := _cutover_seconds(history)) is not None:
            cutovers.append(seconds)
        if history.outcome in _ROLLED_BACK:
            rollbacks.append(rollback_seconds(history))
    return Measured(
        _rounded(p95(cutovers)), len(cutovers), _rounded(p95(rollbacks)), len(rollbacks)
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _histories(environment: str, outputs: Iterable[Path]) -> Iterator[History]:
    # The journal is what counts; run.json only spares reading those of others.
    runs = [run for root in outputs for run in runs_under(root) if _is_wanted(run, environment)]
    for run in sorted(runs, key=lambda run: run.path):
        with contextlib.suppress(OSError, RunbookError):
            history = History.of(read_journal(run.journal).records)
            if not history.is_dry_run and history.created.environment == environment:
                yield history


def _is_wanted(run: RunDir, environment: str) -> bool:
    glance = glance_at(run)
    return glance.environment == environment and not glance.dry_run


def _cutover_seconds(history: History) -> float | None:
    """From the first stop to the watch; None for a switch that did not get there in one boot."""
    started = (history.step(name).started_mono_ns for name in steps_of(Phase.SWITCH))
    first, watch = next(filter(None, started), 0), history.watch_started
    if watch is None or not first or history.restarts:
        return None
    return (watch.mono_ns - first) / 1e9
