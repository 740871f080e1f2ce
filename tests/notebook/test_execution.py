"""The cells of one notebook, and what becomes of them when its kernel does not do what it should."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_output

from ctp_runbook.notebook import execution
from ctp_runbook.notebook.document import Document, Ending, NotebookStatus, Stamp
from ctp_runbook.notebook.execution import Execution, shown_run_dir
from ctp_runbook.notebook.kernels import ReadyKernel
from ctp_runbook.redact import MASK, Redactor
from tests.props.notebook_tools import notebook

SECRET = "hunter2hunter2"


def document(*cells: str) -> Document:
    """A small notebook, in memory only."""
    return Document(notebook(*cells), None, redactor=Redactor(), stamp=Stamp())


def run(running: Execution, kernel: Any = None, *, problem: str = "") -> Ending:
    """How running ends with this kernel, or with one that did not start."""
    starting: Future[ReadyKernel] = Future()
    if problem:
        starting.set_exception(RuntimeError(problem))
    else:
        starting.set_result(cast("ReadyKernel", kernel))

    async def awaited() -> Ending:
        return await running.run(starting)

    return asyncio.run(awaited())


def statuses(doc: Document) -> list[str]:
    """How each code cell ended."""
    return [c.metadata.papermill.status for c in doc.nb.cells if c.cell_type == "code"]


def test_a_kernel_that_does_not_start_loses_the_notebook() -> None:
    """No cell ran, and none claims to have."""
    doc = document("1", "2")
    ending = run(Execution(doc, redactor=Redactor()), problem="it does not answer")
    assert ending == Ending(NotebookStatus.LOST, "its kernel did not start: it does not answer")
    assert statuses(doc) == ["not_run"] * 3


def test_a_notebook_that_is_stopped_before_its_first_cell_runs_none() -> None:
    """The reason stands in its ending; the kernel is not asked for anything."""
    doc = document("1")
    running = Execution(doc, redactor=Redactor())
    running.stop("the runner was told to end")
    ending = run(running, SimpleNamespace(manager=None, client=None, pid=0))
    assert ending == Ending(NotebookStatus.LOST, "the runner was told to end before cell 1")
    assert statuses(doc) == ["not_run"] * 2


def test_stopping_ends_the_kernel_with_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told to end leaves nothing running unseen."""
    ended: list[int] = []
    monkeypatch.setattr(execution, "signal_group", ended.append)
    running = Execution(document("1"), redactor=Redactor())
    running.stop("first: there is no kernel yet")
    assert ended == []
    run(running, SimpleNamespace(manager=None, client=None, pid=4711))
    running.stop("then: there is")
    assert ended == [4711]


# --- what a message may say -------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"name": "stdout", "text": f"pw {SECRET}"},
        {"ename": "E", "evalue": f"no login with {SECRET}", "traceback": []},
        {"ename": "E", "evalue": "", "traceback": ["line", f"line {SECRET}"]},
        {"data": {"text/plain": SECRET}},
        {"data": {"text/html": f"<b>{SECRET}</b>"}},
        {"data": {"image/svg+xml": f"<text>{SECRET}</text>"}},
        {"data": {"application/json": {"deep": [SECRET]}}},
    ],
    ids=lambda content: "/".join(content.get("data", content)),
)
def test_no_message_holds_a_secret(content: dict[str, Any]) -> None:
    """Whatever it comes as: printed, raised, displayed, drawn in text."""
    redacted = execution._redacted(content, Redactor.of([SECRET]))
    assert SECRET not in str(redacted)
    assert MASK in str(redacted)
    assert redacted.keys() == content.keys()


def test_a_picture_is_left_as_it_is() -> None:
    """Base64 that happens to spell a secret is no secret, and a masked picture is none."""
    content = {"data": {"image/png": f"iVBOR{SECRET}w0KGgo"}}
    assert execution._redacted(content, Redactor.of([SECRET])) == content


def test_what_is_no_text_passes() -> None:
    """Counts, states and empty messages are what they were."""
    for content in ({"execution_count": 3}, {"execution_state": "idle"}, {}):
        assert execution._redacted(content, Redactor.of([SECRET])) == content


# --- which run it shows -----------------------------------------------------------


def shows(run_dir: str) -> Any:
    """An output that says which run it shows."""
    return new_output(  # type: ignore[no-untyped-call]
        "display_data", data={}, metadata={"ctp_runbook": {"run_dir": run_dir}}
    )


def test_the_run_is_that_of_the_last_output_that_names_one() -> None:
    """Later cells show what a notebook came to."""
    nb = notebook("a", "b", "c")
    nb.cells[2].outputs = [shows("/o/first")]
    nb.cells[3].outputs = [shows("/o/second")]
    assert shown_run_dir(nb) == "/o/second"


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [new_output("stream", text="hello")],  # type: ignore[no-untyped-call]
        [shows("")],
    ],
    ids=["nothing", "no page", "no run"],
)
def test_a_notebook_that_shows_no_run_names_none(outputs: list[Any]) -> None:
    """Neither does one whose page is about no run."""
    nb = notebook("a")
    nb.cells[2].outputs = outputs
    assert shown_run_dir(nb) == ""


# --- what failed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ename", "evalue", "said"),
    [
        ("ValueError", "gate closed", "cell 2: gate closed"),
        ("KeyError", "", "cell 2: KeyError"),
        ("SystemExit", "0", r"cell 2 called sys.exit(0); a notebook ends with its last cell"),
    ],
)
def test_a_failure_is_one_sentence(ename: str, evalue: str, said: str) -> None:
    """The error's own words, else its name; sys.exit is told for what it leaves out."""
    error = CellExecutionError("traceback", ename, evalue)
    assert execution._failure_sentence(error, 2) == said
