"""Does the new engine know what the old one left? Working orders, positions, funds, order refs.

The snapshot is taken when the strategy runner has stopped and the engine still runs (an engine
that sends orders itself has nothing before it that could be stopped: the plan says so), and
compared with what the new engine says once its session is verified (DOMAIN: working orders,
positions, funds). Only with TRADING_STATE_CMD; without it there is nothing to compare.

A state that cannot be read whole is no state: before the first stop it refuses the switch, after
it the step fails in words. It never counts as "nothing works, nothing differs". What
HANDOVER_COMPARES leaves out is said to be not compared, here and in the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Member, Role
from ctp_runbook.plan.step_table import sender_of
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.record.kinds import ActEnded, ActStarted, ProbeAnswered, TradingStateRead
from ctp_runbook.run.context import RunContext

if TYPE_CHECKING:
    from pathlib import Path

    # The probes are not needed, and so not paid for, in a dry run.
    from ctp_runbook.probes.trading_state import TradingState, WorkingOrder

__all__ = [
    "cancel_working_orders",
    "compare_states",
    "handover_gap",
    "settle_before_stop",
    "unasked_orders",
    "unreadable_state",
]

_CENT = 0.005
_CANCEL = "cancel_working_orders"
# More differences than these are one difference, and the sentence is to be read.
_SHOWN_GAPS = 20
# Of the time for cancelling, what TERM may take where the command hangs; KILL as much again.
_GRACE_SHARE = 0.15
_LEAST_GRACE_SECONDS = 0.2
# A look that serves nobody's trading: so long it may keep the runner waiting.
_UNASKED_SECONDS = 3.0
_SHOWN_ORDERS = 5


def unreadable_state(context: RunContext) -> str:
    """Why the old engine's state could not be compared after a stop, or nothing.

    Asked while nothing is stopped: once it is, there is no way back without downtime.
    """
    if not context.plan.trading_state_command:
        return ""
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    why = ""
    try:
        _read(context, engine)
    except ProbeError as error:
        why = f"{error}{_remedy(error)}"
    context.record(
        ProbeAnswered(
            subject=engine.name,
            question="trading_state",
            ok=not why,
            observed=why or f"its trading state is whole{_not_compared(context)}",
            expected="a whole trading state",
        )
    )
    return why


def _remedy(error: ProbeError) -> str:
    """What to do about a state that lacks what HANDOVER_COMPARES names, to be put behind why."""
    facts = getattr(error, "lacks", ())
    if not facts:
        return ""
    return (
        f"; have TRADING_STATE_CMD tell it, or leave {', '.join(facts)} out of HANDOVER_COMPARES, "
        "and it is shown as not compared"
    )


def settle_before_stop(context: RunContext, *, deadline: float) -> str:
    """Deal with working orders and keep the snapshot; why the old engine may not be stopped, or
    nothing."""
    if not context.plan.trading_state_command:
        return ""
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    policy = context.plan.working_orders_policy
    # A query may be refused for a second (CTP error 90), and undoing a stop costs more; but nothing
    # trades meanwhile.
    soon = context.world.clock.mono() + context.plan.limits.proof_grace_seconds
    try:
        state = _read_in_time(context, engine, deadline=min(deadline, soon))
        if policy == "cancel" and state.working_orders:
            # The runner has stopped, where there is one: no new order comes while these go.
            count, began = len(state.working_orders), context.world.clock.mono()
            try:
                cancel_working_orders(context, engine, deadline=deadline)
                state = _read_until_none_works(context, engine, deadline=deadline)
            except ProbeError as error:
                _tell_wait(context, engine, count, since=began, end=f"not known: {error}")
                raise
            still = len(state.working_orders or ())
            end = f"{still} still work" if still else "none works any more"
            _tell_wait(context, engine, count, since=began, end=end)
    except ProbeError as error:
        return str(error)
    _record(context, engine, state)
    if state.working_orders and policy != "hand_over":
        return (
            f"{len(state.working_orders)} working orders at the old engine (WORKING_ORDERS_POLICY {policy}); "
            "cancel them, or set the policy to cancel or hand_over"
        )
    return ""


def _tell_wait(context: RunContext, engine: Member, count: int, *, since: float, end: str) -> None:
    """Write down what passed before the stop was begun: it is in no step's duration."""
    took = context.world.clock.mono() - since
    context.warn(
        f"{took:.1f} s before the stop of {engine.name} went by for the cancels of {count} working "
        f"orders (CANCEL_WORKING_ORDERS_CMD): {end}"
    )


def handover_gap(context: RunContext, *, deadline: float | None = None) -> str:
    """Why the new engine's state does not continue the old one's by ``deadline``, or nothing.

    Compared again and again until then: an engine that has just logged in queries its positions
    one by one, one query a second, and lists by then what it has.
    """
    if not context.plan.trading_state_command:
        return ""
    engine = context.plan.member(Generation.NEW, Role.CORE_ENGINE)
    clock, looks, first, gap = context.world.clock, 0, "", ""
    began = clock.mono()
    try:
        before = _kept(context)
        while True:
            after = _read_in_time(context, engine, deadline=deadline)
            looks, gap = looks + 1, _gap_between(context, before, after)
            first = first or gap
            if not gap or deadline is None or clock.mono() >= deadline or context.interrupt():
                break
            clock.sleep(context.plan.limits.effect_poll_seconds)
    except ProbeError as error:
        # What a whole look saw is why; that a later one saw nothing does not take its place.
        return f"{gap}; a later look: {error}" if gap else str(error)
    _record(context, engine, after)
    # A single look has no length to speak of.
    looked = f", seen by look {looks} after {clock.mono() - began:.1f} s" if looks > 1 else ""
    if gap:
        return f"{gap}{looked}"
    left_out = _not_compared(context)
    if left_out or looked:
        facts = ", ".join(context.plan.handover_compares)
        at_first = f"; at first: {first}" if first else ""
        context.warn(f"the new engine continues the old one's {facts}{looked}{at_first}{left_out}")
    return ""


def _gap_between(context: RunContext, before: TradingState, after: TradingState) -> str:
    """What differs, in one sentence that can be read; nothing where nothing does."""
    gaps = compare_states(
        before,
        after,
        hands_over=context.plan.working_orders_policy == "hand_over",
        compares=context.plan.handover_compares,
    )
    if (more := len(gaps) - _SHOWN_GAPS) > 0:
        gaps[_SHOWN_GAPS:] = [f"and {more} more"]
    return "; ".join(gaps)


def _not_compared(context: RunContext) -> str:
    """What the comparison leaves out, to be put behind what it finds."""
    left_out = [fact for fact in HANDOVER_FACTS if fact not in context.plan.handover_compares]
    return f"; not compared: {', '.join(left_out)} (HANDOVER_COMPARES)" if left_out else ""


def _read_in_time(context: RunContext, engine: Member, *, deadline: float | None) -> TradingState:
    """The engine's state; asked again until ``deadline`` where it may yet be told.

    An engine that has just logged in is refused its first queries. An object that is no trading
    state will be none later: the time goes into the rollback.
    """
    from ctp_runbook.probes.trading_state import MisshapenState

    clock = context.world.clock
    while True:
        try:
            return _read(context, engine)
        except MisshapenState:
            raise
        except ProbeError:
            if deadline is None or clock.mono() >= deadline or context.interrupt():
                raise
        clock.sleep(context.plan.limits.effect_poll_seconds)


def compare_states(
    before: TradingState,
    after: TradingState,
    *,
    hands_over: bool,
    compares: Collection[str] = HANDOVER_FACTS,
) -> list[str]:
    """What does not agree between two trading states of one trading day, in sentences.

    Across a settlement only net positions compare, because today and yesterday change places.
    """
    same_day = before.trading_day == after.trading_day
    gaps = _day_gaps(before, after)
    if "positions" in compares:
        gaps += _position_gaps(before, after, net=not same_day)
    if "funds" in compares and same_day:
        gaps += _funds_gaps(before, after)
    # Of cancelled orders none is to be known; of orders that stay at the exchange every one: the new
    # engine could neither cancel nor count what it does not know.
    hands_over = hands_over and "working_orders" in compares
    if hands_over and (missing := before.orders_by_ref - after.orders_by_ref):
        first = sorted(missing)[:_SHOWN_GAPS]
        more = f" and {len(missing) - len(first)} more" if len(missing) > len(first) else ""
        gaps.append(f"working orders {first}{more} are unknown to the new engine")
    # A reference that was used today is refused by the exchange, and so is the first order.
    if "order_ref" in compares:
        gaps += _reference_gaps(after.next_order_ref, after.max_order_ref)
    return gaps


def _reference_gaps(following: int | None, highest: int | None) -> list[str]:
    if following is not None and highest is not None and following > highest:
        return []
    return [f"next_order_ref {following} must be above the login reply's max_order_ref {highest}"]


def _day_gaps(before: TradingState, after: TradingState) -> list[str]:
    """A trading day follows the one before: an earlier one is a wrong front or a wrong file."""
    if after.trading_day >= before.trading_day:
        return []
    return [
        f"trading_day: {before.trading_day} before, {after.trading_day} after, which is earlier"
    ]


def _position_gaps(before: TradingState, after: TradingState, *, net: bool) -> list[str]:
    old, new = _positions(before, net=net), _positions(after, net=net)
    return [
        f"position {' '.join(key)}: {old[key]} before, {new[key]} after"
        for key in sorted(old.keys() | new.keys())
        if old[key] != new[key]
    ]


def _positions(state: TradingState, *, net: bool) -> Counter[tuple[str, ...]]:
    volumes: Counter[tuple[str, ...]] = Counter()
    for held in state.positions or ():
        is_negative = net and held.direction == "short"
        key = (held.instrument, held.direction, held.hedge_flag)
        volumes[key[:1] if net else key] += -held.volume if is_negative else held.volume
    return volumes


def _funds_gaps(before: TradingState, after: TradingState) -> list[str]:
    known = after.funds or {}
    return [
        f"funds {name}: {amount} before, {known.get(name)} after"
        for name, amount in (before.funds or {}).items()
        if name not in known or abs(amount - known[name]) > _CENT
    ]


def cancel_working_orders(context: RunContext, engine: Member, *, deadline: float) -> None:
    """Run CANCEL_WORKING_ORDERS_CMD for ``engine``. Raises ProbeError when it fails."""
    with context.world.files.scratch(_CANCEL) as output:
        _cancel(context, engine, output, deadline=deadline)


def _cancel(context: RunContext, engine: Member, output: Path, *, deadline: float) -> None:
    clock = context.world.clock
    command = context.plan.cancel_working_orders_command
    env = {
        **context.environment_of(_CANCEL),
        "CTP_GENERATION": str(engine.generation),
        "CTP_METRICS_URL": engine.metrics_url,
    }
    # The graces come out of the command's own time: what waits for it has a deadline too.
    room = max(_LEAST_GRACE_SECONDS, (deadline - clock.mono()) * _GRACE_SHARE)
    held = context.world.commands.hold(command, cwd=context.cwd, env=env, output=output)
    try:
        context.record(
            ActStarted(act=_CANCEL, member=engine.name, pid=held.identity.pid, command=command)
        )
        held.release()
        end = held.wait(deadline=deadline - 2 * room, interrupt=context.interrupt)
        if end.exit_code != 0:
            held.end(**context.graces(most=room), meanwhile=context.interrupt)
        context.record(ActEnded(act=_CANCEL, member=engine.name, exit_code=end.exit_code))
    finally:
        held.close()
    if end.exit_code != 0:
        raise ProbeError(f"CANCEL_WORKING_ORDERS_CMD for {engine.name}: exit {end.exit_code}")


def _read_until_none_works(context: RunContext, engine: Member, *, deadline: float) -> TradingState:
    clock = context.world.clock
    while True:
        state = _read(context, engine)
        is_over = clock.mono() >= deadline or context.interrupt()
        if not state.working_orders or is_over:
            return state
        clock.sleep(context.plan.limits.effect_poll_seconds)


def _read(context: RunContext, engine: Member, *, deadline: float | None = None) -> TradingState:
    """The engine's state, of which orders and positions can be counted. Raises ProbeError."""
    from ctp_runbook.probes.trading_state import MisshapenState, stale_words

    state = context.world.sessions.read_trading_state(
        context.plan.trading_state_command,
        member=engine,
        compares=context.plan.handover_compares,
        **context.asking(deadline=deadline),
    )
    most = context.plan.limits.trading_state_max_age_seconds
    if stale := stale_words(state.as_of, now=context.world.clock.wall(), most=most):
        raise ProbeError(f"TRADING_STATE_CMD for {engine.name}: {stale}")
    if state.stream_drained is None and not context.plan.sessions[engine.generation].is_declared:
        stem = engine.generation.upper()
        raise MisshapenState(
            f"TRADING_STATE_CMD for {engine.name}: no whole trading state: it says nothing of the "
            f"session, and neither {stem}_SESSION_CMD nor {stem}_SESSION_SOURCES names what does; "
            "have it say td_session, md_session, settlement_confirmed and stream_drained, or add one"
        )
    if state.stream_drained is False:
        # In the middle of the replay the lists are short, and look like those of a calm day.
        raise ProbeError(
            f"TRADING_STATE_CMD for {engine.name}: stream_drained is false: what works and what "
            "is held is not all known yet; wait until its private stream is drained"
        )
    return state


def unasked_orders(context: RunContext, engine: Member) -> str:
    """What works at the exchange when the old engine is up again and no strategy of it runs yet, in
    a sentence; nothing where nothing does.

    An engine that is started without its log places intents of before again, and what the new one
    left works on with nobody to cancel it. It is told and not acted on: whoever cancels what is not
    theirs does more harm.
    """
    if not context.plan.trading_state_command:
        return ""
    until = context.world.clock.mono() + _UNASKED_SECONDS
    orders: tuple[WorkingOrder, ...] = ()
    try:
        state = _read(context, engine, deadline=until)
    except ProbeError as error:
        said = f"what works at {engine.name} is not known: {error}"
    else:
        # What worked before its stop was asked for, and was left at the exchange.
        before = _refs_before_stop(context)
        working = state.working_orders or ()
        orders = tuple(order for order in working if order.order_ref not in before)
        known = len(working) - len(orders)
        said = f"no order works at {engine.name}"
        said += f" but {known} that worked before its stop" if known else ""
    if orders:
        named = [_words_of(order) for order in orders[:_SHOWN_ORDERS]]
        named += ["…"] if len(orders) > len(named) else []
        said = (
            f"{_whose(context, engine, len(orders))}: {', '.join(named)}; look at each, and cancel what is "
            "not wanted"
        )
    context.record(
        ProbeAnswered(
            subject=engine.name,
            question="orders nobody asked for",
            ok=said.startswith("no order"),
            observed=said,
            expected="no order works before its runner is started",
        )
    )
    return said if orders else ""


def _whose(context: RunContext, engine: Member, count: int) -> str:
    """What is known of orders that work at an engine that was started again."""
    if sender_of(engine.generation, context.plan.members) == engine.name:
        return (
            f"{count} orders work at {engine.name}, which sends orders itself, and did not before its "
            "stop: whether somebody asked for them is not known"
        )
    return f"{count} orders that nobody asked for work at {engine.name}, from before its runner was started"


def _refs_before_stop(context: RunContext) -> Collection[str]:
    try:
        return _kept(context).orders_by_ref
    except ProbeError:
        return ()


def _words_of(order: WorkingOrder) -> str:
    """An order as a person knows it: what and how much, and by which name the engine knows it."""
    names = ("instrument", "direction", "offset", "volume", "price")
    return " ".join(
        [order.order_ref, *(str(order.details[name]) for name in names if name in order.details)]
    )


def _kept(context: RunContext) -> TradingState:
    """The state the old engine left, from the journal. Raises ProbeError when there is none."""
    from ctp_runbook.probes.trading_state import TradingState

    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    for record in reversed(context.journal.records):
        kept = record.payload
        if isinstance(kept, TradingStateRead) and kept.member == engine.name:
            compares = context.plan.handover_compares
            return TradingState.of(
                kept.state, subject=f"what {engine.name} left", compares=compares
            )
    raise ProbeError(f"no trading state of {engine.name} was kept before its stop")


def _record(context: RunContext, engine: Member, state: TradingState) -> None:
    context.record(TradingStateRead(member=engine.name, state=state.payload))
