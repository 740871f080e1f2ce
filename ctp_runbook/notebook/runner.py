"""The seven notebooks, headless: a run is made and started, and each notebook looks at it in turn."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import NotebookError
from ctp_runbook.notebook.engine import execute_notebook
from ctp_runbook.notebook.forked_kernel import ForkServerLost, fork_server
from ctp_runbook.notebook.setting import KernelLost, Setting
from ctp_runbook.redact import Redactor
from ctp_runbook.show.blocks import symbol_of

if TYPE_CHECKING:
    from ctp_runbook.notebook.kernels import ReadyKernel
    from ctp_runbook.plan.plan import Plan
    from ctp_runbook.record.history import History
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.run.launch import RunOptions

__all__ = ["NOTEBOOKS", "NotebookResult", "run_all"]

NOTEBOOKS = (
    "01_plan",
    "02_infra_gate",
    "03_readiness_gate",
    "04_switch",
    "05_watch",
    "06_rollback",
    "07_verify",
)
_PARAMETERS = {
    "01_plan": ("cutover_template", "rollback_template", "execute"),
    "04_switch": ("go",),
}
# A reviewer needs these whatever came before.
_ALWAYS = ("06_rollback", "07_verify")
_LEFT = 7
_AHEAD = 4


@dataclass(frozen=True)
class NotebookResult:
    """How one notebook of a run ended: completed, failed, lost or not_run, and why."""

    name: str
    status: str
    sentence: str
    seconds: float

    @property
    def line(self) -> str:
        """``✓ 05_watch executed in 1.2 s`` or ``✗ 05_watch failed: …``."""
        start = f"{symbol_of(self.status)} {self.name}"
        if self.status == "completed":
            return f"{start} executed in {self.seconds:.1f} s"
        return f"{start} {self.status.replace('_', ' ')}: {self.sentence}"


def run_all(
    *,
    cutover_template: Path,
    rollback_template: Path,
    options: RunOptions,
    limits: Path | None = None,
    watch: Path | None = None,
    notebooks_dir: Path | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
    on_made: Callable[[RunDir], None] = lambda run: None,
) -> int:
    """Make a run, start it, and execute the seven notebooks on it; the run's exit code.

    Notebooks only look: when one fails or is lost the run goes on, and so do those after it that
    a reviewer needs. Raises InputError, PlanRefused or RunRefused when nothing was started.
    """
    with contextlib.suppress(ForkServerLost):
        fork_server()
    from ctp_runbook.notebook.checkout import find_notebooks, find_plan
    from ctp_runbook.notebook.pages import Drawing
    from ctp_runbook.record.evidence import kept_open
    from ctp_runbook.run import launch
    from ctp_runbook.show.run_blocks import outcome_sentence
    from ctp_runbook.show.terminal import ending_facts

    if options.execute is not True:
        on_progress = _as_dry_run(on_progress)
    sources = notebooks_dir or find_notebooks()
    plan = find_plan(cutover_template, rollback_template, limits=limits, watch=watch)
    with contextlib.ExitStack() as held:

        def tell(run: RunDir) -> None:
            # From before it starts: whoever closes it must see that notebooks are to come.
            held.enter_context(kept_open(run, tell=on_progress))
            on_made(run)
            on_progress(f"run {run.run_id}: {run.path}")

        run = launch.begin(plan, options, reason="run --execute", tell=tell)
        drawing = held.enter_context(contextlib.closing(Drawing(run)))
        series = _Series(run, sources, _known(run, plan, options), plan.redactor, on_progress)
        try:
            series.run()
        except KeyboardInterrupt:
            return _leave(run, on_progress)
        lacking, report = drawing.finish()
        for why in lacking:
            on_progress(why)
    # The seal was last: it covers the notebooks and the report.
    history = launch.read_history(run)
    facts = ending_facts(history) if history.closed else ()
    for line in (*history.would_refuse, *facts, outcome_sentence(history), f"report: {report}"):
        on_progress(line)
    return _exit_code(history, series.results)


def _as_dry_run(on_progress: Callable[[str], None]) -> Callable[[str], None]:
    """Say of each line, wherever it is read later, that nothing was done."""
    return lambda line: on_progress(f"DRY RUN {line}")


def _known(run: RunDir, plan: Plan, options: RunOptions) -> dict[str, Any]:
    """All that any of the notebooks may ask for."""
    return {
        "run_dir": str(run.path),
        "cutover_template": str(plan.cutover_template),
        "rollback_template": str(plan.rollback_template),
        "execute": options.execute,
        "go": options.execute,
    }


def _leave(run: RunDir, on_progress: Callable[[str], None]) -> int:
    """Say how to come back to a run that goes on without this viewer."""
    from ctp_runbook.run import launch

    history = launch.read_history(run)
    on_progress(launch.left_sentence(run, history))
    return history.outcome.exit_code if history.outcome is not None else _LEFT


def _exit_code(history: History, results: Sequence[NotebookResult]) -> int:
    """The run's own; 2 where it says 0 and a notebook found something wrong."""
    code = history.outcome.exit_code if history.outcome else _LEFT
    return 2 if code == 0 and any(result.status == "failed" for result in results) else code


class _Series:
    """The seven notebooks one after the other, the next ones' kernels starting meanwhile."""

    def __init__(
        self,
        run: RunDir,
        sources: Path,
        known: Mapping[str, Any],
        redactor: Redactor,
        on_progress: Callable[[str], None],
    ) -> None:
        self._run, self._sources, self._known = run, sources, known
        self._redactor, self._on_progress = redactor, on_progress
        self._blocked = ""
        self.results: list[NotebookResult] = []

    def run(self) -> None:
        """Execute all; one that may not run is written as a copy that says NOT RUN."""
        from ctp_runbook.notebook.kernels import EventLoopThread, end_kernel, living_kernel

        with contextlib.closing(EventLoopThread()) as loop:
            starting: deque[Future[ReadyKernel]] = deque()
            try:
                for at, name in enumerate(NOTEBOOKS):
                    if self._blocked and name not in _ALWAYS:
                        self._leave_out(name)
                        continue
                    # Kernels of those to come start while this one runs: that is the time that
                    # they would be waited for, and most of it is a wait of theirs.
                    while len(starting) < min(1 + _AHEAD, len(NOTEBOOKS) - at):
                        starting.append(loop.submit(self._start_kernel()))
                    kernel = loop.submit(
                        living_kernel(starting.popleft(), start=self._start_kernel)
                    )
                    self._execute(name, Setting(loop, self._redactor, kernel))
            except (KeyboardInterrupt, SystemExit):
                self._blocked = "the runner was told to end"
                for name in NOTEBOOKS[len(self.results) + 1 :]:
                    self._leave_out(name)
                raise
            finally:
                for kernel in starting:
                    loop.submit(end_kernel(kernel))

    def _start_kernel(self) -> Coroutine[Any, Any, ReadyKernel]:
        from ctp_runbook.notebook.controls import HEADLESS_VARIABLE
        from ctp_runbook.notebook.kernels import start_kernel

        cwd = str(Path.cwd())
        env = {**os.environ, HEADLESS_VARIABLE: "1", "CTP_RUNBOOK_HOME": cwd}
        return start_kernel(env=env, cwd=cwd)

    def _execute(self, name: str, setting: Setting) -> None:
        began = time.monotonic()
        status, sentence = "completed", ""
        try:
            execute_notebook(
                self._sources / f"{name}.ipynb",
                self._run.notebooks / f"{name}.ipynb",
                parameters=self._parameters_of(name),
                setting=setting,
            )
        except KernelLost as error:
            status, sentence = "lost", str(error)
        except NotebookError as error:
            status, sentence = "failed", str(error)
            self._blocked = self._blocked or f"{name} failed"
        self._note(NotebookResult(name, status, sentence, time.monotonic() - began))

    def _parameters_of(self, name: str) -> dict[str, Any]:
        """What the contract gives this notebook of all that is known."""
        return {key: self._known[key] for key in ("run_dir", *_PARAMETERS.get(name, ()))}

    def _leave_out(self, name: str) -> None:
        import nbformat

        from ctp_runbook.notebook.document import Document, Ending, NotebookStatus, Stamp

        source = (self._sources / f"{name}.ipynb").read_text(encoding="utf-8")
        nb = nbformat.reads(source, as_version=4)  # type: ignore[no-untyped-call]
        path, stamp = self._run.notebooks / f"{name}.ipynb", Stamp.of(self._run.path)
        document = Document(nb, path, redactor=self._redactor, stamp=stamp)
        document.finish(Ending(NotebookStatus.NOT_RUN, self._blocked), stamp)
        self._note(NotebookResult(name, "not_run", self._blocked, 0.0))

    def _note(self, result: NotebookResult) -> None:
        self.results.append(result)
        self._on_progress(result.line)
