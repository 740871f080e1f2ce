"""A run told room by room: every kind of run, from the same History that evidence comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show import run_blocks
from ctp_runbook.watch.replay import rejudge
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
