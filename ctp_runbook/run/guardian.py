"""The guardian: parent of the orchestrator, child subreaper, without a policy of its own.

When the orchestrator dies it ends the step group that is left over and starts
``orchestrate --resume`` again; after ``restarts_max`` times, with the order to roll back. Should
the guardian die, the orchestrator starts another, which adopts it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ctp_runbook.errors import JournalError
from ctp_runbook.host.daemon import scope_prefix
from ctp_runbook.host.process import end_group, group_members, identity_of, is_running
from ctp_runbook.model import Identity
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.rundir import RunDir

if TYPE_CHECKING:  # the guardian itself stays small
    from ctp_runbook.run.context import RunContext

__all__ = ["GuardianWatch", "end_leftovers", "main", "shares_control_group", "spawn_guardian"]

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 0.2
_GUARDIAN_LOOK_SECONDS = 0.5
_ATTEMPTS_MAX = 8
_PAUSE_SECONDS = 0.3
_PAUSE_MAX_SECONDS = 5.0
_RESTARTS_MAX = 3


def main(argv: list[str] | None = None) -> int:
    """``python -m ctp_runbook.run.guardian RUN_DIR --lock-fd N [--adopt PID]``."""
    parser = argparse.ArgumentParser(prog="ctp_runbook.run.guardian")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--lock-fd", type=int, required=True)
    parser.add_argument("--adopt", type=int, default=0)
    parser.add_argument("--resume", default="", help="why the run is taken up again")
    parser.add_argument("--asked", default="", help="what the run is started for")
    options = parser.parse_args(argv)
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run = RunDir(options.run_dir)
    if options.adopt:
        orchestrator = identity_of(options.adopt)
    else:
        orchestrator = _start(run, options, resume=options.resume, roll_back=False)
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        if orchestrator is not None:
            _wait(orchestrator)
        if _is_finished(run):
            return 0
        if attempt < _ATTEMPTS_MAX:
            time.sleep(min(_PAUSE_SECONDS * (attempt - 1), _PAUSE_MAX_SECONDS))
            orchestrator = _restart(run, options, restarts=attempt - 1)
    _give_up(run)
    return 1


def _give_up(run: RunDir) -> None:
    import syslog

    sentence = (
        f"guardian: run {run.run_id}: the orchestrator cannot be kept alive; nobody conducts the "
        f"run: see {run.logs}, then `ctp-runbook resume --run {run.path}`"
    )
    syslog.syslog(syslog.LOG_CRIT, f"ctp-runbook: {sentence}")
    print(sentence, file=sys.stderr, flush=True)


def _restart(run: RunDir, options: argparse.Namespace, *, restarts: int) -> Identity | None:
    """Start the orchestrator again; ``restarts`` counts also what no journal could record."""
    try:
        history = History.of(read_journal(run.journal).records)
    except JournalError as error:
        print(f"guardian: {error}", file=sys.stderr, flush=True)
        return None
    ended = end_leftovers(history)
    told = f"; ended the group of {ended}" if ended else ""
    print("guardian: the orchestrator died; starting it again", file=sys.stderr, flush=True)
    most = int(history.created.get("restarts_max", _RESTARTS_MAX))
    return _start(
        run,
        options,
        resume=f"the orchestrator died and was started again{told}",
        roll_back=max(restarts, history.restarts) >= most,
    )


def end_leftovers(history: History) -> str:
    """End the process group of a step whose end nobody saw; the step's name, if there was one."""
    for step in history.unfinished:
        leader = identity_of(step.pid)
        is_reused = leader is not None and leader.start_ticks != step.start_ticks
        if step.pid and not is_reused and group_members(step.pid):
            end_group(step.pid, term_grace=1.0, kill_grace=2.0)
            return step.name
    return ""


def _is_finished(run: RunDir) -> bool:
    """True when the journal is closed and the manifest, written last, is there."""
    with contextlib.suppress(JournalError):
        history = History.of(read_journal(run.journal).records)
        return history.closed is not None and run.manifest.exists()
    return False


def _start(
    run: RunDir, options: argparse.Namespace, *, resume: str, roll_back: bool
) -> Identity | None:
    lock_fd = options.lock_fd
    arguments = [sys.executable, "-m", "ctp_runbook.run.orchestrator", str(run.path)]
    arguments += ["--guardian-pid", str(os.getpid()), "--lock-fd", str(lock_fd)]
    arguments += ["--resume", resume] if resume else []
    arguments += ["--roll-back"] if roll_back else []
    # Each time: the one before may have died before it wrote down what the run was started for.
    arguments += ["--asked", options.asked] if options.asked else []
    return identity_of(_spawn_detached(arguments, log=run.logs / "orchestrator.log", keep=lock_fd))


def _wait(orchestrator: Identity) -> None:
    """Until the orchestrator is gone; reaps whatever was orphaned to this process meanwhile."""
    while is_running(orchestrator):
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(orchestrator.pid)
            try:
                select.select([fd], [], [], _LOOK_SECONDS)
            finally:
                os.close(fd)
        _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def spawn_guardian(
    run: RunDir, *, lock_fd: int, adopt: int = 0, resume: str = "", asked: str = ""
) -> Identity:
    """Start a guardian in a session (and where systemd runs, a scope) of its own."""
    arguments = [sys.executable, "-m", "ctp_runbook.run.guardian", str(run.path)]
    arguments += ["--lock-fd", str(lock_fd)]
    arguments += ["--adopt", str(adopt)] if adopt else []
    arguments += ["--resume", resume] if resume else []
    arguments += ["--asked", asked] if asked else []
    prefix, _ = scope_prefix()
    arguments = [*prefix, *arguments]
    pid = _spawn_detached(arguments, log=run.logs / "guardian.log", keep=lock_fd)
    return identity_of(pid) or Identity(pid, 0)


def _spawn_detached(arguments: list[str], *, log: Path, keep: int) -> int:
    """Start a process in a session of its own, output to ``log``, with one descriptor kept.

    Nobody is to wait for it, so it is no Popen, which would complain about that.
    """
    os.set_inheritable(keep, True)
    try:
        return os.posix_spawnp(
            arguments[0],
            arguments,
            os.environ,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    finally:
        os.set_inheritable(keep, False)


def shares_control_group() -> str:
    """A warning when what is started here ends with the caller's control group; else nothing."""
    _, lack = scope_prefix()
    if not lack:
        return ""
    return (
        f"{lack}: the run stays in this process's control group, and stopping "
        "that group (as a service manager stops Jupyter) stops the run, undecided. Start it from "
        "a login shell or tmux, and take it up again with `ctp-runbook resume` if it is stopped"
    )


class GuardianWatch:
    """The orchestrator's eye on its guardian: a dead one is replaced."""

    def __init__(self, run: RunDir, *, pid: int, lock_fd: int) -> None:
        self._run, self._lock_fd = run, lock_fd
        self._identity = identity_of(pid) if pid else None
        self._next_look = 0.0

    @property
    def described(self) -> dict[str, int] | None:
        """Who it is, for the record; None when there is none."""
        known = self._identity
        return {"pid": known.pid, "start_ticks": known.start_ticks} if known else None

    def look(self, context: RunContext) -> None:
        """Look at most twice a second; start a new guardian when the old one is gone."""
        now = time.monotonic()
        if self._lock_fd < 0 or now < self._next_look:
            return
        self._next_look = now + _GUARDIAN_LOOK_SECONDS
        if self._identity is None or is_running(self._identity):
            return
        self._identity = spawn_guardian(self._run, lock_fd=self._lock_fd, adopt=os.getpid())
        context.record(
            "guardian_started",
            pid=self._identity.pid,
            start_ticks=self._identity.start_ticks,
            reason="the one before it died",
        )


if __name__ == "__main__":
    sys.exit(main())
