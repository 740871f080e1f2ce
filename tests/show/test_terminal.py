"""Facts about show/terminal.py: a record that matters is one line, told once; what runs out, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.model import StepStatus
from ctp_runbook.notebook.progress import progress_sentence
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.show.terminal import Narrator, countdown, sentence_of
from tests.props.example_records import like

STEP = {"step": "precheck", "phase": "gate", "reason": "exit 0", "duration_ms": 1234.5}
JUDGED = {
    "overall": "INCONCLUSIVE",
    "metrics": {
        "a": {"verdict": "PASSED", "sentence": "a PASSED: worst 1"},
        "b": {"verdict": "INCONCLUSIVE", "sentence": "b INCONCLUSIVE: warming up"},
    },
}
LINES: dict[str, tuple[Mapping[str, Any], str]] = {
    "state": ({"to": "GATING", "reason": "the gates begin"}, "» GATING: the gates begin"),
    "step_started": ({**STEP, "timeout_seconds": 60.0}, "  … precheck (at most 60 s)"),
    "step_ended": ({**STEP, "status": "ok"}, "  ✓ precheck ok in 1.2 s: exit 0"),
    "step_not_done": (
        {**STEP, "status": "skipped", "reason": "it runs and is kept"},
        "  - precheck skipped: it runs and is kept",
    ),
    "judgement": (JUDGED, "  · watch INCONCLUSIVE: b INCONCLUSIVE: warming up"),
    "trigger": ({"cause": "metric", "sentence": "m = 9 ms"}, "✗ m = 9 ms"),
    "finding": ({"severity": "warning", "sentence": "no unit"}, "! no unit"),
    "watch_gap": (
        {"from_utc": "10:00", "to_utc": "10:01", "reason": "resumed"},
        "! the watch has a gap since 10:00",
    ),
    "watch_disturbed": ({"what": "paused", "sentence": "it stood still"}, "! it stood still"),
    "control": ({"request": "hold", "by": "ops", "reason": "spreads"}, "» hold by ops spreads"),
    "closed": (
        {"outcome": "COMPLETED", "sentence": "the new generation trades"},
        "» COMPLETED: the new generation trades",
    ),
    "probe": ({"subject": "old_core_engine", "question": "alive"}, ""),
    "identity": ({"member": "old_core_engine", "pid": 1}, ""),
    "something_new": ({}, ""),
}


def record(folder: Path, kind: str, payload: Mapping[str, Any]) -> Record:
    """The record as a journal has it."""
    journal = Journal(folder / f"{kind}.jsonl", durable=False)
    made = journal.append(like(kind, **payload))
    journal.close()
    return made


@pytest.mark.parametrize("kind", LINES)
def test_each_record_has_its_line(kind: str, tmp_path: Path) -> None:
    """What an operator is told of it; nothing of what only a verifier needs."""
    payload, line = LINES[kind]
    assert sentence_of(record(tmp_path, kind, payload)) == line


def test_a_request_without_a_reason_ends_with_who(tmp_path: Path) -> None:
    """No space is left over."""
    given = {"request": "go", "by": "ops", "reason": ""}
    assert sentence_of(record(tmp_path, "control", given)) == "» go by ops"


@pytest.mark.parametrize("status", StepStatus)
def test_every_status_has_a_mark(status: StepStatus, tmp_path: Path) -> None:
    """Good, bad, unknown and not done can be told apart by the first character."""
    line = sentence_of(record(tmp_path, "step_ended", {**STEP, "status": status.value}))
    good, bad = ("ok", "simulated_ok"), ("failed", "timed_out")
    expected = (
        "✓" if status in good else "✗" if status in bad else "?" if status == "unknown" else "-"
    )
    assert line.strip()[0] == expected


def test_each_record_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A narrator that is shown the growing history prints what is new."""
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    tell = Narrator()
    for kind in ("state", "probe", "closed"):
        journal.append(like(kind, **{**LINES[kind][0], "outcome": "COMPLETED"}))
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
                "started_utc": "",
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


class _Status:
    """Stands in for rich's status line."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, text: str) -> None:
        """Keep what is shown."""
        self.shown.append(text)


def test_the_terminal_shows_it_move(tmp_path: Path) -> None:
    """Each look moves the clock, though the journal says nothing new."""
    history, _ = held(tmp_path)
    narrator = Narrator()
    narrator._status = status = _Status()
    assert narrator.tick(history) is False
    assert narrator.tick(history) is False
    assert len(status.shown) == 2
    assert all("HOLDING: rolls back in" in text for text in status.shown)
