"""The watch window: sample, keep, judge, and say how it ended. Decides; undoes nothing itself.

WATCHING and HOLDING are both here: sampling goes on while holding, and holding ends by resume,
by rollback, by recovery for long enough, or by expiry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import cast

from msgspec import structs

from ctp_runbook.host.clocks import ClockWatch, Disturbance
from ctp_runbook.host.seam import Kept
from ctp_runbook.model import Generation, Member, Role, State, Verdict
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, utc_text
from ctp_runbook.record.kinds import (
    Cause,
    Judged,
    MetricEnd,
    MetricVerdict,
    RequestTaken,
    StateEntered,
    Triggered,
    VerdictName,
    WatchDisturbed,
    WatchEnded,
    WatchGap,
    WatchStarted,
)
from ctp_runbook.record.samples import Sample, cut_torn_line, read_samples, without_secrets
from ctp_runbook.run.context import READING_SECONDS, RunContext
from ctp_runbook.run.proofs import (
    is_said_alive,
    observe,
    permission_of,
    pin_member,
    second_of,
    shows_life,
)
from ctp_runbook.run.rollback import trouble_now, trouble_of
from ctp_runbook.watch.judge import MetricJudgement, WindowJudge, WindowJudgement
from ctp_runbook.watch.sampler import Sampler
from ctp_runbook.watch.sources import watch_targets
from ctp_runbook.watch.verdicts import Firing, missing_buckets

__all__ = ["Watch", "disturbed"]

_TICK_SECONDS = 0.1
_LOOK_SECONDS = 0.4
# Without a new sample all that changes is how old the last one is.
_IDLE_SECONDS = 0.4
_GLANCE_SECONDS = 2.0
# How often an alive command is run beside the glances, and how long it may keep samples waiting.
_QUESTION_SECONDS = 30.0
_COMMAND_SECONDS = 1.0
_SESSION_SECONDS = 5.0


class Watch:
    """One watch window, from its start (or a resumption) to its end."""

    def __init__(
        self,
        context: RunContext,
        *,
        requests: Callable[[], Iterable[RequestTaken]],
        clocks: ClockWatch | None = None,
    ) -> None:
        self._context, self._clocks = context, clocks
        self._clock = context.world.clock
        self._requests = requests
        self._plan = context.plan
        history = context.history
        self._minutes = self._plan.monitor_minutes
        started = history.watch_started
        self._started = started.mono_ns / 1e9 if started else self._begin()
        self._ends = self._started + self._minutes * 60
        self._rules = _as_recorded(self._plan)
        self._judge = WindowJudge(
            rules=self._rules,
            keys=self._plan.monitor_keys,
            trigger=self._plan.trigger,
            started_mono=self._started,
            ends_mono=self._ends,
            keeps_points=False,
        )
        self._next_seq = self._replay(history) if started else 0
        self._is_new_page = started is None
        self._samples: Kept  # while the file is open
        self._blind_since: float | None = None
        self._good_since: float | None = None
        self._last_verdicts: tuple[str, ...] = ()
        self._next_glance = 0.0
        self._next_question = self._clock.mono() + _QUESTION_SECONDS
        self._next_session_look = 0.0
        self._session_gap, self._session_bad_since = "", 0.0
        self._session_accepted: str | None = None
        self._closes_until = 0.0
        self._accepted_at_end = any(
            t.state is State.WATCHING and t.mono_ns / 1e9 >= self._ends for t in history.transitions
        )
        held = history.entered(State.HOLDING) if history.state is State.HOLDING else None
        self._holding_since = held.mono_ns / 1e9 if held else None
        if held is None and history.held is not None:  # asked for while it was switched
            by = history.held.payload.by
            self._hold(f"hold asked for by {by} before the watch began")

    def run(self) -> Triggered | None:
        """Watch until the window ends with a pass (None) or there is trouble."""
        context = self._context
        environ = context.environment_of()
        targets = watch_targets(context.plan, cwd=context.cwd, environ=environ)
        sampler = Sampler(targets, clocks=self._clock, watch=self._clocks)
        # Held open to the end: an open that fails for once must not cost a healthy engine, nor must
        # somebody who takes the file away.
        with context.world.files.appending(context.run.samples) as self._samples:
            sampler.start()
            try:
                trouble = self._loop(sampler)
            finally:
                sampler.stop()
            self._note_disturbances(sampler)
            self._close(trouble)
        return trouble

    # --- the loop ----------------------------------------------------------------

    def _loop(self, sampler: Sampler) -> Triggered | None:
        if self._judge.firing is not None:  # before the interruption, and not acted on yet
            return trouble_of(self._judge.firing)
        next_look, is_new = 0.0, False
        while True:
            self._hold_disturbed(sampler)
            if (sample := sampler.take(seconds=_TICK_SECONDS)) is not None:
                is_new = True
                # Each sample before anything else: from the first that fires, the rollback's budget
                # runs, and a look at a member may take seconds of it.
                firing = self._keep(sample)
                if firing is not None:
                    return trouble_of(firing)
            if trouble := self._trouble_outside_metrics():
                return trouble
            due = next_look if is_new else next_look + _IDLE_SECONDS
            if self._is_waiting or (not self._is_over and self._clock.mono() < due):
                continue
            next_look, is_new = self._clock.mono() + _LOOK_SECONDS, False
            judged = self._judge.at(self._clock.mono())
            self._record_verdicts(judged)
            if trouble := self._hold_or_go_on(judged):
                return trouble
            if self._is_over:
                # Only a proof ends a watch well: a window that is over and proves nothing is held
                # for a person, and not taken for a pass.
                if not (gap := self._gap_at_end()):
                    return None
                self._hold(f"the window ended without proof: {gap}")

    @property
    def _is_over(self) -> bool:
        """True when it is time for the last verdict."""
        return self._holding_since is None and self._clock.mono() >= self._ends

    @property
    def _is_waiting(self) -> bool:
        """True where all that the end still waits for is that the new engine, which closes only as it
        always does at first, may trade: nobody is to be called for half a minute of that."""
        return self._is_over and self._clock.mono() < self._closes_until

    def _hold_disturbed(self, sampler: Sampler) -> None:
        """Hold for what makes the watch prove less than its samples say."""
        for disturbance in self._note_disturbances(sampler):
            if disturbance.holds and self._holding_since is None:
                self._hold(disturbance.sentence)

    def _note_disturbances(self, sampler: Sampler) -> tuple[Disturbance, ...]:
        """Write down what happened to time since this was last asked."""
        disturbances = sampler.disturbances()
        for disturbance in disturbances:
            self._context.record(disturbed(disturbance))
        return disturbances

    def _put_samples_back(self) -> None:
        """See that the samples are in the run's folder, where they are replayed."""
        # That the folder was taken away is told where it is looked at; a look that fails now is
        # made again.
        with contextlib.suppress(OSError):
            self._samples.put_back()

    def _trouble_outside_metrics(self) -> Triggered | None:
        """What no metric says: requests, deaths, revivals, the drill's time."""
        return (
            self._trouble_of_requests()
            or self._trouble_of_new_members()
            or self._trouble_of_old_members()
            or self._trouble_of_drill()
            or self._hold_without_permission()
        )

    def _keep(self, sample: Sample) -> Firing | None:
        """Write a sample down and judge by it; the firing that it completes, if it does."""
        if self._holding_since is None and sample.mono > self._ends:
            return None
        sample = without_secrets(structs.replace(sample, seq=self._next_seq), self._plan.redactor)
        self._next_seq += 1
        # On file before it counts: what was decided by it must be there for whoever verifies.
        self._samples(sample.to_line())
        firing = self._judge.add(sample)
        self._warn_of_buckets(sample)
        return firing

    def _warn_of_buckets(self, sample: Sample) -> None:
        """Tell of limits without a bucket by the new engine's first page: then there is time."""
        if self._is_new_page and sample.ok and sample.target == "engine":
            self._is_new_page = False
            for sentence in missing_buckets(self._plan.watched, self._plan.trigger, sample):
                self._context.warn(sentence)

    def _trouble_of_requests(self) -> Triggered | None:
        self._context.interrupt()  # keeps an eye on the guardian and on the run's folder
        self._put_samples_back()
        for request in self._requests():
            if request.request in ("rollback", "abort"):
                return self._trouble_now("operator", request.sentence)
            if request.request == "hold" and self._holding_since is None:
                self._hold(request.sentence)
            if request.request == "resume" and self._holding_since is not None:
                self._go_on(request.sentence)
        return None

    def _trouble_of_new_members(self) -> Triggered | None:
        identities = self._context.history.identities
        for member in self._plan.members_of(Generation.NEW):
            identity = identities.get(member.name)
            if identity is not None and self._context.world.processes.is_running(identity):
                continue
            seen = observe(self._context, member, question="alive")
            if not seen.is_alive:
                if self._context.interrupt():
                    return None  # it was not asked to the end; the request comes first
                return self._trouble_now("member_died", seen.sentence)
            pin_member(self._context, member, seen.process)
            self._hold(f"{member.name} was restarted by somebody: {seen.sentence}")
        return None

    def _trouble_of_old_members(self) -> Triggered | None:
        """Somebody (a supervisor, say) brought the old generation back: two must not trade."""
        now = self._clock.mono()
        if now < self._next_glance:
            return None
        self._next_glance = now + _GLANCE_SECONDS
        if is_due := now >= self._next_question:
            self._next_question = now + _QUESTION_SECONDS
        for member in self._plan.members_of(Generation.OLD):
            # Started by another command line and with no pid file, only its own command finds it.
            if not shows_life(self._context, member) and not (
                is_due and is_said_alive(self._context, member, seconds=_COMMAND_SECONDS)
            ):
                continue
            seen = observe(self._context, member, question="gone")
            if not seen.is_gone:
                if self._context.interrupt() or not self._runs_as_pinned(Generation.NEW):
                    # It was not asked to the end, or somebody is just starting a new member again,
                    # which looks like the old one where one binary replaced the other.
                    return None
                why = f"the old generation lives again: {seen.sentence}"
                return self._trouble_now("judge", why)
        return self._trouble_of_doubles()

    def _runs_as_pinned(self, generation: Generation) -> bool:
        pins = self._context.history.identities
        members = self._plan.members_of(generation)
        known = [pins[member.name] for member in members if member.name in pins]
        return all(map(self._context.world.processes.is_running, known))

    def _trouble_of_doubles(self) -> Triggered | None:
        """The same somebody started what lies there now: a second one of the new generation."""
        for member in self._plan.members_of(Generation.NEW):
            if doubles := second_of(self._context, member):
                why = f"{member.name} runs twice: its command line runs as {doubles} as well"
                return self._trouble_now("judge", why)
        return None

    def _trouble_of_drill(self) -> Triggered | None:
        created = self._context.history.created
        after = created.forced_after_seconds
        if created.force_rollback and self._clock.mono() >= self._started + after:
            return self._trouble_now("forced_drill", f"--force-rollback after {after:g} s of watch")
        return None

    def _trouble_now(self, cause: Cause, sentence: str) -> Triggered:
        return trouble_now(cause, sentence, clock=self._clock)

    # --- whether it may trade ----------------------------------------------------

    def _hold_without_permission(self) -> Triggered | None:
        """Hold for a new engine whose session is lost, or that closes only for longer than it should:
        no metric says that, for what is not sent is neither late nor refused."""
        now = self._clock.mono()
        if not self._is_declared or now < self._next_session_look:
            return None
        permission = permission_of(self._context, self._new_engine)
        self._next_session_look = self._clock.mono() + _SESSION_SECONDS
        self._closes_until = self._clock.mono() + permission.closes_for
        if not permission.gap or permission.mode == self._session_accepted:
            self._session_gap = ""
            return None
        if not self._session_gap:
            self._session_bad_since = now
        self._session_gap = permission.gap
        # One look that found a file half written is no loss of a session.
        patience = self._plan.watch.tolerance_inconclusive_seconds
        if self._holding_since is None and now - self._session_bad_since >= patience:
            self._hold(permission.gap)
        return None

    def _gap_at_end(self) -> str:
        """Why the end of the window proves no trading, or nothing; a person may have accepted that."""
        judged = self._judge.at(self._ends, final=True)
        if judged.overall is not Verdict.PASSED:
            return judged.sentence
        if not self._is_declared or self._accepted_at_end:
            return ""
        permission = permission_of(self._context, self._new_engine)
        if permission.mode == self._session_accepted:
            return ""
        may = permission.mode in ("", "Ready")
        return permission.gap or ("" if may else f"the new engine is {permission.words}")

    @property
    def _new_engine(self) -> Member:
        return self._plan.member(Generation.NEW, Role.CORE_ENGINE)

    @property
    def _is_declared(self) -> bool:
        return self._plan.sessions[Generation.NEW].is_declared

    # --- holding -----------------------------------------------------------------

    def _hold_or_go_on(self, judged: WindowJudgement) -> Triggered | None:
        """Act on a judgement: hold, or end a hold; the trouble of a hold that expired."""
        now = self._clock.mono()
        if self._holding_since is not None:
            return self._while_holding(judged, now)
        if judged.overall is Verdict.FAILED:
            self._hold(judged.sentence)
            return None
        # No data is no failure, nor a pass: the old stack is not brought back for a scrape that was
        # late, and nobody watches blind for longer than they allowed.
        self._blind_since = (self._blind_since or now) if judged.blind else None
        if self._blind_since is not None and now - self._blind_since > self._tolerance(judged):
            self._hold(judged.sentence)
        return None

    def _tolerance(self, judged: WindowJudgement) -> float:
        if judged.overall is Verdict.ERROR:
            return self._plan.watch.tolerance_error_seconds
        return self._plan.watch.tolerance_inconclusive_seconds

    def _while_holding(self, judged: WindowJudgement, now: float) -> Triggered | None:
        assert self._holding_since is not None
        good = not judged.blind and not judged.breaching and not self._session_gap
        self._good_since = (self._good_since or now) if good else None
        # What a person holds, a person ends; or nobody does, and it expires.
        by_rule = self._context.history.held is None
        needed = self._plan.watch.recovery_seconds
        recovered = by_rule and self._good_since is not None and now - self._good_since >= needed
        if recovered and now < self._ends:
            self._go_on(f"recovered for {needed:g} s")
            return None
        expired = now - self._holding_since >= self._plan.hold_seconds
        if expired and self._plan.hold_expiry == "rollback":
            held = f"held for {self._plan.hold_seconds:g} s (HOLD_SECONDS): {judged.sentence}"
            return self._trouble_now("hold_expired", held)
        return None

    def _hold(self, reason: str) -> None:
        self._holding_since = self._clock.mono()
        self._good_since = None
        self._context.record(StateEntered(to=State.HOLDING, reason=reason))
        self._context.alert("holding", f"{reason}; {self._expiry}")

    @property
    def _expiry(self) -> str:
        plan = self._plan
        if plan.hold_expiry == "rollback":
            return f"rolls back in {plan.hold_seconds:g} s unless somebody decides"
        return "waits until somebody decides"

    def _go_on(self, reason: str) -> None:
        if self._session_gap:  # a person went on in spite of it
            permission = permission_of(self._context, self._new_engine)
            self._session_accepted, self._session_gap = permission.mode, ""
        self._holding_since = self._blind_since = None
        self._judge.accept()
        self._accepted_at_end |= self._clock.mono() >= self._ends
        self._context.record(StateEntered(to=State.WATCHING, reason=reason))

    # --- what is written ---------------------------------------------------------

    def _begin(self) -> float:
        plan = self._plan
        for member in plan.members_of(Generation.NEW):
            pin_member(self._context, member, self._context.history.identities.get(member.name))
        words = ""
        if self._is_declared:
            words = f"; the new engine is {permission_of(self._context, self._new_engine).words}"
        reason = f"the switch is verified{words}"
        self._context.record(StateEntered(to=State.WATCHING, reason=reason))
        started = WatchStarted(minutes=self._minutes, metrics=tuple(plan.monitor_keys))
        return self._context.record(started).mono

    def _replay(self, history: History) -> int:
        """Take the samples of before the interruption in; returns the next sequence number."""
        if torn := cut_torn_line(self._context.run.samples):
            sha256 = digest_of(torn)
            self._context.warn(f"a torn sample of {len(torn)} bytes was cut, sha256 {sha256}")
        self._context.beat(READING_SECONDS)
        known = read_samples(self._context.run.samples)
        accepted = [t.mono_ns / 1e9 for t in history.transitions if t.state is State.WATCHING][1:]
        # What a person accepted before the interruption is not held against the run again: the
        # judge is told it between the same samples as then.
        for sample in known:
            self._context.beat(0.0)
            while accepted and accepted[0] <= sample.mono:
                self._judge.accept()
                accepted.pop(0)
            self._judge.add(sample)
        if accepted:
            self._judge.accept()
        begun = history.watch_started or history.records[0]
        since = utc_text(known[-1].wall) if known else begun.wall_utc
        now = utc_text(self._clock.wall())
        self._context.record(WatchGap(from_utc=since, to_utc=now, reason="resumed"))
        return len(known)

    def _record_verdicts(self, judged: WindowJudgement) -> None:
        """Write verdicts down when one changes."""
        verdicts = (judged.overall.name, *(each.verdict.name for each in judged.metrics.values()))
        if verdicts != self._last_verdicts:
            self._last_verdicts = verdicts
            self._context.record(
                Judged(
                    overall=_name(judged.overall),
                    metrics={
                        name: MetricVerdict(verdict=_name(each.verdict), sentence=each.sentence)
                        for name, each in judged.metrics.items()
                    },
                )
            )

    def _close(self, trouble: Triggered | None) -> None:
        at = min(self._clock.mono(), self._ends)
        judged = self._judge.at(at, final=True)
        self._put_samples_back()
        data = self._samples.read()
        self._context.record(
            WatchEnded(
                samples=data.count(b"\n"),
                samples_sha256=digest_of(data),
                verdict=_name(judged.overall),
                sentence=judged.sentence,
                judged_mono=at,
                watched_seconds=round(at - self._started, 3),
                stopped_early=trouble is not None,
                metrics={name: _ended(each) for name, each in judged.metrics.items()},
            )
        )


def _as_recorded(plan: Plan) -> WatchRules:
    """The rules, with the pages and labels that they name as the samples have them: without secrets.

    What is kept is what is judged, so that whoever judges it again comes to the same.
    """
    shown = {
        name: structs.replace(
            rule, url=plan.redactor(rule.url), labels=plan.redactor.data(rule.labels)
        )
        for name, rule in plan.watch.metrics.items()
    }
    return structs.replace(plan.watch, metrics=shown)


def disturbed(noted: Disturbance) -> WatchDisturbed:
    """What happened to time, for the journal."""
    return WatchDisturbed(
        what=noted.what,
        seconds=noted.seconds,
        from_utc=utc_text(noted.from_wall),
        to_utc=utc_text(noted.to_wall),
        from_mono=noted.from_mono,
        to_mono=noted.to_mono,
        sentence=noted.sentence,
    )


def _name(verdict: Verdict) -> VerdictName:
    return cast("VerdictName", verdict.name)


def _ended(judged: MetricJudgement) -> MetricEnd:
    return MetricEnd(
        verdict=_name(judged.verdict),
        sentence=judged.sentence,
        value=judged.value,
        limit=judged.limit,
        margin=judged.margin,
        worst=judged.worst,
        coverage=judged.coverage,
        is_over=judged.is_over,
        worst_is_over=judged.worst_is_over,
    )
