"""The trigger grammar: both forms, units, precedence, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.errors import TriggerError
from ctp_runbook.plan.triggers import Condition, Trigger, parse_trigger

UNITS = {
    "order_latency_p99_ms": "ms",
    "breaker_state": "state",
    "query_rate_violation": "count",
    "reconnect_p99_s": "s",
    "kafka_lag_ms": "ms",
    "kafka_lag_records": "count",
}


def parse(text: str) -> Trigger:
    """``text`` over UNITS, as line 2 of rollback.env."""
    return parse_trigger(text, units=UNITS, file="rollback.env", line=2)


LATENCY = Condition("order_latency_p99_ms", "gt", 5.0, unit="ms")
RECONNECT = Condition("reconnect_p99_s", "gt", 10.0, unit="s")
BREAKER = Condition("breaker_state", "ge", 2.0, unit="state")
LASTING = Condition("order_latency_p99_ms", "gt", 5.0, 3.0, unit="ms")

PARSED = {
    "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s": ((LATENCY,), (RECONNECT,)),
    "order_latency_p99_ms_gt_5_and_reconnect_p99_s_gt_10": ((LATENCY, RECONNECT),),
    "order_latency_gt_5ms": ((LATENCY,),),
    "o_gt_0.005s": ((LATENCY,),),
    "reconnect_gt_10000ms": ((RECONNECT,),),
    "reconnect_p99_s > 1e1": ((RECONNECT,),),
    "order_latency_p99_ms > 5 for 3s or reconnect_p99_s > 10": ((LASTING,), (RECONNECT,)),
    "order_latency_p99_ms>5ms for 0.05min": ((LASTING,),),
    "  order_latency_p99_ms  >  5  ms  for  3000  ms  ": ((LASTING,),),
    "order_latency_gt_5ms for 3s": ((LASTING,),),
    "breaker_state_ge_2_or_order_latency_gt_5ms_and_reconnect_gt_10s": (
        (BREAKER,),
        (LATENCY, RECONNECT),
    ),
    "order_latency_gt_5ms and breaker_state >= 2 or reconnect_gt_10s": (
        (LATENCY, BREAKER),
        (RECONNECT,),
    ),
}


@pytest.mark.parametrize(("text", "any_of"), PARSED.items(), ids=PARSED)
def test_trigger_parses(text: str, any_of: tuple[tuple[Condition, ...], ...]) -> None:
    """Both forms, alone or mixed, with ``and`` binding tighter than ``or``."""
    assert parse(text).any_of == any_of
    assert parse(text).text == text


REFUSED = {
    "order_latency_gt_fast": "'order_latency_gt_fast' at column 1",
    "order_latency_gt_5ms_or_": "'' at column 25",
    "order_latency_gt_5ms_xor_reconnect_gt_10s": "at column 1",
    "order_latency_gt_5ms or": "at column 1",
    "order_latency_gt_5ms reconnect_gt_10s": "at column 1",
    "(order_latency_gt_5ms)": "at column 1",
    "order_latency_p99_ms = 5": "at column 1",
    "order_latency_p99_ms => 5": "at column 1",
    "order_latency_gt_nan": "'order_latency_gt_nan' at column 1",
    "order_latency_gt_inf": "at column 1",
    "order_latency_gt_1e999": "a finite number in ms, s or min",
    "order_latency_gt_5kg": "a finite number in ms, s or min",
    "breaker_state_gt_1s": "a plain finite number without a unit",
    "query_rate_violation_gt_5ms": "a plain finite number without a unit",
    "order_latency_p99_ms > 5 for ever": "at column 1",
    "order_latency_p99_ms > 5 for 3kg": "for NUMBER s",
    "order_latency_p99_ms > 5 for -3s": "not negative",
    "kafka_lag_gt_1": "'kafka_lag' fits kafka_lag_ms and kafka_lag_records",
    "clickhouse_ingest_delay_ms_gt_1": "'clickhouse_ingest_delay_ms' is not watched",
    "reconect_p99_s_gt_10s": "did you mean reconnect_p99_s?",
    "breaker_state_gt_1_or_what": "'what' at column 23",
    "x" * 3000: "3000 characters",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=[*list(REFUSED)[:-1], "long"])
def test_trigger_is_refused(text: str, said: str) -> None:
    """What does not parse or fit is an error that quotes it and says where it stands."""
    with pytest.raises(TriggerError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("rollback.env:2: ROLLBACK_TRIGGER_CONDITION: found ")


def test_every_bad_term_is_reported() -> None:
    """Three mistakes are three problems, and the good term between them is none."""
    with pytest.raises(TriggerError) as caught:
        parse("what or breaker_state > 1 s or reconnect_p99_s > 10 and breaker_state > high")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("op", "holds_below", "holds_at", "holds_above"),
    [
        ("gt", False, False, True),
        ("ge", False, True, True),
        ("lt", True, False, False),
        ("le", True, True, False),
        ("eq", False, True, False),
        ("ne", True, False, True),
    ],
)
def test_condition_compares(op: str, holds_below: bool, holds_at: bool, holds_above: bool) -> None:
    """Each operator is true of exactly the values its name says."""
    condition = Condition("breaker_state", op, 1.0)
    assert [condition.holds(value) for value in (0.0, 1.0, 2.0)] == [
        holds_below,
        holds_at,
        holds_above,
    ]


@pytest.mark.parametrize(
    ("op", "bound_below", "bound_at", "bound_above"),
    [
        ("gt", False, True, True),
        ("ge", False, True, True),
        ("lt", False, False, False),
        ("le", False, False, False),
        ("eq", False, False, False),
        ("ne", False, True, True),
    ],
)
def test_what_is_more_than_a_bound_holds_only_what_is_sure(
    op: str, bound_below: bool, bound_at: bool, bound_above: bool
) -> None:
    """True where every value above the bound makes it true; where that is not known it is not."""
    condition = Condition("breaker_state", op, 1.0)
    assert [condition.holds(bound, is_over=True) for bound in (0.0, 1.0, 2.0)] == [
        bound_below,
        bound_at,
        bound_above,
    ]
    assert not condition.holds(math.nan, is_over=True)


@pytest.mark.parametrize("op", ["gt", "ge", "lt", "le", "eq", "ne"])
def test_nan_never_holds(op: str) -> None:
    """A value that is no number fires nothing, not even ``ne``."""
    assert not Condition("breaker_state", op, 1.0).holds(math.nan)


def test_sentences_are_what_an_operator_reads() -> None:
    """Whole numbers without a point, the metric's own unit, none for a state."""
    trigger = parse("order_latency_gt_5ms for 3s and breaker_state >= 2 or reconnect_gt_0.5s")
    assert trigger.sentence == (
        "order_latency_p99_ms > 5 ms for 3 s and breaker_state >= 2 or reconnect_p99_s > 0.5 s"
    )
    assert trigger.metrics == ("order_latency_p99_ms", "breaker_state", "reconnect_p99_s")


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Any condition over UNITS."""
    metric = draw(st.sampled_from(sorted(UNITS)))
    return Condition(
        metric,
        draw(st.sampled_from(["gt", "ge", "lt", "le", "eq", "ne"])),
        draw(FINITE),
        draw(st.floats(min_value=0, allow_infinity=False)),
        unit=UNITS[metric],
    )


def groups(of: st.SearchStrategy[Condition]) -> st.SearchStrategy[list[list[Condition]]]:
    """Up to three alternatives of up to three conditions each."""
    return st.lists(st.lists(of, min_size=1, max_size=3), min_size=1, max_size=3)


@given(any_of=groups(conditions()))
def test_readable_form_round_trips(any_of: list[list[Condition]]) -> None:
    """Rendering any trigger and parsing it again gives the same trigger."""
    trigger = Trigger(text="", any_of=tuple(map(tuple, any_of)))
    assert parse(trigger.sentence).any_of == trigger.any_of


@given(any_of=groups(conditions().map(lambda c: Condition(c.metric, c.op, c.value, unit=c.unit))))
def test_compact_form_round_trips(any_of: list[list[Condition]]) -> None:
    """The template's own form says the same as the readable one."""
    text = "_or_".join(
        "_and_".join(f"{c.metric}_{c.op}_{c.value!r}" for c in group) for group in any_of
    )
    assert parse(text).any_of == tuple(map(tuple, any_of))


@given(text=st.text(max_size=80) | st.text(alphabet="abcms_orandgt<>=!0123456789. ", max_size=80))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text raises anything but TriggerError, and none is ignored."""
    try:
        trigger = parse(text)
    except TriggerError as error:
        said = [problem.found for problem in error.problems]
        assert all(said)
    else:
        assert all(trigger.any_of)
