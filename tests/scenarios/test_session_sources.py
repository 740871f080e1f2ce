"""Sessions proved by what an engine itself tells: a file with a heartbeat, and a command, in real runs.

Neither engine has a metrics page or a state command: the new one rewrites a JSON file while it
lives, as the engines of the field do, and the old one is asked by a command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.model import Outcome, State
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import ProbeAnswered
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run import launch
from ctp_runbook.run.steer import steer
from tests.props.plan_fixtures import wait_for
from tests.props.small_stack import SmallStack, small_stack

# A stand-in engine: a second after its start it is recovered, and closes only.
ENGINE = """
file=$1; n=0
while sleep 0.1; do
  n=$((n + 1)); ready=false; [ $n -gt 5 ] && ready=true
  now=$(date +%s%N)
  printf '{"heartbeat_ts_ns": %s, "mode": "CloseOnly", "trader_ready": %s,
    "settlement_confirmed": %s, "recovery_complete": %s}' $now $ready $ready $ready > $file.draft
  mv $file.draft $file
done
"""
BEAT = 'heartbeat_field = "heartbeat_ts_ns"\nfresh_seconds = 2'
SOURCES = f"""
[logged_in]
source = "file"
path = "engine.json"
field = "trader_ready"
equals = true
{BEAT}

[settlement_confirmed]
source = "file"
path = "engine.json"
field = "settlement_confirmed"
equals = true
{BEAT}

[may_trade]
source = "file"
path = "engine.json"
field = "mode"
{BEAT}
close_only_seconds = 30
"""
TOLD = {"logged_in": True, "settlement_confirmed": True, "trading_mode": "Ready"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        (tmp_path / "engine.sh").write_text(ENGINE)
        (tmp_path / "sources.toml").write_text(SOURCES)
        (tmp_path / "old.json").write_text(json.dumps(TOLD))
        yield made


def plan_of(stack: SmallStack, **values: str) -> Plan:
    """Gates that pass; the new engine is the stand-in, and nobody tells that either has recovered."""
    base = stack.folder / "new_core_engine"
    start = stack.start_command("new_core_engine").replace(
        f"exec -a {base} sleep 3600", f"exec -a {base} bash engine.sh engine.json"
    )
    gates = ("INIT_KAFKA_TOPIC", "INIT_CLICKHOUSE_SCHEMA", "INIT_DEBEZIUM_CONNECTOR")
    given = {f"{gate}_CMD": "ls" for gate in gates}
    given |= {
        "PRECHECK_CMD": stack.readiness_command("precheck"),
        "TRADING_STATE_CMD": "",
        "OLD_CORE_ENGINE_METRICS_URL": "",
        "NEW_CORE_ENGINE_START_CMD": start,
        "NEW_SESSION_SOURCES": "sources.toml",
        "OLD_SESSION_CMD": f"cat {stack.folder}/old.json",
        "SESSION_NOT_PROVED": "recovered: neither release says so",
        "MAX_ROLLBACK_SECONDS": "20",
    }
    return stack.plan(**{**given, **values})


def begun(stack: SmallStack, plan: Plan) -> RunDir:
    """A real run of the plan that has come to its watch, or to its end."""
    run = stack.begin(plan)
    wait_for(lambda: _is_watching(launch.read_history(run)))
    return run


def _is_watching(history: History) -> bool:
    return history.closed is not None or history.state in (State.WATCHING, State.HOLDING)


def test_both_are_proved_by_what_they_tell(stack: SmallStack) -> None:
    """The new engine is up when its file says so, the old one again after a rollback; what nobody
    tells is named with its reason wherever the session is spoken of."""
    run = begun(stack, plan_of(stack))
    history = launch.read_history(run)
    assert history.closed is None, history.closed
    looks = [
        record.payload
        for record in history.of_kind(ProbeAnswered)
        if record.payload.question == "session" and record.payload.subject == "new_core_engine"
    ]
    # Its file is not there before it is started, and says no for a while.
    assert [look.ok for look in looks[-2:]] == [False, True]
    said = looks[-1].observed
    assert "TD and MD logged in: yes (engine.json: trader_ready true)" in said
    assert "recovered: not told, NOT PROVED (neither release says so)" in said
    assert "may trade: CloseOnly (engine.json: mode " in said
    assert history.created.overrides["session_not_proved"] == "recovered: neither release says so"
    steer(run, "rollback", by="chief", reason="enough")
    closed = stack.closed(run)
    assert closed.outcome is Outcome.ROLLED_BACK_IN_BUDGET, closed.closed
    assert closed.closed is not None
    assert closed.closed.payload.sentence.startswith("the previous stack trades again ")
    assert stack.is_up("old_core_engine")
    assert not stack.is_up("new_core_engine")


def test_an_old_engine_that_only_closes_is_not_said_to_trade(stack: SmallStack) -> None:
    """It is back, and what is known of it is told instead."""
    silent = {name: told for name, told in TOLD.items() if name != "trading_mode"}
    (stack.folder / "old.json").write_text(json.dumps(silent))
    reasons = "recovered: silent; may_trade: no such state"
    run = begun(stack, plan_of(stack, SESSION_NOT_PROVED=reasons))
    assert launch.read_history(run).closed is None
    steer(run, "rollback", by="chief", reason="enough")
    closed = stack.closed(run)
    assert closed.outcome is Outcome.ROLLED_BACK_IN_BUDGET, closed.closed
    assert closed.closed is not None
    said = "the previous stack is restored (logged in, may trade: not told) "
    assert closed.closed.payload.sentence.startswith(said)


def test_an_old_engine_that_nobody_can_prove_again_is_not_stopped(stack: SmallStack) -> None:
    """Its command tells no more what the plan needs: refused, and both its parts trade on."""
    (stack.folder / "old.json").write_text("{}")
    run = begun(stack, plan_of(stack))
    closed = stack.closed(run)
    assert closed.closed is not None
    assert closed.outcome is Outcome.REFUSED
    assert "expected a session of the old engine that can be proved again" in (
        closed.closed.payload.sentence
    )
    assert stack.starts == ["old_core_engine", "old_strategy_runner"]
