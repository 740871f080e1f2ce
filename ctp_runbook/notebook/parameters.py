"""What a notebook's ``parameters`` cell declares, and whether what is passed fits it.

papermill itself only warns about a parameter nobody declared, and about a notebook without a
``parameters`` cell: both then run with defaults. Here they are refused.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctp_runbook.errors import NotebookError
from ctp_runbook.plan import parameters
from ctp_runbook.redact import Redactor

__all__ = ["Declared", "check_parameters", "declared_parameters", "effective_parameters"]


@dataclass(frozen=True)
class Declared:
    """One line ``name: type = default`` of the ``parameters`` cell."""

    name: str
    type_name: str
    required: bool
    default: Any = None


def declared_parameters(nb: Any, *, where: str) -> dict[str, Declared]:
    """The parameters a notebook declares. Raises NotebookError when it has no tagged cell."""
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
    return {found.name: found for line in lines for found in _declared(line)}


def _declared(line: ast.stmt) -> Iterator[Declared]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
        default = ast.literal_eval(line.value) if line.value is not None else None
        yield Declared(line.target.id, ast.unparse(line.annotation), line.value is None, default)


def check_parameters(
    nb: Any, given: Mapping[str, Any], *, where: str, redactor: Redactor
) -> dict[str, Declared]:
    """Check ``given`` against what ``nb`` declares; raises NotebookError with every problem."""
    declared = declared_parameters(nb, where=where)
    problems = [f"{where}: {problem}" for problem in _wrong_names(declared, given)]
    for name, one in declared.items():
        if name in given:
            problems += _wrong_value(one, given[name], where=where, redactor=redactor)
    if problems:
        raise NotebookError("\n".join(problems))
    return declared


def _wrong_names(declared: Mapping[str, Declared], given: Mapping[str, Any]) -> Iterator[str]:
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            known = ", ".join(declared) or "none"
            yield f"parameter {name}: not declared; expected one of {known}{hint}; correct its name"
    for name, one in declared.items():
        if one.required and name not in given:
            yield f"parameter {name}: missing; it has no default; pass it with -p {name} VALUE"


def _wrong_value(one: Declared, value: Any, *, where: str, redactor: Redactor) -> Iterator[str]:
    wrong = parameters.of_type(one.name, value, declared=one.type_name)
    for problem in parameters.placed(wrong, where=where, redactor=redactor):
        yield problem.sentence
    if redactor.data({one.name: value}) != {one.name: value}:
        yield (
            f"{where}: parameter {one.name}: holds a secret; parameters are stored in the notebook twice; "
            "pass the path of a file that holds it"
        )


def effective_parameters(
    declared: Mapping[str, Declared], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the notebook's cells will see: defaults, replaced by what was given."""
    return {name: given.get(name, one.default) for name, one in declared.items()}
