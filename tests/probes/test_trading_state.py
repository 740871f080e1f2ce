"""Facts about probes/trading_state.py: a state is whole, or it is refused with what was read.

States as engines printed them stand in tests/contract/border/states/.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.probes.trading_state import (
    TradingState,
    instant_of,
    parse_trading_state,
    stale_words,
)

POSITION = {"instrument": "rb2610", "direction": "long", "hedge_flag": "speculation", "volume": 7}
ORDER = {"order_ref": 12, "session_id": 3, "instrument": "rb2610", "price": 3400.0}
WHOLE: dict[str, Any] = {
    "td_session": "ready",
    "md_session": "logged_in",
    "settlement_confirmed": True,
    "stream_drained": True,
    "trading_day": "20260302",
    "front_id": 1,
    "session_id": -7,
    "max_order_ref": 11,
    "next_order_ref": 13,
    "login_attempts_left": 4,
    "working_orders": [ORDER],
    "positions": [POSITION],
    "funds": {"PreBalance": 5e9, "Deposit": 0, "Commission": 12.5},
    "as_of": "2026-03-02T01:02:03Z",
}


def parse(state: object) -> TradingState:
    """What is made of a state that a command prints as JSON."""
    return parse_trading_state(json.dumps(state).encode(), subject="cmd")


def parsed(output: bytes) -> TradingState | str:
    """The state, or the words of its refusal; any other error is the test's."""
    try:
        return parse_trading_state(output, subject="cmd")
    except ProbeError as error:
        return str(error)


def with_(**changes: object) -> dict[str, Any]:
    """The whole state with some changes; ``...`` leaves a field out."""
    return {name: value for name, value in {**WHOLE, **changes}.items() if value is not ...}


def test_a_whole_state_is_read() -> None:
    """Every field of the comparison stands in the value."""
    state = parse(WHOLE)
    assert (state.trading_day, state.max_order_ref, state.next_order_ref) == ("20260302", 11, 13)
    assert [order.order_ref for order in state.working_orders or ()] == ["12"]
    assert [vars(position) for position in state.positions or ()] == [POSITION]
    assert state.funds == {"PreBalance": 5e9, "Deposit": 0, "Commission": 12.5}


def test_the_journal_keeps_the_state_whole() -> None:
    """What is recorded is the state as it was printed, and reads back as the same value."""
    state = parse(WHOLE)
    assert state.payload == WHOLE
    assert TradingState.of(state.payload, subject="journal") == state


NO_REFERENCES: tuple[object, ...] = (True, "12", 12.0, -1, None, 2**63, [])
NO_AMOUNTS: tuple[object, ...] = (
    *(float("nan"), float("inf"), float("-inf"), None, True, "5", [], 10**400),
    1.7976931348623157e308,  # what CTP writes where there is no value
)
REFUSED: dict[str, tuple[object, tuple[str, ...]]] = {
    "an empty object": ({}, ("working_orders: missing", "positions: missing", "it has no keys")),
    "an error of CTP": (
        {"ErrorID": 90, "ErrorMsg": "CTP: query not ready"},
        ('an error of CTP and no trading state: ErrorID 90, ErrorMsg "CTP: query not ready"',),
    ),
    "an error of CTP in a whole state": (with_(ErrorID=-3), ("an error of CTP", "ErrorID -3")),
    "an error of CTP as text": (with_(ErrorID="90"), ('ErrorID "90"',)),
    "no working orders": (with_(working_orders=...), ("working_orders: missing, expected a list",)),
    "null working orders": (with_(working_orders=None), ("working_orders: found null",)),
    "a count of working orders": (with_(working_orders=3), ("working_orders: found 3, expected",)),
    "no working order as 0": (with_(working_orders=0), ("working_orders: found 0",)),
    "no working order as false": (with_(working_orders=False), ("working_orders: found false",)),
    "no working order as text": (with_(working_orders=""), ('working_orders: found ""',)),
    "working orders by reference": (with_(working_orders={}), ("found an object of 0 keys",)),
    "an order that is a number": (
        with_(working_orders=[ORDER, 12]),
        ("working_orders[1]: found 12, expected an object",),
    ),
    "an order that is null": (with_(working_orders=[None]), ("working_orders[0]: found null",)),
    "an order under CTP's name": (
        with_(working_orders=[{"OrderRef": "12", "InstrumentID": "rb2610"}]),
        ('working_orders[0]: has the keys "OrderRef", "InstrumentID", expected one of order_ref',),
    ),
    "an order with no reference": (
        with_(working_orders=[{"order_ref": None}]),
        ("working_orders[0] order_ref: found null",),
    ),
    "an order whose reference is true": (
        with_(working_orders=[{"order_ref": True}]),
        ("working_orders[0] order_ref: found true",),
    ),
    "no positions": (with_(positions=...), ("positions: missing",)),
    "null positions": (with_(positions=None), ("positions: found null",)),
    "positions by instrument": (with_(positions={"rb2610": 7}), ("positions: found an object",)),
    "a position under CTP's names": (
        with_(positions=[{"InstrumentID": "rb2610", "PosiDirection": "2", "Position": 7}]),
        (
            "positions[0] instrument: missing, expected a name",
            "positions[0] volume: missing",
            'positions[0] has the keys "InstrumentID", "PosiDirection", "Position"',
        ),
    ),
    "a position that is a list": (
        with_(positions=[["rb2610", "long", 7]]),
        ("positions[0]: found a list of 3, expected an object",),
    ),
    **{
        f"a volume of {volume!r}": (
            with_(positions=[POSITION, {**POSITION, "volume": volume}]),
            ("positions[1] volume: found ", "expected lots, a whole number from 0 on"),
        )
        for volume in (-1, 7.0, "7", True, None, 2**31, 10**30, [7])
    },
    **{
        f"a direction {direction!r}": (
            with_(positions=[{**POSITION, "direction": direction}]),
            ("positions[0] direction: found ", "expected long or short"),
        )
        for direction in ("2", "Long", "net", "", 1, None, ["long"])
    },
    "a blank instrument": (
        with_(positions=[{**POSITION, "instrument": " "}]),
        ('positions[0] instrument: found " ", expected a name',),
    ),
    "half a surrogate pair": (
        with_(positions=[{**POSITION, "instrument": "rb\ud800"}]),
        (r'positions[0] instrument: found "rb\ud800"',),
    ),
    "no hedge flag": (
        with_(positions=[{k: v for k, v in POSITION.items() if k != "hedge_flag"}]),
        ("positions[0] hedge_flag: missing",),
    ),
    **{
        f"a trading day {day!r}": (with_(trading_day=day), ("trading_day: found ", "as YYYYMMDD"))
        for day in (
            *(None, "", "00000000", "20260230", "2026030", "202603021", " 20260302", "02/03/2026"),
            *("2026/03/02", "2026-0302", "\u0662\u0660\u0662\u0666\u0660\u0663\u0660\u0662"),
            *(20260302.0, True, 2026, -20260302, ["20260302"], 10**30, 20260302, "2026-03-02"),
        )
    },
    "no trading day": (with_(trading_day=...), ("trading_day: missing, expected a date",)),
    **{
        f"references of {value!r}": (
            with_(next_order_ref=value, max_order_ref=value),
            ("next_order_ref: found ", "max_order_ref: found ", "a whole number from 0 on"),
        )
        for value in NO_REFERENCES
    },
    "no references": (
        with_(next_order_ref=..., max_order_ref=...),
        ("max_order_ref: missing", "next_order_ref: missing"),
    ),
    **{
        f"an instant {instant!r}": (with_(as_of=instant), ("as_of: found ", "a time stamp with"))
        for instant in (
            *(5, None, True, "", "now", "2026-03-02", "2026-03-02T01:02:03", "01:02:03Z"),
            *("2026-02-30T01:02:03Z", "2026-03-02T01:02:03Z" + " " * 80),
        )
    },
    "no funds": (with_(funds=...), ("funds: missing, expected an object",)),
    "funds as a number": (with_(funds=5e9), ("funds: found 5000000000.0, expected an object",)),
    **{
        f"funds of {value!r}": (
            with_(funds={"PreBalance": value}),
            ("funds PreBalance: found ", "expected a finite number"),
        )
        for value in NO_AMOUNTS
    },
    "funds under other names": (
        with_(funds={"Balance": 5.0, "Available": 1.0}),
        ('funds has the keys "Balance", "Available", expected of PreBalance',),
    ),
    "funds under names nearly right": (
        with_(funds={"PreBalance": 1.0, "close_profit": 5.0}),
        ('funds "close_profit": an unknown name, expected CloseProfit',),
    ),
    "a session as a number": (with_(td_session=4), ("td_session: found 4, expected a word",)),
    "no session": (with_(md_session=...), ("md_session: missing",)),
    "a stream drained by 1": (with_(stream_drained=1), ("stream_drained: found 1, expected true",)),
    "a settlement of yes": (
        with_(settlement_confirmed="yes"),
        ('settlement_confirmed: found "yes"',),
    ),
    "the state below another key": ({"data": WHOLE}, ('it has the keys "data"',)),
    "NaN where nobody looks": (with_(drain_seconds=float("nan")), ("not JSON: found NaN",)),
}


@pytest.mark.parametrize(("state", "words"), REFUSED.values(), ids=map(ascii, REFUSED))
def test_a_state_that_does_not_say_is_refused(state: object, words: tuple[str, ...]) -> None:
    """By name, with what was read and what is expected; and it can always be written down."""
    with pytest.raises(ProbeError) as caught:
        parse(state)
    assert str(caught.value).startswith("cmd: ")
    assert [one for one in words if one not in str(caught.value)] == []
    assert str(caught.value).encode()


def test_every_problem_is_told_in_one_go() -> None:
    """Up to a dozen; of thousands of orders that are all wrong the first say enough."""
    with pytest.raises(ProbeError) as caught:
        parse(with_(working_orders=[12] * 50_000, funds=None))
    assert "funds: found null" in str(caught.value)
    assert str(caught.value).endswith("; and more")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["order_ref", "order_id", "id"])
@pytest.mark.parametrize("reference", [12, "12", "          12"])
def test_an_order_is_known_by_its_reference(name: str, reference: object) -> None:
    """As a number or as CTP writes it, padded."""
    state = parse(with_(working_orders=[{name: reference}]))
    assert state.orders_by_ref == {"12": 1}


def test_one_reference_in_two_sessions_is_two_orders() -> None:
    """And one order that is listed twice is one."""
    orders = [{**ORDER, "session_id": session} for session in (3, 4, 4)]
    assert parse(with_(working_orders=orders)).orders_by_ref == {"12": 2}


def test_no_error_of_ctp_is_none() -> None:
    """ErrorID 0 is how CTP says that it went well."""
    assert parse(with_(ErrorID=0, ErrorMsg="")) == parse(WHOLE)


def test_what_an_engine_says_besides_is_left_out() -> None:
    """It is compared with nothing, and the journal keeps what is understood."""
    state = parse(with_(gave_up=False, front_id="x", funds={"Available": 1, "Deposit": 2}))
    assert {"gave_up", "front_id"} & state.payload.keys() == set()
    assert state.payload["funds"] == {"Deposit": 2}


# --- what is not compared -----------------------------------------------------------

NOT_COMPARED: dict[str, tuple[dict[str, Any], str]] = {
    "references that are not told": (with_(max_order_ref=..., next_order_ref=...), "order_ref"),
    "references of another type": (with_(max_order_ref="11", next_order_ref=True), "order_ref"),
    "no positions": (with_(positions=...), "positions"),
    "positions under CTP's names": (with_(positions=[{"InstrumentID": "rb2610"}]), "positions"),
    "a count of orders": (with_(working_orders=3), "working_orders"),
    "no funds": (with_(funds=None), "funds"),
}


@pytest.mark.parametrize(("state", "fact"), NOT_COMPARED.values(), ids=NOT_COMPARED)
def test_what_is_left_out_need_not_be_said(state: dict[str, Any], fact: str) -> None:
    """Where it is compared it is refused; left out it is unknown, and kept as that."""
    with pytest.raises(ProbeError):
        parse(state)
    compares = [each for each in HANDOVER_FACTS if each != fact]
    read = parse_trading_state(json.dumps(state).encode(), subject="cmd", compares=compares)
    assert None in (getattr(read, name, None) for name in ("max_order_ref", fact))
    assert TradingState.of(read.payload, subject="journal", compares=compares) == read
    assert read.orders_by_ref == ({} if fact == "working_orders" else {"12": 1})


def test_orders_that_are_told_are_counted_all_the_same() -> None:
    """An engine is not stopped over them because nobody compares them."""
    state = parse_trading_state(json.dumps(WHOLE).encode(), subject="cmd", compares=())
    assert state.orders_by_ref == {"12": 1}


AGES = {
    "unknown": (None, ""),
    "just so": (1000.0, ""),
    "a minute and more ago": (939.0, "its as_of is 61 s ago, more than trading_state_max_age"),
    "of the future": (1061.5, "its as_of is 62 s from now, more than trading_state_max_age"),
}


@pytest.mark.parametrize(("as_of", "words"), AGES.values(), ids=AGES)
def test_an_old_state_is_none(as_of: float | None, words: str) -> None:
    """A file that somebody keeps says nothing of now."""
    assert stale_words(as_of, now=1000.0, most=60.0).startswith(words)
    assert bool(stale_words(as_of, now=1000.0, most=60.0)) == bool(words)


def test_an_instant_is_that_of_its_offset() -> None:
    """Engines write it in the time of their exchange."""
    moments = [instant_of("2026-03-02T01:02:03Z"), instant_of("2026-03-02T09:02:03.000+08:00")]
    assert moments == [1772413323.0, 1772413323.0]
    assert parse(WHOLE).as_of == 1772413323.0


# --- whatever comes in ------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(WHOLE))
INNER = st.sampled_from(["instrument", "direction", "volume", "order_ref", "PreBalance", "Deposit"])
ITEMS = st.lists(st.dictionaries(INNER, ANY, max_size=4) | st.just(POSITION) | st.just(ORDER))


@given(st.dictionaries(FIELDS, ANY | ITEMS | st.dictionaries(INNER, ANY, max_size=3)))
def test_any_state_is_whole_or_refused(changes: dict[str, Any]) -> None:
    """No value in any field does anything else; what is whole can be kept and read back."""
    state = parsed(json.dumps({**WHOLE, **changes}).encode())
    if isinstance(state, str):
        assert state.encode()
        return
    line = json.dumps(state.payload, ensure_ascii=False, allow_nan=False).encode()
    assert TradingState.of(json.loads(line), subject="journal") == state


@given(ANY)
def test_any_json_is_refused(value: object) -> None:
    """Nobody prints a whole state by chance."""
    with pytest.raises(ProbeError):
        parse(value)


@given(st.binary(max_size=400), st.integers(min_value=0))
def test_any_damage_is_whole_or_refused(damage: bytes, place: int) -> None:
    """Bytes over a part of a state, anywhere in it."""
    printed = json.dumps(WHOLE).encode()
    start = place % len(printed)
    output = printed[:start] + damage + printed[start + len(damage) :]
    state = parsed(output)
    assert isinstance(state, TradingState) or state.encode()
