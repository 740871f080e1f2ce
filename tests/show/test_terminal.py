"""Facts about show/terminal.py: each record that matters is one line, told once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.model import StepStatus
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.show.terminal import Narrator, sentence_of

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
    made = journal.append(kind, payload)
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
        journal.append(kind, {**LINES[kind][0], "outcome": "COMPLETED"})
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
