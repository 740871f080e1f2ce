"""Executed notebooks as pages: whole, without a script, and none is a reason to end otherwise."""

from __future__ import annotations

from pathlib import Path

import nbformat

from ctp_runbook.notebook.pages import render_notebooks
from ctp_runbook.show.report import write_report
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
