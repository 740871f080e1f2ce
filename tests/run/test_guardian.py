"""Facts about run/guardian.py: whoever is killed, the run is not left undecided."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import structs

from ctp_runbook.host.daemon import scope_prefix, take_up_lack
from ctp_runbook.host.heartbeat import Beat, Who
from ctp_runbook.host.process import group_members, identity_of, is_running
from ctp_runbook.model import Identity, Outcome, StepStatus
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record
from ctp_runbook.record.kinds import (
    GuardianFacts,
    GuardianStarted,
    OrchestratorStarted,
    Payload,
    StepStarted,
)
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.guardian import (
    Listener,
    Pulse,
    end_leftovers,
    is_not_taken_up,
    patience_with,
    shares_control_group,
)
from ctp_runbook.run.launch import is_attended, read_history, start, take_lock
from ctp_runbook.run.requests import send_request
from tests.props.example_records import like
from tests.props.plan_fixtures import command_line, end_run, make_plan, processes_with, wait_for
from tests.props.simulated_host import SimulatedHost
from tests.props.small_stack import SmallStack

P = TypeVar("P", bound=Payload)


def step_started(identity: Identity, *, step: str = "bootstrap_infra") -> Payload:
    """The record of a step that this process is."""
    pid, ticks = identity.pid, identity.start_ticks
    return like("step_started", step=step, phase="gate", pid=pid, start_ticks=ticks)


def step_ended(step: str = "bootstrap_infra") -> Payload:
    """The record of its end."""
    return like("step_ended", step=step, phase="gate", status="ok")


def history_of(folder: Path, *payloads: Payload) -> History:
    """These records, folded."""
    journal = Journal(folder / "journal.jsonl", durable=False)
    for payload in payloads:
        journal.append(payload)
    journal.close()
    return History.of(journal.records)


@pytest.fixture
def group() -> Iterator[Identity]:
    """A shell with a child, in a group of their own."""
    with subprocess.Popen(
        ["bash", "-c", "sleep 600 & wait; sleep 600"], start_new_session=True
    ) as leader:
        wait_for(lambda: len(group_members(leader.pid)) == 2)
        found = identity_of(leader.pid)
        assert found is not None
        yield found
        if group_members(leader.pid):
            os.killpg(leader.pid, signal.SIGKILL)


# --- what a dead orchestrator leaves ----------------------------------------------


def test_a_step_nobody_saw_end_is_ended(tmp_path: Path, group: Identity) -> None:
    """With its whole group; its name is told."""
    assert end_leftovers(history_of(tmp_path, step_started(group))) == "bootstrap_infra"
    assert group_members(group.pid) == ()


def test_a_group_that_lost_its_leader_is_ended(tmp_path: Path, group: Identity) -> None:
    """The shell is gone, what it forked is not."""
    os.kill(group.pid, signal.SIGKILL)
    os.waitid(os.P_PID, group.pid, os.WEXITED | os.WNOWAIT)
    assert len(group_members(group.pid)) == 1
    assert end_leftovers(history_of(tmp_path, step_started(group))) == "bootstrap_infra"
    assert group_members(group.pid) == ()


def test_a_step_that_ended_is_left_alone(tmp_path: Path, group: Identity) -> None:
    """A daemon that a good start step left in its group is the engine itself."""
    assert end_leftovers(history_of(tmp_path, step_started(group), step_ended())) == ""
    assert is_running(group)


def test_a_reused_pid_is_left_alone(tmp_path: Path, group: Identity) -> None:
    """Another process that got the pid of the step is nobody's leftover."""
    other = Identity(group.pid, group.start_ticks - 1)
    assert end_leftovers(history_of(tmp_path, step_started(other))) == ""
    assert is_running(group)


def test_an_empty_group_is_passed_over_for_a_later_one(tmp_path: Path, group: Identity) -> None:
    """Two steps without an end, of which one is still there."""
    gone = Identity(2**22 + 1, 1)
    history = history_of(tmp_path, step_started(gone, step="init_kafka_topic"), step_started(group))
    assert end_leftovers(history) == "bootstrap_infra"


def test_nothing_left_is_nothing_ended(tmp_path: Path) -> None:
    """Between two steps there is no group."""
    assert end_leftovers(history_of(tmp_path)) == ""


def test_a_run_has_its_own_control_group_or_says_that_it_has_not() -> None:
    """One of the two: a scope of systemd, or a warning with what to do."""
    (prefix, lack), warning = scope_prefix(), shares_control_group()
    assert bool(prefix) != bool(lack)
    assert not prefix or (Path(prefix[0]).name, prefix[1]) == ("systemd-run", "--scope")
    assert warning.startswith(lack)
    assert bool(warning) == bool(lack)
    assert not warning or "ctp-runbook resume" in warning


def test_a_run_says_that_nobody_will_take_it_up() -> None:
    """Without the timer a reboot leaves it as it is; with it there is nothing to say."""
    lack, warning = take_up_lack(), is_not_taken_up()
    assert warning.startswith(lack)
    assert bool(warning) == bool(lack)
    assert not warning or "`ctp-runbook resume` takes it up" in warning


# --- signs of life ------------------------------------------------------------------


@dataclass
class Lines:
    """Signs of life without a lock file: the last of each, and whether the disk takes any."""

    last: dict[str, Beat] = field(default_factory=dict)
    takes: bool = True

    def write_beat(self, lock: int, who: Who, beat: Beat) -> bool:
        """Keep it."""
        if self.takes:
            self.last[who] = beat
        return self.takes

    def read_beat(self, lock: int, who: Who) -> Beat | None:
        """The last."""
        return self.last.get(who)

    def beat_of(self, environment: str, who: Who, *, path: Path) -> Beat | None:
        """The last."""
        return self.last.get(who)


@dataclass
class Listening:
    """A guardian that listens to an orchestrator, on a clock that is told how late it is."""

    host: SimulatedHost = field(default_factory=SimulatedHost)
    lines: Lines = field(default_factory=Lines)

    def __post_init__(self) -> None:
        """Nothing was heard yet."""
        self.world = structs.replace(self.host.world, hearts=self.lines)
        own = self.host.own_identity()
        self.pulse = Pulse("orchestrator", lock_fd=3, patience=5.0, world=self.world)
        self.listener = Listener("orchestrator", own, lock_fd=3, world=self.world)

    def listen(self, seconds: float, *, every: float = 0.25, **how: float) -> float:
        """Listen for so long; how much of the silence is too much at its end."""
        overdue = 0.0
        for _ in range(round(seconds / every)):
            self.host.clock.sleep(every)
            overdue = self.listener.overdue(can_leave=self.lines.takes, **how)
        return round(overdue, 6)  # quarters of a second, added to any start, are not exact


def test_silence_is_too_long_beyond_what_was_announced() -> None:
    """Its patience, and what it said it would be busy for; one sign ends it."""
    listening = Listening()
    listening.pulse.beat()
    assert listening.listen(5.25) == 0.0
    assert listening.listen(1.0) == pytest.approx(1.0)
    listening.pulse.beat(busy=3.0)
    assert listening.listen(8.25) == 0.0
    assert listening.listen(0.5) == pytest.approx(0.5)
    listening.pulse.beat()
    assert listening.listen(0.25) == 0.0
    assert listening.listener.silent == 0.0


def test_who_was_stopped_itself_has_heard_nothing() -> None:
    """A day in which neither ran is a moment; a hundred of them are a hundred moments."""
    listening = Listening()
    listening.pulse.beat()
    assert listening.listen(86400, every=86400) == 0.0
    listening.pulse.beat()
    for _ in range(100):
        assert listening.listen(600, every=600) == 0.0
        listening.pulse.beat()


def test_a_busy_machine_is_no_hung_process() -> None:
    """Signs that come late, and looks that come late, as long as one comes between two patiences."""
    listening = Listening()
    for late in (0.1, 4.9, 2.0, 4.9, 0.5):
        listening.pulse.beat()
        assert listening.listen(late, every=late / 2) == 0.0


def test_before_the_first_sign_another_measure_counts() -> None:
    """None for one that may be of a version without; signs of somebody else are none of it."""
    listening = Listening()
    listening.lines.last["orchestrator"] = Beat(77, 7, 1.0, 0.0, 5.0)
    assert listening.listen(60) == 0.0
    assert listening.listen(0.25, before_first=15.0) > 40
    listening.pulse.beat()
    assert listening.listen(0.25, before_first=15.0) == 0.0


def test_who_can_leave_no_sign_hears_none() -> None:
    """The disk that takes none of the caller's may take none of the other's."""
    listening = Listening()
    listening.pulse.beat()
    listening.lines.takes = False
    assert listening.listen(60) == 0.0
    listening.lines.takes = True
    assert listening.listen(5.0) == 0.0
    assert listening.listen(1.0) > 0.0


def test_a_sixth_of_the_budget_is_waited_for_within_limits(tmp_path: Path) -> None:
    """Ten seconds of a minute and of more, and five at least, whatever the budget."""
    waits = {}
    for budget in ("180", "60", "42", "30", "9.9"):
        plan = make_plan(tmp_path, MAX_ROLLBACK_SECONDS=budget)
        waits[budget] = patience_with(plan) - plan.limits.effect_poll_seconds
    assert waits == pytest.approx({"180": 10, "60": 10, "42": 7, "30": 5, "9.9": 5})


# --- kill -9 ----------------------------------------------------------------------


@pytest.fixture
def gating(stack: SmallStack) -> RunDir:
    """A real run that hangs in its first gate."""
    plan = stack.plan(BOOTSTRAP_INFRA_CMD="tail -f /dev/null")
    run = stack.create(plan)
    start(run)
    wait_for(lambda: gates_begun(run) == 1)
    # Its record comes before its release: killed in between, it would have done nothing.
    program = Path(f"/proc/{read_history(run).step('bootstrap_infra').pid}/comm")
    wait_for(lambda: program.read_text() == "tail\n")
    return run


def records(run: RunDir, kind: type[P]) -> list[Record[P]]:
    """The run's records of a kind."""
    return list(read_history(run).of_kind(kind))


def gates_begun(run: RunDir) -> int:
    """How often the first gate was begun."""
    return len(records(run, StepStarted))


def orchestrator(run: RunDir) -> Identity:
    """The orchestrator that started last."""
    writer = records(run, OrchestratorStarted)[-1].writer
    return Identity(writer.pid, writer.start_ticks)


def guardian(run: RunDir) -> Identity:
    """The guardian that is known last."""
    known: list[GuardianStarted | GuardianFacts | None] = [
        *(record.payload.guardian for record in records(run, OrchestratorStarted)),
        *(record.payload for record in records(run, GuardianStarted)),
    ]
    assert known[-1] is not None
    return Identity(known[-1].pid, known[-1].start_ticks)


def aborted(stack: SmallStack, run: RunDir) -> History:
    """The history after an abort; the old stack still trades, nobody attends the run."""
    send_request(run, "abort", by="ops")
    history = stack.closed(run)
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH
    assert stack.is_up("old_core_engine")
    assert stack.is_up("old_strategy_runner")
    wait_for(lambda: not is_attended(run))
    return history


@pytest.mark.twin
def test_a_killed_orchestrator_is_started_again(stack: SmallStack, gating: RunDir) -> None:
    """Its leftover step is ended, the run goes on from its journal, and still takes requests."""
    first = read_history(gating).step("bootstrap_infra")
    os.kill(orchestrator(gating).pid, signal.SIGKILL)
    wait_for(lambda: gates_begun(gating) == 2)
    assert group_members(first.pid) == ()
    resumed = records(gating, OrchestratorStarted)[1].payload
    assert resumed.resumed
    assert resumed.reason == (
        "the orchestrator died and was started again; ended the group of bootstrap_infra"
    )
    history = aborted(stack, gating)
    assert history.restarts == 1
    assert history.step("bootstrap_infra").attempt == 2


@pytest.mark.twin
def test_a_killed_guardian_is_replaced(stack: SmallStack, gating: RunDir) -> None:
    """By one that does the same for an orchestrator that is not its child."""
    before = guardian(gating)
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: records(gating, GuardianStarted))
    assert guardian(gating) != before
    assert gates_begun(gating) == 1
    os.kill(orchestrator(gating).pid, signal.SIGKILL)
    wait_for(lambda: gates_begun(gating) == 2)
    aborted(stack, gating)


@pytest.mark.twin
def test_after_both_were_killed_the_run_can_be_taken_up(stack: SmallStack, gating: RunDir) -> None:
    """The lock is free with them, nothing of the run is lost, and whoever starts it goes on."""
    for identity in (guardian(gating), orchestrator(gating)):
        os.kill(identity.pid, signal.SIGKILL)
    wait_for(lambda: not is_attended(gating))
    start(gating, resume="taken up again by ops")
    wait_for(lambda: gates_begun(gating) == 2)
    assert records(gating, OrchestratorStarted)[1].payload.reason == "taken up again by ops"
    aborted(stack, gating)


# --- in the middle of the switch --------------------------------------------------


def mid_switch(stack: SmallStack) -> RunDir:
    """A run whose orchestrator died after the old runner was stopped."""
    run = stack.create(stack.plan())
    journal = Journal(run.journal)
    for member in ("old_core_engine", "old_strategy_runner"):
        identity = stack.identity(member)
        assert identity is not None
        journal.append(
            like("identity", member=member, pid=identity.pid, start_ticks=identity.start_ticks),
        )
    journal.append(like("state", to="SWITCHING", reason="go"))
    step = "stop_old_strategy_runner"
    journal.append(step_started(Identity(2**22 + 1, 1), step=step))
    journal.append(step_ended(step))
    journal.close()
    runner = stack.identity("old_strategy_runner")
    assert runner is not None
    os.kill(runner.pid, signal.SIGTERM)
    (stack.folder / "old_strategy_runner.up").unlink()
    return run


def guard(run: RunDir, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run a guardian to its end."""
    lock = take_lock(read_history(run).created.environment, run_id=run.run_id)
    command = [
        "ctp_runbook.run.guardian",
        str(run.path),
        "--lock-fd",
        str(lock),
        "--resume",
        "test",
    ]
    try:
        return subprocess.run(
            [*prefix, sys.executable, "-m", *command],
            pass_fds=[lock],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        os.close(lock)


@pytest.mark.twin
def test_a_switch_that_was_interrupted_is_rolled_back(stack: SmallStack) -> None:
    """The old engine never stopped and is kept; its runner trades again; one of each."""
    run = mid_switch(stack)
    engine = stack.identity("old_core_engine")
    assert guard(run).returncode == 0
    history = stack.closed(run)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed
    assert history.step("start_previous_core_engine").status is StepStatus.SKIPPED
    assert stack.identity("old_core_engine") == engine
    assert stack.is_up("old_strategy_runner")
    assert stack.starts.count("old_strategy_runner") == 2


@pytest.mark.twin
def test_a_full_disk_in_the_middle_of_the_switch_is_rolled_back(stack: SmallStack) -> None:
    """No record can be written any more; trading is restored all the same."""
    run = mid_switch(stack)
    guard(run, "prlimit", f"--fsize={run.journal.stat().st_size}")
    assert stack.is_up("old_strategy_runner")


@pytest.mark.twin
def test_a_guardian_that_gives_up_leaves_nobody_at_work(stack: SmallStack) -> None:
    """What it calls given up must not act on, unguarded, a moment later."""
    run = mid_switch(stack)
    end_run(run)
    (stack.folder / "cutover.env").unlink()
    done = guard(run)
    working = processes_with(f"SMALL_STACK={stack.mark}")
    commands = [command_line(pid) for pid in working]
    assert "nobody conducts the run" in done.stderr
    assert [one for one in commands if b"ctp_runbook.run.orchestrator" in one] == []
