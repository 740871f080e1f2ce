"""How long cutover and rollback took in an environment: read from the journals of its runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctp_runbook.errors import RunbookError
from ctp_runbook.model import Outcome, Phase, StepStatus
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.plan.timing import Measured, p95
from ctp_runbook.record.evidence import rollback_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir, glance_at, runs_under

__all__ = ["measured_durations", "usual_step_seconds"]

_LAST_RUNS = 20
_TWIN = "rehearsal-"
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


def usual_step_seconds(run: RunDir) -> dict[str, float]:
    """The median that each step took, where it ended well, in the last real runs beside ``run``.

    Those of its environment count; every twin is an environment of its own, so that a rehearsal is
    held against all rehearsals.
    """
    own = glance_at(run).environment
    alike = [
        other
        for other in runs_under(run.path.parent)
        if other.path != run.path and _is_alike(other, own)
    ]
    took: dict[str, list[float]] = {}
    # Their names begin with the time; a viewer that came to a thousandth run must not read them all.
    for other in sorted(alike, key=lambda other: other.path)[-_LAST_RUNS:]:
        with contextlib.suppress(OSError, RunbookError):
            for step in History.of(read_journal(other.journal).records).steps.values():
                if step.status is StepStatus.OK and step.attempt:
                    took.setdefault(step.name, []).append(step.duration_ms / 1000)
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in took.items()}


def _is_alike(run: RunDir, environment: str) -> bool:
    glance = glance_at(run)
    is_twin = environment.startswith(_TWIN) and glance.environment.startswith(_TWIN)
    return not glance.dry_run and (is_twin or glance.environment == environment)


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
