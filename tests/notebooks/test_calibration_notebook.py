"""00_calibrate, executed by papermill on a calibration; and what its cell says where there is none."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from ctp_runbook.errors import InputError, JournalError
from ctp_runbook.notebook.calibrate import draw
from ctp_runbook.phases import OUTPUTS_VARIABLE, calibration
from tests.props.calibrated import calibrated_folder
from tests.props.notebook_tools import cell_states, outputs_text, read

ROOT = Path(__file__).parents[2]
LARGEST_BYTES = 2_000_000


def test_the_calibration_is_drawn_beside_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell completes: the headline, the picture, and four tables of pandas."""
    monkeypatch.chdir(ROOT)
    made, folder = calibrated_folder(tmp_path)
    assert draw(folder) == str(folder.notebook)
    nbformat.validate(nbformat.read(folder.notebook, as_version=4))  # type: ignore[no-untyped-call]
    assert set(cell_states(folder.notebook)) == {"completed"}
    assert folder.notebook.stat().st_size < LARGEST_BYTES
    shown = outputs_text(folder.notebook)
    assert made.sentence in shown
    html = "".join(
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in read(folder.notebook)["cells"]
        for output in cell.get("outputs", [])
    )
    assert html.count("data:image/png;base64,") == 1
    assert html.count('class="dataframe"') == 4
    for column in ("limit_in_unit", "median_in_unit", "rolled_back_by", "value_in_unit"):
        assert column in html


def test_without_a_calibration_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence; whoever opens it first knows what to type."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(OUTPUTS_VARIABLE, str(tmp_path))
    with pytest.raises(JournalError, match="make one with `ctp-runbook calibrate --minutes"):
        calibration()
    with pytest.raises(InputError, match="calibration_dir"):
        calibration(True)  # type: ignore[arg-type]
