"""The rollback: undo what the journal and the probes show was done, within the budget.

Order is safety: first the new generation is proved gone, only then anything of the old one is
started. A failed step does not stop the ones that restore trading; a failed proof does. The
budget is wall clock from the triggering sample, and every wait is cut to what is left of it, but
for one: a proof of gone has the time it needs, because without it nothing is started at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Generation, Member, Outcome, Role, State, Step, StepKind, StepStatus
from ctp_runbook.plan.step_table import budget_shares, step_due
from ctp_runbook.record.journal import utc_text
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.handover import cancel_working_orders
from ctp_runbook.run.proofs import end_member, gone_gap, observe, proof_for, second_of, start_gap
from ctp_runbook.run.steps import StepResult, run_step, skip_step
from ctp_runbook.run.switch import generation_gone_gap, readiness_proof
from ctp_runbook.watch.verdicts import Firing

if TYPE_CHECKING:
    from ctp_runbook.probes.liveness import Liveness

__all__ = ["RollbackEnd", "Trouble", "roll_back"]

# With less than this left, a step that restores trading is not cut to it any more: late is better
# than nothing trading. Below every share of a step that starts something.
_LEAST_SECONDS = 1.0
_LEAST_SHARE = 0.05
# A step that gets nearly its share is not late: those before it took their graces.
_WHOLE_SHARE = 0.9
_CANCEL_SECONDS = 3.0


@dataclass(frozen=True)
class Trouble:
    """Why the switch is to be undone, and the moment that started the rollback's clock.

    ``is_over``: what was seen of the metric is more than ``value``.
    """

    cause: str
    sentence: str
    wall: float
    mono: float
    metric: str = ""
    value: float | None = None
    limit: float | None = None
    is_over: bool = False

    @classmethod
    def now(cls, cause: str, sentence: str) -> Trouble:
        """Trouble noticed this very moment."""
        return cls(cause, sentence, time.time(), time.monotonic())

    @classmethod
    def fired(cls, firing: Firing) -> Trouble:
        """The rollback trigger became true at a sample."""
        return cls(
            "metric",
            firing.sentence,
            firing.wall,
            firing.mono,
            metric=firing.metric,
            value=firing.value,
            limit=firing.limit,
            is_over=firing.is_over,
        )


@dataclass(frozen=True)
class RollbackEnd:
    """How the rollback ended, with what to tell the operator."""

    outcome: Outcome
    sentence: str
    failed_step: str


@dataclass
class _Rollback:
    context: RunContext
    started: float
    deadline: float
    resumed_late: bool
    results: dict[str, StepResult] = field(default_factory=dict)
    untouched: bool = False

    @property
    def budget(self) -> float:
        """MAX_ROLLBACK_SECONDS."""
        return self.context.plan.max_rollback_seconds

    @property
    def proof_deadline(self) -> float:
        """Until when gone may be proved: to the budget's end, and for one whole look beyond it.

        Cut shorter, a proof on a busy host fails for want of milliseconds, and nothing trades.
        """
        return max(self.deadline, time.monotonic() + self.context.plan.limits.alive_timeout_seconds)

    def step_deadline(self, step: Step) -> float:
        """When this step must end: what is left, less what the later steps are owed.

        Of a rollback that began late, or was held up, no start and no stop is cut to a share that
        is smaller than planned: an engine that is ended while it comes up trades no sooner. It has
        all that is left, and where that is less than its share, its own time: late beats never.
        """
        now = time.monotonic()
        least = min(_LEAST_SECONDS, _LEAST_SHARE * self.budget)
        if self.resumed_late or self.deadline - now < least:
            # The budget is gone, and the operator is told; trading is restored all the same.
            return now + self._late_seconds(step)
        due = step_due(step.name, now=now, started=self.started, budget_seconds=self.budget)
        share = budget_shares(self.budget)[step.name] * _WHOLE_SHARE
        if due - now >= share or step.kind not in (StepKind.START, StepKind.STOP):
            return due
        return self.deadline if self.deadline - now >= share else now + self._late_seconds(step)

    def _late_seconds(self, step: Step) -> float:
        """What a step gets once the budget is gone. A stop can be replaced by signals: it gets
        what its command and its proof usually take, and no more."""
        if step.kind is not StepKind.STOP or self.resumed_late:
            return step.timeout_seconds
        return min(step.timeout_seconds, 2 * self.context.plan.limits.alive_timeout_seconds)


def roll_back(context: RunContext, trouble: Trouble) -> RollbackEnd:
    """Undo the switch for ``trouble``; returns when trading is restored or cannot be."""
    context.journal.tolerant = True
    history = context.history
    if history.trigger is None:
        _record_trigger(context, trouble)
    started = _begin(context)
    budget = context.plan.max_rollback_seconds
    work = _Rollback(
        context,
        started=started,
        deadline=started + budget,
        resumed_late=time.monotonic() >= started + budget,
    )
    if gap := _remove_new(work):
        return _failed(
            work, f"the new generation is not proved gone, so nothing was started: {gap}"
        )
    if gap := _restore_old(work):
        return _failed(work, gap)
    return _finish(work)


def _record_trigger(context: RunContext, trouble: Trouble) -> None:
    context.record(
        "trigger",
        cause=trouble.cause,
        metric=trouble.metric,
        value=trouble.value,
        limit=trouble.limit,
        **({"is_over": True} if trouble.is_over else {}),
        sample_utc=utc_text(trouble.wall),
        sample_mono_ns=int(trouble.mono * 1e9),
        sentence=trouble.sentence,
    )


def _begin(context: RunContext) -> float:
    """The moment the budget counts from, monotonic; the first trigger's, also when resumed."""
    history = context.history
    assert history.trigger is not None
    trigger = history.trigger
    mono_ns = int(trigger.payload["sample_mono_ns"])
    if history.state is not State.ROLLING_BACK:
        reason = str(trigger.payload["sentence"])
        context.record("state", to=State.ROLLING_BACK.value, reason=reason)
        context.alert("rolling_back", reason)
    if history.rollback_started is None:
        context.record(
            "rollback_started",
            budget_seconds=context.plan.max_rollback_seconds,
            shares=budget_shares(context.plan.max_rollback_seconds),
            started_utc=trigger.payload["sample_utc"],
            started_mono_ns=mono_ns,
        )
    if trigger.boot_id != context.journal.records[-1].boot_id:
        # Another boot has another monotonic clock: count by the wall.
        return time.monotonic() - (time.time() - trigger.wall.timestamp())
    return mono_ns / 1e9


# --- the new generation goes ------------------------------------------------------


def _remove_new(work: _Rollback) -> str:
    """Stop both parts of the new generation; why they are not proved gone, or nothing.

    Both are ended first, and what is not proved gone by then is proved afterwards: nobody trades
    on while another's proof is waited for.
    """
    plan = work.context.plan
    ended = [
        (plan.member(Generation.NEW, role), _stop(work, plan.step(f"stop_new_{role.value}"), role))
        for role in (Role.STRATEGY_RUNNER, Role.CORE_ENGINE)
    ]
    for member, gap in ended:
        # One that cannot be proved decides it; the other's proof could change nothing any more.
        if gap and (gap := gone_gap(work.context, member, deadline=work.proof_deadline)):
            return gap
    return ""


def _stop(work: _Rollback, step: Step, role: Role) -> str:
    context = work.context
    member = context.plan.member(Generation.NEW, role)
    begun = context.history.step(f"start_new_{role.value}").attempt or context.history.parent
    if not begun:
        seen = observe(context, member, question="gone", deadline=work.step_deadline(step))
        if seen.is_gone:
            _skip(work, step, f"it was never started: {seen.sentence}")
            return ""
    deadline = work.step_deadline(step)
    if role is Role.CORE_ENGINE:
        _cancel_new_orders(context, member, deadline=deadline)
    # The command and its proof get half; ending it by signal and proving that, the other half.
    half = time.monotonic() + (deadline - time.monotonic()) / 2
    result = _run(work, step, deadline=half)
    if result.is_ok:
        return ""
    end_member(context, member, deadline=deadline)
    return gone_gap(context, member, deadline=deadline)


def _cancel_new_orders(context: RunContext, member: Member, *, deadline: float) -> None:
    """The new engine's own orders go before it does; that they do not stops nothing."""
    plan = context.plan
    if plan.working_orders_policy != "cancel" or not plan.cancel_working_orders_command:
        return
    if not observe(context, member, question="alive", deadline=deadline).is_alive:
        return
    now = time.monotonic()
    until = now + min((deadline - now) / 2, plan.rollback_cancel_seconds or _CANCEL_SECONDS)
    try:
        cancel_working_orders(context, member, deadline=until)
    except ProbeError as error:
        context.record("finding", severity="warning", sentence=str(error))


# --- the old generation comes back ------------------------------------------------


def _restore_old(work: _Rollback) -> str:
    """Bring the old generation back; why it does not trade, or nothing."""
    plan = work.context.plan
    start = plan.step("start_previous_core_engine")
    engine = plan.member(Generation.OLD, Role.CORE_ENGINE)
    seen, gap = _settled(work, engine, deadline=work.step_deadline(start))
    if gap:
        return gap
    # The very process of before the switch: nothing of it was replaced, nothing is to be restored.
    known = work.context.history.identities.get(engine.name)
    work.untouched = seen.is_alive and seen.identity == known
    for name in ("restore_previous_binaries", "restore_redis_bridge_compat"):
        _restore(work, plan.step(name))
    if seen.is_alive:
        _skip(work, start, f"it runs and is kept: {seen.sentence}")
    elif gap := _start(work, start, engine):
        return gap
    return _start_runner(work)


def _start(work: _Rollback, step: Step, member: Member) -> str:
    """Start a member of the old generation; why it does not trade, or nothing.

    A start command that hangs or fails may have started it all the same: what is proved up
    counts, and the outcome tells that its command did not do what was planned.
    """
    result = _run(work, step)
    if result.is_ok:
        return ""
    if result.status is StepStatus.NOT_RUN:
        return result.sentence
    now = time.monotonic()
    until = now + max(0.0, work.deadline - now) / 4
    if start_gap(work.context, member, deadline=until):
        return result.sentence
    told = f"{member.name} is proved up, although its start command failed: {result.reason}"
    work.context.record("finding", severity="warning", sentence=told)
    return ""


def _settled(work: _Rollback, member: Member, *, deadline: float) -> tuple[Liveness, str]:
    """Look at a member of the old generation until it is proved alive or proved gone.

    What stays undecided is half started or half stopped, of use to nobody: it is ended, and
    must then be proved gone, or nothing more is started (the second value says why).
    """
    context = work.context
    until = time.monotonic() + (deadline - time.monotonic()) / 3
    # The first look is a whole one: a hurried one would take a busy engine for half a one, and
    # end what trades.
    seen = observe(context, member, question="alive")
    while not (seen.is_alive or seen.is_gone or seen.is_torn) and time.monotonic() < until:
        time.sleep(context.plan.limits.effect_poll_seconds)
        seen = observe(context, member, question="alive", deadline=until)
    if seen.is_alive or seen.is_gone:
        return seen, ""
    end_member(context, member, deadline=deadline)
    gap = gone_gap(context, member, deadline=max(deadline, work.proof_deadline))
    return seen, f"not started again, for it is not proved gone: {gap}" if gap else ""


def _restore(work: _Rollback, step: Step) -> None:
    policy = work.context.plan.redis_compat
    if work.untouched and not (step.name == "restore_redis_bridge_compat" and policy == "always"):
        _skip(work, step, "the old engine was never stopped, so nothing is to be restored")
    elif step.name == "restore_redis_bridge_compat" and policy == "never":
        _skip(work, step, "RESTORE_REDIS_BRIDGE_COMPAT is never")
    else:
        _run(work, step)


def _start_runner(work: _Rollback) -> str:
    step = work.context.plan.step("start_previous_strategy_runner")
    runner = work.context.plan.member(Generation.OLD, Role.STRATEGY_RUNNER)
    seen, gap = _settled(work, runner, deadline=work.step_deadline(step))
    if gap:
        return gap
    if seen.is_alive:
        _skip(work, step, f"it runs: {seen.sentence}")
        return ""
    return _start(work, step, runner)


# --- how it ended -----------------------------------------------------------------


def _finish(work: _Rollback) -> RollbackEnd:
    context = work.context
    step = context.plan.step("post_rollback_validate")
    judged = readiness_proof(context, "ctp_readiness_rollback.json")
    result = _run(work, step, prove=lambda due: judged(due) or _trading_gap(work, due))
    took = time.monotonic() - work.started
    budget = context.plan.max_rollback_seconds
    told = f"the previous stack trades again {took:.1f} s after the trigger (budget {budget:g} s)"
    bad = [one for one in work.results.values() if one.status in _BAD]
    unrestored = [one for one in bad if one.step.kind in (StepKind.RESTORE, StepKind.START)]
    if result.is_ok and unrestored:
        why = f"{told}, but not as it was to be restored: {unrestored[0].sentence}"
        return RollbackEnd(Outcome.ROLLED_BACK_UNVALIDATED, why, unrestored[0].step.name)
    if not result.is_ok:
        why = f"{told}, but it could not be validated: {result.sentence}"
        return RollbackEnd(Outcome.ROLLED_BACK_UNVALIDATED, why, step.name)
    if took > budget:
        why = f"{told}: late"
        return RollbackEnd(Outcome.ROLLED_BACK_LATE, why, "rollback_duration_exceeded")
    noted = f"; {'; '.join(one.sentence for one in bad)}" if bad else ""
    return RollbackEnd(Outcome.ROLLED_BACK_IN_BUDGET, told + noted, "")


_BAD = (StepStatus.FAILED, StepStatus.TIMED_OUT)


def _trading_gap(work: _Rollback, deadline: float) -> str:
    """Validation by the probes of before the switch: both parts alive, the session verified."""
    for role in Role:
        member = work.context.plan.member(Generation.OLD, role)
        if gap := start_gap(work.context, member, deadline=deadline):
            return gap
        if doubles := second_of(work.context, member):
            return f"{member.name} runs twice: its command line runs as {doubles} as well"
    return ""


def _failed(work: _Rollback, sentence: str) -> RollbackEnd:
    context = work.context
    for step in context.plan.rollback:
        if step.name not in work.results:
            skip_step(context, step, reason=sentence, status=StepStatus.NOT_RUN)
    bad = [one.step.name for one in work.results.values() if one.status in _BAD]
    return RollbackEnd(Outcome.ROLLBACK_FAILED, sentence, bad[-1] if bad else "")


def _run(
    work: _Rollback,
    step: Step,
    *,
    deadline: float | None = None,
    prove: Callable[[float], str] | None = None,
) -> StepResult:
    context = work.context
    until = work.step_deadline(step) if deadline is None else deadline
    if step.kind is StepKind.START and (
        gap := generation_gone_gap(context, Generation.NEW, deadline=work.proof_deadline)
    ):
        reason = f"not started, for the new generation is not proved gone: {gap}"
        result = skip_step(context, step, reason=reason, status=StepStatus.NOT_RUN)
    else:
        result = run_step(context, step, deadline=until, prove=prove or proof_for(context, step))
    work.results[step.name] = result
    return result


def _skip(work: _Rollback, step: Step, reason: str) -> None:
    done = work.context.history.step(step.name)
    if done.status is StepStatus.OK:  # before this rollback was interrupted and taken up again
        work.results[step.name] = StepResult(step, done.status, done.exit_code, 0.0, done.reason)
        return
    work.results[step.name] = skip_step(work.context, step, reason=reason)
