"""The rollback: undo what the journal and the probes show was done, within the budget.

Order is safety: first the new generation is proved gone, only then anything of the old one is
started. A failed step does not stop the ones that restore trading; a failed proof does. The
budget is wall clock from the triggering sample, and every wait is cut to what is left of it, but
for one: a proof of gone has the time it needs, because without it nothing is started at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import structs

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.seam import Clock
from ctp_runbook.model import Generation, Member, Outcome, Role, State, Step, StepKind, StepStatus
from ctp_runbook.plan.step_table import ROLES_BESIDE, budget_shares, step_due
from ctp_runbook.record.journal import Record, utc_text
from ctp_runbook.record.kinds import Cause, RollbackStarted, StateEntered, StepEnded, Triggered
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.handover import cancel_working_orders, unasked_orders
from ctp_runbook.run.proofs import (
    Ended,
    end_member,
    end_seconds,
    gone_gap,
    is_ending,
    observe,
    permission_of,
    pin_member,
    proof_for,
    runs_again,
    second_of,
    session_gap,
    shows_life,
    start_gap,
)
from ctp_runbook.run.steps import StepResult, run_step, skip_step
from ctp_runbook.run.switch import generation_gone_gap, readiness_proof
from ctp_runbook.watch.verdicts import Firing

if TYPE_CHECKING:
    from ctp_runbook.probes.liveness import Liveness

__all__ = ["RunEnd", "roll_back", "trouble_at", "trouble_now", "trouble_of"]

# With less than this left, a step that restores trading is not cut to it any more: late is better
# than nothing trading. Below every share of a step that starts something.
_LEAST_SECONDS = 1.0
_LEAST_SHARE = 0.05
# A step that gets nearly its share is not late: those before it took their graces. A stop can be
# replaced by signals; a start that is ended while it comes up was for nothing, and gets all of it.
_WHOLE_SHARE = {StepKind.STOP: 0.9, StepKind.START: 0.98}
_CANCEL_SECONDS = 3.0
# A start that failed is tried again while there is time, but each try may be a login, and a front
# that has refused some forbids them all (CTP's error 75).
_MOST_TRIES = 3
_RESTORED = "the previous stack trades again"
# How long somebody who starts a member again and again is waited for: they notice within a moment,
# or rest once they see one of it running.
_REVIVAL_SECONDS = 2.0
# Where its sources do not tell that it may open positions: what is known comes behind it.
_IS_BACK = "the previous stack is restored"


def trouble_at(cause: Cause, sentence: str, *, wall: float, mono: float) -> Triggered:
    """Why the switch is to be undone, and the moment that starts the rollback's clock."""
    return Triggered(
        cause=cause,
        metric="",
        value=None,
        limit=None,
        sample_utc=utc_text(wall),
        sample_mono_ns=int(mono * 1e9),
        sentence=sentence,
    )


def trouble_now(cause: Cause, sentence: str, *, clock: Clock) -> Triggered:
    """Trouble noticed this very moment."""
    return trouble_at(cause, sentence, wall=clock.wall(), mono=clock.mono())


def trouble_of(firing: Firing) -> Triggered:
    """The rollback trigger became true at a sample: its budget runs since then."""
    return structs.replace(
        trouble_at("metric", firing.sentence, wall=firing.wall, mono=firing.mono),
        metric=firing.metric,
        value=firing.value,
        limit=firing.limit,
        is_over=firing.is_over,
    )


@dataclass(frozen=True)
class RunEnd:
    """How a run ends, with what to tell the operator."""

    outcome: Outcome
    sentence: str
    failed_step: str = ""

    def as_seen(self, running: Mapping[str, str]) -> RunEnd:
        """Return this end as the last look at the members bears it out.

        A stack of which a part is gone by then does not trade, whatever was proved before; of one
        that could not be told from dead nobody may say that it does. And beside a living part of
        the new generation nothing is restored.
        """
        old = {name: word for name, word in running.items() if name.startswith(Generation.OLD)}
        lacks = [f"{name} {word}" for name, word in old.items() if word != "alive"]
        more = [name for name, word in running.items() if name not in old and word == "alive"]
        start = next(filter(self.sentence.startswith, (_RESTORED, _IS_BACK)), "")
        if not (lacks or more) or not start:
            return self
        was = f"the previous stack was restored{self.sentence.removeprefix(start)}"
        if more:
            sentence = f"{was}; at the last look {', '.join(more)} alive beside it"
            failed = self.failed_step or "post_rollback_validate"
            return RunEnd(Outcome.ROLLBACK_FAILED, sentence, failed)
        sentence = f"{was}; at the last look {', '.join(lacks)}"
        if "gone" in old.values():
            failed = self.failed_step or "post_rollback_validate"
            return RunEnd(Outcome.ROLLBACK_FAILED, sentence, failed)
        return replace(self, sentence=f"{sentence}: whether all of it trades is not known")


def roll_back(context: RunContext, trouble: Triggered) -> RunEnd:
    """Undo the switch for ``trouble``; returns when trading is restored or cannot be."""
    # From here on a record that cannot be written stops nothing: half a rollback trades nothing.
    context.journal.tolerant = True
    # Of two troubles the first has the operator's clock, also where this is taken up again.
    trigger = context.history.trigger or context.record(trouble)
    return _Rollback(context, started=_begin(context, trigger)).run()


def _begin(context: RunContext, trigger: Record[Triggered]) -> float:
    """The moment the budget counts from, monotonic; the first trigger's, also when resumed."""
    history, clock, first = context.history, context.world.clock, trigger.payload
    if history.state is not State.ROLLING_BACK:
        context.record(StateEntered(to=State.ROLLING_BACK, reason=first.sentence))
        context.alert("rolling_back", first.sentence)
    if history.rollback_started is None:
        context.record(
            RollbackStarted(
                budget_seconds=context.plan.max_rollback_seconds,
                shares=dict(
                    budget_shares(context.plan.max_rollback_seconds, left_out=context.plan.left_out)
                ),
                started_utc=first.sample_utc,
                started_mono_ns=first.sample_mono_ns,
            )
        )
    if trigger.boot_id != context.journal.records[-1].boot_id:
        # Another boot has another monotonic clock: count by the wall.
        return clock.mono() - (clock.wall() - trigger.wall.timestamp())
    return first.sample_mono_ns / 1e9


class _Rollback:
    """One rollback under way; ``started`` is the moment its budget counts from, monotonic."""

    def __init__(self, context: RunContext, *, started: float) -> None:
        self._context, self._started = context, started
        self._clock = context.world.clock
        self._plan = context.plan
        self._budget = context.plan.max_rollback_seconds
        self._deadline = started + self._budget
        self._is_resumed_late = self._clock.mono() >= self._deadline
        self._results: dict[str, StepResult] = {}
        self._unasked = ""

    def run(self) -> RunEnd:
        """The new generation out, then the old one in; never the other way round."""
        if gap := self._gap_in_removal():
            return self._failed(
                f"the new generation is not proved gone, so nothing was started: {gap}"
            )
        if gap := self._gap_in_restoration():
            return self._failed(gap)
        return self._validated()

    # --- how long each may take ---------------------------------------------------

    @property
    def _proof_deadline(self) -> float:
        """Until when gone may be proved: to the budget's end, and for one whole look beyond it.

        Cut shorter, a proof on a busy host fails for want of milliseconds, and nothing trades.
        """
        return max(self._deadline, self._clock.mono() + self._plan.limits.alive_timeout_seconds)

    def _step_deadline(self, step: Step) -> float:
        """When this step must end: what is left, less what the later steps are owed.

        Of a rollback that began late, or was held up, no start and no stop is cut to a share that
        is smaller than planned: an engine that is ended while it comes up trades no sooner. It has
        all that is left, and where that is less than its share, its own time: late beats never.
        """
        now = self._clock.mono()
        if self._is_resumed_late or self._deadline - now < self._least:
            # The budget is gone, and the operator is told; trading is restored all the same.
            return now + self._late_seconds(step)
        due = step_due(
            step.name,
            now=now,
            started=self._started,
            budget_seconds=self._budget,
            left_out=self._plan.left_out,
        )
        if step.kind not in _WHOLE_SHARE:
            return due
        shares = budget_shares(self._budget, left_out=self._plan.left_out)
        share = shares[step.name] * _WHOLE_SHARE[step.kind]
        if due - now >= share:
            return due
        return self._deadline if self._deadline - now >= share else now + self._late_seconds(step)

    def _late_seconds(self, step: Step) -> float:
        """What a step gets once the budget is gone. A stop can be replaced by signals: it gets
        what its command and its proof usually take, and no more."""
        if step.kind is not StepKind.STOP or self._is_resumed_late:
            return step.timeout_seconds
        return min(step.timeout_seconds, 2 * self._plan.limits.alive_timeout_seconds)

    @property
    def _left(self) -> float:
        """Seconds of the budget that are left."""
        return self._deadline - self._clock.mono()

    @property
    def _least(self) -> float:
        """With less than this left the budget counts as used up."""
        return min(_LEAST_SECONDS, _LEAST_SHARE * self._budget)

    def _part_of_budget(self, share: float) -> float:
        """The moment when this share of what is left of the budget will be over."""
        return self._clock.mono() + max(0.0, self._left) * share

    def _part_of(self, deadline: float, share: float) -> float:
        """The moment when this share of what is left until ``deadline`` will be over."""
        now = self._clock.mono()
        return now + (deadline - now) * share

    # --- the new generation goes --------------------------------------------------

    def _gap_in_removal(self) -> str:
        """Stop every part of the new generation; why they are not proved gone, or nothing.

        All are ended first, and what is not proved gone by then is proved afterwards: nobody
        trades on while another's proof is waited for.
        """
        # The runner first: it feeds the engine, and would go on sending orders into its end.
        stops = [step for step in self._plan.rollback if step.kind is StepKind.STOP]
        gaps = {step.acts_on: self._gap_in_stop(step) for step in stops if step.acts_on}
        for acts_on, gap in gaps.items():
            # One that cannot be proved decides it; the other's proof could change nothing any more.
            if gap and (gap := self._gone_gap(acts_on)):
                return gap
        return ""

    def _gone_gap(self, acts_on: tuple[Generation, Role]) -> str:
        member = self._plan.member(*acts_on)
        return gone_gap(self._context, member, deadline=self._proof_deadline)

    def _gap_in_stop(self, step: Step) -> str:
        if step.skipped or step.acts_on is None:
            self._skip(step, step.skipped)
            return ""
        context = self._context
        member = self._plan.member(*step.acts_on)
        begun = context.history.step(f"start_{member.name}").attempt or context.history.parent
        if not begun:
            seen = observe(context, member, question="gone", deadline=self._step_deadline(step))
            if seen.is_gone:
                self._skip(step, f"it was never started: {seen.sentence}")
                return ""
        deadline = self._step_deadline(step)
        if member.role is Role.CORE_ENGINE:
            self._cancel_new_orders(member, deadline=deadline)
        ended: list[Ended] = []

        def make_good() -> str:
            ended.append(end_member(context, member, deadline=deadline))
            return ended[-1].words

        # The command and its proof get half; ending it by signal and proving that, the other half.
        half = self._part_of(deadline, 1 / 2)
        if self._run_step(step, deadline=half, make_good=make_good).is_ok:
            return ""
        if not ended:  # its command could not even be begun
            make_good()
        return gone_gap(context, member, deadline=deadline)

    def _cancel_new_orders(self, member: Member, *, deadline: float) -> None:
        """The new engine's own orders go before it does; that they do not stops nothing."""
        context, plan = self._context, self._plan
        if plan.working_orders_policy != "cancel" or not plan.cancel_working_orders_command:
            return
        if not observe(context, member, question="alive", deadline=deadline).is_alive:
            return
        latest = self._clock.mono() + (plan.rollback_cancel_seconds or _CANCEL_SECONDS)
        until = min(self._part_of(deadline, 1 / 2), latest)
        try:
            cancel_working_orders(context, member, deadline=until)
        except ProbeError as error:
            context.warn(str(error))

    # --- the old generation comes back --------------------------------------------

    def _gap_in_restoration(self) -> str:
        """Bring the old generation back; why it does not trade, or nothing."""
        plan = self._plan
        start = plan.step("start_previous_core_engine")
        engine = plan.member(Generation.OLD, Role.CORE_ENGINE)
        known = self._context.history.identities.get(engine.name)
        kept, gap = self._settled(engine, deadline=self._step_deadline(start))
        if gap:
            return gap
        # The very process of before the switch: nothing of it was replaced, and binaries put back
        # under a running engine would be a change nobody planned.
        untouched = kept is not None and kept.identity == known
        for name in ("restore_previous_binaries", "restore_redis_bridge_compat"):
            self._restore(plan.step(name), untouched=untouched)
        if kept:
            self._skip(start, f"it runs and is kept: {kept.sentence}")
        elif gap := self._gap_in_start(start, engine):
            return gap
        if not untouched:
            # Now or never: what works once the runner runs may be its own.
            self._unasked = unasked_orders(self._context, engine)
        for role in ROLES_BESIDE:
            if gap := self._gap_beside(plan.step(f"start_previous_{role.value}")):
                return gap
        return ""

    def _gap_beside(self, start: Step) -> str:
        """Bring back a part of the old generation beside its engine, where there is one; why it does
        not run, or nothing."""
        if start.skipped or start.acts_on is None:
            self._skip(start, start.skipped)
            return ""
        member = self._plan.member(*start.acts_on)
        kept, gap = self._settled(member, deadline=self._step_deadline(start))
        if gap:
            return gap
        if kept:
            self._skip(start, f"it runs: {kept.sentence}")
            return ""
        return self._gap_in_start(start, member)

    def _gap_in_start(self, step: Step, member: Member) -> str:
        """Start a member of the old generation; why it does not trade, or nothing.

        A start command that hangs or fails may have started it all the same: what is proved up
        counts, and the outcome tells that its command did not do what was planned. What is proved
        gone after it is started again while there is time.
        """
        if (
            runs_again(self._context, member)
            and (gap := self._gap_in_adoption(step, member)) is not None
        ):
            return gap
        result = self._run_step(step)
        while not result.is_ok:
            if result.status is StepStatus.NOT_RUN:  # only what was begun may be up
                return result.sentence
            # Within a quarter of the time left: the rest is for proof that the whole stack trades.
            if not start_gap(self._context, member, deadline=self._part_of_budget(1 / 4)):
                self._context.warn(
                    f"{member.name} is proved up, although its start command failed: {result.reason}"
                )
                return ""
            gap = self._gap_before_next_try(result, member)
            if runs_again(self._context, member):
                adopted = self._gap_in_adoption(step, member)
                if adopted is not None:
                    return adopted
            if gap:
                return f"{result.sentence}; {gap}"
            # However little is left: what comes after the budget was nobody's to count on.
            until = min(self._step_deadline(step), self._deadline)
            result = self._run_step(step, deadline=until)
        return ""

    def _gap_in_adoption(self, step: Step, member: Member) -> str | None:
        """Leave a member to whoever starts it again and again, for beside theirs one of ours would
        be a second one; why theirs does not trade, or nothing. None where nobody starts it any more.

        What runs by now is ended first: it may have been started before the binaries were put back.
        Whoever looks for its command line, and not for a child of theirs, rests when ours runs.
        """
        context, deadline = self._context, self._step_deadline(step)
        ended = end_member(context, member, deadline=self._part_of(deadline, 1 / 2))
        until = min(self._clock.mono() + _REVIVAL_SECONDS, self._part_of(deadline, 1 / 2))
        while not (again := runs_again(context, member)) or set(again) & set(ended.processes):
            if self._clock.mono() >= until:
                # Beside one that outlived KILL ours would be the second.
                gap = gone_gap(context, member, deadline=until)
                return f"not started, for it is not proved gone: {gap}" if gap else None
            self._clock.sleep(self._plan.limits.effect_poll_seconds)
        pin_member(context, member, again[0])
        kept = (
            f"somebody else starts {member.name} again whenever it ends: {again[0]}, started by "
            "them, is kept, and not started a second time"
        )
        context.warn(kept)
        self._skip(step, kept)
        while (
            gap := session_gap(context, member, deadline=deadline)
        ) and self._clock.mono() < deadline:
            self._clock.sleep(self._plan.limits.effect_poll_seconds)
        return gap

    def _gap_before_next_try(self, result: StepResult, member: Member) -> str:
        """Why a start that failed is not tried again, or nothing once it may be."""
        context, name = self._context, result.step.name
        tries = self._tries(name)
        tried = f"tried {tries} time{'s' * (tries != 1)}"
        budget = f"the budget of {self._budget:g} s"
        if self._left < 2 * self._least:
            return f"{tried}, and {budget} is used up"
        if tries >= _MOST_TRIES:
            return (
                f"{tried}, with {self._left:.1f} s of {budget} left: each try may be a login, and "
                "too many forbid them all"
            )
        # Half a member is ended first: beside it a second one would trade on the same account.
        end_member(context, member, deadline=self._part_of_budget(1 / 4))
        if gap := gone_gap(context, member, deadline=self._part_of_budget(1 / 2)):
            return f"{tried} and not again, for it is not proved gone: {gap}"
        # What was in its way may need a moment to go, and a failure at once is not to be repeated
        # at once.
        self._clock.sleep(self._least)
        context.warn(
            f"{result.sentence}; {member.name} is proved gone and is started again, try "
            f"{tries + 1}, with {self._left:.1f} s of {budget} left"
        )
        return ""

    def _tries(self, name: str) -> int:
        """How often a step was run to its end in this rollback, also before it was taken up again."""
        ends = self._context.history.of_kind(StepEnded)
        return sum(end.payload.step == name for end in ends)

    def _settled(self, member: Member, *, deadline: float) -> tuple[Liveness | None, str]:
        """Look at a member of the old generation until it is proved alive, to be kept, or gone.

        The first value is the look at one that is kept. What stays undecided is half started or
        half stopped, and what is ending is of use to nobody for long: it is ended, and must then be
        proved gone, or nothing more is started (the second value says why).
        """
        context = self._context
        until = self._part_of(deadline, 1 / 3)
        # The first look is a whole one: a hurried one would take a busy engine for half a one, and
        # end what trades.
        seen = observe(context, member, question="alive")
        while not (seen.is_alive or seen.is_gone or seen.is_torn) and self._clock.mono() < until:
            self._clock.sleep(self._plan.limits.effect_poll_seconds)
            seen = observe(context, member, question="alive", deadline=until)
        if seen.is_gone:
            return None, ""
        if seen.is_gone_as_pinned:
            # What is left to lose is this very member, twice; and with nobody there nobody trades.
            context.warn(
                f"{seen.sentence}: it is taken for gone all the same, for nothing of what was pinned "
                f"runs; {member.name.upper()}_ALIVE_CMD must end with 1 where it is gone"
            )
            return None, ""
        process = seen.process if seen.is_alive else None
        if process and not is_ending(context, member, process):
            # Theirs, where somebody else started it again: from now on it is the member.
            pin_member(context, member, process)
            return seen, ""
        # One that is ending may have been told so already, and needs its time: killed, an engine
        # leaves the end of its log unwritten. One that was not reached goes at this TERM.
        theirs = bool(second_of(context, member))
        ended = end_member(context, member, deadline=deadline, patient=process is not None)
        latest = self._clock.mono() + _REVIVAL_SECONDS if theirs else 0.0
        gap = self._gap_after_end(
            member,
            ended,
            until=min(latest, self._part_of(deadline, 1 / 2)),
            deadline=max(deadline, self._proof_deadline),
        )
        return None, f"not started again, for it is not proved gone: {gap}" if gap else ""

    def _gap_after_end(self, member: Member, ended: Ended, *, until: float, deadline: float) -> str:
        """Why a member of the old generation that was ended is not proved gone, or nothing. One that
        somebody started again since is gone, and what is done about theirs its start decides; ``until``
        then it is waited for, for a start of ours that comes first makes two."""
        while (gap := gone_gap(self._context, member)) or self._clock.mono() < until:
            again = runs_again(self._context, member)
            if again and not set(again) & set(ended.processes):
                return ""
            if gap and self._clock.mono() >= deadline:
                return gap
            self._clock.sleep(self._plan.limits.effect_poll_seconds)
        return ""

    def _restore(self, step: Step, *, untouched: bool) -> None:
        is_compat = step.name == "restore_redis_bridge_compat"
        if untouched and not (is_compat and self._plan.redis_compat == "always"):
            self._skip(step, "the old engine was never stopped, so nothing is to be restored")
        elif is_compat and self._plan.redis_compat == "never":
            self._skip(step, "RESTORE_REDIS_BRIDGE_COMPAT is never")
        else:
            self._run_step(step)

    # --- how it ended -------------------------------------------------------------

    def _validated(self) -> RunEnd:
        if gap := self._gap_in_order():
            return self._failed(gap)
        result = self._validate()
        # Who died since they were restored trade no more: to be told of them is not enough.
        while not result.is_ok and (dead := self._dead()):
            for member in dead:
                if gap := self._gap_in_revival(member):
                    return self._failed(gap)
            result = self._validate()
        # A validation takes its time, and a supervisor may have used it.
        if any(second_of(self._context, each) for each in self._plan.members_of(Generation.OLD)):
            if gap := self._gap_in_order():
                return self._failed(gap)
            result = self._validate()
        if gap := self._gap_of_new():
            return self._failed(gap)
        return self._end_of(result)

    def _gap_in_order(self) -> str:
        """See that of two generations one runs, and of each member one: what somebody else started
        meanwhile is ended. Why that cannot be proved, or nothing."""
        if gap := self._gap_of_new():
            return gap
        for member in self._plan.members_of(Generation.OLD):
            if gap := self._gap_of_second(member):
                return gap
        return ""

    def _gap_of_new(self) -> str:
        """End what lives again of the new generation; why it is not proved gone, or nothing."""
        context = self._context
        for member in self._plan.members_of(Generation.NEW):
            if not shows_life(context, member) or not (gap := gone_gap(context, member)):
                continue
            context.warn(f"the new generation lives again: {gap}")
            end_member(context, member, deadline=self._part_of_budget(1 / 2))
            if gap := gone_gap(context, member, deadline=self._proof_deadline):
                return f"the new generation lives again beside the old one: {gap}"
        return ""

    def _gap_of_second(self, member: Member) -> str:
        """Leave one of a member that runs twice; why none of it trades, or nothing."""
        context, step = self._context, self._plan.step(f"start_previous_{member.role.value}")
        if not end_seconds(context, member, deadline=self._part_of_budget(1 / 4)):
            return ""
        until = self._clock.mono() + _REVIVAL_SECONDS
        while not second_of(context, member):
            if self._clock.mono() >= until:
                return ""
            self._clock.sleep(self._plan.limits.effect_poll_seconds)
        # They look at nothing but a process of their own: so ours goes, or there are always two.
        gap = self._gap_in_adoption(step, member)
        return self._gap_in_start(step, member) if gap is None else gap

    def _validate(self) -> StepResult:
        step = self._plan.step("post_rollback_validate")
        judged = readiness_proof(self._context, "ctp_readiness_rollback.json")
        return self._run_step(step, prove=lambda due: judged(due) or self._trading_gap(due))

    def _dead(self) -> list[Member]:
        """Members of the old generation that are proved gone, the engine first."""
        members = self._plan.members_of(Generation.OLD)
        return [each for each in members if observe(self._context, each, question="alive").is_gone]

    def _gap_in_revival(self, member: Member) -> str:
        """Start a member again that was restored and has died; why it does not trade, or nothing."""
        step = self._plan.step(f"start_previous_{member.role.value}")
        tries, died = self._tries(step.name), f"{member.name} was restored and has died since"
        if tries >= _MOST_TRIES:
            return f"{died}, started {tries} times"
        if self._left < self._least and tries > 1:  # late beats never, but only once
            return f"{died}, started {tries} times, and the budget of {self._budget:g} s is used up"
        self._context.warn(f"{died}; it is started again")
        return self._gap_in_start(step, member)

    def _end_of(self, result: StepResult) -> RunEnd:
        """How the rollback ended, its validation being ``result``."""
        took = self._clock.mono() - self._started
        sentence = f"{self._restored} {took:.1f} s after the trigger (budget {self._budget:g} s)"
        if self._unasked:
            sentence += f"; {self._unasked}"
            self._context.warn(self._unasked)
        for step in self._plan.rollback:
            if step.kind is StepKind.START and (tries := self._tries(step.name)) > 1:
                sentence += f", {step.name} by try {tries}"
        if not result.is_ok:
            sentence += f", but it could not be validated: {result.sentence}"
            return RunEnd(Outcome.ROLLED_BACK_UNVALIDATED, sentence, result.step.name)
        # A stop that failed was made good by signals and proved; a restore or a start was not.
        for bad in self._bad:
            if bad.step.kind in (StepKind.RESTORE, StepKind.START):
                sentence += f", but not as it was to be restored: {bad.sentence}"
                return RunEnd(Outcome.ROLLED_BACK_UNVALIDATED, sentence, bad.step.name)
        if took > self._budget:
            failed = "rollback_duration_exceeded"
            return RunEnd(Outcome.ROLLED_BACK_LATE, f"{sentence}: late", failed)
        sentence = "; ".join([sentence, *(bad.sentence for bad in self._bad)])
        return RunEnd(Outcome.ROLLED_BACK_IN_BUDGET, sentence)

    @property
    def _restored(self) -> str:
        """That the previous stack trades again, or what is known of it where nothing proves that."""
        if not self._plan.sessions[Generation.OLD].is_declared:
            return _RESTORED
        engine = self._plan.member(Generation.OLD, Role.CORE_ENGINE)
        permission = permission_of(self._context, engine)
        if permission.mode == "Ready" and not permission.gap:
            return _RESTORED
        return f"{_IS_BACK} ({permission.words})"

    @property
    def _bad(self) -> list[StepResult]:
        """Steps of this rollback that did not do what was planned, in order."""
        failed = (StepStatus.FAILED, StepStatus.TIMED_OUT)
        return [result for result in self._results.values() if result.status in failed]

    def _trading_gap(self, deadline: float) -> str:
        """Validation by the probes of before the switch: every part alive, the session verified."""
        for member in self._plan.members_of(Generation.OLD):
            if gap := start_gap(self._context, member, deadline=deadline):
                return gap
            if doubles := second_of(self._context, member):
                return f"{member.name} runs twice: its command line runs as {doubles} as well"
        return ""

    def _failed(self, sentence: str) -> RunEnd:
        for step in self._plan.rollback:
            if step.name not in self._results:
                skip_step(self._context, step, reason=sentence, status=StepStatus.NOT_RUN)
        failed_step = self._bad[-1].step.name if self._bad else ""
        return RunEnd(Outcome.ROLLBACK_FAILED, sentence, failed_step)

    # --- steps --------------------------------------------------------------------

    def _run_step(
        self,
        step: Step,
        *,
        deadline: float | None = None,
        prove: Callable[[float], str] | None = None,
        make_good: Callable[[], str] = lambda: "",
    ) -> StepResult:
        context = self._context
        until = self._step_deadline(step) if deadline is None else deadline
        # At each start anew: between the proof of a minute ago and now a supervisor may have
        # brought the new engine back.
        if step.kind is StepKind.START and (
            gap := generation_gone_gap(context, Generation.NEW, deadline=self._proof_deadline)
        ):
            reason = f"not started, for the new generation is not proved gone: {gap}"
            result = skip_step(context, step, reason=reason, status=StepStatus.NOT_RUN)
        else:
            prove = prove or proof_for(context, step)
            result = self._begun(step, deadline=until, prove=prove, make_good=make_good)
        self._results[step.name] = result
        return result

    def _begun(
        self,
        step: Step,
        *,
        deadline: float,
        prove: Callable[[float], str] | None,
        make_good: Callable[[], str],
    ) -> StepResult:
        context = self._context
        try:
            return run_step(
                context,
                step,
                deadline=deadline,
                prove=prove,
                make_good=make_good,
                budget_ends=self._deadline,
            )
        except OSError as error:
            # What this process does not get (descriptors, say) the next one may. After so many that
            # did not, it is a step that failed: the others go on, and the end says what runs.
            if context.history.restarts < context.history.created.restarts_max:
                raise
            reason = f"it cannot be begun: {error}"
            return skip_step(context, step, reason=reason, status=StepStatus.FAILED)

    def _skip(self, step: Step, reason: str) -> None:
        done = self._context.history.step(step.name)
        if done.status is StepStatus.OK:  # before this rollback was interrupted and taken up again
            result = StepResult(step, done.status, done.exit_code, 0.0, done.reason)
        else:
            result = skip_step(self._context, step, reason=reason)
        self._results[step.name] = result
