"""The files of a run against its journal: derived ones derived again, digested ones digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from msgspec import UNSET, Struct, structs

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import ConfigError, EvidenceInvalid, JournalError
from ctp_runbook.gates.gate import judge_gate_evidence
from ctp_runbook.gates.readiness import judge_readiness_file
from ctp_runbook.model import StepStatus
from ctp_runbook.plan.config import load_watch
from ctp_runbook.plan.gate_table import GATES, Gate, gates_in
from ctp_runbook.plan.template_keys import NOT_MEASURABLE
from ctp_runbook.record.evidence import (
    CHECKLISTS,
    is_left_unsealed,
    kept_files,
    list_file,
    manifest_bytes,
    read_manifest,
    result_files,
    unlisted_files,
    unobserved_steps,
)
from ctp_runbook.record.formats import FormatOf, check_format
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import header_text
from ctp_runbook.record.kinds import Count, Finding, StepEnded, override_name
from ctp_runbook.record.rundir import RunDir

__all__ = [
    "evidence_findings",
    "gate_findings",
    "header_findings",
    "log_findings",
    "manifest_findings",
    "manifest_words",
    "notebook_findings",
    "passed_gates",
    "passed_readiness",
    "readiness_findings",
]

_LAST_GATE = "precheck"
_READINESS = {
    "precheck": "ctp_readiness_precheck.json",
    "post_rollback_validate": "ctp_readiness_rollback.json",
}


def header_findings(run: RunDir, history: History) -> Iterator[str]:
    """run.json is the journal's header, the directory is the run's own, the plan is its plan."""
    if history.run_id != run.path.resolve().name:
        yield (
            f"the journal in {run.path} is that of run {history.run_id}: a record moved here "
            "from elsewhere proves nothing"
        )
    yield from _format_findings(run)
    due = header_text(history.created)
    yield from _same(run, run.run_json, due, "the journal's first record")
    for name, sha256 in history.created.plan_files.items():
        yield from _digested(run, run.plan / name, sha256, "run_created.plan_files")
    yield from _rule_findings(run, history)
    yield from _override_findings(history)


def _format_findings(run: RunDir) -> Iterator[str]:
    try:
        check_format(decoder(FormatOf).decode(run.run_json.read_bytes()).format, "run.json")
    except JournalError as error:
        yield str(error)
    except (OSError, ValueError, RecursionError):
        return  # that it is not what the journal says is told beside it


def _override_findings(history: History) -> Iterator[str]:
    """What was never measured needed a reason, and each override stands among the findings."""
    created, known = history.created, history.created.measured
    sentences = [record.payload.sentence for record in history.of_kind(Finding)]
    for name, reason in created.overrides.items():
        start = f"OVERRIDE {override_name(name)} by "
        if not any(sentence.startswith(start) and reason in sentence for sentence in sentences):
            yield f"run.json overrides {name}, and no finding of the journal says so"
    # A rollback of another run is not asked how long it will take: it is needed.
    if created.dry_run or created.rehearsal or created.parent_run or known.is_complete:
        return
    if not created.overrides.get("accept_unmeasured", "").strip():
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
        # Runs of before the key were judged by the window's quantile where the file names no test.
        written = load_watch(path, only_written=True)
        is_of_before = all(rule.test is UNSET for rule in history.plan.watch.metrics.values())
        rules = written if is_of_before else load_watch(path)
    except ConfigError as error:
        yield f"plan/watch.toml: {error}"
        return
    judged_by = history.plan.watch
    for name, rule in judged_by.metrics.items():
        due = (written if rule.test is UNSET else rules).metrics.get(name)
        if due is not None and rule.false_alarm_rate is UNSET:  # a record of before it was divided
            due = structs.replace(due, false_alarm_rate=UNSET)
        if rule.baseline_max_shift is None:  # as it was written where the file has none
            rule = structs.replace(rule, baseline_max_shift=UNSET)
        if rule != due:
            yield f"plan.watch.metrics.{name} of run.json is not that of plan/watch.toml"
    for key in ("tolerance_inconclusive_seconds", "tolerance_error_seconds", "recovery_seconds"):
        said, due = getattr(judged_by, key), getattr(rules, key)
        if said != due:
            yield f"plan.watch.{key} is {said}; plan/watch.toml has {due}"


def evidence_findings(run: RunDir, history: History) -> Iterator[str]:
    """The result files, byte for byte what the journal gives; the checklist, that of the plan."""
    for name, due in result_files(run, history).items():
        yield from _same(run, run.evidence / name, due, "what the journal gives")
    for name in CHECKLISTS:
        source = run.plan / name
        if source.is_file():
            yield from _same(run, run.evidence / name, source.read_bytes(), f"plan/{name}")


def log_findings(run: RunDir, history: History) -> Iterator[str]:
    """Each step's output, as digested when the step ended."""
    for record in history.of_kind(StepEnded):
        end, where = record.payload, f"step {record.payload.step}"
        if end.output and end.output_sha256:
            yield from _digested(run, run.path / end.output, end.output_sha256, where)
        else:
            yield f"{where}: its end names no output and digest"


def gate_findings(run: RunDir, history: History) -> Iterator[str]:
    """The infra gates that passed left their evidence, and it says so (RUNBOOK §7).

    Of what a plug-in brought, whatever is there is held against the step it belongs to; where
    nobody knows that step any more, against the last of the gates.
    """
    for gate in passed_gates(run, history):
        path = run.evidence / gate.file
        rehearsal = history.created.rehearsal
        yield from judge_gate_evidence(path, gate=gate, real=True, rehearsal=rehearsal)


def passed_gates(run: RunDir, history: History) -> tuple[Gate, ...]:
    """The infra gates whose step is ok: those due, and whichever else left evidence."""
    strange = unobserved_steps(run, history)
    due = [gate for gate in GATES.values() if gate.is_due and gate not in strange]
    others = [gate for gate in gates_in(run.evidence) if not gate.is_due]
    return tuple(
        gate
        for gate in (*due, *others)
        if history.step(gate.step or _LAST_GATE).status is StepStatus.OK
    )


def readiness_findings(run: RunDir, history: History) -> Iterator[str]:
    """Readiness files, recomputed: all SLIs there, measured in their step, within target."""
    for name in passed_readiness(history):
        step = history.step(name)
        yield from judge_readiness_file(
            run.evidence / _READINESS[name],
            real=True,
            since=_epoch(step.started_utc),
            until=_epoch(step.ended_utc),
            rehearsal=history.created.rehearsal,
            excused=_excused(run),
        )


def _excused(run: RunDir) -> list[str]:
    """The SLIs that the reviewed plan says this engine cannot have; none where it cannot be read,
    which is told elsewhere."""
    path = run.plan / "ctp_one_shot_cutover_checklist.json"
    try:
        commands = decoder(_Readiness).decode(path.read_bytes()).readiness_commands
    except (OSError, ValueError, RecursionError):
        return []
    return [sli for sli, text in commands.items() if text.startswith(NOT_MEASURABLE)]


class _Readiness(Struct):
    """What is asked of a checklist, whatever else stands there."""

    readiness_commands: dict[str, str] = {}


def passed_readiness(history: History) -> tuple[str, ...]:
    """The names of the readiness steps that are ok."""
    return tuple(name for name in _READINESS if history.step(name).status is StepStatus.OK)


class _Stamp(Struct, frozen=True):
    """What this project leaves in a notebook it executes."""

    run_id: str
    journal_records: Count
    journal_sha256: str


class _NotebookMetadata(Struct, frozen=True):
    ctp_runbook: _Stamp


class _Papermill(Struct, frozen=True):
    status: str | None = None


class _CellMetadata(Struct, frozen=True):
    papermill: _Papermill | None = None


class _Cell(Struct, frozen=True):
    cell_type: str
    source: str | list[str] = ""
    execution_count: int | None = None
    metadata: _CellMetadata | None = None

    @property
    def claims_too_much(self) -> bool:
        """True for code that is marked completed and was never executed."""
        papermill = self.metadata.papermill if self.metadata else None
        is_completed = papermill is not None and papermill.status == "completed"
        is_code = self.cell_type == "code" and bool(self.source)
        return is_code and is_completed and self.execution_count is None


class _Notebook(Struct, frozen=True):
    """As much of an executed notebook as is asked about."""

    metadata: _NotebookMetadata
    cells: list[_Cell]


def notebook_findings(run: RunDir, history: History) -> Iterator[str]:
    """Executed notebooks carry this run's id and the digest of its journal as it then was.

    A notebook may be LOST or NOT RUN in part (its viewer died, the run went on), but no cell is
    marked completed that was not executed.
    """
    for path in sorted(run.notebooks.glob("*.ipynb")):
        name = path.relative_to(run.path).as_posix()
        try:
            notebook = decoder(_Notebook).decode(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            yield f"{name}: not a notebook stamped by this project: {error}"
            continue
        stamp = notebook.metadata.ctp_runbook
        yield from (f"{name}: {wrong}" for wrong in _stamp_findings(stamp, run, history))
        for number, cell in enumerate(notebook.cells, start=1):
            if cell.claims_too_much:
                yield f"{name}: cell {number} is marked completed and was never executed"


def _stamp_findings(stamp: _Stamp, run: RunDir, history: History) -> Iterator[str]:
    if stamp.run_id != history.run_id:
        yield f"stamped with run {stamp.run_id}; this is run {history.run_id}"
    digest, lines, records = hashlib.sha256(), 0, stamp.journal_records
    with run.journal.open("rb") as journal:
        for lines, line in enumerate(journal, start=1):
            if lines <= records:
                digest.update(line)
    if not 0 < records <= lines:
        yield f"stamped at record {records}; the journal has {lines}"
        return
    due = digest.hexdigest()
    if stamp.journal_sha256 != due:
        yield (
            f"stamped with journal digest {stamp.journal_sha256[:12]}…; at record {records} it was "
            f"{due[:12]}…"
        )


def manifest_words(run: RunDir) -> str:
    """Say what a manifest without findings proves."""
    said = "every file as listed in manifest.json"
    if not is_left_unsealed(run):
        return said
    return (
        f"{said}, which is not sealed: whoever executed the notebooks was ended before; "
        f"`ctp-runbook resume --run {run.path}` seals it"
    )


def manifest_findings(run: RunDir) -> Iterator[str]:
    """Every listed file as it was listed, and none that is not; without a seal, which those who
    executed notebooks did not live to set, what they wrote may be there besides.

    Raises EvidenceInvalid when it cannot be read.
    """
    try:
        data = run.manifest.read_bytes()
        manifest = read_manifest(data)
        kept = kept_files(run)
        paths = {name: kept.get(name, run.path / name) for name in manifest.files}
        present = {name: list_file(path) for name, path in paths.items() if path.is_file()}
    except OSError as error:
        raise EvidenceInvalid([f"manifest.json: cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError, JournalError) as error:
        raise EvidenceInvalid([f"manifest.json: not a manifest: {error}"]) from error
    for name, due in manifest.files.items():
        if name not in present:
            yield f"manifest.json lists {name}, which is not there"
            continue
        if due != (seen := present[name]):
            yield (
                f"{name}: sha256 {seen.sha256[:12]}…, {seen.size} bytes; manifest.json says "
                f"{due.sha256[:12]}…, {due.size} bytes"
            )
    # By its folder's own name: it may be verified through a link, or as ".".
    written = manifest_bytes(run.path.resolve().name, present, sealed=manifest.sealed)
    if len(present) == len(paths) and data != written:
        yield "manifest.json is not in the form this project writes: it was edited"
    seal = "the sealed " if manifest.sealed else ""
    for name in unlisted_files(kept, manifest):
        yield f"{name}: not listed in {seal}manifest.json"


def _same(run: RunDir, path: Path, due: bytes, source: str) -> Iterator[str]:
    """Where a file first differs from what it is derived from, if it does."""
    name = path.relative_to(run.path).as_posix()
    try:
        written = path.read_bytes()
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror}"
        return
    lines = zip(written.split(b"\n"), due.split(b"\n"), strict=False)
    for number, pair in enumerate(lines, start=1):
        if pair[0] != pair[1]:
            line, line_due = (each.decode(errors="replace")[:120] for each in pair)
            yield f"{name}:{number}: {line!r}; {source} has {line_due!r}"
            return
    if written != due:
        yield f"{name}: {len(written)} bytes; {source} has {len(due)}"


def _digested(run: RunDir, path: Path, sha256: str, where: str) -> Iterator[str]:
    try:
        if not path.resolve().is_relative_to(run.path.resolve()):
            yield f"{where}: {path} lies outside of the run's directory"
            return
        digest = list_file(path).sha256
    except (OSError, ValueError) as error:
        # A name with a NUL in it is no file's.
        why = getattr(error, "strerror", "") or str(error)
        name = path.name if path.name.isprintable() else repr(path.name)
        yield f"{where}: {name} cannot be read: {why}"
        return
    if digest != sha256:
        yield f"{where}: {path.name} has sha256 {digest[:12]}…; the journal says {sha256[:12]}…"


def _epoch(utc: str) -> float:
    # A step without its start is told elsewhere; since the epoch everything was measured.
    return datetime.fromisoformat(utc).timestamp() if utc else 0.0
