"""An unreadable state is "nothing works": twelve trading states that do not say, in a real run.

Each was once taken for an engine without orders and positions, so that the old one was stopped
with orders at the exchange, or ended the orchestrator between the two stops.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Identity, Outcome, StepStatus
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.run import launch
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import WHOLE_STATE, SmallStack, small_stack

OLD = ("old_core_engine", "old_strategy_runner")
NEW = ("new_core_engine", "new_strategy_runner")
STARTED = list(OLD)


def _but(**changes: object) -> str:
    """The whole state with some changes; ``...`` leaves a field out."""
    state = {name: held for name, held in {**WHOLE_STATE, **changes}.items() if held is not ...}
    return json.dumps(state)


# What is printed, and what of it is quoted. But for the first two and the last it verifies the
# session, so that nothing but the state itself speaks against going on.
SHAPES = {
    "an error of CTP": (
        '{"ErrorID": 90, "ErrorMsg": "CTP: query not ready"}',
        'ErrorID 90, ErrorMsg "CTP: query not ready"',
    ),
    "an empty object": ("{}", "missing"),
    "no working orders": (_but(working_orders=...), "working_orders: missing"),
    "null working orders": (_but(working_orders=None), "working_orders: found null"),
    "a count": (_but(working_orders=3), "working_orders: found 3"),
    "orders that are texts": (_but(working_orders=["12"]), 'working_orders[0]: found "12"'),
    "CTP's own names": (
        _but(positions=[{"InstrumentID": "rb2610", "PosiDirection": "2", "Position": 7}]),
        "positions[0] instrument: missing",
    ),
    "lots as text": (
        _but(
            positions=[
                {"instrument": "rb2610", "direction": "long", "hedge_flag": "h", "volume": "x"}
            ]
        ),
        'positions[0] volume: found "x"',
    ),
    "NaN funds": (_but(funds={"PreBalance": float("nan")}), "funds PreBalance: found NaN"),
    "no trading day": (_but(trading_day=...), "trading_day: missing"),
    "a reference of true": (_but(next_order_ref=True), "next_order_ref: found true"),
    "nested without end": ("[" * 100_000, "nested too deeply"),
}
# After these the old engine trades again, but its session cannot be proved.
WITHOUT_SESSION = ("an error of CTP", "an empty object", "nested without end")
# Each is of another field; the table of all is in tests/probes/test_trading_state.py.
COMPARED = ("a count", "CTP's own names", "NaN funds", "a reference of true")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading; either engine's state is a file of its own."""
    with small_stack(tmp_path) as made:
        for generation in ("old", "new"):
            (tmp_path / f"{generation}.json").write_text(json.dumps(WHOLE_STATE))
        yield made


def plan_of(stack: SmallStack, **values: str) -> Plan:
    """Gates that pass, and a state command that prints the file of the engine that is meant."""
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    given = {f"{gate}_CMD": "ls" for gate in gates}
    given["PRECHECK_CMD"] = stack.readiness_command("precheck")
    given["TRADING_STATE_CMD"] = f"cat {stack.folder}/$CTP_GENERATION.json"
    given["MAX_ROLLBACK_SECONDS"] = "6"
    return stack.plan(**{**given, **values})


def ended(stack: SmallStack, plan: Plan) -> History:
    """The history of a real run of the plan that was over before any watch, in one go."""
    run = stack.begin(plan)
    wait_for(
        lambda: launch.read_whole(run).closed or launch.read_whole(run).watch_started, seconds=30
    )
    assert launch.read_whole(run).watch_started is None, "the state was taken for a good one"
    history = stack.closed(run)
    starts = [one for one in history.records if one.kind == "orchestrator_started"]
    assert len(starts) == 1, "the orchestrator ended and was started again"
    return history


def sentence_of(history: History) -> str:
    """What the operator was told at the end."""
    assert history.closed is not None
    return str(history.closed.payload.sentence)


def identities(stack: SmallStack) -> list[Identity | None]:
    """Who the old generation is now."""
    return [stack.identity(member) for member in OLD]


def trading(stack: SmallStack) -> list[str]:
    """Members that run now."""
    return [member for member in (*OLD, *NEW) if stack.is_up(member)]


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_stopped_on_an_unreadable_state(stack: SmallStack, shape: str) -> None:
    """Refused before the first gate, with what was read; the old stack is what it was."""
    printed, words = SHAPES[shape]
    before = identities(stack)
    (stack.folder / "old.json").write_text(printed)
    history = ended(stack, plan_of(stack))
    assert history.outcome is Outcome.REFUSED, sentence_of(history)
    assert words in sentence_of(history)
    assert history.steps == {} or not any(step.attempt for step in history.steps.values())
    assert (identities(stack), stack.starts, trading(stack)) == (before, STARTED, STARTED)


def test_a_state_that_turns_bad_while_the_gates_run_stops_nothing(stack: SmallStack) -> None:
    """It is asked for again right before the first stop, however young the last look is."""
    before = identities(stack)
    printed, words = SHAPES["a count"]
    (stack.folder / "bad.json").write_text(printed)
    history = ended(stack, plan_of(stack, BOOTSTRAP_INFRA_CMD="cat bad.json > old.json"))
    assert history.outcome is Outcome.ABORTED_BEFORE_SWITCH, sentence_of(history)
    assert words in sentence_of(history)
    assert (identities(stack), stack.starts, trading(stack)) == (before, STARTED, STARTED)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_engine_is_kept_when_its_state_turns_bad_between_the_stops(
    stack: SmallStack, shape: str
) -> None:
    """The runner is stopped, the engine is not; the runner trades again.

    The run ends with 4, or with 5 where not even the engine's session can be read any more.
    """
    printed, words = SHAPES[shape]
    engine = stack.identity("old_core_engine")
    (stack.folder / "bad.json").write_text(printed)
    stop = f"{stack.stop_command('old_strategy_runner')}; cat bad.json > old.json"
    history = ended(stack, plan_of(stack, OLD_STRATEGY_RUNNER_STOP_CMD=stop))
    proved, unproved = Outcome.ROLLED_BACK_IN_BUDGET, Outcome.ROLLED_BACK_UNVALIDATED
    expected = unproved if shape in WITHOUT_SESSION else proved
    assert history.outcome is expected, sentence_of(history)
    assert words in history.steps["stop_old_core_engine"].reason
    assert history.step("stop_old_core_engine").attempt == 0
    assert stack.identity("old_core_engine") == engine
    assert trading(stack) == STARTED


@pytest.mark.parametrize("shape", COMPARED)
def test_a_new_engine_that_does_not_say_is_rolled_back(stack: SmallStack, shape: str) -> None:
    """What it holds cannot be compared: it goes, and the old generation trades again."""
    printed, words = SHAPES[shape]
    (stack.folder / "new.json").write_text(printed)
    history = ended(stack, plan_of(stack))
    assert history.outcome is Outcome.ROLLED_BACK_IN_BUDGET, sentence_of(history)
    started = history.step("start_new_core_engine")
    assert started.status is StepStatus.FAILED
    assert words in started.reason
    assert history.step("start_new_strategy_runner").attempt == 0
    assert trading(stack) == STARTED


@pytest.mark.parametrize("shape", ["an error of CTP", "a count", "nested without end"])
def test_an_orchestrator_killed_between_the_stops_decides_on_any_state(
    stack: SmallStack, shape: str
) -> None:
    """The next one reads what this one would have read, and the old generation trades again."""
    printed, _ = SHAPES[shape]
    engine = stack.identity("old_core_engine")
    (stack.folder / "bad.json").write_text(printed)
    stop = f"{stack.stop_command('old_strategy_runner')}; cat bad.json > old.json; kill -9 $PPID"
    run = stack.begin(plan_of(stack, OLD_STRATEGY_RUNNER_STOP_CMD=stop))
    history = stack.closed(run)
    assert history.restarts == 1
    expected = (
        Outcome.ROLLED_BACK_UNVALIDATED
        if shape in WITHOUT_SESSION
        else Outcome.ROLLED_BACK_IN_BUDGET
    )
    assert history.outcome is expected, sentence_of(history)
    assert stack.identity("old_core_engine") == engine
    assert trading(stack) == STARTED
