"""The guardian: parent of the orchestrator, child subreaper, without a policy of its own.

When the orchestrator dies it ends the step group that is left over and starts
``orchestrate --resume`` again; after ``restarts_max`` times, with the order to roll back. Should
the guardian die, the orchestrator starts another, which adopts it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.model import Identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import keep_elsewhere, open_journal, read_journal
from ctp_runbook.record.kinds import GuardianFacts, GuardianStarted
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.world import HERE, World

if TYPE_CHECKING:  # the guardian itself stays small
    from ctp_runbook.run.context import RunContext

__all__ = ["GuardianWatch", "end_leftovers", "main", "shares_control_group", "spawn_guardian"]

_LOOK_SECONDS = 0.2
_GUARDIAN_LOOK_SECONDS = 0.5
# With the pauses between them about 25 s: long enough for a disk that is full for a moment. What
# cannot be started in that time needs a person, who is called.
_ATTEMPTS_MAX = 8
_PAUSE_SECONDS = 0.3
_PAUSE_MAX_SECONDS = 5.0


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
    run, journal = RunDir(options.run_dir), options.journal_fd
    if journal < 0:
        # Held open from now on: whoever takes the run's folder away takes its names, and not this.
        journal = open_journal(run.journal)
    guardian = _Guardian(run, options.lock_fd, journal, options.asked, world)
    return guardian.keep(adopt=options.adopt, resume=options.resume)


@dataclass(frozen=True)
class _Guardian:
    """Keeps one run conducted; ``lock`` is the environment's and ``journal`` the run's, open: both are
    handed on to each orchestrator."""

    run: RunDir
    lock: int
    journal: int
    asked: str
    world: World

    def keep(self, *, adopt: int, resume: str) -> int:
        """Start an orchestrator, or adopt one, and another whenever it dies; an exit code."""
        # A step's command whose orchestrator dies comes to this process, and not to init: its end
        # is seen, and no zombie keeps a pid that somebody is asked about.
        self.world.daemons.adopt_orphans()
        # Now: when it is needed, there may be nothing left to import it from.
        cry_out = self.world.outcry.cry_out
        if adopt:
            orchestrator = self.world.processes.identity_of(adopt)
        else:
            orchestrator = self._start(resume=resume, roll_back=False)
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            if orchestrator is not None:
                self._wait(orchestrator)
            if self._is_finished:
                return 0
            if attempt < _ATTEMPTS_MAX:
                # The first time at once: with both generations down every second is paid for.
                pause = min(_PAUSE_SECONDS * (attempt - 1), _PAUSE_MAX_SECONDS)
                self.world.clock.sleep(pause)
                orchestrator = self._restart(restarts=attempt - 1)
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

    def _wait(self, orchestrator: Identity) -> None:
        """Wait until the orchestrator is gone, and let go whatever was orphaned meanwhile."""
        while not self.world.processes.wait_gone(orchestrator, seconds=_LOOK_SECONDS):
            self.world.daemons.reap()
        self.world.daemons.reap()

    @property
    def _is_finished(self) -> bool:
        """True when the journal is closed and the manifest, written last, is there."""
        return self._is_closed and self.world.files.exists(self.run.manifest)

    @property
    def _is_closed(self) -> bool:
        with contextlib.suppress(JournalError):
            return self._history.closed is not None
        return False

    @property
    def _history(self) -> History:
        return History.of(read_journal(self.run.journal, fd=self.journal).records)

    def _restart(self, *, restarts: int) -> Identity | None:
        """Start the orchestrator again; ``restarts`` counts also what no journal could record."""
        try:
            history = self._history
        except JournalError as error:
            print(f"guardian: {error}", file=sys.stderr, flush=True)
            return None
        # Before anything is started: a stop command that still runs would stop what comes next.
        step = end_leftovers(history, world=self.world)
        leftovers = f"; ended the group of {step}" if step else ""
        print("guardian: the orchestrator died; starting it again", file=sys.stderr, flush=True)
        return self._start(
            resume=f"the orchestrator died and was started again{leftovers}",
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


class GuardianWatch:
    """The orchestrator's eye on its guardian: a dead one is replaced."""

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

    @property
    def facts(self) -> GuardianFacts | None:
        """Who it is, for the record; None when there is none."""
        known = self._identity
        return GuardianFacts(pid=known.pid, start_ticks=known.start_ticks) if known else None

    def look(self, context: RunContext) -> None:
        """Look at most twice a second; start a new guardian when the old one is gone."""
        now = self._world.clock.mono()
        # Without the lock there is nothing to hand on: it is conducted by whoever started it.
        if self._lock_fd < 0 or now < self._next_look:
            return
        self._next_look = now + _GUARDIAN_LOOK_SECONDS
        if self._identity is None or self._world.processes.is_running(self._identity):
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
        context.record(
            GuardianStarted(
                pid=self._identity.pid,
                start_ticks=self._identity.start_ticks,
                reason="the one before it died",
            )
        )


if __name__ == "__main__":
    sys.exit(main())
