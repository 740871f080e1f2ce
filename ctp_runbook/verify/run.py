"""``verify``: recompute all that a run left behind; trust nothing that was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Generation, Outcome, Phase, Role, StepKind, StepStatus
from ctp_runbook.plan.step_table import STEP_TABLE, budget_shares
from ctp_runbook.record.evidence import rollback_seconds, unobserved_steps
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import JournalFile, read_journal
from ctp_runbook.record.kinds import RollbackStarted, RunCreated, StepEnded
from ctp_runbook.record.rundir import RunDir, strange_entries
from ctp_runbook.verify import files, journal, undo_completed, watch
from ctp_runbook.verify.report import Check, VerificationReport, checked

__all__ = ["verify_run"]

# Who trades when a run has ended so, and who must be gone.
_TRADES = {
    Outcome.COMPLETED: (Generation.NEW, Generation.OLD),
    Outcome.ROLLED_BACK_IN_BUDGET: (Generation.OLD, Generation.NEW),
}


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
    subject = f"run {run.path.resolve().name}"
    entries = checked("files", "", strange_entries(run))
    if not entries.ok:
        return VerificationReport(subject, (entries,))
    try:
        written = read_journal(run.journal)
    except JournalError as error:
        return VerificationReport(subject, (Check("journal", False, str(error)),))
    form = checked("journal", "the chain holds, every record is in form", _form(run, written))
    if not form.ok:
        return VerificationReport(subject, (form,))
    history = History.of(written.records)
    budget = history.plan.max_rollback_seconds
    limit = budget if max_rollback_seconds is None else min(budget, max_rollback_seconds)
    due = _checks(run, history, may_be_rolled_back=allow_cutover_rollback, limit=limit)
    checks = [
        checked(each.name, each.passed, each.findings, unless=each.unless)
        for each in (due if require_manifest else due[:-1])
    ]
    return VerificationReport(subject, (form, *checks))


class _Due(NamedTuple):
    """A check to be made: what is said where it finds nothing, and why where nothing is there."""

    name: str
    passed: str
    findings: Iterable[str]
    unless: str = ""


def _checks(
    run: RunDir, history: History, *, may_be_rolled_back: bool, limit: float
) -> tuple[_Due, ...]:
    """Name every check, in the order they are told, none of them made yet."""
    return (
        *_checks_of_record(run, history, may_be_rolled_back),
        *_checks_of_watch(run, history),
        *_checks_of_files(run, history, limit),
    )


def _checks_of_record(run: RunDir, history: History, may_be_rolled_back: bool) -> tuple[_Due, ...]:
    created, outcome = history.created, history.outcome
    undoes = created.parent_run or history.parent
    ended = outcome.value if outcome else "nowhere"
    is_wanted = outcome is Outcome.COMPLETED or history.wants_rollback
    return (
        _Due(
            "header",
            "run.json and the plan are the journal's own",
            files.header_findings(run, history),
        ),
        _Due(
            "parent",
            "a rollback of another run undoes that very run",
            undo_completed.parent_findings(run, history),
            "" if undoes else "this run undoes no other",
        ),
        _Due(
            "outcome",
            f"a real run that ended {ended}, as {'wanted' if is_wanted else 'allowed'}",
            _outcome(history, may_be_rolled_back),
        ),
        _Due("plan", "all steps of the runbook, in order", journal.plan_findings(history)),
        _Due("clocks", "wall and monotonic clock agree", journal.clock_findings(history.records)),
        _Due("acts", "every act in its place, with its end", journal.sequence_findings(history)),
        _Due(
            "steps",
            "every step ended as the outcome demands",
            _steps(history),
            ""
            if outcome in _TRADES
            else f"nothing is asked of the steps of a run that ended {ended}",
        ),
    )


def _checks_of_watch(run: RunDir, history: History) -> tuple[_Due, ...]:
    unwatched = ""
    if history.watch_started is None:
        unwatched = "no watch began"
    elif history.watch_ended is None:
        unwatched = "the watch began, and its end was not written"
    is_whole = history.outcome is Outcome.COMPLETED
    return (
        _Due(
            "window",
            "the watch lasted as long as asked"
            if is_whole
            else "the watch was ended early, and nothing more is claimed of it",
            watch.window_findings(history),
            unwatched,
        ),
        _Due(
            "samples",
            "every sample is whole and was taken in the window",
            watch.sample_findings(run, history),
            unwatched,
        ),
        _Due(
            "baseline",
            "the old engine's samples are whole and of before the switch",
            watch.baseline_findings(run, history),
            "" if history.baseline_ended else "the old engine was not sampled",
        ),
        _Due(
            "verdict",
            "judged again, the samples say the same",
            watch.verdict_findings(run, history),
            unwatched,
        ),
    )


def _checks_of_files(run: RunDir, history: History, limit: float) -> tuple[_Due, ...]:
    both = run, history
    has_output = any(history.of_kind(StepEnded))
    unobserved = tuple(unobserved_steps(*both).values())
    # The last: notebook 07 leaves it out.
    return (
        _Due(
            "rollback",
            "the rollback had its reason and kept its budget",
            _rollback(history, limit),
            "" if history.rollback_started else "nothing was rolled back",
        ),
        _Due(
            "evidence",
            "derived again, the evidence is the same bytes",
            files.evidence_findings(*both),
        ),
        _Due(
            "logs",
            "every step's output is the one digested",
            files.log_findings(*both),
            "" if has_output else "no step was run",
        ),
        _Due(
            "gates",
            "; ".join(("the infra gates that passed left their evidence", *unobserved)),
            files.gate_findings(*both),
            ""
            if files.passed_gates(*both)
            else "; ".join(unobserved) or "no infra gate passed in this run",
        ),
        _Due(
            "readiness",
            "every SLI measured, in time, within its target",
            files.readiness_findings(*both),
            "" if files.passed_readiness(history) else "no readiness step passed in this run",
        ),
        _Due(
            "notebooks",
            "executed notebooks carry this run's digest",
            files.notebook_findings(*both),
            "" if any(run.notebooks.glob("*.ipynb")) else "no notebook was executed for this run",
        ),
        _Due("manifest", files.manifest_words(run), files.manifest_findings(run)),
    )


def _form(run: RunDir, written: JournalFile) -> Iterator[str]:
    if not written.records:
        yield f"{run.journal}: no record in it"
    elif not isinstance(written.records[0].payload, RunCreated):
        yield f"{run.journal}:1: {written.records[0].kind}; a journal begins with run_created"
    if written.torn:
        yield f"{run.journal}: its last line is torn; the run that wrote it is not over"


def _outcome(history: History, may_be_rolled_back: bool) -> Iterator[str]:
    """Exactly the outcome that was allowed, of a real run."""
    outcome = history.outcome
    if history.is_dry_run:
        yield (
            "this is a dry run: it proves that nothing stood in the way, not that anything was "
            "done; it never verifies as a real one (run with --execute)"
        )
    if history.closed is None:
        yield "the run is not over: its journal is not closed"
    elif outcome is Outcome.ROLLED_BACK_IN_BUDGET and not may_be_rolled_back:
        yield (
            "the run was rolled back in budget; expected COMPLETED (a drill that is to roll back "
            "verifies with --allow-cutover-rollback)"
        )
    elif outcome not in (*_TRADES, Outcome.DRY_RUN_OK):
        closed = history.closed.payload
        yield f"the run ended {closed.outcome.value}: {closed.sentence}"


def _steps(history: History) -> Iterator[str]:
    """A completed cutover did all ten steps and nothing else, but for those of parts that are not
    there; a rollback restored trading."""
    if history.outcome is Outcome.COMPLETED:
        for spec in STEP_TABLE:
            status = history.step(spec.name).status
            due = StepStatus.SKIPPED if spec.name in history.plan.left_out else StepStatus.OK
            if spec.phase is not Phase.ROLLBACK and status is not due:
                yield f"step {spec.name} is {status.value} in a run that is COMPLETED"
            if spec.phase is Phase.ROLLBACK and spec.name in history.steps:
                yield f"rollback step {spec.name} stands in a run that is COMPLETED"
    if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET:
        yield from _rollback_steps(history)
    yield from _running(history)
    yield from _identities(history)


def _rollback_steps(history: History) -> Iterator[str]:
    for spec in STEP_TABLE:
        status = history.step(spec.name).status
        allowed = {StepStatus.OK}
        # What validates must have been done; what restores may have had nothing to do.
        if spec.kind is not StepKind.CHECK:
            allowed.add(StepStatus.SKIPPED)
        # A stop that failed may have been made good: the member was ended by signal, and proved gone.
        if spec.kind is StepKind.STOP:
            allowed |= {StepStatus.FAILED, StepStatus.TIMED_OUT}
        if spec.name in history.plan.left_out:
            allowed = {StepStatus.SKIPPED}
        if spec.phase is Phase.ROLLBACK and status not in allowed:
            yield f"step {spec.name} is {status.value} in a run rolled back in budget"


def _running(history: History) -> Iterator[str]:
    """What ran at the end: the generation that should, and no part of the other."""
    if history.closed is None or history.closed.payload.outcome not in _TRADES:
        return
    alive, gone = _TRADES[history.closed.payload.outcome]
    for role in Role:
        for generation, due in ((alive, "alive"), (gone, "gone")):
            member = f"{generation}_{role}"
            if member not in history.members:
                continue
            seen = history.closed.payload.running.get(member, "not looked at")
            if seen != due:
                yield f"at the end {member} was {seen}; expected {due}"


def _identities(history: History) -> Iterator[str]:
    """Who was started was written down: without it nobody could be proved gone later."""
    for spec in STEP_TABLE:
        if spec.kind is StepKind.START and spec.acts_on:
            member = "_".join(spec.acts_on)
            if history.step(spec.name).status is StepStatus.OK and member not in history.pins:
                yield f"step {spec.name} is ok, and no identity of {member} is in the journal"


def _rollback(history: History, limit: float) -> Iterator[str]:
    """Why it was rolled back, and whether trading was restored in time; nothing if it was not."""
    begun, trigger = history.rollback_started, history.trigger
    if history.outcome is Outcome.COMPLETED and (begun or trigger):
        yield "a run that is COMPLETED has a trigger or a rollback in its journal"
    if begun is None:
        return
    if trigger is None:
        yield "a rollback began without a trigger in the journal"
        return
    cause, budget = trigger.payload, history.plan.max_rollback_seconds
    due = RollbackStarted(
        budget_seconds=budget,
        shares=budget_shares(budget, left_out=history.plan.left_out),
        started_utc=cause.sample_utc,
        started_mono_ns=cause.sample_mono_ns,
    )
    for key, said in structs.asdict(begun.payload).items():
        if said != getattr(due, key):
            yield (
                f"rollback_started: {key} is {said}; by the trigger's sample and "
                f"MAX_ROLLBACK_SECONDS it is {getattr(due, key)}"
            )
    if cause.cause == "forced_drill" and not history.created.force_rollback:
        yield "a forced drill in a run that was not started with --force-rollback"
    if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET:
        yield from _budget(history, limit)


def _budget(history: History, limit: float) -> Iterator[str]:
    begun, closed = history.rollback_started, history.closed
    seconds = rollback_seconds(history)
    if not 0 <= seconds <= limit:
        yield f"the rollback took {seconds:.3f} s; at most {limit:g} s are allowed"
    # Across a reboot the monotonic clock of the sample says nothing.
    if begun and closed and begun.boot_id == closed.boot_id:
        behind = (begun.mono_ns - begun.payload.started_mono_ns) / 1e9
        if not 0 <= behind <= limit:
            yield f"the rollback began {behind:.1f} s after the sample that triggered it"
