"""Does the new engine know what the old one left? Working orders, positions, funds, order refs.

The snapshot is taken when the strategy runner has stopped and the engine still runs, and
compared with what the new engine says once its session is verified (DOMAIN: working orders,
positions, funds). Only with TRADING_STATE_CMD; without it there is nothing to compare.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Member, Role
from ctp_runbook.rundir import private_dir
from ctp_runbook.steps import RunContext

__all__ = ["cancel_working_orders", "compare_states", "settle_before_stop", "unproved_handover"]

# Fields that do not float with the price.
_FUNDS = ("PreBalance", "Deposit", "Withdraw", "CloseProfit", "Commission")
_POSITION_KEY = ("instrument", "direction", "hedge_flag")
_CENT = 0.005


def settle_before_stop(context: RunContext, *, deadline: float) -> str:
    """Deal with working orders and keep the snapshot; why the old engine may not be stopped."""
    if not context.plan.trading_state_command:
        return ""
    engine = context.plan.member(Generation.OLD, Role.CORE_ENGINE)
    policy = context.plan.working_orders_policy
    try:
        state = _read(context, engine)
        if policy == "cancel" and state.get("working_orders"):
            cancel_working_orders(context, engine, deadline=deadline)
            state = _read_until_none_works(context, engine, deadline=deadline)
    except ProbeError as error:
        return str(error)
    _record(context, engine, state)
    working = state.get("working_orders") or []
    if working and policy != "hand_over":
        return (
            f"{len(working)} working orders at the old engine (WORKING_ORDERS_POLICY {policy}); "
            "cancel them, or set the policy to cancel or hand_over"
        )
    return ""


def unproved_handover(context: RunContext) -> str:
    """Why the new engine's state does not continue the old one's, or nothing."""
    kept = [r for r in context.journal.records if r.kind == "trading_state"]
    if not context.plan.trading_state_command or not kept:
        return ""
    engine = context.plan.member(Generation.NEW, Role.CORE_ENGINE)
    try:
        after = _read(context, engine)
    except ProbeError as error:
        return str(error)
    _record(context, engine, after)
    hands_over = context.plan.working_orders_policy == "hand_over"
    return "; ".join(compare_states(kept[-1].payload["state"], after, hands_over=hands_over))


def compare_states(
    before: Mapping[str, Any], after: Mapping[str, Any], *, hands_over: bool
) -> list[str]:
    """What does not agree between two trading states of one trading day, in sentences.

    Across a settlement only net positions compare, because today and yesterday change places.
    """
    same_day = before.get("trading_day") == after.get("trading_day")
    gaps = _position_gaps(before, after, net=not same_day)
    if same_day:
        gaps += _funds_gaps(before.get("funds") or {}, after.get("funds") or {})
    if hands_over:
        missing = _order_ids(before) - _order_ids(after)
        gaps += [f"working orders {sorted(missing)} are unknown to the new engine"] * bool(missing)
    next_ref, max_ref = after.get("next_order_ref"), after.get("max_order_ref")
    if not isinstance(next_ref, int) or not isinstance(max_ref, int) or next_ref <= max_ref:
        gaps.append(
            f"next_order_ref {next_ref} must be above the login reply's max_order_ref {max_ref}"
        )
    return gaps


def _position_gaps(before: Mapping[str, Any], after: Mapping[str, Any], *, net: bool) -> list[str]:
    old, new = _positions(before, net=net), _positions(after, net=net)
    return [
        f"position {' '.join(key)}: {old.get(key, 0)} before, {new.get(key, 0)} after"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, 0) != new.get(key, 0)
    ]


def _positions(state: Mapping[str, Any], *, net: bool) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    for one in state.get("positions") or []:
        key = tuple(str(one.get(name, "")) for name in _POSITION_KEY)
        volume = int(one.get("volume", 0))
        if net:
            volume = -volume if key[1] == "short" else volume
            key = (key[0],)
        found[key] = found.get(key, 0) + volume
    return {key: volume for key, volume in found.items() if volume}


def _funds_gaps(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"funds {name}: {before.get(name)} before, {after.get(name)} after"
        for name in _FUNDS
        if name in before
        and (name not in after or abs(float(before[name]) - float(after[name])) > _CENT)
    ]


def _order_ids(state: Mapping[str, Any]) -> set[str]:
    return {str(one.get("order_ref", one)) for one in state.get("working_orders") or []}


def cancel_working_orders(context: RunContext, engine: Member, *, deadline: float) -> None:
    """Run CANCEL_WORKING_ORDERS_CMD for ``engine``. Raises ProbeError when it fails."""
    from ctp_runbook.process import HeldCommand

    command = context.plan.cancel_working_orders_command
    env = {
        **context.environment_of("cancel_working_orders"),
        "CTP_GENERATION": str(engine.generation),
        "CTP_METRICS_URL": engine.metrics_url,
    }
    output = private_dir(context.run) / "cancel_working_orders.out"
    limits, room = context.plan.limits, max(0.2, (deadline - time.monotonic()) * 0.15)
    held = HeldCommand(command, cwd=context.cwd, env=env, output=output)
    try:
        context.record(
            "act_started",
            act="cancel_working_orders",
            member=engine.name,
            pid=held.identity.pid,
            command=command,
        )
        held.release()
        end = held.wait(deadline=deadline - 2 * room, interrupt=context.interrupt)
        if end.exit_code != 0:
            held.end(
                term_grace=min(limits.term_grace_seconds, room),
                kill_grace=min(limits.kill_grace_seconds, room),
                meanwhile=context.interrupt,
            )
        context.record(
            "act_ended", act="cancel_working_orders", member=engine.name, exit_code=end.exit_code
        )
    finally:
        held.close()
    if end.exit_code != 0:
        raise ProbeError(f"CANCEL_WORKING_ORDERS_CMD for {engine.name}: exit {end.exit_code}")


def _read_until_none_works(
    context: RunContext, engine: Member, *, deadline: float
) -> dict[str, Any]:
    while True:
        state = _read(context, engine)
        is_over = time.monotonic() >= deadline or context.interrupt()
        if not state.get("working_orders") or is_over:
            return state
        time.sleep(context.plan.limits.effect_poll_seconds)


def _read(context: RunContext, engine: Member) -> dict[str, Any]:
    from ctp_runbook.probes.session import read_trading_state

    return read_trading_state(
        context.plan.trading_state_command,
        member=engine,
        cwd=context.cwd,
        env=context.environment_of(),
        seconds=context.plan.limits.alive_timeout_seconds,
        interrupt=context.interrupt,
    )


def _record(context: RunContext, engine: Member, state: Mapping[str, Any]) -> None:
    context.record("trading_state", member=engine.name, state=dict(state))
