"""A run told room by room: every kind of run, from the same History that evidence comes from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from msgspec import structs

from ctp_runbook.errors import RunRefused
from ctp_runbook.model import Outcome, Phase
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.gate_files import NO_READINESS
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, Writer, read_journal
from ctp_runbook.record.kinds import Cause
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import run_blocks
from ctp_runbook.show.topology import sli_topology
from ctp_runbook.watch.replay import rejudge
from tests.props.example_readiness import readiness_file
from tests.props.example_records import like
from tests.props.synthetic_runs import KINDS


def history_of(run: RunDir) -> History:
    """The run as its journal tells it."""
    return History.of(read_journal(run.journal).records)


def history(kind: str, outputs: Path) -> History:
    """A finished run of a kind."""
    return history_of(KINDS[kind](outputs))


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_headline_in_plain_words(outcome: Outcome) -> None:
    """No outcome reaches a reader as a bare constant, and only two are good news."""
    kind, title = run_blocks._HEADLINES[outcome]
    assert title[0].isupper()
    assert (kind in ("good", "info")) == (outcome.exit_code == 0)


def test_what_was_not_seen_is_not_in_the_headline() -> None:
    """Who trades is said where it was seen, and that the watch passed where it did."""
    seen = dict.fromkeys(("old_core_engine", "old_strategy_runner"), "alive")
    half = {**seen, "old_strategy_runner": "gone"}
    for outcome, running, said in (
        ("ABORTED_BEFORE_SWITCH", seen, "the old stack still trades"),
        ("ABORTED_BEFORE_SWITCH", half, "this run did not touch the old stack"),
        ("ABORTED_BEFORE_SWITCH", {}, "this run did not touch the old stack"),
        ("ROLLED_BACK_LATE", seen, "later than the budget"),
        ("ROLLED_BACK_LATE", half, "not all of the previous stack was seen alive"),
        ("COMPLETED", {"new_core_engine": "alive"}, "COMPLETED, with the watch not made"),
    ):
        told = like_history(("closed", {"outcome": outcome, "running": running}))
        assert said in run_blocks.headline(told)[1], (outcome, running)


def test_one_cause_is_told_once() -> None:
    """A state and an outcome stand in a banner once."""
    closed = {
        "outcome": "DRY_RUN_OK",
        "sentence": "dry run: nothing stands in the way; nothing was done",
    }
    for told in (like_history(("closed", closed), dry_run=True), like_history()):
        words = re.findall(r"\w{5,}", run_blocks.outcome_banner(told).text.lower())
        assert [word for word in words if words.count(word) > 1 and word != "nothing"] == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("completed", "REAL RUN"),
        ("dry", "DRY RUN"),
    ],
)
def test_the_mode_is_the_first_thing_said(kind: str, said: str, tmp_path: Path) -> None:
    """A dry run and a real one cannot be taken for each other."""
    assert run_blocks.mode_banner(history(kind, tmp_path)).title == said


def test_a_rehearsal_says_that_it_is_one(tmp_path: Path) -> None:
    """Real commands against the twin are no real run."""
    run = KINDS["completed"](tmp_path, rehearsal=True)
    assert run_blocks.mode_banner(history_of(run)).title == "REHEARSAL"


def test_a_failed_gate_stands_in_the_table_with_its_reason(tmp_path: Path) -> None:
    """Status with symbol, exit code, reason; steps after it not run."""
    table = run_blocks.step_table(
        history("aborted", tmp_path), ["precheck", "stop_old_core_engine"]
    )
    assert "✗ failed" in table.text
    assert "exit 3, expected 0" in table.text
    assert "– not_run" in table.text


def test_downtime_is_told_in_seconds_or_as_none(tmp_path: Path) -> None:
    """A run that stopped nothing has none; one that switched has the journal's own figure."""
    assert run_blocks.downtime_figure(history("aborted", tmp_path)) == "none"
    assert run_blocks.downtime_figure(history("dry", tmp_path)) == "none"
    assert run_blocks.downtime_figure(history("completed", tmp_path)).endswith(" s")


def test_the_rollback_is_told_with_trigger_and_budget(tmp_path: Path) -> None:
    """Observed value, limit, sample time, seconds spent of those allowed, and each step."""
    text = "\n".join(
        block.text for block in run_blocks.rollback_blocks(history("rolled_back", tmp_path))
    )
    assert "a metric reached the rollback trigger" in text
    assert "order_latency_p99_ms = " in text
    assert "of 180 s (kept)" in text
    assert "start_previous_core_engine" in text


def test_no_rollback_is_said_too(tmp_path: Path) -> None:
    """Silence could mean that nobody looked."""
    (banner,) = run_blocks.rollback_blocks(history("completed", tmp_path))
    assert "No rollback" in banner.text


def test_verdicts_stand_with_value_limit_and_margin(tmp_path: Path) -> None:
    """Each metric of MONITOR_KEYS has a line, also one that was never watched."""
    run = KINDS["completed"](tmp_path)
    told = history_of(run)
    judged, _ = rejudge(run, told)
    text = run_blocks.verdict_table(told, judged).text
    assert "✓ PASSED" in text
    assert "5 ms" in text
    assert "– not watched" in run_blocks.verdict_table(told, None).text


def test_a_watch_cut_short_never_says_passed(tmp_path: Path) -> None:
    """A trigger's sentence stands where the verdict would."""
    run = KINDS["rolled_back"](tmp_path)
    told = history_of(run)
    judged, _ = rejudge(run, told)
    banner = run_blocks.watch_banner(told, judged)
    assert "rollback triggered" in banner.title
    assert "PASSED" not in banner.text


def test_what_the_gates_observed_is_read_from_their_evidence(tmp_path: Path) -> None:
    """Facts from the evidence files, not from what was wanted."""
    (table,) = run_blocks.observed_tables(KINDS["completed"](tmp_path))
    assert "bootstrap_infra" in table.text
    assert "master" in table.text


def test_the_timeline_ends_with_the_outcome(tmp_path: Path) -> None:
    """States in order, with the seconds since the run was made."""
    lines = run_blocks.timeline_table(history("completed", tmp_path)).text.splitlines()
    assert "COMPLETED" in lines[-1]
    assert "GATING" in lines[2]


# --- what is said of the run itself -----------------------------------------------


def like_history(*records: tuple[str, dict[str, Any]], **header: Any) -> History:
    """A run that was created so, and whose journal says this."""
    payloads = [like("run_created", **header), *(like(kind, **said) for kind, said in records)]
    return History.of(
        Record(
            seq=number,
            wall_utc="2026-02-02T10:00:00.000000+00:00",
            mono_ns=number * 10**9,
            boot_id="boot",
            writer=Writer(1, 1),
            payload=payload,
            prev="",
        )
        for number, payload in enumerate(payloads)
    )


def test_every_cause_of_a_rollback_is_said_in_plain_words() -> None:
    """No cause reaches a reader as the word that the journal has for it."""
    assert set(run_blocks._CAUSES) == set(get_args(Cause))
    for cause, words in run_blocks._CAUSES.items():
        begun: dict[str, Any] = {"budget_seconds": 60.0}
        told = like_history(("trigger", {"cause": cause}), ("rollback_started", begun))
        banner = next(run_blocks.rollback_blocks(told))
        assert f"Rolling back: {words}" in banner.text  # it is not over


def test_findings_come_gravest_first_and_each_once() -> None:
    """After a resume the same is seen again; a reader needs it once."""
    said = [("info", "c"), ("warning", "b"), ("critical", "a"), ("warning", "b")]
    records = [("finding", {"severity": kind, "sentence": word}) for kind, word in said]
    notes = list(run_blocks.findings(like_history(*records)))
    assert [note.text for note in notes] == ["✗ a", "! b", "ℹ c"]


def test_every_override_has_a_banner_with_its_flag_and_its_reason() -> None:
    """Nobody reads a page of the run without seeing what was waived, and why."""
    told = like_history(overrides={"accept_late": "the exchange waits", "short_watch": "drill"})
    assert [banner.text for banner in run_blocks.override_banners(told)] == [
        "✗ OVERRIDE --accept-late: the exchange waits",
        "✗ OVERRIDE --short-watch: drill",
    ]
    assert run_blocks.override_banners(like_history()) == []


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"parent_run": "r1"}, "rolls back run: r1"),
        ({"force_rollback": True}, "drill: rolls back after a verified switch"),
        ({"short_watch_reason": "maintenance"}, "short watch: maintenance"),
    ],
)
def test_what_is_special_about_a_run_stands_among_its_facts(
    header: dict[str, Any], said: str
) -> None:
    """And nothing of it where it is a run as any other."""
    assert said in run_blocks.facts_of_plan(like_history(**header)).text
    assert said.partition(":")[0] not in run_blocks.facts_of_plan(like_history()).text


def test_facts_name_the_plan_that_was_reviewed() -> None:
    """Its whole digest, so that it can be compared, and who made the run where."""
    text = run_blocks.facts_of_plan(like_history(created_by="ops", host="trader1")).text
    assert f"plan sha256: {'5e' * 32}" in text
    assert "created: by ops on trader1" in text
    assert "watch: 30 min: order_latency_p99_ms" in text
    assert "earlier rollbacks took: UNMEASURED" in text


@pytest.mark.parametrize(
    ("outcome", "sentence", "said"),
    [
        (None, "", "PLANNED: it has not begun"),
        ("ABORTED_BEFORE_SWITCH", "asked", "ABORTED_BEFORE_SWITCH: asked"),
    ],
)
def test_the_end_is_one_sentence_and_so_is_its_absence(
    outcome: str | None, sentence: str, said: str
) -> None:
    """A run that has not ended says where it is, and why it is there."""
    closed = [("closed", {"outcome": outcome, "sentence": sentence})] if outcome else []
    assert run_blocks.outcome_sentence(like_history(*closed)) == said
    gating = like_history(("state", {"to": "GATING", "reason": "started"}))
    assert run_blocks.outcome_sentence(gating) == "GATING: started"


def test_the_banner_of_an_end_has_its_exit_code() -> None:
    """What a script sees is what a reader sees."""
    told = like_history(("closed", {"outcome": "ROLLBACK_FAILED", "exit_code": 6}))
    assert "(ROLLBACK_FAILED, exit 6)" in run_blocks.outcome_banner(told).text
    assert run_blocks.outcome_banner(like_history()).text.startswith("! The run is not over")


def test_a_member_nobody_pinned_is_not_recorded() -> None:
    """All four have a line, in the order in which they trade."""
    running = {"new_core_engine": "alive", "old_core_engine": "gone"}
    lines = run_blocks.member_table(like_history(("closed", {"running": running}))).text
    rows = lines.splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(run_blocks._MEMBERS)
    assert "not recorded" in rows[0]
    assert rows[1].endswith("– gone")
    assert rows[2].endswith("✓ alive")


def test_a_watch_cut_short_by_a_drill_is_no_bad_news(tmp_path: Path) -> None:
    """It was meant to be; any other trigger is."""
    run = KINDS["drill"](tmp_path)
    told = history_of(run)
    judged, _ = rejudge(run, told)
    banner = run_blocks.watch_banner(told, judged)
    assert (banner.kind, banner.title) == ("info", "Watch cut short by the drill")


def test_rules_stand_with_what_they_ask_for() -> None:
    """A dry run shows what a real one would hold each metric against."""
    (row,) = run_blocks.rule_table(like_history()).rows
    assert row[:2] == ("order_latency_p99_ms", "5 ms for 0 s")
    assert row[-1] == "engine"


def test_steps_are_those_of_the_plan_that_ran() -> None:
    """Not of the table of today: a run is told as it was."""
    told = like_history()
    assert run_blocks.steps_in(told, Phase.SWITCH) == ["stop_old_strategy_runner"]
    assert run_blocks.steps_in(told, Phase.ROLLBACK) == []
    assert run_blocks.commands_table(told).rows == [("stop_old_strategy_runner", "true")]


@pytest.mark.parametrize(
    ("dry", "execute", "said"),
    [
        (True, True, "is a dry run; execute = True does not fit; set it to False"),
        (False, False, "is a real run; execute = False does not fit; set it to True"),
    ],
)
def test_a_run_of_another_kind_is_not_joined(dry: bool, execute: bool, said: str) -> None:
    """The refusal says which of the two to change."""
    plan = SimpleNamespace(sha256="5e" * 32)
    with pytest.raises(RunRefused, match=said):
        run_blocks.refuse_other_plan(like_history(dry_run=dry), cast("Plan", plan), execute=execute)
    run_blocks.refuse_other_plan(like_history(dry_run=dry), cast("Plan", plan), execute=not execute)


def test_a_run_of_another_plan_is_not_joined() -> None:
    """Both digests are named, so that it can be seen which one was meant."""
    plan = cast("Plan", SimpleNamespace(sha256="77" * 32))
    with pytest.raises(
        RunRefused, match=r"sha256 5e5e5e5e5e5e…; these templates give 777777777777…"
    ):
        run_blocks.refuse_other_plan(like_history(), plan, execute=True)


READINESS = {
    "nothing": b"",
    "a list": b"[]",
    "no SLIs": b'{"slis": null}',
    "SLIs that are none": b'{"slis": [1, null, [], {}]}',
    "odd values": b'{"slis": [{"name": [], "value": {"a": 1}, "unit": 5, "target": NaN}]}',
    "half a surrogate pair": rb'{"slis": [{"name": "\ud800", "detail": "\ud800", "value": 1e999}]}',
    "nested": b'{"slis": ' + b"[" * 100_000,
    "a long number": b'{"slis": [{"value": ' + b"9" * 4000 + b"}]}",
}


@pytest.mark.parametrize("data", READINESS.values(), ids=READINESS)
def test_a_readiness_file_is_shown_as_far_as_it_is_one(data: bytes, tmp_path: Path) -> None:
    """What is wrong with it, its gate says; whoever looks at the run sees the rest."""
    (tmp_path / "readiness.json").write_bytes(data)
    report = run_blocks.read_readiness(tmp_path / "readiness.json")
    table = run_blocks.readiness_table(report)
    assert isinstance(table.html, str)
    assert isinstance(table.text, str)
    assert sli_topology(report).stations


def test_a_readiness_file_that_is_not_there_is_shown_as_nothing(tmp_path: Path) -> None:
    """Nor one that is a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "pipe"):
        assert run_blocks.read_readiness(tmp_path / name) == NO_READINESS


def test_what_nobody_tells_of_a_session_stands_in_red_with_a_word() -> None:
    """On every page, above the headline."""
    told = like_history(overrides={"session_not_proved": "recovered: silent"})
    (banner,) = run_blocks.override_banners(told)
    assert banner.text == "✗ NOT PROVED of the session (SESSION_NOT_PROVED): recovered: silent"
    assert "#D55E00" in banner.html


def test_a_completed_run_whose_trading_nothing_proves_is_no_good_news(tmp_path: Path) -> None:
    """The headline says what passed, and what is not proved."""
    run = KINDS["completed"](tmp_path)
    told = history_of(run)
    assert told.closed is not None
    known = "the new generation is logged in, CloseOnly for 28 s more; the watch window passed"
    closed = structs.replace(told.closed.payload, sentence=known)
    records = (*told.records[:-1], structs.replace(told.closed, payload=closed))
    kind, title = run_blocks.headline(History.of(records))
    assert (kind, title) == (
        "warn",
        "The watch window PASSED; that the new stack trades is not proved",
    )
    assert known in run_blocks.outcome_banner(History.of(records)).text


def test_what_cannot_be_measured_is_neither_well_nor_ill() -> None:
    """In the table of the SLIs."""
    sli = {"value": None, "healthy": False, "provenance": "not_measurable"}
    assert "– not measurable" in run_blocks.readiness_table(readiness_file(sli)).text
