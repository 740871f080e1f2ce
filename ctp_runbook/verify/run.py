"""``verify``: recompute all that a run left behind; trust nothing that was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Outcome, Phase, StepKind, StepStatus
from ctp_runbook.plan.budget import budget_shares
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.record.evidence import rollback_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import JournalFile, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.verify.files import (
    evidence_findings,
    gate_findings,
    header_findings,
    log_findings,
    manifest_findings,
    notebook_findings,
    readiness_findings,
)
from ctp_runbook.verify.journal import clock_findings, plan_findings, sequence_findings
from ctp_runbook.verify.pair import MAX_ROLLBACK_SECONDS, judge_pair
from ctp_runbook.verify.report import Check, VerificationReport, checked
from ctp_runbook.verify.undo_completed import parent_findings
from ctp_runbook.verify.watch import (
    baseline_findings,
    sample_findings,
    verdict_findings,
    window_findings,
)

__all__ = ["verify_pair", "verify_run"]

_TRADES = {
    Outcome.COMPLETED: ("new", "old"),
    Outcome.ROLLED_BACK_IN_BUDGET: ("old", "new"),
}


@dataclass(frozen=True)
class _Case:
    """One run under verification, and what is asked of it."""

    run: RunDir
    journal: JournalFile
    history: History
    allow_cutover_rollback: bool
    max_rollback_seconds: float | None

    @property
    def rollback_limit(self) -> float:
        """The plan's budget, or the lower one asked for."""
        planned = float(self.history.plan["max_rollback_seconds"])
        asked = self.max_rollback_seconds
        return planned if asked is None else min(planned, asked)


def verify_run(
    run: RunDir,
    *,
    allow_cutover_rollback: bool = False,
    max_rollback_seconds: float | None = None,
    require_manifest: bool = True,
) -> VerificationReport:
    """Verify a run's directory whole; a dry run is refused, whatever it holds.

    ``require_manifest=False`` is for notebook 07, which runs before the manifest is written.
    """
    subject = f"run {run.run_id}"
    try:
        journal = read_journal(run.journal)
    except (JournalError, TypeError) as error:
        # A value of another type where the chain is read: no record of ours.
        return VerificationReport(subject, (Check("journal", False, f"{run.journal}: {error}"),))
    form = checked("journal", "the chain holds, every record is in form", _form(run, journal))
    if not form.ok:
        return VerificationReport(subject, (form,))
    case = _Case(
        run=run,
        journal=journal,
        history=History.of(journal.records),
        allow_cutover_rollback=allow_cutover_rollback,
        max_rollback_seconds=max_rollback_seconds,
    )
    due = _CHECKS if require_manifest else _CHECKS[:-1]
    checks = (checked(name, passed, find(case)) for name, passed, find in due)
    return VerificationReport(subject, (form, *checks))


def verify_pair(
    cutover: Path,
    rollback: Path,
    *,
    allow_cutover_rollback: bool = False,
    max_rollback_seconds: float | None = None,
) -> VerificationReport:
    """Check two bare result files against CONTRACT §3 and each other: the contract only.

    Without ``max_rollback_seconds`` the limit is that of RUNBOOK §8.
    """
    limit = MAX_ROLLBACK_SECONDS if max_rollback_seconds is None else max_rollback_seconds
    return judge_pair(
        cutover,
        rollback,
        allow_cutover_rollback=allow_cutover_rollback,
        max_rollback_seconds=limit,
    )


def _form(run: RunDir, journal: JournalFile) -> Iterator[str]:
    if not journal.records:
        yield f"{run.journal}: no record in it"
    elif journal.records[0].kind != "run_created":
        yield f"{run.journal}:1: {journal.records[0].kind}; a journal begins with run_created"
    if journal.torn:
        yield f"{run.journal}: its last line is torn; the run that wrote it is not over"


def _outcome(case: _Case) -> Iterator[str]:
    """Exactly the outcome that was allowed, of a real run."""
    history, outcome = case.history, case.history.outcome
    if history.is_dry_run:
        yield (
            "this is a dry run: it proves that nothing stood in the way, not that anything was "
            "done; it never verifies as a real one (run with --execute)"
        )
    if outcome is None:
        yield "the run is not over: its journal is not closed"
    elif outcome is Outcome.ROLLED_BACK_IN_BUDGET and not case.allow_cutover_rollback:
        yield (
            "the run was rolled back in budget; expected COMPLETED (a drill that is to roll back "
            "verifies with --allow-cutover-rollback)"
        )
    elif outcome not in (Outcome.COMPLETED, Outcome.ROLLED_BACK_IN_BUDGET, Outcome.DRY_RUN_OK):
        yield f"the run ended {outcome.value}: {_closing(history)}"


def _closing(history: History) -> str:
    return str(history.closed.payload["sentence"]) if history.closed else ""


def _steps(case: _Case) -> Iterator[str]:
    """A completed cutover did all ten steps and nothing else; a rollback restored trading."""
    history = case.history
    if history.outcome is Outcome.COMPLETED:
        for spec in STEP_TABLE:
            status = history.step(spec.name).status
            if spec.phase is not Phase.ROLLBACK and status is not StepStatus.OK:
                yield f"step {spec.name} is {status.value} in a run that is COMPLETED"
            if spec.phase is Phase.ROLLBACK and spec.name in history.steps:
                yield f"rollback step {spec.name} stands in a run that is COMPLETED"
    if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET:
        yield from _rollback_steps(history)
    yield from _running(history)
    yield from _identities(history)


def _rollback_steps(history: History) -> Iterator[str]:
    """Starts and validation must have worked; a stop may have failed and been made good."""
    for spec in STEP_TABLE:
        if spec.phase is not Phase.ROLLBACK:
            continue
        status = history.step(spec.name).status
        allowed = {StepStatus.OK, StepStatus.SKIPPED}
        if spec.kind is StepKind.STOP:
            allowed |= {StepStatus.FAILED, StepStatus.TIMED_OUT}
        if spec.name == "post_rollback_validate":
            allowed = {StepStatus.OK}
        if status not in allowed:
            yield f"step {spec.name} is {status.value} in a run rolled back in budget"


def _running(history: History) -> Iterator[str]:
    """What ran at the end: the generation that should, and no part of the other."""
    if history.closed is None or history.outcome not in _TRADES:
        return
    alive, gone = _TRADES[history.outcome]
    running = history.closed.payload["running"]
    for role in ("core_engine", "strategy_runner"):
        for generation, due in ((alive, "alive"), (gone, "gone")):
            found = running.get(f"{generation}_{role}", "not looked at")
            if found != due:
                yield f"at the end {generation}_{role} was {found}; expected {due}"


def _identities(history: History) -> Iterator[str]:
    """Who was started was written down."""
    for spec in STEP_TABLE:
        if spec.kind is not StepKind.START or spec.acts_on is None:
            continue
        member = f"{spec.acts_on[0]}_{spec.acts_on[1]}"
        started = history.step(spec.name).status is StepStatus.OK
        if started and member not in history.identities:
            yield f"step {spec.name} is ok, and no identity of {member} is in the journal"


def _rollback(case: _Case) -> Iterator[str]:
    """Why it was rolled back, and whether trading was restored in time; nothing if it was not."""
    history = case.history
    begun, trigger = history.rollback_started, history.trigger
    if history.outcome is Outcome.COMPLETED and (begun or trigger):
        yield "a run that is COMPLETED has a trigger or a rollback in its journal"
    if begun is None:
        return
    if trigger is None:
        yield "a rollback began without a trigger in the journal"
        return
    if begun.payload["started_utc"] != trigger.payload["sample_utc"]:
        yield (
            f"the rollback counts from {begun.payload['started_utc']}; its trigger is from "
            f"{trigger.payload['sample_utc']}"
        )
    if begun.payload["started_mono_ns"] != trigger.payload["sample_mono_ns"]:
        yield "the rollback counts from another monotonic instant than that of its trigger"
    if begun.payload["budget_seconds"] != history.plan["max_rollback_seconds"]:
        yield (
            f"the rollback had {begun.payload['budget_seconds']} s; MAX_ROLLBACK_SECONDS is "
            f"{history.plan['max_rollback_seconds']}"
        )
    if begun.payload["shares"] != budget_shares(begun.payload["budget_seconds"]):
        yield "rollback_started splits the budget over the steps in another way than this version"
    forced = trigger.payload["cause"] == "forced_drill"
    if forced and not history.created["force_rollback"]:
        yield "a forced drill in a run that was not started with --force-rollback"
    if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET:
        yield from _budget(case)


def _budget(case: _Case) -> Iterator[str]:
    seconds, limit = rollback_seconds(case.history), case.rollback_limit
    begun, closed = case.history.rollback_started, case.history.closed
    if not 0 <= seconds <= limit:
        yield f"the rollback took {seconds:.3f} s; at most {limit:g} s are allowed"
    if begun is None or closed is None or begun.boot_id != closed.boot_id:
        return
    behind = (begun.mono_ns - begun.payload["started_mono_ns"]) / 1e9
    if not 0 <= behind <= limit:
        yield f"the rollback began {behind:.1f} s after the sample that triggered it"


def _with(find: Callable[[History], Iterable[str]]) -> Callable[[_Case], Iterable[str]]:
    return lambda case: find(case.history)


def _in(find: Callable[[RunDir, History], Iterable[str]]) -> Callable[[_Case], Iterable[str]]:
    return lambda case: find(case.run, case.history)


_CHECKS: tuple[tuple[str, str, Callable[[_Case], Iterable[str]]], ...] = (
    ("header", "run.json and the plan are the journal's own", _in(header_findings)),
    ("parent", "a rollback of another run undoes that very run", _in(parent_findings)),
    ("outcome", "a real run that ended as allowed", _outcome),
    ("plan", "all steps of the runbook, in order", lambda c: plan_findings(c.journal.records)),
    ("clocks", "wall and monotonic clock agree", lambda c: clock_findings(c.journal.records)),
    (
        "acts",
        "every act in its place, with its end",
        lambda c: sequence_findings(c.journal.records),
    ),
    ("steps", "every step ended as the outcome demands", _steps),
    ("window", "the watch lasted as long as asked", _with(window_findings)),
    ("samples", "every sample is whole and was taken in the window", _in(sample_findings)),
    ("baseline", "compared again, the old engine's samples say the same", _in(baseline_findings)),
    ("verdict", "judged again, the samples say the same", _in(verdict_findings)),
    ("rollback", "the rollback had its reason and kept its budget", _rollback),
    ("evidence", "derived again, the evidence is the same bytes", _in(evidence_findings)),
    ("logs", "every step's output is the one digested", _in(log_findings)),
    ("gates", "the infra gates left their evidence", _in(gate_findings)),
    ("readiness", "every SLI measured, in time, within its target", _in(readiness_findings)),
    ("notebooks", "executed notebooks carry this run's digest", _in(notebook_findings)),
    ("manifest", "every file as listed in manifest.json", _in(manifest_findings)),
)
