"""The orchestrator: the one process that acts. Gates, READY, switch, watch, verdict, rollback.

It is detached from whoever asked for the run and owns the journal. Started again by the
guardian after a crash, it reads the journal, looks at the world, and goes on or rolls back;
there is no moment between the first stop and the last record that it leaves undecided.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from ctp_runbook.errors import JournalError, RunbookError
from ctp_runbook.model import Generation, Outcome, Role, State, StepStatus
from ctp_runbook.plan.plan import Plan, plan_digest, window_refusals
from ctp_runbook.plan.timing import undo_refusals
from ctp_runbook.record.evidence import finalise
from ctp_runbook.record.journal import Journal
from ctp_runbook.record.private_plan import load_private_plan, named_files
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.alerts import AlertDesk
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.guardian import GuardianWatch
from ctp_runbook.run.old_engine import OldEngineSampling
from ctp_runbook.run.proofs import observe
from ctp_runbook.run.requests import STOPS, Asked, Inbox, Request, answer_to
from ctp_runbook.run.rollback import RollbackEnd, Trouble, roll_back
from ctp_runbook.run.starting import first_record
from ctp_runbook.run.switch import (
    generation_gone_gap,
    ready_gaps,
    run_gates,
    run_switch,
    state_gaps,
)
from ctp_runbook.run.window import Watch

__all__ = ["Orchestrator", "main"]

_READY_POLL_SECONDS = 0.1
# All four members are looked at within this after a rollback's budget is used up.
_LAST_LOOK_SECONDS = 0.6


class Orchestrator:
    """One run, conducted from wherever its journal says it stands."""

    def __init__(
        self, run: RunDir, plan: Plan, *, cwd: Path, guardian_pid: int, lock_fd: int
    ) -> None:
        self.run = run
        self.journal = Journal(run.journal)
        self.context = RunContext(
            run=run,
            plan=plan,
            journal=self.journal,
            cwd=cwd,
            environ=dict(os.environ),
            interrupt=self.interrupt,
            alert=lambda occasion, sentence: self._alerts.call(self.context, occasion, sentence),
        )
        self._alerts = AlertDesk()
        self._inbox = Inbox(run, taken=self.journal.records)
        self._pending: list[Request] = self._unanswered()
        self._is_deaf = False
        self._probed = 0.0
        self._guardian = GuardianWatch(run, pid=guardian_pid, lock_fd=lock_fd)

    # --- requests ----------------------------------------------------------------

    def interrupt(self) -> str:
        """Take requests in and answer them; a sentence when one ends what is being done."""
        self._guardian.look(self.context)
        self._alerts.collect(self.context)
        for request in self._inbox.poll():
            self._take(request)
        state = self.context.history.state
        if state is State.ROLLING_BACK or self._is_deaf:
            return ""
        # While watching, any request is more urgent than a look that may take seconds.
        watching = state in (State.WATCHING, State.HOLDING)
        stops = [one for one in self._pending if watching or one.request in STOPS]
        return stops[0].sentence if stops else ""

    def _take(self, request: Request) -> None:
        """Write a request down, with what it comes to where the run stands."""
        history = self.context.history
        answer = answer_to(request.request, history, start=request.start)
        self.context.record("control", **request.__dict__)
        self.context.record(
            "answer",
            request=request.request,
            file=request.file,
            obeyed=answer.obeyed,
            sentence=answer.sentence,
        )
        if answer.obeyed and history.state is not State.ROLLING_BACK:
            self._pending.append(request)
        if request.request == "go" and not answer.obeyed:
            # It is in the journal with its answer; nobody is to find it and wonder.
            with contextlib.suppress(OSError):
                (self.run.control / request.file).unlink()

    def _unanswered(self) -> list[Request]:
        """A stop that the orchestrator before this one took in and did not live to act on."""
        history = self.context.history
        asked = history.stop_asked
        if asked is None or history.state is State.ROLLING_BACK or history.closed:
            return []
        keys = ("request", "by", "reason", "requested_utc", "file")
        request, by, reason, asked_utc, file = (str(asked.payload.get(key, "")) for key in keys)
        return [Request(request, by, reason, asked_utc, file)]

    def _stop_asked(self) -> str:
        """An abort or rollback that waits to be acted on, or nothing."""
        self.interrupt()
        return next((one.sentence for one in self._pending if one.request in STOPS), "")

    def _take_requests(self) -> list[Request]:
        self.interrupt()
        taken, self._pending = self._pending, []
        return taken

    # --- the run, top to bottom --------------------------------------------------

    def begin(self, *, resumed: str, asked: Asked | None) -> None:
        """Write down that this process conducts the run, and what it was started for."""
        if self.context.history.outcome is not None:
            return
        # Once the old stack was touched, going on matters more than a record of it.
        self.journal.tolerant = self._is_touched
        self.context.record(
            "orchestrator_started",
            resumed=bool(resumed),
            reason=resumed,
            guardian=self._guardian.described,
        )
        if asked is not None and (request := asked.request_to(self.context.history)):
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
        try:
            ended = self._before_watch() if history.watch_started is None else None
            if isinstance(ended, Outcome):
                return ended
            trouble = ended or Watch(self.context, requests=self._take_requests).run()
            trouble = trouble or self._old_is_back()
        except (JournalError, OSError) as error:
            if not self._is_touched:
                raise
            trouble = Trouble.now("step_failed", f"the run cannot be recorded: {error}")
        if trouble:
            return self._undo(trouble)
        return self._close(Outcome.COMPLETED, "the new generation trades; the watch window passed")

    def _old_is_back(self) -> Trouble | None:
        """A last whole look, by every witness: the glances of the watch do not ask the alive
        commands, and nobody is to read COMPLETED beside an old generation that runs."""
        self._is_deaf = True
        until = time.monotonic() + self.context.plan.limits.alive_timeout_seconds
        gap = generation_gone_gap(self.context, Generation.OLD, deadline=until)
        self._is_deaf = False
        return Trouble.now("judge", f"the old generation is not gone: {gap}") if gap else None

    def let_alerts_end(self) -> None:
        """Give alerts under way their time; the run is over and its evidence is written."""
        self._alerts.drain(seconds=self.context.plan.limits.alert_timeout_seconds)

    @property
    def _is_touched(self) -> bool:
        """True once a step of the switch was begun."""
        history = self.context.history
        switched = any(history.step(step.name).attempt for step in self.context.plan.switch)
        return switched or history.parent is not None

    def _before_watch(self) -> Outcome | Trouble | None:
        """Gates, READY, switch. An Outcome when the run is over with the old stack untouched."""
        self._enter(State.GATING, "the gates begin")
        self._probed = time.monotonic()
        if gaps := ready_gaps(self.context):
            return self._close(Outcome.REFUSED, f"nothing was begun: {'; '.join(gaps)}")
        baseline = OldEngineSampling(self.context)
        baseline.start()
        try:
            refused = self._gate() or self._wait_until_go()
        finally:
            baseline.end()
        if refused:
            return self._close(Outcome.ABORTED_BEFORE_SWITCH, refused)
        self._enter(State.SWITCHING, "go")
        failed = run_switch(self.context)
        if failed is None:
            return None
        return Trouble.now("step_failed", failed.sentence)

    def _gate(self) -> str:
        failed = run_gates(self.context)
        return failed.sentence if failed else ""

    def _wait_until_go(self) -> str:
        """READY until somebody says go; why not, or nothing. Looks again right before the stop."""
        self._enter(State.READY, "all gates passed")
        while not (stop := self.interrupt()) and self._is_waiting:
            time.sleep(_READY_POLL_SECONDS)
        if stop:
            return stop
        plan, reviewed = self.context.plan, self.context.history.created["plan_sha256"]
        try:
            self.journal.reserve(plan.limits.journal_reserve_bytes)
        except JournalError as error:
            return str(error)
        if self._digest_now() != reviewed:
            return (
                f"a template, limits, watch rules, the CTP configuration or an executable changed "
                f"since the plan {reviewed[:12]}… was made; plan again"
            )
        reasons = [*window_refusals(plan, now=datetime.now(UTC)), *self._undo_refusals()]
        is_old = time.monotonic() - self._probed > plan.limits.ready_probe_max_age_seconds
        # The state is asked for at any age: a moment later there is no way back without downtime.
        reasons += ready_gaps(self.context) if is_old else state_gaps(self.context)
        return self.interrupt() or "; ".join(reasons)

    @property
    def _is_waiting(self) -> bool:
        """True in READY until somebody gave the go, and while somebody holds the run."""
        history = self.context.history
        return history.go is None or history.held is not None

    def _undo_refusals(self) -> tuple[str, ...]:
        """Why what is switched now could not be undone in time any more (waiting took long)."""
        created = self.context.history.created
        overrides = created.get("overrides", {})
        return undo_refusals(
            self.context.plan,
            created.measured,
            now=datetime.now(UTC),
            accept_unmeasured=str(overrides.get("accept_unmeasured", "")),
            accept_late=str(overrides.get("accept_late", "")),
        )

    def _digest_now(self) -> str:
        files = named_files(self.context.history.created)
        plan = replace(self.context.plan, **files)
        return plan_digest(plan, base=self.context.cwd, environ=os.environ)

    def _undo_parent(self, resumed: str) -> Outcome:
        """Roll back what a completed run switched; the clock runs since it was asked for."""
        self.interrupt()  # who asked, and why
        with contextlib.suppress(JournalError):
            self.journal.reserve(self.context.plan.limits.journal_reserve_bytes)
        created = self.journal.records[0]
        parent, by = created.payload["parent_run"], created.payload["created_by"]
        why = f": {created.payload['reason']}" if created.payload.get("reason") else ""
        told = f"rollback of run {parent} asked for by {by}{why}"
        if resumed:
            told = f"{told}; taken up again: {resumed}"
        wall, mono = created.wall.timestamp(), created.mono_ns / 1e9
        if created.boot_id != self.journal.records[-1].boot_id:
            wall, mono = time.time(), time.monotonic()
        return self._undo(Trouble("operator", told, wall, mono))

    def _undo(self, trouble: Trouble) -> Outcome:
        end: RollbackEnd = roll_back(self.context, trouble)
        return self._close(end.outcome, end.sentence, failed_step=end.failed_step)

    # --- coming back -------------------------------------------------------------

    def _trouble_of_resuming(self, reason: str, must_roll_back: bool) -> Trouble | None:
        """What an interrupted run is to be rolled back for; None when it may go on."""
        history = self.context.history
        touched = self._is_touched
        if history.state is State.ROLLING_BACK or history.trigger is not None:
            return Trouble.now("resume", f"the rollback goes on: {reason}")
        if touched and history.watch_started is None:
            return Trouble.now("resume", f"interrupted in the middle of the switch: {reason}")
        if touched and (stop := self._stop_asked()):
            return Trouble.now("operator", stop)
        if touched and must_roll_back:
            return Trouble.now("resume", f"interrupted too often: {reason}")
        if history.watch_started is not None:
            return self._lost_while_away(reason)
        return None

    def _lost_while_away(self, reason: str) -> Trouble | None:
        boots = {record.boot_id for record in self.journal.records}
        if len(boots) > 1:
            return Trouble.now("resume", f"the host was rebooted during the watch: {reason}")
        self._is_deaf = True  # a look that a request cuts short would count as a death
        try:
            for role in Role:
                member = self.context.plan.member(Generation.NEW, role)
                seen = observe(self.context, member, question="alive")
                if not seen.is_alive:
                    return Trouble.now("member_died", seen.sentence)
            return None
        finally:
            self._is_deaf = False

    # --- the record --------------------------------------------------------------

    def _enter(self, state: State, reason: str) -> None:
        if self.context.history.state is not state:
            self.context.record("state", to=state.value, reason=reason)

    def _close(self, outcome: Outcome, sentence: str, *, failed_step: str = "") -> Outcome:
        self._is_deaf = True
        running = self._what_runs()
        _mark_not_run(self.context)
        runs = ", ".join(f"{name} {word}" for name, word in running.items())
        old_lives = all(running[f"{Generation.OLD}_{role}"] == "alive" for role in Role)
        told = sentence
        if outcome is Outcome.ROLLBACK_FAILED:
            told = f"{sentence}. What runs now: {runs}. An operator must act now."
        elif outcome is Outcome.ABORTED_BEFORE_SWITCH and old_lives:
            told = f"{sentence}; the old stack still trades, untouched"
        elif outcome is Outcome.ABORTED_BEFORE_SWITCH:
            told = f"{sentence}; this run did not touch the old stack, but what runs now is: {runs}"
        self._alerts.leave(self.context)
        if outcome is not Outcome.COMPLETED:
            self.context.alert("ended", f"{outcome.value}: {told}")
        self.context.record(
            "closed",
            outcome=outcome.value,
            exit_code=outcome.exit_code,
            sentence=told,
            failed_step=failed_step,
            running=running,
        )
        return outcome

    def _what_runs(self) -> dict[str, str]:
        """Each member: alive, gone or undecided; after a rollback soon after its budget's end."""
        begun = self.context.history.rollback_started
        until: float | None = None
        if begun is not None:
            budget = float(begun.payload["budget_seconds"])
            ends = float(begun.payload["started_mono_ns"]) / 1e9 + budget
            until = max(ends, time.monotonic()) + _LAST_LOOK_SECONDS
        running = {}
        for name, member in self.context.plan.members.items():
            seen = observe(self.context, member, question="alive", deadline=until)
            running[name] = "alive" if seen.is_alive else "gone" if seen.is_gone else "undecided"
        return running


def _mark_not_run(context: RunContext) -> None:
    """Steps nobody reached are written down as such; an empty status proves nothing."""
    history = context.history
    steps = context.plan.gates + context.plan.switch
    for step in steps:
        if history.step(step.name).status is StepStatus.NOT_RUN and step.name not in history.steps:
            context.record(
                "step_not_done",
                step=step.name,
                phase=step.phase.value,
                status=StepStatus.NOT_RUN.value,
                reason="the run ended before it",
                command=step.command,
            )


def main(argv: list[str] | None = None) -> int:
    """``python -m ctp_runbook.run.orchestrator RUN_DIR``: what the guardian starts."""
    parser = argparse.ArgumentParser(prog="ctp_runbook.run.orchestrator")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", default="", help="why the run is taken up again")
    parser.add_argument("--roll-back", action="store_true")
    parser.add_argument("--guardian-pid", type=int, default=0)
    parser.add_argument("--lock-fd", type=int, default=-1)
    parser.add_argument("--asked", default="", help="what the run was started for")
    options = parser.parse_args(argv)
    run = RunDir(options.run_dir)
    if options.lock_fd >= 0:
        os.set_inheritable(options.lock_fd, False)
    try:
        plan, cwd = load_private_plan(run)
        with first_record(run):
            orchestrator = Orchestrator(
                run, plan, cwd=cwd, guardian_pid=options.guardian_pid, lock_fd=options.lock_fd
            )
            orchestrator.begin(resumed=options.resume, asked=Asked.of(options.asked))
        orchestrator.conduct(resumed=options.resume, must_roll_back=options.roll_back)
        orchestrator.journal.close()
        finalise(run)
        orchestrator.let_alerts_end()
    except RunbookError as error:
        print(f"orchestrator: {error}", file=sys.stderr, flush=True)
        return 70
    return 0


if __name__ == "__main__":
    sys.exit(main())
