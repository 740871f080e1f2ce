"""Facts about run/switch.py: what must be so before each step, and who is stopped when one stops."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.host.process import identity_of, parents
from ctp_runbook.model import StepStatus
from ctp_runbook.record.kinds import Finding
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.switch import (
    readiness_proof,
    ready_gaps,
    run_gates,
    run_switch,
    warn_of_revival,
)
from tests.props.plan_fixtures import make_plan, open_context, wait_for
from tests.props.simulated_host import IDENTITIES, SimulatedHost
from tests.props.small_stack import SmallStack, small_stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        yield made


def children(pid: int) -> list[int]:
    """Who runs right below a process."""
    return [child for child, parent in parents().items() if parent == pid]


def supervised(stack: SmallStack) -> subprocess.Popen[bytes]:
    """The old engine, started again by the shell that its pid file names."""
    first = stack.identity("old_core_engine")
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    shell = subprocess.Popen(["bash", "-c", "while :; do sleep 300; done"], start_new_session=True)
    (stack.folder / "old_core_engine.pid").write_text(f"{shell.pid}\n")
    wait_for(lambda: children(shell.pid))
    return shell


@pytest.mark.twin
def test_an_engine_that_came_since_it_was_pinned_outlives_nobody_s_proof(stack: SmallStack) -> None:
    """READY saw another child of the supervisor than the one that runs when it is stopped."""
    folder = stack.folder
    shell = supervised(stack)
    plan = stack.plan(
        OLD_CORE_ENGINE_STOP_CMD=f"kill {shell.pid}; rm {folder}/old_core_engine.{{pid,up}}",
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="2",
    )
    with open_context(folder, plan=plan) as context:
        assert ready_gaps(context) == []
        (known,) = children(shell.pid)
        os.kill(known, signal.SIGKILL)
        wait_for(lambda: set(children(shell.pid)) - {known})
        (engine,) = children(shell.pid)
        failed = run_switch(context)
        shell.wait(timeout=5)
        assert identity_of(engine) is not None
        os.kill(engine, signal.SIGKILL)
        assert failed is not None
        assert failed.step.name == "stop_old_core_engine"
        assert f"processes below it still run: ({engine},)" in failed.reason
        assert context.history.step("start_new_core_engine").status is StepStatus.NOT_RUN


def systemd_says(folder: Path, *facts: str) -> None:
    """Have ``systemctl show`` print this."""
    fake = folder / "systemctl"
    fake.write_text(f"#!/bin/sh\nprintf '%s\\n' {' '.join(facts)}\n")
    fake.chmod(0o755)


@pytest.mark.twin
def test_a_unit_that_systemd_does_not_know_proves_nothing(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistyped, the old stack is not touched; masked after its stop, nothing new is started."""
    monkeypatch.setenv("PATH", f"{stack.folder}:{os.environ['PATH']}")
    plan = stack.plan(
        OLD_CORE_ENGINE_UNIT="engine.service", OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="1"
    )
    engine = stack.identity("old_core_engine")
    assert engine is not None
    with open_context(stack.folder, plan=plan) as context:
        systemd_says(stack.folder, "LoadState=not-found", "ActiveState=inactive", "MainPID=0")
        (gap,) = ready_gaps(context)
        assert gap.startswith("expected alive: old_core_engine undecided: alive command says alive")
        assert "unit engine.service (OLD_CORE_ENGINE_UNIT: its LoadState is not-found" in gap
        up = ("LoadState=loaded", "ActiveState=active", f"MainPID={engine.pid}")
        systemd_says(stack.folder, *up)
        assert ready_gaps(context) == []
        systemd_says(stack.folder, "LoadState=masked", "ActiveState=inactive", "MainPID=0")
        failed = run_switch(context)
        assert identity_of(engine.pid) is None
        assert failed is not None
        assert failed.step.name == "stop_old_core_engine"
        assert "`systemctl unmask engine.service`" in failed.reason
        assert context.history.step("start_new_core_engine").status is StepStatus.NOT_RUN


# --- on a simulated host ----------------------------------------------------------

STOPS = ["cat old_strategy_runner.stop", "cat old_core_engine.stop"]
STARTS = ["cat new_core_engine.conf", "cat new_strategy_runner.conf"]


@pytest.fixture
def host() -> SimulatedHost:
    """The old generation trades; stops and starts do what they are for."""
    host = SimulatedHost(lives={"old_core_engine": "alive", "old_strategy_runner": "alive"})
    for command in (*STOPS, *STARTS):
        member, _, kind = command.removeprefix("cat ").partition(".")
        word = "gone" if kind == "stop" else "alive"
        host.acts[command] = lambda member=member, word=word: host.lives.update({member: word})  # type: ignore[misc]
    return host


@pytest.fixture
def context(tmp_path: Path, host: SimulatedHost) -> Iterator[RunContext]:
    """A run on it."""
    with open_context(tmp_path, plan=make_plan(tmp_path)) as made:
        yield structs.replace(made, world=host.world)


def test_the_switch_is_in_the_runbooks_order(context: RunContext, host: SimulatedHost) -> None:
    """Runner before engine out, engine before runner in, and the query last."""
    assert ready_gaps(context) == []
    assert run_switch(context) is None
    assert host.ran == [*STOPS, *STARTS, "cat instruments"]
    assert {name: pin.identity for name, pin in context.history.pins.items()} == IDENTITIES


@pytest.mark.parametrize("member", ["old_core_engine", "old_strategy_runner"])
def test_nothing_new_is_started_beside_an_old_one(
    context: RunContext, host: SimulatedHost, member: str
) -> None:
    """A supervisor brings it back right after its stop: the start is refused, and that is a
    failure of the step."""

    def revive() -> None:
        if STOPS[-1] in host.ran:  # after the look that proved its stop
            host.lives[member] = "alive"

    host.after_look = revive
    failed = run_switch(context)
    assert failed is not None
    assert (failed.step.name, failed.status) == ("start_new_core_engine", StepStatus.FAILED)
    assert f"the old generation is not proved gone: {member} alive" in failed.reason
    assert not set(STARTS) & set(host.ran)


def test_ready_wants_both_old_parts_alive_and_both_new_ones_gone(
    context: RunContext, host: SimulatedHost
) -> None:
    """Everything that is not so is told at once."""
    host.lives = {"old_core_engine": "undecided", "new_strategy_runner": "alive"}
    gaps = ready_gaps(context)
    assert [gap.partition(":")[0] for gap in gaps] == [
        "expected alive",
        "expected alive",
        "expected gone",
    ]
    assert "old_core_engine undecided" in gaps[0]
    assert "new_strategy_runner alive" in gaps[2]


def test_the_first_gate_that_fails_is_the_last(context: RunContext, host: SimulatedHost) -> None:
    """Its result says which it was."""
    host.exits["cat schema"] = 3
    failed = run_gates(context)
    assert failed is not None
    assert (failed.step.name, failed.exit_code) == ("init_clickhouse_schema", 3)
    assert host.ran == ["cat bootstrap", "cat topics", "cat schema"]


def test_a_readiness_file_of_before_the_command_proves_nothing(context: RunContext) -> None:
    """Exit 0 and the file of another day are no readiness; nor is no file."""
    prove = readiness_proof(context, "ctp_readiness_precheck.json")
    assert "cannot be read" in prove(0.0)
    (context.run.evidence / "ctp_readiness_precheck.json").write_text("{}")
    assert prove(0.0) != ""


@pytest.mark.twin
def test_what_may_start_a_member_again_is_told_and_stops_nothing(stack: SmallStack) -> None:
    """In READY and for --probe: the shell that supervises it, and who is deaf, by pid."""
    shell = supervised(stack)
    with open_context(stack.folder, plan=stack.plan()) as context:
        assert ready_gaps(context) == []
        warn_of_revival(context)
        told = [each.payload.sentence for each in context.history.of_kind(Finding)]
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait(timeout=5)
    assert any(f"old_core_engine: pid {shell.pid} is a shell (bash) with" in each for each in told)
