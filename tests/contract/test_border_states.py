"""Every file of border/states/ is what a TRADING_STATE_CMD printed, with the words it is answered with.

And whatever is made of a whole state: the schema agrees with a small validator of another making.
"""

from __future__ import annotations

import calendar
import copy
import json
import os
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.probes.trading_state import TradingState, parse_trading_state
from ctp_runbook.record.kinds import ProbeAnswered
from ctp_runbook.run.handover import unreadable_state
from tests.props.plan_fixtures import make_plan, open_context

FOLDER = Path(__file__).parent / "border" / "states"
EXPECT = tomllib.loads((FOLDER / "expect.toml").read_text(encoding="utf-8"))
CASES = int(os.environ.get("CTP_RUNBOOK_CASES", "200"))


def test_every_file_has_its_answer() -> None:
    """And every answer its file."""
    files = {path.name for path in FOLDER.iterdir()} - {"expect.toml"}
    assert files == EXPECT.keys()


@pytest.mark.parametrize("name", EXPECT)
def test_a_state_is_answered_in_these_words(name: str) -> None:
    """Refused by what was read and what is expected, or whole; never anything else."""
    words, without = EXPECT[name]["says"], EXPECT[name].get("without", [])
    told = answer((FOLDER / name).read_bytes())
    assert [each for each in words if each not in told] == []
    assert bool(told) == bool(words)
    assert told == told.encode().decode()
    if without:
        compares = [fact for fact in HANDOVER_FACTS if fact not in without]
        assert answer((FOLDER / name).read_bytes(), compares=compares) == ""


@pytest.mark.parametrize("name", EXPECT)
def test_it_is_answered_so_before_anything_is_stopped(name: str, tmp_path: Path) -> None:
    """The old engine's state is asked for in READY; what was read is on record."""
    plan = make_plan(tmp_path, TRADING_STATE_CMD=f"cat {FOLDER / name}")
    with open_context(tmp_path, plan=plan) as context:
        told = unreadable_state(context)
        (probe,) = context.history.of_kind(ProbeAnswered)
    assert [each for each in EXPECT[name]["says"] if each not in told] == []
    assert probe.payload.ok == (not EXPECT[name]["says"]) == (not told)


def answer(output: bytes, compares: Any = HANDOVER_FACTS) -> str:
    """Why the output is no trading state, or nothing."""
    try:
        parse_trading_state(output, subject="cmd", compares=compares)
    except ProbeError as error:
        return str(error)
    return ""


# --- whatever is made of a whole state ----------------------------------------------

WHOLE: dict[str, Any] = {
    "td_session": "ready",
    "md_session": "logged_in",
    "settlement_confirmed": True,
    "stream_drained": True,
    "trading_day": "20260302",
    "max_order_ref": 11,
    "next_order_ref": 13,
    "working_orders": [{"order_ref": 12}],
    "positions": [
        {"instrument": "rb2610", "direction": "long", "hedge_flag": "speculation", "volume": 7}
    ],
    "funds": {"PreBalance": 5e9, "Deposit": 0},
    "as_of": "2026-03-02T01:02:03Z",
}
FIELDS = {
    "positions": ("positions",),
    "working_orders": ("working_orders",),
    "funds": ("funds",),
    "order_ref": ("max_order_ref", "next_order_ref"),
}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**63, 10**30, 1.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", " ", "x", "ready", "true", "0", "20260302", "2026-03-02", "\ud800", "a\x00b", "y" * 200),
    *([], {}, [None], [[]], [{}], {"a": 1}, [{"order_ref": None}], [{"InstrumentID": "rb2610"}]),
    *(
        [{"order_ref": 5}],
        {"PreBalance": 1},
        {"PreBalance": "1"},
        {"Balance": 1},
        {"Deposit": True},
    ),
)
VALUES = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=12)
PATHS: tuple[tuple[Any, ...], ...] = (
    *((name,) for name in WHOLE),
    *(("positions", 0, name) for name in WHOLE["positions"][0]),
    *(("working_orders", 0, name) for name in ("order_ref", "order_id", "session_id")),
    *(
        ("funds", name)
        for name in ("PreBalance", "Deposit", "Commission", "pre_balance", "Balance")
    ),
    *(("positions", 0), ("working_orders", 0), ("ErrorID",), ("ErrorMsg",), ("more",)),
)
CHANGES = st.lists(st.tuples(st.sampled_from(PATHS), VALUES | st.just(...)), max_size=3)


@settings(max_examples=CASES, deadline=None)
@given(CHANGES, st.sets(st.sampled_from(HANDOVER_FACTS)))
def test_the_schema_agrees_with_another(changes: list[Any], left_out: set[str]) -> None:
    """What it takes for whole, a validator that was written apart calls whole, and the reverse."""
    state = json.loads(json.dumps(WHOLE))
    for path, value in changes:
        put(state, path, copy.deepcopy(value))  # one change may go into another
    compares = [fact for fact in HANDOVER_FACTS if fact not in left_out]
    told = answer(json.dumps(state).encode(), compares=compares)
    wrong = [*faults(state, compares)]
    assert bool(told) == bool(wrong), (told, wrong)
    if not told:
        read = TradingState.of(state, subject="cmd", compares=compares)
        line = json.dumps(read.payload, allow_nan=False).encode()
        assert TradingState.of(json.loads(line), subject="journal", compares=compares) == read
        assert unsaid(read) <= {name for fact in left_out for name in FIELDS[fact]}


def put(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    """Change what stands at a path, or take it away; nothing where the path leads nowhere."""
    *way, last = path
    target: Any = state
    for step in way:
        if not isinstance(target, dict | list) or (isinstance(target, dict) and step not in target):
            return
        if isinstance(target, list) and not (isinstance(step, int) and step < len(target)):
            return
        target = target[step]
    if isinstance(target, list) and isinstance(last, int) and last < len(target):
        target[last] = None if value is ... else value
    elif isinstance(target, dict) and value is ...:
        target.pop(last, None)
    elif isinstance(target, dict):
        target[last] = value


def unsaid(state: TradingState) -> set[str]:
    """The fields it does not say."""
    return {name for names in FIELDS.values() for name in names if getattr(state, name) is None}


# --- the other validator ------------------------------------------------------------


def faults(state: dict[str, Any], compares: list[str]) -> Iterator[str]:
    """What is wrong, by the letter of the issue; only whether there is anything counts."""
    code = state.get("ErrorID", 0)
    rules = {
        "ErrorID": code == 0 and isinstance(code, int),
        "a number that JSON does not have": finite(state),
        "as_of": "as_of" not in state or is_instant(state["as_of"]),
        "trading_day": is_day(state.get("trading_day")),
    }
    for name in ("td_session", "md_session"):
        value = state.get(name)
        rules[name] = isinstance(value, bool) or value == "" or is_name(value)
    for name in ("settlement_confirmed", "stream_drained"):
        rules[name] = isinstance(state.get(name), bool)
    checks = {"positions": is_positions, "working_orders": is_orders, "funds": is_funds}
    for name in (name for fact in compares for name in FIELDS[fact]):
        rules[name] = checks.get(name, is_count)(state.get(name))
    yield from (name for name, is_kept in rules.items() if not is_kept)


def finite(value: Any) -> bool:
    """No NaN and no infinity anywhere."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or abs(value) < float("inf")


def is_count(value: Any) -> bool:
    """A whole number from 0 on, in 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_name(value: Any) -> bool:
    """Something to be read, and not a page of it."""
    return type(value) is str and value.strip() != "" and len(value) <= 80 and value.isprintable()


def is_day(value: Any) -> bool:
    """YYYYMMDD of a real day."""
    if type(value) is not str or not (len(value) == 8 and value.isascii() and value.isdigit()):
        return False
    year, month, day = int(value[:4]), int(value[4:6]), int(value[6:])
    return year > 0 and 0 < month < 13 and 0 < day <= calendar.monthrange(year, month)[1]


def is_instant(value: Any) -> bool:
    """A time stamp that says how far it is from UTC."""
    try:
        return is_name(value) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def is_positions(value: Any) -> bool:
    """A list of what is held."""
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and is_name(item.get("instrument"))
        and is_name(item.get("hedge_flag"))
        and item.get("direction") in ("long", "short")
        and is_count(item.get("volume"))
        and item["volume"] < 2**31
        for item in value
    )


def is_orders(value: Any) -> bool:
    """A list of orders that can be told apart."""
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and any(name in item for name in ("order_ref", "order_id"))
        and (is_count(ref := item.get("order_ref", item.get("order_id"))) or is_name(ref))
        for item in value
    )


def is_funds(value: Any) -> bool:
    """Amounts under the names that are compared, and no name that looks like one of them."""
    names = ("PreBalance", "Deposit", "Withdraw", "CloseProfit", "Commission")
    if not isinstance(value, dict):
        return False
    if value and not any(name in value for name in names):
        return False
    if any(name.replace("_", "") == "prebalance" for name in value):
        return False
    return all(
        type(value[name]) in (int, float) and abs(value[name]) < 1e18
        for name in names
        if name in value
    )
