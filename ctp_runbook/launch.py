"""Making a run, starting it, steering it and following it: what every viewer uses.

A viewer (a notebook, a terminal) never acts itself. It starts the detached orchestrator or
finds it running, leaves requests, and reads the journal.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctp_runbook.checklist import checklist_json, checklist_markdown
from ctp_runbook.control import send_request
from ctp_runbook.errors import JournalError, PlanRefused, RunRefused
from ctp_runbook.history import History
from ctp_runbook.journal import Journal, Record, digest_of, read_journal
from ctp_runbook.lock import take_environment_lock
from ctp_runbook.model import Identity
from ctp_runbook.plan import Plan, window_refusals
from ctp_runbook.private import keep_private, load_private_plan
from ctp_runbook.process import is_running
from ctp_runbook.rundir import RunDir, write_atomic

__all__ = [
    "RunOptions",
    "create_run",
    "execute_refusals",
    "follow",
    "is_attended",
    "new_run_dir",
    "operator_name",
    "read_history",
    "request",
    "start",
    "take_lock",
]

request = send_request
take_lock = take_environment_lock
_START_SECONDS = 15.0


@dataclass(frozen=True)
class RunOptions:
    """What is asked of a run. Nothing of the plan is executed unless ``execute`` is set."""

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


def operator_name() -> str:
    """The user who asks, for the record."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def new_run_dir(environment: str, *, outputs: Path) -> Path:
    """A path whose name is a fresh run id: UTC time, environment, four random digits."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", environment).strip("-.") or "run"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return outputs / f"{stamp}-{name[:40]}-{os.urandom(2).hex()}"


def execute_refusals(plan: Plan, options: RunOptions, *, now: datetime) -> tuple[str, ...]:
    """Every reason not to run this plan for real now, at once; empty for a dry run."""
    asked = options.plan_sha256
    reasons = []
    if asked and asked != plan.sha256:
        reasons.append(
            f"--plan-sha256 {asked[:12]}… is not this plan, which has {plan.sha256}; "
            "review the plan again"
        )
    if not options.execute:
        return tuple(reasons)
    reasons += [*plan.execute_refusals, *window_refusals(plan, now=now)]
    if plan.limits.require_plan_sha256 and not asked:
        reasons.append(
            "limits.toml require_plan_sha256 is true and --plan-sha256 was not given; "
            f"the plan at hand has {plan.sha256}"
        )
    least = plan.limits.min_watch_minutes
    if plan.monitor_minutes < least and not (plan.is_rehearsal or options.short_watch_reason):
        reasons.append(
            f"POST_SWITCH_MONITOR_MINUTES is {plan.monitor_minutes:g}, below min_watch_minutes "
            f"{least:g} of limits.toml; raise it, or give --short-watch REASON"
        )
    return tuple(reasons)


def create_run(plan: Plan, options: RunOptions) -> RunDir:
    """Make the run directory with the plan and the journal's header.

    Raises PlanRefused with every reason, RunRefused when the run id is taken; in both cases
    nothing was made.
    """
    if reasons := execute_refusals(plan, options, now=datetime.now(UTC)):
        raise PlanRefused(reasons)
    if options.execute:
        # Refuse before anything is made; the lock is taken for good when the run starts.
        os.close(take_lock(plan.environment, run_id="being prepared"))
    path = options.run_dir or new_run_dir(plan.environment, outputs=options.outputs)
    run = RunDir(path.absolute())
    run.make()
    digests = {
        "plan_files": _write_plan(run, plan),
        "kept_files": keep_private(run, plan) if options.execute else {},
    }
    header = {**plan.redactor.data(_header(run, plan, options)), **digests}
    write_atomic(run.run_json, _run_json(header))
    journal = Journal(run.journal, durable=options.execute)
    journal.append("run_created", header)
    if options.execute:
        _warn_of_shared_group(journal)
    journal.close()
    return run


def _warn_of_shared_group(journal: Journal) -> None:
    from ctp_runbook.guardian import shares_control_group

    if warning := shares_control_group():
        journal.append("finding", {"severity": "warning", "sentence": warning})


def _run_json(header: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(header, indent=2, sort_keys=True) + "\n").encode()


def _write_plan(run: RunDir, plan: Plan) -> dict[str, str]:
    """Write plan/, without secrets; the SHA-256 of each file as it stands there."""
    files = {
        "ctp_cutover.template.env": plan.cutover_template,
        "ctp_rollback_drill.template.env": plan.rollback_template,
        "limits.toml": plan.limits_file,
        "watch.toml": plan.watch_file,
    }
    texts = {
        name: plan.redactor(path.read_bytes().decode("utf-8", errors="replace"))
        for name, path in files.items()
    }
    texts["ctp_one_shot_cutover_checklist.md"] = checklist_markdown(plan)
    texts["ctp_one_shot_cutover_checklist.json"] = checklist_json(plan)
    for name, text in texts.items():
        (run.plan / name).write_bytes(text.encode())
    return {name: digest_of(text.encode()) for name, text in texts.items()}


def _header(run: RunDir, plan: Plan, options: RunOptions) -> dict[str, Any]:
    files = ("cutover_template", "rollback_template", "limits_file", "watch_file")
    copies = {
        name: str(Path(path).absolute())
        for name in ("cutover_output", "rollback_output")
        if (path := getattr(options, name)) is not None
    }
    return {
        "run_id": run.run_id,
        "environment": plan.environment,
        "dry_run": not options.execute,
        "rehearsal": plan.is_rehearsal,
        "plan_sha256": plan.sha256,
        "created_by": options.by or operator_name(),
        "host": os.uname().nodename,
        "probe": options.probe,
        "force_rollback": options.force_rollback,
        "forced_after_seconds": plan.forced_rollback_after_seconds,
        "restarts_max": plan.limits.restarts_max,
        "short_watch_reason": options.short_watch_reason,
        "parent_run": options.parent_run,
        "cwd": str(Path.cwd()),
        "files": {name: str(getattr(plan, name).absolute()) for name in files},
        "copies": copies,
        "plan": _plan_data(plan),
    }


def _plan_data(plan: Plan) -> dict[str, Any]:
    """What evidence, verification and pictures need of the plan."""
    return {
        "environment": plan.environment,
        "window_local": plan.window_text,
        "ctp_config_path": plan.ctp_config_path,
        "monitor_minutes": plan.monitor_minutes,
        "monitor_keys": list(plan.monitor_keys),
        "trigger_text": plan.trigger.text,
        "max_rollback_seconds": plan.max_rollback_seconds,
        "hold_seconds": plan.hold_seconds,
        "hold_expiry": plan.hold_expiry,
        "session_policy": plan.session_policy,
        "cutover_evidence_output": plan.cutover_evidence_output,
        "rollback_evidence_output": plan.rollback_evidence_output,
        "warnings": list(plan.warnings),
        "steps": [
            {
                "name": step.name,
                "phase": step.phase.value,
                "kind": step.kind.value,
                "command": step.command,
                "timeout_seconds": step.timeout_seconds,
            }
            for step in plan.steps
        ],
        "watch": {
            "tolerance_inconclusive_seconds": plan.watch.tolerance_inconclusive_seconds,
            "tolerance_error_seconds": plan.watch.tolerance_error_seconds,
            "recovery_seconds": plan.watch.recovery_seconds,
            "metrics": {rule.name: _rule_data(rule) for rule in plan.watched},
        },
    }


def _rule_data(rule: Any) -> dict[str, Any]:
    data = {field.name: getattr(rule, field.name) for field in fields(rule)}
    return {**data, "labels": dict(rule.labels)}


# --- starting ---------------------------------------------------------------------


def start(run: RunDir, *, plan: Plan | None = None, resume: str = "") -> None:
    """Set the run going: detached for a real run, simulated to its end for a dry one.

    A run that is attended or over is left as it is. Raises RunRefused when another run holds
    the environment, or the orchestrator does not come up.
    """
    history = read_history(run)
    if history.closed is not None or is_attended(run):
        return
    if history.is_dry_run:
        _simulate(run, plan, probe=bool(history.created.get("probe")))
        return
    records = len(history.records)
    from ctp_runbook.guardian import spawn_guardian

    lock_fd = take_lock(history.created["environment"], run_id=run.run_id)
    try:
        guardian = spawn_guardian(run, lock_fd=lock_fd, resume=resume)
    finally:
        os.close(lock_fd)
    deadline = time.monotonic() + _START_SECONDS
    while len(_read_whole(run).records) <= records:
        if not is_running(guardian):
            raise RunRefused(f"the orchestrator did not start; see {run.logs}/orchestrator.log")
        if time.monotonic() > deadline:
            raise RunRefused(
                f"the orchestrator did not start within {_START_SECONDS:g} s, and may do so still "
                f"(its guardian is {guardian}); see {run.logs}/orchestrator.log and `ctp-runbook "
                "status`, or `ctp-runbook abort`"
            )
        time.sleep(0.02)


def _simulate(run: RunDir, plan: Plan | None, *, probe: bool) -> None:
    from ctp_runbook.finish import finalise
    from ctp_runbook.simulate import simulate
    from ctp_runbook.steps import RunContext

    if plan is None:
        plan, _ = load_private_plan(run)
    journal = Journal(run.journal, durable=False)
    context = RunContext(
        run=run, plan=plan, journal=journal, cwd=Path.cwd(), environ=dict(os.environ)
    )
    gaps: tuple[str, ...] = ()
    if probe:
        from ctp_runbook.switch import probe_gaps

        gaps = tuple(probe_gaps(context))
    simulate(context, gaps=gaps)
    journal.close()
    finalise(run)


# --- following --------------------------------------------------------------------


def read_history(run: RunDir) -> History:
    """The run as its journal tells it now. Raises JournalError, RunRefused for no run."""
    if not run.journal.exists():
        raise RunRefused(f"{run.path} holds no run (no journal.jsonl); check --run")
    return History.of(read_journal(run.journal).records)


def is_attended(run: RunDir) -> bool:
    """True while an orchestrator or a guardian of this run lives."""
    return _is_attended(read_history(run))


def _is_attended(history: History) -> bool:
    return any(is_running(identity) for identity in _attendants(history.records))


def _attendants(records: tuple[Record, ...]) -> list[Identity]:
    found = []
    for record in records:
        if record.kind == "orchestrator_started":
            writer = record.writer
            found.append(Identity(writer["pid"], writer["start_ticks"], record.boot_id))
            if given := record.payload.get("guardian"):
                found.append(Identity(given["pid"], given["start_ticks"], record.boot_id))
        elif record.kind == "guardian_started":
            given = record.payload
            found.append(Identity(given["pid"], given["start_ticks"], record.boot_id))
    return found


def follow(
    run: RunDir,
    *,
    until: Callable[[History], bool],
    on_change: Callable[[History], None] | None = None,
    poll_seconds: float = 0.2,
) -> History:
    """Read the journal until ``until`` holds or the run is over and its evidence written.

    ``on_change`` is called with each new state of affairs. Raises RunRefused when nobody
    conducts the run any more.
    """
    seen = -1
    unattended_since: float | None = None
    while True:
        history = _read_whole(run)
        if len(history.records) != seen:
            seen = len(history.records)
            if on_change is not None:
                on_change(history)
        is_over = history.closed is not None and run.manifest.exists()
        if is_over or (history.closed is None and until(history)):
            return history
        if _is_attended(history):
            unattended_since = None
        else:
            unattended_since = unattended_since or time.monotonic()
            if time.monotonic() - unattended_since > _START_SECONDS:
                raise RunRefused(
                    f"run {run.run_id} is {history.state.value} and nobody conducts it; take it "
                    f"up again with `ctp-runbook resume --run {run.path}`"
                )
        time.sleep(poll_seconds)


def _read_whole(run: RunDir) -> History:
    """The history; a record caught in the middle of its write is read a moment later."""
    for _ in range(20):
        try:
            return read_history(run)
        except JournalError:
            time.sleep(0.05)
    return read_history(run)
