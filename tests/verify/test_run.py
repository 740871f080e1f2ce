"""Verification refuses what FAILURES.md has seen accepted elsewhere, and says why."""

from __future__ import annotations

import errno
import html
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import EvidenceInvalid
from ctp_runbook.model import Outcome
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.record.evidence import write_manifest
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.kinds import KINDS
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.pair import verify_pair
from ctp_runbook.verify.report import VerificationReport
from ctp_runbook.verify.run import verify_run
from tests.props import synthetic_runs
from tests.props.example_records import EXAMPLES
from tests.props.forged_runs import (
    Edit,
    Raws,
    changed,
    findings_of,
    forge,
    inserted,
    removed,
    together,
)
from tests.props.synthetic_runs import completed_run, make_run, rolled_back_run, seal

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.mark.parametrize("kind", ["completed", "rolled_back", "drill"])
def test_a_true_run_verifies(kind: str, tmp_path: Path) -> None:
    """What the orchestrator's words and the real judge make is accepted, with every check ok."""
    report = verify_run(make_run(kind, tmp_path), allow_cutover_rollback=True)
    assert report.findings == ()
    assert report.sentence.startswith("verification passed: run 2")


@pytest.mark.parametrize("kind", ["rolled_back", "drill"])
def test_a_rollback_passes_only_where_it_is_allowed(kind: str, tmp_path: Path) -> None:
    """Without --allow-cutover-rollback a rolled back run is refused, and the flag is named."""
    (finding,) = verify_run(make_run(kind, tmp_path)).findings
    assert "--allow-cutover-rollback" in finding


def test_a_dry_run_never_verifies(tmp_path: Path) -> None:
    """A dry run is refused in one sentence that says so."""
    (finding,) = verify_run(make_run("dry", tmp_path), allow_cutover_rollback=True).findings
    assert "dry run" in finding


def test_an_aborted_run_does_not_verify(tmp_path: Path) -> None:
    """A gate that failed is no outcome to pass, allowed rollback or not."""
    report = verify_run(make_run("aborted", tmp_path), allow_cutover_rollback=True)
    assert "ABORTED_BEFORE_SWITCH" in report.findings[0]
    with pytest.raises(EvidenceInvalid, match="ABORTED_BEFORE_SWITCH"):
        report.raise_if_failed()


def test_a_lower_budget_can_be_asked_for(tmp_path: Path) -> None:
    """--max-rollback-seconds below what was taken is a finding with both numbers."""
    run = make_run("rolled_back", tmp_path)
    report = verify_run(run, allow_cutover_rollback=True, max_rollback_seconds=0.5)
    assert "at most 0.5 s are allowed" in report.findings[0]


def test_a_run_moved_to_another_name_is_refused(tmp_path: Path) -> None:
    """A record copied from another run proves nothing about this one."""
    run = make_run("completed", tmp_path)
    moved = run.path.rename(run.path.with_name("20260303T000000Z-other"))
    assert "that of run" in verify_run(RunDir(moved)).findings[0]


def test_a_run_verifies_by_whichever_path_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a link, or as the folder one stands in: it is the run that it is."""
    run = make_run("completed", tmp_path)
    (tmp_path / "link").symlink_to(run.path)
    monkeypatch.chdir(run.path)
    for path in (tmp_path / "link", Path()):
        report = verify_run(RunDir(path))
        assert report.findings == ()
        assert report.subject == f"run {run.run_id}"


def test_a_run_without_a_manifest_is_refused_unless_asked(tmp_path: Path) -> None:
    """Notebook 07 runs before the manifest is written; nobody else may do without."""
    run = make_run("completed", tmp_path)
    run.manifest.unlink()
    assert verify_run(run, require_manifest=False).ok
    assert "manifest.json" in verify_run(run).findings[0]


def test_a_torn_journal_is_refused(tmp_path: Path) -> None:
    """A last line without its end means a writer died: the run is not over."""
    run = make_run("completed", tmp_path)
    with run.journal.open("ab") as sink:
        sink.write(b'{"seq":')
    assert "torn" in verify_run(run).findings[0]


def test_an_empty_directory_is_no_run(tmp_path: Path) -> None:
    """Nothing to verify is a finding, not a pass and not a crash."""
    assert not verify_run(RunDir(tmp_path)).ok
    assert not VerificationReport("nothing", ()).ok


def _short_watch(raws: Raws) -> None:
    raws[0]["payload"]["plan"]["monitor_minutes"] = 0.5
    for raw in raws:
        if raw["kind"] == "watch_started":
            raw["payload"]["minutes"] = 0.5


def _without(kind: str) -> Callable[[Raws], None]:
    def forge(raws: Raws) -> None:
        raws[:] = [raw for raw in raws if raw["kind"] != kind]

    return forge


def _with(kind: str, **payload: Any) -> Callable[[Raws], None]:
    def forge(raws: Raws) -> None:
        for raw in raws:
            if raw["kind"] == kind:
                raw["payload"].update(payload)

    return forge


def _renamed(number: int, to: str) -> Callable[[Raws], None]:
    def forge(raws: Raws) -> None:
        raws[number]["kind"] = to

    return forge


def _step_failed(raws: Raws) -> None:
    for raw in raws:
        if raw["kind"] == "step_ended" and raw["payload"]["step"] == "warmup_query":
            raw["payload"].update(status="failed", exit_code=137, reason="killed")


def _no_end(raws: Raws) -> None:
    ends = [n for n, raw in enumerate(raws) if raw["kind"] == "step_ended"]
    del raws[ends[6]]


def _not_gone(raws: Raws) -> None:
    for raw in raws:
        if raw["kind"] == "probe" and raw["payload"]["question"] == "gone":
            raw["payload"]["ok"] = False


def _later_boot(raws: Raws) -> None:
    for raw in raws[20:]:
        raw["boot_id"] = "00000000-another-boot"


def _clock_jumped(raws: Raws) -> None:
    for raw in raws[20:]:
        raw["mono_ns"] += 60 * 10**9


FORGED = {
    "a watch of half a minute": (_short_watch, "without --short-watch REASON"),
    "no watch at all": (_without("watch_ended"), "no whole watch window"),
    "no samples": (_with("watch_ended", samples=0), "watch_ended counts 0"),
    "another verdict": (_with("watch_ended", verdict="FAILED"), "the samples judge to PASSED"),
    "no go": (_without("control"), "without a recorded go"),
    "a go for another start": (_with("control", start=99), "without a recorded go"),
    "a failed step": (_step_failed, "step warmup_query is failed"),
    "a step without its end": (_no_end, "while stop_old_core_engine had no end"),
    "two generations": (_not_gone, "while old_core_engine was not proved gone"),
    "another exit code": (_with("closed", exit_code=4), "exit code 4; COMPLETED has 0"),
    "the old one still runs": (
        _with("closed", running={"new_core_engine": "alive", "old_core_engine": "alive"}),
        "old_core_engine was alive; expected gone",
    ),
    "no identity": (_without("identity"), "no identity of new_core_engine"),
    "not closed": (_without("closed"), "not closed"),
    "a reboot that was none": (_later_boot, "and yet this boot is"),
    "a clock that jumped": (_clock_jumped, "s apart since record 0"),
    "an unknown kind": (_renamed(5, "note"), "unknown kind"),
    "a dry run made real": (_with("run_created", dry_run=False, rehearsal="no"), "rehearsal"),
}


@pytest.mark.parametrize(("edit", "said"), FORGED.values(), ids=FORGED)
def test_a_forged_journal_is_refused(
    edit: Callable[[Raws], None], said: str, tmp_path: Path
) -> None:
    """With chain, evidence and manifest made anew, the record still contradicts itself."""
    run = completed_run(tmp_path)
    seal(run)
    forge(run, edit)
    findings = verify_run(run).findings
    assert said in "\n".join(findings)


def test_a_rollback_that_took_too_long_is_refused(tmp_path: Path) -> None:
    """An outcome that claims the budget is measured against it."""
    run = rolled_back_run(tmp_path, plan={"max_rollback_seconds": 1.0})
    seal(run)
    findings = "\n".join(verify_run(run, allow_cutover_rollback=True).findings)
    assert "at most 1 s are allowed" in findings


def _validated(raws: Raws) -> None:
    step = {"step": "post_rollback_validate", "phase": "rollback", "status": "skipped"}
    step |= {"reason": "", "command": "/opt/quant-hft/bin/post_rollback_validate --config ctp.yaml"}
    raws.insert(-1, {**raws[-1], "kind": "step_not_done", "payload": step})


# What the runner of checks itself asks, a row a sentence; the other modules have their own files.
LATER = "2026-02-02T04:00:00.000000+00:00"
ENDINGS: dict[str, tuple[str, Edit, str]] = {
    "late": (
        "rolled_back",
        changed("closed", outcome="ROLLED_BACK_LATE", exit_code=5, sentence="too late"),
        "the run ended ROLLED_BACK_LATE: too late",
    ),
    "dry, and closed as real": (
        "dry",
        changed("closed", outcome="COMPLETED", exit_code=0),
        "this is a dry run: it proves that nothing stood in the way",
    ),
    "a rollback step in a completed run": (
        "completed",
        _validated,
        "rollback step post_rollback_validate stands in a run that is COMPLETED",
    ),
    "a step left out": (
        "completed",
        removed("step_ended", step="precheck"),
        "step precheck is unknown in a run that is COMPLETED",
    ),
    "a restart of the old one left out": (
        "rolled_back",
        changed("step_ended", where={"step": "start_previous_core_engine"}, status="failed"),
        "step start_previous_core_engine is failed in a run rolled back in budget",
    ),
    "a validation left out": (
        "rolled_back",
        changed("step_ended", where={"step": "post_rollback_validate"}, status="timed_out"),
        "step post_rollback_validate is timed_out in a run rolled back in budget",
    ),
    "nobody looked": (
        "completed",
        changed("closed", running={}),
        "at the end new_core_engine was not looked at; expected alive",
    ),
    "the new one trades still": (
        "rolled_back",
        changed("closed", running={"new_strategy_runner": "alive"}),
        "at the end new_strategy_runner was alive; expected gone",
    ),
    "nobody knows who was started": (
        "rolled_back",
        removed("identity", member="new_core_engine"),
        "step start_new_core_engine is ok, and no identity of new_core_engine is in the journal",
    ),
    "a trigger in a completed run": (
        "completed",
        inserted(
            "watch_started",
            "trigger",
            cause="operator",
            metric="",
            value=None,
            limit=None,
            sample_utc=LATER,
            sample_mono_ns=0,
            sentence="back",
        ),
        "a run that is COMPLETED has a trigger or a rollback in its journal",
    ),
    "a rollback for no reason": (
        "rolled_back",
        removed("trigger"),
        "a rollback began without a trigger in the journal",
    ),
    "a rollback that counts from later": (
        "rolled_back",
        changed("rollback_started", started_utc=LATER),
        f"rollback_started: started_utc is {LATER}; by the trigger's sample and",
    ),
    "a rollback that counts from another instant": (
        "rolled_back",
        changed("rollback_started", started_mono_ns=1),
        "rollback_started: started_mono_ns is 1; by the trigger's sample and MAX_ROLLBACK_SECONDS",
    ),
    "a larger budget": (
        "rolled_back",
        changed("rollback_started", budget_seconds=900.0),
        "rollback_started: budget_seconds is 900.0; by the trigger's sample and",
    ),
    "a budget split in another way": (
        "rolled_back",
        changed("rollback_started", shares={"post_rollback_validate": 180.0}),
        "rollback_started: shares is {'post_rollback_validate': 180.0}; by the trigger's sample",
    ),
    "a drill nobody asked for": (
        "drill",
        changed("run_created", force_rollback=False),
        "a forced drill in a run that was not started with --force-rollback",
    ),
    "a rollback that took longer": (
        "rolled_back",
        together(
            # By both clocks: of one that is set apart from the other, durations take no notice.
            changed(
                "rollback_started",
                started_utc="2026-02-02T02:40:00.000000+00:00",
                started_mono_ns=172_799_750_000_000,
            ),
            changed(
                "trigger",
                sample_utc="2026-02-02T02:40:00.000000+00:00",
                sample_mono_ns=172_799_750_000_000,
            ),
        ),
        " s; at most 180 s are allowed",
    ),
    "a rollback that began long after its sample": (
        "rolled_back",
        together(
            changed("rollback_started", started_mono_ns=172_800 * 10**9),
            changed("trigger", sample_mono_ns=172_800 * 10**9),
        ),
        " s after the sample that triggered it",
    ),
    "a journal that begins with something else": (
        "completed",
        removed("run_created"),
        ":1: orchestrator_started; a journal begins with run_created",
    ),
}


@pytest.mark.parametrize(("kind", "edit", "said"), ENDINGS.values(), ids=ENDINGS)
def test_a_run_ended_as_it_says(
    kind: str, edit: Edit, said: str, run_of: Callable[[str], RunDir]
) -> None:
    """Outcome, steps, who runs, why it was rolled back and in what time."""
    run = run_of(kind)
    forge(run, edit)
    assert said in findings_of(run)


def test_a_stop_may_have_failed_in_a_rollback(run_of: Callable[[str], RunDir]) -> None:
    """The tool ended the member by signal and proved it gone: the rollback is in order."""
    run = run_of("rolled_back")
    stop = {"step": "stop_new_core_engine"}
    forge(run, changed("step_ended", where=stop, status="failed", exit_code=1))
    assert findings_of(run) == ""


def test_a_journal_that_does_not_hold_together_is_the_only_finding(
    run_of: Callable[[str], RunDir],
) -> None:
    """Nothing else can be asked of it."""
    run = run_of("completed")
    run.journal.write_bytes(run.journal.read_bytes().replace(b"operator", b"somebody", 1))
    (finding,) = verify_run(run).findings
    assert "does not continue the record before it" in finding


def test_a_journal_of_nothing_is_no_run(run_of: Callable[[str], RunDir]) -> None:
    """An empty file has a chain that holds, and says nothing."""
    run = run_of("completed")
    run.journal.write_bytes(b"")
    (finding,) = verify_run(run).findings
    assert finding == f"{run.journal}: no record in it"


def test_every_check_has_its_own_name(true_run: Callable[[str], RunDir]) -> None:
    """The marks an operator reads, each once, in the order they are made."""
    names = [check.name for check in verify_run(true_run("completed")).checks]
    assert len(names) == len(set(names)) == 19
    assert (names[0], names[-1]) == ("journal", "manifest")


_WATCH = ["window", "samples", "verdict"]
_NOTHING_DONE = [
    "parent",
    "steps",
    "window",
    "samples",
    "baseline",
    "verdict",
    "rollback",
    "logs",
    "gates",
    "readiness",
    "notebooks",
]
DID_NOT_APPLY = {
    "aborted": ["parent", "steps", *_WATCH, "rollback", "readiness", "notebooks"],
    "completed": ["parent", "rollback", "notebooks"],
    "drill": ["parent", "notebooks"],
    "dry": _NOTHING_DONE,
    "refused": _NOTHING_DONE,
    "triggered": ["parent", "notebooks"],
}


@pytest.mark.parametrize("name", DID_NOT_APPLY)
def test_a_check_of_what_never_happened_has_no_green_mark(name: str) -> None:
    """It says why there was nothing to check."""
    report = verify_run(RunDir(GOLDEN / name), allow_cutover_rollback=True)
    idle = [check for check in report.checks if not check.applies]
    assert [check.name for check in idle] == DID_NOT_APPLY[name]
    assert all(re.match("no |nothing |the |this ", check.sentence) for check in idle)
    for check in idle:
        print(f"{name}: {check.symbol} {check.name}: {check.sentence}")


def test_a_watch_that_a_rollback_ended_did_not_last_as_long_as_asked() -> None:
    """What the check says is what it looked at."""
    checks = {check.name: check for check in verify_run(RunDir(GOLDEN / "triggered")).checks}
    assert checks["window"].sentence.startswith("the watch was ended early")
    assert "compared" not in checks["verdict"].sentence


def test_a_notebook_of_another_run_is_refused(tmp_path: Path) -> None:
    """Stale output does not pass for new: a notebook carries run and journal digest."""
    run = make_run("completed", tmp_path)
    path = next(run.notebooks.glob("*.ipynb"))
    notebook = json.loads(path.read_bytes())
    notebook["metadata"]["ctp_runbook"]["run_id"] = "another"
    path.write_text(json.dumps(notebook))
    write_manifest(run, sealed=True)
    assert "stamped with run another" in verify_run(run).findings[0]


def test_a_cell_marked_completed_must_have_run(tmp_path: Path) -> None:
    """Papermill marks cells that never ran as completed; such a notebook is refused."""
    run = make_run("completed", tmp_path)
    path = next(run.notebooks.glob("*.ipynb"))
    notebook = json.loads(path.read_bytes())
    notebook["cells"][0]["execution_count"] = None
    path.write_text(json.dumps(notebook))
    write_manifest(run, sealed=True)
    assert "never executed" in verify_run(run).findings[0]


def _as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)
        bound.bind(path.name)


_STRANGE: dict[str, Callable[[Path], object]] = {
    "named pipe": os.mkfifo,
    "socket": _as_socket,
    "symbolic link": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("place", ["run.json", "journal.jsonl", "plan/watch.toml", "evidence/new"])
@pytest.mark.parametrize("kind", _STRANGE)
def test_what_no_run_writes_is_named_and_never_read(
    kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a pipe may take for ever, and a link leads anywhere: neither is opened."""
    run = make_run("completed", tmp_path)
    monkeypatch.chdir(run.path)
    (run.path / place).unlink(missing_ok=True)
    _STRANGE[kind](run.path / place)
    (finding,) = verify_run(run).findings
    assert f"{place}: a {kind}" in finding


@pytest.mark.parametrize("place", ["run.json", "journal.jsonl", "samples/samples.jsonl", "new"])
def test_a_file_without_end_is_named_and_never_read(place: str, tmp_path: Path) -> None:
    """A hole of a TiB takes no disk, and hours to read."""
    run = make_run("completed", tmp_path)
    (run.path / place).touch()
    os.truncate(run.path / place, 2**40)
    (finding,) = verify_run(run).findings
    assert f"{place}: {2**40} bytes; no run writes more than " in finding


def test_a_name_of_another_encoding_is_said_on_a_terminal(tmp_path: Path) -> None:
    """Of what is strange there, too: exit 2 with its name escaped, and never an internal error."""
    run = make_run("completed", tmp_path)
    os.mkfifo(os.fsencode(run.evidence) + b"/\xff.csv")
    words = [sys.executable, "-m", "ctp_runbook", "verify", "--run", str(run.path)]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 2, done.stderr
    assert b"\\udcff.csv: a named pipe" in done.stdout


def test_a_line_without_end_is_read_in_part(tmp_path: Path) -> None:
    """So long a line is no record, and nobody holds all of it."""
    run = make_run("completed", tmp_path)
    for path, said in ((run.journal, "its last line is torn"), (run.samples, "not a sample")):
        kept = path.read_bytes()
        os.truncate(path, 2**27 + len(kept))
        assert said in "\n".join(verify_run(run).findings)
        path.write_bytes(kept)


def test_a_folder_that_cannot_be_read_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell what lies there: a file that nobody listed, perhaps."""
    run = make_run("completed", tmp_path)
    (run.path / "closed").mkdir()
    scandir = os.scandir

    def refused(path: str | Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    (finding,) = verify_run(run).findings
    assert finding == f"{run.path}/closed: cannot be read: {os.strerror(errno.EACCES)}"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"1" * 6000,
        b"null",
        b"[]",
        b'{"a":"\\ud800"}',
        b"\0\xff",
    ],
    ids=["deep list", "deep object", "huge number", "null", "list", "surrogate", "bytes"],
)
def test_hostile_files_are_findings(data: bytes, tmp_path: Path) -> None:
    """Whatever stands in any one file of a run, verification ends with a finding about it."""
    run = make_run("completed", tmp_path)
    for path in [path for path in run.path.rglob("*") if path.is_file()]:
        kept = path.read_bytes()
        path.write_bytes(data)
        assert verify_run(run).findings, path
        path.write_bytes(kept)


def test_a_sample_of_no_calendar_is_a_finding(tmp_path: Path) -> None:
    """A moment beyond the year 9999 cannot be said in words."""
    run = make_run("completed", tmp_path)
    first, *others = run.samples.read_bytes().splitlines(keepends=True)
    sample = json.loads(first) | {"wall": 1e308}
    run.samples.write_bytes(json.dumps(sample).encode() + b"\n" + b"".join(others))
    assert any("samples.jsonl:1" in finding for finding in verify_run(run).findings)


def test_a_moment_of_no_clock_is_a_finding(tmp_path: Path) -> None:
    """So many nanoseconds that no seconds can be made of them, in a journal that was chained anew."""
    run = make_run("completed", tmp_path)
    lines = run.journal.read_bytes().splitlines()
    last = json.loads(lines[-1]) | {"mono_ns": 10**400}
    run.journal.write_bytes(
        b"\n".join([*lines[:-1], json.dumps(last, separators=(",", ":")).encode(), b""])
    )
    (finding,) = verify_run(run).findings
    assert f"journal.jsonl:{len(lines)}: " in finding


@pytest.mark.parametrize("gone", ["ctp_readiness_precheck.json", "kafka_topic_init_result.env"])
def test_mandatory_evidence_must_be_there(gone: str, tmp_path: Path) -> None:
    """RUNBOOK §7: without a gate's evidence the gate is not proved."""
    run = make_run("completed", tmp_path)
    (run.evidence / gone).unlink()
    write_manifest(run, sealed=True)
    assert gone in "\n".join(verify_run(run).findings)


def test_gates_by_other_commands_are_not_observed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is not ours writes no evidence: none is missing then, and verify says so."""
    monkeypatch.setattr(synthetic_runs, "_command", lambda spec: f"/opt/infra/{spec.name}.sh")
    run = make_run("completed", tmp_path)
    (run.evidence / "kafka_topic_init_result.env").unlink()
    write_manifest(run, sealed=True)
    report = verify_run(run)
    assert report.findings == ()
    (check,) = (check for check in report.checks if check.name == "gates")
    said = "init_kafka_topic is not observed by this tool: its command is not `ctp-runbook infra"
    assert check.ok
    assert check.sentence.startswith(f"the infra gates that passed left their evidence; {said}")
    for gate in GATES.values():
        (run.evidence / gate.file).unlink(missing_ok=True)
    write_manifest(run, sealed=True)
    report = verify_run(run)
    (check,) = (check for check in report.checks if check.name == "gates")
    assert (report.findings, check.sentence.count("is not observed by this tool")) == ((), 4)
    page = html.unescape(write_report(run).read_text())
    assert said in page


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_the_project_writes_is_known(kind: str, tmp_path: Path) -> None:
    """A kind of record that is not read back as it was written would refuse a true run."""
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    written = journal.append(EXAMPLES[kind])
    journal.close()
    assert read_journal(journal.path).records == (written,)


# --- a bare pair ------------------------------------------------------------------

GOOD_PAIRS = ("completed", "rolled_back", "drill")


def _pair(run: RunDir) -> tuple[Path, Path]:
    names = ("ctp_cutover_result.env", "ctp_rollback_result.env")
    return run.evidence / names[0], run.evidence / names[1]


@pytest.mark.parametrize("kind", GOOD_PAIRS)
def test_a_true_pair_passes_as_contract_only(kind: str, tmp_path: Path) -> None:
    """Two bare files can prove form, arithmetic and logic, and the report says no more."""
    report = verify_pair(*_pair(make_run(kind, tmp_path)), allow_cutover_rollback=True)
    assert report.findings == ()
    assert "contract only" in report.sentence


def test_keys_that_this_project_added_are_not_required(tmp_path: Path) -> None:
    """Evidence of earlier tools has the base keys only."""
    added = re.compile(
        rb"(CUTOVER_(RUN_ID|PLAN|JOURNAL|OUTCOME|TRADING|WATCH)|ROLLBACK_(RUN_ID|OUTCOME|"
        rb"TRIGGER_OBSERVED)|STEP_\d+_OUTPUT)\w*=.*\n"
    )
    for path in (pair := _pair(make_run("rolled_back", tmp_path))):
        path.write_bytes(added.sub(b"", path.read_bytes()))
    assert verify_pair(*pair, allow_cutover_rollback=True).findings == ()


BAD_PAIRS = {
    "dry run": ("CUTOVER_DRY_RUN=0", "CUTOVER_DRY_RUN=1", "a dry run never verifies"),
    "NaN seconds": (r"CUTOVER_DURATION_SECONDS=.*", "CUTOVER_DURATION_SECONDS=nan", "finite"),
    "infinite": (r"ROLLBACK_MAX_SECONDS=.*", "ROLLBACK_MAX_SECONDS=inf", "finite"),
    "negative": (r"STEP_1_DURATION_MS=.*", "STEP_1_DURATION_MS=-5", ">= 0"),
    "exit 137": (r"STEP_2_EXIT_CODE=0", "STEP_2_EXIT_CODE=137", "ok with exit code 137"),
    "failed step": (
        r"STEP_3_STATUS=ok\nSTEP_3_DURATION_MS=(\d+)\nSTEP_3_EXIT_CODE=0",
        r"STEP_3_STATUS=failed\nSTEP_3_DURATION_MS=\1\nSTEP_3_EXIT_CODE=137",
        "is failed with exit code 137",
    ),
    "eight seconds": (
        r"(?s)COMPLETED_UTC=.*?\nCUTOVER_DURATION_SECONDS=[\d.]+",
        "COMPLETED_UTC=2026-02-02T02:40:08.253000+00:00\nCUTOVER_DURATION_SECONDS=8.000",
        "the watch alone takes 30 minutes",
    ),
    "wrong sum": (r"DURATION_SECONDS=(\d)", r"DURATION_SECONDS=1\1", "DURATION_SECONDS says"),
    "unknown step": ("STEP_1_NAME=bootstrap_infra", "STEP_1_NAME=dance", "no such step"),
    "order": ("STEP_1_NAME=bootstrap_infra", "STEP_1_NAME=precheck", "order"),
    "total": ("TOTAL_STEPS=10", "TOTAL_STEPS=9", "the total says '9'"),
    "endless total": ("STEP_1_NAME=", "STEP_999999_NAME=", "step groups"),
    "missing": (r"CUTOVER_ENV=.*\n", "", "CUTOVER_ENV is missing"),
    "twice": (r"(CUTOVER_ENV=.*\n)", r"\1\1", "a second time"),
    "all echo": (r"_COMMAND=.*", "_COMMAND=echo done", "only echoes"),
    "echo in bash": (r"_COMMAND=.*", "_COMMAND=bash -lc 'echo rehearsal: ok'", "only echoes"),
    "success and a failed step": ("FAILED_STEP=\n", "FAILED_STEP=precheck\n", "FAILED_STEP"),
    "a rollback the other denies": (
        "TRIGGERED_ROLLBACK=false",
        "TRIGGERED_ROLLBACK=true",
        "differ",
    ),
    "another environment": ("ROLLBACK_ENV=.*", "ROLLBACK_ENV=elsewhere", "differ"),
    "no verdict": ("WATCH_VERDICT=PASSED", "WATCH_VERDICT=INCONCLUSIVE", "INCONCLUSIVE"),
    "yes": ("CUTOVER_SUCCESS=true", "CUTOVER_SUCCESS=yes", "expected true or false"),
}


@pytest.mark.parametrize(("pattern", "new", "said"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_a_pair_that_cannot_be_true_is_refused(
    pattern: str, new: str, said: str, tmp_path: Path
) -> None:
    """Form, arithmetic, order and cross rules each refuse, naming what they found."""
    pair = _pair(make_run("completed", tmp_path))
    for path in pair:
        path.write_text(re.sub(pattern, new, path.read_text()))
    report = verify_pair(*pair)
    assert said in "\n".join(report.findings)


BAD_ROLLBACKS = {
    "late": (r"MAX_SECONDS=.*", "MAX_SECONDS=1.000", "ROLLBACK_SLO_MET is true"),
    "slo": ("SLO_MET=true", "SLO_MET=false", "ROLLBACK_SLO_MET is false"),
    "failed": ("ROLLBACK_SUCCESS=true", "ROLLBACK_SUCCESS=false", "ROLLBACK_FAILED_STEP ''"),
    "start failed": (
        r"(STEP_5_STATUS)=ok\n(.*\n)STEP_5_EXIT_CODE=0",
        r"\1=failed\n\2STEP_5_EXIT_CODE=137",
        "start_previous_core_engine is failed with exit code 137",
    ),
    "not triggered": ("TRIGGERED=true", "TRIGGERED=false", "differ"),
    "before the cutover": (
        "ROLLBACK_STARTED_UTC=2026",
        "ROLLBACK_STARTED_UTC=2025",
        "before the cutover began",
    ),
}


@pytest.mark.parametrize(("pattern", "new", "said"), BAD_ROLLBACKS.values(), ids=BAD_ROLLBACKS)
def test_a_rollback_that_cannot_be_true_is_refused(
    pattern: str, new: str, said: str, tmp_path: Path
) -> None:
    """A rollback's success, its budget and its steps must agree."""
    pair = _pair(make_run("rolled_back", tmp_path))
    pair[1].write_text(re.sub(pattern, new, pair[1].read_text()))
    assert said in "\n".join(verify_pair(*pair, allow_cutover_rollback=True).findings)


def test_a_drill_needs_the_flag_and_the_budget(tmp_path: Path) -> None:
    """The forced drill's own verifier accepts it, and only it."""
    pair = _pair(make_run("drill", tmp_path))
    assert "--allow-cutover-rollback" in verify_pair(*pair).findings[0]
    late = verify_pair(*pair, allow_cutover_rollback=True, max_rollback_seconds=0.1)
    assert "--max-rollback-seconds 0.1" in late.findings[0]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"no equals\n", b"=\n", b"A=1"])
def test_what_is_no_env_file_is_refused(data: bytes, tmp_path: Path) -> None:
    """Any bytes at all give findings, never a crash."""
    one, two = tmp_path / "one.env", tmp_path / "two.env"
    one.write_bytes(data)
    assert not verify_pair(one, two).ok


@pytest.mark.slow
def test_a_long_journal_is_verified_in_seconds(tmp_path: Path) -> None:
    """300,000 records: at most 5 s and 300 MB on a quiet host, as a process of its own."""
    with synthetic_runs.telling(tmp_path, "long") as told:
        synthetic_runs.up_to_switch(told)
        for number in range(300_000):
            told.say("finding", severity="info", sentence=f"record {number}: {'x' * 80}")
        told.watch()
        told.close(Outcome.COMPLETED, trades="new")
    seal(told.run)
    code = (
        "import sys, time; began = time.monotonic()\n"
        "from ctp_runbook.cli.click_commands import cli\n"
        "cli.main(['verify', '--run', sys.argv[1]], standalone_mode=False)\n"
        "words = open('/proc/self/status').read().split()\n"
        "print(time.monotonic() - began, int(words[words.index('VmHWM:') + 1]) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(told.run.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-2].startswith("verification passed")
    seconds, megabytes = map(float, said[-1].split())
    print(f"{seconds:.1f} s, {megabytes:.0f} MB")
    assert megabytes <= 300
    assert seconds <= 5
