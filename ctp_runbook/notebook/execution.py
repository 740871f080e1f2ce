"""Runs the cells of one notebook in one kernel, and tells the document the truth about each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from ctp_runbook.notebook.document import METADATA_KEY, Document, Ending, NotebookStatus, Stamp
from ctp_runbook.notebook.kernels import ReadyKernel, end_kernel, signal_group, start_kernel
from ctp_runbook.notebook.parameters import check_parameters
from ctp_runbook.notebook.setting import KernelLost, NotebookFailed, Setting
from ctp_runbook.redact import Redactor

__all__ = ["Execution", "execute", "shown_run_dir"]

_STOP_SECONDS = 15.0
_TEXT_TYPES = ("text/", "image/svg+xml", "application/json")


class _Client(NotebookClient):
    """nbclient's cell execution, with every message redacted before it becomes an output."""

    redactor = Redactor()

    def process_message(self, msg: Any, cell: NotebookNode, cell_index: int) -> Any:
        msg["content"] = _redacted(msg["content"], self.redactor)
        return super().process_message(msg, cell, cell_index)


def _redacted(content: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A message's content with its texts redacted; pictures are left as they are."""
    texts = {key: content[key] for key in ("text", "evalue", "traceback") if key in content}
    redacted = {**content, **redactor.data(texts)}
    if isinstance(redacted.get("data"), dict):
        redacted["data"] = {
            kind: redactor.data(held) if kind.startswith(_TEXT_TYPES) else held
            for kind, held in redacted["data"].items()
        }
    return redacted


def execute(nb: NotebookNode, kernel_name: str, path: Path | None, setting: Setting) -> Any:
    """Run ``nb``, kept in ``path`` all the while, and return it executed.

    Raises NotebookError before anything runs when a parameter does not fit or ``path`` is taken;
    NotebookFailed or KernelLost when it did not end well.
    """
    meta = nb.metadata.get("papermill", {})
    where, passed = str(meta.get("input_path", "notebook")), meta.get("parameters", {})
    parameters = check_parameters(nb, passed, where=where, redactor=setting.redactor)
    run_dir = str(parameters.get("run_dir") or "")
    stamp = Stamp.of(Path(run_dir) if run_dir and Path(run_dir).exists() else None)
    document = Document(nb, path, redactor=setting.redactor, stamp=stamp)
    starting = setting.starting or setting.loop.submit(
        start_kernel(kernel_name, startup_timeout=setting.start_timeout)
    )
    try:
        ending = _run_cells(document, starting, setting, run_dir=run_dir)
    finally:
        setting.loop.submit(end_kernel(starting))
    if ending.status is NotebookStatus.FAILED:
        raise NotebookFailed(f"{where}: {ending.sentence}")
    if ending.status is not NotebookStatus.COMPLETED:
        raise KernelLost(f"{where}: {ending.sentence}")
    return document.nb


def _run_cells(
    document: Document, starting: Future[ReadyKernel], setting: Setting, *, run_dir: str
) -> Ending:
    """Run the cells and write down how that ended, also when a signal ends it."""
    execution = Execution(document, redactor=setting.redactor, cell_timeout=setting.cell_timeout)
    signalled: BaseException | None = None
    with _sigterm_raises():
        work = setting.loop.submit(execution.run(starting))
        try:
            ending = work.result()
        except (KeyboardInterrupt, SystemExit) as error:
            # First the file says what became of the cell, then the signal goes on its way.
            execution.stop("the runner was told to end")
            ending, signalled = work.result(timeout=_STOP_SECONDS), error
        shown = shown_run_dir(document.nb) or run_dir
        document.finish(ending, Stamp.of(Path(shown) if shown else None))
    if signalled is not None:
        raise signalled
    return ending


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) meanwhile, where signals can be had (the main thread) and
    nobody else hears this one."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(signum: int, frame: object) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
            signal_group(self._kernel.pid)

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
            # nbclient only interrupts, which a cell may swallow: what was given up must not go on.
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
    """Return the run directory the notebook's outputs say they show; empty when none does."""
    for cell in reversed(nb.cells):
        for output in cell.get("outputs", []):
            shown = output.get("metadata", {}).get(METADATA_KEY, {}).get("run_dir")
            if shown:
                return str(shown)
    return ""
