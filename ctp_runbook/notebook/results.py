"""What a cell of a notebook holds: a room of the runbook as it went, as a page and as DataFrames.

A frame is made when it is first asked for, of what the page beside it was made of; pandas is
imported then and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.notebook import frames
from ctp_runbook.record.durations import Bound
from ctp_runbook.record.gate_files import ReadinessFile
from ctp_runbook.record.history import History
from ctp_runbook.record.past_runs import PastRun
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import run_blocks
from ctp_runbook.show.blocks import Page

if TYPE_CHECKING:
    import pandas as pd

    from ctp_runbook.verify.report import VerificationReport
    from ctp_runbook.watch.judge import WindowJudgement

__all__ = [
    "CalibrationResult",
    "GateResult",
    "PastRunsResult",
    "PhaseResult",
    "ReadinessResult",
    "RunResult",
    "VerifyResult",
    "WatchResult",
]


@dataclass(frozen=True)
class PhaseResult:
    """A room of the runbook as it went: shown as a page, an error only when asked for."""

    page: Page
    failure: RunbookError | None = None

    def raise_if_failed(self) -> None:
        """Raise what went wrong as one sentence; a notebook stops there."""
        if self.failure is not None:
            raise self.failure

    def __repr__(self) -> str:
        return self.page.text

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        return self.page._repr_mimebundle_(include, exclude)


@dataclass(frozen=True, repr=False)
class CalibrationResult(PhaseResult):
    """00: a calibration, and what it is made of."""

    limits: pd.DataFrame = field(kw_only=True, repr=False)
    windows: pd.DataFrame = field(kw_only=True, repr=False)
    hours: pd.DataFrame = field(kw_only=True, repr=False)
    points: pd.DataFrame = field(kw_only=True, repr=False)


@dataclass(frozen=True, repr=False)
class PastRunsResult(PhaseResult):
    """08: the runs of an environment side by side, and how long things take by them."""

    past: Sequence[PastRun] = field(kw_only=True, repr=False)
    bounded: Sequence[Bound] = field(kw_only=True, repr=False)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The runs, as ``frames.runs`` has them."""
        return frames.runs(self.past)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The steps of every run, as ``frames.runs_steps`` has them."""
        return frames.runs_steps(self.past)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The metrics of every watch, as ``frames.runs_metrics`` has them."""
        return frames.runs_metrics(self.past)

    @cached_property
    def bounds(self) -> pd.DataFrame:
        """How long each thing takes, as ``frames.bounds`` has it."""
        return frames.bounds(self.bounded)


@dataclass(frozen=True, repr=False)
class RunResult(PhaseResult):
    """Any room of a run: with its steps and its journal."""

    run: RunDir = field(kw_only=True, repr=False)
    history: History = field(kw_only=True, repr=False)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The plan's steps, as ``frames.steps`` has them."""
        return frames.steps(self.history)

    @cached_property
    def journal(self) -> pd.DataFrame:
        """The run's records so far, as ``frames.journal`` has them."""
        return frames.journal(self.history)


@dataclass(frozen=True, repr=False)
class GateResult(RunResult):
    """02: with what the infra gates observed."""

    @cached_property
    def gates(self) -> pd.DataFrame:
        """What each gate observed, as ``frames.gates`` has it."""
        return frames.gates(run_blocks.observed_rows(self.run))


@dataclass(frozen=True, repr=False)
class ReadinessResult(RunResult):
    """03: with the service levels."""

    report: ReadinessFile = field(kw_only=True, repr=False)

    @cached_property
    def slis(self) -> pd.DataFrame:
        """The service levels, as ``frames.slis`` has them."""
        return frames.slis(self.report)


@dataclass(frozen=True, repr=False)
class WatchResult(RunResult):
    """05: with what was judged, and what it was judged by; ``judged`` is None without a watch."""

    judged: WindowJudgement | None = field(default=None, kw_only=True, repr=False)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Every metric's verdict, as ``frames.verdicts`` has it."""
        return frames.verdicts(self.judged, self.history.plan.watch.metrics)

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every metric's measurements, as ``frames.points`` has them."""
        return frames.points(self.judged, self.history.plan.watch.metrics)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The raw samples behind them, as ``frames.samples`` has them; read when asked for."""
        return frames.samples(self.run.samples)


@dataclass(frozen=True, repr=False)
class VerifyResult(RunResult):
    """07: with every check that was made of the record."""

    report: VerificationReport = field(kw_only=True, repr=False)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The checks, as ``frames.checks`` has them."""
        return frames.checks(self.report)
