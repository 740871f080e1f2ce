"""The executed notebook as an artefact: at every moment the file on disk is whole and true.

It is written before the first cell runs, with every cell NOT RUN; a cell is LOST from the moment
it starts until its end is recorded. So nothing that kills the writer can make the file claim more
than was seen to happen. The path is claimed by creating the file: of two writers one is refused.
"""

from __future__ import annotations

import contextlib
import html
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, groupby
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output, writes

from ctp_runbook.errors import NotebookError
from ctp_runbook.record.journal import digest_of
from ctp_runbook.record.rundir import RunDir, write_atomic
from ctp_runbook.redact import Redactor
from ctp_runbook.show.blocks import symbol_of

__all__ = ["FOOTER_TAG", "METADATA_KEY", "Document", "Ending", "NotebookStatus", "Stamp"]

METADATA_KEY = "ctp_runbook"
FOOTER_TAG = "ctp-runbook-footer"
_BANNER_TAG = "ctp-runbook-banner"
_CELL_KEYS = ("exception", "start_time", "end_time", "duration")
_MAX_STREAM_CHARS = 200_000
# A backslash or a dollar escaped by a backslash could begin a formula, which JupyterLab takes out first.
_LITERAL = str.maketrans(
    {char: f"\\{char}" for char in "`*_|[]~"} | {char: f"&#{ord(char)};" for char in "\\$<>&"}
)


class NotebookStatus(StrEnum):
    """How a notebook, or one of its cells, ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    NOT_RUN = "not_run"
    RUNNING = "running"


@dataclass(frozen=True)
class Ending:
    """How running a notebook came to an end; ``ename`` names the error of the cell that failed."""

    status: NotebookStatus
    sentence: str
    ename: str = ""


@dataclass(frozen=True)
class Stamp:
    """Which run a notebook shows, and how far its journal had come.

    ``journal_sha256`` is that of the journal file up to the end of record ``journal_records``
    (``head -n N journal.jsonl | sha256sum``), so that the stamp can be checked for ever.
    """

    run_id: str = ""
    journal_records: int = 0
    journal_sha256: str = ""
    problem: str = ""

    @classmethod
    def of(cls, path: Path | None) -> Stamp:
        """Return the stamp of the run directory ``path``; an empty one when there is no run."""
        if path is None:
            return cls()
        run = RunDir(path)
        try:
            whole, newline, _ = run.journal.read_bytes().rpartition(b"\n")
        except OSError as error:
            return cls(run.run_id, problem=f"its journal cannot be read: {error.strerror}")
        data = whole + newline
        return cls(run.run_id, data.count(b"\n"), digest_of(data))

    @property
    def markdown(self) -> str:
        """One line for the footer."""
        if not self.run_id:
            return "no run"
        if self.problem:
            return f"run `{self.run_id}`: {self.problem}"
        return (
            f"run `{self.run_id}`, journal record {self.journal_records}, "
            f"sha256 `{self.journal_sha256}`"
        )


class Document:
    """A notebook being executed, and the file it is kept in (``path`` None: in memory only)."""

    def __init__(
        self, nb: NotebookNode, path: Path | None, *, redactor: Redactor, stamp: Stamp
    ) -> None:
        """Claim ``path`` and write the notebook there with every cell NOT RUN.

        Raises NotebookError when something is at ``path`` already.
        """
        self.nb, self.path = nb, path
        self._redactor = redactor
        self.ending = Ending(NotebookStatus.RUNNING, "it was started and its end was not recorded")
        # Written whole before anything runs: whoever is killed later leaves a file that says so.
        self._prepare()
        self._frame(stamp)
        if path is not None:
            _claim(path, self._bytes())

    def _prepare(self) -> None:
        meta = self.nb.metadata.setdefault("papermill", {})
        meta.update(start_time=_now(), end_time=None, duration=None, exception=None)
        for cell in self.nb.cells:
            if cell.cell_type == "code":
                cell.metadata["papermill"] = dict.fromkeys(_CELL_KEYS)
                cell.execution_count = None
                self._mark(cell, NotebookStatus.NOT_RUN, "NOT RUN", final=False)

    def start_cell(self, index: int) -> NotebookNode:
        """Record that a cell starts; until its end is recorded it counts as LOST."""
        cell: NotebookNode = self.nb.cells[index]
        cell.metadata.papermill.update(start_time=_now(), exception=False)
        text = f"LOST: started {_now()}; its end was not recorded"
        self._mark(cell, NotebookStatus.RUNNING, text, final=False)
        self.save()
        return cell

    def complete_cell(self, index: int) -> None:
        """Record that a cell ended well; its outputs are in place."""
        self._end_cell(index, NotebookStatus.COMPLETED)
        self.save()

    def fail_cell(self, index: int) -> None:
        """Record that a cell raised; the error is among its outputs."""
        self._end_cell(index, NotebookStatus.FAILED)

    def lose_cell(self, index: int, reason: str) -> None:
        """Record that nobody saw the cell end; what it had shown by then is kept."""
        cell = self._end_cell(index, NotebookStatus.LOST)
        cell.metadata[METADATA_KEY] = {"status": "LOST"}
        cell.outputs = [*_real_outputs(cell), _notice(NotebookStatus.LOST, f"LOST: {reason}")]

    def finish(self, ending: Ending, stamp: Stamp) -> None:
        """Write how the notebook ended, what did not run, and which run it shows."""
        self.ending = ending
        text = f"NOT RUN: before it, {self._redactor(ending.sentence)}"
        for cell in self.nb.cells:
            if cell.metadata.get("papermill", {}).get("status") == NotebookStatus.NOT_RUN:
                self._mark(cell, NotebookStatus.NOT_RUN, text)
        meta = self.nb.metadata.papermill
        _clock_out(meta)
        meta["exception"] = True if ending.status is not NotebookStatus.COMPLETED else None
        self._frame(stamp)
        self.save()

    def save(self) -> None:
        """Replace the file whole."""
        if self.path is not None:
            write_atomic(self.path, self._bytes())

    def _bytes(self) -> bytes:
        text: str = writes(self.nb)  # type: ignore[no-untyped-call]
        return (text + "\n").encode()

    def _mark(
        self, cell: NotebookNode, status: NotebookStatus, text: str, *, final: bool = True
    ) -> None:
        """``final`` tells what came of a cell from what would be true if nothing more came."""
        cell.metadata.papermill["status"] = str(status)
        cell.metadata[METADATA_KEY] = {"status": text.partition(":")[0] if final else "pending"}
        cell.outputs = [_notice(status, text)]

    def _end_cell(self, index: int, status: NotebookStatus) -> NotebookNode:
        cell: NotebookNode = self.nb.cells[index]
        cell.metadata.pop(METADATA_KEY, None)
        is_good = status is NotebookStatus.COMPLETED
        cell.metadata.papermill.update(status=str(status), exception=not is_good)
        _clock_out(cell.metadata.papermill)
        cell.outputs = _joined_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                # A secret may have come in two messages; here the text is in one piece.
                output.text = _cut(self._redactor(output.text))
        return cell

    def _frame(self, stamp: Stamp) -> None:
        """Put the banner (unless all is well) and the footer around the cells, and the metadata."""
        ending = self.ending
        cells = [cell for cell in self.nb.cells if not _is_frame(cell)]
        sentence = self._redactor(ending.sentence)
        # The notebook's end is not the run's: COMPLETED is a word for a run alone.
        is_whole = ending.status is NotebookStatus.COMPLETED
        words = "notebook executed" if is_whole else ending.status.replace("_", " ").upper()
        title = f"{symbol_of(ending.status)} {words}"
        if ending.status is not NotebookStatus.COMPLETED:
            cells.insert(0, _framed(_BANNER_TAG, f"**{title}**: {_as_text(sentence)}"))
        footer = f"---\n{title} at {_now()} · {stamp.markdown}"
        self.nb.cells = [*cells, _framed(FOOTER_TAG, footer)]
        self.nb.metadata[METADATA_KEY] = {
            "status": str(ending.status),
            "sentence": sentence,
            "run_id": stamp.run_id,
            "journal_records": stamp.journal_records,
            "journal_sha256": stamp.journal_sha256,
        }


def _framed(tag: str, source: str) -> NotebookNode:
    # A fixed id: the same notebook written twice differs in its clock only.
    cell: NotebookNode = new_markdown_cell(  # type: ignore[no-untyped-call]
        source, id=tag, metadata={"tags": [tag]}
    )
    return cell


def _as_text(sentence: str) -> str:
    """A sentence as Markdown that shows it and does nothing: it may quote what a step printed."""
    return " ".join(sentence.split()).translate(_LITERAL)


def _is_frame(cell: NotebookNode) -> bool:
    return bool({FOOTER_TAG, _BANNER_TAG} & set(cell.metadata.get("tags", [])))


def _notice(status: NotebookStatus, text: str) -> NotebookNode:
    """An output that no program wrote: a sentence about the cell itself."""
    body = f"<div><strong>{symbol_of(status)} {html.escape(text)}</strong></div>"
    output: NotebookNode = new_output(  # type: ignore[no-untyped-call]
        "display_data",
        data={"text/plain": text, "text/html": body},
        metadata={METADATA_KEY: {"notice": str(status)}},
    )
    return output


def _real_outputs(cell: NotebookNode) -> list[NotebookNode]:
    return [
        output
        for output in cell.outputs
        if "notice" not in output.get("metadata", {}).get(METADATA_KEY, {})
    ]


def _joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one output."""
    joined: list[NotebookNode] = []
    for name, pieces in groupby(outputs, key=lambda output: output.get("name")):
        if name is None:  # no stream
            joined += pieces
            continue
        first, *rest = pieces
        first.text = "".join(chain(first.text, *(piece.text for piece in rest)))
        joined.append(first)
    return joined


def _cut(text: str) -> str:
    if len(text) <= _MAX_STREAM_CHARS:
        return text
    half = _MAX_STREAM_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _clock_out(meta: NotebookNode) -> None:
    """Write down when something ended, and how long it took if it was seen to start."""
    meta["end_time"] = _now()
    if meta["start_time"] is not None:
        start, end = map(datetime.fromisoformat, (meta["start_time"], meta["end_time"]))
        meta["duration"] = (end - start).total_seconds()


def _claim(path: Path, data: bytes) -> None:
    """Create ``path`` with ``data`` whole, or refuse: link(2) never replaces anything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.claim")
    write_atomic(draft, data)
    try:
        os.link(draft, path)
    except FileExistsError as error:
        raise NotebookError(
            f"output {path} exists; executed notebooks are never written over: "
            "another run may be writing it. Choose another output path, or move the file away"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
