"""What is started meets what will not go: nothing of two generations ever trades together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.proc import ALIVE, alive
from ctp_runbook.host.proc import stop as stop_daemon
from ctp_runbook.model import StepStatus
from ctp_runbook.rehearsal import stack
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from tests.props.cutover_tools import cutover_of, edited, fresh_twin

# What the broken orchestrator's interpreter runs first: every proof of gone is waved through.
_BREAK = """
import ctp_runbook.run.proofs, ctp_runbook.run.switch
ctp_runbook.run.proofs.gone_gap = lambda *_, **__: ""
ctp_runbook.run.switch.generation_gone_gap = lambda *_, **__: ""
"""


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    """A twin with a watch of 4 s."""
    with fresh_twin(tmp_path / "twin", watch_seconds=4.0) as made:
        yield made


def _let_old_engine_ignore_term(twin: Twin) -> None:
    """Start the old generation again with an engine that ignores TERM, stopped by TERM alone."""
    for name in ("old_strategy_runner", "old_core_engine"):
        assert stop_daemon(twin.pid_file(name)).exit_code == 0
    twin.behaviour_file("old").write_text(json.dumps({"ignore_term": True}))
    for name in ("old_core_engine", "old_strategy_runner"):
        stack.start_member(twin, name)
    edited(
        twin.cutover_template,
        OLD_CORE_ENGINE_STOP_CMD=f'kill -TERM "$(head -n 1 {twin.pid_file("old_core_engine")})"',
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="2",
    )


def test_an_old_engine_that_will_not_die_keeps_trading(twin: Twin, tmp_path: Path) -> None:
    """It is kept, nothing new is started, its runner trades again, and the run exits 4."""
    _let_old_engine_ignore_term(twin)
    before = alive(twin.pid_file("old_core_engine")).identity
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
        history = cutover.history
    assert ending.exit_code == 4, cutover.story()
    assert ending.verified, ending.findings
    assert history.step("start_new_core_engine").status is StepStatus.NOT_RUN
    assert history.step("start_previous_core_engine").status is StepStatus.SKIPPED
    assert alive(twin.pid_file("old_core_engine")).identity == before
    assert alive(twin.pid_file("old_strategy_runner")).exit_code == ALIVE
    assert (ending.trading, ending.overlaps) == (frozenset({"old"}), 0)


def test_a_broken_orchestrator_is_caught_by_the_front(
    twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orchestrator without proofs of gone lets two generations trade, and the log tells."""
    _let_old_engine_ignore_term(twin)
    (tmp_path / "sitecustomize.py").write_text(_BREAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        assert cutover.wait_for(lambda history: history.watch_started is not None), cutover.story()
        assert overlaps(twin.front_log), "two generations traded and the front's log is silent"
        cutover.end()


def test_an_untouched_build_is_not_caught(twin: Twin, tmp_path: Path) -> None:
    """The same run with the proofs in place: at no instant two generations."""
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
    assert (ending.exit_code, ending.overlaps) == (0, 0), cutover.story()


def test_an_old_engine_that_somebody_revives_ends_the_watch(twin: Twin, tmp_path: Path) -> None:
    """A supervisor that brings the old engine back is noticed within seconds: the new one goes."""
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        assert cutover.wait_for(lambda history: history.watch_started is not None), cutover.story()
        stack.start_member(twin, "old_core_engine")
        ending = cutover.end()
    assert ending.exit_code == 4, cutover.story()
    assert "lives again" in str(cutover.history.trigger)
    assert (ending.trading, ending.verified) == (frozenset({"old"}), True), ending.findings
