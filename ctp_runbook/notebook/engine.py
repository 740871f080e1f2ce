"""papermill's engine for the runbook's notebooks, and the one way to run a single notebook.

papermill is imported late: it imports this module while it looks for engines, and a fork server
that is started first imports at the same time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import NotebookError
from ctp_runbook.notebook.forked_kernel import ForkServerLost, fork_server
from ctp_runbook.redact import Redactor

if TYPE_CHECKING:
    from ctp_runbook.notebook.document import Document, Ending
    from ctp_runbook.notebook.kernels import EventLoopThread, ReadyKernel

__all__ = [
    "ENGINE_NAME",
    "CutoverEngine",
    "KernelLost",
    "NotebookFailed",
    "Setting",
    "end_kernel",
    "execute_notebook",
    "gathered_redactor",
]

ENGINE_NAME = "ctp_runbook"
_STOP_SECONDS = 15.0


class NotebookFailed(NotebookError):
    """A cell raised, or called sys.exit; the cells after it did not run."""


class KernelLost(NotebookError):
    """The kernel died, timed out or was ended; the run it was looking at goes on without it."""


@dataclass(frozen=True)
class Setting:
    """What running a notebook needs from whoever runs it: where kernels live, and a kernel of
    its own that may be starting already."""

    loop: EventLoopThread
    redactor: Redactor
    starting: Future[ReadyKernel] | None = None
    cell_timeout: float | None = None
    start_timeout: float = 60.0


class CutoverEngine:
    """papermill's engine interface: ``papermill --engine ctp_runbook IN OUT``.

    It derives from none of papermill's classes, so that papermill can be imported first or last.
    """

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, **kwargs: Any
    ) -> Any:
        """Run ``nb`` and keep ``output_path`` whole and true. papermill's signature.

        Raises NotebookError before anything runs when parameters or output path do not do;
        NotebookFailed or KernelLost when the notebook did not end well.
        """
        setting = kwargs.get("setting")
        if isinstance(setting, Setting):
            return _execute(nb, kernel_name, _local_path(nb, output_path), setting)
        with _own_setting(kwargs) as own:
            return _execute(nb, kernel_name, _local_path(nb, output_path), own)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """The kernel the notebook names. papermill's signature."""
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """The language the notebook names. papermill's signature."""
        from papermill.utils import nb_language

        return str(nb_language(nb, language))


@contextlib.contextmanager
def _own_setting(kwargs: Mapping[str, Any]) -> Iterator[Setting]:
    """What papermill's own arguments say, where it was not run_all who called."""
    from ctp_runbook.notebook.kernels import event_loop_thread

    with event_loop_thread() as loop:
        yield Setting(
            loop=loop,
            redactor=gathered_redactor(),
            cell_timeout=kwargs.get("execution_timeout"),
            start_timeout=kwargs.get("start_timeout") or 60.0,
        )


def gathered_redactor() -> Redactor:
    """What this process can know of secrets: its environment and infra/env/."""
    return Redactor.gather(environ=os.environ, env_files=sorted(Path("infra/env").glob("*.env")))


def _local_path(nb: Any, output_path: str | None) -> Path | None:
    """The output as a local path; papermill names it in the metadata when it keeps it back."""
    named = output_path or nb.metadata.get("papermill", {}).get("output_path")
    if named is None:
        return None
    if named == "-" or "://" in named:
        raise NotebookError(
            f"output {named}: found no local file; expected one, for it must be replaced "
            "atomically; name a path"
        )
    # Inside papermill's --cwd a relative path still means the caller's directory.
    from papermill.iorw import papermill_io

    base = getattr(papermill_io.get_handler("local"), "_cwd", None) or Path.cwd()
    return Path(base) / named


def _execute(nb: Any, kernel_name: str, path: Path | None, setting: Setting) -> Any:
    from ctp_runbook.notebook.document import Document, Stamp
    from ctp_runbook.notebook.kernels import start_kernel

    meta = nb.metadata.get("papermill", {})
    where = str(meta.get("input_path", "notebook"))
    run_dir = _checked_run_dir(nb, meta.get("parameters", {}), where, setting.redactor)
    stamp = Stamp.of(Path(run_dir)) if run_dir and Path(run_dir).exists() else Stamp()
    document = Document(nb, path, redactor=setting.redactor, stamp=stamp)
    if path is not None:
        _keep_papermill_atomic(path)
    starting = setting.starting or setting.loop.submit(
        start_kernel(kernel_name, startup_timeout=setting.start_timeout, cwd=str(Path.cwd()))
    )
    try:
        ending = _run_cells(document, starting, setting, run_dir=run_dir)
    finally:
        end_kernel(starting, setting.loop)
    _raise_unless_completed(ending, where=where)
    return document.nb


def _checked_run_dir(nb: Any, given: Mapping[str, Any], where: str, redactor: Redactor) -> str:
    """Refuse parameters that do not fit; the run directory the cells will be told, if any."""
    from ctp_runbook.notebook.parameters import check_parameters, effective_parameters

    declared = check_parameters(nb, given, where=where, redactor=redactor)
    return str(effective_parameters(declared, given).get("run_dir") or "")


def _run_cells(
    document: Document, starting: Future[ReadyKernel], setting: Setting, *, run_dir: str
) -> Ending:
    """Run the cells and write down how that ended, also when a signal ends it."""
    from ctp_runbook.notebook.document import Stamp
    from ctp_runbook.notebook.execution import Execution, shown_run_dir

    execution = Execution(document, redactor=setting.redactor, cell_timeout=setting.cell_timeout)
    signalled: BaseException | None = None
    with _sigterm_raises():
        work = setting.loop.submit(execution.run(starting))
        try:
            ending = work.result()
        except (KeyboardInterrupt, SystemExit) as error:
            execution.stop("the runner was told to end")
            ending, signalled = work.result(timeout=_STOP_SECONDS), error
        shown = shown_run_dir(document.nb) or run_dir
        document.finish(ending, Stamp.of(Path(shown) if shown else None))
    if signalled is not None:
        raise signalled
    return ending


def _raise_unless_completed(ending: Ending, *, where: str) -> None:
    from ctp_runbook.notebook.document import NotebookStatus

    if ending.status is NotebookStatus.FAILED:
        raise NotebookFailed(f"{where}: {ending.sentence}")
    if ending.status is not NotebookStatus.COMPLETED:
        raise KernelLost(f"{where}: {ending.sentence}")


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) meanwhile, where signals can be had (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_kernel(starting: Future[ReadyKernel], loop: EventLoopThread) -> None:
    """Have the kernel ended in the loop; the loop does not close before that is done."""

    async def end() -> None:
        import asyncio

        with contextlib.suppress(RuntimeError, OSError):
            kernel = await asyncio.wrap_future(starting)
            await kernel.end()

    loop.submit(end())


def _keep_papermill_atomic(path: Path) -> None:
    """papermill writes a completed notebook once more by itself: have it written whole."""
    from papermill.iorw import LocalHandler, papermill_io

    from ctp_runbook.record.rundir import write_atomic

    class Atomic(LocalHandler):  # type: ignore[misc]
        def write(self, buf: str, path: str) -> None:
            write_atomic(Path(path), buf.encode())

    papermill_io.register(str(path), Atomic())


@contextlib.contextmanager
def _without_uri_grammar() -> Iterator[None]:
    """Import papermill's dependencies without compiling a grammar of 1 s that nothing here uses.

    jsonschema checks URI formats when rfc3987_syntax can be imported, and does without
    otherwise; notebooks are checked by fastjsonschema.
    """
    name = "rfc3987_syntax"
    if "jsonschema" in sys.modules or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def execute_notebook(
    input_path: Path,
    output_path: Path,
    *,
    parameters: Mapping[str, Any],
    setting: Setting | None = None,
    cell_timeout: float | None = None,
) -> Any:
    """Run one notebook through papermill with CutoverEngine; the executed notebook.

    Raises NotebookError when it is refused, NotebookFailed or KernelLost when it did not end
    well; ``output_path`` says so then as well.
    """
    with contextlib.suppress(ForkServerLost):
        fork_server()
    with _without_uri_grammar():
        import papermill
        from papermill.engines import papermill_engines
    papermill_engines.register(ENGINE_NAME, CutoverEngine)
    if output_path.exists():
        raise NotebookError(
            f"output {output_path} exists; executed notebooks are never written over: "
            "choose another output path, or move the file away"
        )
    extra = {"setting": setting} if setting is not None else {"execution_timeout": cell_timeout}
    with _quiet_papermill():
        return papermill.execute_notebook(
            str(input_path),
            str(output_path.absolute()),
            parameters=dict(parameters),
            engine_name=ENGINE_NAME,
            progress_bar=False,
            **extra,
        )


@contextlib.contextmanager
def _quiet_papermill() -> Iterator[None]:
    """papermill warns of what is refused here with a sentence."""
    import logging

    log = logging.getLogger("papermill")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
