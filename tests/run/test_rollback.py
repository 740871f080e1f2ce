"""Facts about run/rollback.py: what was done is undone, in the order that is safe, in the time there is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from ctp_runbook.host.process import identity_of, is_running
from ctp_runbook.model import Identity, Outcome, Phase, State, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.kinds import Finding, ProbeAnswered, StepStarted
from ctp_runbook.run import rollback
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.proofs import pin_member, proof_for
from ctp_runbook.run.rollback import RunEnd, roll_back, trouble_at, trouble_now
from ctp_runbook.run.steps import run_step
from ctp_runbook.run.switch import ready_gaps
from ctp_runbook.run.world import HERE
from ctp_runbook.verify.journal import _WALK, _Walk
from tests.props.example_records import like
from tests.props.plan_fixtures import command_line, open_context, wait_for
from tests.props.small_stack import SmallStack

pytestmark = pytest.mark.twin
SHORT = {"MAX_ROLLBACK_SECONDS": "4", "ROLLBACK_CANCEL_SECONDS": "1"}
OLD = ("old_core_engine", "old_strategy_runner")
NEW = ("new_core_engine", "new_strategy_runner")


def switch(stack: SmallStack, context: RunContext) -> None:
    """Old out and new in, as the switch does it, without its proofs."""
    stop_old(stack)
    for member in NEW:
        step = context.plan.step(f"start_{member}")
        assert run_step(context, step, deadline=time.monotonic() + 10).is_ok


def stop_old(stack: SmallStack) -> None:
    """The old generation is gone, as its stop commands leave it."""
    for member in OLD:
        identity = stack.identity(member)
        assert identity is not None
        os.kill(identity.pid, signal.SIGTERM)
        (stack.folder / f"{member}.up").unlink()
        wait_for(lambda one=identity: identity_of(one.pid) is None)  # type: ignore[misc]


def rolled_back(
    stack: SmallStack, plan: Plan, *, switched: bool = True, ago: float = 0.0
) -> tuple[RunEnd, RunContext]:
    """The end of a rollback that was triggered ``ago`` seconds before it begins."""
    with open_context(stack.folder, plan=plan) as context:
        if switched:
            switch(stack, context)
        wall, mono = time.time() - ago, time.monotonic() - ago
        trouble = trouble_at("operator", "asked", wall=wall, mono=mono)
        end = roll_back(context, trouble)
        history = context.history
        assert history.state is State.ROLLING_BACK
        note_living(stack)
        return end, context


def walked(context: RunContext) -> list[str]:
    """What ``verify`` has to say of the acts of the rollback, which began in no run of its own."""
    walk = _Walk(dry_run=False, has_parent=True, rolling=True, state=State.ROLLING_BACK)
    begun = context.history.rollback_started
    assert begun is not None
    return [
        finding
        for record in context.history.records[begun.seq + 1 :]
        if (check := _WALK.get(type(record.payload)))
        for finding in check(walk, record, record.payload)
    ]


def note_living(stack: SmallStack) -> None:
    """Write down who runs: what the run has started ends with the run."""
    up = [member for member in (*OLD, *NEW) if stack.is_up(member)]
    (stack.folder / "living").write_text(" ".join(up))


def living(stack: SmallStack) -> list[str]:
    """Members that ran when the rollback was over."""
    return (stack.folder / "living").read_text().split()


def test_a_switch_is_undone(stack: SmallStack) -> None:
    """The new generation is gone, the old one trades, in the budget; every step is on record."""
    end, context = rolled_back(stack, stack.plan())
    assert (end.outcome, end.failed_step) == (Outcome.ROLLED_BACK_IN_BUDGET, ""), end.sentence
    assert living(stack) == list(OLD)
    assert {context.history.step(one.name).status for one in context.plan.rollback} == {
        StepStatus.OK
    }


def test_what_was_not_touched_is_kept(stack: SmallStack) -> None:
    """Nothing was switched yet: the same two processes trade on, and their starts are skipped."""
    before = [stack.identity(member) for member in OLD]
    end, context = rolled_back(stack, stack.plan(), switched=False)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert [stack.identity(member) for member in OLD] == before
    for name in ("start_previous_core_engine", "start_previous_strategy_runner"):
        assert context.history.step(name).status is StepStatus.SKIPPED


def test_nothing_is_started_beside_what_may_still_trade(stack: SmallStack) -> None:
    """An engine that cannot be told to be gone stops the rollback, before anything old starts."""
    plan = stack.plan(NEW_CORE_ENGINE_ALIVE_CMD="exit 3", **SHORT)
    starts = len(stack.starts)
    end, _ = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert "the new generation is not proved gone, so nothing was started" in end.sentence
    assert stack.starts[starts:] == list(NEW)


@pytest.mark.parametrize("command", ["exit 1", "sleep 600"])
def test_a_stop_that_fails_is_replaced_by_signals(stack: SmallStack, command: str) -> None:
    """The new engine is ended by its identity, and the rollback goes on."""
    plan = stack.plan(
        NEW_CORE_ENGINE_STOP_CMD=f"rm {stack.folder}/new_core_engine.up; {command}",
        NEW_CORE_ENGINE_STOP_TIMEOUT_SECONDS="1",
    )
    end, context = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert living(stack) == list(OLD)
    reason = context.history.step("stop_new_core_engine").reason
    assert re.search(r"; ended pid \d+ \(started at tick \d+\) by signal: gone$", reason), reason


def started_again(stack: SmallStack, member: str) -> str:
    """A command of somebody else's that runs a member's command line once more."""
    mark = f'PATH="$PATH" SMALL_STACK={stack.mark}'
    again = f"exec -a {stack.folder}/{member} sleep 3600"
    return f"env -i {mark} setsid bash -c '{again}' >/dev/null 2>&1 &"


def alike(stack: SmallStack, member: str) -> list[int]:
    """Who runs a member's command line."""
    line = f"{stack.folder}/{member}\0003600\000".encode()
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in pids if command_line(pid) == line]


def pinned_and_rolled_back(stack: SmallStack, plan: Plan) -> tuple[RunEnd, RunContext]:
    """The end of a rollback in which all four members are pinned."""
    with open_context(stack.folder, plan=plan) as context:
        assert ready_gaps(context) == []
        switch(stack, context)
        for name in NEW:
            member = plan.members[name]
            pin_member(context, member, stack.identity(name))
        end = roll_back(context, trouble_now("operator", "asked", clock=HERE.clock))
        (stack.folder / "alike").write_text(
            " ".join(name for name in (*OLD, *NEW) for _ in alike(stack, name))
        )
        return end, context


def lines(stack: SmallStack) -> list[str]:
    """Members by their command lines, one for each process that ran in the end."""
    return (stack.folder / "alike").read_text().split()


@pytest.mark.parametrize("member", ["new_core_engine", "new_strategy_runner"])
def test_a_new_member_that_somebody_starts_again_does_not_trade_beside_the_old_ones(
    stack: SmallStack, member: str
) -> None:
    """Behind the start of the old generation: it is ended, proved gone, and named."""
    start = stack.start_command("old_strategy_runner")
    plan = stack.plan(
        PREVIOUS_STRATEGY_RUNNER_START_CMD=f"{start}; {started_again(stack, member)}",
        MAX_ROLLBACK_SECONDS="20",
    )
    end, context = pinned_and_rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert lines(stack) == list(OLD)
    assert f"the new generation lives again: {member} undecided" in warnings(context)
    assert walked(context) == []


def test_an_old_member_that_somebody_starts_beside_ours_is_ended(stack: SmallStack) -> None:
    """Once, and ours stays: two of one runner would trade on one account."""
    start = stack.start_command("old_strategy_runner")
    plan = stack.plan(
        PREVIOUS_STRATEGY_RUNNER_START_CMD=f"{started_again(stack, 'old_strategy_runner')} {start}",
        MAX_ROLLBACK_SECONDS="20",
    )
    end, context = pinned_and_rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert lines(stack) == list(OLD)
    assert "old_strategy_runner runs twice: (" in warnings(context)
    assert walked(context) == []


@pytest.mark.parametrize(
    ("role", "rest"),
    [("core_engine", 0.1), ("strategy_runner", 0.1), ("strategy_runner", 0.45)],
)
def test_an_old_member_that_somebody_always_starts_is_left_to_them(
    stack: SmallStack, role: str, rest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of it runs, and it is theirs: whichever of the two came first, and whatever an alive
    command makes of it that knows of ours alone."""
    member = f"old_{role}"
    loop = f"exec -a {stack.folder}/{member} sleep 3600"
    restore = (
        f'env -i PATH="$PATH" SMALL_STACK={stack.mark} setsid bash -c '
        f"'while sleep {rest}; do (trap - TERM; {loop}); done' >/dev/null 2>&1 & sleep 0.5"
    )
    plan = stack.plan(RESTORE_PREVIOUS_BINARIES_CMD=restore, MAX_ROLLBACK_SECONDS="12")
    # On a busy machine their loop may take longer than a revival is waited for.
    monkeypatch.setattr(rollback, "_REVIVAL_SECONDS", 4.0)
    end, context = pinned_and_rolled_back(stack, plan)
    assert end.outcome in (Outcome.ROLLED_BACK_UNVALIDATED, Outcome.ROLLED_BACK_IN_BUDGET)
    assert lines(stack) == list(OLD)
    assert f"somebody else starts {member} again whenever it ends" in warnings(context)
    assert walked(context) == []


def warnings(context: RunContext) -> str:
    """Every finding, a line each."""
    return "\n".join(each.payload.sentence for each in context.history.of_kind(Finding))


def test_a_restore_that_fails_does_not_stop_the_start(stack: SmallStack) -> None:
    """Trading comes first; that it runs on what was not restored is told in the outcome."""
    end, _ = rolled_back(stack, stack.plan(RESTORE_PREVIOUS_BINARIES_CMD="ls no-such-file"))
    assert end.outcome is Outcome.ROLLED_BACK_UNVALIDATED
    assert end.failed_step == "restore_previous_binaries"
    assert living(stack) == list(OLD)


@pytest.mark.parametrize("ago", [9.9, 11.0])
def test_a_late_rollback_still_restores_trading(stack: SmallStack, ago: float) -> None:
    """Over the budget is late, and late is better than nothing trading."""
    plan = stack.plan(MAX_ROLLBACK_SECONDS="10", ROLLBACK_CANCEL_SECONDS="1")
    end, _ = rolled_back(stack, plan, ago=ago)
    assert living(stack) == list(OLD)
    assert end.outcome is Outcome.ROLLED_BACK_LATE


def test_no_second_runner_is_started_beside_an_undecided_one(stack: SmallStack) -> None:
    """One look at a busy host that takes too long must not make two runners trade."""
    slow = f"test -e {stack.folder}/asked && exit 0; touch {stack.folder}/asked; exec sleep 60"
    plan = stack.plan(OLD_STRATEGY_RUNNER_ALIVE_CMD=slow)
    rolled_back(stack, plan, switched=False)
    assert stack.starts.count("old_strategy_runner") == 1


def test_no_second_engine_is_started_beside_an_undecided_one(stack: SmallStack) -> None:
    """An engine whose pid file is lost and whose command cannot tell may still trade."""
    (stack.folder / "old_core_engine.pid").unlink()
    rolled_back(stack, stack.plan(OLD_CORE_ENGINE_ALIVE_CMD="exit 3", **SHORT), switched=False)
    assert stack.starts.count("old_core_engine") == 1


def test_who_is_known_to_be_gone_is_started_whatever_its_command_says(stack: SmallStack) -> None:
    """`kill -0 $(cat F)` ends with 2 once F is gone: neither alive nor gone. What was pinned is gone,
    and for want of an answer nobody would trade; the answer that is wanted is told."""
    alive = f"test -e {stack.folder}/old_core_engine.up || exit 2"
    plan = stack.plan(OLD_CORE_ENGINE_ALIVE_CMD=alive, MAX_ROLLBACK_SECONDS="20")
    with open_context(stack.folder, plan=plan) as context:
        assert ready_gaps(context) == []
        switch(stack, context)
        end = roll_back(context, trouble_now("operator", "asked", clock=HERE.clock))
        note_living(stack)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert living(stack) == list(OLD)
    assert "OLD_CORE_ENGINE_ALIVE_CMD must end with 1 where it is gone" in warnings(context)


def test_a_member_that_started_another_ends_alone(stack: SmallStack) -> None:
    """A runner that started the engine, or a shell that started both, has it below itself, and the
    engine is kept by its own pin: it outlives the runner rightly, and is not ended for it."""
    started = [word for name in reversed(OLD) for word in stopped(stack, name)]
    assert started == []
    runner, engine = (stack.folder / name for name in reversed(OLD))
    script = (
        f"setsid bash -c 'exec -a {engine} sleep 3600' & echo $! > {engine}.pid; "
        f"cp {engine}.pid {engine}.up; echo $$ > {runner}.pid; cp {runner}.pid {runner}.up; "
        f"exec -a {runner} sleep 3600"
    )
    env = {**os.environ, "SMALL_STACK": stack.mark}
    with subprocess.Popen(["setsid", "bash", "-c", script], env=env) as both:
        wait_for(Path(f"{runner}.up").exists)
        plan = stack.plan(OLD_STRATEGY_RUNNER_STOP_CMD=stack.stop_command("old_strategy_runner"))
        with open_context(stack.folder, plan=plan) as context:
            assert ready_gaps(context) == []
            step = plan.step("stop_old_strategy_runner")
            prove = proof_for(context, step)
            both_end = threading.Thread(target=both.wait)  # a zombie is gone, and yet to be reaped
            both_end.start()
            result = run_step(context, step, deadline=time.monotonic() + 10, prove=prove)
            both_end.join()
            assert result.is_ok, result.sentence
            assert stack.is_up("old_core_engine")


def stopped(stack: SmallStack, name: str) -> list[str]:
    """End a member that the stack brought up; what of it is left."""
    identity = stack.identity(name)
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    wait_for(lambda: not is_running(identity))
    (stack.folder / f"{name}.up").unlink()
    return [name] if stack.is_up(name) else []


# --- an old engine that was asked to stop ---------------------------------------------


def behaving(stack: SmallStack, script: str) -> Identity:
    """The old engine, started anew as a shell that behaves like this on TERM."""
    engine = stack.identity("old_core_engine")
    assert engine is not None
    os.kill(engine.pid, signal.SIGKILL)
    wait_for(lambda: not is_running(engine))
    base = stack.folder / "old_core_engine"
    ready = stack.folder / "ready"
    script = f"{script}; touch {ready}; while :; do sleep 0.1; done"
    child = os.posix_spawnp("setsid", ["setsid", "bash", "-c", script], os.environ)
    wait_for(ready.exists)
    found = identity_of(child)
    assert found is not None
    Path(f"{base}.pid").write_text(f"{found.pid}\n{found.start_ticks}\n")
    return found


def stopped_and_rolled_back(stack: SmallStack, **values: str) -> tuple[RunEnd, RunContext]:
    """The end of a rollback after the first stop of the old engine that was not proved."""
    stat = f"/proc/$(head -1 {stack.folder}/old_core_engine.pid)/stat"
    plan = stack.plan(
        MAX_ROLLBACK_SECONDS="20",
        ROLLBACK_CANCEL_SECONDS="1",
        # By its process, which is this test's to reap.
        OLD_CORE_ENGINE_ALIVE_CMD=f"test -e {stat} && ! grep -q ') Z' {stat}",
        **values,
    )
    with open_context(stack.folder, plan=plan) as context:
        assert ready_gaps(context) == []
        step = plan.step("stop_old_core_engine")
        prove = proof_for(context, step)
        result = run_step(context, step, deadline=time.monotonic() + 1.5, prove=prove)
        assert not result.is_ok
        end = roll_back(context, trouble_now("step_failed", "asked", clock=HERE.clock))
        note_living(stack)
        return end, context


KILL = 'kill "$(head -1 {}/old_core_engine.pid)"'
SLOW = "trap 'sleep 4; exit 0' TERM"


@pytest.mark.parametrize("script", [SLOW, "trap : TERM"], ids=["in 4 s", "never"])
def test_an_old_engine_that_is_ending_is_not_kept(stack: SmallStack, script: str) -> None:
    """It was told to end and is alive for now: kept, nobody would trade a moment later. It is
    waited for, ended where it must be, and started anew."""
    before = behaving(stack, script)
    end, context = stopped_and_rolled_back(
        stack, OLD_CORE_ENGINE_STOP_CMD=KILL.format(stack.folder)
    )
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert not is_running(before)
    assert living(stack) == list(OLD)
    assert context.history.step("start_previous_core_engine").status is StepStatus.OK
    assert stack.starts.count("old_core_engine") == 2


def test_an_old_engine_that_ignores_term_is_kept(stack: SmallStack) -> None:
    """The stop did not reach it, its session is usable: the very process trades on."""
    before = behaving(stack, "trap '' TERM")
    end, context = stopped_and_rolled_back(
        stack, OLD_CORE_ENGINE_STOP_CMD=KILL.format(stack.folder)
    )
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert stack.identity("old_core_engine") == before
    assert context.history.step("start_previous_core_engine").status is StepStatus.SKIPPED


NEVER_BEGUN = {
    "not found": "no-such-stop --now",
    "not executable": "./plain.sh",
    "proc could not tell": f"{sys.executable} -m ctp_runbook proc stop --pid-file garbled.pid",
}


@pytest.mark.parametrize("command", NEVER_BEGUN.values(), ids=NEVER_BEGUN)
def test_a_stop_that_never_began_has_stopped_nothing(stack: SmallStack, command: str) -> None:
    """The old engine is looked at, is well, and is kept."""
    (stack.folder / "plain.sh").write_text("")
    (stack.folder / "garbled.pid").write_text("engine\n")
    before = stack.identity("old_core_engine")
    end, context = stopped_and_rolled_back(stack, OLD_CORE_ENGINE_STOP_CMD=command)
    assert context.history.step("stop_old_core_engine").exit_code in (126, 127, 3)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert stack.identity("old_core_engine") == before


# --- starts that fail, and members that die again --------------------------------------


def failing(stack: SmallStack, member: str, *, times: int, how: str = "kill -9 $$") -> str:
    """A start command that fails so often, and works then."""
    count = stack.folder / "failed"
    return (
        f"echo >> {count}; test $(wc -l < {count}) -le {times} && {{ {how}; }}; "
        f"{stack.start_command(member)}"
    )


def start_key(member: str) -> str:
    """The template key of the command that starts an old member again."""
    return f"PREVIOUS_{member.removeprefix('old_').upper()}_START_CMD"


@pytest.mark.parametrize("member", OLD)
def test_a_start_that_was_killed_is_tried_again(stack: SmallStack, member: str) -> None:
    """There is time, and its member is proved gone: the second try restores trading."""
    plan = stack.plan(
        **{start_key(member): failing(stack, member, times=1)}, MAX_ROLLBACK_SECONDS="20"
    )
    end, context = rolled_back(stack, plan)
    name = f"start_previous_{member.removeprefix('old_')}"
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert f"{name} by try 2" in end.sentence
    assert living(stack) == list(OLD)
    assert context.history.step(name).attempt == 2
    (told,) = (f.payload.sentence for f in context.history.of_kind(Finding))
    assert f"{member} is proved gone and is started again, try 2, with 1" in told
    assert " s of the budget of 20 s left" in told
    assert walked(context) == []


def test_half_a_member_is_ended_before_it_is_started_again(stack: SmallStack) -> None:
    """What the failed start left runs no more when the next one begins: one engine, not two."""
    half = f"setsid sleep 300 & echo $! > {stack.folder}/half; sleep 0.1; exit 1"
    plan = stack.plan(
        PREVIOUS_CORE_ENGINE_START_CMD=failing(stack, "old_core_engine", times=1, how=half),
        MAX_ROLLBACK_SECONDS="12",
    )
    end, _ = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert identity_of(int((stack.folder / "half").read_text())) is None
    assert living(stack) == list(OLD)


def test_a_start_that_always_fails_is_tried_three_times(stack: SmallStack) -> None:
    """Each try may be a login, and too many forbid them: exit 6 says so, and what is left."""
    plan = stack.plan(PREVIOUS_CORE_ENGINE_START_CMD="ls no-such-file", MAX_ROLLBACK_SECONDS="20")
    end, context = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert "; tried 3 times, with 1" in end.sentence
    assert context.history.step("start_previous_core_engine").attempt == 3


def test_with_the_budget_used_up_a_start_is_tried_once(stack: SmallStack) -> None:
    """Late beats never; trying on and on does not."""
    plan = stack.plan(PREVIOUS_CORE_ENGINE_START_CMD="ls no-such-file", MAX_ROLLBACK_SECONDS="10")
    end, context = rolled_back(stack, plan, ago=11.0)
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert "; tried 1 time, and the budget of 10 s is used up" in end.sentence
    assert context.history.step("start_previous_core_engine").attempt == 1


def test_a_new_member_that_comes_back_during_the_validation_goes(stack: SmallStack) -> None:
    """The last proof that nobody is there was before it, and no second generation stays."""
    base = stack.folder / "new_core_engine"
    once = f"test -e {base}.once || {{ touch {base}.once; cd /; setsid env -u CTP_RUN_ID bash -c "
    back = f"{once} 'exec -a {base} sleep 3600' > {base}.log 2>&1 & sleep 0.3; }}; "
    plan = stack.plan(
        POST_ROLLBACK_VALIDATE_CMD=f"{back}{stack.readiness_command('rollback')}",
        MAX_ROLLBACK_SECONDS="20",
    )
    end, context = pinned_and_rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert lines(stack) == list(OLD)
    assert "the new generation lives again" in warnings(context)


def dying(stack: SmallStack, *members: str, times: int) -> str:
    """A validation that finds these dead so often, and is content then."""
    count = stack.folder / "validated"
    ends = "; ".join(stack.stop_command(member) for member in members)
    return (
        f"echo >> {count}; test $(wc -l < {count}) -le {times} && {{ {ends}; exit 1; }}; "
        f"{stack.readiness_command('rollback')}"
    )


@pytest.mark.parametrize(
    "members",
    [("old_strategy_runner",), OLD],
    ids=["runner", "both"],
)
def test_what_died_after_it_was_restored_is_started_again(
    stack: SmallStack, members: tuple[str, ...]
) -> None:
    """A stack without its runner does not trade: it is started again and validated again."""
    plan = stack.plan(
        POST_ROLLBACK_VALIDATE_CMD=dying(stack, *members, times=1), MAX_ROLLBACK_SECONDS="20"
    )
    end, context = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_IN_BUDGET, end.sentence
    assert living(stack) == list(OLD)
    assert context.history.step("post_rollback_validate").attempt == 2
    assert walked(context) == []


def test_a_runner_that_dies_again_and_again_is_no_stack_that_trades(stack: SmallStack) -> None:
    """Exit 6, and not "trades again, but it could not be validated"."""
    plan = stack.plan(
        POST_ROLLBACK_VALIDATE_CMD=dying(stack, "old_strategy_runner", times=9),
        MAX_ROLLBACK_SECONDS="20",
    )
    end, _ = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert "old_strategy_runner was restored and has died since, started 3 times" in end.sentence
    assert "trades again" not in end.sentence
    assert living(stack) == ["old_core_engine"]


ALIVE = dict.fromkeys(OLD, "alive") | dict.fromkeys(NEW, "gone")
BACK = "the previous stack trades again 9.0 s after the trigger (budget 60 s)"


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.value.startswith("ROLLED_BACK")])
def test_the_last_look_has_the_last_word(outcome: Outcome) -> None:
    """What is alive is left as it was told; what is gone does not trade; what is undecided may."""
    end = RunEnd(outcome, BACK)
    assert end.as_seen(ALIVE) == end
    assert end.as_seen({**ALIVE, "new_core_engine": "undecided"}) == end
    both = end.as_seen({**ALIVE, "new_core_engine": "alive"})
    assert both.outcome is Outcome.ROLLBACK_FAILED
    assert both.sentence.endswith("; at the last look new_core_engine alive beside it")
    unknown = end.as_seen({**ALIVE, "old_strategy_runner": "undecided"})
    assert unknown.outcome is outcome
    assert unknown.sentence == (
        "the previous stack was restored 9.0 s after the trigger (budget 60 s); at the last look "
        "old_strategy_runner undecided: whether all of it trades is not known"
    )
    dead = end.as_seen({**ALIVE, "old_strategy_runner": "gone"})
    assert dead.outcome is Outcome.ROLLBACK_FAILED
    assert dead.sentence.endswith("; at the last look old_strategy_runner gone")
    assert dead.failed_step == "post_rollback_validate"


# --- steps that hang ----------------------------------------------------------------

HANG = "trap '' TERM; sleep 600 & wait; sleep 600"
EVERY_STEP = (
    "NEW_STRATEGY_RUNNER_STOP_CMD",
    "NEW_CORE_ENGINE_STOP_CMD",
    "RESTORE_PREVIOUS_BINARIES_CMD",
    "RESTORE_REDIS_BRIDGE_COMPAT_CMD",
    "PREVIOUS_CORE_ENGINE_START_CMD",
    "PREVIOUS_STRATEGY_RUNNER_START_CMD",
    "POST_ROLLBACK_VALIDATE_CMD",
)
BUDGET = 8.0


def hanging(stack: SmallStack, *keys: str) -> Plan:
    """A plan in which the commands of ``keys`` do their work and then hang, deaf to TERM."""
    members = {"NEW_STRATEGY_RUNNER_STOP_CMD": "new_strategy_runner"}
    members["NEW_CORE_ENGINE_STOP_CMD"] = "new_core_engine"
    values = {}
    for key in keys:
        gone = f"rm {stack.folder}/{members[key]}.up; " if key in members else ""
        values[key] = f"{gone}{HANG}"
    return stack.plan(MAX_ROLLBACK_SECONDS=f"{BUDGET:g}", ROLLBACK_CANCEL_SECONDS="1", **values)


def begun_late(context: RunContext) -> list[str]:
    """What was begun when the budget was over, but for one last look at each member: that has half a
    second however late it is, and takes what a busy machine takes to ask and to end who does not
    answer. One more may have been on its way."""
    over = trigger_mono(context) + BUDGET
    late = [record.payload for record in context.journal.records if record.mono_ns / 1e9 > over]
    looks = Counter(each.subject for each in late if isinstance(each, ProbeAnswered))
    again = [f"{member} asked {count} times" for member, count in looks.items() if count > 2]
    return [*again, *(each.step for each in late if isinstance(each, StepStarted))]


def seconds_over(context: RunContext) -> float:
    """How long it went on when the budget was over, but for those looks."""
    over = trigger_mono(context) + BUDGET
    return sum(
        max(0.0, after.mono_ns / 1e9 - max(over, before.mono_ns / 1e9))
        for before, after in pairwise(context.journal.records)
        if not isinstance(after.payload, ProbeAnswered)
    )


def test_a_rollback_in_which_every_step_hangs_ends_with_its_budget(stack: SmallStack) -> None:
    """Nothing is begun after MAX_ROLLBACK_SECONDS, exit 6; the new generation was ended by signal."""
    began = time.monotonic()
    end, context = rolled_back(stack, hanging(stack, *EVERY_STEP))
    assert begun_late(context) == []
    assert seconds_over(context) <= 1.0
    assert time.monotonic() - began < BUDGET + 6.0
    assert (end.outcome, end.outcome.exit_code) == (Outcome.ROLLBACK_FAILED, 6)
    assert end.failed_step == "start_previous_core_engine"
    assert living(stack) == []


# What each hanging step ends in; trading is restored by all of them.
ONE_HANGS = {
    "NEW_STRATEGY_RUNNER_STOP_CMD": Outcome.ROLLED_BACK_IN_BUDGET,
    "NEW_CORE_ENGINE_STOP_CMD": Outcome.ROLLED_BACK_IN_BUDGET,
    "RESTORE_PREVIOUS_BINARIES_CMD": Outcome.ROLLED_BACK_UNVALIDATED,
    "RESTORE_REDIS_BRIDGE_COMPAT_CMD": Outcome.ROLLED_BACK_UNVALIDATED,
    "POST_ROLLBACK_VALIDATE_CMD": Outcome.ROLLED_BACK_UNVALIDATED,
}


@pytest.mark.parametrize(("key", "outcome"), ONE_HANGS.items(), ids=ONE_HANGS)
def test_one_hanging_step_does_not_keep_trading_away(
    stack: SmallStack, key: str, outcome: Outcome
) -> None:
    """The old generation trades again within the budget, whichever step hangs."""
    end, context = rolled_back(stack, hanging(stack, key))
    assert end.outcome is outcome, end.sentence
    assert living(stack) == list(OLD)
    assert restored_after(context) <= BUDGET
    (cut,) = (s for s in context.history.steps.values() if s.status is StepStatus.TIMED_OUT)
    assert re.match(r"did not end.* cut by the budget of 8 s \(\d\.\d s left\)", cut.reason)
    assert begun_late(context) == []
    assert seconds_over(context) <= 1.0


@pytest.mark.parametrize("member", OLD)
def test_a_start_that_works_and_then_hangs_has_restored_trading(
    stack: SmallStack, member: str
) -> None:
    """What is proved up counts; the outcome says that its command did not end."""
    key = f"PREVIOUS_{member.removeprefix('old_').upper()}_START_CMD"
    plan = stack.plan(
        MAX_ROLLBACK_SECONDS=f"{BUDGET:g}",
        ROLLBACK_CANCEL_SECONDS="1",
        **{key: f"{stack.start_command(member)}; {HANG}"},
    )
    end, context = rolled_back(stack, plan)
    assert end.outcome is Outcome.ROLLED_BACK_UNVALIDATED, end.sentence
    assert "not as it was to be restored" in end.sentence
    assert living(stack) == list(OLD)
    assert restored_after(context) <= BUDGET


@pytest.mark.parametrize("member", OLD)
def test_a_start_that_hangs_before_it_starts_fails_in_time(stack: SmallStack, member: str) -> None:
    """Nothing can be restored then: exit 6 within the budget, and nothing else was started."""
    key = f"PREVIOUS_{member.removeprefix('old_').upper()}_START_CMD"
    end, context = rolled_back(stack, hanging(stack, key))
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert member not in living(stack)
    assert begun_late(context) == []
    assert seconds_over(context) <= 1.0


def test_hanging_probes_cost_no_more_than_the_budget(stack: SmallStack) -> None:
    """Alive commands that hang prove nothing: nothing is started, and the end comes in time."""
    asks = {f"{member.upper()}_ALIVE_CMD": HANG for member in (*OLD, *NEW)}
    plan = stack.plan(MAX_ROLLBACK_SECONDS=f"{BUDGET:g}", ROLLBACK_CANCEL_SECONDS="1")
    with open_context(stack.folder, plan=plan) as context:
        switch(stack, context)
    plan = stack.plan(MAX_ROLLBACK_SECONDS=f"{BUDGET:g}", ROLLBACK_CANCEL_SECONDS="1", **asks)
    starts = len(stack.starts)
    with open_context(stack.folder, plan=plan) as context:
        for member in NEW:
            began = context.plan.step(f"start_{member}")
            context.record(like("step_started", step=began.name, phase="switch", pid=1))
        end = roll_back(context, trouble_now("operator", "asked", clock=context.world.clock))
    assert end.outcome is Outcome.ROLLBACK_FAILED
    assert begun_late(context) == []
    assert seconds_over(context) <= 1.0
    assert len(stack.starts) == starts


def trigger_mono(context: RunContext) -> float:
    """When the budget began to run."""
    begun = context.history.rollback_started
    assert begun is not None
    return begun.payload.started_mono_ns / 1e9


def restored_after(context: RunContext) -> float:
    """Seconds from the trigger until the old runner was last proved alive before validation."""
    proved = [
        record.mono
        for record in context.history.of_kind(ProbeAnswered)
        if record.payload.subject == "old_strategy_runner"
        and record.payload.question == "alive"
        and record.payload.ok
    ]
    return proved[0] - trigger_mono(context)


def test_each_step_says_when_it_is_due(stack: SmallStack) -> None:
    """The budget is split over the steps, and each is due before those after it have to begin."""
    _, context = rolled_back(stack, stack.plan())
    begun = context.history.rollback_started
    assert begun is not None
    assert sum(begun.payload.shares.values()) == pytest.approx(180.0)
    assert set(begun.payload.shares) == {step.name for step in context.plan.rollback}
    dues = [
        record.payload.due_mono_ns / 1e9
        for record in context.history.of_kind(StepStarted)
        if record.payload.phase is Phase.ROLLBACK
    ]
    assert len(dues) == 7
    assert max(dues) <= trigger_mono(context) + 180.0
