"""One real rehearsal, looked at from every side: what `make rehearsal` leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir, newest_run
from ctp_runbook.rehearsal.stack import down
from ctp_runbook.run.launch import read_history
from ctp_runbook.verify.run import verify_run
from tests.props.cutover_tools import ROOT
from tests.props.run_mutants import Mutant, file_mutants, sampled, survivors

pytestmark = pytest.mark.timeout(300)
NOTEBOOKS = (
    "01_plan",
    "02_infra_gate",
    "03_readiness_gate",
    "04_switch",
    "05_watch",
    "06_rollback",
    "07_verify",
)
_SECRET = "correct-horse-battery-staple"


def command(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`ctp-runbook WORDS`, with its output."""
    argv = [sys.executable, "-m", "ctp_runbook", *words]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def rehearsal(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RunDir, subprocess.CompletedProcess[str]]:
    """A rehearsal with a watch of 10 s, and what it said; a secret stands in its environment."""
    outputs = tmp_path_factory.mktemp("rehearsal")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REHEARSAL_PASSWORD", _SECRET)
            said = command("rehearse", "--watch-seconds", "10", "--outputs", str(outputs))
    finally:  # one that did not end in time leaves its twin
        for twin in (outputs / "twins").glob("*"):
            down(twin)
    return newest_run(outputs), said


@pytest.fixture
def run(rehearsal: tuple[RunDir, object]) -> RunDir:
    """The rehearsal's run."""
    return rehearsal[0]


def test_it_completes_and_says_so(
    rehearsal: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """Exit 0, the outcome in plain words, `verification passed`, and where to look."""
    run, said = rehearsal
    assert said.returncode == 0, said.stdout + said.stderr
    for sentence in (
        "COMPLETED: The new generation trades",
        "at no instant two generations able to trade",
        "verification passed",
        str(run.report),
        "twin down: every process proved gone",
    ):
        assert sentence in said.stdout
    assert read_history(run).outcome is Outcome.COMPLETED


def test_seven_notebooks_carry_the_run(run: RunDir) -> None:
    """Each is executed whole, stamped with run id and journal digest, and below 2 MB."""
    assert tuple(sorted(path.stem for path in run.notebooks.glob("*.ipynb"))) == NOTEBOOKS
    for name in NOTEBOOKS:
        path = run.notebooks / f"{name}.ipynb"
        text = path.read_text(encoding="utf-8")
        assert run.run_id in text
        assert "NOT RUN" not in text
        assert path.stat().st_size < 2_000_000
    watch = json.loads((run.notebooks / "05_watch.ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in watch["cells"] for out in cell.get("outputs", [])]
    assert any({"image/png", "image/svg+xml", "text/html"} & set(out["data"]) for out in outputs)


def test_no_secret_is_anywhere(run: RunDir) -> None:
    """The value of a PASSWORD variable is in no file of the run."""
    found = [p for p in run.path.rglob("*") if p.is_file() and _SECRET.encode() in p.read_bytes()]
    assert found == []


def test_the_command_verifies_run_and_pair(run: RunDir) -> None:
    """`verify --run` recomputes; a bare pair is checked and called contract only."""
    whole = command("verify", "--run", str(run.path))
    assert (whole.returncode, "verification passed" in whole.stdout) == (0, True), whole.stdout
    pair = command(
        "verify",
        "--cutover-evidence-file",
        str(run.evidence / "ctp_cutover_result.env"),
        "--rollback-evidence-file",
        str(run.evidence / "ctp_rollback_result.env"),
        "--max-rollback-seconds",
        "180",
    )
    assert pair.returncode == 0, pair.stdout
    assert "contract only" in pair.stdout


def test_a_run_under_another_name_is_foreign(run: RunDir, tmp_path: Path) -> None:
    """A run directory that was renamed does not verify."""
    copy = RunDir(tmp_path / "another-run")
    shutil.copytree(run.path, copy.path)
    assert not verify_run(copy).ok


@pytest.mark.parametrize("engine", [(), ("--engine", "ctp_runbook")], ids=["plain", "ours"])
def test_papermill_itself_runs_a_notebook(
    run: RunDir, tmp_path: Path, engine: tuple[str, ...]
) -> None:
    """`papermill notebooks/05_watch.ipynb out.ipynb -p run_dir …` works, with either engine."""
    out = tmp_path / "out.ipynb"
    argv = [sys.executable, "-m", "papermill", "notebooks/05_watch.ipynb", str(out)]
    done = subprocess.run(
        [*argv, "-p", "run_dir", str(run.path), *engine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "PASSED" in out.read_text(encoding="utf-8")


def _edits(run: RunDir) -> Iterator[Mutant]:
    names = [
        path.relative_to(run.path).as_posix()
        for path in sorted(run.path.rglob("*"))
        if path.is_file()
        and path.suffix in (".jsonl", ".json", ".env", ".ipynb")
        and run.control not in path.parents
    ]
    return file_mutants(run, names)


def _left(run: RunDir, mutants: Iterable[Mutant]) -> list[str]:
    passed = survivors(run, mutants, passes=lambda one: verify_run(one).ok)
    return [f"{one.file}: {one.edit}" for one in passed]


def test_a_seeded_part_of_all_single_edits_is_refused(run: RunDir, tmp_path: Path) -> None:
    """100 edits of journal, evidence, samples and notebooks: `verify --run` refuses each."""
    copy = RunDir(tmp_path / run.run_id)
    shutil.copytree(run.path, copy.path)
    assert verify_run(copy).ok
    assert _left(copy, sampled(_edits(copy), most=100, seed=7)) == []


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_every_single_edit_is_refused(
    run: RunDir, tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """All of them, which takes hours; ``CTP_RUNBOOK_MUTANTS=N`` tries a seeded N. The numbers are
    kept."""
    copy = RunDir(tmp_path / run.run_id)
    shutil.copytree(run.path, copy.path)
    possible = sum(1 for _ in _edits(copy))
    tried = min(possible, int(os.environ.get("CTP_RUNBOOK_MUTANTS", possible)))
    # All of them are made one after the other: at once they are some ten GiB.
    drawn = _edits(copy) if tried == possible else sampled(_edits(copy), most=tried, seed=7)
    left = _left(copy, drawn)
    record_table(
        "mutants",
        [
            "single edits of one rehearsal: journal, samples, evidence, manifest, seven notebooks",
            f"possible {possible}  tried {tried}  survived {len(left)}",
            *left,
        ],
    )
    assert left == []


def test_engines_as_found_are_cut_over_on_the_whole_plane(tmp_path: Path) -> None:
    """In seven notebooks, with the gates of production; what was not proved is in the report."""
    outputs, short = tmp_path / "o", ("--close-only-seconds", "2", "--stop-seconds", "2")
    words = ("--engine", "as-found", "--watch-seconds", "15", *short, "--outputs", str(outputs))
    try:
        said = command("rehearse", *words)
    finally:
        for twin in (outputs / "twins").glob("*"):
            down(twin)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "at no instant two generations able to trade" in said.stdout
    run = newest_run(outputs)
    assert read_history(run).outcome is Outcome.COMPLETED
    assert "NOT PROVED" in run.report.read_text()
