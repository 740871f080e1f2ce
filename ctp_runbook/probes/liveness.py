"""Is a member of a generation alive, or proved gone? Its witnesses must agree.

The alive command of the template; the process that its pid file or unit names, and the one that
was pinned while it was well, with what ran below it and whatever has its command line; for an
engine its metrics port. Gone is proved only when no witness speaks against it and at least the
alive command says so; alive likewise. A witness that could not be asked leaves it undecided.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, Unpack

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.pid_file import PidFileBlank, PidFileUnreadable, read_pid_file
from ctp_runbook.host.process import identity_of, is_hidden, is_running, is_stopped
from ctp_runbook.model import Identity, Member
from ctp_runbook.probes.command import Running, run_probe
from ctp_runbook.probes.metrics import is_port_open
from ctp_runbook.probes.unit import read_unit

__all__ = [
    "Liveness",
    "observe_member",
    "processes_of_step",
    "recorded_identity",
    "shows_by_name_or_port",
]

_ALIVE, _GONE = 0, 1
# What systemctl may take where nobody said, and at a glance.
_UNIT_SECONDS, _GLANCE_SECONDS = 5.0, 1.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Liveness:
    """What the witnesses said of one member. ``command`` is the alive command's exit code,
    None when it could not be had; ``identity`` the process found running, if any.

    ``by_pid`` is who runs under the pid of a pid file without a start time, and was not pinned.
    ``survivors`` ran below the pinned process; ``lookalikes`` have its executable and command
    line, None where nothing was pinned to compare with. ``unasked`` names the witnesses that could
    not be asked, with the reason. ``stopped``: its process is there and does nothing (SIGSTOP).
    """

    member: str
    command: int | None
    identity: Identity | None
    identity_known: bool
    port_open: bool | None
    leftovers: tuple[int, ...] = ()
    by_pid: Identity | None = None
    unasked: tuple[str, ...] = ()
    survivors: tuple[int, ...] = ()
    lookalikes: tuple[int, ...] | None = None
    stopped: bool = False

    @property
    def process(self) -> Identity | None:
        """The member's process, however it was found; None where none runs."""
        return self.identity or self.by_pid

    @property
    def is_alive(self) -> bool:
        """Proved alive: the command says so, its process runs, and every witness was asked."""
        runs = self.process is not None and not self.stopped
        return self.command == _ALIVE and runs and not self.unasked

    @property
    def is_gone(self) -> bool:
        """Proved gone: the command says so, no process runs, no port answers, all were asked."""
        return self.command == _GONE and not self._runs and not self.unasked

    @property
    def is_gone_as_pinned(self) -> bool:
        """Gone by every witness of ours, of a member that was pinned, where its alive command answered
        neither 0 nor 1: ``kill -0 $(cat F)`` ends with 2 where there is no F."""
        has_answered = self.command in (_ALIVE, _GONE, None)
        return (
            not has_answered and self.lookalikes is not None and not self._runs and not self.unasked
        )

    @property
    def _runs(self) -> bool:
        """Something of it does, by one witness or another."""
        left = self.leftovers or self.survivors or self.lookalikes
        return bool(self.process or self.port_open or left)

    @property
    def is_torn(self) -> bool:
        """The command says gone and a process of it runs: no later look will agree by itself."""
        return self.command == _GONE and bool(self.process or self.survivors or self.lookalikes)

    @property
    def sentence(self) -> str:
        """What was observed, witness by witness."""
        says = {_ALIVE: "alive", _GONE: "gone", None: "no answer"}.get(
            self.command, f"could not tell (exit {self.command})"
        )
        port = {None: "", True: ", its metrics port answers", False: ", its metrics port is closed"}
        left = f", started processes still run: {self.leftovers}" if self.leftovers else ""
        left += f", processes below it still run: {self.survivors}" if self.survivors else ""
        asked = f"; could not be asked: {', '.join(self.unasked)}" if self.unasked else ""
        verdict = "alive" if self.is_alive else "gone" if self.is_gone else "undecided"
        return (
            f"{self.member} {verdict}: alive command says {says}, {self._process}{self._likeness}"
            f"{port[self.port_open]}{left}{asked}"
        )

    @property
    def _process(self) -> str:
        runs = (
            "is stopped (SIGSTOP) and does nothing until it gets CONT" if self.stopped else "runs"
        )
        if self.identity:
            return f"{self.identity} {runs}"
        if self.by_pid:
            return f"pid {self.by_pid.pid} {runs} (its pid file has no start time)"
        return f"no process {'of its identity runs' if self.identity_known else 'is known as it'}"

    @property
    def _likeness(self) -> str:
        if self.lookalikes:
            return f", its command line runs again, or still, as {self.lookalikes}"
        return "" if self.lookalikes is None or self.process else ", nor its command line elsewhere"


def shows_by_name_or_port(member: Member, *, known: Identity | None, cwd: Path) -> bool:
    """Glance without the alive command: its metrics port answers, or its recorded process runs.

    Cheap enough to be taken every second; what it says is a suspicion, not a proof.
    """
    named = _named(member, known=known, cwd=cwd, seconds=_GLANCE_SECONDS)
    if named.by_pid or any(who and is_running(who) for who in (named.identity, known)):
        return True
    # A port that hangs may be held: that is suspicion enough.
    is_open, unasked = _port_answer(member, seconds=0.2)
    return bool(is_open or unasked)


def _never() -> str:
    return ""


# --- identities -------------------------------------------------------------------


@dataclass(frozen=True)
class _Named:
    """Who a pid file or unit names: nobody, a process, or (``by_pid``) whoever has a pid now.

    ``unasked`` says why it could not be told.
    """

    identity: Identity | None = None
    by_pid: Identity | None = None
    unasked: str = ""


def recorded_identity(member: Member, *, cwd: Path = Path()) -> Identity | None:
    """Return the process the member's pid file or unit names, whether it runs or not.

    A pid file names a process by its pid and, on the second line as `proc start` writes it, its
    start time. With a pid alone it names nobody here: the pid may be a stranger's by now.
    ``cwd`` is where a relative pid file lies.
    """
    return _named(member, known=None, cwd=cwd).identity


def _named(
    member: Member,
    *,
    known: Identity | None,
    cwd: Path,
    seconds: float = _UNIT_SECONDS,
    interrupt: Callable[[], str] = _never,
) -> _Named:
    """Ask both where both are given: a supervisor may start again what no pid file tells of."""
    by_file, by_unit = _Named(), _Named()
    if member.pid_file:
        by_file = _named_by_file(member, cwd=cwd, known=known)
    if member.unit:
        by_unit = _named_by_unit(member, seconds=seconds, interrupt=interrupt)
    named = [each for each in (by_file.identity, by_unit.identity) if each]
    return _Named(
        identity=next(filter(is_running, named), named[0] if named else None),
        by_pid=by_file.by_pid,
        unasked=", ".join(filter(None, (by_file.unasked, by_unit.unasked))),
    )


def _named_by_file(member: Member, *, cwd: Path, known: Identity | None) -> _Named:
    path = cwd / member.pid_file
    remedy = f"put right what {member.name.upper()}_PID_FILE names"
    try:
        file = read_pid_file(path)
    except PidFileUnreadable as error:
        # Emptied by its stop command it names nobody, as one that is removed; who was pinned before
        # is sought all the same.
        if isinstance(error, PidFileBlank) and known is not None and not is_running(known):
            return _Named()
        return _Named(unasked=f"pid file {path} ({error}): {remedy}")
    if file is None:
        return _Named()
    # A pid alone means the process that was pinned under it, for as long as that runs. Whoever has
    # its pid afterwards may be the same engine, started again.
    if file.is_bare and known is not None and known.pid == file.pid and is_running(known):
        return _Named(identity=known)
    if doubt := file.doubt:
        return _Named(unasked=f"pid file {path} ({doubt}): {remedy}")
    return _Named(identity=file.identity, by_pid=file.running if file.is_bare else None)


def _named_by_unit(member: Member, *, seconds: float, interrupt: Callable[[], str]) -> _Named:
    """Return the unit's main process. Of a unit that is going up, going down or unknown the process
    is named too, where it can be seen: it may be ended, and proves nothing."""
    stem = member.name.upper()
    seen = read_unit(member.unit, key=stem, seconds=seconds, interrupt=interrupt)
    doubt = f"unit {member.unit} ({stem}_UNIT: {seen.doubt})" if seen.doubt else ""
    return _Named(identity=seen.main, unasked=doubt)


# --- all witnesses ----------------------------------------------------------------


def observe_member(
    member: Member,
    *,
    known: Identity | None,
    leftovers: tuple[int, ...] = (),
    survivors: tuple[int, ...] = (),
    lookalikes: tuple[int, ...] | None = None,
    **running: Unpack[Running],
) -> Liveness:
    """Ask every witness once. ``known`` is the identity the journal has; ``leftovers`` pids of
    processes that an unfinished start of this member left running."""
    code, silent = _answer_of_command(member, **running)
    named = _named(
        member,
        known=known,
        cwd=running["cwd"],
        seconds=running["seconds"],
        interrupt=running.get("interrupt", _never),
    )
    is_open, held = _port_answer(member, seconds=1.0)
    # Pinned by somebody who could see it; who cannot must not call it gone.
    unseen = known is not None and not is_running(known) and is_hidden(known.pid)
    veiled = f"{known} (/proc hides who has its pid from this user)" if unseen else ""
    # Whoever runs counts, even where the file names another than the journal.
    identities = [who for who in (named.identity, known) if who is not None]
    identity = next(filter(is_running, identities), None)
    process = identity or named.by_pid
    return Liveness(
        member=member.name,
        command=code,
        identity=identity,
        identity_known=bool(identities),
        port_open=is_open,
        leftovers=leftovers,
        by_pid=named.by_pid,
        unasked=tuple(filter(None, (silent, named.unasked, held, veiled))),
        survivors=survivors,
        lookalikes=lookalikes,
        stopped=process is not None and is_stopped(process.pid),
    )


def _answer(witness: str, ask: Callable[[], _T]) -> tuple[_T | None, str]:
    """Return what a witness says, or why there is no answer."""
    try:
        return ask(), ""
    except ProbeError as error:
        return None, f"{witness} ({error})"


def _answer_of_command(member: Member, **running: Unpack[Running]) -> tuple[int | None, str]:
    # A blank command would exit 0, and prove nothing.
    if not member.alive_command:
        return None, ""
    running["key"] = f"{member.name.upper()}_ALIVE_CMD"
    return _answer("alive command", lambda: run_probe(member.alive_command, **running)[0])


def _port_answer(member: Member, *, seconds: float) -> tuple[bool | None, str]:
    if not member.metrics_url:
        return None, ""
    return _answer("metrics port", lambda: is_port_open(member.metrics_url, seconds=seconds))


def processes_of_step(run_id: str, steps: tuple[str, ...]) -> tuple[int, ...]:
    """Return live processes that carry this run's id and one of ``steps`` in their environment.

    Whatever a step starts inherits them; the tool's own processes do not carry CTP_STEP.
    """
    wanted = {f"CTP_STEP={step}".encode() for step in steps}
    mark = f"CTP_RUN_ID={run_id}".encode()
    pids = []
    # Not glob: where /proc cannot be listed it says that there is nobody.
    for folder in (Path("/proc", name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is another user's
            continue
        pid = int(folder.name)
        if mark in variables and wanted.intersection(variables) and identity_of(pid):
            pids.append(pid)
    return tuple(pids)
