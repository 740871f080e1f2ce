"""A dry run: the same journal and evidence, every step simulated, no command of the plan run."""

from __future__ import annotations

from collections.abc import Sequence

from ctp_runbook.model import Outcome, State, StepStatus
from ctp_runbook.record.kinds import Closed, StateEntered
from ctp_runbook.run.context import RunContext

__all__ = ["simulate"]

_PATH = (State.GATING, State.READY, State.SWITCHING)


def simulate(context: RunContext, *, gaps: Sequence[str] = ()) -> Outcome:
    """Write the dry run down and close it; ``gaps`` is what its probes found in the way."""
    plan = context.plan
    for state, steps in zip(_PATH, (plan.gates, (), plan.switch), strict=True):
        context.record(StateEntered(to=state, reason="dry run"))
        for step in steps:
            context.record_not_done(step, reason="dry run: not run", status=StepStatus.SIMULATED_OK)
    for warning in plan.warnings:
        if warning not in plan.execute_refusals:  # those stand behind the header already
            context.warn(warning)
    # Nothing stands in the way is all that a dry run can say: no step of it proved an effect.
    outcome = Outcome.REFUSED if gaps else Outcome.DRY_RUN_OK
    sentence = "; ".join(gaps) if gaps else _sentence(len(context.history.would_refuse))
    context.record(
        Closed(
            outcome=outcome,
            exit_code=outcome.exit_code,
            sentence=sentence,
            failed_step="preflight" if gaps else "",
            running={},
        )
    )
    return outcome


def _sentence(refusals: int) -> str:
    if not refusals:
        return "dry run: nothing stands in the way; nothing was done"
    reasons = "a reason" if refusals == 1 else f"{refusals} reasons"
    return f"dry run: nothing was done; --execute would refuse this plan, for {reasons}"
