"""Runs the cells of one notebook in one kernel, and tells the document the truth about each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from ctp_runbook.notebook.document import METADATA_KEY, Document, Ending, NotebookStatus
from ctp_runbook.notebook.kernels import ReadyKernel
from ctp_runbook.redact import Redactor

__all__ = ["Execution", "shown_run_dir"]

_TEXT_TYPES = ("text/", "image/svg+xml", "application/json")


class _Client(NotebookClient):
    """nbclient's cell execution, with every message redacted before it becomes an output."""

    redactor = Redactor()

    def process_message(self, msg: Any, cell: NotebookNode, cell_index: int) -> Any:
        msg["content"] = _redacted(msg["content"], self.redactor)
        return super().process_message(msg, cell, cell_index)


def _redacted(content: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A message's content with its texts redacted; pictures are left as they are."""
    found = dict(content)
    for key in ("text", "evalue"):
        if isinstance(found.get(key), str):
            found[key] = redactor(found[key])
    if isinstance(found.get("traceback"), list):
        found["traceback"] = [redactor(line) for line in found["traceback"]]
    if isinstance(found.get("data"), dict):
        found["data"] = {
            kind: redactor.data(held) if kind.startswith(_TEXT_TYPES) else held
            for kind, held in found["data"].items()
        }
    return found


class Execution:
    """One notebook running. ``run`` is awaited in the kernels' loop; ``stop`` may be called from
    any thread."""

    def __init__(
        self, document: Document, *, redactor: Redactor, cell_timeout: float | None = None
    ) -> None:
        self._document = document
        self._redactor = redactor
        self._cell_timeout = cell_timeout
        self._stopped = ""
        self._kernel: ReadyKernel | None = None

    def stop(self, reason: str) -> None:
        """End the kernel; the cell that runs is LOST for ``reason``."""
        self._stopped = reason
        if self._kernel is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._kernel.pid, signal.SIGKILL)

    async def run(self, starting: Future[ReadyKernel]) -> Ending:
        """Run every cell in order; the first that does not end well is the last that runs."""
        try:
            kernel = await asyncio.wrap_future(starting)
        except RuntimeError as error:
            return Ending(NotebookStatus.LOST, f"its kernel did not start: {error}")
        self._kernel = kernel
        client = _Client(
            self._document.nb,
            km=kernel.manager,
            timeout=self._cell_timeout,
            force_raise_errors=True,
            coalesce_streams=True,
            record_timing=False,
            log=_quiet_log(),
        )
        client.redactor = self._redactor
        client.kc = kernel.client
        for number, index in enumerate(_code_cells(self._document.nb), start=1):
            ending = await self._run_cell(client, index, number)
            if ending is not None:
                return ending
        client.set_widgets_metadata()
        return Ending(NotebookStatus.COMPLETED, "every cell ran")

    async def _run_cell(self, client: _Client, index: int, number: int) -> Ending | None:
        """None when the cell ended well."""
        if self._stopped:
            return Ending(NotebookStatus.LOST, f"{self._stopped} before cell {number}")
        cell = self._document.start_cell(index)
        try:
            await client.async_execute_cell(cell, index)
        except CellExecutionError as error:
            self._document.fail_cell(index)
            sentence = self._redactor(_failure_sentence(error, number))
            return Ending(NotebookStatus.FAILED, sentence, error.ename)
        except CellTimeoutError:
            self.stop("timeout")
            return self._lost(index, f"cell {number} ran longer than {self._cell_timeout:g} s")
        except DeadKernelError:
            return self._lost(index, f"{self._why_dead()} while cell {number} ran")
        self._document.complete_cell(index)
        return None

    def _why_dead(self) -> str:
        return self._stopped or "its kernel died"

    def _lost(self, index: int, reason: str) -> Ending:
        sentence = f"{reason}; the run itself does not depend on this notebook"
        self._document.lose_cell(index, sentence)
        return Ending(NotebookStatus.LOST, sentence)


def _failure_sentence(error: CellExecutionError, number: int) -> str:
    if error.ename == "SystemExit":
        return f"cell {number} called sys.exit({error.evalue}); a notebook ends with its last cell"
    return f"cell {number}: {error.evalue}" if error.evalue else f"cell {number}: {error.ename}"


def _code_cells(nb: NotebookNode) -> Iterator[int]:
    return (
        index
        for index, cell in enumerate(nb.cells)
        if cell.cell_type == "code" and cell.source.strip()
    )


def _quiet_log() -> logging.Logger:
    # nbclient logs at ERROR what the document says better.
    log = logging.getLogger("ctp_runbook.nbclient")
    log.setLevel(logging.CRITICAL)
    return log


def shown_run_dir(nb: NotebookNode) -> str:
    """The run directory the notebook's outputs say they show; empty when none does."""
    for cell in reversed(nb.cells):
        for output in cell.get("outputs", []):
            told = output.get("metadata", {}).get(METADATA_KEY, {})
            if told.get("run_dir"):
                return str(told["run_dir"])
    return ""
