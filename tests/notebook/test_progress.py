"""The line that moves while a notebook follows a run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ctp_runbook.notebook.engine import execute_notebook
from ctp_runbook.notebook.progress import LiveView, progress_sentence
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from tests.props.notebook_tools import outputs_text, write
from tests.props.synthetic_runs import completed_run


def cut(outputs: Path, marker: bytes) -> History:
    """A run's history up to the first record that holds ``marker``."""
    run = completed_run(outputs)
    records = read_journal(run.journal).records
    last = next(n for n, record in enumerate(records) if marker in record.line)
    return History.of(records[: last + 1])


@pytest.mark.parametrize(
    ("marker", "after", "said"),
    [
        (b'"kind":"run_created"', 1.0, "starting"),
        (b'"to":"READY"', 1.0, "on to READY"),
        (b'"step":"stop_old_core_engine"', 7.0, "stop_old_core_engine for 7 s"),
        (b'"kind":"watch_started"', 60.0, "60 s of 1800 s watched; no verdict yet"),
        (b'"kind":"judgement"', 60.0, "watched; so far PASSED"),
    ],
)
def test_the_line_says_what_is_being_done(
    marker: bytes, after: float, said: str, tmp_path: Path
) -> None:
    """The step under way and for how long, or how much of the window is watched."""
    history = cut(tmp_path, marker)
    mono = history.records[-1].mono_ns / 1e9 + after
    assert said in progress_sentence(history, mono=mono)


def test_outside_of_a_notebook_nothing_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same phases serve scripts, which see no widgets."""
    run = completed_run(tmp_path)
    with closing(LiveView(run, plot=True)) as view:
        view.show(cut(tmp_path / "again", b'"kind":"watch_started"'))
    assert capsys.readouterr().out == ""


LOOK = """
import os
os.environ.pop("CTP_RUNBOOK_HEADLESS", None)
from pathlib import Path
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.notebook.progress import LiveView
from ctp_runbook.record.rundir import RunDir
run = RunDir(Path(run_dir))
history = History.of(read_journal(run.journal).records)
view = LiveView(run, plot=True)
view.show(history)
"""


@pytest.mark.twin
@pytest.mark.parametrize("over", [False, True], ids=["watching", "over"])
def test_in_a_notebook_the_watch_is_drawn_while_it_runs(over: bool, tmp_path: Path) -> None:
    """Progress and plot stand in the cell's output, and are gone when the view is closed."""
    run = completed_run(tmp_path / "outputs")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if b'"kind":"watch_started"' in line)
    run.journal.write_bytes(b"".join(lines[: last + 1]))
    source = write(tmp_path / "in.ipynb", LOOK + ("view.close()" if over else ""))
    out = tmp_path / "out.ipynb"
    execute_notebook(source, out, parameters={"run_dir": str(run.path)})
    assert ("WATCHING" in outputs_text(out)) is not over
    assert ("image/png;base64" in out.read_text()) is not over
