"""An engine that tells what it knows and nothing else: a trading state without order references.

Nothing is forged for it. What HANDOVER_COMPARES leaves out is shown as not compared from the plan to
the report, what it names and the state lacks is refused before anything is touched.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome, Phase, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.evidence import cutover_env
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Finding, TradingStateRead
from ctp_runbook.record.result_env import ResultEnv
from ctp_runbook.show.report import write_report
from ctp_runbook.show.run_blocks import step_table, steps_in
from tests.props.cutover_tools import cutover_of, edited, fresh_twin
from tests.props.small_stack import WHOLE_STATE, SmallStack, small_stack

HONEST = {name: value for name, value in WHOLE_STATE.items() if not name.endswith("order_ref")}
LONG = {"instrument": "rb2610", "direction": "long", "hedge_flag": "speculation", "volume": 7}
LEFT_OUT = "positions, working_orders, funds"
REFERENCES = """
import json, sys
state = json.load(sys.stdin)
print(json.dumps({name: each for name, each in state.items() if not name.endswith("order_ref")}))
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, whose engines both tell a state of their own."""
    with small_stack(tmp_path) as made:
        says(made, "old", HONEST)
        says(made, "new", HONEST)
        yield made


def says(stack: SmallStack, generation: str, state: object) -> None:
    """What TRADING_STATE_CMD prints of an engine from now on."""
    (stack.folder / f"{generation}.json").write_text(json.dumps(state))


def plan_of(stack: SmallStack, **values: str) -> Plan:
    """Gates that pass, and a switch that ends with a warm-up that fails."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    given = {f"{gate}_CMD": "ls" for gate in gates}
    given["PRECHECK_CMD"] = stack.readiness_command("precheck")
    given["TRADING_STATE_CMD"] = f"cat {stack.folder}/$CTP_GENERATION.json"
    given["WARMUP_QUERY_CMD"] = "ls nothing-there"
    given["MAX_ROLLBACK_SECONDS"] = "10"
    return stack.plan(**{**given, **values})


def ended(stack: SmallStack, plan: Plan) -> History:
    """The history of a real run of the plan, once it is over."""
    return stack.closed(stack.begin(plan))


def test_what_is_to_be_compared_and_not_told_is_refused_before_the_first_gate(
    stack: SmallStack,
) -> None:
    """With the key that leaves it out; nothing was begun."""
    history = ended(stack, plan_of(stack))
    assert history.closed is not None
    assert history.outcome is Outcome.REFUSED
    sentence = history.closed.payload.sentence
    assert "max_order_ref: missing" in sentence
    assert "leave order_ref out of HANDOVER_COMPARES" in sentence
    assert not any(step.attempt for step in history.steps.values())
    assert stack.starts == ["old_core_engine", "old_strategy_runner"]


def test_a_new_engine_that_queries_its_positions_late_is_waited_for(stack: SmallStack) -> None:
    """It lists none at first; the step goes on until it lists what the old one held."""
    says(stack, "old", {**HONEST, "positions": [LONG]})
    late = f"(sleep 1.5; cp {stack.folder}/old.json {stack.folder}/new.json) &"
    start = f"{stack.start_command('new_core_engine')}; {late}"
    plan = plan_of(stack, HANDOVER_COMPARES=LEFT_OUT, NEW_CORE_ENGINE_START_CMD=start)
    history = ended(stack, plan)
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    started = history.step("start_new_core_engine")
    assert started.status is StepStatus.OK, started.reason
    assert started.duration_ms >= 1000
    told = [each.payload.sentence for each in history.of_kind(Finding)]
    (late_word,) = [each for each in told if "continues the old one's" in each]
    assert "at first: position rb2610 long speculation: 7 before, 0 after" in late_word


def test_cancels_that_are_waited_for_in_vain_stand_with_their_time(stack: SmallStack) -> None:
    """The stop was never begun, and took what the wait took; trading rested meanwhile."""
    says(stack, "old", {**HONEST, "working_orders": [{"order_id": "a"}]})
    plan = plan_of(
        stack,
        HANDOVER_COMPARES=LEFT_OUT,
        WORKING_ORDERS_POLICY="cancel",
        CANCEL_WORKING_ORDERS_CMD="ls",
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="2",
    )
    history = ended(stack, plan)
    stop = history.step("stop_old_core_engine")
    assert (stop.status, stop.attempt) == (StepStatus.FAILED, 0)
    assert stop.duration_ms >= 1500
    told = [each.payload.sentence for each in history.of_kind(Finding)]
    assert any("went by for the cancels of 1 working orders" in each for each in told)
    lines = cutover_env(history).decode().splitlines()
    env = ResultEnv("cutover", "CUTOVER", dict(line.split("=", 1) for line in lines))
    (number,) = [n for n in env.numbers if env.step(n, "NAME") == "stop_old_core_engine"]
    assert float(env.step(number, "DURATION_MS")) >= 1500
    assert history.trigger is not None
    assert "step stop_old_core_engine failed after 0.0 s" not in history.trigger.payload.sentence


def test_a_state_without_references_is_enough_where_they_are_left_out(tmp_path: Path) -> None:
    """On the light twin, end to end: COMPLETED, and not compared wherever the comparison is told."""
    with fresh_twin(tmp_path / "twin", watch_seconds=4.0) as twin:
        script = twin.dir / "references.py"
        script.write_text(REFERENCES)
        template = twin.cutover_template
        (line,) = [
            line
            for line in template.read_text().splitlines()
            if line.startswith("TRADING_STATE_CMD=")
        ]
        words = shlex.join([str(twin.python), str(script)])
        asking = f"{line.partition('=')[2]} | {words}"
        edited(template, TRADING_STATE_CMD=asking, HANDOVER_COMPARES=LEFT_OUT)
        with cutover_of(twin, tmp_path / "outputs") as cutover:
            ending = cutover.end()
            history, run = cutover.history, cutover.run
            assert (ending.exit_code, ending.trading) == (0, frozenset({"new"})), cutover.story()
        assert ending.verified, ending.findings
    states = [record.payload.state for record in history.of_kind(TradingStateRead)]
    assert len(states) == 2
    assert not any("order_ref" in name for state in states for name in state)
    not_compared = "(not compared: order_ref)"
    assert any("order_ref not compared" in each for each in history.plan.declared)
    assert not_compared in history.step("start_new_core_engine").reason
    shown = step_table(history, steps_in(history, Phase.SWITCH))
    assert any(not_compared in str(row) for row in shown.rows)
    page = write_report(run).read_text()
    assert not_compared in page
    assert not_compared in (run.evidence / "ctp_one_shot_cutover_checklist.md").read_text()
