"""Facts about cli/runs.py: a run is looked at, steered, told and judged again from any terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctp_runbook.run import steer
from ctp_runbook.run.launch import RunOptions, create_run
from tests.props.command_line import typed
from tests.props.plan_fixtures import make_plan
from tests.props.synthetic_runs import completed_run, dry_run


def test_status_tells_the_end_and_the_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is the run's own."""
    run = completed_run(tmp_path)
    assert typed("status", "--run", run.path) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"run {run.run_id}: COMPLETED; ")
    assert head.endswith(f"conducted; {run.path}")
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
