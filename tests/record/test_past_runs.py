"""Facts about record/past_runs.py: a row is what the evidence of the run says, and no folder that lies
beside it hides it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp_runbook.errors import JournalError, RunRefused
from ctp_runbook.model import Outcome
from ctp_runbook.record.past_runs import (
    PastRun,
    compare,
    past_run,
    past_runs,
    runs_of,
    seal_of,
    took,
)
from ctp_runbook.record.rundir import RunDir
from tests.props.many_runs import drill, many_drills
from tests.props.synthetic_runs import KINDS, Clock, make_run, telling, up_to_switch

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
NAMES = sorted(path.name for path in GOLDEN.iterdir())


def results_of(run: RunDir) -> dict[str, str]:
    """Both result files of a run."""
    lines = [
        line for path in run.evidence.glob("*_result.env") for line in path.read_text().splitlines()
    ]
    return dict(line.split("=", 1) for line in lines)


def says_the_same(row: PastRun, found: dict[str, str]) -> None:
    """The row and the evidence agree in each fact that both have."""
    assert row.outcome == found["CUTOVER_OUTCOME"]
    assert row.environment == found["CUTOVER_ENV"]
    assert row.plan_sha256 == found["CUTOVER_PLAN_SHA256"]
    assert row.is_dry == (found["CUTOVER_DRY_RUN"] == "1")
    downtime = row.downtime_seconds or 0.0
    assert downtime == float(found["CUTOVER_TRADING_DOWNTIME_SECONDS"])
    assert (row.rollback_seconds is not None) == (found["ROLLBACK_TRIGGERED"] == "true")
    assert (row.rollback_seconds or 0.0) == float(found["ROLLBACK_DURATION_SECONDS"])
    assert row.rollback_budget_seconds == float(found["ROLLBACK_MAX_SECONDS"])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_what_the_evidence_says(name: str) -> None:
    """Of every recorded run; and each of its records is whole and sealed."""
    run = RunDir(GOLDEN / name)
    row = past_run(run)
    says_the_same(row, results_of(run))
    assert row.seal == "sealed", row.seal_sentence
    assert len(row.steps) == 17


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_every_kind_of_run(kind: str, tmp_path: Path) -> None:
    """A drill, a dry run and the undoing of another are called so."""
    run = make_run(kind, tmp_path)
    row = past_run(run)
    says_the_same(row, results_of(run))
    modes = {"drill": "drill", "dry": "dry run", "undone": "undo"}
    assert row.mode == modes.get(kind, "cutover")
    assert row.seal == "sealed", row.seal_sentence


def test_runs_are_listed_oldest_first() -> None:
    """By when they began, whatever their names."""
    past = past_runs(GOLDEN)
    assert sorted(run.run_id for run in past.runs) == NAMES
    assert [run.started_utc for run in past.runs] == sorted(run.started_utc for run in past.runs)
    assert past.skipped == ()


def spoilt(name: str, spoil: Callable[[Path], object], outputs: Path) -> Path:
    """A copy of a recorded run, made something else."""
    path = outputs / name
    shutil.copytree(GOLDEN / "completed", path)
    spoil(path)
    return path


def cut(path: Path, least: int = 0) -> None:
    """The journal without its last bytes."""
    data = (path / "journal.jsonl").read_bytes()
    (path / "journal.jsonl").write_bytes(data[: max(len(data) // 2, least)])


def replaced(name: str, by: Callable[[Path], object]) -> Callable[[Path], object]:
    """Another thing in the place of one of the run's files."""

    def spoil(path: Path) -> None:
        (path / name).unlink()
        by(path / name)

    return spoil


def edited(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    """A file with another word in it."""

    def spoil(path: Path) -> None:
        data = (path / name).read_bytes()
        assert old in data
        (path / name).write_bytes(data.replace(old, new, 1))

    return spoil


def endless(path: Path) -> None:
    """A journal that is larger than any, of nothing."""
    path.touch()
    os.truncate(path, 10**12)


SKIPPED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (replaced("journal.jsonl", os.mkfifo), "its journal.jsonl is a named pipe (FIFO)"),
    "folder": (replaced("journal.jsonl", Path.mkdir), "its journal.jsonl is a directory"),
    "endless": (replaced("journal.jsonl", endless), "a journal of 1000000000000 bytes"),
    "link": (
        replaced("journal.jsonl", lambda path: path.symlink_to("/dev/zero")),
        "its journal.jsonl is a symbolic link",
    ),
    "dangling": (
        replaced("journal.jsonl", lambda path: path.symlink_to("nowhere")),
        "its journal.jsonl is a symbolic link",
    ),
    "no journal": (replaced("journal.jsonl", lambda path: None), "no journal.jsonl"),
    "empty": (replaced("journal.jsonl", Path.touch), "no first record"),
    "another format": (edited("journal.jsonl", b'"format":1', b'"format":7'), "of format 7"),
    "no format": (edited("journal.jsonl", b'"format":1,', b""), "without a format number"),
    "edited": (edited("journal.jsonl", b'"to":"READY"', b'"to":"CLOSED"'), "does not continue"),
    "no JSON": (
        replaced("journal.jsonl", lambda path: path.write_bytes(b"[" * 100_000 + b"\n")),
        "journal",
    ),
    "zeros": (replaced("journal.jsonl", lambda path: path.write_bytes(bytes(5_000))), "journal"),
}


@pytest.mark.parametrize(("spoil", "said"), SKIPPED.values(), ids=SKIPPED)
def test_what_cannot_be_read_is_told_and_hides_nothing(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """One sentence of it; the run beside it is listed."""
    shutil.copytree(GOLDEN / "late", tmp_path / "late")
    path = spoilt("spoilt", spoil, tmp_path)
    past = past_runs(tmp_path)
    assert [run.run_id for run in past.runs] == ["late"]
    (skipped,) = past.skipped
    assert skipped.path == str(path)
    assert said in skipped.why
    assert "\n" not in skipped.why
    assert str(path) not in skipped.why  # it stands beside it
    with pytest.raises(JournalError):
        compare(RunDir(path), RunDir(tmp_path / "late"))


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    """Files, other folders, pipes, sockets by name; and a link to a run that is listed anyhow."""
    shutil.copytree(GOLDEN / "late", tmp_path / "late")
    (tmp_path / "latest").symlink_to("late")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "calibration-1").mkdir()
    os.mkfifo(tmp_path / "pipe")
    name = os.fsdecode(b"\xff\n\x1b[2J")
    shutil.copytree(GOLDEN / "drill", tmp_path / name)
    past = past_runs(tmp_path)
    assert [run.run_id for run in past.runs] == ["\\udcff\n\\x1b[2J", "late"]
    assert [Path(each.path).name for each in past.skipped] == ["latest"]
    json.dumps([run.path for run in past.runs]).encode()


def test_a_torn_last_line_is_a_run_that_is_not_over(tmp_path: Path) -> None:
    """Its crash is what one looks for: listed as it stood, with what its manifest says against it."""
    path = spoilt("torn", cut, tmp_path)
    (run,) = past_runs(tmp_path).runs
    assert (run.outcome, run.ended_utc, run.seal) == ("", "", "open")
    assert run.path == str(path)


def test_a_run_under_way_has_no_downtime_yet(tmp_path: Path) -> None:
    """Nor has it an end; its durations are not known, and never zero."""
    with telling(tmp_path, "live", clock=Clock()) as story:
        up_to_switch(story)
        story.state("WATCHING")
    row = past_run(story.run)
    assert (row.state, row.outcome, row.rollback_seconds) == ("WATCHING", "", None)
    assert row.downtime_seconds is not None  # the new runner was started
    with telling(tmp_path, "rolling", clock=Clock()) as story:
        up_to_switch(story)
        story.state("ROLLING_BACK")
        story.say("step_started", step="stop_new_strategy_runner", phase="rollback")
    assert past_run(story.run).downtime_seconds is None
    assert past_run(story.run).is_down is True


SEALS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "as it was": (lambda path: None, "sealed", "verify --run"),
    "no manifest": (replaced("manifest.json", lambda path: None), "open", "no manifest.json"),
    "pipe": (replaced("manifest.json", os.mkfifo), "differs", "no plain file"),
    "no JSON": (
        replaced("manifest.json", lambda path: path.write_bytes(b"{")),
        "differs",
        "manifest",
    ),
    "edited": (edited("manifest.json", b'"size": ', b'"size": 1'), "differs", "edited"),
    "a file is gone": (replaced("run.json", lambda path: None), "differs", "run.json is not what"),
    "a file is a pipe": (replaced("run.json", os.mkfifo), "differs", "run.json is not what"),
    "longer": (
        lambda path: (path / "run.json").write_bytes(b" " + (path / "run.json").read_bytes()),
        "differs",
        "run.json is not what",
    ),
    "result edited": (
        edited("evidence/ctp_cutover_result.env", b"CUTOVER_SUCCESS=true", b"CUTOVER_SUCCESS=TRUE"),
        "differs",
        "evidence/ctp_cutover_result.env is not what",
    ),
}


@pytest.mark.parametrize(("spoil", "seal", "said"), SEALS.values(), ids=SEALS)
def test_the_seal_is_what_can_be_seen_at_once(
    spoil: Callable[[Path], object], seal: str, said: str, tmp_path: Path
) -> None:
    """A word, and why; nothing is waited for, and nothing outside the run is looked at."""
    found, sentence = seal_of(RunDir(spoilt("run", spoil, tmp_path)))
    assert found == seal
    assert said in sentence


def test_an_environment_s_runs(tmp_path: Path) -> None:
    """Blank: those of the newest run that did something; twins are one; a wrong name is answered."""
    drill(tmp_path, 1)
    make_run("dry", tmp_path)
    for name in ("late", "dry"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    runs = past_runs(tmp_path).runs
    assert runs_of(runs)[0] == "rehearsal"
    assert [run.run_id for run in runs_of(runs, "rehearsal")[1]] == ["dry", "late"]
    assert len(runs_of(runs, "synthetic")[1]) == 2
    assert len(runs_of(runs, runs[-1].environment)[1]) == 2
    with pytest.raises(RunRefused, match="no run of environment prod can be read there: found reh"):
        runs_of(runs, "prod")
    with pytest.raises(RunRefused, match="found no run at all"):
        runs_of(())
    with pytest.raises(RunRefused, match="no folder of runs can be read there"):
        past_runs(tmp_path / "nowhere")


def test_what_did_not_end_well_counts_against_a_bound(tmp_path: Path) -> None:
    """A rollback that failed or was not validated took longer than any; a dry run took no time."""
    many_drills(tmp_path, 3)
    drill(tmp_path, 4, outcome=Outcome.ROLLBACK_FAILED)
    drill(tmp_path, 5, outcome=Outcome.ROLLED_BACK_UNVALIDATED)
    drill(tmp_path, 6, outcome=Outcome.ROLLED_BACK_LATE)
    make_run("dry", tmp_path)
    make_run("aborted", tmp_path)
    found = {
        what: (len(seconds), failed) for what, seconds, failed in took(past_runs(tmp_path).runs)
    }
    assert found["rollbacks"] == (4, 2)
    assert found["cutovers"] == (6, 0)
    assert found["bootstrap_infra"] == (7, 0)
    assert found["precheck"] == (6, 1)


def test_two_runs_are_held_against_each_other() -> None:
    """What was planned otherwise by its path; steps and metrics in pairs; nothing between a run and
    itself."""
    late, completed = RunDir(GOLDEN / "late"), RunDir(GOLDEN / "completed")
    compared = compare(completed, late)
    facts = {each.what: (each.a, each.b) for each in compared.plan}
    assert facts["max_rollback_seconds"] == ("60", "10")
    assert facts["force_rollback"] == ("False", "True")
    assert "environment" not in facts
    assert [a.name == b.name == name for name, a, b in compared.steps if a and b] == [True] * 17
    assert len([*compared.metrics]) == len(compared.a.metrics)
    assert compare(late, late).plan == ()
