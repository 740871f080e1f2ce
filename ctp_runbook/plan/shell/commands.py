"""What a bash command line would execute, as far as that can be told without running it.

Commands are read through what runs them: ``bash -lc '…'``, ``env -C DIR``, ``nohup``, ``timeout``,
``sudo`` and their like, however they are nested. The answer feeds refusals and the plan's digest.
A program is needed where bash would surely come to it and nothing before it can have made it, put
it on the PATH or ended the command; what is short of that is told as what it is, and so is what
cannot be told from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ctp_runbook.plan.shell.files import Executable, is_missing, name_of
from ctp_runbook.plan.shell.reader import read_command

__all__ = ["executables", "is_idle", "needed", "never_ran", "swallows_failure", "untold"]

# What bash ends with where it runs nothing, and `proc` where it refuses its words or its pid file.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_REFUSED, _NOT_TOLD = 2, 3
_SWALLOWS = (
    r"(?:\|\||;)\s*(?:true|:|exit\s+0|/(?:usr/)?bin/true)\s*(?:[;)}&|#]|$)"
    r"|\|\|\s*(?:echo|printf)\b[^;&|(){}]*(?:[)}#]|$)"
)
# Variables that bash sets, whatever the environment has.
_SET_BY_BASH = re.compile(
    r"_|\d+|BASH\w*|DIRSTACK|E?UID|GROUPS|HOST\w*|IFS|LINENO|MACHTYPE|OLDPWD|OPT\w+|OSTYPE|PIPESTATUS|"
    r"PPID|PS\d|PWD|RANDOM|SECONDS|SHELL\w*|SHLVL|SRANDOM|EPOCH\w+|FUNCNAME|COMP\w+|PATH|TERM"
)


def executables(command: str) -> tuple[Executable, ...]:
    """Return the executables of ``command`` that can be told for sure; never raises."""
    return read_command(command).named


def needed(command: str) -> tuple[Executable, ...]:
    """Return those of its executables without which ``command`` cannot do what it says."""
    return read_command(command).needed


def untold(command: str) -> tuple[str, ...]:
    """Say of what in ``command`` it cannot be told from here what it runs; empty where all is told."""
    return read_command(command).untold


def swallows_failure(command: str) -> bool:
    """Return True for ``… || true`` and its like: the exit code of such a command proves nothing."""
    return ("||" in command or ";" in command) and any(
        re.search(_SWALLOWS, text) for text in (command, *read_command(command).texts)
    )


def is_idle(command: str) -> bool:
    """Return True where the command only prints, sleeps or succeeds: it cannot have done its step."""
    return bool(command.strip()) and not read_command(command).has_effect


def never_ran(command: str, exit_code: int, *, base: Path, environ: Mapping[str, str]) -> bool:
    """Return True where it is certain that ``command`` did nothing before it ended like this.

    That is a single command which bash could not find or may not run (126, 127), or a ``proc stop``
    that refused (2, 3). Of several commands the first may have acted before the last one failed,
    and a script ends with 127 where its last line is mistyped.
    """
    reading = read_command(command)
    if reading.substitutes or len(reading.acts) != 1:
        return False
    words = reading.acts[0]
    if exit_code in (_REFUSED, _NOT_TOLD):
        is_ours = "ctp_runbook" in words or "ctp-runbook" in map(name_of, words)
        return is_ours and ("proc", "stop") in pairwise(words)
    if exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND):
        return False
    filled = read_command(_filled(command, environ))
    if filled.substitutes or len(filled.acts) != 1:
        return False
    return any(is_missing(each, base=base, environ=environ) for each in filled.needed)


def _filled(command: str, environ: Mapping[str, str]) -> str:
    """The command with its plain variables as bash sees them; one that is set in it is left."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        is_set = re.search(rf"(?<![$\w{{]){name}(?:\[[^]]*\])?(?:\+?=|\b)", command)
        filled = environ.get(name, "")
        is_plain = re.fullmatch(r"[A-Za-z0-9_@%+:,./-]*", filled)
        return match[0] if is_set or _SET_BY_BASH.fullmatch(name) or not is_plain else filled

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, command)
