"""What everything in one run shares: its directory, plan, journal, and what steps and probes get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctp_runbook.model import Step, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.kinds import Payload, of_kind
from ctp_runbook.record.rundir import RunDir

__all__ = ["RunContext"]


@dataclass(frozen=True)
class RunContext:
    """What everything in one run shares.

    ``interrupt`` is asked about ten times a second while a step waits; a sentence from it
    (an abort, say) ends the step. ``environ`` is what steps and probes get. ``alert`` calls for
    a person, by an occasion and a sentence; it neither waits nor fails.
    """

    run: RunDir
    plan: Plan
    journal: Journal
    cwd: Path
    environ: Mapping[str, str]
    interrupt: Callable[[], str] = field(default=lambda: "")
    alert: Callable[[str, str], None] = field(default=lambda occasion, sentence: None)
    _folded: list[History] = field(default_factory=lambda: [History(())], repr=False)

    def record(self, kind: str | Payload, **payload: Any) -> None:
        """Append to the journal, redacted."""
        made = of_kind(kind, payload) if isinstance(kind, str) else kind
        self.journal.append(self.plan.redactor.data(made))

    def record_not_done(self, step: Step, *, reason: str, status: StepStatus) -> None:
        """Append that ``step`` is not done, and why."""
        self.record(
            "step_not_done",
            step=step.name,
            phase=step.phase.value,
            status=status.value,
            reason=reason,
            command=step.command,
        )

    @property
    def history(self) -> History:
        """The journal so far, folded."""
        known = self._folded[0]
        if new := self.journal.records[len(known.records) :]:
            self._folded[0] = known.then(new)
        return self._folded[0]

    def environment_of(self, step: str = "") -> dict[str, str]:
        """The environment of a step's command; without a step, that of a probe."""
        run = self.run
        added = {
            "CTP_RUN_ID": run.run_id,
            "CTP_RUN_DIR": str(run.path),
            "CTP_EVIDENCE_DIR": str(run.evidence),
        }
        return {**self.environ, **added, **({"CTP_STEP": step} if step else {})}
