"""Parameters are checked before a kernel starts: names, presence, types, secrets."""

from __future__ import annotations

from typing import Any

import pytest

from ctp_runbook.errors import NotebookError
from ctp_runbook.notebook.parameters import (
    check_parameters,
    declared_parameters,
    undeclared_names,
)
from ctp_runbook.redact import Redactor
from tests.props.notebook_tools import notebook

SECRET = Redactor.of(["hunter2hunter2"])
CELL = 'run_dir: str = ""  # the run\ngo: bool = False  # yes\nminutes: float = 1.5  # long\ncount: int = 2  # n'


def check(given: dict[str, Any], *, cell: str = CELL) -> dict[str, Any]:
    """What the cells of a notebook with this parameters cell will see of ``given``."""
    return check_parameters(notebook(parameters=cell), given, where="n.ipynb", redactor=SECRET)


@pytest.mark.parametrize(
    "given",
    [{}, {"go": True}, {"minutes": 2}, {"minutes": 2.5, "count": 3, "run_dir": "outputs/x"}],
    ids=str,
)
def test_what_fits_passes(given: dict[str, Any]) -> None:
    """Defaults stand in for what is not given; an int is a float."""
    check(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rundir": "x"}, r"parameter rundir: not declared; .*did you mean run_dir"),
        (
            {"go": "False"},
            r"parameter go: found text 'False'; expected True or False \(bool\); pass `-p go False`",
        ),
        ({"go": 1}, r"parameter go: found number 1; expected True or False \(bool\)"),
        ({"count": True}, "parameter count: found True; expected a whole number"),
        ({"minutes": True}, "parameter minutes: found True; expected a number"),
        ({"run_dir": None}, r"parameter run_dir: found None; expected text \(str\)"),
        ({"run_dir": "x?pw=hunter2hunter2"}, "parameter run_dir: holds a secret"),
        ({"run_dir": "redis://u:p4ssw0rd@h/"}, "parameter run_dir: holds a secret"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    """A misspelt name, a wrong type and a secret are each refused with the name and the remedy."""
    with pytest.raises(NotebookError, match=said):
        check(given)


def test_a_required_parameter_must_be_given() -> None:
    """A parameter without a default has none to fall back on."""
    cell = "run_dir: str  # the run"
    with pytest.raises(NotebookError, match="parameter run_dir: missing; it has no default"):
        check({}, cell=cell)
    check({"run_dir": "x"}, cell=cell)


def test_all_problems_are_told_at_once() -> None:
    """Three wrong parameters are three lines of one refusal."""
    with pytest.raises(NotebookError) as refused:
        check({"rundir": "x", "go": "yes", "count": 1.5})
    assert len(str(refused.value).splitlines()) == 3


def test_a_notebook_without_the_tag_is_refused() -> None:
    """papermill would warn and run the defaults."""
    with pytest.raises(NotebookError, match="found 0 cells tagged `parameters`"):
        declared_parameters(notebook(parameters=None), where="n.ipynb")


def test_a_parameters_cell_that_does_not_parse_is_refused() -> None:
    """Broken Python in the parameters cell is a refusal, not a traceback."""
    with pytest.raises(NotebookError, match="does not parse"):
        declared_parameters(notebook(parameters="run_dir: str ="), where="n.ipynb")


def test_cells_see_the_defaults_and_what_was_passed() -> None:
    """Every declared name has a value."""
    assert check({"go": True}) == {"run_dir": "", "go": True, "minutes": 1.5, "count": 2}


CELLS: dict[str, tuple[list[str], list[str]]] = {
    "no kernel": ([], []),
    "what is declared": (["go: bool = False", "# Parameters\ngo = True\n"], []),
    "what is known": (["# Parameters\nrun_dir = 'x'\n"], []),
    "a slip": (
        ["go: bool = False", "# Parameters\ngoo = True\nrun_dri = 'x'\n"],
        ["goo", "run_dri"],
    ),
    "a slip that was mended": (["# Parameters\ngoo = True", "# Parameters\nrun_dir = 'x'"], []),
    "declared by a tuple": (["a, b = 1, 2", "# Parameters\na = 5\n"], []),
    "declared after it": (["# Parameters\na = 5\n", "a = 1"], []),
    "a cell that does not parse": (["%magic", "# Parameters\na = \n"], []),
}


@pytest.mark.parametrize(("cells", "names"), CELLS.values(), ids=CELLS)
def test_a_cell_knows_what_papermill_passed_in_vain(cells: list[str], names: list[str]) -> None:
    """Of the names in the injected cell, those that no other cell and no notebook of ours gives."""
    assert undeclared_names(cells, known=("run_dir",)) == names
