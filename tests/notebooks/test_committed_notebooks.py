"""The committed notebooks, executed: headless, by plain papermill, and twice over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ctp_runbook.notebook.document import FOOTER_TAG
from tests.props.notebook_tools import cell_states, outputs_text, read
from tests.props.synthetic_runs import make_run

ROOT = Path(__file__).parents[2]
# Those of a run: 00 looks at none, 08 at all.
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]*.ipynb"))
LARGEST_BYTES = 2_000_000


def papermill(source: Path, out: Path, *, cwd: Path = ROOT, **parameters: str) -> None:
    """A plain papermill call, as anybody may make it, wherever they are."""
    given = [word for name, value in parameters.items() for word in ("-p", name, value)]
    subprocess.run(
        [*(sys.executable, "-m", "papermill", "--no-progress-bar"), str(source), str(out), *given],
        cwd=cwd,
        check=True,
        capture_output=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of ``ctp-runbook run`` on the shipped templates."""
    run_dir = tmp_path_factory.mktemp("outputs") / "run"
    command = [sys.executable, "-m", "ctp_runbook", "run", "--run-dir", str(run_dir)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    return run_dir


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_headless_every_cell_completes(source: Path, dry_run: Path) -> None:
    """Valid, small, completed, with a footer that names the run."""
    path = dry_run / "notebooks" / source.name
    nbformat.validate(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]
    assert set(cell_states(path)) == {"completed"}
    assert path.stat().st_size < LARGEST_BYTES
    footer = read(path)["cells"][-1]
    assert FOOTER_TAG in footer["metadata"]["tags"]
    assert "run `run`" in "".join(footer["source"])


def test_plain_papermill_shows_a_finished_run(dry_run: Path, tmp_path: Path) -> None:
    """``papermill notebooks/05_watch.ipynb OUT -p run_dir RUN`` needs nothing of ours but the package,
    and no directory to be in."""
    source = ROOT / "notebooks" / "05_watch.ipynb"
    papermill(source, tmp_path / "out.ipynb", cwd=tmp_path, run_dir=str(dry_run))
    assert "DRY RUN" in outputs_text(tmp_path / "out.ipynb")


def test_plain_papermill_makes_a_dry_run_where_it_is_told(tmp_path: Path) -> None:
    """01 alone, with a directory for its run, is a whole dry run."""
    run_dir = tmp_path / "run"
    out = tmp_path / "out.ipynb"
    papermill(ROOT / "notebooks" / "01_plan.ipynb", out, run_dir=str(run_dir))
    assert (run_dir / "journal.jsonl").is_file()
    assert (run_dir / "evidence" / "ctp_cutover_result.env").is_file()


def test_a_watch_of_half_an_hour_fits_its_notebook(tmp_path: Path) -> None:
    """The plot and the verdicts of a whole window stay below two megabytes."""
    run = make_run("completed", tmp_path / "outputs")
    out = tmp_path / "out.ipynb"
    papermill(ROOT / "notebooks" / "05_watch.ipynb", out, run_dir=str(run.path))
    assert out.stat().st_size < LARGEST_BYTES
    assert any("image/png;base64" in html for html in _html(read(out)))


def _html(nb: dict[str, Any]) -> list[str]:
    outputs = [o for c in nb["cells"] for o in c.get("outputs", [])]
    return ["".join(o.get("data", {}).get("text/html", "")) for o in outputs]


def test_no_code_stands_in_two_notebooks() -> None:
    """Beyond showing the result and raising its failure, notebooks share no code."""
    cells = Counter(
        "".join(cell["source"])
        for path in NOTEBOOKS
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    )
    assert [source for source, times in cells.items() if times > 1] == [
        "result",
        "result.raise_if_failed()",
    ]


def test_jupyter_knows_the_fork_provisioner() -> None:
    """Installed, any Jupyter may start its kernels through it."""
    env = {**os.environ, "JUPYTER_DEFAULT_PROVISIONER_NAME": "ctp-runbook-fork"}
    code = (
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel()\n"
        "print(type(manager.provisioner).__name__)\n"
        "client.stop_channels(); manager.shutdown_kernel(now=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=60
    )
    assert done.stdout.decode().strip() == "ForkProvisioner"
