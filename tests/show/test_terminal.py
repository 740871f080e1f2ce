"""Facts about show/terminal.py: a record that matters is one line, told once; what runs out, seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ctp_runbook.model import StepStatus
from ctp_runbook.notebook.progress import progress_sentence
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record, read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.told import MetricNow
from ctp_runbook.show.terminal import (
    Narrator,
    WatchNow,
    countdown,
    ending_lines,
    metric_line,
    recent_lines,
    sentence_of,
    sparkline,
    watch_now,
)
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
    # How it ended comes last, with what it came to.
    assert capsys.readouterr().out.splitlines() == [LINES["state"][1]]


def test_a_step_says_how_long_it_usually_takes(tmp_path: Path) -> None:
    """Beside what it may take at most; nothing where no earlier run says."""
    begun = record(tmp_path, "step_started", {**STEP, "timeout_seconds": 60.0})
    line = "  … precheck (at most 60 s, usually 1.2 s)"
    assert sentence_of(begun, {"precheck": 1.23, "warmup_query": 5.0}) == line
    assert sentence_of(begun, {"warmup_query": 5.0}) == LINES["step_started"][1]


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_colours_are_left_out_where_nobody_wants_them(
    no_colour: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NO_COLOR counts at a terminal too."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", no_colour)
    Narrator().say("✗ it failed")
    out = capsys.readouterr().out
    assert ("\x1b" in out) is (not no_colour)
    assert "✗ it failed" in out


def test_a_trend_shows_how_near_the_limit_is() -> None:
    """The full bar is at the limit or beyond it alone; a point is a time without a value."""
    assert sparkline((0.0, 0.5, 1.0, 1.01, 7.0, None)) == "▁▄▇██·"


def metric(**values: Any) -> MetricNow:
    """A metric that is well."""
    usual = MetricNow(
        name="order_latency_p99_ms",
        verdict="PASSED",
        value=4.25,
        is_over=False,
        limit=5.0,
        unit="ms",
        direction="max",
        breaching=False,
        trend=(0.1, 0.85),
    )
    return msgspec.structs.replace(usual, **values)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "✓ order_latency_p99_ms 4.25 ms (≤ 5 ms) ▁▆"),
        ({"is_over": True, "verdict": "FAILED"}, "✗ order_latency_p99_ms > 4.25 ms (≤ 5 ms) ▁▆"),
        ({"breaching": True, "value": 6.0}, "! order_latency_p99_ms 6 ms (≤ 5 ms) ▁▆"),
        ({"value": None, "trend": (None,)}, "✓ order_latency_p99_ms no data (≤ 5 ms) ·"),
        ({"unit": "ratio", "direction": "min"}, "✓ order_latency_p99_ms 4.25 (≥ 5) ▁▆"),
    ],
)
def test_a_metric_is_one_line(values: dict[str, Any], line: str) -> None:
    """Value and limit in its unit, and its trend."""
    assert metric_line(metric(**values)) == line


@pytest.mark.parametrize("name", ["triggered", "completed"])
def test_the_watch_is_judged_as_it_was(name: str) -> None:
    """At the end of a recorded watch its metrics have the values and verdicts of the record."""
    run, history = recorded(name)
    ended = history.watch_ended
    assert ended is not None
    now = watch_now(run, history, mono=ended.payload.judged_mono)
    for seen in now.metrics:
        assert seen.value == ended.payload.metrics[seen.name].value
        assert len(seen.trend) == 16
    assert now.headline(now.ends_mono - 61) == f"1:01 left, {now.verdict} so far"
    assert now.headline(now.ends_mono + 1) == f"window over, {now.verdict} so far"


def test_a_log_has_the_watch_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What is left, then a line a metric."""
    Narrator().watch(WatchNow(100.0, "PASSED", (metric(),)), 40.0)
    assert capsys.readouterr().out.splitlines() == [
        "  · watch: 1:00 left, PASSED so far",
        "      ✓ order_latency_p99_ms 4.25 ms (≤ 5 ms) ▁▆",
    ]


def test_a_run_ends_with_what_it_came_to() -> None:
    """What fired once, the watch, the rollback against its budget, the downtime, the report; the
    outcome last."""
    run, history = recorded("triggered")
    fired, watch, rollback, downtime, report, outcome = ending_lines(history, run)
    assert history.trigger is not None
    assert fired == f"  {history.trigger.payload.sentence}"
    assert re.fullmatch(r"  watch FAILED in 0:\d\d", watch)
    assert re.fullmatch(r"  rollback: [\d.]+ s of 60 s", rollback)
    assert re.fullmatch(r"  trading downtime: [\d.]+ s", downtime)
    assert report == f"  report: `ctp-runbook report --run {run.path}`"
    assert outcome.startswith("» ROLLED_BACK_IN_BUDGET: ")


def test_a_run_that_touched_nothing_says_so() -> None:
    """No downtime, no watch."""
    run, history = recorded("aborted")
    downtime, _, outcome = ending_lines(history, run)
    assert downtime == "  trading downtime: none"
    assert outcome.startswith("» ABORTED_BEFORE_SWITCH: ")


def recorded(name: str) -> tuple[RunDir, History]:
    """A run of tests/golden/runs."""
    run = RunDir(Path(__file__).parents[1] / "golden" / "runs" / name)
    return run, History.of(read_journal(run.journal).records)


def test_what_was_left_out_for_one_reason_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven lines alike would push the one that tells why out of sight."""
    left_out = {"phase": "switch", "status": "not_run", "reason": "the run ended before it"}
    steps = ("precheck", "stop_old_strategy_runner", "warmup_query")
    history = history_of(tmp_path, *(("step_not_done", {**left_out, "step": s}) for s in steps))
    line = "  – precheck to warmup_query (3 steps) not_run: the run ended before it"
    Narrator()(history)
    assert capsys.readouterr().out.splitlines() == [line]
    assert [told.partition("Z ")[2] for told in recent_lines(history, most=8)] == [line]


def test_whoever_comes_now_is_told_each_cause_once(tmp_path: Path) -> None:
    """Where the run stands is there however much came since, and a step is told by its end."""
    cause = "order_latency_p99_ms = 9 ms at 10:00:00Z"
    begun = {**STEP, "attempt": 1, "pid": 1, "start_ticks": 1, "due_mono_ns": 1, "command": "x"}
    history = history_of(
        tmp_path,
        ("step_started", {**begun, "timeout_seconds": 60.0}),
        ("step_ended", {**ENDED, "status": "ok"}),
        ("trigger", {"cause": "metric", "sentence": f"rollback trigger: {cause}"}),
        ("state", {"to": "ROLLING_BACK", "reason": f"rollback trigger: {cause}"}),
        ("finding", {"severity": "warning", "sentence": "first"}),
        ("finding", {"severity": "warning", "sentence": "second"}),
    )
    lines = recent_lines(history, most=8)
    assert [line.partition("Z ")[2] for line in lines] == [
        "  ✓ precheck ok in 1.2 s: exit 0",
        f"✗ rollback trigger: {cause}",
        "» ROLLING_BACK",
        "! first",
        "! second",
    ]
    assert [line.partition("Z ")[2] for line in recent_lines(history, most=2)] == [
        f"» ROLLING_BACK: rollback trigger: {cause}",
        "! second",
    ]


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
