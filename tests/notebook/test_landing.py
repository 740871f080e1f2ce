"""Facts about notebook/landing.py: what the page at which one begins says, and what it survives."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import caller
from ctp_runbook.host.viewers import Look
from ctp_runbook.model import Outcome
from ctp_runbook.notebook import landing, phases
from ctp_runbook.notebook.checkout import ROOM_VARIABLE, remember_run, remembered_run
from ctp_runbook.notebook.landing import landing_page, next_notebook
from ctp_runbook.record import charge
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir, viewers_path
from tests.props.many_runs import many_drills
from tests.props.synthetic_runs import (
    aborted_run,
    completed_run,
    dry_run,
    make_run,
    rolled_back_run,
    telling,
    up_to_switch,
)

HOST = caller.host_name()
EVIL = "<img src=x onerror=alert(1)>'\"&"


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's folder, and this process a kernel in it."""
    room = tmp_path / "lab"
    (room / ".lab").mkdir(parents=True)
    monkeypatch.setenv(ROOM_VARIABLE, str(room))
    monkeypatch.setenv(phases.OUTPUTS_VARIABLE, str(tmp_path / "outputs"))
    monkeypatch.setenv(phases.HOME_VARIABLE, str(Path.cwd()))
    return room


def watching_run(outputs: Path, name: str = "watching", **header: Any) -> RunDir:
    """A run that watches, conducted by this process as far as can be told."""
    with telling(outputs, name, host=HOST, **header) as story:
        up_to_switch(story)
        story.state("WATCHING")
        story.say("watch_started", minutes=30.0, metrics=["order_latency_p99_ms"])
    return story.run


def test_no_run_yet(tmp_path: Path) -> None:
    """It says how to begin, and makes nothing."""
    page = landing_page(tmp_path / "outputs", room=None)
    assert "No run yet" in page.text
    assert "begin in: 01_plan" in page.text
    assert "href='./01_plan.ipynb'" in page.html
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", ["a file", "a dead link", "not to be written to"])
def test_a_broken_folder_of_runs_is_said_to_be(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there, and the remedy; never that there is no run yet."""
    outputs = tmp_path / "outputs"
    if kind == "a file":
        outputs.write_text("")
    elif kind == "a dead link":
        outputs.symlink_to("nowhere")
    else:
        outputs.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    text = landing_page(outputs, room=None).text
    assert "✗ The folder of runs is broken" in text
    assert "--outputs, or mend it" in text
    assert "No run yet" not in text


@pytest.mark.parametrize("lost", ["", "NOBODY CONDUCTS it"])
def test_the_run_under_way_is_said_first(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose it is and who trades, or that it is lost; and where to go on."""
    run = watching_run(tmp_path)
    monkeypatch.setattr(landing, "lost_sentence", lambda run, history: lost)
    text = landing_page(tmp_path, room=None).text
    said = f"✗ REAL RUN WATCHING: {lost}" if lost else "ℹ REAL RUN WATCHING: The new stack trades; "
    assert text.startswith(said)
    assert f"run: {run.run_id}" in text
    assert f"planned by: operator on {HOST}" in text
    assert "who looks: nobody in a notebook" in text
    assert "go on in: 05_watch" in text


def test_the_run_of_another_host_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    """A folder of runs may be shared by hosts: its clock is another."""
    with telling(tmp_path, "elsewhere", host="elsewhere") as story:
        up_to_switch(story)
    text = landing_page(tmp_path, room=None).text
    assert "is not over on elsewhere: SWITCHING" in text


ENDED = {
    "completed": (completed_run, "The new stack trades", "07_verify"),
    "rolled back": (rolled_back_run, "Rolled back in time", "06_rollback"),
    "aborted": (aborted_run, "Ended before the switch", "02_infra_gate"),
    "dry": (dry_run, "Dry run", "a new run begins in: 01_plan"),
}


@pytest.mark.parametrize(("make", "said", "where"), ENDED.values(), ids=ENDED)
def test_the_last_run_s_end_and_what_to_do(
    make: Any, said: str, where: str, tmp_path: Path
) -> None:
    """In the run's own words, with the notebook that says more."""
    make(tmp_path)
    text = landing_page(tmp_path, room=None).text
    assert "No run is under way" in text
    assert said in text
    assert where in text


def test_every_outcome_has_something_to_do() -> None:
    """And a notebook that is there."""
    assert set(landing._AFTERWARDS) == set(Outcome)
    names = {path.stem for path in Path("notebooks").glob("*.ipynb")}
    assert {name for name, _ in landing._AFTERWARDS.values()} <= names
    assert set(landing._NOTEBOOKS.values()) <= names


def test_each_state_has_its_notebook(tmp_path: Path) -> None:
    """At every record of a run that was rolled back: never one whose room is over."""
    records = read_journal(rolled_back_run(tmp_path).journal).records
    names = [next_notebook(History.of(records[: at + 1])) for at in range(len(records))]
    assert list(dict.fromkeys(names)) == [
        *("02_infra_gate", "03_readiness_gate", "04_switch", "05_watch", "06_rollback"),
    ]


def test_what_others_wrote_moves_nothing_on_the_page(room: Path, tmp_path: Path) -> None:
    """Names of runs, people and reasons are text, and a link leads to a file below the page."""
    outputs = tmp_path / "outputs"
    run = watching_run(outputs, created_by=EVIL)
    evil = outputs / "javascript:alert('x')<b>"
    shutil.copytree(rolled_back_run(tmp_path / "other", created_by=EVIL).path, evil)
    (evil / "report.html").write_text("<p>a report</p>")
    look = Look(viewers_path(run), by=EVIL, where="<script>")
    html = landing_page(outputs, room=room).html
    look.close()
    assert "<img" not in html
    assert "<script" not in html
    assert "<b>" not in html
    assert "href='./reports/javascript%3Aalert%28%27x%27%29%3Cb%3E.html'" in html
    assert (room / "reports" / f"{evil.name}.html").read_text() == "<p>a report</p>"


def test_a_report_is_a_copy_of_the_last_one_written(room: Path, tmp_path: Path) -> None:
    """What is written to in JupyterLab is not the record."""
    run = completed_run(tmp_path)
    run.report.write_text("first")
    landing_page(tmp_path, room=room)
    copy = room / "reports" / f"{run.run_id}.html"
    copy.write_text("scribbled")
    os.utime(run.report, (time.time() + 5, time.time() + 5))
    landing_page(tmp_path, room=room)
    assert (copy.read_text(), run.report.read_text()) == ("first", "first")


def test_a_run_that_vanishes_meanwhile_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken away between one look and the next: it is named, and the rest is shown."""
    kept, gone = completed_run(tmp_path), watching_run(tmp_path)
    real = charge.unfinished_runs

    def take_away(*args: Any, **kwargs: Any) -> list[RunDir]:
        found = real(*args, **kwargs)
        shutil.rmtree(gone.path)
        return found

    monkeypatch.setattr(landing, "unfinished_runs", take_away)
    text = landing_page(tmp_path, room=None).text
    assert f"Run {gone.run_id} cannot be read" in text
    assert f"{kept.run_id}  " in text


def test_of_two_hundred_runs_the_last_ten_are_shown(tmp_path: Path) -> None:
    """The rest is not even read."""
    old = [RunDir(tmp_path / f"old-{number:03d}") for number in range(188)]
    drills = many_drills(tmp_path, 12)
    for run in old:
        run.path.mkdir()
        shutil.copy(drills[0].run_json, run.path)
        run.journal.write_text("torn")
    runs = [*old, *drills]
    for at, run in enumerate(runs):
        os.utime(run.run_json, (at, at))
    text = landing_page(tmp_path, room=None).text
    assert sum(run.run_id in text for run in runs) == 10
    assert runs[-1].run_id in text
    assert "skipped" not in text


# --- what a lab remembers ---------------------------------------------------------


def test_a_lab_s_notebooks_keep_to_their_run(room: Path, tmp_path: Path) -> None:
    """The first they showed, whatever is made after it; the page says so, and names the newer."""
    outputs = tmp_path / "outputs"
    first = make_run("completed", outputs)
    assert phases.rollback().page.run_dir == str(first.path)
    newer = make_run("dry", outputs)
    os.utime(newer.run_json, (time.time() + 60, time.time() + 60))
    page = phases.rollback().page
    assert page.run_dir == str(first.path)
    assert f"run: {first.run_id}, to which the notebooks of this lab belong" in page.text
    assert f"A newer run is there: {newer.run_id}" in page.text
    assert phases.rollback(newer.path).page.run_dir == str(newer.path)
    assert remembered_run() == first


def test_outside_of_a_lab_nothing_is_remembered(tmp_path: Path) -> None:
    """A blank run_dir is the newest run then, as ever, and the page has no word of a lab."""
    run = make_run("completed", tmp_path / "outputs")
    remember_run(run)
    assert remembered_run() is None
    assert "lab" not in phases.rollback(run.path).page.text


def test_a_run_that_is_gone_is_exchanged_for_no_other(room: Path, tmp_path: Path) -> None:
    """Its notebooks say so, and what to do."""
    outputs = tmp_path / "outputs"
    first, other = make_run("completed", outputs), make_run("dry", outputs)
    remember_run(first)
    shutil.rmtree(first.path)
    with pytest.raises(RunRefused, match=r"is gone from .* in 01_plan"):
        phases.rollback()
    assert phases.rollback(other.path).page.run_dir == str(other.path)


def test_a_lab_takes_the_run_under_way(room: Path, tmp_path: Path) -> None:
    """One that was opened while a run goes on belongs to it; one that has a run keeps to that."""
    outputs = tmp_path / "outputs"
    over, running = make_run("completed", outputs), watching_run(outputs)
    remember_run(over)
    page = landing_page(outputs, room=room)
    assert remembered_run() == running
    assert f"run of these notebooks: {running.run_id}" in page.text
    running_too = watching_run(outputs, "another")
    landing_page(outputs, room=room)
    assert remembered_run() == running
    assert running_too.run_id in landing_page(outputs, room=room).text


@pytest.mark.parametrize("found", ["relative/run", "", "x" * 5000, None])
def test_a_memory_that_says_nothing_is_none(found: str | None, room: Path) -> None:
    """Cut, blank, or a folder in its place."""
    memory = room / ".lab" / "run"
    if found is None:
        memory.mkdir()
    else:
        memory.write_text(found)
    assert remembered_run() is None
    remember_run(RunDir(Path("/a/run")))


def test_who_looks_gets_company_and_each_a_view(room: Path, tmp_path: Path) -> None:
    """Where somebody looks in 05_watch, its kernel is busy: a copy is offered, and then another."""
    run = watching_run(tmp_path)
    assert "a view of your own" not in landing_page(tmp_path, room=room).text
    looks = [Look(viewers_path(run), by="anna", where="05_watch")]
    text = landing_page(tmp_path, room=room).text
    assert "who looks: anna in 05_watch since" in text
    assert "with a view of your own: 05_watch-2" in text
    own = room / "05_watch-2.ipynb"
    assert own.read_bytes() == Path("notebooks/05_watch.ipynb").read_bytes()
    own.write_text("executed")
    looks.append(Look(viewers_path(run), by="bert", where="05_watch-2"))
    assert "with a view of your own: 05_watch-3" in landing_page(tmp_path, room=room).text
    for look in looks:
        look.close()
    landing_page(tmp_path, room=room)
    assert own.read_text() == "executed"
