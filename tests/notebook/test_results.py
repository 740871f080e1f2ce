"""What a cell holds offers its frames, says in the notebook's own text which, and makes them late."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

from ctp_runbook import phases
from ctp_runbook.notebook import frames
from ctp_runbook.notebook.results import RunResult, WatchResult
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import read_samples
from tests.props.synthetic_runs import make_run

FOLDER = Path(__file__).parents[2] / "notebooks"
ROOMS: dict[str, Callable[..., RunResult]] = {
    "01_plan": phases.plan,
    "02_infra_gate": phases.infra_gates,
    "03_readiness_gate": phases.readiness,
    "04_switch": phases.switch,
    "05_watch": phases.watch,
    "06_rollback": phases.rollback,
    "07_verify": phases.verify,
}


def offered(room: str) -> dict[str, Any]:
    """The frames of what a notebook's function returns, by name."""
    hint = get_type_hints(ROOMS[room])["return"]
    *_, kind = get_args(hint) or [hint]  # of a phase that waits: what its looks come to
    return dict(
        inspect.getmembers(kind, lambda member: isinstance(member, cached_property)),
    )


def prose_of(room: str) -> str:
    """All Markdown of a notebook."""
    cells = json.loads((FOLDER / f"{room}.ipynb").read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def shown(room: str, run: RunDir) -> RunResult:
    """What a notebook's cell holds of this run."""
    if room == "01_plan":  # a plan is made of templates; its result is that of any step's room
        return phases.switch(str(run.path))
    return ROOMS[room](str(run.path))


@pytest.mark.parametrize("room", ROOMS)
def test_a_notebook_says_in_a_line_what_each_frame_is(room: str) -> None:
    """Each frame that its result offers, and none that it does not."""
    said = re.findall(r"^- `result\.(\w+)`: \S.{20,}\.$", prose_of(room), re.MULTILINE)
    assert sorted(said) == sorted(offered(room))


@pytest.mark.parametrize("room", ROOMS)
def test_every_column_that_a_notebook_names_is_there(room: str, tmp_path: Path) -> None:
    """What is written in code in a frame's line is a column of it."""
    result = shown(room, make_run("completed", tmp_path))
    lines = re.findall(r"^- `result\.(\w+)`: (.+)$", prose_of(room), re.MULTILINE)
    for name, line in lines:
        assert set(re.findall(r"`(\w+)`", line)) <= set(getattr(result, name).columns), line


@pytest.mark.parametrize("kind", ["completed", "rolled_back", "dry"])
@pytest.mark.parametrize("room", ROOMS)
def test_the_example_of_a_notebook_works(room: str, kind: str, tmp_path: Path) -> None:
    """Whatever it is that the run came to, and also where it did not come to that."""
    (example,) = re.findall(r"\*\*As data:\*\*.+?`(.+?)`\.\n", prose_of(room), re.DOTALL)
    result = shown(room, make_run(kind, tmp_path))
    assert eval(example, {"result": result}) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_every_frame_is_one_of_the_module_s(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame is made by the function of its name, when it is first asked for, and once."""
    result = shown(room, make_run("completed", tmp_path))
    for name in offered(room):
        made: list[str] = []
        asked = getattr(frames, name)

        def make(*of: Any, name: str = name, asked: Any = asked, made: Any = made) -> pd.DataFrame:
            made.append(name)
            frame: pd.DataFrame = asked(*of)
            return frame

        monkeypatch.setattr(frames, name, make)
        assert made == []
        assert getattr(result, name) is getattr(result, name)
        assert made == [name]


def test_a_watch_is_the_one_on_its_page(tmp_path: Path) -> None:
    """Verdicts are those of the page, points are what they were judged by, samples what is kept."""
    run = make_run("rolled_back", tmp_path)
    result = phases.watch(str(run.path))
    assert isinstance(result, WatchResult)
    page = repr(result)
    for row in result.verdicts.itertuples():
        assert f"{row.metric} {row.verdict}" in page
        assert str(row.why) in page
    assert set(result.points.metric) == set(result.verdicts.metric)
    assert set(result.samples.seq) == {sample.seq for sample in read_samples(run.samples)}


def test_results_say_no_more_than_their_page(tmp_path: Path) -> None:
    """Printed, a result is its page, whichever room it is of."""
    for room in ROOMS:
        result = shown(room, make_run("completed", tmp_path / room))
        assert repr(result) == result.page.text
