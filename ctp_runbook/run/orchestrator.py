"""The orchestrator: the one process that acts. Gates, READY, switch, watch, verdict, rollback.

It is detached from whoever asked for the run and owns the journal. Started again by the
guardian after a crash, it reads the journal, looks at the world, and goes on or rolls back;
there is no moment between the first stop and the last record that it leaves undecided.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from msgspec.structs import replace

from ctp_runbook.errors import JournalError, RunbookError, RunRefused
from ctp_runbook.host.clocks import STEP_SECONDS, ClockWatch
from ctp_runbook.model import Generation, Member, Outcome, Role, State, StepStatus, Verdict
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.plan import Plan, plan_digest, window_refusals
from ctp_runbook.plan.preflight import evidence_gap
from ctp_runbook.plan.timing import undo_refusals
from ctp_runbook.record.evidence import finalise
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Journal, Record, read_known
from ctp_runbook.record.kinds import (
    Cause,
    Closed,
    OrchestratorStarted,
    RequestAnswered,
    RequestTaken,
    StateEntered,
    StepStarted,
    Triggered,
    WatchDisturbed,
    WatchEnded,
)
from ctp_runbook.record.private_plan import load_private_plan, named_files
from ctp_runbook.record.rundir import RunDir, behind_path
from ctp_runbook.run.alerts import AlertDesk
from ctp_runbook.run.context import READING_SECONDS, RunContext
from ctp_runbook.run.guardian import GuardianWatch, Pulse, patience_with
from ctp_runbook.run.old_engine import OldEngineSampling
from ctp_runbook.run.proofs import observe, permission_of
from ctp_runbook.run.requests import STOPS, Asked, Inbox, answer_to
from ctp_runbook.run.rollback import RunEnd, roll_back, trouble_at, trouble_now
from ctp_runbook.run.starting import first_record, redactor_of
from ctp_runbook.run.switch import (
    generation_gone_gap,
    ready_gaps,
    run_gates,
    run_switch,
    session_gaps,
    state_gaps,
    warn_of_revival,
)
from ctp_runbook.run.vanished import FolderWatch
from ctp_runbook.run.window import Watch, disturbed
from ctp_runbook.run.world import HERE, World

__all__ = ["Orchestrator", "main"]

# All four members are looked at within this after a rollback's budget is used up.
_LAST_LOOK_SECONDS = 0.6
_LONGEST_ERROR = 300
# Writing the evidence of a long run on a busy machine; nothing that trades waits for it.
_FINALISE_SECONDS = 60.0


class Orchestrator:
    """One run, conducted from wherever its journal says it stands."""

    def __init__(
        self,
        run: RunDir,
        plan: Plan,
        *,
        cwd: Path,
        guardian_pid: int,
        lock_fd: int,
        journal_fd: int = -1,
        world: World = HERE,
    ) -> None:
        self.run = run
        self.journal = Journal(run.journal, fd=journal_fd, behind=behind_path(run))
        self._world, self._clock = world, world.clock
        self._pulse = Pulse(
            "orchestrator", lock_fd=lock_fd, patience=patience_with(plan), world=world
        )
        self.context = RunContext(
            run=run,
            plan=plan,
            journal=self.journal,
            cwd=cwd,
            environ=world.caller.environ(),
            interrupt=self.interrupt,
            alert=lambda occasion, sentence: self._alerts.call(self.context, occasion, sentence),
            beat=self._pulse.beat,
            world=world,
        )
        self._alerts = AlertDesk()
        self._inbox = Inbox(run, taken=self.journal.records, world=world)
        self._pending: list[RequestTaken] = self._unanswered()
        self._is_deaf = False
        self._clocks = self._clocks_since_last_record()
        self._is_watching = False
        self._probed = 0.0
        self._guardian = GuardianWatch(
            run, pid=guardian_pid, lock_fd=lock_fd, journal_fd=self.journal.fd, world=world
        )
        self._folder = FolderWatch(run, self.journal, world=world)

    # --- requests ----------------------------------------------------------------

    def interrupt(self) -> str:
        """Take requests in and answer them; a sentence when one ends what is being done."""
        self._guardian.look(self.context, can_leave=self._pulse.beat())
        self._folder.look(self._tell_loss)
        self._look_at_clocks()
        self._alerts.collect(self.context)
        for request in self._inbox.poll():
            self._take(request)
        for sentence in self._inbox.passed_over():
            self.context.warn(sentence)
        state = self.context.history.state
        if state is State.ROLLING_BACK or self._is_deaf:
            return ""
        if self._folder.lack and not self._is_touched:
            return self._folder.lack
        # While watching, any request is more urgent than a look that may take seconds. Before it, a
        # hold waits for the step under way: half a switch trades nothing.
        watching = state in (State.WATCHING, State.HOLDING)
        urgent = (each for each in self._pending if watching or each.request in STOPS)
        return next((request.sentence for request in urgent), "")

    def _tell_loss(self, sentence: str) -> None:
        """Tell what became of the run's folder wherever somebody may hear it: who reads the journal may
        be looking for it."""
        self._world.outcry.cry_out(f"run {self.run.run_id}: {sentence}")
        self.context.warn(sentence)
        self.context.alert("record_lost", sentence)

    def _look_at_clocks(self) -> None:
        """Write down that somebody set the wall clock, or that the host slept: durations are told
        by it, and the run is verified by it. The watch looks for itself, and oftener."""
        if self._is_watching:
            return
        self._clocks.look()
        for noted in self._clocks.take():
            # A pause of this process is none of the clocks', and a step that waits makes many.
            if noted.what != "paused":
                self.context.record(disturbed(noted))

    def _clocks_since_last_record(self) -> ClockWatch:
        """The clocks, looked at from the last record that nobody set them before: whoever wrote what
        came after it may have died before it saw that they were."""
        clocks = ClockWatch(self._clock)
        last = _before_untold_step(self.context.history, self._clock.boot_id())
        if last is not None:
            clocks.since(wall=last.wall.timestamp(), mono=last.mono)
        return clocks

    def _take(self, request: RequestTaken) -> None:
        """Write a request down, with what it comes to where the run stands."""
        history = self.context.history
        answer = answer_to(request.request, history, start=request.start)
        self.context.record(request)
        self.context.record(
            RequestAnswered(
                request=request.request,
                file=request.file,
                obeyed=answer.obeyed,
                sentence=answer.sentence,
            )
        )
        if answer.obeyed and history.state is not State.ROLLING_BACK:
            self._pending.append(request)
        if request.request == "go" and not answer.obeyed:
            # It is in the journal with its answer; nobody is to find it and wonder.
            with contextlib.suppress(OSError):
                self._inbox.discard(request)

    def _unanswered(self) -> list[RequestTaken]:
        """A stop that the orchestrator before this one took in and did not live to act on."""
        history = self.context.history
        asked = history.stop_asked
        if asked is None or history.state is State.ROLLING_BACK or history.closed:
            return []
        return [asked.payload]

    def _stop_asked(self) -> str:
        """An abort or rollback that waits to be acted on, or nothing."""
        self.interrupt()
        return next((each.sentence for each in self._pending if each.request in STOPS), "")

    def _take_requests(self) -> list[RequestTaken]:
        self.interrupt()
        taken, self._pending = self._pending, []
        return taken

    @contextlib.contextmanager
    def _deaf(self) -> Iterator[None]:
        """Let no request cut a look short: what was not asked to the end would count as dead."""
        self._is_deaf = True
        try:
            yield
        finally:
            self._is_deaf = False

    # --- the run, top to bottom --------------------------------------------------

    def begin(self, *, resumed: str, asked: Asked | None) -> None:
        """Write down that this process conducts the run, and what it was started for."""
        if self.context.history.outcome is not None:
            return
        self._pulse.beat()
        # Once the old stack was touched, going on matters more than a record of it.
        self.journal.tolerant = self._is_touched
        self.context.record(
            OrchestratorStarted(
                resumed=bool(resumed), reason=resumed, guardian=self._guardian.facts
            )
        )
        self._folder.look(self._tell_loss)
        self._look_at_clocks()
        if asked is not None and (request := asked.taken_with_start(self.context.history)):
            self._take(request)

    def conduct(self, *, resumed: str, must_roll_back: bool) -> Outcome:
        """Take the run to its end and close it."""
        history = self.context.history
        if history.outcome is not None:
            return history.outcome
        if history.parent is not None:
            return self._undo_parent(resumed)
        if resumed and (trouble := self._trouble_of_resuming(resumed, must_roll_back)):
            return self._undo(trouble)
        if must_roll_back and not self._is_touched:
            # What ends this process each time would end it again, and nobody conducted the run.
            why = f"interrupted too often before the switch: {resumed}"
            return self._close(RunEnd(Outcome.ABORTED_BEFORE_SWITCH, why))
        try:
            if history.watch_started is None and (end := self._end_before_switch()):
                return self._close(end)
            trouble = self._trouble_of_acting()
        except Exception as error:
            if not self._is_touched:
                return self._close(self._end_untouched(error))
            # A watch goes on in its next orchestrator. From the first stop to the watch nothing is worth as much as trading:
            # whatever was raised, by whatever input, it is undone; and so at any time what cannot
            # be recorded, for the rollback needs no record of itself.
            if _is_ours(error) and self.context.history.watch_started is not None:
                raise
            trouble = self._trouble_now("step_failed", _raised(error))
        if trouble:
            return self._undo(trouble)
        return self._close(RunEnd(Outcome.COMPLETED, "the watch window passed"))

    def _end_untouched(self, error: Exception) -> RunEnd:
        """End a run that cannot be recorded before the first stop, where that costs nothing. Any other
        error is raised: the guardian may try again."""
        if _is_ours(error):
            raise error
        return RunEnd(Outcome.ABORTED_BEFORE_SWITCH, self._folder.lack or _raised(error))

    def _end_before_switch(self) -> RunEnd | None:
        """Gates and READY; how the run ends with the old stack untouched, or None for a go."""
        self._enter(State.GATING, "the gates begin")
        self._probed = self._clock.mono()
        if gaps := ready_gaps(self.context):
            # What a request cut short could tell nothing: that is its doing, and no gap.
            if stop := self._stop_asked():
                return RunEnd(Outcome.ABORTED_BEFORE_SWITCH, stop)
            return RunEnd(Outcome.REFUSED, f"nothing was begun: {'; '.join(gaps)}")
        warn_of_revival(self.context)
        baseline = OldEngineSampling(self.context)
        baseline.start()
        try:
            failed = run_gates(self.context)
            baseline.warn_of_buckets()
            gap = failed.sentence if failed else self._gap_before_go()
        finally:
            # Before the first stop: an engine that is being stopped is no baseline of itself.
            baseline.end()
        return RunEnd(Outcome.ABORTED_BEFORE_SWITCH, gap) if gap else None

    def _trouble_of_acting(self) -> Triggered | None:
        """Switch, watch, and look once more; None when all of it is proved good."""
        if self.context.history.watch_started is None:
            self._enter(State.SWITCHING, "go")
            if failed := run_switch(self.context):
                return self._trouble_now("step_failed", failed.sentence)
            warn_of_revival(self.context, Generation.NEW)
        watch = Watch(self.context, requests=self._take_requests, clocks=self._clocks)
        # What the switch took is no pause of the watch, which looks for itself from here on.
        self._look_at_clocks()
        self._is_watching = True
        try:
            trouble = watch.run()
        finally:
            self._is_watching = False
        return trouble or self._trouble_of_old_generation()

    def _trouble_of_old_generation(self) -> Triggered | None:
        """A last whole look, by every witness: the glances of the watch do not ask the alive
        commands, and nobody is to read COMPLETED beside an old generation that runs."""
        until = self._clock.mono() + self.context.plan.limits.alive_timeout_seconds
        with self._deaf():
            gap = generation_gone_gap(self.context, Generation.OLD, deadline=until)
        return self._trouble_now("judge", f"the old generation is not gone: {gap}") if gap else None

    def _trouble_now(self, cause: Cause, sentence: str) -> Triggered:
        return trouble_now(cause, sentence, clock=self._clock)

    def let_alerts_end(self) -> None:
        """Give alerts under way their time; the run is over and its evidence is written."""
        self._pulse.beat(self.context.plan.limits.alert_timeout_seconds)
        self._alerts.drain(self.context)

    @property
    def _is_touched(self) -> bool:
        """True once a step of the switch was begun."""
        history = self.context.history
        switched = any(history.step(step.name).attempt for step in self.context.plan.switch)
        return switched or history.parent is not None

    def _gap_before_go(self) -> str:
        """READY until somebody says go; why it must not be gone on, or nothing."""
        self._enter(State.READY, "all gates passed")
        while not (stop := self.interrupt()) and self._is_waiting:
            self._inbox.wait()
        return stop or self._gap_before_stop()

    def _gap_before_stop(self) -> str:
        """What a last look right before the first stop finds in the way, or nothing."""
        plan, reviewed = self.context.plan, self.context.history.created.plan_sha256
        try:
            # Now, while a full disk costs nothing: from the first stop on it would cost the record.
            self.journal.reserve(plan.limits.journal_reserve_bytes)
        except JournalError as error:
            return str(error)
        self._pulse.beat(READING_SECONDS)
        if self._digest_now() != reviewed:
            return (
                f"a template, limits, watch rules, the CTP configuration or an executable changed "
                f"since the plan {reviewed[:12]}… was made; plan again"
            )
        # Asked again, for waiting took time: the window may be over, the session near its end.
        reasons = [*window_refusals(plan, now=self._world.now), *self._undo_refusals()]
        is_old = self._clock.mono() - self._probed > plan.limits.ready_probe_max_age_seconds
        # The state is asked for at any age: a moment later there is no way back without downtime.
        reasons += self._evidence_gaps()
        reasons += ready_gaps(self.context) if is_old else state_gaps(self.context)
        reasons += session_gaps(self.context, verified=True)
        return self.interrupt() or "; ".join(reasons)

    @property
    def _is_waiting(self) -> bool:
        """True in READY until somebody gave the go, and while somebody holds the run."""
        history = self.context.history
        return history.go is None or history.held is not None

    def _undo_refusals(self) -> tuple[str, ...]:
        """Why what is switched now could not be undone in time any more (waiting took long)."""
        created = self.context.history.created
        overrides = created.overrides
        return undo_refusals(
            self.context.plan,
            created.measured,
            now=self._world.now,
            accept_unmeasured=overrides.get("accept_unmeasured", ""),
            accept_late=overrides.get("accept_late", ""),
        )

    def _evidence_gaps(self) -> list[str]:
        """Where the copies of the evidence cannot be put any more: now it can be told in time."""
        plan, cwd = self.context.plan, self.context.cwd
        named = {
            "CUTOVER": plan.cutover_evidence_output,
            "ROLLBACK": plan.rollback_evidence_output,
        }
        return [
            f"{side}_EVIDENCE_OUTPUT {path!r} {gap}; clear the place, then plan again"
            for side, path in named.items()
            if (gap := evidence_gap(cwd / path, side=side))
        ]

    def _digest_now(self) -> str:
        files = named_files(self.context.history.created)
        plan = replace(self.context.plan, **files)
        return plan_digest(plan, base=self.context.cwd, environ=self._world.caller.environ())

    def _undo_parent(self, resumed: str) -> Outcome:
        """Roll back what a completed run switched; the clock runs since it was asked for."""
        self.interrupt()  # who asked, and why
        with contextlib.suppress(JournalError):
            self.journal.reserve(self.context.plan.limits.journal_reserve_bytes)
        history = self.context.history
        header, created = history.created, history.records[0]
        why = f": {header.reason}" if header.reason else ""
        sentence = f"rollback of run {header.parent_run} asked for by {header.created_by}{why}"
        if resumed:
            sentence = f"{sentence}; taken up again: {resumed}"
        if created.boot_id != self.journal.records[-1].boot_id:
            # Its monotonic instant means nothing in this boot.
            return self._undo(self._trouble_now("operator", sentence))
        wall, mono = created.wall.timestamp(), created.mono
        return self._undo(trouble_at("operator", sentence, wall=wall, mono=mono))

    def _undo(self, trouble: Triggered) -> Outcome:
        return self._close(roll_back(self.context, trouble))

    # --- coming back -------------------------------------------------------------

    def _trouble_of_resuming(self, reason: str, must_roll_back: bool) -> Triggered | None:
        """What an interrupted run is to be rolled back for; None when it may go on."""
        history = self.context.history
        if history.state is State.ROLLING_BACK or history.trigger is not None:
            return self._trouble_now("resume", f"the rollback goes on: {reason}")
        if not self._is_touched:
            return None
        stop = self._stop_asked()
        # A step that was under way may have done half of what it does, and its proof is lost: the
        # way back is proved step by step, the way forward would be guessed.
        if history.watch_started is None:
            why = stop or f"interrupted in the middle of the switch: {reason}"
            return self._trouble_since_first_stop("operator" if stop else "resume", why)
        if stop:
            return self._trouble_now("operator", stop)
        if must_roll_back:
            return self._trouble_now("resume", f"interrupted too often: {reason}")
        return self._trouble_while_away(reason)

    def _trouble_since_first_stop(self, cause: Cause, sentence: str) -> Triggered:
        """Trouble whose clock runs since the old stack stopped being whole, and not since somebody
        came to take the run up: trading has rested all the while."""
        switch = {step.name for step in self.context.plan.switch}
        started = self.context.history.of_kind(StepStarted)
        first = next((each for each in started if each.payload.step in switch), None)
        if first is None or first.boot_id != self.journal.records[-1].boot_id:
            # Its monotonic instant means nothing in this boot.
            return self._trouble_now(cause, sentence)
        return trouble_at(cause, sentence, wall=first.wall.timestamp(), mono=first.mono)

    def _trouble_while_away(self, reason: str) -> Triggered | None:
        # No process survives a reboot, whatever a pid file says of it.
        if len({record.boot_id for record in self.journal.records}) > 1:
            why = f"the host was rebooted during the watch: {reason}"
            return self._trouble_now("resume", why)
        with self._deaf():
            for member in self.context.plan.members_of(Generation.NEW):
                seen = observe(self.context, member, question="alive")
                if not seen.is_alive:
                    return self._trouble_now("member_died", seen.sentence)
        return None

    # --- the record --------------------------------------------------------------

    def _enter(self, state: State, reason: str) -> None:
        if self.context.history.state is not state:
            self.context.record(StateEntered(to=state, reason=reason))

    def _close(self, end: RunEnd) -> Outcome:
        # To the end: what is asked now cannot be obeyed, and the last look must be a whole one.
        self._is_deaf = True
        running = self._what_runs()
        end = end.as_seen(running)
        self._folder.look(self._tell_loss, at_once=True)
        self._look_at_clocks()
        for step in self.context.plan.gates + self.context.plan.switch:
            # Written down one by one: an empty status proves nothing.
            if step.name not in self.context.history.steps:
                reason, status = "the run ended before it", StepStatus.NOT_RUN
                self.context.record_not_done(step, reason=reason, status=status)
        known = self._known_instead() if end.outcome is Outcome.COMPLETED else ""
        beginning = _beginning(end.outcome, running, known)
        sentence = beginning + end.sentence + _ending(end.outcome, running)
        self._alerts.leave(self.context)
        if end.outcome is not Outcome.COMPLETED:
            self.context.alert("ended", f"{end.outcome.value}: {sentence}")
        self.context.record(
            Closed(
                outcome=end.outcome,
                exit_code=end.outcome.exit_code,
                sentence=sentence,
                failed_step=end.failed_step,
                running=running,
            )
        )
        if end.outcome is Outcome.ROLLBACK_FAILED:
            # Somebody must act at once, and nothing says that an alert hook is set or works.
            said = self.context.plan.redactor(sentence)
            self._world.outcry.cry_out(f"run {self.run.run_id}: {end.outcome.value}: {said}")
        return end.outcome

    def _known_instead(self) -> str:
        """What is known of the new generation where nothing proves that its orders move or may move."""
        context = self.context
        words = "alive, and nothing that was watched shows that its orders move"
        if context.plan.sessions[Generation.NEW].is_declared:
            engine = context.plan.member(Generation.NEW, Role.CORE_ENGINE)
            permission = permission_of(context, engine)
            if permission.mode == "Ready" and not permission.gap:
                return ""
            if permission.mode or permission.gap:
                return permission.words
        ended = context.history.watch_ended
        return "" if ended and _orders_moved(context.plan.watched, ended.payload) else words

    def _what_runs(self) -> dict[str, str]:
        """Each member: alive, gone or undecided; after a rollback soon after its budget's end."""
        begun = self.context.history.rollback_started
        until: float | None = None
        if begun is not None:
            ends = begun.payload.started_mono_ns / 1e9 + begun.payload.budget_seconds
            until = max(ends, self._clock.mono()) + _LAST_LOOK_SECONDS
        running = {}
        for name, member in self.context.plan.members.items():
            seen = observe(self.context, member, question="alive", deadline=until)
            # After a rollback a process of the new generation is one too many, whatever its command says.
            is_alive = seen.is_alive or (until is not None and seen.is_torn and _is_new(member))
            running[name] = "alive" if is_alive else "gone" if seen.is_gone else "undecided"
        return running


def _is_ours(error: Exception) -> bool:
    """True for what no disk is to blame for."""
    return not isinstance(error, JournalError | OSError)


def _raised(error: Exception) -> str:
    """What ended the way forward, in words; a long text of unknown making is left out."""
    if not _is_ours(error):
        return f"the run cannot be recorded: {error}"
    words = str(error)
    said = f": {words}" if words and len(words) <= _LONGEST_ERROR else ""
    return f"an error that nobody foresaw, {type(error).__name__}{said}"


def _beginning(outcome: Outcome, running: Mapping[str, str], known: str = "") -> str:
    """That the new generation trades, where the last look saw all of it alive, or what is ``known`` of
    it instead; else nothing."""
    if outcome is not Outcome.COMPLETED or not _is_alive(running, Generation.NEW):
        return ""
    return f"the new generation is {known}; " if known else "the new generation trades; "


def _is_new(member: Member) -> bool:
    return member.generation is Generation.NEW


def _is_alive(running: Mapping[str, str], generation: Generation) -> bool:
    """True where every part that the generation has was seen alive."""
    parts = [word for name, word in running.items() if name.startswith(f"{generation}_")]
    return bool(parts) and set(parts) == {"alive"}


def _ending(outcome: Outcome, running: Mapping[str, str]) -> str:
    """What the last look adds to the sentence of an end, or nothing."""
    runs = ", ".join(f"{name} {word}" for name, word in running.items())
    old = [word for name, word in running.items() if name.startswith(f"{Generation.OLD}_")]
    if outcome is Outcome.COMPLETED and (not _beginning(outcome, running) or {*old} - {"gone"}):
        return f"; what runs by the last look: {runs}"
    if outcome is Outcome.ROLLBACK_FAILED:
        return f". What runs now: {runs}. An operator must act now."
    if outcome is not Outcome.ABORTED_BEFORE_SWITCH:
        return ""
    # Not by what this run did, but by what is seen: the engine may have died by itself meanwhile.
    if _is_alive(running, Generation.OLD):
        return "; the old stack still trades, untouched"
    return f"; this run did not touch the old stack, but what runs now is: {runs}"


def _orders_moved(rules: Iterable[MetricRule], ended: WatchEnded) -> bool:
    """True where a metric passed that passes only while orders move."""
    passed = {name for name, end in ended.metrics.items() if end.verdict == Verdict.PASSED.name}
    return any(rule.shows_orders and rule.name in passed for rule in rules)


def _put_back(journal: Journal) -> None:
    """Let the evidence be derived from the journal by its name; where that cannot be, it is told."""
    with contextlib.suppress(JournalError):
        journal.put_back()
    journal.close()


def _finalise(run: RunDir, history: History, world: World) -> None:
    """Write what is derived of a run that is closed. Raises RunRefused when its folder takes it not."""
    ended = history.outcome.value if history.outcome else history.state.value

    # The run is over and nobody may follow it: what is missing elsewhere is not in its journal.
    def tell(gap: str) -> None:
        world.outcry.cry_out(
            f"run {run.run_id} ended {ended}, but {gap}; mend that, then `ctp-runbook resume --run "
            f"{run.path}` writes it"
        )

    try:
        finalise(run, tell=tell)
    except OSError as error:
        raise RunRefused(
            f"run {run.run_id} ended {ended}, and its evidence cannot be written: {error}"
        ) from error


def _before_untold_step(history: History, boot_id: str) -> Record | None:
    """The last record of this boot before a step of the wall clock that none of its records tells;
    where every step is told, the last one."""
    mine = [record for record in history.records if record.boot_id == boot_id]
    steps = [
        (each.payload.from_mono, each.mono)
        for each in history.of_kind(WatchDisturbed)
        if each.boot_id == boot_id
    ]
    for before, after in pairwise(mine):
        gained = (after.wall - before.wall).total_seconds() - (after.mono - before.mono)
        is_told = any(since <= after.mono and before.mono <= until for since, until in steps)
        if abs(gained) > STEP_SECONDS and not is_told:
            return before
    return mine[-1] if mine else None


def main(argv: list[str] | None = None, *, world: World = HERE) -> int:
    """``python -m ctp_runbook.run.orchestrator RUN_DIR``: what the guardian starts."""
    parser = argparse.ArgumentParser(prog="ctp_runbook.run.orchestrator")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", default="", help="why the run is taken up again")
    parser.add_argument("--roll-back", action="store_true")
    parser.add_argument("--guardian-pid", type=int, default=0)
    parser.add_argument("--lock-fd", type=int, default=-1)
    parser.add_argument("--journal-fd", type=int, default=-1, help="the journal, where it is open")
    parser.add_argument("--asked", default="", help="what the run was started for")
    options = parser.parse_args(argv)
    run = RunDir(options.run_dir)
    if options.lock_fd >= 0:
        world.locks.keep_from_children(options.lock_fd)
    try:
        # By what is open, where somebody has it open: the name may lead nowhere, or elsewhere.
        behind = behind_path(run)
        history = History.of(read_known(run.journal, behind, fd=options.journal_fd))
        if history.closed is not None:
            # The one before was killed, or found the disk full: this needs no plan, which may be gone.
            Pulse("orchestrator", lock_fd=options.lock_fd, world=world).beat(_FINALISE_SECONDS)
            _put_back(Journal(run.journal, fd=options.journal_fd, behind=behind))
            _finalise(run, history, world)
            return 0
        world.load()
        plan, cwd = load_private_plan(run, history.created)
        # Between the start and this record somebody may have closed the run: of the two one is first.
        with first_record(run, history, world=world):
            orchestrator = Orchestrator(
                run,
                plan,
                cwd=cwd,
                guardian_pid=options.guardian_pid,
                lock_fd=options.lock_fd,
                journal_fd=options.journal_fd,
                world=world,
            )
            asked = Asked.of(options.asked) if options.asked else None
            orchestrator.begin(resumed=options.resume, asked=asked)
        orchestrator.conduct(resumed=options.resume, must_roll_back=options.roll_back)
        _put_back(orchestrator.journal)
        orchestrator.context.beat(_FINALISE_SECONDS)
        try:
            _finalise(run, orchestrator.context.history, world)
        finally:
            orchestrator.let_alerts_end()
    except RunbookError as error:
        said = redactor_of(run, world=world)(str(error))
        print(f"orchestrator: {said}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
