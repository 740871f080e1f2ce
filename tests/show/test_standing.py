"""Facts about show/standing.py: who trades and how the steps stand, at any moment of a recorded run."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.model import Phase
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.show.standing import steps_now, who_trades
from tests.props.synthetic_runs import completed_run, rolled_back_run


def cut(history: History, kind: str, words: bytes) -> History:
    """The history up to the first record of a kind that holds ``words``."""
    records = history.records
    last = next(n for n, r in enumerate(records) if r.kind == kind and words in r.line)
    return History.of(records[: last + 1])


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A run that switched, watched and was rolled back."""
    run = rolled_back_run(tmp_path_factory.mktemp("standing"))
    return History.of(read_journal(run.journal).records)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("run_created", b"", "The old stack trades"),
        ("state", b'"to":"READY"', "The old stack trades; the switch waits for a go"),
        # While it is being stopped it may still send an order.
        ("step_started", b"stop_old_strategy_runner", "Nothing is proved to trade since 2.0 s"),
        ("step_ended", b"stop_old_strategy_runner", "Nothing trades since "),
        ("step_started", b"start_new_core_engine", "Nothing trades since "),
        ("step_started", b"start_new_strategy_runner", "Nothing is proved to trade since "),
        ("step_ended", b"start_new_strategy_runner", "The new stack trades"),
        ("watch_started", b"", "The new stack trades; 29:58 left to watch"),
        ("step_ended", b"stop_new_strategy_runner", "Nothing trades since "),
        ("step_ended", b"start_previous_strategy_runner", "The old stack trades"),
    ],
)
def test_who_trades_is_said_in_plain_words(
    kind: str, words: bytes, said: str, rolled_back: History
) -> None:
    """By what was proved, from one stop to the next start; with what the state waits for."""
    history = cut(rolled_back, kind, words)
    trading = who_trades(history, mono=history.records[-1].mono + 2)
    assert trading.words.startswith(said)
    assert trading.is_proved is not said.startswith("Nothing")


def test_a_downtime_of_another_boot_is_told_by_the_clock(rolled_back: History) -> None:
    """The monotonic clock began anew: it cannot say for how long."""
    history = cut(rolled_back, "step_ended", b"stop_old_strategy_runner")
    down = next(r for r in history.records if r.kind == "step_started" and "stop_old" in str(r))
    later = [structs.replace(r, boot_id="another") for r in history.records if r.seq > down.seq]
    later = [*history.records[: down.seq + 1], *later]
    assert (
        who_trades(History.of(later), mono=1.0).words
        == f"Nothing trades since {down.wall:%H:%M:%S}Z"
    )


def test_a_step_stands_beside_its_usual_time(tmp_path: Path) -> None:
    """Done, under way with its deadline, and still to come."""
    history = History.of(read_journal(completed_run(tmp_path).journal).records)
    history = cut(history, "step_started", b"start_new_core_engine")
    now = history.records[-1].mono + 3
    steps = {
        step.name: step
        for step in steps_now(history, Phase.SWITCH, {"start_new_core_engine": 4.25}, mono=now)
    }
    done, here, due = (
        steps[name] for name in ("stop_old_core_engine", "start_new_core_engine", "warmup_query")
    )
    assert (done.mark, done.most, done.is_due) == ("✓", "", False)
    assert (here.mark, here.took, here.is_under_way) == ("…", "3.0 s", True)
    assert here.usual == "usually 4.2 s"
    assert here.most.startswith("at most ")
    assert (due.took, due.is_due) == ("", True)
