"""Recorded runs of every ending: this version reads them, verifies them and judges them again.

They are of format 1 and stay as they are; `tests/golden/record.py` made them from the real twin. A
later version either passes here, or reads another format and says so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ctp_runbook.errors import EvidenceInvalid, JournalError, RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.evidence import list_file, manifest_bytes, read_manifest, result_files
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, digest_of, header_text, read_journal
from ctp_runbook.record.kinds import KINDS
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import read_samples
from ctp_runbook.verify.rejudge import rejudge_run
from ctp_runbook.verify.run import verify_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
SCHEMAS = Path(__file__).parents[2] / "infra" / "schemas"
RUNS = {path.name: RunDir(path) for path in sorted(GOLDEN.iterdir())}
GATE_FILES = {
    "readiness.json": "evidence/ctp_readiness_*.json",
    "checklist.json": "evidence/*checklist.json",
}
MOST_BYTES = 300_000
VERIFIES = (Outcome.COMPLETED, Outcome.ROLLED_BACK_IN_BUDGET)


def history_of(run: RunDir) -> History:
    """The run as its journal tells it."""
    return History.of(read_journal(run.journal).records)


HISTORIES = {name: history_of(run) for name, run in RUNS.items()}
WATCHED = [name for name, history in HISTORIES.items() if history.watch_ended]


def validator(name: str) -> jsonschema.Draft202012Validator:
    """What the committed schema of that name describes."""
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / name).read_bytes()))


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[str], RunDir]:
    """A copy of a recorded run under another folder, to be edited."""

    def copy(name: str) -> RunDir:
        shutil.copytree(RUNS[name].path, tmp_path / name)
        return RunDir(tmp_path / name)

    return copy


def test_every_ending_is_there() -> None:
    """Each outcome that a run may have, once at least; and a rollback of a completed run."""
    assert {history.outcome for history in HISTORIES.values()} == set(Outcome)
    (undone,) = (history for history in HISTORIES.values() if history.parent)
    assert undone.created.parent_run == "completed"


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_is_small_and_of_no_machine(name: str) -> None:
    """Recorded in one folder below /tmp, whatever lies where on the machine that did it."""
    files = [path for path in RUNS[name].path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    created = HISTORIES[name].created
    places = {created.cwd, *(str(path) for path in vars_of(created.files))}
    assert [place for place in places if not place.startswith("/tmp/ctp-golden")] == []


def vars_of(files: Any) -> list[str]:
    """The values of a frozen record."""
    return [getattr(files, name) for name in files.__struct_fields__]


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_verifies_as_what_it_is(name: str, copy_of: Callable[[str], RunDir]) -> None:
    """Wherever it lies: nothing is wrong but an ending that never verifies, in the words for it."""
    outcome = HISTORIES[name].outcome
    for run in (RUNS[name], copy_of(name)):
        report = verify_run(run, allow_cutover_rollback=True)
        wrong = [check.name for check in report.checks if not check.ok]
        assert wrong == ([] if outcome in VERIFIES else ["outcome"]), report.findings


@pytest.mark.parametrize("name", WATCHED)
def test_a_recorded_watch_is_judged_again(name: str, copy_of: Callable[[str], RunDir]) -> None:
    """To the words that were written, and to the same bytes at every place."""
    ended = HISTORIES[name].watch_ended
    assert ended is not None
    judged = rejudge_run(RUNS[name])
    assert judged.own.sentence == ended.payload.sentence
    assert judged.own.overall == ended.payload.verdict
    assert rejudge_run(copy_of(name)).json == judged.json


@pytest.mark.parametrize("name", sorted(RUNS.keys() - set(WATCHED)))
def test_what_was_not_watched_is_not_judged(name: str) -> None:
    """With one sentence that says why there is nothing to judge."""
    with pytest.raises(RunRefused, match="has no finished watch window to judge again"):
        rejudge_run(RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_is_written_again_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Journal, header, samples, evidence and manifest: what was read says all that was written."""
    run, history = RUNS[name], HISTORIES[name]
    assert header_text(history.created) == run.run_json.read_bytes()
    for path in (run.samples, run.baseline):
        if path.exists():
            lines = b"".join(sample.to_line() for sample in read_samples(path))
            assert lines == path.read_bytes()
    for file, data in result_files(run, history).items():
        assert (run.evidence / file).read_bytes() == data
    manifest = read_manifest(run.manifest.read_bytes())
    listed = {file: list_file(run.path / file) for file in manifest.files}
    due = manifest_bytes(run.run_id, listed, sealed=manifest.sealed)
    assert due == run.manifest.read_bytes()
    # A journal writes clocks and writer of its own: what it says of each record is compared.
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    for record in history.records:
        line = json.loads(journal.append(record.payload).line)
        assert line["payload"] == json.loads(record.line)["payload"], record.kind
    journal.close()


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_fits_its_schemas(name: str) -> None:
    """An auditor reads it with infra/schemas/ alone: every line of the journal by its kind."""
    run = RUNS[name]
    for line in map(json.loads, run.journal.read_bytes().splitlines()):
        validator(f"journal.{line['kind']}.json").validate(line)
    for path in (run.samples, run.baseline):
        if path.exists():
            sample = validator("sample.json")
            for line in path.read_bytes().splitlines():
                sample.validate(json.loads(line))
    validator("run.json").validate(json.loads(run.run_json.read_bytes()))
    validator("manifest.json").validate(json.loads(run.manifest.read_bytes()))
    for form, names in GATE_FILES.items():
        for path in run.path.glob(names):
            validator(form).validate(json.loads(path.read_bytes()))


def test_the_recorded_runs_know_most_kinds_of_records() -> None:
    """What no ending of the twin brings is named here, so that a new kind is thought of."""
    seen = {record.kind for history in HISTORIES.values() for record in history.records}
    rare = {"alert", "alert_ended", "guardian_started", "watch_disturbed", "watch_gap"}
    assert set(KINDS) - seen - rare == set()


# --- a format that this version does not know -------------------------------------


def another_format(path: Path, *, lines: slice = slice(None)) -> None:
    """Say 2 where a file says which format it is of."""
    rows = path.read_bytes().splitlines(keepends=True)
    rows[lines] = [re.sub(rb'"format":( ?)1\b', rb'"format":\g<1>2', row) for row in rows[lines]]
    path.write_bytes(b"".join(rows))


REFUSED = "of format 2; this version of ctp_runbook reads format 1: read it with the version that"


def test_a_journal_of_another_format_is_refused(copy_of: Callable[[str], RunDir]) -> None:
    """By file, number and what to read it with; the chain is not even asked."""
    run = copy_of("completed")
    another_format(run.journal, lines=slice(1))
    with pytest.raises(JournalError, match=rf"journal\.jsonl.*journal {REFUSED}"):
        read_journal(run.journal)
    (finding,) = verify_run(run).findings
    assert f"journal {REFUSED} wrote it, or a later one" in finding


def test_samples_of_another_format_are_refused(copy_of: Callable[[str], RunDir]) -> None:
    """Each line says its own: a file of two formats is none."""
    run = copy_of("completed")
    another_format(run.samples, lines=slice(2, 3))
    with pytest.raises(JournalError, match=rf"samples\.jsonl:3: .*sample {REFUSED}"):
        read_samples(run.samples)
    assert f"sample {REFUSED}" in "\n".join(verify_run(run).findings)
    with pytest.raises(EvidenceInvalid, match=REFUSED):
        rejudge_run(run)


def test_a_manifest_of_another_format_is_refused(copy_of: Callable[[str], RunDir]) -> None:
    """Though the files it lists are as they were."""
    run = copy_of("completed")
    another_format(run.manifest)
    with pytest.raises(JournalError, match=rf"manifest\.json {REFUSED}"):
        read_manifest(run.manifest.read_bytes())
    assert f"manifest.json {REFUSED}" in "\n".join(verify_run(run).findings)


def test_a_header_of_another_format_is_refused(copy_of: Callable[[str], RunDir]) -> None:
    """run.json is for people and says what the journal says: verification holds it to that too."""
    run = copy_of("completed")
    another_format(run.run_json)
    findings = "\n".join(verify_run(run).findings)
    assert f"run.json {REFUSED}" in findings
    assert (
        "run.json:2: '  \"format\": 2,'; the journal's first record has '  \"format\": 1,'"
        in findings
    )


def test_a_run_without_a_format_is_of_an_earlier_version(copy_of: Callable[[str], RunDir]) -> None:
    """Named as such, for before format 1 nothing had a number."""
    run = copy_of("completed")
    first, rest = run.journal.read_bytes().split(b"\n", 1)
    run.journal.write_bytes(first.replace(b'"format":1,', b"") + b"\n" + rest)
    (finding,) = verify_run(run).findings
    assert "journal without a format number: it is of a version before format 1; read it" in finding


def test_an_edit_of_a_recorded_run_is_found(copy_of: Callable[[str], RunDir]) -> None:
    """The seal was made when it was recorded: a golden run cannot be mended by hand."""
    run = copy_of("completed")
    data = run.journal.read_bytes()
    run.journal.write_bytes(data.replace(b'"exit_code":0', b'"exit_code":4', 1))
    assert not verify_run(run).ok
    run.journal.write_bytes(data)
    assert verify_run(run).ok
    note = run.plan / "note.md"
    note.write_text(f"{digest_of(data)}\n")
    assert "plan/note.md: not listed" in "\n".join(verify_run(run).findings)
