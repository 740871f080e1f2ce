"""The guardian: parent of the orchestrator, child subreaper, without a policy of its own.

When the orchestrator dies it ends the step group that is left over and starts
``orchestrate --resume`` again; after ``restarts_max`` times, with the order to roll back. Should
the guardian die, the orchestrator starts another, which adopts it.

One that hangs (stopped, or held up in a call) is as good as dead, and worse: it may wake. Each of
the two leaves signs of life with the lock, from the thread that does its work; the other ends one
that leaves none, by KILL, and takes its place only when it is proved gone.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import keep_elsewhere, open_journal, read_journal, read_known
from ctp_runbook.record.kinds import GuardianFacts, GuardianStarted
from ctp_runbook.record.rundir import RunDir, behind_path
from ctp_runbook.run.world import HERE, World

if TYPE_CHECKING:  # the guardian itself stays small
    from ctp_runbook.host.heartbeat import Beat, Who
    from ctp_runbook.plan.plan import Plan
    from ctp_runbook.run.context import RunContext

__all__ = [
    "GuardianWatch",
    "Listener",
    "Pulse",
    "end_leftovers",
    "is_not_taken_up",
    "main",
    "patience_with",
    "shares_control_group",
    "spawn_guardian",
]

_LOOK_SECONDS = 0.2
_GUARDIAN_LOOK_SECONDS = 0.5
# With the pauses between them about 25 s: long enough for a disk that is full for a moment. What
# cannot be started in that time needs a person, who is called.
_ATTEMPTS_MAX = 8
_PAUSE_SECONDS = 0.3
_PAUSE_MAX_SECONDS = 5.0
# Ten signs of life a second come from a healthy one. What may lie between two on a busy machine is
# a sync to disk that waits for others' writes: a second or two, and seldom more than five.
_PATIENCE_SECONDS = 10.0
_LEAST_PATIENCE_SECONDS = 5.0
# What is waited for comes out of the rollback's budget where trading rests, and a second more to
# take over. With a sixth of it gone the step that hung can be run again from its start (the longest
# is owed a quarter) and all the others have their shares, if only each left a tenth of its own. The
# 60 s and 180 s of the shipped templates are asked for no more than the ten; of a budget too small
# for the least patience more is lost than that: a healthy one that is ended would cost all of it.
_PATIENCE_SHARE = 1 / 6
# Until its first sign: two imports, the plan, and at most 10 s for the right to the first record.
_START_SECONDS = 15.0
# After a KILL nobody acts any more; one that is still there waits in the kernel.
_KILLED_SECONDS = 5.0
# A longer time between two looks is one in which whoever looks did not run either.
_AWAKE_SECONDS = 1.0
_DIED = "the orchestrator died and was started again"


def main(argv: list[str] | None = None, *, world: World = HERE) -> int:
    """``python -m ctp_runbook.run.guardian RUN_DIR --lock-fd N [--adopt PID]``."""
    parser = argparse.ArgumentParser(prog="ctp_runbook.run.guardian")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--lock-fd", type=int, required=True)
    parser.add_argument("--journal-fd", type=int, default=-1, help="the journal, where it is open")
    parser.add_argument("--adopt", type=int, default=0)
    parser.add_argument("--resume", default="", help="why the run is taken up again")
    parser.add_argument("--asked", default="", help="what the run is started for")
    options = parser.parse_args(argv)
    pulse = Pulse("guardian", lock_fd=options.lock_fd, world=world)
    run, journal = RunDir(options.run_dir), options.journal_fd
    if journal < 0:
        # Held open from now on: whoever takes the run's folder away takes its names, and not this.
        journal = open_journal(run.journal)
    guardian = _Guardian(run, options.lock_fd, journal, options.asked, pulse, world)
    return guardian.keep(adopt=options.adopt, resume=options.resume)


def patience_with(plan: Plan) -> float:
    """How long an orchestrator of this plan may be silent before it is taken for hung."""
    share = plan.max_rollback_seconds * _PATIENCE_SHARE
    least = min(_PATIENCE_SECONDS, max(_LEAST_PATIENCE_SECONDS, share))
    return least + plan.limits.effect_poll_seconds  # which it sleeps between two looks


class Pulse:
    """The signs of life of the calling process; to be left by the thread that does its work, or
    they would go on over work that stands still."""

    def __init__(
        self, who: Who, *, lock_fd: int, patience: float = _PATIENCE_SECONDS, world: World = HERE
    ) -> None:
        self._who, self._lock_fd, self._world, self._patience = who, lock_fd, world, patience
        self._own = world.processes.own_identity()

    def beat(self, busy: float = 0.0) -> bool:
        """Leave one, before something that may take ``busy`` seconds; False where it cannot be left.

        Who cannot must not judge another by his silence: it may be the same disk that is full.
        """
        if self._lock_fd < 0:
            return False
        from ctp_runbook.host.heartbeat import Beat

        now, own = self._world.clock.mono(), self._own
        beat = Beat(own.pid, own.start_ticks, now, busy, self._patience)
        return self._world.hearts.write_beat(self._lock_fd, self._who, beat)


class Listener:
    """How long another process has been silent, in seconds in which the caller was awake to hear it.

    Both may have been stopped, or the machine have had no time for either: silence that nobody
    listened to proves nothing. To be asked several times a second.
    """

    def __init__(self, who: Who, of: Identity, *, lock_fd: int, world: World = HERE) -> None:
        self._who, self._of, self._lock_fd, self._world = who, of, lock_fd, world
        self._last: Beat | None = None
        self._looked, self.silent = world.clock.mono(), 0.0

    def overdue(self, *, can_leave: bool, before_first: float = math.inf) -> float:
        """For how long it has been silent beyond what it may be; 0.0 where it has not.

        ``before_first``: how long it may be until its first sign; one of another version gives
        none. Without one of its own (not ``can_leave``) the caller hears none either.
        """
        now = self._world.clock.mono()
        awake, self._looked = min(now - self._looked, _AWAKE_SECONDS), now
        beat = self._world.hearts.read_beat(self._lock_fd, self._who)
        heard = beat if beat is not None and beat.is_of(self._of) else self._last
        is_silent = can_leave and heard == self._last
        self._last, self.silent = heard, self.silent + awake if is_silent else 0.0
        return max(0.0, self.silent - (heard.allowed if heard else before_first))


@dataclass(frozen=True)
class _Guardian:
    """Keeps one run conducted; ``lock`` is the environment's and ``journal`` the run's, open: both are
    handed on to each orchestrator."""

    run: RunDir
    lock: int
    journal: int
    asked: str
    pulse: Pulse
    world: World

    def keep(self, *, adopt: int, resume: str) -> int:
        """Start an orchestrator, or adopt one, and another whenever it dies; an exit code."""
        # A step's command whose orchestrator dies comes to this process, and not to init: its end
        # is seen, and no zombie keeps a pid that somebody is asked about.
        self.world.daemons.adopt_orphans()
        # Now: when it is needed, there may be nothing left to import it from.
        cry_out = self.world.outcry.cry_out
        self.pulse.beat()
        if adopt:
            orchestrator = self.world.processes.identity_of(adopt)
        else:
            if resume:
                # Of those who were both ended: nobody else saw that step's end either.
                with contextlib.suppress(JournalError):
                    end_leftovers(self._history, world=self.world)
            orchestrator = self._start(resume=resume, roll_back=False)
        # One that was adopted may be of a version that gives no sign of life.
        before_first = math.inf if adopt else _START_SECONDS
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            how = self._wait(orchestrator, before_first=before_first) if orchestrator else _DIED
            if self._is_finished:
                return 0
            if attempt < _ATTEMPTS_MAX:
                # The first time at once: with both generations down every second is paid for.
                pause = min(_PAUSE_SECONDS * (attempt - 1), _PAUSE_MAX_SECONDS)
                self.pulse.beat(busy=pause)
                self.world.clock.sleep(pause)
                orchestrator = self._restart(how, restarts=attempt - 1)
                before_first = _START_SECONDS
        lack = (
            "it is over, but its evidence cannot be written"
            if self._is_closed
            else "the orchestrator cannot be kept alive; nobody conducts the run"
        )
        cry_out(f"guardian: run {self.run.run_id}: {lack}: {self._remedy()}")
        return 1

    def _remedy(self) -> str:
        """What to do about a run that is given up; with this process the open journal is gone."""
        place = keep_elsewhere(self.journal, self.run.journal)
        if place == str(self.run.journal):
            return f"see {self.run.logs}, then `ctp-runbook resume --run {self.run.path}`"
        kept = f"its journal is kept as {place}" if place else "its journal is lost"
        return (
            f"{self.run.path} was taken away and cannot be made again; {kept}. Look at the engines "
            "now, and decide by hand"
        )

    def _wait(self, orchestrator: Identity, *, before_first: float) -> str:
        """Wait until the orchestrator is gone, and end it where it hangs; what became of it.

        Whatever was orphaned meanwhile is let go. Nothing is started in the place of one that was
        ended before it is proved gone: it may wake at any moment, and would go on.
        """
        processes = self.world.processes
        listener = Listener("orchestrator", orchestrator, lock_fd=self.lock, world=self.world)
        became, is_told = _DIED, False
        while not processes.wait_gone(orchestrator, seconds=_LOOK_SECONDS):
            self.world.daemons.reap()
            can_leave = self.pulse.beat()
            overdue = listener.overdue(can_leave=can_leave, before_first=before_first)
            if not overdue:
                continue
            became = (
                f"the orchestrator hung, with no sign of life for {listener.silent:.0f} s; it was "
                "ended and another started"
            )
            processes.kill_process(orchestrator, seconds=_LOOK_SECONDS)
            if overdue > _KILLED_SECONDS and not is_told:
                is_told = True
                self.world.outcry.cry_out(
                    f"guardian: run {self.run.run_id}: the orchestrator (pid {orchestrator.pid}) "
                    f"hangs in the kernel since {listener.silent:.0f} s and cannot be ended, and "
                    "nothing is started beside it: see which disk or file system does not answer"
                )
        self.world.daemons.reap()
        return became

    @property
    def _is_finished(self) -> bool:
        """True when the journal is closed and the manifest, written last, is there."""
        with contextlib.suppress(JournalError):
            # By the file alone: what is kept behind it is still to be written, and sealed with it.
            on_record = History.of(read_journal(self.run.journal, fd=self.journal).records)
            return on_record.closed is not None and self.world.files.exists(self.run.manifest)
        return False

    @property
    def _is_closed(self) -> bool:
        with contextlib.suppress(JournalError):
            return self._history.closed is not None
        return False

    @property
    def _history(self) -> History:
        return History.of(read_known(self.run.journal, behind_path(self.run), fd=self.journal))

    def _restart(self, became: str, *, restarts: int) -> Identity | None:
        """Start the orchestrator again; ``restarts`` counts also what no journal could record."""
        print(f"guardian: {became}", file=sys.stderr, flush=True)
        try:
            history = self._history
        except JournalError as error:
            print(f"guardian: {error}", file=sys.stderr, flush=True)
            return None
        # Before anything is started: a stop command that still runs would stop what comes next.
        step = end_leftovers(history, world=self.world)
        leftovers = f"; ended the group of {step}" if step else ""
        return self._start(
            resume=f"{became}{leftovers}",
            # What kills it each time kills the next one too: the old stack is known to work.
            roll_back=max(restarts, history.restarts) >= history.created.restarts_max,
        )

    def _start(self, *, resume: str, roll_back: bool) -> Identity | None:
        command = _command(
            "orchestrator",
            self.run,
            guardian_pid=str(self.world.processes.own_identity().pid),
            lock_fd=str(self.lock),
            journal_fd=str(self.journal),
            resume=resume,
            roll_back=roll_back,
            # Each time: the one before may have died before it wrote down what it was started for.
            asked=self.asked,
        )
        log = self.run.logs / "orchestrator.log"
        try:
            pid = self.world.daemons.spawn_detached(
                command, log=log, lock=self.lock, others=[self.journal]
            )
        except OSError as error:  # no process to be had, say; the next attempt may get one
            print(f"guardian: no orchestrator can be started: {error}", file=sys.stderr, flush=True)
            return None
        return self.world.processes.identity_of(pid)


def _command(module: str, run: RunDir, **options: str | bool) -> list[str]:
    """The command line of a module of this room; an option that says nothing is left out."""
    words = [sys.executable, "-m", f"ctp_runbook.run.{module}", str(run.path)]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value:
            words.append(f"--{name.replace('_', '-')}={value}")
    return words


def end_leftovers(history: History, *, world: World = HERE) -> str:
    """End the process group of a step whose end nobody saw; the step's name, if there was one."""
    processes = world.processes
    for step in history.unfinished:
        leader = processes.identity_of(step.pid)
        is_reused = leader is not None and leader.start_ticks != step.start_ticks
        if step.pid and not is_reused and processes.group_members(step.pid):
            processes.end_group(step.pid, term_grace=1.0, kill_grace=2.0)
            return step.name
    return ""


def spawn_guardian(
    run: RunDir,
    *,
    lock_fd: int,
    journal_fd: int = -1,
    adopt: int = 0,
    resume: str = "",
    asked: str = "",
    world: World = HERE,
) -> Identity:
    """Start a guardian in a session (and where systemd runs, a scope) of its own. Raises OSError."""
    prefix, _ = world.daemons.scope_prefix()
    others = [journal_fd] if journal_fd >= 0 else []
    command = _command(
        "guardian",
        run,
        lock_fd=str(lock_fd),
        journal_fd="".join(map(str, others)),
        adopt=str(adopt or ""),
        resume=resume,
        asked=asked,
    )
    pid = world.daemons.spawn_detached(
        [*prefix, *command], log=run.logs / "guardian.log", lock=lock_fd, others=others
    )
    return world.processes.identity_of(pid) or Identity(pid, 0)


def shares_control_group(*, world: World = HERE) -> str:
    """A warning when what is started here ends with the caller's control group; else nothing."""
    _, lack = world.daemons.scope_prefix()
    if not lack:
        return ""
    return (
        f"{lack}: the run stays in this process's control group, and stopping "
        "that group (as a service manager stops Jupyter) stops the run, undecided. Start it from "
        "a login shell or tmux, and take it up again with `ctp-runbook resume` if it is stopped"
    )


def is_not_taken_up(*, world: World = HERE) -> str:
    """A warning when nothing takes the run up after a reboot, or when all of it was killed; else
    nothing."""
    lack = world.daemons.take_up_lack()
    if not lack:
        return ""
    return (
        f"{lack}: after a reboot of this host, or when orchestrator and guardian are killed at one "
        "instant, nobody takes this run up by himself and a half-switched stack stays so; "
        "`ctp-runbook resume` takes it up, and `ctp-runbook status` exits with 7 until then"
    )


class GuardianWatch:
    """The orchestrator's eye on its guardian: one that is dead, or hangs, is replaced."""

    def __init__(
        self,
        run: RunDir,
        *,
        pid: int,
        lock_fd: int,
        journal_fd: int = -1,
        world: World = HERE,
    ) -> None:
        self._run, self._lock_fd, self._world = run, lock_fd, world
        self._journal_fd = journal_fd
        self._identity = world.processes.identity_of(pid) if pid else None
        self._next_look = 0.0
        self._listener = self._listening()

    def _listening(self) -> Listener | None:
        if self._identity is None:
            return None
        return Listener("guardian", self._identity, lock_fd=self._lock_fd, world=self._world)

    @property
    def facts(self) -> GuardianFacts | None:
        """Who it is, for the record; None when there is none."""
        known = self._identity
        return GuardianFacts(pid=known.pid, start_ticks=known.start_ticks) if known else None

    def look(self, context: RunContext, *, can_leave: bool = True) -> None:
        """Look at most twice a second; start a new guardian when the old one is gone.

        ``can_leave`` says whether the caller could leave a sign of life of its own just now.
        """
        now = self._world.clock.mono()
        # Without the lock there is nothing to hand on: it is conducted by whoever started it.
        if self._lock_fd < 0 or now < self._next_look:
            return
        self._next_look = now + _GUARDIAN_LOOK_SECONDS
        if (became := self._end_of_guardian(can_leave=can_leave)) is None:
            return
        own = self._world.processes.own_identity().pid
        try:
            self._identity = spawn_guardian(
                self._run,
                lock_fd=self._lock_fd,
                journal_fd=self._journal_fd,
                adopt=own,
                world=self._world,
            )
        except OSError:
            # Half a rollback is not left for want of a guard; the next look tries again.
            return
        self._listener = self._listening()
        context.record(
            GuardianStarted(
                pid=self._identity.pid, start_ticks=self._identity.start_ticks, reason=became
            )
        )

    def _end_of_guardian(self, *, can_leave: bool) -> str | None:
        """What became of the guardian; None while there is one, and where there never was."""
        if self._identity is None or self._listener is None:
            return None
        if not self._world.processes.is_running(self._identity):
            return "the one before it died"
        if not self._listener.overdue(can_leave=can_leave):
            return None
        # Its own end is proved before there is another: two would both start an orchestrator.
        if not self._world.processes.kill_process(self._identity, seconds=_LOOK_SECONDS):
            return None
        silent = self._listener.silent
        return f"the one before it hung, with no sign of life for {silent:.0f} s, and was ended"


if __name__ == "__main__":
    sys.exit(main())
