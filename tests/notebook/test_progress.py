"""The line that moves while a notebook follows a run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.notebook import progress
from ctp_runbook.notebook.controls import HEADLESS_VARIABLE
from ctp_runbook.notebook.engine import execute_notebook
from ctp_runbook.notebook.progress import LiveView, Waiting, progress_sentence
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Page, Picture
from tests.props.example_records import like
from tests.props.notebook_tools import outputs_text, write
from tests.props.synthetic_runs import completed_run, rolled_back_run


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


def test_a_rollback_is_not_shown_beside_a_watch_that_stands_well(tmp_path: Path) -> None:
    """The last picture of the watch goes when it is over."""
    run = rolled_back_run(tmp_path)
    records = read_journal(run.journal).records
    last = next(n for n, record in enumerate(records) if b'"to":"ROLLING_BACK"' in record.line)
    with closing(LiveView(run, plot=True)) as view:
        view._picture = [Picture(b"", "Watch window PASSED so far")]
        view.show(History.of(records[: last + 1]))
        assert view._picture == []


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


# --- the live view, with a handle that stands in for IPython's --------------------


class Handle:
    """Keeps what is shown, as a cell's output would."""

    def __init__(self) -> None:
        self.pages: list[Page] = []

    def update(self, page: Page) -> None:
        """Show another page in its place."""
        self.pages.append(page)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """What a notebook's cell shows, page after page; each look comes a minute after the last."""
    handle = Handle()
    clock = iter(range(0, 10_000, 60))

    def first(page: Page) -> Handle:
        handle.update(page)
        return handle

    monkeypatch.setattr(progress, "show", first)
    monkeypatch.setattr("ctp_runbook.notebook.progress.time.monotonic", lambda: float(next(clock)))
    monkeypatch.delenv(HEADLESS_VARIABLE, raising=False)
    return handle


def test_the_line_moves_and_goes_when_the_view_is_closed(tmp_path: Path, shown: Handle) -> None:
    """The last page is empty, and says which run it is about."""
    run = completed_run(tmp_path)
    history = cut(tmp_path / "again", b'"step":"stop_old_core_engine"')
    with closing(LiveView(run)) as view:
        view.show(history)
        view.show(history)
    first, second, last = shown.pages
    assert "stop_old_core_engine for" in first.text
    assert "SWITCHING at" in second.text
    assert (last.text, last.run_dir) == ("", str(run.path))


def test_a_run_that_is_over_has_no_line(tmp_path: Path, shown: Handle) -> None:
    """There is nothing to wait for: the page that follows says how it ended."""
    run = completed_run(tmp_path)
    with closing(LiveView(run, plot=True)) as view:
        view.show(History.of(read_journal(run.journal).records))
    assert shown.pages == []


def test_the_line_moves_no_more_often_than_a_person_reads(
    tmp_path: Path, shown: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten looks in one second are two or three pages: each is a message to a browser."""
    run = completed_run(tmp_path)
    looks = iter(n / 10 for n in range(10))
    monkeypatch.setattr("ctp_runbook.notebook.progress.time.monotonic", lambda: next(looks))
    view, ready = LiveView(run), cut(tmp_path / "again", b'"to":"READY"')
    for _ in range(10):
        view.show(ready)
    assert len(shown.pages) == 2


def test_a_hold_says_how_to_decide(tmp_path: Path, shown: Handle) -> None:
    """In a terminal and in another notebook: the one that follows the run is busy."""
    run = completed_run(tmp_path)
    history = held(tmp_path / "held")
    LiveView(run).show(history)
    (page,) = shown.pages
    assert page.text.startswith("! HOLDING at")
    assert f"`ctp-runbook resume|rollback --run {run.path}`" in page.text
    assert "phases.steer('resume', reason='…')" in page.text


def held(folder: Path) -> History:
    """A run that holds."""
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl", durable=False)
    journal.append(like("run_created"))
    journal.append(like("state", to="HOLDING", reason="no data"))
    journal.close()
    return History.of(journal.records)


def test_a_headless_notebook_draws_no_plot_while_it_waits(
    tmp_path: Path, shown: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks: the time is the run's, and the page at the end has the picture."""
    run = completed_run(tmp_path)
    watching = cut(tmp_path / "again", b'"kind":"judgement"')
    monkeypatch.setenv(HEADLESS_VARIABLE, "1")
    LiveView(run, plot=True).show(watching)
    (page,) = shown.pages
    assert "picture" not in page.text


def test_the_plot_is_drawn_when_it_is_due_and_kept_meanwhile(
    tmp_path: Path, shown: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few seconds; between them the same picture stands below a line that moves."""
    run = completed_run(tmp_path)
    watching = cut(tmp_path / "again", b'"kind":"judgement"')
    drawn: list[float] = []

    def picture(*_: Any, dpi: int, **__: Any) -> Picture:
        drawn.append(dpi)
        return Picture(b"png", f"drawing {len(drawn)}")

    looks = iter([100.0, 100.0, 102.0, 106.0, 106.0])
    monkeypatch.setattr("ctp_runbook.notebook.progress.time.monotonic", lambda: next(looks))
    monkeypatch.setattr("ctp_runbook.show.watch_figure.watch_picture", picture)
    view = LiveView(run, plot=True)
    for _ in range(3):
        view.show(watching)
    assert ["drawing 1" in page.text for page in shown.pages] == [True, True, False]
    assert drawn == [80, 80]


def test_a_sample_in_the_middle_of_its_write_costs_one_picture(
    tmp_path: Path, shown: Handle
) -> None:
    """The line goes on without it; the next look will do."""
    run = completed_run(tmp_path)
    run.samples.write_bytes(b'{"half":')
    LiveView(run, plot=True).show(cut(tmp_path / "again", b'"kind":"watch_started"'))
    (page,) = shown.pages
    assert "watched; no verdict yet" in page.text
    assert "picture" not in page.text


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch, shown: Handle) -> list[str]:
    """Somebody looks on; what becomes of their buttons. What the panel tells is kept as pages are."""
    told: list[str] = []

    class Buttons:
        def __init__(self, run: RunDir, history: History) -> None:
            told.append("made")

        def display(self) -> None:
            told.append("displayed")

        def show(self, history: History) -> None:
            told.append(history.state.value)

        def tell(self, page: Page, drawn: Page) -> None:
            shown.update(Page([*page.blocks, *drawn.blocks]))

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr(progress, "is_person_there", lambda: True)
    monkeypatch.setattr(progress, "Controls", Buttons)
    return told


def test_a_person_sees_who_trades_and_the_steps(
    tmp_path: Path, shown: Handle, person: list[str]
) -> None:
    """With the buttons, which go with the view."""
    with closing(LiveView(completed_run(tmp_path))) as view:
        view.show(cut(tmp_path / "again", b'"step":"stop_old_core_engine"'))
    (first,) = shown.pages
    assert "Nothing trades since" in first.text
    assert "… stop_old_core_engine" in first.text
    assert "start_new_core_engine" in first.text
    assert person == ["made", "displayed", "SWITCHING", "closed"]


def test_a_person_sees_each_metric_beside_its_limit(
    tmp_path: Path, shown: Handle, person: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the look at the samples that the picture is drawn of."""
    run = completed_run(tmp_path)
    watching = cut(tmp_path / "again", b'"kind":"judgement"')
    last = watching.records[-1].mono
    monkeypatch.setattr("ctp_runbook.notebook.progress.time.monotonic", lambda: last + 60)
    monkeypatch.setattr(
        "ctp_runbook.show.watch_figure.watch_picture", lambda *_, **__: Picture(b"png", "drawing")
    )
    LiveView(run, plot=True).show(watching)
    (page,) = shown.pages
    assert "left to watch" in page.text
    assert "order_latency_p99_ms" in page.text
    assert "≤ 5 ms" in page.text


def test_a_person_who_holds_is_pointed_at_no_terminal(
    tmp_path: Path, shown: Handle, person: list[str]
) -> None:
    """The buttons are above."""
    LiveView(completed_run(tmp_path)).show(held(tmp_path / "held"))
    (page,) = shown.pages
    assert "HOLDING at" in page.text
    assert "phases.steer" not in page.text


def test_a_dry_run_has_no_buttons(tmp_path: Path, shown: Handle, person: list[str]) -> None:
    """It does nothing to hold, abort or roll back."""
    run = completed_run(tmp_path, dry_run=True)
    records = read_journal(run.journal).records
    LiveView(run).show(History.of(records[:3]))
    assert person == []


# --- waiting ----------------------------------------------------------------------


@Waiting
def three_looks(seconds: float, *, told: list[str]) -> Generator[float, None, str]:
    """What a phase is made of."""
    try:
        for look in range(3):
            told.append(f"look {look}")
            yield seconds
    except KeyboardInterrupt:
        told.append("interrupted")
        return "detached"
    return "over"


def test_what_is_called_and_what_is_awaited_do_the_same() -> None:
    """The same looks, the same result, the same signature."""
    called: list[str] = []
    awaited: list[str] = []
    assert three_looks(0.0, told=called) == "over"
    assert asyncio.run(three_looks.live(0.0, told=awaited)) == "over"
    assert called == awaited == ["look 0", "look 1", "look 2"]
    assert list(inspect.signature(three_looks).parameters) == ["seconds", "told"]
    assert three_looks.__doc__ == "What a phase is made of."


def test_others_have_their_turn_while_a_phase_is_awaited() -> None:
    """Between two looks."""
    told: list[str] = []

    async def beside() -> None:
        told.append("beside")

    async def both() -> None:
        await asyncio.gather(three_looks.live(0.01, told=told), beside())

    asyncio.run(both())
    assert told == ["look 0", "beside", "look 1", "look 2"]


def test_whoever_interrupts_a_wait_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C where it blocks; a cancelled cell where it is awaited, and the cell still has its result."""
    told: list[str] = []

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    async def cancelled() -> str:
        waiting = asyncio.ensure_future(three_looks.live(60.0, told=told))
        await asyncio.sleep(0.01)
        waiting.cancel()
        return await waiting

    assert asyncio.run(cancelled()) == "detached"
    with monkeypatch.context() as patch:
        patch.setattr("ctp_runbook.notebook.progress.time.sleep", interrupted)
        assert three_looks(60.0, told=told) == "detached"
    assert told == ["look 0", "interrupted"] * 2
