"""Which words are bash's own, what the usual programs do, and what a command is by its words alone."""

from __future__ import annotations

import re
from itertools import pairwise

from ctp_runbook.plan.shell.syntax import Group, Pipeline, Simple, Word, command_words

__all__ = [
    "BUILTINS",
    "CHANGES_PATH",
    "DECLARES",
    "IDLE",
    "INERT",
    "INTERPRETERS",
    "PROGRAMS",
    "SHELLS",
    "ends",
    "hands_on",
    "is_setup",
    "is_strict_after",
    "may_set_path",
    "only_prints",
    "sets_path",
]

# fmt: off
BUILTINS = frozenset((
    ".", ":", "[", "alias", "bg", "break", "builtin", "caller", "cd", "command", "compgen",
    "complete", "continue", "declare", "dirs", "disown", "echo", "enable", "eval", "exec", "exit",
    "export", "false", "fg", "getopts", "hash", "help", "history", "jobs", "kill", "let", "local",
    "logout", "mapfile", "popd", "printf", "pushd", "pwd", "read", "readarray", "readonly",
    "return", "set", "shift", "shopt", "source", "suspend", "test", "times", "trap", "true",
    "type", "typeset", "ulimit", "umask", "unalias", "unset", "wait",
))
# What can have no effect: it prints, succeeds, waits, or changes the shell alone.
IDLE = frozenset((
    "echo", "true", ":", "printf", "sleep", "exit", "false", "pwd", "cd", "pushd", "popd",
    "export", "declare", "typeset", "local", "readonly", "unset", "set", "shopt", "umask",
    "ulimit", "wait", "times",
))
# What makes ready, never fails in silence, and makes no program: what stands behind is reached.
_SETUP = frozenset((
    ":", "true", "cd", "pushd", "popd", "echo", "printf", "export", "declare", "typeset", "local",
    "readonly", "unset", "set", "shopt", "umask", "ulimit", "trap", "mkdir", "rm", "sleep",
))
# Programs after which the same files can be run as before.
INERT = _SETUP | frozenset((
    "cat", "date", "false", "grep", "hostname", "id", "kill", "ls", "pgrep", "pkill", "test", "[",
    "which", "killall", "fuser", "sync",
))
# fmt: on
CHANGES_PATH = frozenset({"alias", "unalias", "hash", "enable", "unset"})
DECLARES = frozenset({"export", "declare", "typeset", "local", "readonly", "read"})
SHELLS = frozenset({"bash", "dash", "ksh", "rbash", "sh", "zsh"})
INTERPRETERS = frozenset({"node", "perl", "ruby"})
# What both bash and a program of its own can be, of what can have no effect.
PROGRAMS = frozenset({"echo", "true", "printf", "sleep", "false", "pwd"})


def is_setup(pipeline: Pipeline) -> bool:
    """True where it fails loudly, if ever: what stands behind ``&&`` is reached."""
    command = pipeline.commands[0]
    return (
        len(pipeline.commands) == 1
        and not pipeline.is_negated
        and isinstance(command, Simple)
        and not command.is_redirected
        and (not command.words or command.words[0].text in _SETUP)
    )


def ends(pipeline: Pipeline) -> bool:
    """True where it surely ends the shell: ``exit 1``, ``{ echo no; exit 1; }``."""
    command = pipeline.commands[0]
    if len(pipeline.commands) > 1:
        return False
    if isinstance(command, Simple):
        return bool(command.words) and command.words[0].text == "exit"
    last, end = command.body.chains[-1]
    return not command.is_subshell and end != "&" and not last[1:] and ends(last[0])


def hands_on(command: Simple | Group) -> bool:
    """True for a ``cat`` that only hands on what it is piped."""
    return (
        isinstance(command, Simple)
        and not (command.assignments or command.writes)
        and [word.text for word in command.words] == ["cat"]
    )


def only_prints(command: str) -> bool:
    """True where a text that is not read, such as ``if true; then echo x; fi``, has no command that
    could have an effect."""
    words = command_words(command)
    return bool(words) and all(word in IDLE for word in words)


def is_strict_after(words: tuple[Word, ...], *, was: bool) -> bool:
    """Whether a shell ends at what fails, after ``set`` with these words."""
    for before, word in pairwise(("", *(each.text for each in words))):
        if re.fullmatch(r"[-+][a-zA-Z]*e[a-zA-Z]*", word):
            was = word[0] == "-"
        elif word == "errexit" and before.endswith("o"):
            was = before[0] == "-"
    return was


def sets_path(word: Word) -> bool:
    """True for an assignment after which programs may be looked up elsewhere."""
    return re.match(r"(?:PATH|BASH_ENV|ENV)\+?=", word.text) is not None


def may_set_path(word: Word) -> bool:
    """The same of what ``export`` and its like are given, where that may be one."""
    return word.is_live or "PATH" in word.text
