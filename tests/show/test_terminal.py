"""Facts about show/terminal.py: a record that matters is one line, told once; what runs out, seconds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from ctp_runbook.model import StepStatus
from ctp_runbook.notebook.progress import progress_sentence
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.show.terminal import Narrator, countdown, sentence_of
from tests.props.example_records import EXAMPLES, like

STEP = {"step": "precheck", "phase": "gate"}
ENDED = {**STEP, "reason": "exit 0", "duration_ms": 1234.5}
JUDGED = {
    "overall": "INCONCLUSIVE",
    "metrics": {
        "a": {"verdict": "PASSED", "sentence": "a PASSED: worst 1"},
        "b": {"verdict": "INCONCLUSIVE", "sentence": "b INCONCLUSIVE: warming up"},
    },
}
SINCE = "2026-02-02T10:00:00.000000+00:00"
# Of each kind of record what it says, and the line that an operator reads of it; blank: none.
LINES: dict[str, tuple[Mapping[str, Any], str]] = {
    "state": ({"to": "GATING", "reason": "the gates begin"}, "» GATING: the gates begin"),
    "step_started": ({**STEP, "timeout_seconds": 60.0}, "  … precheck (at most 60 s)"),
    "step_ended": ({**ENDED, "status": "ok"}, "  ✓ precheck ok in 1.2 s: exit 0"),
    "step_not_done": (
        {**STEP, "status": "skipped", "reason": "it runs and is kept"},
        "  – precheck skipped: it runs and is kept",
    ),
    "judgement": (JUDGED, "  · watch INCONCLUSIVE so far: b INCONCLUSIVE: warming up"),
    "trigger": ({"cause": "metric", "sentence": "m = 9 ms"}, "✗ m = 9 ms"),
    "finding": ({"severity": "warning", "sentence": "no unit"}, "! no unit"),
    "watch_gap": ({"from_utc": SINCE}, "! the watch has a gap since 10:00:00Z"),
    "watch_disturbed": ({"what": "paused", "sentence": "it stood still"}, "! it stood still"),
    "control": ({"request": "hold", "by": "ops", "reason": "spreads"}, "» hold by ops spreads"),
    "answer": ({"obeyed": False, "sentence": "it is over"}, "  ! go: it is over"),
    "alert": (
        {"hooks": ["CALL", "MAIL"], "sentence": "it holds"},
        "! alert (CALL, MAIL): it holds",
    ),
    "alert_ended": (
        {"ok": False, "sentence": "exit 1", "hook": "CALL", "took_ms": 1500.0},
        "  · alert by CALL NOT delivered: exit 1 after 1.5 s",
    ),
    "rollback_started": (
        {"budget_seconds": 60.0, "shares": {"one": 20.0, "other": 40.0}},
        "  budget 60 s from the trigger: one 20 s, other 40 s",
    ),
    "parent": ({"run_id": "r1"}, "» rolls back run r1 (COMPLETED)"),
    "closed": (
        {"outcome": "COMPLETED", "sentence": "the new generation trades"},
        "» COMPLETED: the new generation trades",
    ),
}
# What only a verifier needs, or what is told by the record that follows.
UNTOLD = (
    "run_created",
    "orchestrator_started",
    "guardian_started",
    "identity",
    "probe",
    "act_started",
    "act_ended",
    "trading_state",
    "baseline_ended",
    "watch_started",
    "watch_ended",
)


def record(folder: Path, kind: str, payload: Mapping[str, Any]) -> Record:
    """The record as a journal has it."""
    journal = Journal(folder / f"{kind}.jsonl", durable=False)
    made = journal.append(like(kind, **payload))
    journal.close()
    return made


def example(kind: str) -> Mapping[str, Any]:
    """What a record of the kind may say."""
    facts: Mapping[str, Any] = msgspec.to_builtins(EXAMPLES[kind])
    return facts


@pytest.mark.parametrize("kind", LINES)
def test_each_record_has_its_line(kind: str, tmp_path: Path) -> None:
    """What an operator is told of it; nothing of what only a verifier needs."""
    payload, line = LINES[kind]
    assert sentence_of(record(tmp_path, kind, payload)) == line


@pytest.mark.parametrize("kind", UNTOLD)
def test_what_needs_no_line_has_none(kind: str, tmp_path: Path) -> None:
    """A terminal shows what happens, not all that is written down."""
    assert sentence_of(record(tmp_path, kind, {})) == ""


def test_every_kind_of_record_is_thought_of() -> None:
    """A new kind is put with those that have a line, or with those that need none."""
    assert sorted([*LINES, *UNTOLD]) == sorted(EXAMPLES)


@pytest.mark.parametrize("kind", ["step_ended", "finding", "control", "state", "closed"])
def test_what_a_step_printed_moves_no_cursor(kind: str, tmp_path: Path) -> None:
    """Whoever looks on sees one line of text, whatever a command or a person wrote into it."""
    nasty = "\x1b[2J\x1b]0;owned\x07 fine\r\n✓ all is well\u202e"
    facts = {name: nasty for name in ("reason", "sentence") if name in example(kind)}
    line = sentence_of(record(tmp_path, kind, facts))
    assert facts
    assert line.isprintable()
    assert "\\x1b[2J" in line


@pytest.mark.parametrize(("severity", "mark"), [("info", "!"), ("warning", "!"), ("critical", "✗")])
def test_a_critical_finding_looks_like_a_failure(severity: str, mark: str, tmp_path: Path) -> None:
    """It is red where others are yellow."""
    finding = {"severity": severity, "sentence": "look"}
    assert sentence_of(record(tmp_path, "finding", finding)) == f"{mark} look"


def test_an_answer_that_was_obeyed_and_an_alert_that_arrived_say_so(tmp_path: Path) -> None:
    """The other half of the two lines above."""
    obeyed = {"obeyed": True, "sentence": "it begins"}
    assert sentence_of(record(tmp_path, "answer", obeyed)) == "  » go: it begins"
    told = sentence_of(record(tmp_path, "alert_ended", {"hook": "CALL", "took_ms": 200.0}))
    assert told == "  · alert by CALL delivered after 0.2 s"


def test_a_request_without_a_reason_ends_with_who(tmp_path: Path) -> None:
    """No space is left over."""
    given = {"request": "go", "by": "ops", "reason": ""}
    assert sentence_of(record(tmp_path, "control", given)) == "» go by ops"


@pytest.mark.parametrize("status", StepStatus)
def test_every_status_has_a_mark(status: StepStatus, tmp_path: Path) -> None:
    """Good, bad, unknown and not done can be told apart by the first character."""
    ran = status in ("ok", "failed", "timed_out", "unknown")
    kind, more = ("step_ended", ENDED) if ran else ("step_not_done", STEP)
    line = sentence_of(record(tmp_path, kind, {**more, "status": status.value}))
    expected = {"ok": "✓", "simulated_ok": "○", "failed": "✗", "timed_out": "✗", "unknown": "?"}
    assert line.strip()[0] == expected.get(status, "–")


def test_each_record_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A narrator that is shown the growing history prints what is new."""
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    tell = Narrator()
    for kind in ("state", "probe", "closed"):
        journal.append(like(kind, **(LINES[kind][0] if kind in LINES else {})))
        tell(History.of(journal.records))
        tell(History.of(journal.records))
    journal.close()
    assert capsys.readouterr().out.splitlines() == [LINES["state"][1], LINES["closed"][1]]


def test_without_a_terminal_there_is_no_status_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets the lines and no control characters."""
    tell = Narrator()
    with tell.on_terminal() as shown:
        assert shown is tell
    assert capsys.readouterr().out == ""


PLAN = {"hold_seconds": 300.0, "hold_expiry": "rollback"}
UNDER_WAY = {
    "step": "start_previous_core_engine",
    "phase": "rollback",
    "attempt": 1,
    "pid": 1,
    "start_ticks": 1,
    "command": "x",
    "timeout_seconds": 90.0,
}


def history_of(folder: Path, *told: tuple[str, dict[str, Any]], **plan: Any) -> History:
    """A journal that says this."""
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path, durable=False)
    journal.append(like("run_created", run_id="r", dry_run=False, plan={**PLAN, **plan}))
    for kind, payload in told:
        journal.append(like(kind, **payload))
    journal.close()
    return History.of(journal.records)


def held(folder: Path, **plan: Any) -> tuple[History, float]:
    """A run that holds, and since when (monotonic seconds)."""
    state = ("state", {"to": "HOLDING", "reason": "no data"})
    history = history_of(folder, state, **plan)
    return history, history.records[-1].mono_ns / 1e9


def test_a_hold_counts_down_to_its_rollback(tmp_path: Path) -> None:
    """Minutes and seconds, the reason, and zero once it is over."""
    history, since = held(tmp_path)
    runs_out = countdown(history, mono=since + 48)
    assert runs_out is not None
    assert runs_out.seconds_left == pytest.approx(252)
    assert runs_out.sentence == "HOLDING: rolls back in 4:12 unless resumed; no data"
    over = countdown(history, mono=since + 400)
    assert over is not None
    assert "rolls back in 0:00" in over.sentence
    assert progress_sentence(history, mono=since + 48) == runs_out.sentence


def test_a_hold_that_is_kept_says_so(tmp_path: Path) -> None:
    """Nobody is promised a rollback that does not come."""
    history, since = held(tmp_path, hold_expiry="keep")
    runs_out = countdown(history, mono=since + 400)
    assert runs_out is not None
    assert runs_out.sentence.startswith("HOLDING until somebody decides")


def rolling_back(folder: Path) -> tuple[History, float]:
    """A rollback of 60 s in its fifth step, due 20 s after the trigger, and the trigger's time."""
    began = 1000.0
    history = history_of(
        folder,
        ("state", {"to": "ROLLING_BACK", "reason": "a breach"}),
        (
            "rollback_started",
            {
                "budget_seconds": 60.0,
                "started_mono_ns": int(began * 1e9),
                "shares": {"start_previous_core_engine": 15.0},
            },
        ),
        ("step_started", {**UNDER_WAY, "due_mono_ns": int((began + 20) * 1e9)}),
    )
    return history, began


def test_a_rollback_counts_its_budget_down(tmp_path: Path) -> None:
    """Seconds left of the budget, the step under way, when it is due and what its share is."""
    history, began = rolling_back(tmp_path)
    runs_out = countdown(history, mono=began + 12.8)
    assert runs_out is not None
    assert runs_out.sentence == (
        "ROLLBACK: 47.2 s of 60 s left; start_previous_core_engine: due in 7.2 s, share 15 s"
    )


def test_a_budget_that_is_gone_is_shown_as_gone(tmp_path: Path) -> None:
    """Never a friendly zero."""
    history, began = rolling_back(tmp_path)
    runs_out = countdown(history, mono=began + 63.5)
    assert runs_out is not None
    assert "3.5 s OVER 60 s" in runs_out.sentence
    assert runs_out.seconds_left < 0


def test_nothing_runs_out_elsewhere(tmp_path: Path) -> None:
    """While gates run, and when the run is over."""
    state = ("state", {"to": "GATING", "reason": ""})
    assert countdown(history_of(tmp_path, state), mono=0.0) is None
    closed = ("closed", {"outcome": "ROLLBACK_FAILED"})
    holding = ("state", {"to": "HOLDING", "reason": ""})
    assert countdown(history_of(tmp_path, holding, closed), mono=0.0) is None


def line_below(narrator: Narrator) -> str:
    """The line that rich draws, without its colours."""
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as drawn:
        console.print(narrator)
    return drawn.get().strip()


def test_the_terminal_shows_it_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the line is drawn its clock has moved, though the journal says nothing new."""
    history, since = held(tmp_path)
    narrator = Narrator()
    narrator(history)
    seen = []
    for seconds in (48.0, 49.0):
        monkeypatch.setattr("ctp_runbook.show.terminal.time.monotonic", lambda s=seconds: since + s)
        seen.append(line_below(narrator))
    assert seen == [
        f"HOLDING: rolls back in {left} unless resumed; no data; Ctrl-C leaves the run going"
        for left in ("4:12", "4:11")
    ]


def test_the_line_says_how_much_of_the_watch_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of the window, never below none."""
    watching = ("state", {"to": "WATCHING", "reason": "verified"})
    history = history_of(tmp_path, watching, ("watch_started", {"minutes": 1.0}))
    narrator = Narrator()
    narrator(history)
    began = history.records[-1].mono
    for gone, left in ((12.0, "48"), (90.0, "0")):
        monkeypatch.setattr("ctp_runbook.show.terminal.time.monotonic", lambda g=gone: began + g)
        assert line_below(narrator).startswith(f"watching, {left} s left; Ctrl-C")


def test_before_the_first_record_the_line_says_that_it_starts() -> None:
    """Nothing is known yet, and no state is claimed."""
    assert line_below(Narrator()) == "starting"


def test_a_reason_in_square_brackets_is_no_colour(tmp_path: Path) -> None:
    """What an operator wrote is text on the terminal, whatever it holds."""
    state = ("state", {"to": "HOLDING", "reason": "see [bold]ticket[/bold] [17]"})
    narrator = Narrator()
    narrator(history_of(tmp_path, state))
    assert "see [bold]ticket[/bold] [17]" in line_below(narrator)


def test_on_a_terminal_the_line_is_there_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And gone when the run is left."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Narrator().on_terminal() as narrator:
        assert isinstance(narrator, Narrator)
    assert "starting" in capsys.readouterr().out
