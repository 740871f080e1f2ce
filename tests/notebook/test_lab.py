"""The room JupyterLab is given: a copy of the notebooks with settings of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ctp_runbook.notebook.checkout import find_notebooks
from ctp_runbook.notebook.lab import lab_copy, rehearsal_parameters, run_going_on
from ctp_runbook.notebook.runner import NOTEBOOKS
from tests.props.synthetic_runs import completed_run


def parameters_of(room: Path) -> dict[str, Any]:
    """What 01's parameters cell sets."""
    notebook = nbformat.read(room / "01_plan.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    (source,) = (c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    found: dict[str, Any] = {}
    exec(source, found)
    return found


def test_the_copy_may_be_executed_and_the_original_stays(tmp_path: Path) -> None:
    """Seven notebooks, 01 filled in, the committed ones byte for byte as they were."""
    before = {path.name: path.read_bytes() for path in find_notebooks().glob("*.ipynb")}
    room = lab_copy(
        tmp_path, parameters={"cutover_template": "\"a 'b' # c.env\"", "execute": "True"}
    )
    assert sorted(path.stem for path in room.glob("*.ipynb")) == list(NOTEBOOKS)
    given = parameters_of(room)
    assert (given["cutover_template"], given["execute"], given["run_dir"]) == (
        "a 'b' # c.env",
        True,
        "",
    )
    assert {path.name: path.read_bytes() for path in find_notebooks().glob("*.ipynb")} == before


def test_without_parameters_the_copy_is_a_dry_run(tmp_path: Path) -> None:
    """Nothing is executed unless it is asked for in so many words."""
    assert parameters_of(lab_copy(tmp_path, parameters={}))["execute"] is False


def test_each_room_is_a_new_one(tmp_path: Path) -> None:
    """What somebody executed is never written over."""
    assert lab_copy(tmp_path, parameters={}) != lab_copy(tmp_path, parameters={})


def test_the_room_asks_nobody_for_news(tmp_path: Path) -> None:
    """Announcements and the extension catalogue are off, out of the file browser's sight."""
    (settings,) = lab_copy(tmp_path, parameters={}).glob(".*/config/labconfig")
    page = json.loads((settings / "page_config.json").read_text())
    assert page["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"] is True
    defaults = json.loads((settings / "default_setting_overrides.json").read_text())
    assert defaults["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_templates_below_here_are_told_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path an operator can read, and that leads there from where the lab was started."""
    monkeypatch.chdir(tmp_path)
    given = rehearsal_parameters(tmp_path / "twin" / "a.env", Path("/elsewhere/b.env"))
    assert given == {
        "cutover_template": '"twin/a.env"',
        "rollback_template": '"/elsewhere/b.env"',
        "execute": "True",
    }


def test_a_run_that_is_over_keeps_no_twin_up(tmp_path: Path) -> None:
    """Only a run somebody conducts goes on; a finished one, or another's, does not."""
    run = completed_run(tmp_path)
    environment = json.loads(run.run_json.read_text())["environment"]
    assert run_going_on(tmp_path, environment=environment) is None
    assert run_going_on(tmp_path / "none", environment=environment) is None


def test_a_journal_that_cannot_be_read_hides_no_other_run(tmp_path: Path) -> None:
    """Leaving the lab does not stumble over what somebody else left in outputs/."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("not a journal\n")
    assert run_going_on(tmp_path, environment="any") is None
