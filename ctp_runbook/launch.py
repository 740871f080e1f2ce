"""Making a run, starting it, steering it and following it: what every viewer uses.

A viewer (a notebook, a terminal) never acts itself. It starts the detached orchestrator or
finds it running, leaves requests, and reads the journal.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctp_runbook import run_header
from ctp_runbook.control import send_request
from ctp_runbook.errors import JournalError, PlanRefused, RunRefused
from ctp_runbook.history import History
from ctp_runbook.journal import Journal, Record, digest_of, read_journal
from ctp_runbook.lock import take_environment_lock
from ctp_runbook.measured import undo_refusals
from ctp_runbook.model import Identity
from ctp_runbook.plan import Plan, window_refusals
from ctp_runbook.private import keep_private, load_private_plan
from ctp_runbook.process import is_running
from ctp_runbook.run_header import header_of, overrides_of, write_plan
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
    "read_whole",
    "request",
    "start",
    "take_lock",
    "write_run",
]

RunOptions = run_header.RunOptions
operator_name = run_header.operator_name
request = send_request
take_lock = take_environment_lock
_START_SECONDS = 15.0


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
    if options.execute is not True:
        return tuple(reasons)
    reasons += [*plan.execute_refusals, *window_refusals(plan, now=now)]
    if not any("CUTOVER_WINDOW_LOCAL" in reason for reason in reasons):
        reasons += undo_refusals(
            plan,
            options.measured(plan.environment),
            now=now,
            accept_unmeasured=options.accept_unmeasured,
            accept_late=options.accept_late,
        )
    if plan.limits.require_plan_sha256 and not asked:
        reasons.append(
            "limits.toml require_plan_sha256 is true and --plan-sha256 was not given; "
            f"the plan at hand has {plan.sha256}"
        )
    least = plan.limits.min_watch_minutes
    excused = plan.is_rehearsal or options.short_watch_reason.strip()
    if plan.monitor_minutes < least and not excused:
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
    if options.execute is True:
        # Refuse before anything is made; the lock is taken for good when the run starts.
        os.close(take_lock(plan.environment, run_id="being prepared"))
    return write_run(plan, options)


def write_run(
    plan: Plan,
    options: RunOptions,
    *,
    more: Mapping[str, Any] | None = None,
    plan_files: Mapping[str, bytes] | None = None,
    records: Iterable[tuple[str, Mapping[str, Any]]] = (),
) -> RunDir:
    """Make the directory of a run that was let through, with its plan and its header.

    ``more`` goes into the header, ``plan_files`` into plan/, ``records`` after the header. Raises
    RunRefused when the run id is taken.
    """
    path = options.run_dir or new_run_dir(plan.environment, outputs=options.outputs)
    run = RunDir(path.absolute())
    run.make()
    measured = options.measured(plan.environment)
    overrides = {} if options.parent_run else overrides_of(plan, options, measured)
    digests = {
        "plan_files": {**write_plan(run, plan, measured), **_write_more(run, plan_files or {})},
        "kept_files": keep_private(run, plan) if options.execute is True else {},
    }
    facts = {
        **header_of(run, plan, options),
        "measured": vars(measured),
        "overrides": {name: reason for name, (reason, _) in overrides.items()},
        **(more or {}),
    }
    header = {**plan.redactor.data(facts), **digests}
    write_atomic(run.run_json, _json(header))
    journal = Journal(run.journal, durable=options.execute is True)
    journal.append("run_created", header)
    for kind, payload in records:
        journal.append(kind, payload)
    for name, (reason, refused) in overrides.items():
        told = f"OVERRIDE --{name.replace('_', '-')} by {facts['created_by']}: {reason} ({refused})"
        journal.append("finding", {"severity": "critical", "sentence": plan.redactor(told)})
    if options.execute is True:
        _warn_of_shared_group(journal)
    journal.close()
    return run


def _json(header: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(header, indent=2, sort_keys=True) + "\n").encode()


def _write_more(run: RunDir, files: Mapping[str, bytes]) -> dict[str, str]:
    for name, data in files.items():
        (run.plan / name).write_bytes(data)
    return {name: digest_of(data) for name, data in files.items()}


def _warn_of_shared_group(journal: Journal) -> None:
    from ctp_runbook.guardian import shares_control_group

    if warning := shares_control_group():
        journal.append("finding", {"severity": "warning", "sentence": warning})


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
        _simulate(run, plan, probe=history.created.get("probe") is True)
        return
    records = len(history.records)
    from ctp_runbook.guardian import spawn_guardian

    lock_fd = take_lock(history.created["environment"], run_id=run.run_id)
    try:
        guardian = spawn_guardian(run, lock_fd=lock_fd, resume=resume)
    finally:
        os.close(lock_fd)
    deadline = time.monotonic() + _START_SECONDS
    while len(read_whole(run).records) <= records:
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
        history = read_whole(run)
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


def read_whole(run: RunDir) -> History:
    """The history; a record caught in the middle of its write is read a moment later."""
    for _ in range(20):
        try:
            return read_history(run)
        except JournalError:
            time.sleep(0.05)
    return read_history(run)
