"""Facts about run/switch.py: what must be so before each step, and who is stopped when one stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from ctp_runbook.gates.readiness import SLIS, Readiness, measured
from ctp_runbook.gates.readiness_probes import ReadinessSources, commands_of_run, measure
from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import identity_of, parents
from ctp_runbook.model import Generation, Member, StepKind, StepStatus
from ctp_runbook.record.kinds import Finding
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.proofs import pin_member
from ctp_runbook.run.switch import (
    probe_gaps,
    readiness_proof,
    ready_gaps,
    run_gates,
    run_switch,
    session_gaps,
    warn_of_revival,
)
from tests.props.plan_fixtures import make_plan, open_context, wait_for
from tests.props.simulated_host import IDENTITIES, SimulatedHost
from tests.props.small_stack import SmallStack


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
        shell.wait(timeout=60)
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


# --- the template's own commands ------------------------------------------------------

HITS = "quant_hft_ctp_flow_control_hits"


def found_by(folder: Path, command: str, *, mine: bool) -> tuple[str, dict[str, object]]:
    """What the precheck's proof says where READINESS_FLOW_CONTROL_HITS_CMD is this command, and the
    entry in the file; ``mine``: the file is written by our command in the step's environment."""
    plan = make_plan(folder, READINESS_FLOW_CONTROL_HITS_CMD=command)
    name = "ctp_readiness_precheck.json"
    with open_context(folder, plan=plan) as context:
        prove, path = readiness_proof(context, name), context.run.evidence / name
        others = [s for s in SLIS.values() if s.core and not (mine and s.name == HITS)]
        readings = [measured(s.name, s.target, detail="seen", source="probe") for s in others]
        if mine:
            commands = commands_of_run(context.environment_of("precheck"))
            asked = ReadinessSources("x", commands=commands, cwd=folder)
            readings += [each for each in measure(asked).readings if each.name == HITS]
        path.write_bytes(Readiness(tuple(readings), "x").to_bytes())
        said = prove(context.world.clock.mono() + 60)
        entries = {each["name"]: each for each in json.loads(path.read_bytes())["slis"]}
        return said, entries[HITS]


@pytest.mark.parametrize("mine", [True, False])
def test_a_readiness_command_is_run_in_the_precheck(mine: bool, tmp_path: Path) -> None:
    """Also where whatever wrote the file measured that SLI itself, or typed it."""
    (tmp_path / "hits").write_text("3")
    said, entry = found_by(tmp_path, "cat hits; touch asked", mine=mine)
    assert (said, entry["value"], entry["provenance"]) == ("", 3.0, "measured")
    assert (tmp_path / "asked").exists()
    (tmp_path / "hits").write_text("99")
    said, entry = found_by(tmp_path, "cat hits", mine=mine)
    assert f"{HITS}: 99.0, expected <= 10 count" in said
    said, entry = found_by(tmp_path, "/nonexistent/hits", mine=mine)
    assert f"{HITS}: no value, expected <= 10 count: exit 127" in said


@pytest.mark.parametrize("mine", [True, False])
def test_a_number_that_is_only_printed_is_declared(mine: bool, tmp_path: Path) -> None:
    """``=echo 0`` was counted as measured; it fails the gate of a real run, as what is typed does."""
    said, entry = found_by(tmp_path, "echo 0", mine=mine)
    assert entry["provenance"] == "declared"
    assert f"{HITS}: declared (SLI command); a real run wants it measured" in said


@pytest.mark.parametrize("mine", [True, False])
def test_what_this_engine_cannot_have_fails_nothing(mine: bool, tmp_path: Path) -> None:
    """It stands in the file with its reason, and nobody takes it for a value."""
    said, entry = found_by(tmp_path, "not_measurable: it counts none", mine=mine)
    assert said == ""
    assert (entry["value"], entry["provenance"], entry["healthy"]) == (
        None,
        "not_measurable",
        False,
    )
    assert entry["detail"] == "it counts none"


def test_probe_says_which_readiness_command_is_missing(tmp_path: Path) -> None:
    """Before anything is touched, and with what came instead of a value."""
    given = {"READINESS_FLOW_CONTROL_HITS_CMD": "/nonexistent/hits"}
    plan = make_plan(tmp_path, OLD_CORE_ENGINE_METRICS_URL="", limits=None, environ=None, **given)
    host = SimulatedHost(lives={"old_core_engine": "alive", "old_strategy_runner": "alive"})
    with open_context(tmp_path, plan=plan) as made:
        gaps = probe_gaps(structs.replace(made, world=host.world))
    assert any("by its READINESS command: exit 127" in gap for gap in gaps)


# --- the sessions ---------------------------------------------------------------------


def gaps_of(folder: Path, session: bool | str, **values: str) -> list[str]:
    """What READY says of an old engine that tells this of its session."""
    host = SimulatedHost(
        lives={"old_core_engine": "alive", "old_strategy_runner": "alive"}, session=session
    )
    plan = make_plan(folder, limits=None, environ=None, **values)
    with open_context(folder, plan=plan) as made:
        context = structs.replace(made, world=host.world)
        return [*ready_gaps(context), "|", *session_gaps(context, verified=True)]


def test_an_old_engine_that_could_not_be_proved_again_is_not_stopped(tmp_path: Path) -> None:
    """Its source must answer; right before the first stop its session must be usable too, while
    until then its front may not be open yet."""
    assert gaps_of(tmp_path, True) == ["|"]
    (first, *_, last) = gaps_of(tmp_path, "nobody answers")
    for gap in (first, last):
        assert gap == (
            "expected a session of the old engine that can be proved again: nobody answers"
        )
    first, last = gaps_of(tmp_path, session=False)
    assert first == "|"
    assert "TD logged in: no" in last


def test_a_new_session_command_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """In READY, where all it can say is no; and one that says yes of nobody is told."""
    said = "NEW_SESSION_CMD for new_core_engine: exit 127, expected 0"
    assert gaps_of(tmp_path, said, NEW_SESSION_CMD="/nonexistent/x")[1] == (
        f"expected a command that tells the session of the new engine: {said}"
    )
    assert gaps_of(tmp_path, session=True, NEW_SESSION_CMD="cat x") == ["|"]


@pytest.mark.twin
def test_two_members_of_one_process_are_refused(stack: SmallStack) -> None:
    """Whoever stopped the runner would stop the engine, in the first second of the switch."""
    one = (stack.folder / "old_core_engine.pid").read_text()
    (stack.folder / "old_strategy_runner.pid").write_text(one)
    with open_context(stack.folder, plan=stack.plan()) as context:
        (gap,) = ready_gaps(context)
    assert "expected two processes: old_core_engine and old_strategy_runner are both pid" in gap
    assert "OLD_STRATEGY_RUNNER=none" in gap


@pytest.mark.twin
def test_what_is_not_the_member_itself_is_not_pinned_for_it(stack: SmallStack) -> None:
    """The end of a pipe: refused while nothing is touched, by the key that names it."""
    file = stack.folder / "old_core_engine.pid"
    file.unlink()
    script = f"sleep 3600 | tee /dev/null & echo $! > {file}; wait"
    with subprocess.Popen(["bash", "-c", script], start_new_session=True) as shell:
        try:
            wait_for(lambda: _program(file) == "tee")
            with open_context(stack.folder, plan=stack.plan()) as context:
                (gap,) = ready_gaps(context)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert (
        "expected the member's own process: old_core_engine: what OLD_CORE_ENGINE_PID_FILE" in gap
    )


def _program(file: Path) -> str:
    pid = file.read_text().strip() if file.exists() else ""
    return Path(f"/proc/{pid}/comm").read_text().strip() if pid else ""


@pytest.mark.twin
def test_what_may_start_a_member_again_is_told_and_stops_nothing(stack: SmallStack) -> None:
    """In READY and for --probe: the shell that supervises it, and who is deaf, by pid."""
    shell = supervised(stack)
    with open_context(stack.folder, plan=stack.plan()) as context:
        assert ready_gaps(context) == []
        warn_of_revival(context)
        told = [each.payload.sentence for each in context.history.of_kind(Finding)]
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait(timeout=60)
    assert any(f"old_core_engine: pid {shell.pid} is a shell (bash) with" in each for each in told)


def test_a_new_member_that_would_not_end_is_told_before_a_rollback(
    context: RunContext, host: SimulatedHost
) -> None:
    """By its own stop command, which the rollback will need, and of nobody else."""
    asked: list[tuple[str, str]] = []

    def signs(member: Member, pin: Pin, *, stop_command: str, **_: object) -> tuple[str, ...]:
        asked.append((member.name, stop_command))
        return ("it comes again",)

    host.signs_of_revival = signs  # type: ignore[method-assign]
    for name, member in context.plan.members.items():
        pin_member(context, member, IDENTITIES[name])
    warn_of_revival(context, Generation.NEW)
    stops = {
        step.acts_on: step.command
        for step in context.plan.rollback
        if step.acts_on and step.kind is StepKind.STOP
    }
    assert dict(asked) == {"_".join(acts_on): command for acts_on, command in stops.items()}
    assert {each.payload.sentence for each in context.history.of_kind(Finding)} >= {
        "it comes again"
    }
