"""Is a member of a generation alive, or proved gone? Its witnesses must agree.

The alive command of the template; the process that its pid file or unit names, and the one that
was pinned while it was well, with what ran below it and whatever has its command line; for an
engine its metrics port. Gone is proved only when no witness speaks against it and at least the
alive command says so; alive likewise. A witness that could not be asked leaves it undecided.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.held_command import HeldCommand
from ctp_runbook.host.pid_file import PidFileUnreadable, read_pid_file
from ctp_runbook.host.process import identity_of, is_running
from ctp_runbook.model import Identity, Member
from ctp_runbook.probes.metrics import is_port_open

__all__ = [
    "Liveness",
    "observe_member",
    "processes_of_step",
    "recorded_identity",
    "run_probe",
    "run_probe_apart",
    "shows_by_name_or_port",
]

_ALIVE, _GONE = 0, 1
_QUOTED_CHARACTERS = 400
# What is kept of a probe's output; the rest is never read, and past the second the probe is ended.
_KEPT_BYTES, _MOST_BYTES = 8 << 20, 64 << 20


@dataclass(frozen=True)
class Liveness:
    """What the witnesses said of one member. ``command`` is the alive command's exit code,
    None when it could not be had; ``identity`` the process found running, if any.

    ``by_pid`` is who runs under the pid of a pid file without a start time, and was not pinned.
    ``survivors`` ran below the pinned process; ``lookalikes`` have its executable and command
    line, None where nothing was pinned to compare with. ``unasked`` names the witnesses that could
    not be asked, with the reason.
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

    @property
    def process(self) -> Identity | None:
        """The member's process, however it was found; None where none runs."""
        return self.identity or self.by_pid

    @property
    def is_alive(self) -> bool:
        """Proved alive: the command says so, its process runs, and every witness was asked."""
        return self.command == _ALIVE and self.process is not None and not self.unasked

    @property
    def is_gone(self) -> bool:
        """Proved gone: the command says so, no process runs, no port answers, all were asked."""
        return (
            self.command == _GONE
            and self.process is None
            and not self.port_open
            and not self.leftovers
            and not self.survivors
            and not self.lookalikes
            and not self.unasked
        )

    @property
    def is_torn(self) -> bool:
        """The command says gone and a process of it runs: no later look will agree by itself."""
        runs = self.process is not None or bool(self.survivors) or bool(self.lookalikes)
        return self.command == _GONE and runs

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
        if self.identity:
            return f"{self.identity} runs"
        if self.by_pid:
            return f"pid {self.by_pid.pid} runs (its pid file has no start time)"
        if self.identity_known:
            return "no process of its identity runs"
        return "no process is known as it"

    @property
    def _likeness(self) -> str:
        if self.lookalikes:
            return f", its command line runs again, or still, as {self.lookalikes}"
        return "" if self.lookalikes is None or self.process else ", nor its command line elsewhere"


# --- commands ---------------------------------------------------------------------


def shows_by_name_or_port(member: Member, *, known: Identity | None, cwd: Path) -> bool:
    """A glance without the alive command: its metrics port answers, or its recorded process runs.

    Cheap enough to be taken every second; what it says is a suspicion, not a proof.
    """
    named = _named(member, known=known, cwd=cwd)
    if named.by_pid or any(one and is_running(one) for one in (named.identity, known)):
        return True
    if not member.metrics_url:
        return False
    try:
        return is_port_open(member.metrics_url, seconds=0.2)
    except ProbeError:
        return True


def run_probe(
    command: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
) -> tuple[int | None, bytes]:
    """Exit code and output of a read-only command; None when it did not end in time.

    A sentence from ``interrupt`` ends it early. Raises ProbeError when it cannot be run at all.
    """
    with _room() as room:
        return _run(
            command,
            output=room / "out",
            cwd=cwd,
            env=env,
            seconds=seconds,
            interrupt=interrupt,
        )


def run_probe_apart(
    command: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
) -> tuple[int | None, bytes, str]:
    """Like ``run_probe``, but the output is stdout alone; third is the last line of stderr.

    A longer line is left out: cut, it could show half a secret, which nobody masks.
    """
    with _room() as room:
        errors = room / "err"
        apart = f"exec 2>{shlex.quote(str(errors))}\n{command}"
        code, output = _run(
            apart,
            output=room / "out",
            cwd=cwd,
            env=env,
            seconds=seconds,
            interrupt=interrupt,
        )
        lines = _end_of(errors).decode(errors="replace").split("\n") if errors.exists() else []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return code, output, said if len(said) <= _QUOTED_CHARACTERS else ""


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    """A folder in memory for what a command prints."""
    try:
        folder = tempfile.TemporaryDirectory(dir=_scratch(), ignore_cleanup_errors=True)
    except OSError as error:
        raise ProbeError(f"no room for the output of a probe: {error}") from error
    with folder as name:
        yield Path(name)


def _run(
    command: str,
    *,
    output: Path,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str],
) -> tuple[int | None, bytes]:
    try:
        held = HeldCommand(command, cwd=cwd, env=env, output=output)
    except OSError as error:
        raise ProbeError(f"cannot be run in {cwd}: {error}") from error
    try:
        held.release()
        end = held.wait(
            deadline=time.monotonic() + seconds,
            interrupt=lambda: _too_talkative(output.parent) or interrupt(),
        )
        held.end(term_grace=0.2, kill_grace=1.0)  # also what it left behind
        with output.open("rb") as source:
            return end.exit_code, source.read(_KEPT_BYTES)
    finally:
        held.close()


def _too_talkative(room: Path) -> str:
    """Its output is kept in memory: a probe that never stops printing would take all of it."""
    if sum(path.stat().st_size for path in room.iterdir()) <= _MOST_BYTES:
        return ""
    return f"more than {_MOST_BYTES >> 20} MiB of output"


def _end_of(path: Path) -> bytes:
    with path.open("rb") as source:
        source.seek(max(0, path.stat().st_size - _KEPT_BYTES))
        return source.read(_KEPT_BYTES)


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
    """The process the member's pid file or unit names, whether it runs or not.

    A pid file names a process by its pid and, on the second line as `proc start` writes it, its
    start time. With a pid alone it names nobody here: the pid may be a stranger's by now.
    ``cwd`` is where a relative pid file lies.
    """
    return _named(member, known=None, cwd=cwd).identity


def _named(member: Member, *, known: Identity | None, cwd: Path) -> _Named:
    if member.pid_file:
        return _named_by_file(cwd / member.pid_file, known=known)
    return _named_by_unit(member.unit, known=known) if member.unit else _Named()


def _named_by_file(path: Path, *, known: Identity | None) -> _Named:
    try:
        found = read_pid_file(path)
    except PidFileUnreadable as error:
        return _Named(unasked=f"pid file {path} ({error})")
    if found is None:
        return _Named()
    # A pid alone means the process that was pinned under it, for as long as it is that pid.
    if found.is_bare and known is not None and known.pid == found.pid:
        return _Named(identity=known)
    if doubt := found.doubt:
        return _Named(unasked=f"pid file {path} ({doubt})")
    return _Named(identity=found.identity, by_pid=found.running if found.is_bare else None)


_UNIT_FACTS = ("LoadState", "ActiveState", "MainPID")


def _named_by_unit(unit: str, *, known: Identity | None) -> _Named:
    """The unit's main process. A unit that systemd does not know, that is up, or half up, without
    a process one can see from here, is not told."""
    asking = ["systemctl", "show", f"--property={','.join(_UNIT_FACTS)}", "--", unit]
    try:
        shown = subprocess.run(asking, capture_output=True, text=True, timeout=5, check=True)
        facts = dict(line.split("=", 1) for line in shown.stdout.splitlines())
        loaded, state, pid = (facts[name] for name in _UNIT_FACTS)
        found = identity_of(int(pid)) if int(pid) else None
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        return _Named(unasked=f"unit {unit} ({error})")
    # A transient unit is forgotten when it ends; one that never was is a slip of the pen.
    if loaded != "loaded" and known is None:
        return _Named(unasked=f"unit {unit} (systemd says {loaded}: is its name right?)")
    if found is None and state not in ("inactive", "failed"):
        seen = f"its main process {pid} cannot be seen from here" if int(pid) else "no main process"
        return _Named(unasked=f"unit {unit} (it is {state}: {seen})")
    return _Named(identity=found)


# --- all witnesses ----------------------------------------------------------------


def observe_member(
    member: Member,
    *,
    known: Identity | None,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    leftovers: tuple[int, ...] = (),
    survivors: tuple[int, ...] = (),
    lookalikes: tuple[int, ...] | None = None,
    interrupt: Callable[[], str] = lambda: "",
) -> Liveness:
    """Ask every witness once. ``known`` is the identity the journal has; ``leftovers`` pids of
    processes that an unfinished start of this member left running."""
    code, silent = _ask_command(member, cwd=cwd, env=env, seconds=seconds, interrupt=interrupt)
    named = _named(member, known=known, cwd=cwd)
    is_open, held = _ask_port(member)
    found = [one for one in (named.identity, known) if one is not None]
    return Liveness(
        member=member.name,
        command=code,
        identity=next((one for one in found if is_running(one)), None),
        identity_known=bool(found),
        port_open=is_open,
        leftovers=leftovers,
        by_pid=named.by_pid,
        unasked=tuple(filter(None, (silent, named.unasked, held))),
        survivors=survivors,
        lookalikes=lookalikes,
    )


def _ask_command(
    member: Member,
    *,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str],
) -> tuple[int | None, str]:
    """Its exit code, or why there is none. A blank one would exit 0, and prove nothing."""
    if not member.alive_command:
        return None, ""
    try:
        asked = run_probe(
            member.alive_command, cwd=cwd, env=env, seconds=seconds, interrupt=interrupt
        )
        return asked[0], ""
    except ProbeError as error:
        return None, f"alive command ({error})"


def _ask_port(member: Member) -> tuple[bool | None, str]:
    """Whether the metrics port is open, or why that is not known."""
    if not member.metrics_url:
        return None, ""
    try:
        return is_port_open(member.metrics_url, seconds=1.0), ""
    except ProbeError as error:
        return None, f"metrics port ({error})"


def processes_of_step(run_id: str, steps: tuple[str, ...]) -> tuple[int, ...]:
    """Live processes that carry this run's id and one of ``steps`` in their environment.

    Whatever a step starts inherits them; the tool's own processes do not carry CTP_STEP.
    """
    wanted = {f"CTP_STEP={step}".encode() for step in steps}
    mark = f"CTP_RUN_ID={run_id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in variables and wanted.intersection(variables) and identity_of(int(name)):
            found.append(int(name))
    return tuple(found)


def _scratch() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
