"""The executed notebook as a file: claimed once, whole at every moment, never claiming too much."""

from __future__ import annotations

import html
import json
import re
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
from markdown_it import MarkdownIt

from ctp_runbook.errors import NotebookError
from ctp_runbook.notebook.document import Document, Ending, NotebookStatus, Stamp
from ctp_runbook.record.journal import digest_of
from ctp_runbook.redact import Redactor
from tests.props.notebook_tools import cell_states, notebook, outputs_text, read
from tests.props.synthetic_runs import completed_run

PLAIN = Redactor()


def document(path: Path, *cells: str, redactor: Redactor = PLAIN, stamp: Any = None) -> Document:
    """A claimed document of a small notebook."""
    return Document(notebook(*cells), path, redactor=redactor, stamp=stamp or Stamp())


def test_every_cell_is_not_run_before_any_runs(tmp_path: Path) -> None:
    """A writer killed right after the claim leaves a file that says NOT RUN everywhere."""
    path = tmp_path / "out.ipynb"
    document(path, "a", "b")
    assert cell_states(path) == ["not_run"] * 3
    assert outputs_text(path).count("NOT RUN") == 3


def test_a_started_cell_counts_as_lost_until_its_end_is_recorded(tmp_path: Path) -> None:
    """A writer killed while a cell runs leaves a file that says LOST there."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "a")
    doc.start_cell(2)
    assert "LOST: started" in outputs_text(path)
    assert read(path)["metadata"]["ctp_runbook"]["status"] == "running"


def test_a_path_is_claimed_once(tmp_path: Path) -> None:
    """The second of two runs on one output path is refused and changes nothing."""
    path = tmp_path / "out.ipynb"
    document(path, "first")
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=r"out\.ipynb exists; executed notebooks are never"):
        document(path, "second")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.ipynb"]


def test_of_many_that_claim_at_once_one_wins(tmp_path: Path) -> None:
    """Eight threads claim the same path at the same moment; seven are refused."""
    path, gate = tmp_path / "out.ipynb", threading.Barrier(8)
    outcomes: list[str] = []

    def claim() -> None:
        gate.wait()
        try:
            document(path, "x")
            outcomes.append("claimed")
        except NotebookError:
            outcomes.append("refused")

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed"] + ["refused"] * 7


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While the document is saved over and over, each read is a whole notebook."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "x" * 200_000)
    done = threading.Event()

    def save() -> None:
        for _ in range(40):
            doc.save()
        done.set()

    writer = threading.Thread(target=save)
    writer.start()
    while not done.is_set():
        json.loads(path.read_text())
    writer.join()


def test_an_ended_notebook_is_valid_and_says_how_it_ended(tmp_path: Path) -> None:
    """Completed, failed, lost and not run cells all make a valid notebook with banner and footer."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "a", "b", "c")
    doc.start_cell(3).outputs = []
    doc.complete_cell(3)
    doc.start_cell(4)
    doc.lose_cell(4, "its kernel died")
    doc.finish(Ending(NotebookStatus.LOST, "its kernel died"), Stamp())
    nbformat.validate(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]
    assert cell_states(path) == ["not_run", "completed", "lost", "not_run"]
    text = outputs_text(path)
    assert "! LOST**: its kernel died" in text
    assert "NOT RUN: before it, its kernel died" in text
    assert read(path)["metadata"]["papermill"]["exception"] is True


@pytest.mark.parametrize(
    "printed",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "&lt;b&gt;",
        "[x](javascript:alert(1)) ![y](http://127.0.0.1/z.png)",
        "*a* _b_ `c` ~~d~~ | e |",
        r"$\href{javascript:alert(1)}{x}$ \(y\)",
        "\n# title\n\n<b>x</b>",
    ],
)
def test_what_a_step_printed_is_shown_in_the_banner_and_does_nothing(
    printed: str, tmp_path: Path
) -> None:
    """A banner is Markdown, which is HTML too: the last words of a step are neither."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "a")
    doc.finish(Ending(NotebookStatus.FAILED, f"cell 3: it said: {printed}"), Stamp())
    banner = read(path)["cells"][0]["source"]
    source = banner if isinstance(banner, str) else "".join(banner)
    assert not re.search(r"[<>$]|\\[()]", source)
    page = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    )
    words = html.unescape(re.sub(r"</?(p|strong)>", "", page)).split()
    assert words == f"✗ FAILED: cell 3: it said: {printed}".split()


def test_what_a_lost_cell_had_shown_is_kept(tmp_path: Path) -> None:
    """Output that came before the kernel died stays beside the word LOST."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "a")
    shown = nbformat.v4.new_output("stream", text="halfway\n")  # type: ignore[no-untyped-call]
    doc.start_cell(2).outputs = [shown]
    doc.lose_cell(2, "its kernel died")
    doc.save()
    assert "halfway" in outputs_text(path)
    assert "LOST: its kernel died" in outputs_text(path)


def test_the_stamp_is_a_digest_anybody_can_compute(tmp_path: Path) -> None:
    """The stamp names the run, the number of records, and the digest of the journal so far."""
    run = completed_run(tmp_path)
    data = run.journal.read_bytes()
    stamp = Stamp.of(run.path)
    assert (stamp.run_id, stamp.journal_records) == (run.run_id, data.count(b"\n"))
    assert stamp.journal_sha256 == digest_of(data)
    run.journal.write_bytes(data + b'{"torn')
    assert Stamp.of(run.path) == stamp


def test_the_stamp_stands_in_metadata_and_footer(tmp_path: Path) -> None:
    """A reviewer sees run id and digest; a program finds them in the metadata."""
    run, path = completed_run(tmp_path), tmp_path / "out.ipynb"
    stamp = Stamp.of(run.path)
    doc = document(path, "a", stamp=stamp)
    doc.finish(Ending(NotebookStatus.COMPLETED, "every cell ran"), stamp)
    meta = read(path)["metadata"]["ctp_runbook"]
    assert meta["run_id"] == run.run_id
    assert meta["journal_sha256"] == stamp.journal_sha256
    assert stamp.journal_sha256 in "".join(read(path)["cells"][-1]["source"])


def test_a_run_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """No journal, no digest, and the footer says why."""
    stamp = Stamp.of(tmp_path / "gone")
    assert stamp.journal_sha256 == ""
    assert "cannot be read" in stamp.markdown


def test_a_secret_in_two_pieces_is_masked_when_the_cell_ends(tmp_path: Path) -> None:
    """Two messages that only together spell a secret are masked as one text."""
    path, redactor = tmp_path / "out.ipynb", Redactor.of(["hunter2hunter2"])
    doc = document(path, "a", redactor=redactor)
    pieces = [nbformat.v4.new_output("stream", text=text) for text in ("pw hunter2", "hunter2\n")]  # type: ignore[no-untyped-call]
    doc.start_cell(2).outputs = pieces
    doc.lose_cell(2, "its kernel died")
    doc.save()
    assert "hunter2" not in path.read_text()
    assert "pw ***" in outputs_text(path)


def test_endless_output_is_cut(tmp_path: Path) -> None:
    """A cell that prints a megabyte leaves its beginning and its end, and says what is left out."""
    path = tmp_path / "out.ipynb"
    doc = document(path, "a")
    flood = "begin" + "x" * 1_000_000 + "end"
    doc.start_cell(2).outputs = [nbformat.v4.new_output("stream", text=flood)]  # type: ignore[no-untyped-call]
    doc.complete_cell(2)
    text = outputs_text(path)
    assert path.stat().st_size < 300_000
    assert "begin" in text
    assert "end" in text
    assert "characters left out" in text
