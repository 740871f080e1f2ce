"""The rollback's budget: how it is split over the steps, and what is left of it. Pure."""

from __future__ import annotations

from ctp_runbook.plan.step_table import STEP_TABLE

__all__ = ["budget_shares", "step_due"]

_SHARES = {spec.name: spec.budget_share for spec in STEP_TABLE if spec.budget_share}


def budget_shares(budget_seconds: float) -> dict[str, float]:
    """Seconds of the budget that belong to each step, milliseconds at the finest."""
    return {name: round(share * budget_seconds, 3) for name, share in _SHARES.items()}


def step_due(name: str, *, now: float, started: float, budget_seconds: float) -> float:
    """When step ``name`` must end, on the clock of ``now`` and ``started``.

    All that is left, less what the later steps are owed; where that is less than the step's part
    of what is left (something before it overran), that part.
    """
    names = list(_SHARES)
    later = sum(_SHARES[one] for one in names[names.index(name) + 1 :])
    own = _SHARES[name]
    deadline = started + budget_seconds
    part = now + max(0.0, deadline - now) * own / (own + later)
    return min(deadline, max(deadline - later * budget_seconds, part))
