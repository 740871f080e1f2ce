"""What systemd says of a unit, and whether its word can be relied on.

``systemctl show`` exits 0 for a unit that never was, and prints ``ActiveState=inactive`` of it: by
that alone a mistyped name would prove an engine gone. So a unit is down only where systemd knows
its file, says that it has ended and has nothing more to do with it, and where nothing is left in
its control group (org.freedesktop.systemd1(5), systemctl(1)).

A unit of the caller's own manager is written as systemctl takes it, ``--user NAME``, and of another
user's ``--user --machine=USER@ NAME``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Identity
from ctp_runbook.probes.command import run_probe_apart

__all__ = ["UnitAnswer", "judge_unit", "read_facts", "read_unit"]

# The first three every systemd prints of a service; others are empty or unknown to some.
_NEEDED = ("LoadState", "ActiveState", "MainPID")
_FACTS = (
    *_NEEDED,
    "Id",
    "SubState",
    "ControlPID",
    "ControlGroup",
    "InvocationID",
    "Transient",
    "Job",
)
_MOST_SECONDS = 5.0
_ENDED = ("inactive", "failed")
# Of an ended one: dead-before-auto-restart and its like are told of what is not over.
_AT_REST = ("", "dead", "failed", "dead-resources-pinned")
_LOOK = "look at `systemctl status {unit}`"
# What is to be done about a LoadState other than `loaded`.
_NOT_LOADED = {
    "not-found": "is its name right? A user's unit is named as `--user NAME`, and a transient one is "
    "forgotten when it ends: name {key}_PID_FILE for that",
    "masked": "nothing can start it: `systemctl unmask {unit}`",
    "bad-setting": "mend its file, then `systemctl daemon-reload`",
    "error": "mend its file, then `systemctl daemon-reload`",
}


@dataclass(frozen=True)
class UnitAnswer:
    """The main process where one runs, and why the unit is neither surely up nor surely down,
    or nothing."""

    main: Identity | None = None
    doubt: str = ""


def read_unit(unit: str, *, key: str, seconds: float, interrupt: Callable[[], str]) -> UnitAnswer:
    """Ask systemd for ``unit`` once; ``key`` is what its name is set under, without ``_UNIT``."""
    try:
        shown = _shown(unit, seconds=min(seconds, _MOST_SECONDS), interrupt=interrupt)
        return judge_unit(shown, unit=unit, key=key)
    except ProbeError as error:
        return UnitAnswer(doubt=str(error))


def judge_unit(shown: bytes, *, unit: str, key: str) -> UnitAnswer:
    """Judge what ``systemctl show`` printed. Raises ProbeError where that is no whole answer."""
    facts = _facts(shown)
    main, why = _judged(facts)
    if not why:
        return UnitAnswer(main)
    remedy = _NOT_LOADED.get(facts["LoadState"], _LOOK).format(unit=unit, key=key)
    said = " ".join(f"{name}={facts[name]}" for name in _FACTS if facts.get(name))
    return UnitAnswer(main, f"{why}; systemctl says {said}; {remedy}")


def read_facts(
    unit: str, facts: Sequence[str], *, seconds: float, interrupt: Callable[[], str]
) -> dict[str, str]:
    """Ask systemd for properties of ``unit``; what it does not know is missing. Raises ProbeError."""
    seconds = min(seconds, _MOST_SECONDS)
    shown = _shown(unit, facts=facts, seconds=seconds, interrupt=interrupt)
    lines = (line.partition("=") for line in shown.decode(errors="replace").splitlines() if line)
    return {name: value.strip() for name, _, value in lines if value.strip()}


def _shown(
    unit: str, *, facts: Sequence[str] = _FACTS, seconds: float, interrupt: Callable[[], str]
) -> bytes:
    """What ``systemctl show`` prints. Raises ProbeError where it does not end well and in time."""
    *manager, name = unit.split(" ")
    asked = f"--no-pager --property={','.join(facts)} -- {shlex.quote(name)}"
    # exec: bash is not to wait for it
    command = f"exec systemctl {shlex.join(['show', *manager])} {asked}"
    # Nobody who was started by a service or by cron has the way to the user's manager.
    rooms = {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}"} if manager else {}
    env = {**rooms, **os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    code, output, said = run_probe_apart(
        command, cwd=Path("/"), env=env, seconds=seconds, interrupt=interrupt
    )
    words = f": {said}" if said else ""
    if code is None:
        raise ProbeError(f"systemctl gave no answer within {seconds:g} s{words}")
    if code == 127:
        raise ProbeError(f"systemctl cannot be run here{words}; name a pid file instead")
    if code != 0:
        raise ProbeError(f"systemctl ended with exit {code}, expected 0{words}")
    return output


def _facts(shown: bytes) -> dict[str, str]:
    lines = [line.partition("=") for line in shown.decode(errors="replace").splitlines() if line]
    facts = {name: value.strip() for name, _, value in lines}
    if len(facts) != len(lines):
        raise ProbeError("systemctl told of several units; expected the name of one")
    if missing := [name for name in _NEEDED if not facts.get(name)]:
        raise ProbeError(f"systemctl told no {', '.join(missing)}; expected a service")
    return facts


def _judged(facts: dict[str, str]) -> tuple[Identity | None, str]:
    """The unit's main process where one runs, and why the unit is in doubt, or nothing."""
    state, sub = facts["ActiveState"], facts.get("SubState", "")
    pid, control = facts["MainPID"], facts.get("ControlPID") or "0"
    if not (pid.isdecimal() and control.isdecimal()):
        return None, "its main process is no number"
    main = _visible(int(pid), facts.get("ControlGroup", ""))
    if facts["LoadState"] != "loaded":
        return main, f"its LoadState is {facts['LoadState']}, expected loaded"
    if facts.get("Transient") == "yes":
        return main, "it is transient: systemd forgets it when it ends; name a pid file instead"
    if int(pid) and main is None:
        why = "cannot be seen from here, or is not in its control group"
        return None, f"it is {state}, and its main process {pid} {why}"
    if facts.get("Job") not in (None, "", "0"):
        return main, "systemd is about to start or stop it"
    if state == "active":
        return main, "" if main else "it is active and has no main process"
    if state not in _ENDED:
        return main, f"it is {state}, neither up nor down"
    return main, _gap_in_end(facts, sub=sub, processes=main is not None or int(control) != 0)


def _gap_in_end(facts: dict[str, str], *, sub: str, processes: bool) -> str:
    """Why a unit that systemd calls ended has not, or nothing."""
    if "auto-restart" in sub:
        return "systemd starts it again in a moment (Restart=)"
    if sub not in _AT_REST:
        return f"it is {facts['ActiveState']}, and yet {sub}"
    if processes:
        return f"it is {facts['ActiveState']}, and yet has a process"
    # KillMode=process, or none, leaves behind what the main process had started.
    if left := _within(facts.get("ControlGroup", "")):
        return f"it is {facts['ActiveState']}, and yet {left} run in its control group"
    return ""


def _visible(pid: int, group: str) -> Identity | None:
    """Who runs as the main process; None where that cannot be seen from here.

    In another pid namespace (a container that reaches the host's systemd) the number is a
    stranger's, or nobody's: only a process in the unit's own control group is the one.
    """
    identity = identity_of(pid) if pid else None
    return identity if identity and (not group or _is_within(pid, group)) else None


def _within(group: str) -> tuple[int, ...]:
    """Pids of the live processes in a control group and below it."""
    if not group.strip("/"):
        return ()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return tuple(pid for pid in pids if _is_within(pid, group) and identity_of(pid))


def _is_within(pid: int, group: str) -> bool:
    try:
        lines = os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes()).splitlines()
    except OSError:
        return False
    # hierarchy:controllers:path, one line a hierarchy (cgroups(7))
    paths = (line.split(":", 2)[-1] for line in lines)
    return any(f"{path}/".startswith(f"{group.rstrip('/')}/") for path in paths)
