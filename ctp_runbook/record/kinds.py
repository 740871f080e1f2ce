"""The form of each journal record: known kinds, their keys, and what may stand there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ctp_runbook.model import Outcome, Phase, State, StepStatus, Verdict
from ctp_runbook.record.journal import Record

__all__ = ["FAILED_BY_CAUSE", "RECORD_FORMS", "is_instant", "is_number", "malformed"]


# CUTOVER_FAILED_STEP when it was no step that failed: why the rollback was triggered.
FAILED_BY_CAUSE = {
    "forced_drill": "forced_drill",
    "metric": "watch_trigger",
    "judge": "watch_judge",
    "member_died": "member_died",
    "hold_expired": "hold_expired",
    "operator": "operator_rollback",
    "resume": "resume",
    "step_failed": "step_failed",
}


def is_number(value: Any) -> bool:
    """True for a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_instant(value: Any) -> bool:
    """True for an instant as the journal writes it: UTC, microseconds."""
    if not isinstance(value, str):
        return False
    try:
        moment = datetime.fromisoformat(value)
        return moment.isoformat(timespec="microseconds") == value and value.endswith("+00:00")
    except ValueError:
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_duration(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_table_of_tables(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_table, value.values()))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _is_process(value: Any) -> bool:
    """A pid and its start ticks."""
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or value == "" or fits(value)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _table_of(**forms: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and not list(_wrong_keys(value, forms))


_PHASE = _one_of(*(phase.value for phase in Phase))
_PLAN = _table_of(
    environment=_is_name,
    window_local=_is_name,
    ctp_config_path=_is_text,
    monitor_minutes=_is_duration,
    monitor_keys=_list_of(_is_name),
    trigger_text=_is_name,
    max_rollback_seconds=_is_duration,
    steps=_list_of(_table_of(name=_is_name, phase=_PHASE, kind=_is_name, command=_is_name)),
    watch=_table_of(
        metrics=_is_table_of_tables,
        tolerance_inconclusive_seconds=_is_duration,
        tolerance_error_seconds=_is_duration,
        recovery_seconds=_is_duration,
    ),
)

# Keys a record of the kind must have; it may have more.
RECORD_FORMS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "run_created": {
        "run_id": _is_name,
        "environment": _is_name,
        "dry_run": _is_flag,
        "rehearsal": _is_flag,
        "plan_sha256": _is_sha256,
        "created_by": _is_text,
        "host": _is_text,
        "force_rollback": _is_flag,
        "short_watch_reason": _is_text,
        "measured": _is_table,
        "overrides": _is_table,
        "plan": _PLAN,
    },
    "state": {"to": _one_of(*(state.value for state in State)), "reason": _is_text},
    "orchestrator_started": {"resumed": _is_flag, "reason": _is_text},
    "guardian_started": {"pid": _is_count, "start_ticks": _is_count},
    "identity": {
        "member": _is_name,
        "pid": _is_count,
        "start_ticks": _is_count,
        "executable": _is_text,
        "command_sha256": _optional(_is_sha256),
        "tree": _list_of(_is_process),
        "bystanders": _list_of(_is_process),
    },
    "probe": {
        "subject": _is_name,
        "question": _is_name,
        "ok": _is_flag,
        "observed": _is_text,
    },
    "control": {
        "request": _one_of("go", "abort", "hold", "resume", "rollback"),
        "by": _is_text,
        "reason": _is_text,
    },
    "answer": {
        "request": _one_of("go", "abort", "hold", "resume", "rollback"),
        "file": _is_name,
        "obeyed": _is_flag,
        "sentence": _is_name,
    },
    "alert": {"occasion": _is_name, "sentence": _is_name, "hooks": _list_of(_is_name)},
    "alert_ended": {
        "occasion": _is_name,
        "hook": _is_name,
        "ok": _is_flag,
        "sentence": _is_name,
        "took_ms": _is_duration,
    },
    "parent": {"run_id": _is_name, "journal_sha256": _is_sha256, "outcome": _one_of("COMPLETED")},
    "step_started": {
        "step": _is_name,
        "phase": _PHASE,
        "attempt": _is_count,
        "pid": _is_count,
        "start_ticks": _is_count,
        "command": _is_name,
        "due_mono_ns": _is_count,
    },
    "step_ended": {
        "step": _is_name,
        "phase": _PHASE,
        "status": _one_of("ok", "failed", "timed_out", "unknown"),
        "exit_code": _optional(_is_whole),
        "duration_ms": _is_duration,
        "output_sha256": _optional(_is_sha256),
        "output": _is_text,
        "reason": _is_text,
    },
    "step_not_done": {
        "step": _is_name,
        "phase": _PHASE,
        "status": _one_of(*(status.value for status in StepStatus if status is not StepStatus.OK)),
        "reason": _is_text,
    },
    "act_started": {"act": _is_name, "member": _is_name, "pid": _is_count, "command": _is_name},
    "act_ended": {"act": _is_name, "member": _is_name, "exit_code": _optional(_is_whole)},
    "trading_state": {"member": _is_name, "state": _is_table},
    "baseline_ended": {
        "url": _is_text,
        "samples": _is_count,
        "samples_sha256": _is_sha256,
        "sentence": _is_name,
    },
    "watch_started": {"minutes": _is_duration},
    "watch_gap": {"from_utc": is_instant, "to_utc": is_instant, "reason": _is_text},
    "watch_disturbed": {
        "what": _one_of("paused", "suspended", "clock_stepped"),
        "seconds": is_number,
        "from_utc": is_instant,
        "to_utc": is_instant,
        "from_mono": is_number,
        "to_mono": is_number,
        "sentence": _is_name,
    },
    "judgement": {"overall": _one_of(*Verdict.__members__)},
    "trigger": {
        "cause": _one_of(*FAILED_BY_CAUSE),
        "sentence": _is_name,
        "sample_mono_ns": _is_count,
        "metric": _optional(_is_name),
        "value": _optional(is_number),
        "limit": _optional(is_number),
        "sample_utc": _optional(is_instant),
    },
    "watch_ended": {
        "samples": _is_count,
        "samples_sha256": _is_sha256,
        "verdict": _one_of(*Verdict.__members__),
        "metrics": _is_table,
        "sentence": _is_text,
        "judged_mono": is_number,
        "watched_seconds": _is_duration,
        "stopped_early": _is_flag,
    },
    "rollback_started": {
        "budget_seconds": _is_duration,
        "started_utc": is_instant,
        "started_mono_ns": _is_count,
        "shares": _is_table,
    },
    "finding": {"severity": _one_of("info", "warning", "critical"), "sentence": _is_text},
    "closed": {
        "outcome": _one_of(*Outcome.__members__),
        "exit_code": _is_count,
        "sentence": _is_text,
        "running": _is_table,
    },
}


def malformed(records: Sequence[Record]) -> Iterator[str]:
    """What is wrong with the form of each record; nothing else may be asked of such a journal."""
    for record in records:
        where = f"journal record {record.seq} ({record.kind})"
        if record.kind not in RECORD_FORMS:
            yield f"{where}: unknown kind; this version knows {', '.join(sorted(RECORD_FORMS))}"
            continue
        for wrong in _wrong_keys(record.payload, RECORD_FORMS[record.kind]):
            yield f"{where}: {wrong}"
        if not is_instant(record.wall_utc):
            yield f"{where}: wall_utc {record.wall_utc!r} is not an instant in UTC"
        if not _is_count(record.mono_ns) or not _is_name(record.boot_id):
            yield f"{where}: mono_ns and boot_id must be a count and a name"
        if not isinstance(record.writer, dict) or not all(
            _is_count(record.writer.get(key)) for key in ("pid", "start_ticks")
        ):
            yield f"{where}: the writer must be named by pid and start_ticks"


def _wrong_keys(
    payload: Mapping[str, Any], forms: Mapping[str, Callable[[Any], bool]]
) -> Iterator[str]:
    for key, fits in forms.items():
        if key not in payload:
            yield f"key {key} is missing"
        elif not fits(payload[key]):
            yield f"{key} has the unexpected value {str(payload[key])[:80]!r}"
