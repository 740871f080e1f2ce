"""Facts about run/proofs.py: gone and up are what every witness says, and each look is on record."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import structs

from ctp_runbook.host import process
from ctp_runbook.host.daemon import adopt_orphans
from ctp_runbook.host.process import identity_of, is_running, own_identity
from ctp_runbook.model import Generation, Identity, Member, Role, Step, StepKind
from ctp_runbook.plan.session_sources import SessionPlan
from ctp_runbook.probes.session import Fact, SessionFacts
from ctp_runbook.record.kinds import (
    Finding,
    GuardianFacts,
    MemberPinned,
    OrchestratorStarted,
    Payload,
    ProbeAnswered,
)
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.proofs import (
    end_member,
    end_seconds,
    gone_gap,
    is_ending,
    observe,
    pin_anew,
    pin_member,
    proof_for,
    runs_again,
    second_of,
    session_gap,
    shows_life,
    start_gap,
)
from ctp_runbook.run.steps import run_step
from tests.props.example_records import like
from tests.props.plan_fixtures import make_plan, open_context, processes_with, wait_for
from tests.props.simulated_host import IDENTITIES, SimulatedHost
from tests.props.small_stack import WHOLE_STATE

P = TypeVar("P", bound=Payload)
OLD_ENGINE = (Generation.OLD, Role.CORE_ENGINE)
OLD_RUNNER = (Generation.OLD, Role.STRATEGY_RUNNER)
NEW_ENGINE = (Generation.NEW, Role.CORE_ENGINE)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run; who a runner is, its pid file says, and that it lives, a file ``alive``."""
    plan = make_plan(tmp_path, OLD_STRATEGY_RUNNER_ALIVE_CMD="test -e alive")
    with open_context(tmp_path, plan=plan) as made:
        yield made


@pytest.fixture
def host() -> SimulatedHost:
    """A host on which nothing lives."""
    return SimulatedHost()


@pytest.fixture
def simulated(context: RunContext, host: SimulatedHost) -> RunContext:
    """The same run on that host."""
    return structs.replace(context, world=host.world)


def soon(seconds: float = 0.5) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def kinds(context: RunContext) -> list[str]:
    """The journal's kinds, in order."""
    return [record.kind for record in context.journal.records]


def last(context: RunContext, kind: type[P]) -> P:
    """What the last record of this kind says."""
    *_, record = context.history.of_kind(kind)
    return record.payload


def step(context: RunContext, command: str) -> Step:
    """A gate with this command."""
    return context.plan.step("bootstrap_infra")._replace(command=command)


@pytest.mark.parametrize(("command", "status"), [("exit 1", "failed"), ("sleep 600", "timed_out")])
def test_a_stop_that_failed_says_who_still_runs(
    context: RunContext, runner: subprocess.Popen[bytes], command: str, status: str
) -> None:
    """Pid and start tick of what it was to stop; that it is gone by then mends no status."""
    stop = context.plan.step("stop_old_strategy_runner")
    stop = stop._replace(command=command, timeout_seconds=0.3)
    failed = run_step(context, stop, deadline=soon(10), prove=proof_for(context, stop))
    assert failed.reason.endswith(f"{identity_of(runner.pid)} runs"), failed.reason
    (context.cwd / "alive").unlink()
    runner.kill()
    runner.wait()
    late = run_step(context, stop, deadline=soon(10), prove=proof_for(context, stop))
    assert late.reason.endswith("; yet it is proved gone")
    assert (failed.status.value, late.status.value) == (status, status)


def test_stops_and_starts_have_a_proof(context: RunContext) -> None:
    """Of the other steps the exit code is all there is to prove."""
    for one in context.plan.steps:
        wanted = one.kind in (StepKind.STOP, StepKind.START)
        assert (proof_for(context, one) is not None) == wanted, one.name


@pytest.fixture
def runner(context: RunContext) -> Iterator[subprocess.Popen[bytes]]:
    """An old strategy runner that lives, as its pid file and its alive command say; its command line
    is no neighbour's."""
    with subprocess.Popen(["sleep", f"{600 + os.getpid() / 1e6}"]) as process:
        identity = identity_of(process.pid)
        assert identity is not None
        pid_file = Path(context.plan.member(*OLD_RUNNER).pid_file)
        pid_file.write_text(f"{identity.pid}\n{identity.start_ticks}\n")
        (context.cwd / "alive").touch()
        yield process
        process.kill()


def known_identity(context: RunContext) -> Identity:
    """The old runner as the journal has it."""
    return context.history.identities["old_strategy_runner"]


def test_what_lives_is_proved_started_and_written_down(
    context: RunContext, runner: subprocess.Popen[bytes]
) -> None:
    """Its identity enters the journal once, however often it is proved."""
    member = context.plan.member(*OLD_RUNNER)
    for _ in range(2):
        assert start_gap(context, member, deadline=soon()) == ""
    assert known_identity(context) == identity_of(runner.pid)
    assert kinds(context) == ["probe", "identity", "probe"]


def test_what_comes_late_is_waited_for(context: RunContext) -> None:
    """A start that takes its time is proved when it is there, not when it was asked for."""
    member = context.plan.member(*OLD_RUNNER)
    start = f"(sleep 0.1; sleep 60 & echo $! > {member.pid_file}; touch alive) & sleep 0.05"
    result = run_step(
        context,
        step(context, start),
        deadline=soon(10),
        prove=lambda until: start_gap(context, member, deadline=until),
    )
    assert result.is_ok, result.reason


def test_what_died_right_after_its_start_is_not_started(context: RunContext) -> None:
    """Exit 0 and nothing there: told after the grace, not at the end of the timeout."""
    began = time.monotonic()
    told = start_gap(context, context.plan.member(*OLD_RUNNER), deadline=soon(30))
    assert told.startswith("it is not there after its start: old_strategy_runner gone")
    assert time.monotonic() - began < 25


def test_an_undecided_start_ends_at_the_deadline(context: RunContext) -> None:
    """Alive by its command and without an identity is not started, however long one looks."""
    (context.cwd / "alive").touch()
    told = start_gap(context, context.plan.member(*OLD_RUNNER), deadline=soon(0.2))
    assert "old_strategy_runner undecided: alive command says alive, no process" in told


def test_an_interrupt_ends_a_proof(context: RunContext) -> None:
    """Waiting for a start to show is waiting like any other."""
    (context.cwd / "alive").touch()
    aborted = structs.replace(context, interrupt=lambda: "abort asked for by ops")
    began = time.monotonic()
    told = start_gap(aborted, context.plan.member(*OLD_RUNNER), deadline=soon(30))
    assert told == "abort asked for by ops"
    assert time.monotonic() - began < 25


def test_gone_is_proved_by_all_witnesses(
    context: RunContext, runner: subprocess.Popen[bytes]
) -> None:
    """The command's word alone proves nothing while the recorded process runs."""
    member = context.plan.member(*OLD_RUNNER)
    (context.cwd / "alive").unlink()
    told = gone_gap(context, member, deadline=soon(0.2))
    assert "undecided: alive command says gone" in told
    assert f"pid {runner.pid}" in told
    runner.kill()
    assert gone_gap(context, member, deadline=soon()) == ""
    assert last(context, ProbeAnswered).ok


def test_gone_is_asked_for_at_least_once(context: RunContext) -> None:
    """Also with a deadline that has passed."""
    assert gone_gap(context, context.plan.member(*OLD_RUNNER), deadline=soon(-5)) == ""


def test_a_process_whose_pid_file_was_removed_is_still_known(
    context: RunContext, runner: subprocess.Popen[bytes]
) -> None:
    """The journal remembers who it was."""
    member = context.plan.member(*OLD_RUNNER)
    start_gap(context, member, deadline=soon())
    Path(member.pid_file).unlink()
    (context.cwd / "alive").unlink()
    seen = observe(context, member, question="gone")
    assert not seen.is_gone
    assert seen.identity == identity_of(runner.pid)


def test_what_a_start_left_behind_speaks_against_gone(context: RunContext) -> None:
    """A daemon nobody recorded is found by the step it came from."""
    start = context.plan.step("start_previous_strategy_runner")._replace(
        command="setsid sleep 60 &"
    )
    run_step(context, start, deadline=soon(10))
    seen = observe(context, context.plan.member(*OLD_RUNNER), question="gone")
    assert seen.command == 1
    assert seen.leftovers == processes_with(f"CTP_RUN_ID={context.run.run_id}") != ()
    assert not seen.is_gone


def test_every_look_is_written_down(context: RunContext) -> None:
    """Subject, question, answer and what was seen."""
    observe(context, context.plan.member(*OLD_RUNNER), question="alive")
    answered = last(context, ProbeAnswered)
    assert (answered.subject, answered.question, answered.ok) == (
        "old_strategy_runner",
        "alive",
        False,
    )
    assert "alive command says gone" in answered.observed


def test_an_identity_is_written_down_when_it_changes(context: RunContext) -> None:
    """Not again, and not for nothing."""
    member = context.plan.member(*OLD_RUNNER)
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "61"]) as other:
        for child in (one, one, other):
            pin_member(context, member, identity_of(child.pid))
        one.kill()
        other.kill()
    pin_member(context, member, None)
    assert [r.payload.pid for r in context.history.of_kind(MemberPinned)] == [one.pid, other.pid]


def group_leaders(context: RunContext) -> list[int]:
    """Processes of the run that lead a session of their own: its daemons."""
    mark = f"CTP_RUN_ID={context.run.run_id}"
    return [pid for pid in processes_with(mark) if os.getsid(pid) == pid]


# --- ending a member --------------------------------------------------------------


def test_a_member_that_does_not_stop_is_ended_by_its_identity(
    context: RunContext, runner: subprocess.Popen[bytes]
) -> None:
    """TERM, then KILL, to exactly the recorded process; what came of it is a finding."""
    end_member(context, context.plan.member(*OLD_RUNNER), deadline=time.monotonic() + 5)
    assert identity_of(runner.pid) is None
    told = last(context, Finding).sentence
    assert told.startswith(f"old_strategy_runner: ended pid {runner.pid} (started at tick")
    assert told.endswith("by signal: gone")


def test_a_stubborn_member_and_its_leftovers_are_killed(
    context: RunContext, tmp_path: Path
) -> None:
    """Also what ignores TERM, and what no pid file names."""
    stubborn = (
        f"setsid bash -c \"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done\" &"
    )
    start = context.plan.step("start_previous_strategy_runner")._replace(command=stubborn)
    run_step(context, start, deadline=soon(10))
    wait_for((tmp_path / "up").exists)
    (left,) = group_leaders(context)
    ended = end_member(context, context.plan.member(*OLD_RUNNER), deadline=time.monotonic() + 5)
    assert identity_of(left) is None
    assert ended.words.endswith("by signal: gone after KILL (TERM did not end it in 0.3 s)")


def test_who_was_started_again_is_pinned_before_its_stop(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """READY saw another process than the one that is there when its stop begins."""
    member = simulated.plan.member(*OLD_RUNNER)
    pin_member(simulated, member, Identity(78, 1, "boot"))
    pin_anew(simulated, member)
    assert simulated.history.identities[member.name].pid == 78  # it is gone: nobody to pin
    host.lives = {member.name: "alive"}
    pin_anew(simulated, member)
    assert simulated.history.identities[member.name] == IDENTITIES[member.name]


def test_a_reused_pid_is_not_ended(context: RunContext, runner: subprocess.Popen[bytes]) -> None:
    """A pid file whose start time is another's names nobody who may be killed."""
    member = context.plan.member(*OLD_RUNNER)
    Path(member.pid_file).write_text(f"{runner.pid}\n1\n")
    end_member(context, member, deadline=time.monotonic() + 5)
    found = identity_of(runner.pid)
    assert found is not None
    assert is_running(found)


def test_a_stale_pid_file_kills_no_stranger(context: RunContext) -> None:
    """A pid alone, written before this process began, is not who runs under it now."""
    member = context.plan.member(*OLD_RUNNER)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        Path(member.pid_file).write_text(f"{stranger.pid}\n")
        os.utime(member.pid_file, (1, 1))
        end_member(context, member, deadline=time.monotonic() + 5)
        alive = identity_of(stranger.pid) is not None
        stranger.kill()
    assert alive


def test_a_session_that_is_not_verified_in_time_is_told_as_that(
    context: RunContext, runner: subprocess.Popen[bytes]
) -> None:
    """However slow the alive command: cut short by the deadline it says nothing of the session."""
    (context.cwd / "state.json").write_text(json.dumps({**WHOLE_STATE, "md_session": "connected"}))
    plan = structs.replace(context.plan, trading_state_command="cat state.json")
    slow = structs.replace(context, plan=plan)
    engine = plan.member(*NEW_ENGINE)._replace(
        alive_command="sleep 0.7", pid_file=plan.member(*OLD_RUNNER).pid_file, metrics_url=""
    )
    gap = start_gap(slow, engine, deadline=soon(2.0))
    assert gap.startswith("TD logged in: yes, MD logged in: no, settlement confirmed: yes"), gap
    assert "no answer" not in gap


# --- on a simulated host ----------------------------------------------------------


def test_up_is_alive_with_a_verified_session(simulated: RunContext, host: SimulatedHost) -> None:
    """An engine that logs in late is waited for, and pinned before its session is asked for."""
    host.lives, host.session = {"new_core_engine": "alive"}, False

    def log_in() -> None:
        host.session = len(host.looks) >= 3

    host.after_look = log_in
    member, began = simulated.plan.member(*NEW_ENGINE), host.clock.now
    assert start_gap(simulated, member, deadline=began + 10) == ""
    assert kinds(simulated) == ["probe", "identity", *["probe"] * 5]
    assert host.clock.now - began < 1.0


def test_an_engine_that_never_logs_in_is_waited_for_to_the_deadline(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """And then it is said what its session lacks."""
    host.lives, host.session = {"new_core_engine": "alive"}, False
    began = host.clock.now
    gap = start_gap(simulated, simulated.plan.member(*NEW_ENGINE), deadline=began + 10)
    assert gap.startswith("TD logged in: no, MD logged in: no, settlement confirmed: no")
    assert 10.0 <= host.clock.now - began < 10.3


def test_a_session_that_cannot_be_read_is_not_verified(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """Why is on record; a runner has no session to be verified."""
    host.session = "no answer within 1 s"
    assert session_gap(simulated, simulated.plan.member(*NEW_ENGINE)) == host.session
    (answered,) = simulated.history.of_kind(ProbeAnswered)
    assert (answered.payload.question, answered.payload.ok) == ("session", False)
    assert session_gap(simulated, simulated.plan.member(*OLD_RUNNER)) == ""


def falls_silent(host: SimulatedHost, ends: float, *, session: str = "") -> None:
    """Shortly before ``ends`` all takes long: the alive command is ended before it answers, or with
    ``session`` it answers and the session cannot be read in time."""

    def look() -> None:
        if host.clock.now < ends - (0.4 if session else 0.8):
            return
        host.clock.sleep(0.5)
        if session:
            host.session = session
        else:
            host.lives = dict.fromkeys(host.lives, "silent")

    host.after_look = look


NOT_IN_TIME = "exit None, expected 0 within 0.5 s"
BLOCKED = Fact("may_trade", False, mode="Blocked")


@pytest.mark.parametrize("session", ["", NOT_IN_TIME], ids=["alive command", "session"])
def test_a_look_that_was_cut_short_hides_no_answer(
    simulated: RunContext, host: SimulatedHost, session: str
) -> None:
    """A session that was not verified in time is told as that, with the last facts that were read."""
    host.lives, host.session = {"new_core_engine": "alive"}, False
    ends = host.clock.now + 10
    falls_silent(host, ends, session=session)
    gap = start_gap(simulated, simulated.plan.member(*NEW_ENGINE), deadline=ends)
    assert gap.startswith("TD logged in: no, MD logged in: no, settlement confirmed: no"), gap
    assert gap.endswith("; a later look was cut short by the deadline"), gap
    assert "no answer" not in gap


def test_a_source_that_was_cut_short_hides_no_answer_of_all(
    simulated: RunContext, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that still tells of the login makes no whole look of one whose command had no time."""
    host.lives = {"new_core_engine": "alive"}
    ends = host.clock.now + 10

    def read_facts(member: Member, **asked: object) -> SessionFacts:
        is_late = host.clock.now > ends - 0.4
        host.clock.sleep(0.5 if is_late else 0.0)
        mode = Fact("may_trade", None, problem=NOT_IN_TIME) if is_late else BLOCKED
        return SessionFacts((Fact("logged_in", True), mode))

    monkeypatch.setattr(host, "read_facts", read_facts)
    asked = SessionPlan(command="true", key="NEW_SESSION_CMD")
    plan = structs.replace(simulated.plan, sessions={**simulated.plan.sessions, "new": asked})
    declared = structs.replace(simulated, plan=plan)
    gap = start_gap(declared, plan.member(*NEW_ENGINE), deadline=ends)
    assert "may trade: Blocked" in gap, gap
    assert gap.endswith("; a later look was cut short by the deadline"), gap


def test_a_look_that_was_cut_short_is_told_where_there_is_no_other(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """What is known of a start then is nothing, and the sentence says why."""
    host.lives = {"new_core_engine": "silent"}
    member = simulated.plan.member(*NEW_ENGINE)
    for gap in (start_gap, gone_gap):
        told = gap(simulated, member, deadline=host.clock.now)
        assert "alive command says no answer" in told
        assert told.endswith("cut short by the deadline, and no look before it was whole")
    assert gone_gap(simulated, member).endswith("runs")  # it had all its time


def test_what_was_seen_to_run_is_not_hidden_by_a_look_cut_short(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """Of a stop, too: it was seen alive."""
    host.lives = {"new_core_engine": "alive"}
    ends = host.clock.now + 5
    falls_silent(host, ends)
    gap = gone_gap(simulated, simulated.plan.member(*NEW_ENGINE), deadline=ends)
    assert gap.startswith("new_core_engine alive: alive command says alive")
    assert gap.endswith("; a later look was cut short by the deadline")


def test_a_session_of_an_hour_ago_is_not_verified(context: RunContext) -> None:
    """A file that a dead engine left says ready for ever."""
    state = {**WHOLE_STATE, "as_of": "2026-03-02T01:02:03Z"}
    (context.cwd / "state.json").write_text(json.dumps(state))
    plan = structs.replace(context.plan, trading_state_command="cat state.json")
    gap = session_gap(structs.replace(context, plan=plan), context.plan.member(*NEW_ENGINE))
    assert gap.startswith("TD logged in: yes, MD logged in: yes")
    assert "more than trading_state_max_age_seconds 60 (limits.toml)" in gap


def test_gone_past_its_grace_is_not_waited_for(simulated: RunContext, host: SimulatedHost) -> None:
    """A daemon has a moment to show itself, and no more."""
    began = host.clock.now
    gap = start_gap(simulated, simulated.plan.member(*NEW_ENGINE), deadline=began + 600)
    assert gap.startswith("it is not there after its start: new_core_engine gone")
    grace = simulated.plan.limits.proof_grace_seconds
    assert grace < host.clock.now - began < grace + 0.3


def test_what_goes_late_is_gone_in_time(simulated: RunContext, host: SimulatedHost) -> None:
    """Without a deadline one look decides; with one it is asked again until then."""
    member = simulated.plan.member(*NEW_ENGINE)
    host.lives = {member.name: "undecided"}
    assert "new_core_engine undecided" in gone_gap(simulated, member)
    assert host.looks == [member.name]

    def go() -> None:
        if len(host.looks) == 4:
            host.lives = {}

    host.after_look = go
    assert gone_gap(simulated, member, deadline=host.clock.now + 5) == ""
    assert len(host.looks) == 5


def test_a_request_ends_the_wait_and_not_the_look(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """What was seen until then is the reason."""
    host.lives = {"new_core_engine": "alive"}
    interrupted = structs.replace(simulated, interrupt=lambda: "abort asked for by ops")
    member = interrupted.plan.member(*NEW_ENGINE)
    assert "new_core_engine alive" in gone_gap(interrupted, member, deadline=host.clock.now + 60)
    host.session = False
    gap = start_gap(interrupted, member, deadline=host.clock.now + 60)
    assert gap == "abort asked for by ops"


def test_a_second_one_is_neither_it_nor_a_stranger(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """Who runs the same command line beside a pinned member is told, by pid."""
    member = simulated.plan.member(*NEW_ENGINE)
    assert second_of(simulated, member) == ()
    pin_member(simulated, member, IDENTITIES[member.name])
    assert not shows_life(simulated, member)
    host.alike = (Identity(77, 1, "boot"),)
    assert second_of(simulated, member) == (77,)
    assert shows_life(simulated, member)
    assert runs_again(simulated, member) == host.alike  # for the pinned one is gone
    host.lives = {member.name: "alive"}
    assert runs_again(simulated, member) == ()
    assert end_seconds(simulated, member, deadline=host.clock.now)
    host.alike = ()
    assert not end_seconds(simulated, member, deadline=host.clock.now)


def test_the_graces_of_an_end_are_half_of_what_is_left(
    simulated: RunContext, host: SimulatedHost
) -> None:
    """TERM and KILL share it; past the deadline each still has a moment."""
    member = simulated.plan.member(*NEW_ENGINE)
    limits = simulated.plan.limits
    for left in (600.0, 0.4, -5.0):
        host.lives = {member.name: "alive"}
        end_member(simulated, member, deadline=host.clock.now + left)
    assert host.graces == [
        (limits.term_grace_seconds, limits.kill_grace_seconds),
        (pytest.approx(0.2), pytest.approx(0.2)),
        (pytest.approx(0.2), pytest.approx(0.2)),
    ]
    host.lives = {member.name: "alive"}
    end_member(simulated, member, deadline=host.clock.now + 600, patient=True)
    assert host.graces[-1] == (300.0, limits.kill_grace_seconds)


def test_what_outlives_its_end_is_told(simulated: RunContext, host: SimulatedHost) -> None:
    """The proof that follows will not find it gone; the finding says whom to look for."""
    member = simulated.plan.member(*NEW_ENGINE)
    host.lives, host.stubborn = {member.name: "alive"}, {IDENTITIES[member.name]}
    end_member(simulated, member, deadline=host.clock.now + 5)
    (finding,) = simulated.history.of_kind(Finding)
    assert finding.payload.sentence.endswith("by signal: still running")


# --- one that is ending -------------------------------------------------------------

STOP, START = "stop_old_core_engine", "start_previous_core_engine"
BEGUN = like("step_started", step=STOP, phase="switch", pid=5000)
ENDED = like("step_ended", step=STOP, phase="switch", status="failed", exit_code=0)
NEVER_RAN = like("step_ended", step=STOP, phase="switch", status="failed", exit_code=127)
STARTED_ANEW = like("step_started", step=START, phase="rollback", pid=5001)

# What the journal says, whether the engine ignores TERM, whether its session is usable; is it ending.
ENDING = {
    "nobody asked it to": ((), False, True, False),
    "a stop whose end nobody saw": ((BEGUN,), False, True, True),
    "a stop that said it was done": ((BEGUN, ENDED), False, True, True),
    "it ignores TERM and trades on": ((BEGUN, ENDED), True, True, False),
    "it ignores TERM and was told otherwise": ((BEGUN, ENDED), True, False, True),
    "a stop that never ran": ((BEGUN, NEVER_RAN), False, True, False),
    "never ran, and no session": ((BEGUN, NEVER_RAN), False, False, False),
    "started since": ((BEGUN, ENDED, STARTED_ANEW), False, True, False),
}


@pytest.mark.parametrize(("records", "deaf", "session", "ending"), ENDING.values(), ids=ENDING)
def test_who_is_ending(
    context: RunContext,
    host: SimulatedHost,
    records: tuple[Payload, ...],
    deaf: bool,
    session: bool,
    ending: bool,
) -> None:
    """Whoever a stop may have reached, and no living process shows that it has: only one that
    ignores TERM and trades on is to be kept."""
    plan = make_plan(context.cwd, OLD_CORE_ENGINE_STOP_CMD="no-such-command --now")
    simulated = structs.replace(context, plan=plan, world=host.world)
    member = plan.member(*OLD_ENGINE)
    host.lives, host.session = {member.name: "alive"}, session
    host.deaf = {member.name} if deaf else set()
    pin_member(simulated, member, IDENTITIES[member.name])
    for record in records:
        simulated.record(record)
    assert is_ending(simulated, member, IDENTITIES[member.name]) == ending
    assert not is_ending(simulated, member, Identity(4711, 1))  # whoever was started since


def test_what_we_sent_term_to_is_ending(simulated: RunContext, host: SimulatedHost) -> None:
    """It is on record before it is done: whoever takes the run over keeps it no more."""
    member = simulated.plan.member(*OLD_ENGINE)
    host.lives = {member.name: "alive"}
    host.stubborn = {IDENTITIES[member.name]}
    pin_member(simulated, member, IDENTITIES[member.name])
    end_member(simulated, member, deadline=host.clock.now + 5)
    told = [record.payload.sentence for record in simulated.history.of_kind(Finding)]
    assert told[0] == f"old_core_engine: TERM, then KILL, to {IDENTITIES[member.name]}"
    assert is_ending(simulated, member, IDENTITIES[member.name])


@pytest.fixture
def adopting() -> Iterator[None]:
    """This process as the guardian is: whoever loses its parent comes to it."""
    adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def test_what_a_start_left_without_its_environment_is_not_gone(
    context: RunContext, tmp_path: Path, adopting: None
) -> None:
    """`su -`, sudo: no mark, no session, no pid file yet. The guardian has adopted it; what another
    step left is not this one's, and it is ended with the member."""
    own = own_identity()
    guardian = GuardianFacts(pid=own.pid, start_ticks=own.start_ticks)
    context.record(OrchestratorStarted(resumed=False, reason="", guardian=guardian))
    member = context.plan.member(Generation.NEW, Role.STRATEGY_RUNNER)._replace(
        alive_command="exit 1", pid_file=str(tmp_path / "none.pid")
    )
    context = structs.replace(
        context,
        plan=structs.replace(context.plan, members={**context.plan.members, member.name: member}),
        world=structs.replace(context.world, processes=_Orchestrator()),
    )
    mark = f"600.{time.time_ns()}"
    late = f"(setsid env -i /bin/sh -c 'sleep {mark}; :' >/dev/null 2>&1 &); sleep 0.1"
    for name, command in (("start_new_core_engine", "true"), ("start_new_strategy_runner", late)):
        step = context.plan.step(name)._replace(command=command)
        time.sleep(0.03)  # births are told apart by hundredths
        assert run_step(context, step, deadline=soon(10)).is_ok
    wait_for(lambda: len(with_word(mark)) == 2)
    assert "started processes still run" in gone_gap(context, member)
    engine = context.plan.member(*NEW_ENGINE)._replace(metrics_url="")
    assert not observe(context, engine, question="gone").leftovers
    ended = end_member(context, member, deadline=soon(5)).processes
    assert len(ended) == 2
    assert gone_gap(context, member) == ""
    for each in ended:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(each.pid, 0)


def with_word(word: str) -> list[int]:
    """Who runs a command line in which this is said."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


class _Orchestrator:
    """The processes of this host, seen by somebody who is not the guardian."""

    def __getattr__(self, name: str) -> object:
        return getattr(process, name)

    def own_identity(self) -> Identity:
        """Nobody that runs."""
        return Identity(1, 1)
