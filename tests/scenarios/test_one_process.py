"""Generations of one process: strategies that run in the engine, and no runner beside it.

The steps of the runner are skipped with the line of the template that says so, from the plan to the
verifier; nothing looks for who is not there, and trading goes by the engine.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.notebook import phases
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.step_table import budget_shares
from ctp_runbook.record.evidence import trading_downtime_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run import attend, launch
from ctp_runbook.run.world import HERE
from ctp_runbook.show.report import write_report
from ctp_runbook.verify.pair import verify_pair
from ctp_runbook.verify.run import verify_run
from tests.props.cutover_tools import cutover_of, edited, fresh_twin
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack, small_stack
from tests.props.twin_tools import template_command, wait_until

NONE = {
    key: "none" if key.endswith("RUNNER") else ""
    for generation, back in (("OLD", "PREVIOUS"), ("NEW", "NEW"))
    for key in (
        f"{generation}_STRATEGY_RUNNER",
        f"{generation}_STRATEGY_RUNNER_STOP_CMD",
        f"{generation}_STRATEGY_RUNNER_ALIVE_CMD",
        f"{generation}_STRATEGY_RUNNER_PID_FILE",
        f"{back}_STRATEGY_RUNNER_START_CMD",
    )
}
RUNNER_STEPS = {
    "stop_old_strategy_runner": "OLD",
    "start_new_strategy_runner": "NEW",
    "stop_new_strategy_runner": "NEW",
    "start_previous_strategy_runner": "OLD",
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, of which the old generation is an engine alone."""
    with small_stack(tmp_path, runners=False) as made:
        yield made


def plan_of(stack: SmallStack, *, without: Mapping[str, str] = NONE, **values: str) -> Plan:
    """Gates that pass, and no runner anywhere; or ``without`` those alone."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    given = {f"{gate}_CMD": "ls" for gate in gates}
    given["PRECHECK_CMD"] = stack.readiness_command("precheck")
    return stack.plan(**{**given, **without, "MAX_ROLLBACK_SECONDS": "10", **values})


def ended(stack: SmallStack, plan: Plan) -> tuple[RunDir, History]:
    """A real run of the plan, once it is over."""
    run = stack.begin(plan)
    return run, stack.closed(run)


def skipped(history: History) -> dict[str, str]:
    """The steps of the runners that the journal names, and why they were not done."""
    return {
        name: history.step(name).reason
        for name in RUNNER_STEPS
        if history.step(name).status is StepStatus.SKIPPED
    }


def verified(run: RunDir) -> list[str]:
    """What the verifier finds, by journal and by the bare pair; the gates of this stack are no gates
    of ours, and leave no evidence."""
    checks = verify_run(run, allow_cutover_rollback=True).checks
    files = (run.evidence / f"ctp_{side}_result.env" for side in ("cutover", "rollback"))
    pair = verify_pair(*files, allow_cutover_rollback=True)
    return [
        *(str(check) for check in checks if not check.ok and check.name != "gates"),
        *pair.findings,
    ]


def said_of(text: str) -> bool:
    """Whether a reason is the plan's own."""
    return "_STRATEGY_RUNNER=none: there is no " in text


def test_a_plan_without_runners_has_no_such_member(stack: SmallStack) -> None:
    """Nobody to look for, and each of the four steps with its reason."""
    plan = plan_of(stack)
    assert tuple(plan.members) == ("old_core_engine", "new_core_engine")
    assert {step.name for step in plan.steps if step.skipped} == RUNNER_STEPS.keys()
    for name, generation in RUNNER_STEPS.items():
        step = plan.step(name)
        assert step.command == f"{generation}_STRATEGY_RUNNER=none"
        assert step.skipped.startswith(f"{step.command}: there is no {generation.lower()} ")
    assert not any("STRATEGY_RUNNER" in each for each in plan.execute_refusals)


def test_a_switch_that_fails_is_rolled_back_to_an_engine_alone(stack: SmallStack) -> None:
    """The old engine trades again, all of the budget is the other steps', and it verifies."""
    plan = plan_of(stack, WARMUP_QUERY_CMD="ls nothing-there")
    run, history = ended(stack, plan)
    assert history.closed is not None
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed.payload.sentence
    assert skipped(history).keys() == RUNNER_STEPS.keys()
    assert all(map(said_of, skipped(history).values()))
    assert history.closed.payload.running == {"old_core_engine": "alive", "new_core_engine": "gone"}
    assert stack.starts == ["old_core_engine", "new_core_engine", "old_core_engine"]
    begun = history.rollback_started
    assert begun is not None
    assert begun.payload.shares == budget_shares(10.0, left_out=RUNNER_STEPS)
    assert verified(run) == []
    page = write_report(run).read_text()
    assert "there is no old strategy runner" in page
    assert "no engine on a verified session" in page


def test_a_new_engine_alone_is_rolled_back_to_an_engine_with_its_runner(tmp_path: Path) -> None:
    """Trading rests from the old runner's stop to the new engine's start, and once more after it."""
    new = {key: value for key, value in NONE.items() if key.startswith("NEW_")}
    old = {key: value for key, value in NONE.items() if key not in new}
    with small_stack(tmp_path) as stack:
        plan = plan_of(stack, without=new, WARMUP_QUERY_CMD="ls nothing-there")
        assert not any(step.skipped and step.name in old for step in plan.steps)
        run, history = ended(stack, plan)
        starts = stack.starts
    assert history.closed is not None
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, history.closed.payload.sentence
    assert skipped(history).keys() == {n for n, g in RUNNER_STEPS.items() if g == "NEW"}
    assert starts[2:] == ["new_core_engine", "old_core_engine", "old_strategy_runner"]
    stop, start = history.step("stop_old_strategy_runner"), history.step("start_new_core_engine")
    first = (start.started_mono_ns - stop.started_mono_ns) / 1e9 + start.duration_ms / 1000
    stop, start = (
        history.step(name) for name in ("stop_new_core_engine", "start_previous_strategy_runner")
    )
    again = (start.started_mono_ns - stop.started_mono_ns) / 1e9 + start.duration_ms / 1000
    assert trading_downtime_seconds(history) == pytest.approx(first + again, abs=0.5)
    assert verified(run) == []


def test_an_engine_alone_that_dies_in_the_watch_is_rolled_back(stack: SmallStack) -> None:
    """By the watch, which looks at who is there."""
    run = stack.begin(plan_of(stack))
    wait_for(lambda: launch.read_whole(run).watch_started)
    identity = stack.identity("new_core_engine")
    assert identity is not None
    # Whoever finds the run unattended now is told that orders may be sent: by the engine.
    said = attend._what_runs(launch.read_whole(run), HERE)
    assert "strategy_runner" not in said
    assert said.endswith("orders may be sent, and nobody watches")
    (stack.folder / "new_core_engine.up").unlink()
    subprocess.run(["kill", "-KILL", str(identity.pid)], check=True)
    history = stack.closed(run)
    assert history.trigger is not None
    assert history.trigger.payload.cause == "member_died"
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    assert verified(run) == []


def one_process(twin: Twin, generation: str) -> str:
    """A start command of the light twin that brings a generation up as one program."""
    script = twin.dir / f"{generation}_generation.sh"
    release = twin.release(generation)
    engine = f"ctp_runbook.rehearsal.engine.core_engine --generation {generation} --config"
    runner = f"ctp_runbook.rehearsal.engine.{generation}_runner --config"
    python, folder = (shlex.quote(str(each)) for each in (twin.python, release))
    script.write_text(
        f"{python} -m {engine} {folder}/core_engine.json & engine=$!\n"
        f"{python} -m {runner} {folder}/strategy_runner.json & runner=$!\n"
        "trap 'kill -TERM $runner; wait $runner; kill -TERM $engine; wait $engine; exit 0' TERM\n"
        "wait $engine $runner\n"
    )
    member = f"{generation}_core_engine"
    words = [twin.ctp_runbook, "proc", "start", "--pid-file", twin.dir / f"run/{member}.pid"]
    words += ["--log", twin.dir / f"logs/{member}.log", "--", "bash", script]
    return shlex.join(map(str, words))


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Twin]:
    """A light twin whose generations are one program each, the old one trading."""
    with fresh_twin(tmp_path / "a twin's $dir", watch_seconds=6.0) as twin:
        for key in ("OLD_STRATEGY_RUNNER_STOP_CMD", "OLD_CORE_ENGINE_STOP_CMD"):
            assert template_command(twin, key).returncode == 0
        old, new = one_process(twin, "old"), one_process(twin, "new")
        stop = {"PREVIOUS_STRATEGY_RUNNER_START_CMD", "NEW_STRATEGY_RUNNER_STOP_CMD"}
        home = {True: twin.rollback_template, False: twin.cutover_template}
        for key, value in NONE.items():
            edited(home[key in stop], **{key: value})
        edited(twin.rollback_template, PREVIOUS_CORE_ENGINE_START_CMD=old)
        edited(twin.cutover_template, NEW_CORE_ENGINE_START_CMD=new)
        # It trades to its end: what it holds then is not what it held when its state was kept.
        edited(twin.cutover_template, HANDOVER_COMPARES="working_orders, order_ref")
        # Two programs end behind one TERM.
        for template in (twin.cutover_template, twin.rollback_template):
            text = template.read_text()
            template.write_text(text.replace("--grace-seconds 3 ", "--grace-seconds 15 "))
        assert template_command(twin, "PREVIOUS_CORE_ENGINE_START_CMD").returncode == 0
        wait_until(lambda: twin.state("old")["orders_answered"] > 0)
        yield twin


def test_a_cutover_from_one_process_to_another(light: Twin, tmp_path: Path) -> None:
    """On the light twin: COMPLETED, the new generation trades, and it verifies."""
    with cutover_of(light, tmp_path / "outputs") as cutover:
        ending = cutover.end()
        assert (ending.exit_code, ending.trading) == (0, frozenset({"new"})), cutover.story()
        assert ending.verified, ending.findings
        history = cutover.history
    assert overlaps(light.front_log) == []
    # What notebook 04 shows of it is a switch that was done.
    shown = phases.switch(str(cutover.run.path))
    assert shown.failure is None
    assert "OLD_STRATEGY_RUNNER=none" in repr(shown)
    told = [each.payload.sentence for each in history.of_kind(Finding)]
    assert any("not compared: positions, funds (HANDOVER_COMPARES)" in each for each in told)
    assert any("the old engine sends orders itself" in each for each in history.plan.declared)
    assert skipped(history).keys() == {"stop_old_strategy_runner", "start_new_strategy_runner"}
    stopped = history.step("stop_old_core_engine")
    started = history.step("start_new_core_engine")
    span = (started.started_mono_ns - stopped.started_mono_ns) / 1e9 + started.duration_ms / 1000
    assert trading_downtime_seconds(history) == pytest.approx(span, abs=1.0)
