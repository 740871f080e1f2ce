"""Executed notebooks as pages beside the run's report: for a reviewer who has no Jupyter.

Their cells and outputs and nothing else: no script, no address to fetch from. A page that cannot be
made is said and left out; the notebook itself is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING

from ctp_runbook._late import standing_in
from ctp_runbook.notebook.fork_server import NO_URI_GRAMMAR, PICTURES
from ctp_runbook.notebook.forked_kernel import ForkedKernel, fork_server
from ctp_runbook.record.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

__all__ = ["Drawing", "draw", "draw_when_asked", "render_notebooks"]

_TASK, _DRAW = f"{__name__}:draw_when_asked", "draw"
_LOOK_SECONDS = 0.05

_STYLE = """
:root{color-scheme:light dark}
body{max-width:1120px;margin:0 auto;padding:16px 24px;font:14px/1.45 system-ui,sans-serif}
.jp-InputPrompt,.jp-OutputPrompt,.prompt,.anchor-link{display:none}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px}
.highlight{background:rgba(127,127,127,.1);padding:4px 10px}
img{max-width:100%}[data-mime-type*="stderr"],.output_error{border-left:4px solid #D55E00}
@page{margin:12mm;@bottom-right{content:"page " counter(page) " of " counter(pages)}}
"""
_SCRIPT = re.compile(r"<script\b.*?</script\s*>|<link\b[^>]*>", re.DOTALL | re.IGNORECASE)


def draw(run: RunDir, *, rendered: dict[Path, str] | None = None) -> tuple[list[str], str]:
    """Make the pages of a run, and its report that links them; why a page is not there, and the
    report's path or why not. ``rendered``: what was said of pages that are there already.

    Raises JournalError where the journal does not hold together.
    """
    from ctp_runbook.show.report import write_report

    lacking = render_notebooks(run, rendered=rendered)
    try:
        return lacking, str(write_report(run))
    except OSError as error:
        return lacking, f"cannot be written: {error}"


class Drawing:
    """Pages and report of a run, made at its end by a process that makes itself ready meanwhile.

    It is forked from where the kernels are. Where there is none, they are made here.
    """

    def __init__(self, run: RunDir) -> None:
        """Have the process forked; it waits for a lock of ours, and goes where we are gone."""
        self._run = run
        self._pool = ThreadPoolExecutor(1)  # who forks may be importing still
        self._ordered: Future[ForkedKernel] | None = None
        self._asked: IO[str] | None = None
        with contextlib.suppress(OSError):
            server = fork_server()
            self._drawn = server.scratch / f"{run.run_id}.drawn"
            self._asked = (server.scratch / f"{run.run_id}.asked").open("w")
            fcntl.flock(self._asked, fcntl.LOCK_EX)
            words = [str(run.path), self._asked.name, str(self._drawn)]
            self._ordered = self._pool.submit(
                server.fork, words, env=os.environ, cwd=str(Path.cwd()), task=_TASK
            )

    def finish(self) -> tuple[list[str], str]:
        """Return why a page is not there, for each, and the report's path or why not."""
        with contextlib.suppress(OSError, ValueError):
            if self._ordered is not None and self._asked is not None:
                process = self._ordered.result()
                self._asked.write(_DRAW)
                self._asked.close()
                if process.wait() == 0:
                    lacking, report = json.loads(self._drawn.read_text(encoding="utf-8"))
                    return lacking, report
        return draw(self._run)

    def close(self) -> None:
        """Let the process go, which ends where it was asked for nothing."""
        if self._asked is not None:
            self._asked.close()
        self._pool.shutdown(wait=False)


def draw_when_asked(run: str, asked: str, drawn: str) -> None:
    """Load what draws, and draw once ``asked`` says so; leave in ``drawn`` what was said of it.

    A notebook behind which another one has begun is whole: its page is made meanwhile.
    What goes wrong ends this process with 1: whoever ordered it draws by itself then, and tells.
    """
    try:
        for name in PICTURES:
            importlib.import_module(name)
        _ = _exporter().template
        of, rendered = RunDir(Path(run)), dict[Path, str]()
        with Path(asked).open() as paper:
            while not _is_free(paper):
                _render_each(sorted(of.notebooks.glob("*.ipynb"))[:-1], rendered)
                time.sleep(_LOOK_SECONDS)
            if paper.read() != _DRAW:
                os._exit(1)
        Path(drawn).write_text(json.dumps(draw(of, rendered=rendered)), encoding="utf-8")
    except Exception:  # noqa: BLE001 - a foreign notebook may break any part of a renderer
        os._exit(1)


def _is_free(paper: IO[str]) -> bool:
    """Return True once whoever holds the lock of a file has let it go, in whichever way."""
    try:
        fcntl.flock(paper, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def render_notebooks(run: RunDir, *, rendered: dict[Path, str] | None = None) -> list[str]:
    """Write ``NAME.html`` beside each executed notebook of a run; why not, for each that could not be."""
    said = {} if rendered is None else rendered
    _render_each(sorted(run.notebooks.glob("*.ipynb")), said)
    return [why for why in said.values() if why]


def _render_each(paths: Iterable[Path], rendered: dict[Path, str]) -> None:
    """Render those that are not in ``rendered``, and note there what is wrong with each, if anything."""
    for path in paths:
        if path not in rendered:
            rendered[path] = _render(path)


def _render(path: Path) -> str:
    import html
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a picture without words: the notebook's affair
            body, _ = _exporter().from_filename(str(path))
        write_atomic(path.with_suffix(".html"), _page(html.escape(path.stem), body).encode())
    except Exception as error:  # noqa: BLE001 - a foreign notebook may break any part of a renderer
        return f"{path.name} is not rendered: {type(error).__name__}: {error}"
    return ""


@cache
def _exporter() -> HTMLExporter:
    """One for all pages: half of what a page costs is to read the template."""
    # Nobody is served a page from here.
    left_out = {"nbconvert.postprocessors": SimpleNamespace(), **NO_URI_GRAMMAR}
    with standing_in(left_out):
        from nbconvert.exporters.html import HTMLExporter

    return HTMLExporter(template_name="basic")  # type: ignore[no-untyped-call]


def _page(name: str, body: str) -> str:
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{name}</title><style>{_STYLE}</style></head><body>"
        f"<nav><a href='../report.html'>the run's report</a></nav>"
        f"<main>{_SCRIPT.sub('', body)}</main></body></html>\n"
    )
