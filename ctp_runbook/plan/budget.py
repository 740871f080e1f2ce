"""The rollback's budget: how it is split over the steps, and what is left of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BUDGET_SHARES", "budget_shares", "step_due"]

# What each step may count on, whatever those before it do; what one leaves goes to the next.
# A stop's share covers its command, and ending the member by signal should that fail.
BUDGET_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "stop_new_strategy_runner": 0.15,
        "stop_new_core_engine": 0.2,
        "restore_previous_binaries": 0.08,
        "restore_redis_bridge_compat": 0.07,
        "start_previous_core_engine": 0.25,
        "start_previous_strategy_runner": 0.15,
        "post_rollback_validate": 0.1,
    }
)


def budget_shares(budget_seconds: float) -> dict[str, float]:
    """Seconds of the budget that belong to each step, milliseconds at the finest."""
    return {name: round(share * budget_seconds, 3) for name, share in BUDGET_SHARES.items()}


def step_due(name: str, *, now: float, started: float, budget_seconds: float) -> float:
    """When step ``name`` must end, on the clock of ``now`` and ``started``.

    All that is left, less what the later steps are owed; where that is less than the step's part
    of what is left (something before it overran), that part.
    """
    names = list(BUDGET_SHARES)
    later = sum(BUDGET_SHARES[one] for one in names[names.index(name) + 1 :])
    own = BUDGET_SHARES[name]
    deadline = started + budget_seconds
    part = now + max(0.0, deadline - now) * own / (own + later)
    return min(deadline, max(deadline - later * budget_seconds, part))
