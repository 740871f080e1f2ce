"""Facts about run/attend.py: who gives no sign of life, and what is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.host.heartbeat import Beat, Who
from ctp_runbook.host.process import identity_of, is_running
from ctp_runbook.model import Identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Writer
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.attend import (
    end_silent,
    lost_sentence,
    read_history,
    silence_of,
    silent_sentence,
)
from ctp_runbook.run.world import HERE, World
from tests.props.example_records import header_like, like
from tests.props.simulated_host import SimulatedClock
from tests.run.test_guardian import Lines

PATIENCE = 5.2


@dataclass
class Attended:
    """A run in its gates, with processes that are said to conduct and to guard it."""

    run: RunDir
    pids: dict[Who, Identity]
    lines: Lines
    clock: SimulatedClock

    @property
    def world(self) -> World:
        """This machine, with a clock that is told the time and signs of life that are said."""
        return structs.replace(HERE, hearts=self.lines, clock=self.clock)

    @property
    def history(self) -> History:
        """The journal so far."""
        return read_history(self.run)

    def silent(self, **seconds: float) -> None:
        """Let each give its last sign so long ago."""
        for who, ago in seconds.items():
            identity = self.pids[who]  # type: ignore[index]
            beat = Beat(identity.pid, identity.start_ticks, self.clock.now - ago, 0.0, PATIENCE)
            self.lines.last[who] = beat

    def told(self) -> str:
        """What `status` says in red."""
        silence = silence_of(self.run, self.history, world=self.world)
        lost = lost_sentence(self.run, self.history, silence, world=self.world)
        return lost or silent_sentence(self.run, self.history, silence)


@pytest.fixture
def attended(tmp_path: Path) -> Iterator[Attended]:
    """A run that two sleeping processes attend."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    roles: tuple[Who, ...] = ("orchestrator", "guardian")
    children = [subprocess.Popen(["sleep", "600"]) for _ in roles]
    pids = {}
    for who, child in zip(roles, children, strict=True):
        identity = identity_of(child.pid)
        assert identity is not None
        pids[who] = identity
    facts = {"pid": pids["guardian"].pid, "start_ticks": pids["guardian"].start_ticks}
    journal = Journal(run.journal, durable=False)
    journal._writer = Writer(pids["orchestrator"].pid, pids["orchestrator"].start_ticks)
    journal.append(header_like(run_id="run", dry_run=False))
    journal.append(like("orchestrator_started", guardian=facts))
    journal.append(like("state", to="GATING"))
    journal.close()
    yield Attended(run, pids, Lines(), SimulatedClock())
    for child in children:
        child.kill()
        child.wait()


def test_nothing_is_said_of_those_who_answer_or_are_not_known(attended: Attended) -> None:
    """A version without signs of life is no silence; nor is what was announced."""
    assert attended.told() == ""
    attended.silent(orchestrator=4.9, guardian=4.9)
    assert attended.told() == ""
    attended.silent(orchestrator=20.0, guardian=0.0)
    last = attended.lines.last["orchestrator"]
    attended.lines.last["orchestrator"] = last._replace(busy=60.0)
    assert attended.told() == ""


def test_a_silent_orchestrator_is_replaced_by_its_guardian(attended: Attended) -> None:
    """Since when, who, and what comes of it; or that it cannot be ended."""
    attended.silent(orchestrator=6.0, guardian=0.1)
    pid = attended.pids["orchestrator"].pid
    held_up = f"(pid {pid}): it is stopped, or held up in a call; its guardian "
    told = attended.told()
    assert told.startswith(f"no answer since 7 s from the orchestrator {held_up}ends it after 5 s ")
    assert told.endswith(f"`ctp-runbook status --run {attended.run.path}`")
    attended.silent(orchestrator=40.0, guardian=0.1)
    assert f"{held_up}cannot end it: see which disk" in attended.told()


def test_who_was_stopped_with_them_hears_them_at_the_second_look(attended: Attended) -> None:
    """The caller woke first."""
    attended.silent(orchestrator=600.0, guardian=600.0)
    sleep = attended.clock.sleep

    class Waking(SimulatedClock):
        def sleep(self, seconds: float) -> None:
            sleep(seconds)
            attended.silent(orchestrator=0.0, guardian=0.0)

    world = structs.replace(attended.world, clock=Waking(attended.clock.now))
    assert not silence_of(attended.run, attended.history, world=world).heard


def test_a_silent_guardian_is_replaced_by_the_orchestrator(attended: Attended) -> None:
    """Nothing is lost by that, and nobody is called."""
    attended.silent(orchestrator=0.1, guardian=8.0)
    told = attended.told()
    pid = attended.pids["guardian"].pid
    assert told.startswith(f"no answer since 9 s from the guardian (pid {pid}): the orch")
    assert told.endswith("the orchestrator goes on, ends it and starts another")


@pytest.mark.parametrize("silent", [("orchestrator", "guardian"), ("orchestrator",), ("guardian",)])
def test_nobody_conducts_where_one_is_silent_and_the_other_silent_or_gone(
    attended: Attended, silent: tuple[Who, ...]
) -> None:
    """Both are named that still run; a resume ends them, and only them."""
    attended.silent(orchestrator=30.0, guardian=20.0)
    gone = {who for who in attended.pids if who not in silent}
    for who in gone:
        os.kill(attended.pids[who].pid, signal.SIGKILL)
        os.waitid(os.P_PID, attended.pids[who].pid, os.WEXITED | os.WNOWAIT)
    told = attended.told()
    assert told.startswith("NOBODY CONDUCTS run run (GATING): no answer since ")
    for who, identity in attended.pids.items():
        assert (f"from its {who} (pid {identity.pid}), " in told) is (who in silent)
    assert told.endswith(" ends that and takes the run up")
    end_silent(attended.run, attended.history, world=attended.world)
    assert not any(map(is_running, attended.pids.values()))


def test_nobody_is_ended_whom_another_would_replace(attended: Attended) -> None:
    """It would be a second hand in the same thing."""
    attended.silent(orchestrator=30.0, guardian=0.1)
    end_silent(attended.run, attended.history, world=attended.world)
    assert all(map(is_running, attended.pids.values()))


def test_nobody_is_ended_before_his_time(attended: Attended) -> None:
    """One that gives a sign of life while the other's time runs out stays, and so do both."""
    attended.silent(orchestrator=5.1, guardian=5.1)
    sleep, at = attended.clock.sleep, attended.clock.now

    class Waking(SimulatedClock):
        def sleep(self, seconds: float) -> None:
            sleep(seconds)
            self.now = attended.clock.now
            if self.now > at + 3:
                attended.silent(guardian=0.0)

    for who, beat in attended.lines.last.items():
        attended.lines.last[who] = beat._replace(patience=10.0)
    world = structs.replace(attended.world, clock=Waking(at))
    assert end_silent(attended.run, attended.history, world=world) == ()
    assert all(map(is_running, attended.pids.values()))


def test_a_guardian_left_over_a_run_that_is_over_is_told(attended: Attended) -> None:
    """It holds the environment, and no other run could begin."""
    os.kill(attended.pids["orchestrator"].pid, signal.SIGKILL)
    os.waitid(os.P_PID, attended.pids["orchestrator"].pid, os.WEXITED | os.WNOWAIT)
    journal = Journal(attended.run.journal, durable=False)
    journal.append(like("closed", outcome="ABORTED_BEFORE_SWITCH", exit_code=3))
    journal.close()
    attended.silent(guardian=30.0)
    told = attended.told()
    assert "holds the environment still: `ctp-runbook resume --run " in told


def test_a_run_that_ended_since_it_was_read_is_not_called_lost(attended: Attended) -> None:
    """Its processes went with it: what was read a moment ago says that it goes on."""
    read = attended.history
    for identity in attended.pids.values():
        os.kill(identity.pid, signal.SIGKILL)
        os.waitid(os.P_PID, identity.pid, os.WEXITED | os.WNOWAIT)
    assert lost_sentence(attended.run, read, world=attended.world) != ""
    journal = Journal(attended.run.journal, durable=False)
    journal.append(like("closed", outcome="ABORTED_BEFORE_SWITCH", exit_code=3))
    journal.close()
    assert lost_sentence(attended.run, read, world=attended.world) == ""
