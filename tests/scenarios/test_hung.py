"""Accident: an orchestrator is stopped, or held up in a call, and was "conducted" for ever.

Whoever hangs is ended and replaced, and what `status` and the steering commands say meanwhile is
so: since when there is no answer, and whether anybody does something about it. CI runs one of each
kind; the table of all moments, on the light twin, is ``make prove``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ctp_runbook.host.process import is_running
from ctp_runbook.model import Identity, Outcome, State
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import GuardianStarted, OrchestratorStarted, RequestAnswered
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.launch import read_whole
from ctp_runbook.run.steer import steer
from tests.props.command_line import typed
from tests.props.cutover_tools import Cutover, Ending, cutover_of, fresh_twin
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack

pytestmark = pytest.mark.twin
# A sixth of it is the least patience there is, 5 s.
BUDGET = {"MAX_ROLLBACK_SECONDS": "30"}
HUNG = re.compile(
    r"the orchestrator hung, with no sign of life for (\d+) s; it was ended and another started"
)


def both(run: RunDir) -> tuple[Identity, Identity]:
    """The guardian and the orchestrator of a run, as its journal has them last."""
    history = read_whole(run)
    conducted = history.conducted
    assert conducted is not None
    newer = [record.payload for record in history.of_kind(GuardianStarted)]
    guardian = newer[-1] if newer else conducted.payload.guardian
    assert guardian is not None
    return (
        Identity(guardian.pid, guardian.start_ticks),
        Identity(conducted.writer.pid, conducted.writer.start_ticks),
    )


def stop(*identities: Identity) -> None:
    """SIGSTOP."""
    for identity in identities:
        os.kill(identity.pid, signal.SIGSTOP)


def hanging_in(run: RunDir, step: str) -> RunDir:
    """The run once the command of ``step`` runs, which its record announces."""
    wait_for(lambda: read_whole(run).step(step).attempt)
    program = Path(f"/proc/{read_whole(run).step(step).pid}/comm")
    wait_for(lambda: program.read_text() == "tail\n")
    return run


def half_switched(stack: SmallStack) -> RunDir:
    """A run with both parts of the old stack stopped, and the new engine's start hanging."""
    return hanging_in(stack.half_switch(**BUDGET), "start_new_core_engine")


def gating(stack: SmallStack) -> RunDir:
    """A run that hangs in its first gate."""
    run = stack.begin(stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null", **BUDGET))
    return hanging_in(run, "bootstrap_infra")


def status_once_silent(run: RunDir, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and words of `status` as soon as it says of somebody that there is no answer."""
    while True:
        code, said = typed("status", "--run", run.path), capsys.readouterr().out
        if "no answer since" in said:
            return code, said
        time.sleep(0.2)


def aborted(stack: SmallStack, run: RunDir) -> History:
    """The history after an abort; the old stack still trades."""
    steer(run, "abort", by="ops")
    history = stack.closed(run)
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert stack.is_up("old_core_engine")
    assert stack.is_up("old_strategy_runner")
    return history


def test_a_stopped_orchestrator_is_replaced_and_what_is_said_meanwhile_is_so(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both parts of the old stack are down: trading is restored in the budget, by one successor."""
    run = half_switched(stack)
    _, orchestrator = both(run)
    stop(orchestrator)
    assert typed("hold", "--run", run.path, "--by", "ops") == 7
    said = capsys.readouterr().out
    assert re.search(r"hold asked of run \S+: no answer since \d+ s from the orchestrator", said)
    assert f"(pid {orchestrator.pid}): it is stopped, or held up in a call; its guardian" in said
    history = stack.closed(run)
    assert not is_running(orchestrator)
    reasons = [record.payload.reason for record in history.of_kind(OrchestratorStarted)]
    assert len(reasons) == 2
    silent = HUNG.match(reasons[1])
    assert silent, reasons
    assert 5 <= int(silent[1]) <= 15
    assert reasons[1].endswith("; ended the group of start_new_core_engine")
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed
    assert stack.is_up("old_core_engine")
    assert stack.is_up("old_strategy_runner")
    assert not stack.is_up("new_core_engine")
    # What was asked of the one that hung is answered by the next.
    assert [one.payload.request for one in history.of_kind(RequestAnswered)] == ["go", "hold"]


def test_where_both_are_stopped_nobody_conducts_and_a_resume_ends_them(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status says since when and the one command, which proves them gone before it takes over."""
    run = gating(stack)
    held = both(run)
    stop(*held)
    code, said = status_once_silent(run, capsys)
    assert code == 7
    assert re.search(r"GATING; no answer since \d+ s; ", said)
    for who, identity in zip(("guardian", "orchestrator"), held, strict=True):
        assert re.search(rf"no answer since \d+ s from its {who} \(pid {identity.pid}\)", said)
    assert "NOBODY CONDUCTS" in said
    assert "It had not begun to stop the old stack" in said
    assert f"Now: `ctp-runbook resume --run {run.path}` ends that and takes the run up" in said
    assert typed("hold", "--run", run.path) != 0
    assert "nobody conducts run" in capsys.readouterr().err
    assert typed("resume", "--run", run.path, "--by", "ops") == 0
    assert not any(map(is_running, held))
    history = aborted(stack, run)
    assert [one.payload.reason for one in history.of_kind(OrchestratorStarted)][1:] == [
        "taken up again by ops"
    ]


def test_a_stopped_guardian_is_told_and_replaced(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on meanwhile, and the next guardian does what this one would have done."""
    run = gating(stack)
    guardian, orchestrator = both(run)
    stop(guardian)
    code, said = status_once_silent(run, capsys)
    assert code == 0
    assert "GATING; conducted; " in said
    assert re.search(rf"no answer since \d+ s from the guardian \(pid {guardian.pid}\)", said)
    wait_for(lambda: list(read_whole(run).of_kind(GuardianStarted)))
    assert not is_running(guardian)
    (replaced,) = read_whole(run).of_kind(GuardianStarted)
    assert re.fullmatch(
        r"the one before it hung, with no sign of life for \d+ s, and was ended",
        replaced.payload.reason,
    )
    os.kill(orchestrator.pid, signal.SIGKILL)
    wait_for(lambda: len(list(read_whole(run).of_kind(OrchestratorStarted))) == 2)
    aborted(stack, run)


@pytest.mark.slow
def test_both_stopped_and_woken_go_on_as_if_nothing_had_been(stack: SmallStack) -> None:
    """Silence that nobody was awake to hear proves nothing: neither ends the other."""
    run = gating(stack)
    held = both(run)
    stop(*held)
    time.sleep(7.0)
    for identity in held:
        os.kill(identity.pid, signal.SIGCONT)
    time.sleep(1.5)
    assert all(map(is_running, held))
    history = aborted(stack, run)
    assert history.restarts == 0
    assert not list(history.of_kind(GuardianStarted))


# --- the table --------------------------------------------------------------------


def _began(step: str) -> Callable[[History], bool]:
    return lambda history: history.step(step).attempt > 0


def hold_before_switch(cutover: Cutover) -> None:
    """Until READY, held."""
    assert cutover.wait_for(lambda history: history.conducted is not None), cutover.story()
    steer(cutover.run, "hold", by="ops")
    assert cutover.wait_for(lambda history: history.state is State.READY), cutover.story()


def switch_half(cutover: Cutover) -> None:
    """Until both parts of the old stack are stopped."""
    assert cutover.wait_for(_began("start_new_core_engine")), cutover.story()


def watch(cutover: Cutover) -> None:
    """Until the watch has begun."""
    assert cutover.wait_for(lambda history: history.watch_started is not None), cutover.story()


def roll_back(cutover: Cutover) -> None:
    """Until a rollback that somebody asked for has begun to stop the new stack."""
    watch(cutover)
    steer(cutover.run, "rollback", by="ops")
    assert cutover.wait_for(_began("stop_new_strategy_runner")), cutover.story()


MOMENTS: Mapping[str, Callable[[Cutover], None]] = {
    "held before the switch": hold_before_switch,
    "the old stack is stopped": switch_half,
    "the watch has begun": watch,
    "in the rollback": roll_back,
}
VICTIMS = (("orchestrator",), ("guardian",), ("guardian", "orchestrator"))


def stopped_at(moment: str, victims: tuple[str, ...], room: Path) -> tuple[str, Ending, Cutover]:
    """A fresh twin, a run, SIGSTOP for longer than anybody is waited for, and CONT: for both then,
    for one when all is over."""
    with (
        fresh_twin(room / "twin", watch_seconds=30.0) as twin,
        cutover_of(twin, room / "outputs") as cutover,
    ):
        MOMENTS[moment](cutover)
        held = [Identity(who.pid, who.start_ticks) for who in both(cutover.run)]
        pids = [cutover.victim(name) for name in victims]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(13.0)
        told = status_of(cutover.run)
        if len(victims) == 2:
            wake(pids)
        if moment == "held before the switch":
            time.sleep(5.0)
            steer(cutover.run, "abort", by="ops")
        ending = cutover.end()
        if is_running(held[0]) and victims == ("guardian",):
            # It holds the environment of a run that is over, and is ended by the one command.
            told = f"{told} {steer(cutover.run, 'resume', by='ops').sentence}"
        wake(pids)
        wait_for(lambda: not any(map(is_running, held)))
        return told, ending, cutover


def wake(pids: list[int]) -> None:
    """SIGCONT to those who still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def status_of(run: RunDir) -> str:
    """Exit code and the lines of `status` that speak of an answer."""
    words = [sys.executable, "-m", "ctp_runbook", "status", "--run", str(run.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    lines = [line for line in done.stdout.splitlines() if "no answer since" in line]
    return f"exit {done.returncode} {' | '.join(lines)}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_table_of_those_who_hang(
    tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """Whoever is stopped, whenever, and woken afterwards: one generation trades, it verifies."""
    rows: list[str] = []
    undecided: list[str] = []
    for moment in MOMENTS:
        for victims in VICTIMS:
            room = tmp_path / str(len(rows))
            told, ending, cutover = stopped_at(moment, victims, room)
            restarts = cutover.history.restarts
            rows.append(f"{moment:25} {'+'.join(victims):22} restarts: {restarts}  {ending.row}")
            is_so = restarts == (1 if victims == ("orchestrator",) else 0)
            is_told = told.startswith("exit 7") if len(victims) == 2 else True
            if not (ending.is_decided and is_so and is_told):
                story = f"{told}\n{ending.findings}\n{cutover.story()}"
                undecided.append(f"{rows[-1]}\n{story}")
    record_table("hung_table", rows)
    assert not undecided, "\n\n".join(undecided)
