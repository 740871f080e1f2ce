"""Facts about show/live.py: what moves is whole lines, and whoever looks decides nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec import structs
from rich.cells import cell_len
from rich.console import Console

from ctp_runbook.model import State
from ctp_runbook.record.history import History, Transition
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import live
from ctp_runbook.show.live import JsonLines, Screen, Viewer, is_screen
from ctp_runbook.show.report import write_report
from ctp_runbook.show.standing import who_trades
from ctp_runbook.show.terminal import WatchNow, watch_now
from tests.props.synthetic_runs import keep_end_behind, make_run

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "runs"
SCHEMA = json.loads((ROOT / "infra" / "schemas" / "told.json").read_bytes())
RUNS = ("aborted", "completed", "drill", "failed", "late", "triggered", "unvalidated")
WATCHES = (State.WATCHING, State.HOLDING)


def moments(name: str) -> Iterator[tuple[RunDir, History]]:
    """A recorded run after each of its records."""
    run = RunDir(GOLDEN / name)
    history = History(())
    for record in read_journal(run.journal).records:
        history = history.then((record,))
        yield run, history


def screen_of(width: int = 80, height: int = 24) -> Screen:
    """A screen that nobody sees."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    return Screen(console)


def drawn(screen: Screen, mono: float) -> list[str]:
    """What moves, as lines without colours."""
    plain = Console(
        file=io.StringIO(), width=screen.console.width, height=screen.console.height, no_color=True
    )
    with plain.capture() as captured:
        plain.print(screen.picture(mono))
    return captured.get().splitlines()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("width", [80, 50])
def test_each_moment_of_a_run_is_whole_lines(name: str, width: int) -> None:
    """None is wider than the terminal, all fit on it, and the heading says where the run stands."""
    screen = screen_of(width)
    for run, history in moments(name):
        mono = history.records[-1].mono + 0.3
        screen(history)
        if history.state in WATCHES and history.watch_started:
            screen.watch(watch_now(run, history, mono=mono), mono)
        lines = drawn(screen, mono)
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= 15
        stands = history.outcome.value if history.outcome else history.state.value
        assert lines[0].startswith(stands)
        # Who trades stands below it, in the words of the notebooks' panel.
        if history.closed is None:
            assert lines[1][:45] == who_trades(history, mono=mono).words[:45]
        # Of one that is over there is nothing to leave.
        assert ("leaves the run going" in lines[-1]) is (history.closed is None)
    written = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[2J" not in written


def test_a_rollback_shows_what_fired_and_its_steps() -> None:
    """The budget that is left, the trigger, and each step with what it took, usually and at most."""
    screen = screen_of()
    screen.usual_seconds = {"stop_new_core_engine": 1.2}
    for _, history in moments("triggered"):
        screen(history)
        if history.step("stop_new_core_engine").attempt:
            break
    lines = drawn(screen, history.records[-1].mono + 0.5)
    assert lines[0].startswith("ROLLING_BACK for 0:0")
    assert "steps usually 0:01" in lines[0]
    assert lines[1].startswith("Nothing trades since ")
    assert lines[2].startswith("ROLLBACK: ")
    assert lines[3].startswith("rollback trigger: order_latency_p99_ms = ")
    assert lines[4].split()[:2] == ["✓", "stop_new_strategy_runner"]
    assert lines[5].split()[:2] == ["…", "stop_new_core_engine"]
    assert "0.5 s  usually 1.2 s  at most" in lines[5]
    assert [line.split()[0] for line in lines[6:-1]] == [
        "restore_previous_binaries",
        "restore_redis_bridge_compat",
        "start_previous_core_engine",
        "start_previous_strategy_runner",
        "post_rollback_validate",
    ]


def test_a_watch_of_many_metrics_keeps_the_worst_in_sight() -> None:
    """Fifty do not fit: those that are not well come first, and the rest is counted."""
    screen = screen_of()
    for _, history in moments("completed"):
        screen(history)
        if history.state is State.WATCHING and history.watch_started:
            break
    run = RunDir(GOLDEN / "completed")
    now = watch_now(run, history, mono=history.records[-1].mono + 2)
    many = tuple(
        structs.replace(
            now.metrics[0], name=f"metric_{n}", verdict="ERROR" if n == 47 else "PASSED"
        )
        for n in range(50)
    )
    mono = now.ends_mono - 100
    screen.watch(WatchNow(now.ends_mono, "ERROR", many), mono)
    lines = drawn(screen, mono)
    assert "1:40 left, ERROR so far" in lines[0]
    assert any(line.split()[:2] == ["!", "metric_47"] for line in lines)
    assert lines[-2].strip() == "and 35 more, none of them worse"
    assert len(lines) < 24


def test_above_it_a_sentence_keeps_its_words() -> None:
    """It goes on below its own beginning, and no word is cut in two."""
    screen = screen_of()
    for _, history in moments("triggered"):
        screen(history)
    lines = screen.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    console = Console(file=io.StringIO(), width=80)
    assert max(cell_len(console.render_str(line).plain) for line in lines) < 200  # with colours
    words = " ".join(" ".join(lines).split())
    assert "stop_old_core_engine" in words


@pytest.mark.parametrize("name", [*RUNS, "dry", "refused"])
def test_every_json_line_is_as_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The run first, a line a record, the watch, the end last; each one valid by itself."""
    run = RunDir(GOLDEN / name)
    *_, (_, history) = moments(name)
    voice = JsonLines(run, dry_run=history.is_dry_run)
    voice.say("a note")
    for _, so_far in moments(name):
        voice(so_far)
        if so_far.state in WATCHES and so_far.watch_started:
            mono = so_far.records[-1].mono + 1
            voice.watch(watch_now(run, so_far, mono=mono), mono)
    assert history.outcome is not None
    voice.end(history, history.outcome.exit_code)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for line in lines:
        validator.validate(line)
        assert line["dry_run"] is history.is_dry_run
    assert [line["event"] for line in lines[:2]] == ["note", "run"]
    records = [line for line in lines if line["event"] == "record"]
    assert [line["seq"] for line in records] == list(range(len(history.records)))
    end = lines[-1]
    assert (end["event"], end["outcome"]) == ("end", history.outcome.value)
    assert end["exit_code"] == history.outcome.exit_code
    assert not validator.is_valid({**end, "more": 1})
    assert not validator.is_valid({**end, "format": 2})


class Kept:
    """A voice that keeps what it is to tell, after doing what it is told to do."""

    look_seconds = 1.0

    def __init__(self, act: Any = lambda: None) -> None:
        self.usual_seconds: Mapping[str, float] = {}
        self.act, self.said, self.seqs = act, list[str](), list[int]()

    def __call__(self, history: History) -> None:
        """Keep the number of its last record."""
        self.seqs.append(history.records[-1].seq)
        self.act()

    def say(self, line: str) -> None:
        """Keep it."""
        self.said.append(line)

    def watch(self, now: WatchNow, mono: float) -> None:
        """Not asked for here."""

    def tick(self, mono: float) -> None:
        """Do it."""
        self.act()

    def close(self) -> None:
        """Do it."""
        self.act()


def test_a_run_that_is_over_at_once_is_told_whole(tmp_path: Path) -> None:
    """Whoever comes late is told all, and what was said meanwhile after it."""
    run = make_run("completed", tmp_path)
    voice = Kept()
    with Viewer(run, voice) as viewer:
        viewer.say("a notebook was executed")
    assert voice.said == ["a notebook was executed"]
    assert voice.seqs[-1] == read_journal(run.journal).records[-1].seq


def test_what_the_journal_had_no_room_for_is_told(tmp_path: Path) -> None:
    """A full disk silences no terminal, and a report that is made then says how the run ended."""
    run = make_run("rolled_back", tmp_path)
    last = read_journal(run.journal).records[-1].seq
    behind, voice = keep_end_behind(run), Kept()
    with Viewer(run, voice):
        pass
    assert voice.seqs[-1] == last
    page = write_report(run).read_text()
    assert "The run is not over" not in page
    assert f"journal record {last}, sha256 {digest_of(run.journal.read_bytes())}" in page
    behind.unlink()


def test_whatever_goes_wrong_with_the_view_ends_nothing(tmp_path: Path) -> None:
    """A terminal that is gone, a journal that is no more, an error of ours."""

    def fail() -> None:
        raise ValueError("torn")

    run = make_run("completed", tmp_path)
    with Viewer(run, Kept(fail)) as viewer:
        viewer.say("goes on")
    with Viewer(RunDir(tmp_path / "gone"), Kept()) as viewer:
        viewer.say("goes on")


def test_who_leaves_does_not_wait_for_a_terminal_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-S stops the picture: neither what is said nor leaving waits for it, and the code is true."""
    monkeypatch.setattr(live, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("sys.stdout", sys.stdout)
    ended = list[int]()
    monkeypatch.setattr("os._exit", ended.append)
    stopped, free = threading.Event(), threading.Event()

    def hang() -> None:
        stopped.set()
        free.wait(60)

    voice = Kept(hang)
    with pytest.raises(KeyboardInterrupt), Viewer(make_run("completed", tmp_path), voice) as viewer:  # noqa: PT012
        assert stopped.wait(60)
        viewer.say("said, and not waited for")
        raise KeyboardInterrupt
    assert voice.said == []
    live.end_beside_a_stuck_terminal(7)
    assert ended == [7]
    free.set()
    live._STUCK.pop().join(60)
    live.end_beside_a_stuck_terminal(7)
    assert ended == [7]


def test_a_reader_who_pauses_the_terminal_is_waited_for(tmp_path: Path) -> None:
    """The rest is told once they go on."""
    stopped, free = threading.Event(), threading.Event()

    def pause() -> None:
        stopped.set()
        free.wait(60)

    voice = Kept(pause)
    with Viewer(make_run("completed", tmp_path), voice) as viewer:
        assert stopped.wait(60)
        viewer.say("told in the end")
        threading.Timer(0.5, free.set).start()
    assert voice.said == ["told in the end"]


@pytest.mark.parametrize(
    ("terminal", "term", "encoding", "moves"),
    [
        (True, "xterm-256color", "utf-8", True),
        (False, "xterm-256color", "utf-8", False),
        (True, "dumb", "utf-8", False),
        (True, "xterm", "ascii", False),
    ],
)
def test_only_a_terminal_that_can_shows_what_moves(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, encoding: str, moves: bool
) -> None:
    """A log, a dumb terminal, one without UTF-8: they get lines."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", term)
    assert is_screen() is moves


def test_rich_is_loaded_where_there_is_a_terminal_alone() -> None:
    """Who follows a run without one does not pay for what draws."""
    code = "import sys; import ctp_runbook.show.live; print('rich' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_a_hold_shows_what_it_waits_for() -> None:
    """What runs out, why it holds, the metrics as they go on, and the words that decide."""
    screen = screen_of()
    for _, history in moments("completed"):
        screen(history)
        if history.state is State.WATCHING and history.watch_started:
            break
    now = watch_now(RunDir(GOLDEN / "completed"), history, mono=history.records[-1].mono + 2)
    entry = Transition(State.HOLDING, "no data\nfor 30 s", "", history.records[-1].mono_ns)
    screen._history = structs.replace(
        history, state=State.HOLDING, transitions=(*history.transitions, entry)
    )
    mono = history.records[-1].mono + 65
    screen.watch(now, mono)
    heading, trades, runs_out, why, *metrics, leave = drawn(screen, mono)
    assert trades == "The new stack trades"
    assert heading.startswith("HOLDING for 1:05, ")
    assert runs_out.startswith("HOLDING: rolls back in ")
    assert why == "no data for 30 s"
    assert len(metrics) == len(now.metrics)
    assert leave == "decide: ctp-runbook resume | rollback; Ctrl-C leaves the run going"
