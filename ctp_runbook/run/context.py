"""What everything in one run shares: its directory, plan, journal, and what steps and probes get."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec
from msgspec import Struct, field

from ctp_runbook.model import Step, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.record.kinds import Finding, Payload, StepNotDone
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.world import HERE, World

__all__ = ["READINESS_STEPS", "READING_SECONDS", "Asking", "Graces", "RunContext"]

_P = TypeVar("_P", bound=Payload)

# A probe that is asked past its deadline is asked all the same: no answer proves nothing at all.
_LEAST_ASK_SECONDS = 0.5
# What reading the samples of a night takes on a busy machine, or a large executable from a slow disk.
READING_SECONDS = 30.0
# Steps that ask READINESS_<SLI>_CMD, before the switch and after the rollback.
READINESS_STEPS = ("precheck", "post_rollback_validate")


class Asking(TypedDict):
    """How a probe is asked on behalf of a run: where, with what environment, for how long."""

    cwd: Path
    env: Mapping[str, str]
    seconds: float
    interrupt: Callable[[], str]


class Graces(TypedDict):
    """How many seconds TERM and then KILL are waited for."""

    term_grace: float
    kill_grace: float


class RunContext(Struct, frozen=True):
    """What everything in one run shares.

    ``interrupt`` is asked about ten times a second while a step waits; a sentence from it
    (an abort, say) ends the step. ``environ`` is what steps and probes get. ``alert`` calls for
    a person, by an occasion and a sentence; it neither waits nor fails. ``beat`` says that the run
    is conducted, before something that may take so many seconds; who does not say so is taken for
    hung. ``world`` is the host all of it happens on.
    """

    run: RunDir
    plan: Plan
    journal: Journal
    cwd: Path
    environ: Mapping[str, str]
    interrupt: Callable[[], str] = field(default=lambda: "")
    alert: Callable[[str, str], None] = field(default=lambda occasion, sentence: None)
    beat: Callable[[float], object] = field(default=lambda seconds: None)
    world: World = HERE
    _folded: list[History] = field(default_factory=lambda: [History(())])

    def record(self, payload: _P) -> Record[_P]:
        """Append to the journal, redacted."""
        # Here and nowhere else, so that no writer of a record can forget it.
        redacted: _P = self.plan.redactor.data(payload)
        record = self.journal.append(redacted)
        self.beat(0.0)
        return record

    def warn(self, sentence: str) -> None:
        """Append a finding that a reviewer should read, and that stops nothing."""
        self.record(Finding(severity="warning", sentence=sentence))

    def record_not_done(
        self, step: Step, *, reason: str, status: StepStatus, duration_ms: float = 0.0
    ) -> None:
        """Append that ``step`` is not done, and why; of one that the plan leaves out, that alone."""
        self.record(
            StepNotDone(
                step=step.name,
                phase=step.phase,
                status=StepStatus.SKIPPED if step.skipped else status,
                reason=step.skipped or reason,
                command=step.command,
                duration_ms=round(duration_ms, 3),
            )
        )

    def asking(self, *, deadline: float | None = None) -> Asking:
        """What a probe gets: ``alive_timeout_seconds``, less where ``deadline`` comes first."""
        seconds = self.plan.limits.alive_timeout_seconds
        if deadline is not None:
            left = deadline - self.world.clock.mono()
            seconds = min(seconds, max(_LEAST_ASK_SECONDS, left))
        # A page is waited for in one go.
        self.beat(seconds)
        return {
            "cwd": self.cwd,
            "env": self.environment_of(),
            "seconds": seconds,
            "interrupt": self.interrupt,
        }

    def graces(self, *, most: float = math.inf) -> Graces:
        """The graces of limits.toml, each cut to ``most`` seconds."""
        limits = self.plan.limits
        return {
            "term_grace": min(limits.term_grace_seconds, most),
            "kill_grace": min(limits.kill_grace_seconds, most),
        }

    @property
    def history(self) -> History:
        """The journal so far, folded."""
        # It is asked for ten times a second while something waits: only what is new is folded.
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
            # `ctp-runbook readiness` reads no limits.toml: this is how it is told.
            "CTP_SLI_TIMEOUT_SECONDS": f"{self.plan.limits.sli_timeout_seconds:g}",
        }
        if step in READINESS_STEPS and (commands := self.plan.readiness_commands):
            added["CTP_READINESS_COMMANDS"] = msgspec.json.encode(dict(commands)).decode()
        # What a probe starts has no CTP_STEP: it would be taken for something a step left behind.
        return {**self.environ, **added, **({"CTP_STEP": step} if step else {})}
