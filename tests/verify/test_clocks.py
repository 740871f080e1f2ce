"""Facts about verify/clocks.py: a set clock is believed where it was told, and then alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, Writer, utc_text
from ctp_runbook.record.samples import Sample
from ctp_runbook.verify.clocks import ClockShifts, disturbance_findings, schedule_findings
from ctp_runbook.verify.journal import clock_findings
from tests.props.example_records import like

WALL, MONO = 1.77e9, 5000.0


def record(at: float, kind: str = "probe", *, ahead: float = 0.0, **payload: Any) -> Record:
    """A record ``at`` seconds after the first, by a wall clock that is so far ahead."""
    return Record(
        seq=int(at),
        wall_utc=utc_text(WALL + at + ahead),
        mono_ns=int((MONO + at) * 1e9),
        boot_id="boot",
        writer=Writer(1, 1),
        payload=like(kind, **payload),
        prev="",
    )


def disturbed(at: float, what: str, seconds: float, *, begun: float, ahead: float = 0.0) -> Record:
    """What the journal tells of a disturbance between ``begun`` and now."""
    given = {"what": what, "seconds": seconds, "from_mono": MONO + begun, "to_mono": MONO + at}
    return record(at, "watch_disturbed", ahead=ahead, **given)


HOUR = 3600.0
STEP = disturbed(10, "clock_stepped", HOUR, begun=9.75, ahead=HOUR)
JOURNALS: dict[str, tuple[Sequence[Record], int]] = {
    "nothing happened": ([record(0), record(10), record(20)], 0),
    "a step that was told": ([record(0), STEP, record(20, ahead=HOUR)], 0),
    "written in between, before and after it": (
        [record(0), record(9.8), record(9.9, ahead=HOUR), STEP, record(20, ahead=HOUR)],
        0,
    ),
    "a step back that was told": (
        [
            record(0),
            disturbed(10, "clock_stepped", -HOUR, begun=9.75, ahead=-HOUR),
            record(20, ahead=-HOUR),
        ],
        0,
    ),
    "ahead and back again": (
        [
            record(0),
            STEP,
            disturbed(15, "clock_stepped", -HOUR, begun=14.75),
            record(20),
        ],
        0,
    ),
    "a suspend that was told": (
        [record(0), disturbed(10, "suspended", 60, begun=9.75, ahead=60), record(20, ahead=60)],
        0,
    ),
    "a step that nobody told": ([record(0), record(10, ahead=HOUR), record(20, ahead=HOUR)], 2),
    "a step that was none": ([record(0), disturbed(10, "clock_stepped", HOUR, begun=9.75)], 1),
    "before its time": ([record(0), record(9, ahead=HOUR), STEP, record(20, ahead=HOUR)], 1),
    "another step than was told": ([record(0), STEP, record(20, ahead=HOUR + 60)], 1),
    "a pause moves no clock": ([record(0), disturbed(10, "paused", 9, begun=1, ahead=9)], 1),
}


@pytest.mark.parametrize(("records", "wrong"), JOURNALS.values(), ids=JOURNALS)
def test_a_clock_is_apart_as_far_as_was_told(records: Sequence[Record], wrong: int) -> None:
    """Where a step is told and was none, or was and is not told, every record after it is apart."""
    found = list(clock_findings(records))
    assert len([one for one in found if "apart" in one]) == wrong
    assert bool(found) is bool(wrong)


def test_a_wall_time_is_put_back() -> None:
    """What the clock would have said had nobody set it."""
    start = record(0)
    shifts = ClockShifts([start, STEP])
    assert shifts.unshifted(WALL + 20 + HOUR, mono=MONO + 20, since=start) == WALL + 20
    assert shifts.unshifted(WALL + 5, mono=MONO + 5, since=start) == WALL + 5


def test_what_was_set_before_counts_for_nothing_after() -> None:
    """A watch that begins after a step is told by the clock as it was set."""
    start = record(12, ahead=HOUR)
    shifts = ClockShifts([record(0), STEP, start])
    assert shifts.unshifted(WALL + 20 + HOUR, mono=MONO + 20, since=start) == WALL + 20 + HOUR


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_step_after_a_record_is_counted_from_it(by: float) -> None:
    """Also from one that stands between the two looks that met the step."""
    records = [
        record(0),
        disturbed(10, "clock_stepped", by, begun=9.75, ahead=by),
        later := record(12, ahead=by),
        amid := record(19.9, ahead=by),
        disturbed(20, "clock_stepped", 60, begun=19.75, ahead=by + 60),
    ]
    shifts = ClockShifts(records)
    for since in (later, amid):
        seen = shifts.unshifted(WALL + 25 + by + 60, mono=MONO + 25, since=since)
        assert seen == WALL + 25 + by


def taken(at: float, *, due: float | None = None, missed: int = 0) -> Sample:
    """A sample of the engine's page, begun 2 ms late and answered in 1 ms."""
    begun = MONO + (at if due is None else due)
    mono = MONO + at + 0.003
    return Sample(0, WALL + at, mono, "engine", "engine", True, "", 1.0, {}, begun, missed)


PAUSE = disturbed(12, "paused", 10, begun=2)
PAUSES = {
    "as it was": ([PAUSE], [taken(1), taken(2), taken(12)], ""),
    "sampled meanwhile": ([PAUSE], [taken(1), taken(6)], "taken while nothing is said to have run"),
    "longer than it lasted": ([disturbed(12, "paused", 60, begun=2)], [], "that lasted 10.000 s"),
    "told before it ended": (
        [replace(PAUSE, mono_ns=int((MONO + 5) * 1e9))],
        [],
        "a disturbance from",
    ),
}


@pytest.mark.parametrize(("records", "samples", "said"), PAUSES.values(), ids=PAUSES)
def test_a_pause_is_believed_where_nothing_ran(
    records: list[Record], samples: list[Sample], said: str
) -> None:
    """Neither a sample within it, nor another length than between its ends."""
    findings = "".join(disturbance_findings(History.of(records), samples))
    assert said in findings
    assert bool(said) is bool(findings)


RULE: dict[str, Any] = {
    "label": "",
    "unit": "state",
    "kind": "state",
    "source": "engine",
    "query": "q",
    "limit": 1.0,
    "direction": "max",
}
PLAN = {
    "monitor_keys": ["a", "b"],
    "watch": {
        "tolerance_inconclusive_seconds": 1.0,
        "tolerance_error_seconds": 1.0,
        "recovery_seconds": 1.0,
        "metrics": {
            "a": {**RULE, "name": "a", "interval_seconds": 1.0},
            "b": {**RULE, "name": "b", "interval_seconds": 5.0},
        },
    },
}
UNSAID = replace(taken(2), due=0.0)
SCHEDULES = {
    "every turn": ([taken(0), taken(1), taken(2)], ""),
    "turns that are told as missed": ([taken(0), taken(3, missed=2)], ""),
    "late, and told": ([taken(0), taken(4, due=1), taken(5, missed=3)], ""),
    "of before it was kept": ([UNSAID, replace(UNSAID, seq=1)], ""),
    "after the window": ([taken(59.5), taken(61.5)], ""),
    "a turn left out": ([taken(0), taken(2)], "due 2.00 turns after the one before, 0 missed"),
    "more told than were": ([taken(0), taken(1, missed=1)], "due 1.00 turns after"),
    "between two turns": ([taken(0), taken(1.5)], "due 1.50 turns"),
    "before it was due": ([taken(0), taken(1, due=1.5)], "before it was due"),
    "one that says nothing": ([taken(0), UNSAID], "not said when it was due"),
}


@pytest.mark.parametrize(("samples", "said"), SCHEDULES.values(), ids=SCHEDULES)
def test_every_turn_is_a_sample_or_is_told(samples: list[Sample], said: str) -> None:
    """By the interval of the page's most frequent metric."""
    records = [
        record(0, "run_created", plan=PLAN),
        record(0, "watch_started", minutes=1.0),
    ]
    found = "".join(schedule_findings(samples, History.of(records)))
    assert said in found
    assert bool(said) is bool(found)


def test_a_watch_that_is_held_again_after_its_window_leaves_samples_out() -> None:
    """Between a resume and the next hold nothing is kept, and that is no forgery."""
    records = [
        record(0, "run_created", plan=PLAN),
        record(0, "watch_started", minutes=1.0),
        record(70, "state", to="WATCHING", reason="resume"),
        record(70, "state", to="HOLDING", reason="without proof"),
    ]
    samples = [taken(69), taken(71), taken(73)]
    (found,) = schedule_findings(samples, History.of(records))
    assert found.startswith("3: due 2.00 turns")


def test_a_resumed_run_begins_its_schedule_anew() -> None:
    """The gap is told by a record of its own."""
    records = [
        record(0, "run_created", plan=PLAN),
        record(10, "watch_gap", reason="resumed"),
    ]
    samples = [taken(1), taken(11.3), taken(12.3)]
    assert list(schedule_findings(samples, History.of(records))) == []
    assert list(schedule_findings(samples, History.of(records[:1]))) != []
