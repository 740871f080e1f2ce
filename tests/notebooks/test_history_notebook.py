"""08_history, executed by papermill on a folder of runs; and what its cell says where there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from ctp_runbook.errors import InputError, RunRefused
from ctp_runbook.notebook.engine import execute_notebook
from ctp_runbook.phases import OUTPUTS_VARIABLE, past_runs
from tests.props.many_runs import many_drills
from tests.props.notebook_tools import cell_states, outputs_text, read
from tests.props.synthetic_runs import make_run

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "runs"
SOURCE = ROOT / "notebooks" / "08_history.ipynb"
LARGEST_BYTES = 2_000_000


def executed(outputs: Path, out: Path, **parameters: str) -> str:
    """The HTML of the notebook's outputs, once it is executed on a folder of runs."""
    execute_notebook(SOURCE, out, parameters={"outputs": str(outputs), **parameters})
    nbformat.validate(nbformat.read(out, as_version=4))  # type: ignore[no-untyped-call]
    assert set(cell_states(out)) == {"completed"}
    assert out.stat().st_size < LARGEST_BYTES
    return "".join(
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in read(out)["cells"]
        for output in cell.get("outputs", [])
    )


def test_recorded_runs_are_shown_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headline, two pictures, four tables of pandas; a pipe in a journal's place is told."""
    monkeypatch.chdir(ROOT)
    outputs = tmp_path / "outputs"
    shutil.copytree(GOLDEN, outputs)
    (outputs / "hostile").mkdir()
    os.mkfifo(outputs / "hostile" / "journal.jsonl")
    html = executed(outputs, tmp_path / "08.ipynb")
    assert html.count("data:image/png;base64,") == 2
    assert html.count('class="dataframe"') == 4
    for column in ("needed_runs", "tightest_margin_percent", "order_latency_p99_ms", "75%"):
        assert column in html
    text = outputs_text(tmp_path / "08.ipynb")
    assert "✗ Rollbacks of all twins fail or are late" in text
    assert "its journal.jsonl is a named pipe" in text


def test_sixty_drills_prove_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % confident, as it stands in the issue; of the environment that is named."""
    monkeypatch.chdir(ROOT)
    many_drills(tmp_path / "outputs", 60)
    shutil.copytree(GOLDEN / "late", tmp_path / "outputs" / "late")
    executed(tmp_path / "outputs", tmp_path / "08.ipynb", environment="synthetic")
    text = outputs_text(tmp_path / "08.ipynb")
    assert "✓ Rollbacks of synthetic end in time: 95 % confident that 95 % of rollbacks end" in text


def test_a_dry_run_alone_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing took time, and every cell completes all the same."""
    monkeypatch.chdir(ROOT)
    make_run("dry", tmp_path / "outputs")
    html = executed(tmp_path / "outputs", tmp_path / "08.ipynb")
    assert html.count("data:image/png;base64,") == 0
    assert "No rollback of synthetic was measured" in outputs_text(tmp_path / "08.ipynb")


def test_without_a_run_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, before any cell below is tried."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(OUTPUTS_VARIABLE, str(tmp_path))
    with pytest.raises(RunRefused, match="no run of any environment can be read there"):
        past_runs()
    with pytest.raises(InputError, match="environment"):
        past_runs(environment=True)  # type: ignore[arg-type]
