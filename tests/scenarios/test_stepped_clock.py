"""Somebody sets the wall clock in the middle of a run: it is recorded, durations stay true, and the
run verifies as what it was, with its files and as a bare pair."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ctp_runbook.model import Phase, State
from ctp_runbook.record.evidence import (
    CUTOVER_RESULT,
    ROLLBACK_RESULT,
    rollback_seconds,
    trading_downtime_seconds,
)
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import StepEnded, StepStarted, WatchDisturbed
from ctp_runbook.record.result_env import parse_env
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.steer import steer
from ctp_runbook.verify.pair import verify_pair
from tests.props.cutover_tools import ROOT, cutover_of, edited, fresh_twin

# Each way and each phase once in CI, the other way of each in `make prove`.
OFTEN = [("gates", 600), ("switch", -600), ("watch", 600), ("rollback", -600)]
SELDOM = [(at, -by) for at, by in OFTEN]
SHIM = ROOT / "tests" / "props" / "clock_shim"


def begun(history: History, phase: Phase, *, done: int) -> bool:
    """True once so many steps of a phase are over."""
    ends = [end for end in history.of_kind(StepEnded) if end.payload.phase is phase]
    return len(ends) >= done


def has_samples(run: RunDir) -> bool:
    """True once the watch has measured something."""
    return run.samples.exists() and run.samples.stat().st_size > 0


def lasted(history: History, *, since: str, until: str) -> float:
    """Seconds from the start of one step to the end of another, by the clock that nobody sets."""
    starts = [r.mono for r in history.of_kind(StepStarted) if r.payload.step == since]
    ends = [r.mono for r in history.of_kind(StepEnded) if r.payload.step == until]
    return ends[0] - starts[0]


@pytest.mark.parametrize(
    ("at", "by"), [*OFTEN, *(pytest.param(*each, marks=pytest.mark.slow) for each in SELDOM)]
)
def test_a_clock_that_is_set_forges_no_duration(
    at: str, by: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes back or ahead, in the gates, the switch, the watch or the rollback of a drill."""
    clock, command = tmp_path / "clock", "orchestrate" if at == "watch" else "drill"
    monkeypatch.setenv("PYTHONPATH", str(SHIM))
    monkeypatch.setenv("CTP_TEST_CLOCK", str(clock))
    with fresh_twin(tmp_path / "twin", watch_seconds=6.0) as twin:
        # Open before and after: whether the window is open is rightly asked of the wall clock.
        opened = datetime.now().astimezone().replace(microsecond=0) - timedelta(minutes=30)
        edited(twin.cutover_template, CUTOVER_WINDOW_LOCAL=opened.isoformat())
        with cutover_of(twin, tmp_path / "outputs", command=command) as cutover:
            assert cutover.wait_for(
                {
                    "gates": lambda history: begun(history, Phase.GATE, done=2),
                    "switch": lambda history: begun(history, Phase.SWITCH, done=2),
                    # Not before its sampler looks at the clock: what comes earlier is the switch's.
                    "watch": lambda history: history.watch_started and has_samples(cutover.run),
                    "rollback": lambda history: begun(history, Phase.ROLLBACK, done=2),
                }[at]
            ), cutover.story()
            set_clock = tmp_path / "by"
            set_clock.write_text(str(by))
            set_clock.rename(clock)
            if at == "watch":
                # A person is to look before it goes on, and has seen enough.
                assert cutover.wait_for(lambda history: history.state is State.HOLDING)
                steer(cutover.run, "rollback", by="operator", reason="the clock was set")
            ending = cutover.end()
    history, run = cutover.history, cutover.run
    assert ending.exit_code == 4, cutover.story()
    assert ending.findings == ()
    told = [record.payload for record in history.of_kind(WatchDisturbed)]
    assert [round(each.seconds) for each in told if each.what == "clock_stepped"] == [by]
    assert trading_downtime_seconds(history) < 120
    assert 0 < rollback_seconds(history) < 60
    down = lasted(history, since="stop_old_strategy_runner", until="start_new_strategy_runner")
    down += lasted(
        history, since="stop_new_strategy_runner", until="start_previous_strategy_runner"
    )
    assert trading_downtime_seconds(history) == pytest.approx(down, abs=0.6)
    files = run.evidence / CUTOVER_RESULT, run.evidence / ROLLBACK_RESULT
    (forth, _), (back, _) = map(parse_env, files)
    own = back if at == "rollback" else forth
    prefix = "ROLLBACK" if at == "rollback" else "CUTOVER"
    assert float(own[f"{prefix}_CLOCK_SET_SECONDS"]) == pytest.approx(by, abs=0.6)
    assert back["ROLLBACK_SLO_MET"] == "true"
    pair = verify_pair(*files, allow_cutover_rollback=True)
    assert pair.ok, pair.findings
