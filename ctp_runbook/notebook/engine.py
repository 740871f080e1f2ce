"""papermill's engine for the runbook's notebooks, and the one way to run a single notebook.

papermill is imported late: it imports this module while it looks for engines, and a fork server
that is started first imports at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctp_runbook._late import LateModule, standing_in
from ctp_runbook.errors import NotebookError
from ctp_runbook.notebook.fork_server import NO_URI_GRAMMAR
from ctp_runbook.notebook.forked_kernel import ForkServerLost, fork_server
from ctp_runbook.notebook.setting import Setting
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.redact import Redactor

__all__ = ["ENGINE_NAME", "CutoverEngine", "execute_notebook", "gathered_redactor"]

ENGINE_NAME = "ctp_runbook"


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
        from ctp_runbook.notebook.execution import execute

        path = _local_path(nb, output_path)
        if path is not None:
            _keep_papermill_atomic(path)
        with contextlib.ExitStack() as ends:
            setting = kwargs.get("setting") or ends.enter_context(_own_setting(kwargs))
            return execute(nb, kernel_name, path, setting)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return the kernel that the notebook names. papermill's signature."""
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Return the language that the notebook names. papermill's signature."""
        from papermill.utils import nb_language

        return str(nb_language(nb, language))


@contextlib.contextmanager
def _own_setting(kwargs: Mapping[str, Any]) -> Iterator[Setting]:
    """What papermill's own arguments say, where it was not run_all who called."""
    from ctp_runbook.notebook.kernels import EventLoopThread

    with contextlib.closing(EventLoopThread()) as loop:
        yield Setting(
            loop=loop,
            redactor=gathered_redactor(),
            cell_timeout=kwargs.get("execution_timeout"),
            start_timeout=kwargs.get("start_timeout") or 60.0,
        )


def gathered_redactor() -> Redactor:
    """Return what this process can know of secrets: its environment and infra/env/."""
    return Redactor.gather(environ=os.environ, env_files=sorted(Path("infra/env").glob("*.env")))


def _local_path(nb: Any, output_path: str | None) -> Path | None:
    """The output as a local path; papermill names it in the metadata when it keeps it back."""
    named = output_path or nb.metadata.get("papermill", {}).get("output_path")
    if named is None:
        return None
    # A stream or a bucket cannot be replaced in one instant, and half a file claims too much.
    if named == "-" or "://" in named:
        raise NotebookError(
            f"output {named}: found no local file; expected one, for it must be replaced "
            "atomically; name a path"
        )
    # Inside papermill's --cwd a relative path still means the caller's directory.
    from papermill.iorw import papermill_io

    base = getattr(papermill_io.get_handler("local"), "_cwd", None) or Path.cwd()
    return Path(base) / named


def _keep_papermill_atomic(path: Path) -> None:
    """papermill writes a completed notebook once more by itself: have it written whole."""
    from papermill.iorw import LocalHandler, papermill_io

    class Atomic(LocalHandler):  # type: ignore[misc]
        def write(self, buf: str, path: str) -> None:
            write_atomic(Path(path), buf.encode())

    papermill_io.register(str(path), Atomic())


def execute_notebook(
    input_path: Path,
    output_path: Path,
    *,
    parameters: Mapping[str, Any],
    setting: Setting | None = None,
    cell_timeout: float | None = None,
) -> Any:
    """Run one notebook through papermill with CutoverEngine, and return it executed.

    Raises NotebookError when it is refused, NotebookFailed or KernelLost when it did not end
    well; ``output_path`` says so then as well.
    """
    with contextlib.suppress(ForkServerLost):
        fork_server()
    # Of where a notebook may lie, it is a local file here: papermill asks no bucket and no web.
    away = {"pyarrow": None, "requests": LateModule("requests")}
    with standing_in(away | NO_URI_GRAMMAR):
        import papermill
        from papermill.engines import papermill_engines
    papermill_engines.register(ENGINE_NAME, CutoverEngine)
    # It warns of what is refused here with a sentence.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    return papermill.execute_notebook(
        str(input_path),
        str(output_path.absolute()),
        parameters=dict(parameters),
        engine_name=ENGINE_NAME,
        progress_bar=False,
        setting=setting,
        execution_timeout=cell_timeout,
    )
