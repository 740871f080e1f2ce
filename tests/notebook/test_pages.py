"""Executed notebooks as pages: whole, without a script, and none is a reason to end otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from ctp_runbook.notebook import pages
from ctp_runbook.notebook.forked_kernel import ForkServer, ForkServerLost
from ctp_runbook.notebook.pages import Drawing, draw, render_notebooks
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.report import write_report
from tests.props.notebook_tools import wait_until
from tests.props.synthetic_runs import make_run


def test_each_notebook_has_a_page_that_the_report_links(tmp_path: Path) -> None:
    """With its outputs, and with nothing that would run or be fetched."""
    run = make_run("completed", tmp_path)
    html = "<b>the watch</b><script src='https://example.org/x.js'></script>"
    shown = nbformat.v4.new_output("display_data", {"text/html": html})  # type: ignore[no-untyped-call]
    cell = nbformat.v4.new_code_cell("result", outputs=[shown])  # type: ignore[no-untyped-call]
    book = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    nbformat.write(book, run.notebooks / "05_watch.ipynb")  # type: ignore[no-untyped-call]
    render_notebooks(run)
    page = (run.notebooks / "05_watch.html").read_text()
    assert "<b>the watch</b>" in page
    assert "<script" not in page
    assert "example.org" not in page
    report = write_report(run).read_text()
    assert "<a href='notebooks/05_watch.html'>" in report
    assert "<a href='notebooks/05_watch.ipynb'>" in report


def test_what_cannot_be_rendered_is_said(tmp_path: Path) -> None:
    """And the others are rendered all the same."""
    run = make_run("completed", tmp_path)
    for path in run.notebooks.iterdir():
        path.unlink()
    (run.notebooks / "05_watch.ipynb").write_text("no notebook")
    book = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    nbformat.write(book, run.notebooks / "06_rollback.ipynb")  # type: ignore[no-untyped-call]
    (why,) = render_notebooks(run)
    assert why.startswith("05_watch.ipynb is not rendered: ")
    assert [path.name for path in run.notebooks.glob("*.html")] == ["06_rollback.html"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    """The fork server that the drawing is ordered from."""
    made = ForkServer()
    monkeypatch.setattr(pages, "fork_server", lambda: made)
    yield made
    made.close()


def _with_notebooks(folder: Path) -> RunDir:
    run = make_run("completed", folder)
    for name in ("05_watch", "06_rollback"):
        cell = nbformat.v4.new_markdown_cell(f"# {name}", id="a")  # type: ignore[no-untyped-call]
        book = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
        nbformat.write(book, run.notebooks / f"{name}.ipynb")  # type: ignore[no-untyped-call]
    return run


def _pages(run: RunDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.notebooks.glob("*.html")}


@pytest.mark.twin
def test_pages_are_made_beside_the_notebooks_and_are_the_same(
    tmp_path: Path, server: ForkServer
) -> None:
    """Of a notebook behind which another has begun at once, of the last when it is asked for."""
    run = _with_notebooks(tmp_path / "there")
    first, last = (path.with_suffix(".html") for path in sorted(run.notebooks.glob("*.ipynb"))[-2:])
    drawing = Drawing(run)
    wait_until(first.is_file, seconds=60)
    assert not last.exists()
    assert not run.report.exists()
    said = drawing.finish()
    drawing.close()
    there = _pages(run)
    here = _with_notebooks(tmp_path / "here")
    assert said == ([], str(run.report))
    assert draw(here) == ([], str(here.report))
    assert there == _pages(here)
    assert "notebooks/06_rollback.html" in run.report.read_text()


@pytest.mark.twin
def test_a_drawing_that_is_asked_for_nothing_ends(tmp_path: Path, server: ForkServer) -> None:
    """Whoever goes, be it by a signal, is not drawn for."""
    run = _with_notebooks(tmp_path)
    drawing = Drawing(run)
    assert drawing._ordered is not None
    process = drawing._ordered.result(timeout=60)
    drawing.close()
    assert process.wait(timeout=60) == 1
    assert not run.report.exists()


@pytest.mark.twin
def test_what_cannot_be_drawn_there_is_drawn_here(
    tmp_path: Path, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Because it was killed, and where nothing can be forked."""
    run = _with_notebooks(tmp_path)
    drawing = Drawing(run)
    assert drawing._ordered is not None
    drawing._ordered.result(timeout=60).send_signal(9)
    assert drawing.finish() == ([], str(run.report))
    drawing.close()
    run.report.unlink()

    def lost() -> ForkServer:
        raise ForkServerLost("no more processes")

    monkeypatch.setattr(pages, "fork_server", lost)
    drawing = Drawing(run)
    assert drawing.finish() == ([], str(run.report))
    drawing.close()
    assert run.report.is_file()
