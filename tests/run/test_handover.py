"""Facts about run/handover.py: what the old engine left is known whole, or nothing is handed over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.model import Generation, Role
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.probes.trading_state import TradingState
from ctp_runbook.record.kinds import Finding, ProbeAnswered, TradingStateRead
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.handover import (
    compare_states,
    handover_gap,
    settle_before_stop,
    unasked_orders,
    unreadable_state,
)
from ctp_runbook.run.switch import probe_gaps, ready_gaps
from tests.props.plan_fixtures import make_plan, open_context
from tests.props.small_stack import WHOLE_STATE

LONG = {"instrument": "rb2610", "direction": "long", "hedge_flag": "speculation", "volume": 7}
SHORT = {**LONG, "direction": "short", "volume": 2}
FUNDS = {"PreBalance": 5e9, "Commission": 12.5}


def state(**changes: Any) -> TradingState:
    """A whole state with some changes."""
    return TradingState.of({**WHOLE_STATE, **changes}, subject="test")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run whose TRADING_STATE_CMD prints ``state.json``."""
    with open_context(tmp_path, plan=make_plan(tmp_path, TRADING_STATE_CMD="cat state.json")) as it:
        yield it
        assert len(it.history.records) == len(it.journal.records)  # every record can be read


def says(context: RunContext, printed: object) -> None:
    """What the command prints from now on; text as it is, all else as JSON."""
    text = printed if isinstance(printed, str) else json.dumps(printed)
    (context.cwd / "state.json").write_text(text)


def settle(context: RunContext, policy: str = "refuse") -> str:
    """Why the old engine may not be stopped."""
    plan = structs.replace(context.plan, working_orders_policy=policy)
    return settle_before_stop(structs.replace(context, plan=plan), deadline=time.monotonic() + 2)


# --- the comparison ---------------------------------------------------------------

AGREE = {
    "the same": ({}, {}),
    "positions in another order": ({"positions": [LONG, SHORT]}, {"positions": [SHORT, LONG]}),
    "a position in two parts": (
        {"positions": [LONG]},
        {"positions": [{**LONG, "volume": 3}, {**LONG, "volume": 4}]},
    ),
    "an empty position left out": ({"positions": [{**LONG, "volume": 0}]}, {}),
    "funds to the cent": ({"funds": FUNDS}, {"funds": {**FUNDS, "PreBalance": 5e9 + 0.001}}),
    "net over a settlement": (
        {"positions": [LONG, SHORT], "funds": FUNDS},
        {"positions": [{**LONG, "volume": 5}], "trading_day": "20260303"},
    ),
    "an order handed over": (
        {"working_orders": [{"order_ref": 5}]},
        {"working_orders": [{"order_ref": "5"}, {"order_ref": 6}]},
    ),
}


@pytest.mark.parametrize(("before", "after"), AGREE.values(), ids=AGREE)
def test_states_that_agree(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Nothing is lost between the two engines."""
    assert compare_states(state(**before), state(**after), hands_over=True) == []


DIFFER = {
    "a position less": ({"positions": [LONG]}, {}, "position rb2610 long speculation: 7 before, 0"),
    "a position more": ({}, {"positions": [SHORT]}, "rb2610 short speculation: 0 before, 2 after"),
    "another hedge flag": (
        {"positions": [LONG]},
        {"positions": [{**LONG, "hedge_flag": "hedge"}]},
        "rb2610 long hedge: 0 before, 7 after",
    ),
    "net over a settlement": (
        {"positions": [LONG]},
        {"positions": [LONG, SHORT], "trading_day": "20260303"},
        "position rb2610: 7 before, 5 after",
    ),
    "other funds": (
        {"funds": FUNDS},
        {"funds": {**FUNDS, "Commission": 13}},
        "funds Commission: 12.5 before, 13 after",
    ),
    "funds not told": ({"funds": FUNDS}, {}, "funds PreBalance: 5000000000.0 before, None after"),
    "an order lost": (
        {"working_orders": [{"order_ref": 5}]},
        {"working_orders": [{"order_ref": 6}]},
        "working orders ['5'] are unknown to the new engine",
    ),
    "an order of another session lost": (
        {"working_orders": [{"order_ref": 5, "session_id": one} for one in (1, 2)]},
        {"working_orders": [{"order_ref": 5, "session_id": 1}]},
        "working orders ['5'] are unknown to the new engine",
    ),
    "references that begin again": (
        {},
        {"next_order_ref": 1, "max_order_ref": 1},
        "next_order_ref 1 must be above the login reply's max_order_ref 1",
    ),
    "a day that is over": (
        {},
        {"trading_day": "20260227"},
        "trading_day: 20260302 before, 20260227 after, which is earlier",
    ),
}


@pytest.mark.parametrize(("before", "after", "words"), DIFFER.values(), ids=DIFFER)
def test_states_that_differ(before: dict[str, Any], after: dict[str, Any], words: str) -> None:
    """Each difference is a sentence of its own."""
    gaps = compare_states(state(**before), state(**after), hands_over=True)
    assert [gap for gap in gaps if words in gap] != []


def test_thousands_of_lost_orders_are_one_sentence() -> None:
    """The first of them, and how many more."""
    before = state(working_orders=[{"order_ref": number} for number in range(1000)])
    (gap,) = compare_states(before, state(), hands_over=True)
    assert gap.endswith("'115'] and 980 more are unknown to the new engine")
    assert len(gap) < 300


def test_orders_count_only_where_they_are_handed_over() -> None:
    """Under another policy none was left."""
    before = state(working_orders=[{"order_ref": 5}])
    assert compare_states(before, state(), hands_over=False) == []


def test_only_what_is_to_be_compared_is() -> None:
    """Every difference there is, fact by fact."""
    before = state(positions=[LONG], funds=FUNDS, working_orders=[{"order_ref": 5}])
    after = state(next_order_ref=1)
    found = {
        fact: len(compare_states(before, after, hands_over=True, compares=[fact]))
        for fact in HANDOVER_FACTS
    }
    assert found == {"positions": 1, "working_orders": 1, "funds": 2, "order_ref": 1}
    assert compare_states(before, after, hands_over=True, compares=()) == []
    assert len(compare_states(before, after, hands_over=True)) == 5


# --- before the first stop --------------------------------------------------------


def test_a_whole_state_does_not_stand_in_the_way(context: RunContext) -> None:
    """And that it was read is on record."""
    says(context, WHOLE_STATE)
    assert unreadable_state(context) == ""
    (probe,) = context.history.of_kind(ProbeAnswered)
    assert (probe.payload.question, probe.payload.ok) == ("trading_state", True)


@pytest.mark.twin
@pytest.mark.parametrize("asked", [ready_gaps, probe_gaps], ids=["ready", "--probe"])
def test_an_unreadable_state_is_a_gap(context: RunContext, asked: Any) -> None:
    """In READY and for --probe alike, with what was read."""
    says(context, {**WHOLE_STATE, "working_orders": 3})
    (gap,) = [one for one in asked(context) if "before anything is stopped" in one]
    assert "working_orders: found 3, expected a list" in gap


def test_an_engine_in_the_middle_of_its_replay_does_not_know_yet(context: RunContext) -> None:
    """Until its private stream is drained, no working order is not a count."""
    says(context, {**WHOLE_STATE, "stream_drained": False})
    assert "stream_drained is false: what works and what is held" in unreadable_state(context)


def test_without_a_command_there_is_nothing_to_ask(tmp_path: Path) -> None:
    """Not configured is not unreadable, and the plan warns of it."""
    with open_context(tmp_path, plan=make_plan(tmp_path, TRADING_STATE_CMD="")) as context:
        assert (unreadable_state(context), settle(context), handover_gap(context)) == (
            "",
            "",
            "",
        )


HONEST = {name: value for name, value in WHOLE_STATE.items() if not name.endswith("order_ref")}


def test_an_engine_that_knows_no_references_says_so_in_the_plan(tmp_path: Path) -> None:
    """Compared, they are missing; left out they are told as not compared, at each step of it."""
    plan = make_plan(tmp_path, TRADING_STATE_CMD="cat state.json")
    with open_context(tmp_path, plan=plan) as context:
        says(context, HONEST)
        assert "next_order_ref: missing" in unreadable_state(context)
    compares = "positions, working_orders,funds"
    plan = make_plan(tmp_path, TRADING_STATE_CMD="cat state.json", HANDOVER_COMPARES=compares)
    assert any("HANDOVER_COMPARES: order_ref not compared" in each for each in plan.declared)
    with open_context(tmp_path, plan=plan) as context:
        assert (unreadable_state(context), settle(context), handover_gap(context)) == ("", "", "")
        told = "not compared: order_ref (HANDOVER_COMPARES)"
        (probe,) = context.history.of_kind(ProbeAnswered)
        assert probe.payload.observed == f"its trading state is whole; {told}"
        (finding,) = context.history.of_kind(Finding)
        assert finding.payload.sentence.endswith(f"positions, working_orders, funds; {told}")
        says(context, {**HONEST, "positions": [LONG]})
        assert handover_gap(context).startswith("position rb2610")


SESSION = ("td_session", "md_session", "settlement_confirmed", "stream_drained")


def test_a_session_that_is_told_elsewhere_need_not_be_in_the_state(tmp_path: Path) -> None:
    """Of an engine with a source of its own for that; else the state is no whole one."""
    silent = {name: value for name, value in WHOLE_STATE.items() if name not in SESSION}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "it says nothing of the session"),
        ({"OLD_SESSION_CMD": "ls"}, ""),
    ]
    for keys, words in cases:
        plan = make_plan(tmp_path, TRADING_STATE_CMD="cat state.json", **keys)
        with open_context(tmp_path / words[:2], plan=plan) as context:
            says(context, silent)
            assert words in unreadable_state(context)
            assert bool(unreadable_state(context)) == bool(words)
            says(context, {**silent, "td_session": "ready"})  # half of it is a mistake
            assert "stream_drained: missing" in unreadable_state(context)


def test_orders_nobody_asked_for_are_named(context: RunContext) -> None:
    """With what is known of each; and none, or that nobody knows, stops nothing."""
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    order = {"order_id": 7, "instrument": "au2512", "direction": "buy", "volume": 1, "price": 550}
    says(context, {**WHOLE_STATE, "working_orders": [order, {**order, "order_id": 8}]})
    told = unasked_orders(context, engine)
    assert told.startswith("2 orders that nobody asked for work at old_core_engine")
    assert "7 au2512 buy 1 550, 8 au2512" in told
    says(context, WHOLE_STATE)
    assert unasked_orders(context, engine) == ""
    says(context, "")
    assert unasked_orders(context, engine) == ""
    probes = [each.payload for each in context.history.of_kind(ProbeAnswered)]
    assert [each.ok for each in probes] == [False, True, False]
    assert "is not known" in probes[-1].observed


def test_orders_of_before_the_stop_were_asked_for(tmp_path: Path) -> None:
    """Handed over, they are at the exchange still; and of an engine that sends orders itself nobody
    knows whether it was asked to."""
    order = {"order_id": 7, "instrument": "au2512"}
    made = make_plan(tmp_path, TRADING_STATE_CMD="cat state.json")
    alone = {k: m for k, m in made.members.items() if k != "old_strategy_runner"}
    inside = structs.replace(made, members=alone)
    cases = ((made, "2 orders that nobody asked for work"), (inside, "2 orders work at"))
    for number, (plan, words) in enumerate(cases):
        with open_context(tmp_path / str(number), plan=plan) as context:
            engine = plan.member(Generation.OLD, Role.CORE_ENGINE)
            says(context, {**WHOLE_STATE, "working_orders": [order]})
            assert settle(context, "hand_over") == ""
            assert unasked_orders(context, engine) == ""
            last = [each.payload for each in context.history.of_kind(ProbeAnswered)][-1]
            assert last.observed.endswith("but 1 that worked before its stop")
            more = [{**order, "order_id": ref} for ref in (7, 8, 9)]
            says(context, {**WHOLE_STATE, "working_orders": more})
            told = unasked_orders(context, engine)
            assert told.startswith(words), told
            assert "8 au2512, 9 au2512" in told


def test_a_state_of_an_hour_ago_is_none(context: RunContext) -> None:
    """A file that was kept says nothing of now, nor does one of the future."""
    for seconds, words in ((0, ""), (-3600, " s ago"), (3600, " s from now")):
        as_of = datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()
        says(context, {**WHOLE_STATE, "as_of": as_of})
        told = unreadable_state(context)
        assert (words in told, bool(told)) == (True, bool(words))
        assert not told or "limits.toml" in told


# --- between the stops, and after -------------------------------------------------

UNREADABLE = {
    "nothing": ("", "not JSON"),
    "an error of CTP": ('{"ErrorID": 90}', "an error of CTP"),
    "no field at all": ("{}", "working_orders: missing"),
    "a count": (json.dumps({**WHOLE_STATE, "working_orders": 3}), "working_orders: found 3"),
    "half a surrogate pair": (
        json.dumps({**WHOLE_STATE, "trading_day": "\ud800"}),
        r'trading_day: found "\ud800"',
    ),
    "nested": ("[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize(("printed", "words"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("policy", ["refuse", "cancel", "hand_over"])
def test_an_engine_is_not_stopped_on_an_unreadable_state(
    context: RunContext, policy: str, printed: str, words: str
) -> None:
    """Whatever the policy for working orders is: they are not counted from it."""
    says(context, printed)
    assert words in settle(context, policy)


@pytest.mark.parametrize(("printed", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_state_of_the_new_engine_is_a_gap(
    context: RunContext, printed: str, words: str
) -> None:
    """The step fails with it, and the run is rolled back."""
    says(context, WHOLE_STATE)
    assert settle(context) == ""
    says(context, printed)
    assert words in handover_gap(context)


def test_an_engine_that_cannot_tell_yet_is_asked_again(context: RunContext) -> None:
    """Its first query is refused (CTP error 90); it passes with the second, and by a deadline."""
    says(context, WHOLE_STATE)
    assert settle(context) == ""
    command = "test -e asked && cat state.json || { touch asked; echo '{\"ErrorID\": 90}'; }"
    plan = structs.replace(context.plan, trading_state_command=command)
    later = structs.replace(context, plan=plan)
    assert "ErrorID 90" in handover_gap(later, deadline=time.monotonic() - 1)
    (context.cwd / "asked").unlink()
    assert handover_gap(later, deadline=time.monotonic() + 5) == ""
    (context.cwd / "asked").unlink()
    assert settle_before_stop(later, deadline=time.monotonic() + 5) == ""
    says(context, {**WHOLE_STATE, "stream_drained": False})
    began = time.monotonic()
    assert "stream_drained is false" in handover_gap(later, deadline=time.monotonic() + 0.3)
    assert time.monotonic() - began < 60


def test_a_new_engine_whose_state_is_none_is_not_waited_for(context: RunContext) -> None:
    """It would be none later; the time goes into the rollback."""
    says(context, WHOLE_STATE)
    assert settle(context) == ""
    says(context, {**WHOLE_STATE, "working_orders": 3})
    began = time.monotonic()
    assert "working_orders: found 3" in handover_gap(context, deadline=began + 30)
    assert time.monotonic() - began < 25


def test_working_orders_are_counted(context: RunContext) -> None:
    """Under refuse they keep the old engine from being stopped; handed over, they may work."""
    says(context, {**WHOLE_STATE, "working_orders": [{"order_ref": 5}, {"order_ref": 6}]})
    assert settle(context).startswith("2 working orders at the old engine")
    assert settle(context, "hand_over") == ""


def test_the_new_engine_is_compared_with_what_the_old_one_left(context: RunContext) -> None:
    """However often it is asked, never with a state of its own."""
    says(context, {**WHOLE_STATE, "positions": [LONG]})
    assert settle(context) == ""
    says(context, WHOLE_STATE)
    for _ in range(2):
        assert handover_gap(context) == "position rb2610 long speculation: 7 before, 0 after"


def test_nothing_kept_is_nothing_proved(context: RunContext) -> None:
    """Without the old engine's state there is no handover to prove."""
    says(context, WHOLE_STATE)
    assert "no trading state of old_core_engine was kept" in handover_gap(context)


def test_thousands_of_differences_are_one_sentence(context: RunContext) -> None:
    """The first of them, and how many more."""
    held = [{**LONG, "instrument": f"rb{number}"} for number in range(1000)]
    says(context, {**WHOLE_STATE, "positions": held})
    assert settle(context) == ""
    says(context, WHOLE_STATE)
    assert handover_gap(context).endswith("; and 980 more")


# --- what takes its time ----------------------------------------------------------


def test_the_comparison_is_repeated_until_the_time_is_up(context: RunContext) -> None:
    """A new engine that has queried no position yet is asked again, and what came of it is told."""
    says(context, {**WHOLE_STATE, "positions": [LONG]})
    assert settle(context) == ""
    (context.cwd / "later.json").write_text((context.cwd / "state.json").read_text())
    says(context, WHOLE_STATE)
    command = "cat state.json; test -e asked && cp later.json state.json; touch asked"
    plan = structs.replace(context.plan, trading_state_command=command)
    later = structs.replace(context, plan=plan)
    assert handover_gap(later, deadline=time.monotonic() + 20) == ""
    (told,) = context.history.of_kind(Finding)
    assert "seen by look 3 after " in told.payload.sentence
    assert "at first: position rb2610 long speculation: 7 before, 0 after" in told.payload.sentence
    *_, kept = context.history.of_kind(TradingStateRead)
    assert [each["volume"] for each in kept.payload.state["positions"]] == [7]


def test_a_difference_that_stays_is_told_with_how_long_it_was_looked_for(
    context: RunContext,
) -> None:
    """By the deadline, and a last look that saw nothing does not take its place."""
    says(context, {**WHOLE_STATE, "positions": [LONG]})
    assert settle(context) == ""
    says(context, WHOLE_STATE)
    said = handover_gap(context, deadline=time.monotonic() + 0.4)
    assert said.startswith("position rb2610 long speculation: 7 before, 0 after, seen by look ")
    (context.cwd / "asked").unlink(missing_ok=True)
    command = "test -e asked && echo '{\"ErrorID\": 90}' || cat state.json; touch asked"
    plan = structs.replace(context.plan, trading_state_command=command)
    later = structs.replace(context, plan=plan)
    said = handover_gap(later, deadline=time.monotonic() + 0.4)
    assert said.startswith("position rb2610 long speculation: 7 before, 0 after; a later look: ")
    assert "ErrorID 90" in said


def test_what_a_state_lacks_is_refused_with_the_key_that_leaves_it_out(
    context: RunContext,
) -> None:
    """The remedy is named, and by the fact; for what is there and wrong there is none such."""
    says(context, HONEST)
    assert unreadable_state(context).endswith(
        "have TRADING_STATE_CMD tell it, or leave order_ref out of HANDOVER_COMPARES, and it is "
        "shown as not compared"
    )
    says(context, {**WHOLE_STATE, "positions": 3})
    assert "HANDOVER_COMPARES" not in unreadable_state(context)


CANCELS = {
    "that come": ("cp none.json state.json", "none works any more", ""),
    "that do not": ("true", "1 still work", "1 working orders at the old engine"),
    "whose command fails": ("exit 3", "not known: CANCEL_WORKING_ORDERS_CMD", "exit 3"),
}


@pytest.mark.parametrize(("command", "end", "gap"), CANCELS.values(), ids=CANCELS)
def test_the_wait_for_cancels_is_told_with_its_time(
    context: RunContext, command: str, end: str, gap: str
) -> None:
    """It belongs to no step, and trading rests meanwhile."""
    (context.cwd / "none.json").write_text(json.dumps(WHOLE_STATE))
    says(context, {**WHOLE_STATE, "working_orders": [{"order_ref": 5}]})
    slow = f"sleep 0.2; {command}"
    plan = structs.replace(context.plan, cancel_working_orders_command=slow)
    said = settle(structs.replace(context, plan=plan), "cancel")
    assert gap in said
    assert bool(gap) is bool(said)
    (told,) = context.history.of_kind(Finding)
    took, _, words = told.payload.sentence.partition(" s before the stop of old_core_engine ")
    assert float(took) >= 0.2
    assert words.startswith("went by for the cancels of 1 working orders")
    assert end in words


def test_the_step_line_names_what_is_compared_and_what_is_not(tmp_path: Path) -> None:
    """In the plan, and so wherever the step's proof is told."""
    effects = []
    for compares in ("positions, funds", ""):
        plan = make_plan(tmp_path, TRADING_STATE_CMD="cat x", HANDOVER_COMPARES=compares)
        effects.append(plan.step("start_new_core_engine").effect)
        assert "left them" not in plan.step("start_previous_core_engine").effect
    assert effects[0].endswith(
        ", positions, funds as the old engine left them (not compared: working_orders, order_ref)"
    )
    assert effects[1].endswith(
        ", positions, working_orders, funds, order_ref as the old engine left them"
    )
    assert "left them" not in make_plan(tmp_path).step("start_new_core_engine").effect
