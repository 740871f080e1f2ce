"""What a notebook's ``parameters`` cell declares, and whether what is passed fits it.

papermill itself only warns about a parameter nobody declared, and about a notebook without a
``parameters`` cell: both then run with defaults. Here they are refused: by whoever runs a notebook,
and where papermill does it by itself, in the cell that begins.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctp_runbook.errors import NotebookError
from ctp_runbook.plan import parameters
from ctp_runbook.redact import Redactor

__all__ = [
    "Declared",
    "cells_that_ran",
    "check_parameters",
    "declared_parameters",
    "undeclared_names",
]

# How papermill begins the cell that it puts behind the tagged one, and we with it.
_INJECTED = "# Parameters\n"


@dataclass(frozen=True)
class Declared:
    """One line ``name: type = default`` of the ``parameters`` cell."""

    name: str
    type_name: str
    required: bool
    default: Any = None


def declared_parameters(nb: Any, *, where: str) -> dict[str, Declared]:
    """Return the parameters a notebook declares. Raises NotebookError where no cell is tagged."""
    tagged = [c for c in nb["cells"] if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(
            f"{where}: found {len(tagged)} cells tagged `parameters`; expected exactly one, with a "
            "line `name: type = default` each; tag the cell"
        )
    try:
        lines = ast.parse("".join(tagged[0]["source"])).body
    except SyntaxError as error:
        raise NotebookError(f"{where}: the `parameters` cell does not parse: {error}") from error
    return {declared.name: declared for line in lines for declared in _declared(line)}


def _declared(line: ast.stmt) -> Iterator[Declared]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
        default = ast.literal_eval(line.value) if line.value is not None else None
        yield Declared(line.target.id, ast.unparse(line.annotation), line.value is None, default)


def check_parameters(
    nb: Any, passed: Mapping[str, Any], *, where: str, redactor: Redactor
) -> dict[str, Any]:
    """Return what the cells will see: the defaults of ``nb``, replaced by what is ``passed``.

    Raises NotebookError with every problem of what is passed.
    """
    declared = declared_parameters(nb, where=where)
    problems = [f"{where}: {problem}" for problem in _wrong_names(declared, passed)]
    for name, parameter in declared.items():
        if name in passed:
            problems += _wrong_value(parameter, passed[name], where=where, redactor=redactor)
    if problems:
        raise NotebookError("\n".join(problems))
    return {name: passed.get(name, parameter.default) for name, parameter in declared.items()}


def _wrong_names(declared: Mapping[str, Declared], passed: Mapping[str, Any]) -> Iterator[str]:
    for name in passed:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            known = ", ".join(declared) or "none"
            yield f"parameter {name}: not declared; expected one of {known}{hint}; correct its name"
    for name, parameter in declared.items():
        if parameter.required and name not in passed:
            yield f"parameter {name}: missing; it has no default; pass it with -p {name} VALUE"


def _wrong_value(
    parameter: Declared, value: Any, *, where: str, redactor: Redactor
) -> Iterator[str]:
    wrong = parameters.of_type(parameter.name, value, declared=parameter.type_name)
    for problem in parameters.placed(wrong, where=where, redactor=redactor):
        yield problem.sentence
    if redactor.data({parameter.name: value}) != {parameter.name: value}:
        yield (
            f"{where}: parameter {parameter.name}: holds a secret; parameters are stored in the notebook twice; "
            "pass the path of a file that holds it"
        )


# --- from inside a cell -----------------------------------------------------------


def cells_that_ran() -> list[str]:
    """The code of the cells that ran before and with this one; none where no kernel runs it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    return [cell for cell in cells if isinstance(cell, str)]


def undeclared_names(cells: Iterable[str], *, known: Iterable[str]) -> list[str]:
    """Return the names that were passed and are neither ``known`` nor given by any other cell.

    `-p run_dri X` would leave ``run_dir`` blank, and the newest run would be switched.
    """
    passed: set[str] = set()
    others = set(known)
    for cell in cells:
        if cell.startswith(_INJECTED):
            passed = set(_assigned(cell))  # the last one: it may have been mended and run again
        else:
            others.update(_assigned(cell))
    return sorted(passed - others)


def _assigned(cell: str) -> Iterator[str]:
    try:
        tree = ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
