"""What a run is made with: the options asked for, and the header of its journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from ctp_runbook import __version__
from ctp_runbook.errors import InputError
from ctp_runbook.plan import parameters
from ctp_runbook.plan.checklist import checklist
from ctp_runbook.plan.plan import PLAN_FILES, Plan
from ctp_runbook.plan.timing import Measured, refusals_by_flag
from ctp_runbook.record.durations import measured_durations
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.kinds import (
    NOT_PROVED,
    Payload,
    PlanFacts,
    PlanFiles,
    PlannedStep,
    RunCreated,
    ToolFacts,
    WatchFacts,
)
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.redact import Redactor
from ctp_runbook.run.world import HERE, World

__all__ = [
    "RunOptions",
    "Undone",
    "header_of",
    "not_proved_of",
    "operator_name",
    "overrides_of",
    "write_plan",
]


class RunOptions(Struct, frozen=True):
    """What is asked of a run. Nothing of the plan is executed unless ``execute`` is True.

    Raises InputError with every value that is not of its type: no caller acts on a text.
    """

    execute: bool = False
    probe: bool = False
    force_rollback: bool = False
    plan_sha256: str = ""
    short_watch_reason: str = ""
    outputs: Path = Path("outputs")
    run_dir: Path | None = None
    by: str = ""
    cutover_output: Path | None = None
    rollback_output: Path | None = None
    parent_run: str = ""
    accept_unmeasured: str = ""
    accept_late: str = ""
    once: bool = False
    again: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not of its type, whoever asks."""
        wrong = [
            problem
            for check, names in (
                (parameters.flag, ("execute", "probe", "force_rollback", "once")),
                (parameters.text, ("plan_sha256", "by", "parent_run", "again")),
                (parameters.reason, ("short_watch_reason", "accept_unmeasured", "accept_late")),
            )
            for name in names
            for problem in check(name, getattr(self, name))
        ]
        if wrong:
            raise InputError(
                parameters.placed(wrong, where="options of the run", redactor=Redactor())
            )

    def measured(self, environment: str) -> Measured:
        """What earlier runs in ``environment`` measured, where this one is to be kept."""
        # A run that was sent elsewhere is measured by its neighbours there as well.
        roots = [self.outputs, *([self.run_dir.parent] if self.run_dir else [])]
        return measured_durations(environment, roots)


class Undone(Struct, frozen=True):
    """What a rollback takes over from the completed run that it undoes.

    ``plan_files`` go into plan/, ``records`` stand after the header; ``cwd`` is where its commands
    ran.
    """

    reason: str
    rehearsal: bool
    cwd: str
    plan_files: Mapping[str, bytes]
    records: tuple[Payload, ...]


def operator_name() -> str:
    """The user who asks, for the record."""
    return HERE.caller.user_name()


def overrides_of(
    plan: Plan, options: RunOptions, measured: Measured, *, world: World
) -> dict[str, tuple[str, str]]:
    """Each refusal that a reason was given against: by flag, the reason and what was refused."""
    if options.execute is not True:
        return {}
    # A reason counts against something that was refused: given in advance, just in case, it would
    # stand in the record as an exception that nobody made.
    overrides = {}
    for name, refused in refusals_by_flag(plan, measured, now=world.now).items():
        reason: str = getattr(options, name)
        if refused and reason.strip():
            overrides[name] = (reason, "; ".join(refused))
    least = plan.limits.min_watch_minutes
    if (
        options.short_watch_reason.strip()
        and plan.monitor_minutes < least
        and not plan.is_rehearsal
    ):
        refused_watch = f"a watch of {plan.monitor_minutes:g} min < min_watch_minutes {least:g}"
        overrides["short_watch"] = (options.short_watch_reason, refused_watch)
    return overrides


def not_proved_of(plan: Plan) -> dict[str, tuple[str, str]]:
    """What of the sessions is named as not proved, for red letters wherever the run is shown; of a dry
    run and of a rollback of its own, too."""
    reasons: dict[str, str] = {}
    for session in plan.sessions.values():
        reasons |= session.unproved
    if not reasons:
        return {}
    words = "; ".join(f"{fact}: {reason}" for fact, reason in reasons.items())
    return {NOT_PROVED: (words, "NOT PROVED by any source")}


def write_plan(
    run: RunDir, plan: Plan, measured: Measured, *, undone: Undone | None, world: World
) -> dict[str, str]:
    """Write plan/, without secrets; the SHA-256 of each file as it stands there."""
    # By their bytes, for the digest; what no UTF-8 can say must not keep the rest from being masked.
    paths = {
        "ctp_cutover.template.env": plan.cutover_template,
        "ctp_rollback_drill.template.env": plan.rollback_template,
        "limits.toml": plan.limits_file,
        "watch.toml": plan.watch_file,
    }
    paths |= {f"{name}_session_sources.toml": path for name, path in plan.session_files.items()}
    texts = {
        name: plan.redactor(world.files.read(path).decode("utf-8", errors="replace"))
        for name, path in paths.items()
    }
    written = checklist(plan, measured)
    texts["ctp_one_shot_cutover_checklist.md"] = written.markdown
    texts["ctp_one_shot_cutover_checklist.json"] = written.json
    files = {name: text.encode() for name, text in texts.items()}
    files |= undone.plan_files if undone else {}
    for name, data in files.items():
        world.files.append(run.plan / name, data)
    return {name: digest_of(data) for name, data in files.items()}


def header_of(
    run: RunDir,
    plan: Plan,
    options: RunOptions,
    *,
    measured: Measured,
    overrides: Mapping[str, str],
    undone: Undone | None,
    world: World,
) -> RunCreated:
    """The first payload of the journal, redacted, but for digests: what the run is, and its plan."""
    copies = {
        name: str(Path(path).absolute())
        for name in ("cutover_output", "rollback_output")
        if (path := getattr(options, name)) is not None
    }
    # Whatever whoever takes the run up will need, from another folder and without its options: all
    # names are absolute, and the guardian finds restarts_max here, for it never loads the plan.
    header = RunCreated(
        run_id=run.run_id,
        environment=plan.environment,
        # What is not True itself acts on nothing, whatever it may be instead.
        dry_run=options.execute is not True,
        rehearsal=undone.rehearsal if undone else plan.is_rehearsal,
        plan_sha256=plan.sha256,
        created_by=options.by or world.caller.user_name(),
        host=world.caller.host_name(),
        probe=options.probe,
        force_rollback=options.force_rollback,
        forced_after_seconds=plan.forced_rollback_after_seconds,
        restarts_max=plan.limits.restarts_max,
        short_watch_reason=options.short_watch_reason,
        parent_run=options.parent_run,
        cwd=undone.cwd if undone else str(world.caller.folder()),
        files=PlanFiles(**{name: str(getattr(plan, name).absolute()) for name in PLAN_FILES}),
        copies=copies,
        plan=_plan_facts(plan),
        measured=measured,
        overrides=dict(overrides),
        reason=undone.reason if undone else "",
        # Digests come later: of secrets' copies none may be redacted by chance.
        plan_files={},
        kept_files={},
        tool=_tool_facts(world, is_real=options.execute is True),
    )
    redacted: RunCreated = plan.redactor.data(header)
    return redacted


def _tool_facts(world: World, *, is_real: bool) -> ToolFacts:
    """Which code makes the run. A dry run starts no git to learn whether it was changed."""
    commit = world.caller.commit_of()
    changed = world.caller.changed_since() if commit and is_real else None
    return ToolFacts(version=__version__, commit=commit, changed=changed)


def _plan_facts(plan: Plan) -> PlanFacts:
    """What evidence, verification and pictures need of the plan."""
    # In the journal, and not read from the templates again: those are edited for the next run.
    return PlanFacts(
        environment=plan.environment,
        window_local=plan.window_text,
        ctp_config_path=plan.ctp_config_path,
        monitor_minutes=plan.monitor_minutes,
        monitor_keys=tuple(plan.monitor_keys),
        trigger_text=plan.trigger.text,
        max_rollback_seconds=plan.max_rollback_seconds,
        hold_seconds=plan.hold_seconds,
        hold_expiry=plan.hold_expiry,
        session_policy=plan.session_policy,
        cutover_evidence_output=plan.cutover_evidence_output,
        rollback_evidence_output=plan.rollback_evidence_output,
        warnings=tuple(plan.warnings),
        declared=plan.declared,
        steps=tuple(
            PlannedStep(
                name=step.name,
                phase=step.phase,
                kind=step.kind,
                command=step.command,
                timeout_seconds=step.timeout_seconds,
                skipped=step.skipped,
            )
            for step in plan.steps
        ),
        watch=WatchFacts(
            tolerance_inconclusive_seconds=plan.watch.tolerance_inconclusive_seconds,
            tolerance_error_seconds=plan.watch.tolerance_error_seconds,
            recovery_seconds=plan.watch.recovery_seconds,
            metrics={rule.name: rule for rule in plan.watched},
        ),
    )
