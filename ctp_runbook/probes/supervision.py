"""Who may start a member again when it ends, and why TERM may not end it: told while it is well.

Nothing of it is a verdict. A loop that looks for a command line shows itself only when it acts,
and is found then (host/pin.py, ``lookalikes``); what can be seen before is told before the first
stop, so that its stop command can be mended while nothing is touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import ancestors, ignores_term, parents
from ctp_runbook.model import Member
from ctp_runbook.probes.unit import read_facts

__all__ = ["ends_this_tool", "gap_in_pin", "signs_of_revival", "unit_of"]

_SHELLS = frozenset({"ash", "bash", "busybox", "dash", "fish", "ksh", "sh", "zsh"})
# They adopt what has lost its parent, and start nothing by themselves.
_REAPERS = frozenset({"catatonit", "containerd-shim", "docker-init", "dumb-init", "init", "tini"})
_FACTS = ("Restart", "MainPID")
# Who stands before a command and is not it.
_WRAPPERS = frozenset({"flock", "runuser", "script", "su", "sudo", "timeout"})
# What they start elsewhere (in a container, on a host, in a server's session) outlives their end.
_CLIENTS = frozenset(
    {"crictl", "ctr", "docker", "kubectl", "lxc", "machinectl", "nerdctl", "podman", "ssh"}
    | {"systemd-run", "tmux: client"}
)
# What stands at the end of a pipe: `engine | tee -a log & echo $! > F` writes down whose pid?
_PIPE_ENDS = frozenset(
    {"awk", "cat", "gawk", "grep", "logger", "mawk", "multilog", "rotatelogs", "sed", "systemd-cat"}
    | {"tee", "ts"}
)


def signs_of_revival(
    member: Member,
    pin: Pin,
    *,
    stop_command: str,
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
) -> tuple[str, ...]:
    """Return one sentence for each sign that a living member will not end, or not stay ended, when
    ``stop_command`` has run."""
    stem = f"{member.name.upper()}_STOP_CMD"
    return (
        *_deafness(member, pin, stem),
        *_parent(member, pin, stem),
        *_restart(member, pin, stem, stop_command, seconds=seconds, interrupt=interrupt),
    )


def gap_in_pin(member: Member, pin: Pin) -> str:
    """Why the pinned process is not the member itself, which would outlive it unseen, or nothing."""
    pid, stem = pin.identity.pid, member.name.upper()
    program = _program(pid)
    named = f"{member.name}: what {stem}_PID_FILE or {stem}_UNIT names"
    if program in _PIPE_ENDS and _is_fed_by_pipe(pid):
        return (
            f"{named}, pid {pid}, is `{program}`, the end of a pipe, and not who writes into it: expected "
            f"the process itself; in a shell `$!` is the last of a pipe, so write "
            f"`COMMAND > >({program} …) & echo $!`, or let it write its own pid"
        )
    family = [program]
    if program in _SHELLS | _WRAPPERS:
        family = [_program(each.pid) for each in pin.tree]
        beside = _SHELLS | _WRAPPERS | _PIPE_ENDS | {"sleep"}
        family = [each for each in family if each not in beside]
    if family and all(each in _CLIENTS for each in family):
        return (
            f"{named}, pid {pid}, is `{family[0]}`, a client: what it started elsewhere outlives it; "
            "expected the process itself, of a container as `docker inspect -f '{{.State.Pid}}' NAME` "
            "tells it"
        )
    return ""


def _is_fed_by_pipe(pid: int) -> bool:
    try:
        return str(Path(f"/proc/{pid}/fd/0").readlink()).startswith("pipe:")
    except OSError:
        return False


def ends_this_tool(command: str) -> str:
    """Why a command that ends whoever it finds by a name would end this tool too, or nothing."""
    for by_line, is_whole, wanted in _sought(command):
        for pid in sorted(ancestors()):
            words = _words(pid)
            # Who asked for the run may be ended; those who conduct it may not.
            if not any(word.startswith("ctp_runbook.run.") for word in words):
                continue
            line = " ".join(words) if by_line else _program(pid)
            look = re.fullmatch if is_whole else re.search
            with contextlib.suppress(re.error):
                if look(wanted, line):
                    return f"{wanted!r} finds this tool's own pid {pid} ({line[:80]})"
    return ""


def _sought(command: str) -> Iterator[tuple[bool, bool, str]]:
    """What pkill, pgrep and killall of a command look for: whether in the whole command line, whether
    as a whole, and the pattern."""
    for match in re.finditer(r"(?<![\w.-])(pkill|pgrep|killall)\s+([^;&|)\n]*)", command):
        try:
            words = shlex.split(match[2])
        except ValueError:
            continue
        options: list[str] = []
        while words and words[0].startswith("-"):
            option = words.pop(0)
            options.append(option)
            if re.fullmatch(r"-[a-zA-Z]*[dgGPstuUFr]", option) and words:
                words.pop(0)
        short = "".join(each[1:] for each in options if re.fullmatch(r"-[a-z]+", each))
        is_whole = match[1] == "killall" or "x" in short or "--exact" in options
        by_line = match[1] != "killall" and ("f" in short or "--full" in options)
        for word in words if match[1] == "killall" else words[:1]:
            yield by_line, is_whole, word


def _deafness(member: Member, pin: Pin, stem: str) -> Iterator[str]:
    deaf = [each.pid for each in (pin.identity, *pin.tree) if ignores_term(each.pid)]
    if deaf:
        pids = ", ".join(f"pid {pid}" for pid in deaf)
        yield (
            f"{member.name}: {pids} ignores TERM: {stem} ends it only if it sends KILL too (ctp-runbook"
            " proc stop does), and then what it has not written yet is lost"
        )


def _parent(member: Member, pin: Pin, stem: str) -> Iterator[str]:
    """A shell that is the member's process, or a living parent, is a supervisor more often than not."""
    pid = pin.identity.pid
    if pin.tree and _program(pid) in _SHELLS:
        below = ", ".join(str(each.pid) for each in pin.tree)
        yield (
            f"{member.name}: pid {pid} is a shell ({_program(pid)}) with processes below it ({below}), "
            f"which it may start again, and which may outlive it: {stem} must end the shell first, "
            "then them"
        )
    parent = parents().get(pid, 0)
    name = _program(parent)
    if parent <= 1 or name.startswith("systemd") or name in _REAPERS or parent in ancestors():
        return
    if name in _SHELLS and len(_words(parent)) == 1:  # a person's, who typed its start
        return
    yield (
        f"{member.name}: the parent of pid {pid} is pid {parent} ({name}), and not init: if that is a "
        f"supervisor, it starts it again when {stem} has run; end pid {parent} first"
    )


def _restart(
    member: Member,
    pin: Pin,
    stem: str,
    stop_command: str,
    *,
    seconds: float,
    interrupt: Callable[[], str],
) -> Iterator[str]:
    """systemd's own promise, of the unit that is named or of the one that its process runs in."""
    unit = member.unit or unit_of(_control_groups(pin.identity.pid))
    if not unit:
        return
    try:
        facts = read_facts(unit, _FACTS, seconds=seconds, interrupt=interrupt)
    except ProbeError as error:
        if member.unit:
            yield f"{member.name}: whether unit {unit} has Restart= could not be asked: {error}"
        return
    # What somebody started from a terminal is in the terminal's unit, which starts but itself again.
    mains = {str(pin.identity.pid), str(parents().get(pin.identity.pid, 0))}
    restart = facts.get("Restart", "no")
    if restart == "no" or (not member.unit and facts.get("MainPID") not in mains):
        return
    name = unit.split(" ")[-1].removesuffix(".service")
    if "systemctl" in stop_command and name in stop_command:
        return
    yield (
        f"{member.name}: unit {unit} has Restart={restart}: systemd starts it again after a signal, "
        f"and {stem} does not stop the unit; write `systemctl stop {unit}`"
    )


def unit_of(groups: str) -> str:
    """Return the service that /proc/PID/cgroup tells of, as systemctl takes it, or nothing.

    ``/user.slice/user-1000.slice/user@1000.service/app.slice/engine.service`` is a user's.
    """
    for line in groups.splitlines():
        path = line.split(":", 2)[-1]
        services = [part for part in path.split("/") if part.endswith(".service")]
        if not services:
            continue
        manager = re.fullmatch(r"user@(\d+)\.service", services[0])
        if manager is None:
            return services[-1]
        if services[1:]:
            return f"{_manager_of(int(manager[1]))} {services[-1]}"
    return ""


def _manager_of(uid: int) -> str:
    if uid == os.geteuid():
        return "--user"
    try:
        return f"--user --machine={pwd.getpwuid(uid).pw_name}@"
    except KeyError:
        return f"--user --machine={uid}@"


def _control_groups(pid: int) -> str:
    return _text(pid, "cgroup")


def _program(pid: int) -> str:
    return _text(pid, "comm").strip()


def _words(pid: int) -> list[str]:
    return _text(pid, "cmdline").split("\0")[:-1]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
