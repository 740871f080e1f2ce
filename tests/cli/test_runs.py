"""Facts about cli/runs.py: a run is looked at, steered, told and judged again from any terminal."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from ctp_runbook.cli.options import follow_to_end
from ctp_runbook.model import Outcome
from ctp_runbook.record.evidence import finalise, kept_open, read_manifest, write_manifest
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import attend, steer
from ctp_runbook.run.launch import RunOptions, create_run
from tests.props.command_line import typed
from tests.props.plan_fixtures import make_plan
from tests.props.synthetic_runs import completed_run, dry_run, rolled_back_run


def test_status_tells_the_end_and_the_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is the run's own."""
    run = completed_run(tmp_path)
    assert typed("status", "--run", run.path) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"run {run.run_id}: COMPLETED; ")
    assert head.endswith(f" UTC; {run.path}")
    assert "conducted" not in head  # what is over needs nobody
    assert 0 < len(lines) <= 8


def test_status_of_a_planned_run_says_what_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what discards it; no look arms it."""
    monkeypatch.chdir(tmp_path)
    run = create_run(
        make_plan(tmp_path),
        RunOptions(execute=True, outputs=tmp_path, accept_unmeasured="none yet"),
    )
    assert typed("status", "--run", run.path) == 0
    assert "was planned and never started" in capsys.readouterr().out
    assert typed("abort", "--run", run.path, "--reason", "not today") == 0


@pytest.fixture
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote a run of these tests is the test itself, which lives: count it as gone."""
    monkeypatch.setattr(attend, "_is_attended", lambda history, world: False)
    monkeypatch.setattr(attend, "_UNATTENDED_SECONDS", 0.1)


@pytest.mark.usefixtures("unattended")
@pytest.mark.parametrize("make", [completed_run, rolled_back_run], ids=["completed", "rolled back"])
def test_resume_finishes_a_run_that_is_over(
    make: Callable[..., RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between its last record and its manifest: the evidence comes to be what it was."""
    run = make(tmp_path)
    finalise(run)
    before = {path: path.read_bytes() for path in (run.manifest, *run.evidence.glob("ctp_*.env"))}
    for path in before:
        path.unlink()
    assert typed("resume", "--run", run.path) == 0
    assert f"its evidence is written now: {run.evidence}" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert typed("resume", "--run", run.path) == 2
    assert "is over" in capsys.readouterr().err


@pytest.mark.usefixtures("unattended")
def test_resume_writes_a_copy_that_is_missing_and_seals_nothing_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was in its way is gone; a manifest that was sealed since is as it was."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    run = completed_run(tmp_path, plan={"cutover_evidence_output": str(blocked / "cutover.env")})
    write_manifest(run, sealed=True)
    sealed = run.manifest.read_bytes()
    assert typed("resume", "--run", run.path) == 2
    assert "cannot be written" in capsys.readouterr().err
    blocked.unlink()
    assert typed("resume", "--run", run.path) == 0
    assert (blocked / "cutover.env").is_file()
    assert run.manifest.read_bytes() == sealed


@pytest.mark.usefixtures("unattended")
def test_resume_seals_what_a_killed_viewer_left_unsealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status and verify say that it is not sealed; what was listed stays as it was listed."""
    run = completed_run(tmp_path)
    finalise(run)
    write_manifest(run, sealed=False)
    listed = read_manifest(run.manifest.read_bytes()).files
    (run.notebooks / "05_watch.ipynb").write_text("{}")
    with kept_open(run, tell=pytest.fail):
        unsealed = run.manifest.read_bytes()
        typed("status", "--run", run.path)
        assert "sealed" not in capsys.readouterr().out
        run.manifest.unlink()  # as if it were killed: nothing is sealed behind it
    run.manifest.write_bytes(unsealed)
    typed("status", "--run", run.path)
    assert "it is not sealed, for whoever executed its notebooks was" in capsys.readouterr().out
    typed("verify", "--run", run.path)
    said = capsys.readouterr().out
    assert "✓ manifest: every file as listed in manifest.json, which is not sealed" in said
    (run.plan / "note.md").write_text("by somebody else\n")
    assert typed("resume", "--run", run.path) == 2
    assert "what no run writes: plan/note.md" in capsys.readouterr().err
    assert run.manifest.read_bytes() == unsealed
    (run.plan / "note.md").unlink()
    assert typed("resume", "--run", run.path) == 0
    manifest = read_manifest(run.manifest.read_bytes())
    assert manifest.sealed
    assert manifest.files.keys() - listed.keys() == {"notebooks/05_watch.ipynb"}
    assert typed("resume", "--run", run.path) == 2  # it is over, and whole


@pytest.mark.usefixtures("unattended")
def test_an_edited_manifest_is_not_sealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seal upon it would hide that."""
    run = completed_run(tmp_path)
    finalise(run)
    write_manifest(run, sealed=False)
    edited = run.manifest.read_bytes().replace(b'"size": ', b'"size": 1', 1)
    for data, said in ((edited, "was edited"), (b'{"sealed": false}', "is no manifest")):
        run.manifest.write_bytes(data)
        assert typed("resume", "--run", run.path) == 2
        assert said in capsys.readouterr().err
        assert run.manifest.read_bytes() == data


@pytest.mark.usefixtures("unattended")
@pytest.mark.parametrize("what", ["manifest", "copy"])
def test_the_viewer_s_exit_code_is_the_outcome_s(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever became of the evidence, which is told with the one command."""
    (tmp_path / "file").write_text("")
    named = str(tmp_path / "file" / "x.env") if what == "copy" else ""
    run = rolled_back_run(tmp_path, plan={"cutover_evidence_output": named})
    if what == "copy":
        finalise(run)
    assert follow_to_end(run, quiet=True) == Outcome.ROLLED_BACK_IN_BUDGET.exit_code
    said = capsys.readouterr()
    assert f"then `ctp-runbook resume --run {run.path}` writes it" in said.err
    assert "evidence: " not in said.out


@pytest.mark.parametrize("name", ["hold", "resume", "abort", "rollback"])
def test_a_request_says_who_asks_and_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is put by run/steer.py; a run that is not new is not followed."""
    run = dry_run(tmp_path)
    calls: list[tuple[str, str, str, str]] = []

    def put(run: object, request: str, *, by: str, reason: str) -> object:
        calls.append((str(getattr(run, "path", "")), request, by, reason))
        return type(
            "Steered", (), {"sentence": "asked", "is_new": False, "run": run, "exit_code": 0}
        )

    monkeypatch.setattr(steer, "steer", put)
    assert typed(name, "--run", run.path, "--by", "ops", "--reason", "a look") == 0
    assert calls == [(str(run.path), name, "ops", "a look")]
    assert capsys.readouterr().out == "asked\n"


def test_a_request_that_was_not_obeyed_has_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that asked for a hold must not go on as if there were one."""
    run = dry_run(tmp_path)
    said = steer.Steered(run, "not obeyed: it rolls back", exit_code=7)
    monkeypatch.setattr(steer, "steer", lambda *_, **__: said)
    assert typed("hold", "--run", run.path) == 7


def test_a_request_to_a_run_that_is_over_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and the sentence says what it is."""
    run = dry_run(tmp_path)
    assert typed("hold", "--run", run.path) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_report_is_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the newest run, where none is named."""
    run = dry_run(tmp_path)
    assert typed("report", "--outputs", tmp_path) == 0
    assert capsys.readouterr().out == f"{run.report}\n"
    assert run.report.is_file()


def test_rejudge_tells_a_person_and_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same judgement on the terminal and as JSON."""
    run = completed_run(tmp_path)
    assert typed("rejudge", "--run", run.path, "--output-json", tmp_path / "j.json") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"run {run.run_id}: watch of ")
    assert told.endswith("\n")
    assert not told.endswith("\n\n")
    assert json.loads((tmp_path / "j.json").read_bytes())["run_id"] == run.run_id


# --- many runs --------------------------------------------------------------------

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
SCHEMAS = Path(__file__).parents[2] / "infra" / "schemas"


def test_runs_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Outcome, downtime, rollback beside its budget, margin, record; the order is that of time."""
    assert typed("runs", "--outputs", GOLDEN) == 0
    told = capsys.readouterr()
    head, *lines = told.out.splitlines()
    assert head.split() == ["run", "as", "outcome", "downtime", "rollback", "margin", "record"]
    rows = {line.split()[0]: line for line in lines}
    assert rows.keys() == {path.name for path in GOLDEN.iterdir()}
    assert "COMPLETED" in rows["completed"]
    assert "7.6 s" in rows["completed"]
    assert "86 % order_latency_p99_ms" in rows["completed"]
    assert "35.0 of 10 s" in rows["late"]
    assert "34.5 s, none trades" in rows["failed"]
    assert all(line.endswith("✓ sealed") for line in lines)
    assert told.err == ""


def test_runs_for_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document of the committed form, with every step and what was skipped."""
    shutil.copytree(GOLDEN / "late", tmp_path / "late")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{}")
    assert typed("runs", "--outputs", tmp_path, "--json") == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    jsonschema.validate(found, json.loads((SCHEMAS / "runs.json").read_bytes()))
    assert [run["outcome"] for run in found["runs"]] == ["ROLLED_BACK_LATE"]
    assert len(found["runs"][0]["steps"]) == 17
    assert found["skipped"][0]["path"] == str(tmp_path / "broken")
    assert typed("runs", "--outputs", tmp_path) == 0
    assert f"! skipped {tmp_path / 'broken'}: no journal.jsonl" in capsys.readouterr().err


def test_no_runs_are_told_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder has none; one that is not there is a mistake."""
    assert typed("runs", "--outputs", tmp_path) == 0
    assert capsys.readouterr().out == f"no run under {tmp_path}\n"
    assert typed("runs", "--outputs", tmp_path / "nowhere") == 2
    assert "name one by --outputs" in capsys.readouterr().err


def test_runs_of_one_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """By its digest; of a plan without a run it is none."""
    assert typed("runs", "--outputs", GOLDEN, "--json") == 0
    every = json.loads(capsys.readouterr().out)["runs"]
    sha256 = every[0]["plan_sha256"]
    assert typed("runs", "--outputs", GOLDEN, "--json", "--plan-sha256", sha256) == 0
    chosen = json.loads(capsys.readouterr().out)["runs"]
    assert chosen == [run for run in every if run["plan_sha256"] == sha256]
    assert 0 < len(chosen) < len(every)
    assert typed("runs", "--outputs", GOLDEN, "--plan-sha256", "0" * 64) == 0
    assert capsys.readouterr().out.startswith("no run under")


def test_a_page_of_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What each printed; a host that was not asked and an answer nobody can read are told, and a report
    is linked where it lies."""
    hosts = tmp_path / "hosts"
    (hosts / "host 1").mkdir(parents=True)
    for host, name in (("host 1", "completed"), ("host-2", "triggered")):
        assert typed("runs", "--outputs", GOLDEN, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        told["runs"] = [run for run in told["runs"] if run["run_id"] == name]
        (hosts / f"{host}.json").write_text(json.dumps(told))
    (hosts / "host 1" / "completed.html").write_text("")
    (hosts / "host-3.json").write_text("")
    (hosts / "host-<4>.json").write_text("{")
    page = tmp_path / "fleet.html"
    assert typed("runs", "--hosts", hosts, "--html", page) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "1 of 4 hosts COMPLETED" in text
    assert "host-2: ROLLED_BACK_IN_BUDGET, the old stack; 2 not reached" in text
    assert "href='hosts/host%201/completed.html'" in text
    assert "triggered.html" not in text
    assert "host-3: it was not asked" in text
    assert "host-&lt;4&gt;: its answer cannot be read" in text


@pytest.mark.parametrize("words", [("--hosts", "."), ("--html", "page.html")])
def test_a_page_is_of_hosts(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is anything alone."""
    assert typed("runs", *words) == 2
    assert "--hosts and --html go together" in capsys.readouterr().err


def test_a_page_of_no_host_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There would be nothing to see on it."""
    assert typed("runs", "--hosts", tmp_path, "--html", tmp_path / "page.html") == 2
    assert "no HOST.json is there" in capsys.readouterr().err


def test_hundreds_of_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And an answer is there before one has lost patience: some milliseconds each."""
    for number in range(200):
        shutil.copytree(GOLDEN / "drill", tmp_path / f"run-{number:03d}")
    began = time.process_time()
    assert typed("runs", "--outputs", tmp_path) == 0
    assert len(capsys.readouterr().out.splitlines()) == 201
    assert time.process_time() - began < 20


def test_two_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """By name or by folder: the ends, what was planned otherwise, steps and metrics."""
    assert typed("compare", "completed", GOLDEN / "late", "--outputs", GOLDEN) == 0
    told = capsys.readouterr().out
    lines = {" ".join(line.split()) for line in told.splitlines()}
    assert "outcome COMPLETED ROLLED_BACK_LATE ≠" in lines
    assert "max_rollback_seconds A 60" in lines
    assert "restore_previous_binaries – not_run ✓ ok 12.0 s" in lines
    assert any(line.startswith("order_latency_p99_ms ✓ PASSED") for line in lines)
    # Two long commands are shown where they part.
    ours, theirs = [line for line in lines if "--endpoint redis=" in line or "59781" in line][:2]
    assert ours != theirs
    assert typed("compare", "late", "late", "--outputs", GOLDEN) == 0
    assert "Both were planned alike" in capsys.readouterr().out


def test_two_runs_are_compared_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """One document of the committed form."""
    assert typed("compare", GOLDEN / "drill", GOLDEN / "failed", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, json.loads((SCHEMAS / "compare.json").read_bytes()))
    assert (found["a"]["outcome"], found["b"]["outcome"]) == (
        "ROLLED_BACK_IN_BUDGET",
        "ROLLBACK_FAILED",
    )


WRONG_PAIRS = {
    "none": ((), "name two runs, A and B; 0 were named"),
    "one": (("late",), "1 were named"),
    "three": (("late", "late", "late"), "3 were named"),
    "nobody": (("late", "nobody"), "neither a directory nor the id of a run"),
    "blank": (("late", ""), "blank"),
    "nul": (("late", "a\0b"), "NUL character"),
    "no run": (("late", "."), "journal"),
}


@pytest.mark.parametrize(("words", "said"), WRONG_PAIRS.values(), ids=WRONG_PAIRS)
def test_what_is_no_pair_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and a sentence."""
    assert typed("compare", "--outputs", GOLDEN, *words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""
