"""The notebooks are thin drivers, as STYLE rule 8 has it: read as files, nothing is run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
# CONTRACT §4 fixes what each can be told.
PARAMETERS: Mapping[str, frozenset[str]] = {
    "00_calibrate": frozenset({"calibration_dir"}),
    "00_start": frozenset({"outputs"}),
    "01_plan": frozenset(
        {
            "cutover_template",
            "rollback_template",
            "execute",
            "run_dir",
            "accept_unmeasured",
            "accept_late",
        }
    ),
    "02_infra_gate": frozenset({"run_dir"}),
    "03_readiness_gate": frozenset({"run_dir"}),
    "04_switch": frozenset({"run_dir", "go"}),
    "05_watch": frozenset({"run_dir"}),
    "06_rollback": frozenset({"run_dir"}),
    "07_verify": frozenset({"run_dir"}),
    "08_history": frozenset({"outputs", "environment"}),
}
CELL_LINES = 8
NOTEBOOK_LINES = 40
FORBIDDEN = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
    *(ast.If, ast.IfExp, ast.Match, ast.Try, ast.TryStar, ast.Assert),
    *(ast.For, ast.AsyncFor, ast.While, ast.comprehension),
)
EXITS = {"exit", "quit", "sys.exit", "os._exit"}
PARAMETER = re.compile(r"[a-z_]+: [\w |\[\]]+ = .+  # \S.*")

Notebook = dict[str, Any]


def test_the_notebooks_are_there() -> None:
    """Seven rooms of the runbook, one notebook each; where one begins and the calibration before them,
    the history behind, and no other."""
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_notebook_keeps_the_rules(name: str) -> None:
    """The notebook is valid, thin, without outputs, and its parameters are the contract's."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    nbformat.validate(notebook)
    found = problems(notebook, parameters=PARAMETERS[name])
    assert not found, "\n".join(found)


def problems(notebook: Notebook, *, parameters: frozenset[str]) -> list[str]:
    """Every rule the notebook breaks, one sentence each with the cell's number from 1."""
    cells = list(enumerate(notebook["cells"], start=1))
    code = [(number, cell) for number, cell in cells if cell["cell_type"] == "code"]
    found = [*_opening(notebook), *_parameters(code, parameters), *_imports(code)]
    found += [f"cell {number}: {said}" for number, cell in code for said in _cell(cell)]
    total = sum(len(_lines(cell)) for _, cell in code)
    if total > NOTEBOOK_LINES:
        found.append(f"{total} lines of code; at most {NOTEBOOK_LINES}")
    return found


def _source(cell: Mapping[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _lines(cell: Mapping[str, Any]) -> list[str]:
    return [line for line in _source(cell).splitlines() if line.strip()]


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return list(cell["metadata"].get("tags", []))


def _tree(cell: Mapping[str, Any]) -> ast.Module:
    try:
        return ast.parse(_source(cell))
    except SyntaxError:
        return ast.Module([], [])


def _opening(notebook: Notebook) -> Iterator[str]:
    first = notebook["cells"][0]
    title, _, purpose = _source(first).partition("\n")
    if first["cell_type"] != "markdown" or not title.startswith("# ") or not purpose.strip():
        yield "cell 1: not Markdown with a title (`# …`) and the purpose below it"
    if "papermill" in notebook["metadata"]:
        yield "metadata: papermill has been here; commit the notebook, not a run of it"


def _parameters(code: list[tuple[int, Any]], expected: frozenset[str]) -> Iterator[str]:
    tagged = [(number, cell) for number, cell in code if "parameters" in _tags(cell)]
    if len(tagged) != 1 or tagged[0] != code[0]:
        yield "not exactly one cell tagged `parameters`, and it the first of the code"
        return
    ((number, cell),) = tagged
    for line in _lines(cell):
        if not PARAMETER.fullmatch(line):
            yield f"cell {number}: {line!r} is not `name: type = default  # meaning`"
    names = {line.partition(":")[0] for line in _lines(cell)}
    if names != expected:
        yield f"cell {number}: parameters {sorted(names)}; the contract says {sorted(expected)}"


def _imports(code: list[tuple[int, Any]]) -> Iterator[str]:
    nodes = [node for _, cell in code for node in ast.walk(_tree(cell))]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    sources = [
        name
        for node in imports
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _plain(node))
    ]
    if len(imports) != 1 or [str(name).partition(".")[0] for name in sources] != ["ctp_runbook"]:
        yield f"imports {sources}; expected one import, from ctp_runbook"


def _plain(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]


def _cell(cell: Mapping[str, Any]) -> Iterator[str]:
    if cell["outputs"] or cell["execution_count"] is not None:
        yield "has outputs or an execution count; clear them before the commit"
    if "raises-exception" in _tags(cell):
        yield "tagged raises-exception, which lets later cells run after a failed gate"
    if len(_lines(cell)) > CELL_LINES:
        yield f"{len(_lines(cell))} lines; at most {CELL_LINES}"
    if not _tree(cell).body:
        yield "is empty or not plain Python (`!`, `%`, `%%bash`)"
    for node in ast.walk(_tree(cell)):
        if isinstance(node, FORBIDDEN):
            yield f"{type(node).__name__}: decisions and loops live in ctp_runbook"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in EXITS:
            yield f"{ast.unparse(node.func)}() skips the rest with exit code 0"


def sound() -> Notebook:
    """A notebook that keeps every rule, to be broken one rule at a time."""
    return {
        "metadata": {},
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": "# Watch\n\nHalf an hour."},
            _code('run_dir: str = ""  # the run to follow\n', tags=["parameters"]),
            _code("from ctp_runbook.phases import watch\n\nresult = watch(run_dir)\n"),
            _code("result\n"),
            _code("result.raise_if_failed()\n"),
        ],
    }


def _code(source: str, *, tags: list[str] | None = None) -> dict[str, Any]:
    metadata = {"tags": tags} if tags else {}
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": source.splitlines(keepends=True),
        "outputs": [],
        "execution_count": None,
    }


def _add(source: str) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["cells"].append(_code(source))


def _set(cell: int, **changes: Any) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["cells"][cell].update(changes)


BROKEN: Mapping[str, tuple[Callable[[Notebook], None], str]] = {
    "no title": (_set(0, source="Watch"), "cell 1: not Markdown with a title"),
    "code first": (lambda notebook: notebook["cells"].pop(0), "cell 1: not Markdown"),
    "executed": (lambda notebook: notebook["metadata"].update(papermill={}), "papermill has been"),
    "no parameters": (_set(1, metadata={}), "not exactly one cell tagged"),
    "two parameter cells": (_set(2, metadata={"tags": ["parameters"]}), "not exactly one cell"),
    "untyped": (_set(1, source='run_dir = ""  # the run'), "is not `name: type = default"),
    "no meaning": (_set(1, source='run_dir: str = ""'), "is not `name: type = default"),
    "misspelt": (_set(1, source='rundir: str = ""  # the run'), "the contract says ['run_dir']"),
    "second import": (_add("import pandas"), "expected one import, from ctp_runbook"),
    "foreign import": (_set(2, source="from os import environ"), "imports ['os']"),
    "outputs": (_set(3, outputs=[{}]), "cell 4: has outputs"),
    "execution count": (_set(3, execution_count=3), "cell 4: has outputs or an execution count"),
    "raises-exception": (_set(3, metadata={"tags": ["raises-exception"]}), "raises-exception"),
    "long cell": (_add("x\n" * 9), "cell 6: 9 lines; at most 8"),
    "long notebook": (
        lambda notebook: notebook["cells"].extend([_code("x\n" * 8)] * 5),
        "45 lines of code; at most 40",
    ),
    "shell": (_add("!ls"), "not plain Python"),
    "bash cell": (_add("%%bash\nls"), "not plain Python"),
    "empty cell": (_add(""), "is empty"),
    "def": (_add("def f(): ..."), "FunctionDef"),
    "class": (_add("class A: ..."), "ClassDef"),
    "if": (_add("if x: y"), "If:"),
    "inline if": (_add("a if b else c"), "IfExp"),
    "for": (_add("for x in y: z"), "For:"),
    "comprehension": (_add("[x for x in y]"), "comprehension"),
    "while": (_add("while x: y"), "While"),
    "try": (_add("try:\n    x\nexcept E:\n    y"), "Try"),
    "sys.exit": (_add("sys.exit(0)"), "sys.exit() skips the rest"),
    "exit": (_add("exit()"), "exit() skips the rest"),
}


def test_the_sound_notebook_passes() -> None:
    """What the broken ones are made from breaks no rule itself."""
    assert problems(sound(), parameters=PARAMETERS["05_watch"]) == []


@pytest.mark.parametrize(("spoil", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_notebook_is_found(spoil: Callable[[Notebook], None], said: str) -> None:
    """Each rule, broken alone, is told with the cell it is broken in."""
    notebook = sound()
    spoil(notebook)
    assert any(said in problem for problem in problems(notebook, parameters=PARAMETERS["05_watch"]))
