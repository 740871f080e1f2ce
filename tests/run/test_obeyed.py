"""What somebody asks of a run is obeyed within a second, in every state, by the real orchestrator."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
import pytest

from ctp_runbook.model import Outcome, State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record, utc_text
from ctp_runbook.record.kinds import RequestAnswered, RequestTaken
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from ctp_runbook.run.steer import steer
from tests.props.example_records import like
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack
from tests.scenarios.test_both_dead import kill_both

pytestmark = pytest.mark.twin
OBEYED_SECONDS = 1.0
# Deaf to TERM: what is ended here is ended by KILL after its grace.
DEAF = "trap '' TERM; while :; do sleep 0.2; done"


@dataclass
class Run:
    """A real run under way."""

    stack: SmallStack
    run: RunDir

    @property
    def history(self) -> History:
        """The journal so far."""
        return launch.read_whole(self.run)

    def until(self, is_so: Callable[[History], object], *, seconds: float = 60) -> None:
        """Wait until the journal says so."""
        wait_for(lambda: is_so(self.history), seconds=seconds)

    def reach(self, state: State) -> None:
        """Wait for a state."""
        self.until(lambda history: history.state is state)

    def ask(self, request: str) -> str:
        """Ask from outside; the answer, which came within a second."""
        told = steer(self.run, request, by="chief", reason="because").sentence
        *_, asked = self.history.of_kind(RequestTaken)
        *_, answer = self.history.of_kind(RequestAnswered)
        assert asked.payload.request == answer.payload.request == request
        assert (asked.payload.by, asked.payload.reason) == ("chief", "because")
        took = seconds_since_asked(asked, answer)
        assert took <= OBEYED_SECONDS, f"{request} was answered after {took:.2f} s"
        print(f"{request} answered in {took:.3f} s: {answer.payload.sentence}")
        return told

    def effect(self, kind: str, **payload: object) -> Record:
        """The first record of this kind after the last request; it came within a second."""
        *_, asked = self.history.of_kind(RequestTaken)
        found: list[Record] = []

        def is_there(history: History) -> bool:
            found[:] = [
                record
                for record in history.records[asked.seq :]
                if record.kind == kind
                and payload.items() <= msgspec.to_builtins(record.payload).items()
            ]
            return bool(found)

        self.until(is_there)
        took = seconds_since_asked(asked, found[0])
        assert took <= OBEYED_SECONDS, f"{kind} {payload} came after {took:.2f} s"
        print(f"{asked.payload.request} obeyed in {took:.3f} s: {kind} {payload}")
        return found[0]

    def end(self) -> Outcome:
        """Wait for the end of the run."""
        history = self.stack.closed(self.run)
        assert history.outcome is not None
        return history.outcome


def seconds_since_asked(asked: Record[RequestTaken], record: Record) -> float:
    """From the moment the request was made, by its own clock, to the record."""
    made = datetime.fromisoformat(asked.payload.requested_utc)
    return (record.wall - made).total_seconds()


def started(stack: SmallStack, *, go: bool = True, **values: str) -> Run:
    """A real run whose gates pass at once, but for ``values``."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    given = {f"{gate}_CMD": "ls" for gate in gates}
    given["PRECHECK_CMD"] = stack.readiness_command("precheck")
    plan = stack.plan(**{**given, **values})
    if go:
        return Run(stack, stack.begin(plan))
    run = stack.create(plan)
    launch.start(run, plan=plan)
    return Run(stack, run)


def test_gating_with_a_long_step(stack: SmallStack) -> None:
    """A hold is taken while a deaf step runs; an abort ends the run, the old stack untouched."""
    run = started(stack, BOOTSTRAP_INFRA_CMD=DEAF)
    run.until(lambda history: history.unfinished)
    assert "the switch does not begin before a resume" in run.ask("hold")
    assert "nothing is held any more" in run.ask("resume")
    assert "not obeyed: nothing is held" in run.ask("resume")
    assert "the old stack is not touched" in run.ask("abort")
    run.effect("step_ended", status="failed")
    assert run.end() is Outcome.ABORTED_BEFORE_SWITCH


def test_ready_while_waiting_for_a_person(stack: SmallStack) -> None:
    """A hold keeps a go from being acted on until the resume; an abort ends the waiting."""
    # Its stop was begun, so the rollback ends it: its alive command must see that it has ended.
    up = f"{stack.folder}/old_strategy_runner"
    asked = f'test -e {up}.up && test -e "/proc/$(head -1 {up}.pid)/exe"'
    run = started(
        stack,
        go=False,
        OLD_STRATEGY_RUNNER_STOP_CMD=DEAF,
        OLD_STRATEGY_RUNNER_ALIVE_CMD=asked,
    )
    run.reach(State.READY)
    run.ask("hold")
    assert "once nobody holds it" in run.ask("go")
    assert run.history.state is State.READY
    run.ask("resume")
    run.effect("state", to="SWITCHING")
    assert "the switch is undone" in run.ask("abort")
    run.effect("step_ended", step="stop_old_strategy_runner", status="failed")
    run.effect("state", to="ROLLING_BACK")
    assert run.end().exit_code in (4, 5)


def test_an_abort_in_ready(stack: SmallStack) -> None:
    """Exit 3 within a second, as the journal says."""
    run = started(stack, go=False)
    run.reach(State.READY)
    run.ask("abort")
    assert run.end() is Outcome.ABORTED_BEFORE_SWITCH
    run.effect("closed")
    closed = run.history.closed
    assert closed is not None
    assert "abort asked for by chief: because" in closed.payload.sentence


def test_a_hold_while_switching_is_kept_for_the_watch(stack: SmallStack) -> None:
    """Nothing is stopped half way; the watch begins HOLDING, and no recovery ends what a person
    holds."""
    run = started(stack, WARMUP_QUERY_CMD=f"until test -e {stack.folder}/on; do sleep 0.05; done")
    run.until(lambda history: history.step("warmup_query").attempt)
    assert "the watch begins HOLDING" in run.ask("hold")
    (stack.folder / "on").touch()
    run.reach(State.HOLDING)
    held = run.history.entered(State.HOLDING)
    assert held is not None
    assert held.reason == "hold asked for by chief before the watch began"
    run.ask("resume")
    run.effect("state", to="WATCHING")
    run.ask("hold")
    run.effect("state", to="HOLDING")
    assert "it holds already" in run.ask("hold")
    run.ask("rollback")
    run.effect("state", to="ROLLING_BACK")
    run.effect("step_started", step="stop_new_strategy_runner")
    assert run.end() is Outcome.ROLLED_BACK_IN_BUDGET


def test_during_a_rollback_everybody_is_told_that_it_goes_on(stack: SmallStack) -> None:
    """Also while a deaf step is being ended: nothing stops a rollback, and that is the answer."""
    run = started(
        stack, RESTORE_PREVIOUS_BINARIES_CMD=DEAF, RESTORE_PREVIOUS_BINARIES_TIMEOUT_SECONDS="5"
    )
    run.reach(State.WATCHING)
    run.ask("abort")
    run.until(lambda history: history.step("restore_previous_binaries").attempt)
    for request in ("hold", "resume", "abort", "go"):
        assert "not obeyed: the rollback is under way" in run.ask(request)
    assert "the rollback is under way, within its budget of 180 s" in run.ask("rollback")
    assert run.end() is Outcome.ROLLED_BACK_UNVALIDATED


@pytest.mark.parametrize("request_", ["hold", "rollback"])
def test_a_hanging_probe_keeps_nobody_waiting(stack: SmallStack, request_: str) -> None:
    """The watch asks an alive command that hangs: the request is obeyed all the same."""
    hangs = f"test -e {stack.folder}/hang && sleep 600; test -e {stack.folder}/new_core_engine.up"
    run = started(stack, NEW_CORE_ENGINE_ALIVE_CMD=hangs)
    run.reach(State.WATCHING)
    (stack.folder / "hang").touch()
    identity = stack.identity("new_core_engine")
    assert identity is not None
    # Its recorded process is gone: from now on the alive command is asked.
    os.kill(identity.pid, signal.SIGKILL)
    run.ask(request_)
    run.effect("state", to="HOLDING" if request_ == "hold" else "ROLLING_BACK")
    (stack.folder / "hang").unlink()
    run.end()


def test_a_run_that_holds_and_that_nobody_conducts_is_taken_up(stack: SmallStack) -> None:
    """Guardian and orchestrator are killed while it holds: `resume` goes on watching, and the look
    at the members is not cut short by the very request."""
    run = started(stack)
    run.reach(State.WATCHING)
    run.ask("hold")
    run.reach(State.HOLDING)
    kill_both(run.run)
    told = steer(run.run, "resume", by="chief", reason="all is well")
    assert (told.exit_code, "the run is taken up again" in told.sentence) == (0, True)
    run.reach(State.WATCHING)
    assert run.history.trigger is None
    run.ask("rollback")
    assert run.end() is Outcome.ROLLED_BACK_IN_BUDGET


def test_a_stop_that_was_taken_in_and_not_acted_on_is_not_forgotten(stack: SmallStack) -> None:
    """The orchestrator dies between the request's record and the act: the next one acts on it."""
    run = started(stack)
    run.reach(State.WATCHING)
    kill_both(run.run)
    journal = Journal(run.run.journal)
    asked = {"request": "rollback", "by": "chief", "reason": "", "requested_utc": utc_text()}
    journal.append(like("control", **{**asked, "file": "gone.json"}))
    journal.close()
    launch.start(run.run, resume="taken up again")
    assert run.end() is Outcome.ROLLED_BACK_IN_BUDGET
    assert run.history.trigger is not None
    assert run.history.trigger.payload.cause == "operator"
