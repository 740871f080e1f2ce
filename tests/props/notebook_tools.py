"""Small notebooks made for tests, and what an executed one says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

__all__ = [
    "PARAMETERS",
    "cell_states",
    "notebook",
    "outputs_text",
    "read",
    "run_code",
    "wait_until",
    "write",
]

PARAMETERS = 'count: int = 1  # how often\nrun_dir: str = ""  # the run'


def notebook(*cells: str, parameters: str | None = PARAMETERS) -> Any:
    """A notebook with a ``parameters`` cell (None: without its tag) and these cells."""
    tags = {} if parameters is None else {"tags": ["parameters"]}
    made = new_notebook()  # type: ignore[no-untyped-call]
    made.metadata.kernelspec = {"name": "python3", "display_name": "P", "language": "python"}
    made.metadata.language_info = {"name": "python"}
    made.cells = [
        new_markdown_cell("# Title\n\nPurpose."),  # type: ignore[no-untyped-call]
        new_code_cell(parameters or PARAMETERS, metadata=tags),  # type: ignore[no-untyped-call]
        *(new_code_cell(source) for source in cells),  # type: ignore[no-untyped-call]
    ]
    return made


def write(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """``notebook`` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = notebook(*cells, parameters=parameters)
    path.write_text(writes(made))  # type: ignore[no-untyped-call]
    return path


def read(path: Path) -> dict[str, Any]:
    """The notebook in a file, which must be whole."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def cell_states(path: Path) -> list[str]:
    """papermill status of each code cell, in order."""
    cells = read(path)["cells"]
    return [c["metadata"]["papermill"]["status"] for c in cells if c["cell_type"] == "code"]


def outputs_text(path: Path) -> str:
    """All text a reader sees in the outputs and around the cells."""
    parts: list[str] = []
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts += [_joined(output.get("text", "")), _joined(data.get("text/plain", ""))]
            parts += [output.get("evalue", ""), *output.get("traceback", [])]
    return "\n".join(parts)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def wait_until(holds: Any, *, seconds: float = 60.0) -> None:
    """Wait until ``holds()`` is true; fails the test after ``seconds``."""
    import time

    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run_code(source: str, names: dict[str, Any]) -> None:
    """Run a cell's code as its kernel would, which awaits what a cell awaits."""
    code = compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(waits := eval(code, names)):

        async def done() -> None:
            await waits

        asyncio.run(done())
