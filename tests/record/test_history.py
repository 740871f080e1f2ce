"""Facts about record/history.py: the state of a run is what its records add up to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import JournalError
from ctp_runbook.host.process import boot_id
from ctp_runbook.model import Identity, Outcome, State, StepStatus
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from tests.props.example_records import like

Entry = tuple[str, Mapping[str, Any]]


def started(step: str, *, attempt: int = 1, pid: int = 40) -> Entry:
    """A step_started record."""
    return "step_started", {
        "step": step,
        "phase": "switch",
        "attempt": attempt,
        "pid": pid,
        "start_ticks": 7,
        "command": "cat x",
        "timeout_seconds": 5,
    }


def ended(step: str, *, status: str = "ok", exit_code: int | None = 0) -> Entry:
    """A step_ended record."""
    return "step_ended", {
        "step": step,
        "phase": "switch",
        "status": status,
        "exit_code": exit_code,
        "duration_ms": 12.5,
        "output_sha256": "ab" * 32,
        "output": "logs/steps/x.log",
        "reason": "exit 0",
        "left_behind": [],
    }


def trigger(cause: str) -> Entry:
    """A trigger record."""
    return "trigger", {"cause": cause}


def to(state: State, reason: str = "") -> Entry:
    """A state record."""
    return "state", {"to": state.value, "reason": reason}


def control(request: str, *, start: int = 1) -> Entry:
    """A control record; a go is for the start that is record ``start``."""
    return "control", {"request": request, "file": "x", "start": start}


LONG_STORY: tuple[Entry, ...] = (
    ("run_created", {"run_id": "r1", "dry_run": False, "plan": {"environment": "e"}}),
    ("orchestrator_started", {"resumed": False, "reason": ""}),
    to(State.GATING),
    started("precheck"),
    ended("precheck", status="failed", exit_code=3),
    started("precheck", attempt=2),
    ended("precheck"),
    control("hold"),
    control("go"),
    to(State.SWITCHING, "go"),
    ("identity", {"member": "new_core_engine", "pid": 50, "start_ticks": 9}),
    (
        "step_not_done",
        {"step": "warmup_query", "phase": "switch", "status": "skipped", "reason": "r"},
    ),
    started("start_new_core_engine", pid=51),
    ("orchestrator_started", {"resumed": True, "reason": "died"}),
    to(State.WATCHING),
    ("watch_started", {"minutes": 30}),
    ("judgement", {"overall": "PASSED"}),
    ("watch_started", {"minutes": 31}),
    ("judgement", {"overall": "FAILED"}),
    to(State.HOLDING, "bad"),
    ("watch_ended", {"verdict": "FAILED"}),
    trigger("metric"),
    trigger("operator"),
    to(State.ROLLING_BACK),
    ("rollback_started", {"budget_seconds": 180}),
    ("rollback_started", {"budget_seconds": 9}),
    ("closed", {"outcome": "ROLLED_BACK_LATE"}),
)


def records_of(folder: Path, *entries: Entry) -> tuple[Record, ...]:
    """The entries as a journal has them."""
    journal = Journal(folder / "journal.jsonl", durable=False)
    for kind, payload in entries:
        journal.append(like(kind, **payload))
    journal.close()
    return journal.records


def history_of(folder: Path, *entries: Entry) -> History:
    """The entries, folded."""
    return History.of(records_of(folder, *entries))


def test_nothing_is_a_run_that_is_planned() -> None:
    """An empty journal tells of no act, and of nothing real."""
    empty = History.of(())
    assert (empty.state, empty.run_id, empty.outcome) == (State.PLANNED, "", None)
    assert (empty.header, empty.unfinished, empty.restarts) == (None, (), 0)
    assert empty.is_dry_run
    with pytest.raises(JournalError, match="no first record"):
        _ = empty.plan
    assert empty.entered(State.PLANNED) is None


@pytest.mark.parametrize("is_dry", [True, False])
def test_a_run_is_what_its_header_says(is_dry: bool, tmp_path: Path) -> None:
    """Dry or real, nothing else decides it."""
    assert history_of(tmp_path, ("run_created", {"dry_run": is_dry})).is_dry_run is is_dry


def test_the_long_story(tmp_path: Path) -> None:
    """Each fact of a run that was resumed, held, rolled back late and closed."""
    history = history_of(tmp_path, *LONG_STORY)
    assert (history.run_id, history.plan.environment) == ("r1", "e")
    assert (history.state, history.outcome) == (State.CLOSED, Outcome.ROLLED_BACK_LATE)
    assert history.restarts == 1
    assert history.identities == {"new_core_engine": Identity(50, 9, boot_id())}
    assert history.go is not None
    assert history.go.payload.request == "go"
    assert [t.state.value for t in history.transitions] == [
        *("GATING", "SWITCHING", "WATCHING", "HOLDING", "ROLLING_BACK")
    ]
    first_or_last = {
        "watch_started": ("minutes", 30),
        "rollback_started": ("budget_seconds", 180),
        "trigger": ("cause", "metric"),
        "judgement": ("overall", "FAILED"),
        "watch_ended": ("verdict", "FAILED"),
    }
    for name, (key, value) in first_or_last.items():
        assert getattr(getattr(history, name).payload, key) == value, name


def test_folding_in_parts_is_folding_at_once(tmp_path: Path) -> None:
    """A viewer that follows record by record sees what one who reads the whole sees."""
    records = records_of(tmp_path, *LONG_STORY)
    whole = History.of(records)
    for cut in range(len(records) + 1):
        assert History.of(records[:cut]).then(records[cut:]) == whole


def test_a_step_without_an_end_is_unknown(tmp_path: Path) -> None:
    """Started and not seen to end: neither done nor not done."""
    history = history_of(tmp_path, started("warmup_query", pid=60))
    (step,) = history.unfinished
    assert (step.name, step.status, step.pid, step.start_ticks) == (
        *("warmup_query", StepStatus.UNKNOWN),
        *(60, 7),
    )
    assert step.reason == "started; its end was not seen"
    assert step.ended_utc == ""


def test_an_end_completes_what_the_start_said(tmp_path: Path) -> None:
    """Command, pid and start come from one record, status and output from the other."""
    history = history_of(tmp_path, started("s"), ended("s", status="failed", exit_code=137))
    step = history.step("s")
    assert (step.status, step.exit_code, step.command) == (StepStatus.FAILED, 137, "cat x")
    assert (step.pid, step.duration_ms, step.output) == (40, 12.5, "logs/steps/x.log")
    assert step.started_utc <= step.ended_utc
    assert history.unfinished == ()


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    """A step begun again is unknown again, whatever became of it before."""
    history = history_of(tmp_path, started("s"), ended("s"), started("s", attempt=2, pid=41))
    step = history.step("s")
    assert (step.attempt, step.pid, step.status) == (2, 41, StepStatus.UNKNOWN)
    assert (step.exit_code, step.output_sha256) == (None, "")


@pytest.mark.parametrize(
    "status", [StepStatus.SKIPPED, StepStatus.NOT_RUN, StepStatus.SIMULATED_OK]
)
def test_a_step_not_done_was_never_attempted(status: StepStatus, tmp_path: Path) -> None:
    """It has a status and a reason, and no process."""
    entry = {"step": "s", "phase": "rollback", "status": status.value, "reason": "kept"}
    step = history_of(tmp_path, ("step_not_done", entry)).step("s")
    assert (step.status, step.reason, step.phase) == (status, "kept", "rollback")
    assert (step.attempt, step.pid, step.exit_code) == (0, 0, None)


def test_a_step_nobody_named_is_not_run(tmp_path: Path) -> None:
    """Asking for it is no error: it just was not."""
    step = history_of(tmp_path).step("warmup_query")
    assert (step.name, step.status) == ("warmup_query", StepStatus.NOT_RUN)


def test_the_latest_identity_counts(tmp_path: Path) -> None:
    """A member started again is the process that was written down last."""
    one = {"member": "m", "pid": 1, "start_ticks": 1}
    history = history_of(tmp_path, ("identity", one), ("identity", {**one, "pid": 2}))
    assert history.identities["m"].pid == 2


@pytest.mark.parametrize("request_", ["abort", "hold", "resume", "rollback"])
def test_only_go_is_go(request_: str, tmp_path: Path) -> None:
    """No other request lets the switch begin."""
    assert history_of(tmp_path, control(request_)).go is None


def test_a_go_counts_for_the_start_it_names(tmp_path: Path) -> None:
    """The last start there was; one that names another start is on record and counts for nothing."""
    begun = ("orchestrator_started", {"resumed": False, "reason": ""})
    kind, given = control("go")
    for start, counts in ((0, False), (1, True), (-1, False), (5, False)):
        room = tmp_path / str(start)
        room.mkdir()
        history = history_of(room, begun, begun, (kind, {**given, "start": start}))
        assert history.conducted is not None
        assert (history.go is not None) is counts


def test_a_state_entered_twice_was_entered_last(tmp_path: Path) -> None:
    """Holding again counts from the second time."""
    history = history_of(
        tmp_path, to(State.HOLDING, "one"), to(State.WATCHING), to(State.HOLDING, "two")
    )
    held = history.entered(State.HOLDING)
    assert held is not None
    assert held.reason == "two"


@pytest.mark.parametrize("outcome", Outcome)
def test_a_closed_run_has_its_outcome(outcome: Outcome, tmp_path: Path) -> None:
    """The last record is how the run ended, whatever state came before."""
    history = history_of(tmp_path, to(State.WATCHING), ("closed", {"outcome": outcome.value}))
    assert (history.state, history.outcome) == (State.CLOSED, outcome)


@pytest.mark.parametrize(("file", "stays"), [("with the start", True), ("1-go.json", False)])
def test_a_go_is_for_the_start_it_was_given_to(file: str, stays: bool, tmp_path: Path) -> None:
    """Taken up again before its switch, a run asks anew whoever typed it; what it was started with
    stays."""
    kind, go = control("go")
    begun = ("orchestrator_started", {"resumed": False, "reason": ""})
    again = ("orchestrator_started", {"resumed": True, "reason": "resume"})
    given: tuple[Entry, ...] = (begun, to(State.READY), (kind, {**go, "file": file, "start": 0}))
    history = history_of(tmp_path, *given)
    assert history.go is not None
    resumed = history.then(records_of(tmp_path, again)[-1:])
    assert (resumed.go is not None) is stays
    switching = history.then(records_of(tmp_path, to(State.SWITCHING, "go"), again)[-2:])
    assert switching.go is not None
