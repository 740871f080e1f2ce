"""Which files a bash command line would execute, as far as that can be told without running it.

The answer feeds refusals and the plan's digest, so it errs on the side of saying nothing:
expansions, loops, conditions and what stands after ``||`` are left to bash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from ctp_runbook.plan.template_text import placeholders

__all__ = ["Executable", "executables", "is_idle", "never_ran", "resolve", "swallows_failure"]

_ASSIGNMENT = r"[A-Za-z_]\w*\+?="
_EXPANDS = frozenset("$`*?[]{}~<>()\0")
# Where a command is nothing but these, bash splits it at blanks; what a $ stands for is not asked
# here.
_PLAIN = r"[A-Za-z0-9_@%+=:,./$ -]*"
# The same with texts in quotes, that have no backslash.
_WORD = r"""(?:[A-Za-z0-9_@%+=:,./$-]++|"[^"\\]*+"|'[^'\\]*+')+"""
_WORDS = rf"(?: *+{_WORD})*+ *+"
_IN_QUOTES = r"""\"([^"]*)\"|'([^']*)'"""
_SEPARATORS = frozenset({";", "&", "&&", "|", "|&", "||", "(", ")"})
_COMPLEX = frozenset(
    ("for", "while", "until", "if", "case", "select", "function", "[[", "((", "<<")
)
# fmt: off
_BUILTINS = frozenset((
    ".", ":", "[", "alias", "bg", "break", "builtin", "cd", "command", "continue", "declare",
    "echo", "eval", "exit", "export", "false", "fg", "getopts", "hash", "jobs", "kill", "let",
    "local", "popd", "printf", "pushd", "pwd", "read", "readonly", "return", "set", "shift",
    "source", "test", "then", "time", "times", "trap", "true", "type", "typeset", "ulimit",
    "umask", "unset", "wait", "{", "}", "!",
))
# fmt: on
_IDLE = frozenset({"echo", "true", ":", "printf", "sleep", "exit"})
# Programs that run the command after them: their own options and values are skipped.
_WRAPPERS = frozenset({"env", "exec", "ionice", "nice", "nohup", "setsid", "stdbuf", "sudo"})
_INTERPRETERS = frozenset({"bash", "dash", "ksh", "node", "perl", "ruby", "sh", "zsh"})
# What bash ends with where it runs nothing, and `proc` where it refuses its words or its pid file.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_REFUSED, _NOT_TOLD = 2, 3
_SWALLOWS = r"(?:\|\||;)\s*(?:true|:|exit\s+0)\s*(?:[;)}&|#]|$)"


class Executable(Struct, frozen=True):
    """A word that bash would look up and run, or a script an interpreter is given.

    ``folder`` is where a ``cd`` before it leads, relative to where the command starts.
    """

    word: str
    folder: str = ""
    is_script: bool = False


def swallows_failure(command: str) -> bool:
    """Return True for ``… || true`` and its like: the exit code of such a command proves nothing."""
    return ("||" in command or ";" in command) and re.search(_SWALLOWS, command) is not None


def is_idle(command: str) -> bool:
    """Return True where the command only prints, sleeps or succeeds: it cannot have done its step."""
    segments = _segments(command)
    words = [words[0] for _, words in segments or ()]
    return bool(words) and all(_name(word) in _IDLE for word in words)


def never_ran(command: str, exit_code: int, *, base: Path, environ: Mapping[str, str]) -> bool:
    """Return True where it is certain that ``command`` did nothing before it ended like this.

    That is a single command which bash could not find or may not run (126, 127), or a ``proc stop``
    that refused (2, 3). Of several commands the first may have acted before the last one failed,
    and a script ends with 127 where its last line is mistyped.
    """
    segments = _segments(command)
    if segments is None or len(segments) != 1 or not {"`", "("}.isdisjoint(command):
        return False
    words = segments[0][1]
    if exit_code in (_REFUSED, _NOT_TOLD):
        is_ours = "ctp_runbook" in words or "ctp-runbook" in map(_name, words)
        return is_ours and ("proc", "stop") in pairwise(words)
    if exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND):
        return False
    plain = " ".join(_filled(word, environ) for word in words)
    named = executables(plain)
    return any(resolve(each, base=base, environ=environ) is None for each in named)


def _filled(word: str, environ: Mapping[str, str]) -> str:
    """The word with its plain variables as bash sees them, if it is nothing but them and text."""
    filled = re.sub(r"\$\{?(\w+)\}?", lambda match: environ.get(match.group(1), ""), word)
    return filled if re.fullmatch(_PLAIN, filled) and " " not in filled else "$"


@lru_cache(maxsize=256)
def executables(command: str) -> tuple[Executable, ...]:
    """Return the executables of ``command`` that can be told for sure; never raises."""
    segments = _segments(command)
    if segments is None:
        return ()
    named: list[Executable] = []
    folder: str | None = ""
    for joint, words in segments:
        if joint == "||" or folder is None:
            continue
        if words[0] in ("cd", "pushd"):
            # A subshell keeps its folder to itself; where one begins or ends, only bash knows.
            folder = None if "(" in command else _changed(folder, words)
            continue
        named += _of_simple_command(words, folder)
    return tuple(dict.fromkeys(named))


def _changed(folder: str, words: list[str]) -> str | None:
    """Where ``cd`` leads; None where only bash knows."""
    if len(words) != 2 or words[1] == "-" or _expands(words[1]):
        return None
    return _joined(folder, words[1])


@lru_cache(maxsize=256)
def _segments(command: str) -> tuple[tuple[str, list[str]], ...] | None:
    """The simple commands with the separator before each; None where it is too complex."""
    # A placeholder would read as two redirections; as an expansion it is left alone.
    for placeholder in placeholders(command):
        command = command.replace(placeholder, "$")
    try:
        tokens = _tokens(command)
    except ValueError:  # unbalanced quotes: bash will say so, and the step will fail
        return None
    segments: list[tuple[str, list[str]]] = []
    joint, words = "", list[str]()
    for token in [*_without_comment(tokens), ";"]:
        if token in _COMPLEX or token.startswith("<<"):
            return None
        if token not in _SEPARATORS and not set(token) <= set(";()"):
            words.append(token)
            continue
        words = _without_assignments(words)
        if words:
            segments.append((joint, words))
        joint, words = token, []
    return tuple(segments)


def _tokens(command: str) -> list[str]:
    if re.fullmatch(_PLAIN, command):
        return command.split()
    if re.fullmatch(_WORDS, command):
        words = re.findall(_WORD, command)
        return [re.sub(_IN_QUOTES, r"\1\2", word) for word in words]
    import shlex  # it reads character by character

    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _expands(word: str) -> bool:
    return not _EXPANDS.isdisjoint(word)


def _without_comment(tokens: list[str]) -> Iterator[str]:
    for token in tokens:
        if token.startswith("#"):
            return
        yield token


def _without_assignments(words: list[str]) -> list[str]:
    """The words from the command's own name on: no ``VAR=x``, no redirections, no ``!``."""
    at = 0
    while at < len(words):
        if re.match(_ASSIGNMENT, words[at]) or words[at] in (
            "!",
            "{",
            "then",
            "do",
            "else",
            "time",
        ):
            at += 1
        elif words[at] in (">", ">>", "<", ">&", "<&", "&>"):
            at += 2
        elif words[at].isdigit() and words[at + 1 : at + 2] and words[at + 1][0] in "<>":
            at += 3
        else:
            break
    return words[at:]


def _of_simple_command(words: list[str], folder: str) -> Iterator[Executable]:
    """The command's own word, what a wrapper runs, and the script an interpreter is given."""
    word = words[0]
    if _expands(word) or word.startswith("-"):
        return
    name = _name(word)
    if name in _WRAPPERS:
        if name != "exec":
            yield Executable(word, folder)
        inner = _without_assignments(words[1:])
        if inner and not inner[0].startswith("-"):
            yield from _of_simple_command(inner, folder)
        return
    if word in _BUILTINS:
        return
    yield Executable(word, folder)
    if "proc" in words and "--" in words[:-1]:
        # ctp-runbook proc start --pid-file F -- CMD: what it starts is what the step is about.
        yield from _of_simple_command(words[words.index("--") + 1 :], folder)
        return
    if _is_interpreter(name) and len(words) > 1:
        script = words[1]
        if not script.startswith(("-", ">", "<")) and not _expands(script):
            yield Executable(script, folder, is_script=True)


def _is_interpreter(name: str) -> bool:
    version = name.removeprefix("python")
    return name in _INTERPRETERS or (version != name and not version.strip("0123456789."))


def resolve(executable: Executable, *, base: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the file bash would run, or None where there is none.

    A script need not be executable: its interpreter only reads it.
    """
    # Strings, not Paths: this looks at some hundred places before a dry run may begin.
    folder = _joined(str(base), executable.folder)
    places = [folder]
    if "/" not in executable.word and not executable.is_script:
        path = environ.get("PATH", os.defpath)
        places = [_joined(folder, place) for place in path.split(os.pathsep)]
    wanted = os.R_OK if executable.is_script else os.X_OK
    for place in places:
        candidate = _joined(place, executable.word)
        if _is_runnable(candidate, wanted):
            return Path(candidate)
    return None


def _joined(folder: str, name: str) -> str:
    return name if name.startswith("/") or not folder else f"{folder}/{name}"


def _name(word: str) -> str:
    return word.rpartition("/")[2]


def _is_runnable(path: str, wanted: int) -> bool:
    try:
        return os.access(path, wanted) and Path(path).is_file()
    except (OSError, ValueError):  # not a path at all
        return False
