"""How long cutover and rollback took before, and whether a switch can still be undone in time. Pure.

Figures of one environment never speak for another. They are no part of the plan's digest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from ctp_runbook.plan.plan import Plan

__all__ = ["Measured", "p95", "refusals_by_flag", "undo_refusals"]


def p95(seconds: Sequence[float]) -> float | None:
    """Return the 95th percentile by nearest rank, which is the longest of fewer than 20; None for none."""
    ordered = sorted(seconds)
    return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else None


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """p95 of earlier real runs in one environment, in seconds; None where no run measured it.

    ``cutover_seconds`` is from the first stop to the start of the watch, ``rollback_seconds`` from
    the trigger to the validated previous stack.
    """

    cutover_seconds: float | None = None
    cutover_runs: int = 0
    rollback_seconds: float | None = None
    rollback_runs: int = 0

    @property
    def is_complete(self) -> bool:
        """True when both were measured at least once."""
        return self.cutover_seconds is not None and self.rollback_seconds is not None

    @property
    def cutover(self) -> str:
        """``4.1 s (p95 of 3 runs)`` or UNMEASURED."""
        return _told(self.cutover_seconds, self.cutover_runs)

    @property
    def rollback(self) -> str:
        """``8.6 s (p95 of 1 run)`` or UNMEASURED."""
        return _told(self.rollback_seconds, self.rollback_runs)


def _told(seconds: float | None, runs: int) -> str:
    if seconds is None:
        return "UNMEASURED"
    return f"{seconds:.1f} s (p95 of {runs} run{'s' * (runs != 1)})"


def undo_refusals(
    plan: Plan,
    measured: Measured,
    *,
    now: datetime,
    accept_unmeasured: str = "",
    accept_late: str = "",
) -> tuple[str, ...]:
    """Say why what would be switched at ``now`` (aware) could not be undone in time; empty if it could.

    What was never measured counts as long as the plan lets it take.
    """
    reasons = {"accept_unmeasured": accept_unmeasured, "accept_late": accept_late}
    refused = refusals_by_flag(plan, measured, now=now)
    return tuple(
        refusal for flag in refused if not reasons[flag].strip() for refusal in refused[flag]
    )


def refusals_by_flag(
    plan: Plan, measured: Measured, *, now: datetime
) -> dict[str, tuple[str, ...]]:
    """Return them as ``undo_refusals`` does, all of them, by the name of the flag that takes a reason against each."""
    return {
        "accept_unmeasured": tuple(_unmeasured(plan, measured)),
        "accept_late": tuple(_too_late(plan, measured, now)),
    }


def _unmeasured(plan: Plan, measured: Measured) -> Iterator[str]:
    if measured.is_complete or plan.is_rehearsal:
        return
    yield (
        f"how long a cutover and a rollback take in environment {plan.environment}: cutover "
        f"{measured.cutover}, rollback {measured.rollback}; earlier runs under --outputs must have "
        "measured both. Drill with --force-rollback first, or give --accept-unmeasured REASON"
    )


def _too_late(plan: Plan, measured: Measured, now: datetime) -> Iterator[str]:
    rollback, limit = measured.rollback_seconds, plan.max_rollback_seconds
    if rollback is not None and rollback > limit:
        yield (
            f"a rollback took {measured.rollback} in environment {plan.environment} > "
            f"MAX_ROLLBACK_SECONDS {limit:g} s; make it faster or raise the budget, or give "
            "--accept-late REASON"
        )
    cutover = measured.cutover_seconds
    if cutover is None:
        cutover = sum(step.timeout_seconds for step in plan.switch)
    watch = timedelta(minutes=plan.monitor_minutes)
    ends = now + timedelta(seconds=cutover + (limit if rollback is None else rollback)) + watch
    close = plan.window_local + timedelta(minutes=plan.window_minutes) + watch
    if ends > close:
        zone = plan.window_local.tzinfo
        shown = [at.astimezone(zone).isoformat(timespec="seconds") for at in (now, ends, close)]
        undo = f"{limit:g} s (MAX_ROLLBACK_SECONDS)" if rollback is None else measured.rollback
        switch = measured.cutover if measured.cutover_seconds is not None else f"{cutover:g} s"
        yield (
            f"it is {shown[0]}; cutover {switch}, watch {plan.monitor_minutes:g} min and rollback "
            f"{undo} would end at {shown[1]} > {shown[2]} (CUTOVER_WINDOW_LOCAL + "
            f"CUTOVER_WINDOW_MINUTES {plan.window_minutes:g} + POST_SWITCH_MONITOR_MINUTES): what "
            "is switched could not be undone in time; plan a new window, or give "
            "--accept-late REASON"
        )
