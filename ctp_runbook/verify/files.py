"""The files of a run against its journal: derived ones derived again, digested ones digested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ConfigError, JournalError
from ctp_runbook.gates.gate import judge_gate_evidence
from ctp_runbook.gates.readiness import judge_readiness_file
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.gate_table import GATES, gates_in
from ctp_runbook.record.evidence import (
    CHECKLISTS,
    CUTOVER_RESULT,
    ROLLBACK_RESULT,
    cutover_env,
    manifest_bytes,
    read_manifest,
    rollback_env,
    unlisted_files,
)
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, header_text
from ctp_runbook.record.rundir import RunDir

__all__ = [
    "evidence_findings",
    "gate_findings",
    "header_findings",
    "log_findings",
    "manifest_findings",
    "notebook_findings",
    "readiness_findings",
]

_LAST_GATE = "precheck"


def header_findings(run: RunDir, history: History) -> Iterator[str]:
    """run.json is the journal's header, the directory is the run's own, the plan is its plan."""
    if history.run_id != run.path.resolve().name:
        yield (
            f"the journal in {run.path} is that of run {history.run_id}: a record moved here "
            "from elsewhere proves nothing"
        )
    due = header_text(history.created)
    yield from _same(run, run.run_json, due, "the journal's first record")
    for name, sha256 in (history.created.get("plan_files") or {}).items():
        yield from _digested(run, run.plan / name, sha256, "run_created.plan_files")
    yield from _rule_findings(run, history)
    yield from _override_findings(history)


def _override_findings(history: History) -> Iterator[str]:
    """What was never measured needed a reason, and each override stands among the findings."""
    created = history.created
    told = [r.payload["sentence"] for r in history.records if r.kind == "finding"]
    for name, reason in created["overrides"].items():
        start = f"OVERRIDE --{name.replace('_', '-')} by "
        if not any(one.startswith(start) and str(reason) in one for one in told):
            yield f"run.json overrides {name}, and no finding of the journal says so"
    if history.is_dry_run or created["rehearsal"] or created.get("parent_run"):
        return
    known = created.measured
    if not known.is_complete and not str(created["overrides"].get("accept_unmeasured", "")).strip():
        yield (
            f"cutover {known.cutover}, rollback {known.rollback} in a real run without "
            "--accept-unmeasured REASON"
        )


def _rule_findings(run: RunDir, history: History) -> Iterator[str]:
    """The watch rules in the header are those of the watch.toml kept with the plan."""
    path = run.plan / "watch.toml"
    if not path.is_file():
        yield "plan/watch.toml is not there: nobody can tell what the watch was to be judged by"
        return
    try:
        rules = load_watch(path)
    except ConfigError as error:
        yield f"plan/watch.toml: {error}"
        return
    judged_by = history.plan.watch
    for name, rule in judged_by.metrics.items():
        if rule != rules.metrics.get(name):
            yield f"plan.watch.metrics.{name} of run.json is not that of plan/watch.toml"
    for key in ("tolerance_inconclusive_seconds", "tolerance_error_seconds", "recovery_seconds"):
        said, due = getattr(judged_by, key), getattr(rules, key)
        if said != due:
            yield f"plan.watch.{key} is {said}; plan/watch.toml has {due}"


def evidence_findings(run: RunDir, history: History) -> Iterator[str]:
    """The result files, byte for byte what the journal gives; the checklist, that of the plan."""
    sha256 = digest_of(run.journal.read_bytes())
    derived = {
        CUTOVER_RESULT: cutover_env(history, journal_sha256=sha256),
        ROLLBACK_RESULT: rollback_env(history),
    }
    for name, due in derived.items():
        yield from _same(run, run.evidence / name, due, "what the journal gives")
    for name in CHECKLISTS:
        source = run.plan / name
        if source.is_file():
            yield from _same(run, run.evidence / name, source.read_bytes(), f"plan/{name}")


def log_findings(run: RunDir, history: History) -> Iterator[str]:
    """Each step's output, as digested when the step ended."""
    for record in history.records:
        if record.kind == "step_ended":
            given = record.payload
            where = f"step {given['step']}"
            if not given["output"] or not given["output_sha256"]:
                yield f"{where}: its end names no output and digest"
                continue
            yield from _digested(run, run.path / given["output"], given["output_sha256"], where)


def gate_findings(run: RunDir, history: History) -> Iterator[str]:
    """The infra gates that passed left their evidence, and it says so (RUNBOOK §7).

    Of what a plug-in brought, whatever is there is held against the step it belongs to; where
    nobody knows that step any more, against the last of the gates.
    """
    due = [gate for gate in GATES.values() if gate.is_due]
    others = [gate for gate in gates_in(run.evidence) if not gate.is_due]
    for gate in (*due, *others):
        if history.step(gate.step or _LAST_GATE).status is StepStatus.OK:
            yield from judge_gate_evidence(
                run.evidence / gate.file,
                gate=gate,
                real=True,
                rehearsal=bool(history.created["rehearsal"]),
            )


def readiness_findings(run: RunDir, history: History) -> Iterator[str]:
    """Readiness files, recomputed: all SLIs there, measured in their step, within target."""
    files = {
        "precheck": "ctp_readiness_precheck.json",
        "post_rollback_validate": "ctp_readiness_rollback.json",
    }
    for step, name in files.items():
        known = history.step(step)
        if known.status is not StepStatus.OK:
            continue
        yield from judge_readiness_file(
            run.evidence / name,
            real=True,
            since=_epoch(known.started_utc),
            until=_epoch(known.ended_utc),
            rehearsal=bool(history.created["rehearsal"]),
        )


def notebook_findings(run: RunDir, history: History) -> Iterator[str]:
    """Executed notebooks carry this run's id and the digest of its journal as it then was.

    A notebook may be LOST or NOT RUN in part (its viewer died, the run went on), but no cell is
    marked completed that was not executed.
    """
    lines = run.journal.read_bytes().split(b"\n")
    for path in sorted(run.notebooks.glob("*.ipynb")):
        name = path.relative_to(run.path).as_posix()
        try:
            notebook = json.loads(path.read_bytes())
            stamp = dict(notebook["metadata"]["ctp_runbook"])
            cells = [dict(cell) for cell in notebook["cells"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield f"{name}: not a notebook stamped by this project: {error!r}"
            continue
        yield from _stamp_findings(name, stamp, lines, run_id=history.run_id)
        yield from _cell_findings(name, cells)


def manifest_findings(run: RunDir, history: History) -> Iterator[str]:
    """Every listed file as it was listed; under a seal, none that is not."""
    try:
        data = run.manifest.read_bytes()
        manifest = read_manifest(data)
        listed = manifest.files
        files = {name: run.path / name for name in listed}
        content = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    except OSError as error:
        yield f"manifest.json: cannot be read: {error.strerror}"
        return
    except (ValueError, JournalError) as error:
        yield f"manifest.json: not a manifest: {error}"
        return
    for name in sorted(set(files) - set(content)):
        yield f"manifest.json lists {name}, which is not there"
    for name, found in content.items():
        due = listed[name]
        sha256, size = digest_of(found), len(found)
        if (due.sha256, due.size) != (sha256, size):
            yield (
                f"{name}: sha256 {sha256[:12]}…, {size} bytes; manifest.json says "
                f"{due.sha256[:12]}…, {due.size} bytes"
            )
    if set(files) == set(content) and data != manifest_bytes(
        run.run_id, content, sealed=manifest.sealed
    ):
        yield "manifest.json is not in the form this project writes: it was edited"
    if manifest.sealed:
        for name in unlisted_files(run, listed):
            yield f"{name}: not listed in the sealed manifest.json"


def _same(run: RunDir, path: Path, due: bytes, source: str) -> Iterator[str]:
    name = path.relative_to(run.path).as_posix()
    try:
        found = path.read_bytes()
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror}"
        return
    if found == due:
        return
    for number, (line, line_due) in enumerate(
        zip(found.split(b"\n"), due.split(b"\n"), strict=False), start=1
    ):
        if line != line_due:
            shown = line.decode(errors="replace")[:120]
            shown_due = line_due.decode(errors="replace")[:120]
            yield f"{name}:{number}: {shown!r}; {source} has {shown_due!r}"
            return
    yield f"{name}: {len(found)} bytes; {source} has {len(due)}"


def _digested(run: RunDir, path: Path, sha256: str, where: str) -> Iterator[str]:
    if not path.resolve().is_relative_to(run.path.resolve()):
        yield f"{where}: {path} lies outside of the run's directory"
        return
    try:
        found = digest_of(path.read_bytes())
    except OSError as error:
        yield f"{where}: {path.name} cannot be read: {error.strerror}"
        return
    if found != sha256:
        yield f"{where}: {path.name} has sha256 {found[:12]}…; the journal says {sha256[:12]}…"


def _stamp_findings(
    name: str, stamp: Mapping[str, Any], lines: list[bytes], *, run_id: str
) -> Iterator[str]:
    if stamp.get("run_id") != run_id:
        yield f"{name}: stamped with run {stamp.get('run_id')}; this is run {run_id}"
    records = stamp.get("journal_records")
    if isinstance(records, bool) or not isinstance(records, int) or not 0 < records < len(lines):
        yield f"{name}: stamped at record {records!r}; the journal has {len(lines) - 1}"
        return
    due = digest_of(b"".join(line + b"\n" for line in lines[:records]))
    if stamp.get("journal_sha256") != due:
        yield (
            f"{name}: stamped with journal digest {str(stamp.get('journal_sha256'))[:12]}…; at "
            f"record {records} it was {due[:12]}…"
        )


def _cell_findings(name: str, cells: list[dict[str, Any]]) -> Iterator[str]:
    for number, cell in enumerate(cells, start=1):
        metadata = cell.get("metadata")
        papermill = metadata.get("papermill") if isinstance(metadata, dict) else None
        status = papermill.get("status") if isinstance(papermill, dict) else None
        is_code = cell.get("cell_type") == "code" and cell.get("source")
        if is_code and status == "completed" and not isinstance(cell.get("execution_count"), int):
            yield f"{name}: cell {number} is marked completed and was never executed"


def _epoch(utc: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(utc).timestamp() if utc else 0.0
