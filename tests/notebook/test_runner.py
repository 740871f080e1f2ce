"""All seven notebooks headless: what the run is does not depend on what becomes of a notebook."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from ctp_runbook.errors import PlanRefused
from ctp_runbook.model import Outcome
from ctp_runbook.notebook.forked_kernel import fork_server
from ctp_runbook.notebook.runner import NOTEBOOKS, run_all
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import RunOptions, read_history
from ctp_runbook.verify.files import manifest_findings
from tests.props.notebook_tools import cell_states, outputs_text, read, wait_until

pytestmark = pytest.mark.twin

ROOT = Path(__file__).parents[2]
OPS = ROOT / "configs" / "ops"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Close the fork server that the first run starts."""
    yield
    fork_server().close()


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A copy of the seven notebooks, to be broken."""
    return Path(shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks"))


def dry_run(
    room: Path, monkeypatch: pytest.MonkeyPatch, notebooks: Path | None = None
) -> tuple[int, RunDir, list[str]]:
    """A headless dry run of the shipped templates: exit code, its directory, what it said."""
    monkeypatch.chdir(ROOT)
    said: list[str] = []
    code = run_all(
        cutover_template=OPS / "ctp_cutover.template.env",
        rollback_template=OPS / "ctp_rollback_drill.template.env",
        options=RunOptions(run_dir=room / "run"),
        notebooks_dir=notebooks,
        on_progress=said.append,
    )
    return code, RunDir(room / "run"), said


def replace_cell(notebooks: Path, name: str, source: str) -> None:
    """Put ``source`` where the notebook displays its result."""
    path = notebooks / f"{name}.ipynb"
    nb = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nb.cells[3].source = source
    nbformat.write(nb, path)  # type: ignore[no-untyped-call]


def statuses(run: RunDir) -> dict[str, str]:
    """How each executed notebook says it ended."""
    return {
        name: read(run.notebooks / f"{name}.ipynb")["metadata"]["ctp_runbook"]["status"]
        for name in NOTEBOOKS
    }


def test_a_dry_run_completes_all_seven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven valid notebooks, exit 0, a line each, a report and a seal over everything."""
    code, run, said = dry_run(tmp_path, monkeypatch)
    assert code == 0
    assert set(statuses(run).values()) == {"completed"}
    assert all(line.startswith("DRY RUN ") for line in said)
    notebooks, refusals = said[1:8], list(read_history(run).would_refuse)
    assert [line.split()[2] for line in notebooks] == ["✓"] * 7
    *told, outcome, report = (line.removeprefix("DRY RUN ") for line in said[8:])
    assert told == refusals
    assert outcome.startswith("DRY_RUN_OK: dry run: nothing was done; --execute would refuse")
    assert report == f"report: {run.report}"
    assert run.report.is_file()
    assert list(manifest_findings(run)) == []
    for name in NOTEBOOKS:
        path = run.notebooks / f"{name}.ipynb"
        nbformat.validate(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]
        assert path.stat().st_size < 2_000_000


def test_every_page_of_a_dry_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can take a page of a dry run for a page of a real one."""
    _, run, _ = dry_run(tmp_path, monkeypatch)
    for name in NOTEBOOKS:
        assert "DRY RUN" in outputs_text(run.notebooks / f"{name}.ipynb"), name


def test_after_a_failed_notebook_the_next_are_not_run(
    tmp_path: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 05 they say NOT RUN and why; 06 and 07 always look; the exit code is not 0."""
    replace_cell(notebooks, "02_infra_gate", "raise ValueError('gate closed')")
    code, run, said = dry_run(tmp_path, monkeypatch, notebooks)
    found = statuses(run)
    assert code == 2
    assert found["02_infra_gate"] == "failed"
    assert [found[n] for n in NOTEBOOKS[2:5]] == ["not_run"] * 3
    assert [found[n] for n in NOTEBOOKS[5:]] == ["completed"] * 2
    assert set(cell_states(run.notebooks / "04_switch.ipynb")) == {"not_run"}
    assert "02_infra_gate failed" in outputs_text(run.notebooks / "04_switch.ipynb")
    assert "DRY RUN – 04_switch not run: 02_infra_gate failed" in said


LOST = {
    "its kernel": ("03_readiness_gate", "import os; os.kill(os.getpid(), 9)"),
    # With it every kernel dies, also those made ready, or started, for the notebooks to come.
    "the fork server": ("02_infra_gate", "import os; os.kill(os.getppid(), 9)"),
    "the fork server at once": ("01_plan", "import os; os.kill(os.getppid(), 9)"),
}


@pytest.mark.parametrize(("name", "cell"), LOST.values(), ids=LOST)
def test_a_lost_kernel_does_not_stop_the_others(
    name: str, cell: str, tmp_path: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook whose kernel dies is LOST; the next ones attach to the run all the same."""
    replace_cell(notebooks, name, cell)
    _, run, _ = dry_run(tmp_path, monkeypatch, notebooks)
    found = statuses(run)
    assert found.pop(name) == "lost"
    assert set(found.values()) == {"completed"}
    assert read_history(run).outcome is Outcome.DRY_RUN_OK


def test_a_refused_plan_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--execute on the shipped templates is refused before there is a run or a notebook."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(PlanRefused):
        run_all(
            cutover_template=OPS / "ctp_cutover.template.env",
            rollback_template=OPS / "ctp_rollback_drill.template.env",
            options=RunOptions(run_dir=tmp_path / "run", execute=True),
        )
    assert not (tmp_path / "run").exists()


def test_a_runner_told_to_end_leaves_seven_true_notebooks(tmp_path: Path, notebooks: Path) -> None:
    """SIGTERM in the middle: the one that ran is LOST, those after it NOT RUN, none is missing."""
    started = tmp_path / "started"
    replace_cell(
        notebooks,
        "02_infra_gate",
        f"import time; open({str(started)!r}, 'w').close(); time.sleep(300)",
    )
    runner = subprocess.Popen(
        [
            *(sys.executable, "-m", "ctp_runbook", "run", "--notebooks", str(notebooks)),
            *("--run-dir", str(tmp_path / "run")),
        ],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
    )
    wait_until(started.exists)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=240) == 143
    found = statuses(RunDir(tmp_path / "run"))
    assert found["01_plan"] == "completed"
    assert found["02_infra_gate"] == "lost"
    assert [found[name] for name in NOTEBOOKS[2:]] == ["not_run"] * 5
