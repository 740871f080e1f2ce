"""What a bash command line would execute, as far as that can be told without running it.

Commands are read through what runs them: ``bash -lc '…'``, ``env -C DIR``, ``nohup``, ``timeout``,
``sudo`` and their like, however they are nested. The answer feeds refusals and the plan's digest.
A program is needed where bash would surely come to it and nothing before it can have made it, put
it on the PATH or ended the command; what is short of that is told as what it is, and so is what
cannot be told from here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ctp_runbook.plan.shell_syntax import (
    Group,
    List,
    Pipeline,
    Simple,
    Unreadable,
    Word,
    command_words,
    parse,
)

__all__ = [
    "Executable",
    "executables",
    "is_idle",
    "is_missing",
    "needed",
    "never_ran",
    "resolve",
    "swallows_failure",
    "untold",
]

# fmt: off
_BUILTINS = frozenset((
    ".", ":", "[", "alias", "bg", "break", "builtin", "caller", "cd", "command", "compgen",
    "complete", "continue", "declare", "dirs", "disown", "echo", "enable", "eval", "exec", "exit",
    "export", "false", "fg", "getopts", "hash", "help", "history", "jobs", "kill", "let", "local",
    "logout", "mapfile", "popd", "printf", "pushd", "pwd", "read", "readarray", "readonly",
    "return", "set", "shift", "shopt", "source", "suspend", "test", "times", "trap", "true",
    "type", "typeset", "ulimit", "umask", "unalias", "unset", "wait",
))
# What can have no effect: it prints, succeeds, waits, or changes the shell alone.
_IDLE = frozenset((
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
_INERT = _SETUP | frozenset((
    "cat", "date", "false", "grep", "hostname", "id", "kill", "ls", "pgrep", "pkill", "test", "[",
    "which", "killall", "fuser", "sync",
))
# fmt: on
_CHANGES_PATH = frozenset({"alias", "unalias", "hash", "enable", "unset"})
_DECLARES = frozenset({"export", "declare", "typeset", "local", "readonly", "read"})
_SHELLS = frozenset({"bash", "dash", "ksh", "rbash", "sh", "zsh"})
_INTERPRETERS = frozenset({"node", "perl", "ruby"})
# What bash ends with where it runs nothing, and `proc` where it refuses its words or its pid file.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_REFUSED, _NOT_TOLD = 2, 3
_SWALLOWS = (
    r"(?:\|\||;)\s*(?:true|:|exit\s+0|/(?:usr/)?bin/true)\s*(?:[;)}&|#]|$)"
    r"|\|\|\s*(?:echo|printf)\b[^;&|(){}]*(?:[)}#]|$)"
)
# Where bash looks when nobody has set PATH.
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Variables that bash sets, whatever the environment has.
_SET_BY_BASH = re.compile(
    r"_|\d+|BASH\w*|DIRSTACK|E?UID|GROUPS|HOST\w*|IFS|LINENO|MACHTYPE|OLDPWD|OPT\w+|OSTYPE|PIPESTATUS|"
    r"PPID|PS\d|PWD|RANDOM|SECONDS|SHELL\w*|SHLVL|SRANDOM|EPOCH\w+|FUNCNAME|COMP\w+|PATH|TERM"
)
_MOST_DEPTH = 12
# More folders that a shell may be in than anybody writes.
_MOST_PLACES = 16
# Read for what stands deeper in shells than anybody writes.
_TOO_DEEP = "case"


class Executable(Struct, frozen=True):
    """A word that bash would look up and run, or a script an interpreter is given.

    ``folder`` is where a ``cd`` before it leads, relative to where the command starts; where there
    is no such folder and nobody minds, the shell stays in the first of ``otherwise`` that is there.
    ``is_foreign``: somebody else runs it, who may see what this user does not.
    """

    word: str
    folder: str = ""
    is_script: bool = False
    is_foreign: bool = False
    otherwise: tuple[str, ...] = ()


class _Wrapper(Struct, frozen=True):
    """A program that runs the command after it: what stands between the two.

    ``flags`` and ``values`` are the names of options without and with a value, ``folder`` those of
    them that say where to run it, ``alone`` those with which it runs nothing. ``skips`` words
    follow the options; ``assigns``: then come ``NAME=value``. ``own_path``: it looks the program
    up on another PATH than ours, ``is_foreign``: as somebody else.
    """

    flags: str = ""
    values: str = ""
    folder: str = ""
    alone: str = ""
    skips: int = 0
    assigns: bool = False
    own_path: bool = False
    is_foreign: bool = False


_ARCHITECTURES = frozenset(
    ("linux32", "linux64", "i386", "i486", "i586", "i686", "x86_64", "aarch64", "athlon", "uname26")
)
_SETARCH = _Wrapper(
    "R F I L S T X Z B 3 v addr-no-randomize fdpic-funcptrs short-inode addr-compat-layout "
    "whole-seconds sticky-timeouts read-implies-exec mmap-page-zero 32bit 3gb 4gb uname-2.6 "
    "verbose"
)
_WRAPPERS = {
    "chrt": _Wrapper(
        "a b d f i o r R v all-tasks batch deadline fifo idle other rr reset-on-fork verbose",
        "T P D sched-runtime sched-period sched-deadline",
        alone="m p max pid",
        skips=1,
    ),
    "env": _Wrapper(
        "i 0 v ignore-environment null debug block-signal default-signal ignore-signal "
        "list-signal-handling",
        "u C a unset chdir argv0",
        "C chdir",
        assigns=True,
    ),
    "flock": _Wrapper(
        "e x s n o F shared exclusive nonblock no-fork close verbose",
        "w E wait timeout conflict-exit-code",
        alone="u unlock",
        skips=1,
    ),
    "ionice": _Wrapper("t ignore", "c n class classdata", alone="p P u pid pgid uid"),
    "nice": _Wrapper("", "n adjustment"),
    "nohup": _Wrapper(),
    "numactl": _Wrapper(
        "a l all localalloc balancing touch",
        "i m N C p P w interleave membind cpunodebind physcpubind preferred preferred-many",
        alone="s H show hardware",
    ),
    "doas": _Wrapper("n", "C u", alone="L s", own_path=True, is_foreign=True),
    "gosu": _Wrapper(skips=1, is_foreign=True),
    "runuser": _Wrapper("m p P T", "u g G w user group", own_path=True, is_foreign=True),
    "setpriv": _Wrapper(
        "clear-groups keep-groups init-groups no-new-privs nnp reset-env",
        "reuid regid ruid euid rgid egid groups inh-caps ambient-caps bounding-set pdeathsig "
        "securebits selinux-label apparmor-profile",
        alone="d dump list-caps",
        is_foreign=True,
    ),
    "setsid": _Wrapper("c f w ctty fork wait"),
    "stdbuf": _Wrapper("", "i o e input output error"),
    "sudo": _Wrapper(
        "A b B E H n P S N i s askpass background bell preserve-env set-home non-interactive "
        "preserve-groups stdin no-update login shell",
        "u g h p C D r t T U user group host prompt close-from chdir role type command-timeout "
        "other-user",
        "D chdir",
        alone="e K k l V v edit remove-timestamp reset-timestamp list version validate",
        assigns=True,
        own_path=True,
        is_foreign=True,
    ),
    "systemd-run": _Wrapper(
        "t P q G r d pty pipe quiet collect remain-after-exit same-dir scope user system wait "
        "no-block no-ask-password slice-inherit send-sighup ignore-failure",
        "u p E unit property description slice uid gid nice working-directory setenv "
        "service-type on-active on-boot on-startup on-unit-active on-unit-inactive on-calendar "
        "timer-property path-property socket-property expand-environment background job-mode",
        "working-directory",
        own_path=True,
        is_foreign=True,
    ),
    "taskset": _Wrapper("a c all-tasks cpu-list", alone="p pid", skips=1),
    "time": _Wrapper(
        "a append p portability q quiet v verbose", "f format o output", alone="V version help"
    ),
    "timeout": _Wrapper(
        "f v p foreground preserve-status verbose", "k s kill-after signal", skips=1
    ),
    "setarch": _SETARCH,
    "linux32": _SETARCH,
    "linux64": _SETARCH,
    "i386": _SETARCH,
    "x86_64": _SETARCH,
}
_ARCHITECTURES_OF = {name for name, row in _WRAPPERS.items() if row is _SETARCH}
_LEAVE = frozenset({"setsid", "sudo", "systemd-run"})
_SU = _Wrapper(
    "m p P T l f login preserve-environment fast pty",
    "c s g G w command session-command shell group supp-group whitelist-environment",
)
# What runs a command where this host's files say nothing of it: its words behind the name of the place.
_REMOTE = {
    "ssh": _Wrapper(
        "4 6 A a C f G g K k M N n q s T t V v X x Y y",
        "B b c D E e F I i J L l m O o P p Q R S W w",
        skips=1,
    ),
    "exec": _Wrapper(
        "d i t T interactive tty no-TTY detach privileged quiet q",
        "e u w c n env env-file user workdir detach-keys index container namespace",
        skips=1,
    ),
}
_CONTAINERS = frozenset({"docker", "podman", "nerdctl", "docker-compose", "kubectl"})
# What runs other programs by rules of its own; and the words with which it runs none.
_RUNNERS = frozenset((
    "bwrap", "busybox", "catchsegv", "cgexec", "chpst", "chroot", "daemonize", "dbus-run-session",
    "fakeroot", "firejail", "gdb", "lxc", "machinectl", "nsenter", "parallel", "perf", "pkexec",
    "prlimit", "rr", "run0", "screen", "script", "setuidgid", "start-stop-daemon", "strace",
    "su-exec", "tmux", "unbuffer", "unshare", "valgrind", "watch", "xargs",
))  # fmt: skip
_RUNS_NONE = frozenset(
    ("kill-session", "kill-server", "-X", "-ls", "--stop", "-K", "-p", "--pid", "terminate", "stop")
)
_EXEC = _Wrapper("c l", "a")
_COMMAND = _Wrapper("p", alone="v V")


# --- what is asked of a command ---------------------------------------------------


def executables(command: str) -> tuple[Executable, ...]:
    """Return the executables of ``command`` that can be told for sure; never raises."""
    return _read(command).named


def needed(command: str) -> tuple[Executable, ...]:
    """Return those of its executables without which ``command`` cannot do what it says."""
    return _read(command).needed


def untold(command: str) -> tuple[str, ...]:
    """Say of what in ``command`` it cannot be told from here what it runs; empty where all is told."""
    return _read(command).untold


def swallows_failure(command: str) -> bool:
    """Return True for ``… || true`` and its like: the exit code of such a command proves nothing."""
    return ("||" in command or ";" in command) and any(
        re.search(_SWALLOWS, text) for text in (command, *_read(command).texts)
    )


def is_idle(command: str) -> bool:
    """Return True where the command only prints, sleeps or succeeds: it cannot have done its step."""
    return bool(command.strip()) and not _read(command).has_effect


def never_ran(command: str, exit_code: int, *, base: Path, environ: Mapping[str, str]) -> bool:
    """Return True where it is certain that ``command`` did nothing before it ended like this.

    That is a single command which bash could not find or may not run (126, 127), or a ``proc stop``
    that refused (2, 3). Of several commands the first may have acted before the last one failed,
    and a script ends with 127 where its last line is mistyped.
    """
    reading = _read(command)
    if reading.substitutes or len(reading.acts) != 1:
        return False
    words = reading.acts[0]
    if exit_code in (_REFUSED, _NOT_TOLD):
        is_ours = "ctp_runbook" in words or "ctp-runbook" in map(_name, words)
        return is_ours and ("proc", "stop") in pairwise(words)
    if exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND):
        return False
    filled = _read(_filled(command, environ))
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


# --- the reading ------------------------------------------------------------------


class _Reading(Struct, frozen=True):
    """``acts`` are the words of the commands that may have an effect; ``texts``, what shells were
    given to run by ``-c``."""

    named: tuple[Executable, ...]
    needed: tuple[Executable, ...]
    untold: tuple[str, ...]
    acts: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    has_effect: bool
    substitutes: bool


class _Shell(Struct):
    """What is known of a shell where its reading has come to.

    ``places``: it is in the first of them that is there, if all went well so far; None where nobody
    can tell. ``is_there``: it surely is. ``goes_on``: nothing before may have ended it; ``has_ended``:
    something surely has. ``is_strict``: what fails ends it. ``sets_path``: another PATH was set in it.
    ``files`` are the names of files that were written; ``knows_files``: none but these were.
    """

    places: tuple[str, ...] | None = ("",)
    is_there: bool = True
    is_strict: bool = False
    knows_path: bool = True
    sets_path: bool = False
    knows_files: bool = True
    files: frozenset[str] = frozenset()
    goes_on: bool = True
    has_ended: bool = False
    is_foreign: bool = False

    def child(self) -> _Shell:
        """A process of its own, that begins with what this one has."""
        return replace(self, goes_on=True, has_ended=False)

    def absorb(self, child: _Shell) -> None:
        """Files are what a child leaves behind."""
        self.knows_files &= child.knows_files
        self.files |= child.files

    def move(self, word: Word | None) -> None:
        """Change the folder; None where only bash knows where that leads."""
        if word is None or word.is_live or word.text[:1] in ("", "-", "+"):
            self.places = None
        elif word.text.startswith("/"):
            self.places = (word.text,) * len(self.places or ("",))
        elif self.places is not None:
            # Through a link, bash and the system disagree about what is above.
            is_upward = ".." in word.text.split("/")
            is_lost = is_upward and any(self.places)
            self.places = None if is_lost else tuple(_joined(p, word.text) for p in self.places)

    def may_stay(self, trail: list[tuple[str, ...] | None]) -> None:
        """Where a ``cd`` fails and nobody minds, the shell is where it was before."""
        places = [
            each
            for steps in zip(*reversed(list(filter(None, trail))), strict=True)
            for each in steps
        ]
        fits = None not in trail and len(places) <= _MOST_PLACES
        self.places = tuple(dict.fromkeys(places)) if fits else None


class _At(Struct, frozen=True):
    """Where a command stands. ``sure``: it is reached; ``here``: reached where its list is begun.

    ``decides``: where it fails the whole fails. ``is_told``: its programs are named.
    """

    sure: bool = True
    here: bool = True
    decides: bool = True
    is_told: bool = True
    in_bash: bool = True

    def inside(self, *, decides: bool = True) -> _At:
        """What a list begins with that stands there."""
        return replace(self, here=True, decides=self.decides and decides, in_bash=True)


_Given = list[tuple[str, Word | None]]


@lru_cache(maxsize=256)
def _read(command: str) -> _Reading:
    reader = _Reader()
    reader.text(command, _Shell(), _At())
    return _Reading(
        tuple(reader.named),
        tuple(reader.needed),
        tuple(dict.fromkeys(reader.untold)),
        tuple(reader.acts),
        tuple(reader.texts[1:]),
        reader.has_effect,
        reader.substitutes,
    )


class _Reader:
    """Walks the tree of a command in the order bash would, and notes what it comes by."""

    def __init__(self) -> None:
        self.named: dict[Executable, None] = {}
        self.needed: dict[Executable, None] = {}
        self.untold: list[str] = []
        self.acts: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.has_effect = self.substitutes = False
        self.depth = 0

    def text(self, command: str, shell: _Shell, at: _At) -> None:
        """Read what a shell is given to run."""
        self.texts.append(command)
        self.depth += 1
        try:
            tree = parse(command if self.depth <= _MOST_DEPTH else _TOO_DEEP)
        except Unreadable as gap:
            if self.depth <= _MOST_DEPTH and _only_prints(command):
                self.untold.append(str(gap))
            else:
                self.gives_up(str(gap), shell)
        else:
            self.list(tree, shell, at)
        self.depth -= 1

    def gives_up(self, what: str, shell: _Shell, words: tuple[Word, ...] = ()) -> None:
        """Only bash knows what is run here, and what it does."""
        self.untold.append(what)
        self.acted(words, shell)
        shell.knows_path = shell.goes_on = False

    def acted(self, words: tuple[Word, ...], shell: _Shell) -> None:
        """Note a command that may have an effect, and may have made files."""
        self.has_effect = True
        self.acts.append(tuple(word.text for word in words))
        if not words or _name(words[0].text) not in _INERT:
            shell.knows_files = False

    def list(self, tree: List, shell: _Shell, at: _At) -> None:
        # What fails in a strict shell ends it, which nobody minds where the list does not decide.
        may_end = False
        for number, (chain, end) in enumerate(tree.chains, start=1):
            own = shell.child() if end == "&" else shell
            is_last = number == len(tree.chains) and end != "&"
            self.chain(
                chain,
                own,
                replace(
                    at,
                    sure=at.sure and shell.goes_on and (at.decides or not may_end),
                    decides=at.decides and is_last,
                ),
            )
            may_end |= shell.is_strict and not all(map(_is_setup, chain))
            if own is not shell:
                shell.absorb(own)
            if shell.has_ended:
                return

    def chain(self, chain: tuple[Pipeline, ...], shell: _Shell, at: _At) -> None:
        has_or = any(pipeline.joint == "||" for pipeline in chain)
        decides = at.decides and not has_or
        reached, is_ready, moved = True, True, False
        # Where the shell was before, and behind each ``cd`` of the chain.
        trail = [shell.places]
        for number, pipeline in enumerate(chain):
            is_other = pipeline.joint == "||"
            reached &= not is_other
            here = reached and is_ready
            is_ready &= _is_setup(pipeline)
            own = shell.child() if is_other else shell
            if is_other and trail[1:]:
                own.places = trail[0] if number == 1 else None
            before = own.places
            where = replace(
                at, sure=at.sure and reached and (here or decides), here=here, decides=decides
            )
            self.pipeline(pipeline, own, where)
            moved |= own.places != before and not (here and at.here)
            if is_other:
                shell.absorb(own)
                shell.goes_on &= own.goes_on
                if trail[1:] and not _ends(pipeline) and number + 1 < len(chain):
                    trail, shell.places = [None], None
            elif own.places != before:
                same = before and own.places and len(before) == len(own.places)
                trail = [*trail, own.places] if same else [own.places]
            if shell.has_ended:
                return
        is_minded = _ends(chain[-1]) if has_or else shell.is_strict and not chain[1:]
        if trail[1:] and not is_minded:
            shell.may_stay(trail)
        # Where it may have stayed behind.
        shell.is_there &= not moved

    def pipeline(self, pipeline: Pipeline, shell: _Shell, at: _At) -> None:
        is_alone = len(pipeline.commands) == 1
        for number, command in enumerate(pipeline.commands, start=1):
            own = shell if is_alone else shell.child()
            is_last = number == len(pipeline.commands) and not pipeline.is_negated
            where = replace(at, decides=at.decides and is_last)
            if number > 1 and _hands_on(command):
                self.name("cat", own, where)
            elif isinstance(command, Simple):
                self.simple(command, own, where)
            else:
                self.group(command, own, where)
            if not is_alone:
                shell.absorb(own)

    def group(self, group: Group, shell: _Shell, at: _At) -> None:
        own = shell.child() if group.is_subshell else shell
        self.inside(own, at, lambda: self.list(group.body, own, at.inside()))
        self.written(group.writes, own)
        if own is not shell:
            shell.absorb(own)

    @staticmethod
    def inside(shell: _Shell, at: _At, read: Callable[[], None]) -> None:
        """Read what the shell itself runs there: unless it surely comes there, it may go on."""
        had_ended = shell.has_ended
        read()
        if not at.here:
            shell.goes_on &= not shell.has_ended
            shell.has_ended = had_ended

    def simple(self, command: Simple, shell: _Shell, at: _At) -> None:
        self.substituted(command.runs, shell, at)
        sets_path = any(map(_sets_path, command.assignments))
        knew_path, had_path = shell.knows_path, shell.sets_path
        shell.knows_path &= not sets_path
        shell.sets_path |= sets_path
        if command.words:
            self.command(command.words, shell, at)
            # Set for this command alone.
            shell.knows_path |= knew_path and sets_path
            shell.sets_path &= had_path or not sets_path
        self.written(command.writes, shell)

    def substituted(self, runs: tuple[str, ...], shell: _Shell, at: _At) -> None:
        """Read what is run for its output: it may be there or not, the command goes on."""
        for text in runs:
            self.substitutes = True
            own = shell.child()
            if text == "`":
                own.knows_files, self.has_effect = False, True
            else:
                # Bash itself reads a file: $(<FILE).
                self.has_effect |= text.lstrip().startswith("<")
                self._quietly(text, own, replace(at, sure=False, in_bash=True))
            shell.absorb(own)

    def _quietly(self, text: str, shell: _Shell, at: _At) -> None:
        """Read a text whose gaps are not worth a word."""
        before = len(self.untold)
        self.text(text, shell, at.inside(decides=False))
        del self.untold[before:]

    def written(self, writes: tuple[Word, ...], shell: _Shell) -> None:
        for word in writes:
            self.has_effect = True
            shell.knows_files &= not word.is_live
            shell.files |= {_name(word.text)}

    # --- one command --------------------------------------------------------------

    def command(self, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Read a command by its words, through what only runs it."""
        word = words[0]
        if word.is_live or self.depth > _MOST_DEPTH:
            self.gives_up(f"what {word.raw} stands for", shell, words)
            return
        if at.in_bash and word.text in _BUILTINS:
            self.builtin(words, shell, at)
            return
        if not word.text or word.text.startswith("-"):
            self.acted(words, shell)
            return
        self.name(word.text, shell, at)
        name, outside = _name(word.text), replace(at, in_bash=False)
        is_su = name == "runuser" and not {"-u", "--user"} & {each.text for each in words}
        if name == "su" or is_su:
            self.su(words, shell, outside)
        elif row := _WRAPPERS.get(name):
            self.wrapped(row, words, shell, outside)
        elif name in _SHELLS:
            self.shell(words, shell, outside)
        elif name in _IDLE and name in _PROGRAMS:
            pass
        elif name == "ssh" or name in _CONTAINERS:
            self.remote(name, words, shell, outside)
        else:
            self.runs_others(name, words)
            before = replace(shell)
            self.acted(words, shell)
            self.interpreted(name, words, before, at)
            texts = [each.text for each in words]
            if "proc" in texts and "--" in texts[:-1]:
                # ctp-runbook proc start --pid-file F -- CMD: what it starts is the step's matter.
                rest = words[texts.index("--") + 1 :]
                self.command(rest, before.child(), replace(outside, decides=False))

    def name(self, word: str, shell: _Shell, at: _At, *, is_script: bool = False) -> None:
        """Note a program or script, and whether it is needed."""
        if not at.is_told:
            return
        is_absolute, is_bare = word.startswith("/"), "/" not in word
        is_looked_up = is_bare and not is_script
        if shell.places is None and not is_absolute and not is_looked_up:
            self.untold.append(f"where {word} is")
            return
        if (shell.sets_path and is_looked_up) or not (
            shell.is_there or is_absolute or is_looked_up
        ):
            self.untold.append(f"where {word} is")
        places = ("",) if is_absolute else shell.places or ("",)
        executable = Executable(word, places[0], is_script, shell.is_foreign, places[1:])
        self.named[executable] = None
        is_fixed = shell.knows_files and _name(word) not in shell.files
        is_found = is_absolute or (not shell.is_foreign and (shell.knows_path or not is_bare))
        is_there = is_absolute or shell.is_there or is_looked_up
        if at.sure and is_fixed and is_found and is_there:
            self.needed[executable] = None

    def wrapped(self, row: _Wrapper, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Read the command behind a wrapper's own words."""
        name = _name(words[0].text)
        cut = _behind(row, words[1:])
        if cut is None:
            self.gives_up(f"what {name} runs with these options", shell, words)
            return
        (parsed, rest), is_sure = cut, True
        if name in _ARCHITECTURES_OF and rest and rest[0].text in _ARCHITECTURES:
            # setarch x86_64 -R PROGRAM: the architecture may be left out, and options follow it.
            parsed, rest = _behind(row, rest[1:]) or ([], ())
        options = {option for option, _ in parsed}
        if options & set(row.alone.split()) or not (rest or row.assigns):
            self.acted(words, shell)
            return
        own = self._inside(row, name, parsed, shell)
        while row.assigns and rest and ("=" in rest[0].text or rest[0].raw == "-"):
            own.knows_path &= not (_sets_path(rest[0]) or rest[0].raw == "-")
            own.sets_path |= _sets_path(rest[0])
            is_sure &= not rest[0].splits
            rest = rest[1:]
        # Those that need not wait for it say nothing of how it ends.
        where = replace(at, sure=at.sure and is_sure, decides=at.decides and name not in _LEAVE)
        if name == "flock" and rest[0].text in ("-c", "--command") and rest[1:]:
            self.string(rest[1], "flock -c", own, where)
        elif rest:
            self.depth += 1
            self.command(rest, own, where)
            self.depth -= 1
        shell.absorb(own)

    def _inside(self, row: _Wrapper, name: str, parsed: _Given, shell: _Shell) -> _Shell:
        """What a wrapper makes of what is known of its shell."""
        own, options = shell.child(), {option for option, _ in parsed}
        if name == "systemd-run" and not options & {"scope", "d", "same-dir"}:
            own.places = None  # its manager's
        if name == "sudo" and options & {"i", "login"}:
            own.places = None  # somebody's home
        for option, value in parsed:
            if option in row.folder.split():
                own.move(value)
        own.knows_path &= not (row.own_path or options & {"i", "ignore-environment"})
        own.is_foreign |= row.is_foreign
        return own

    def su(self, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Read what ``su`` hands to somebody's shell; its options stand anywhere."""
        name, parsed, plain, rest = _name(words[0].text), _Given(), list[Word](), words[1:]
        while rest:
            if (cut := _behind(_SU, rest)) is None:
                self.gives_up(f"what {name} runs with these options", shell, words)
                return
            parsed += cut[0]
            plain += cut[1][:1]
            rest = cut[1][1:]
        options = dict(parsed)
        texts = [options.get(key) for key in ("c", "command", "session-command")]
        text = next(filter(None, texts), None)
        is_login = bool({"l", "login"} & options.keys()) or any(each.raw == "-" for each in plain)
        own = replace(shell.child(), knows_path=False, is_foreign=True)
        own.places = None if is_login else own.places
        if text is not None:
            self.string(text, f"{name} -c", own, at)
        else:
            self.gives_up(f"what {name} is given to run", shell, words)
        shell.absorb(own)

    def remote(self, name: str, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Read a command that another host or a container runs, for whether it does anything."""
        texts = [each.text for each in words]
        verb = name if name == "ssh" else next((t for t in texts if t in ("exec", "run")), "")
        if not verb:
            self.acted(words, shell)
            return
        begin = 1 if name == "ssh" else texts.index(verb) + 1
        cut = _behind(_REMOTE[verb], words[begin:]) if verb in _REMOTE else None
        rest = tuple(word for word in cut[1] if word.raw != "--") if cut else ()
        if cut and not rest and {"N", "O", "W", "V", "Q"} & dict(cut[0]).keys():
            self.acted(words, shell)  # a tunnel, or a question
            return
        self.untold.append(f"what {name}{'' if verb == name else f' {verb}'} runs there")
        own, where = _Shell(places=None), replace(at, sure=False, is_told=False)
        before = len(self.untold)
        if not rest or any(word.is_live for word in rest):
            self.acted(words, shell)
        elif name == "ssh":
            self.text(" ".join(word.text for word in rest), own, where.inside())
        else:
            self.command(rest, own, where)
        del self.untold[before:]

    def runs_others(self, name: str, words: tuple[Word, ...]) -> None:
        """Say of what runs other programs that it does, where nobody here reads which."""
        texts = {each.text for each in words}
        if name in _RUNNERS and not texts & _RUNS_NONE:
            self.untold.append(f"what {name} runs")
        elif name == "find" and texts & {"-exec", "-execdir", "-ok", "-okdir"}:
            self.untold.append("what find runs")

    def string(self, word: Word, what: str, shell: _Shell, at: _At) -> None:
        """Read the text a shell is given by ``-c``."""
        if word.is_live:
            self.gives_up(f"what {what} is given", shell)
            return
        self.text(word.text, shell, at.inside())

    def shell(self, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Read what ``bash`` and its like are given: a text, a script, or their input."""
        name, own = _name(words[0].text), shell.child()
        cut = _shell_options(words[1:])
        if cut is None:
            self.gives_up(f"what {name} runs with these options", shell, words)
            return
        flags, rest = cut
        own.knows_path &= not {"l", "i"} & flags
        own.is_strict = "e" in flags
        if "n" in flags:
            self.acted(words, own)
        elif "c" in flags and rest:
            self.string(rest[0], f"{name} -c", own, at)
        elif "s" in flags or not rest or rest[0].splits:
            self.gives_up(f"what {name} is given to run", own, words)
        else:
            self.script(rest[0], own, at)
            self.acted(words, own)
        shell.absorb(own)

    def script(self, word: Word, shell: _Shell, at: _At) -> None:
        if word.is_live:
            self.untold.append(f"what {word.raw} stands for")
        elif word.text:
            self.name(word.text, shell, at, is_script=True)

    def interpreted(self, name: str, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """Note the script another interpreter is given, where it stands right behind it."""
        rest = words[1:]
        if _is_python(name):
            rest = _behind_python(rest)
        elif name not in _INTERPRETERS:
            return
        if rest and not rest[0].text.startswith("-"):
            self.script(rest[0], shell, at)

    def builtin(self, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        name, rest = words[0].text, words[1:]
        if name in ("cd", "pushd", "popd"):
            rest = rest[1:] if rest and rest[0].text == "--" else rest
            shell.move(rest[0] if len(rest) == 1 and name != "popd" else None)
        elif name == "set":
            shell.is_strict = _is_strict(rest, was=shell.is_strict)
        elif name in ("exec", "command", "builtin"):
            self.by_builtin(name, words, shell, at)
        elif name == "eval":
            self.evaluated(words, shell, at)
        elif name in (".", "source"):
            if rest:
                self.script(rest[0], shell, at)
            self.acted(words, shell)
            shell.knows_files = shell.knows_path = shell.goes_on = False
        elif name in ("exit", "return", "logout"):
            is_failure = bool(rest) and re.fullmatch(r"0*[1-9]\d*", rest[0].text) is not None
            shell.has_ended |= name == "exit" and at.here
            shell.goes_on &= at.here or is_failure
        elif name in _CHANGES_PATH or (name in _DECLARES and any(map(_may_set_path, rest))):
            shell.knows_path = False
            shell.sets_path |= name in _DECLARES
        if name not in _IDLE and name not in ("exec", "command", "builtin", "eval", ".", "source"):
            self.acted(words, shell)

    def by_builtin(self, name: str, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        """``exec``, which ends the shell, and ``command``, which is one more word."""
        cut = _behind(_EXEC if name == "exec" else _COMMAND, words[1:])
        if cut is None or any(key in ("v", "V") for key, _ in cut[0]):
            self.acted(words, shell)
        elif rest := cut[1]:
            knew_path = shell.knows_path
            shell.knows_path &= not cut[0]
            self.depth += 1
            self.command(rest, shell, replace(at, in_bash=name != "exec"))
            self.depth -= 1
            shell.knows_path = knew_path and shell.knows_path | bool(cut[0])
            if name == "exec":
                shell.has_ended |= at.here
                shell.goes_on &= at.here

    def evaluated(self, words: tuple[Word, ...], shell: _Shell, at: _At) -> None:
        if any(word.is_live for word in words):
            self.gives_up("what eval is given", shell, words)
        else:
            text = " ".join(word.text for word in words[1:])
            self.inside(shell, at, lambda: self.text(text, shell, at.inside()))


# What both bash and a program of its own can be, of what can have no effect.
_PROGRAMS = frozenset({"echo", "true", "printf", "sleep", "false", "pwd"})


def _is_setup(pipeline: Pipeline) -> bool:
    """True where it fails loudly, if ever: what stands behind ``&&`` is reached."""
    command = pipeline.commands[0]
    return (
        len(pipeline.commands) == 1
        and not pipeline.is_negated
        and isinstance(command, Simple)
        and not command.is_redirected
        and (not command.words or command.words[0].text in _SETUP)
    )


def _ends(pipeline: Pipeline) -> bool:
    """True where it surely ends the shell: ``exit 1``, ``{ echo no; exit 1; }``."""
    command = pipeline.commands[0]
    if len(pipeline.commands) > 1:
        return False
    if isinstance(command, Simple):
        return bool(command.words) and command.words[0].text == "exit"
    last, end = command.body.chains[-1]
    return not command.is_subshell and end != "&" and not last[1:] and _ends(last[0])


def _hands_on(command: Simple | Group) -> bool:
    """True for a ``cat`` that only hands on what it is piped."""
    return (
        isinstance(command, Simple)
        and not (command.assignments or command.writes)
        and [word.text for word in command.words] == ["cat"]
    )


def _only_prints(command: str) -> bool:
    """True where a text that is not read, such as ``if true; then echo x; fi``, has no command that
    could have an effect."""
    words = command_words(command)
    return bool(words) and all(word in _IDLE for word in words)


def _is_strict(words: tuple[Word, ...], *, was: bool) -> bool:
    """Whether a shell ends at what fails, after ``set`` with these words."""
    for before, word in pairwise(("", *(each.text for each in words))):
        if re.fullmatch(r"[-+][a-zA-Z]*e[a-zA-Z]*", word):
            was = word[0] == "-"
        elif word == "errexit" and before.endswith("o"):
            was = before[0] == "-"
    return was


def _sets_path(word: Word) -> bool:
    return re.match(r"(?:PATH|BASH_ENV|ENV)\+?=", word.text) is not None


def _may_set_path(word: Word) -> bool:
    return word.is_live or "PATH" in word.text


# --- the words of wrappers --------------------------------------------------------


def _behind(row: _Wrapper, words: tuple[Word, ...]) -> tuple[_Given, tuple[Word, ...]] | None:
    """The options and the words behind them; None where only the program can tell them apart."""
    flags, values = {*row.flags.split(), *row.alone.split()}, set(row.values.split())
    parsed, at = _Given(), 0
    while at < len(words) and (word := words[at]).text.startswith("-") and word.text != "-":
        at += 1
        if word.text == "--":
            break
        options = _long(word, flags, values) if word.text[1] == "-" else _short(word, flags, values)
        if options is None or word.splits:
            return None
        for name, value in options:
            if name in values and value is None:
                if at == len(words):
                    return None
                value = words[at]
                at += 1
            if value is not None and value.splits:
                return None
            parsed.append((name, value))
    if any(word.splits for word in words[at : at + row.skips]):
        return None  # it may be none, or several
    return parsed, words[at + row.skips :]


def _long(word: Word, flags: set[str], values: set[str]) -> _Given | None:
    name, joint, value = word.text[2:].partition("=")
    fits = [each for each in sorted(flags | values) if len(each) > 1 and each.startswith(name)]
    if name not in fits:
        if len(fits) != 1:
            return None
        name = fits[0]
    return [(name, replace(word, text=value) if joint and name in values else None)]


def _short(word: Word, flags: set[str], values: set[str]) -> _Given | None:
    letters, options = word.text[1:], _Given()
    if letters.isdigit() and "adjustment" in values:
        return [("n", word)]  # nice -10
    for at, letter in enumerate(letters):
        if letter in values:
            rest = letters[at + 1 :]
            return [*options, (letter, replace(word, text=rest) if rest else None)]
        if letter not in flags:
            return None
        options.append((letter, None))
    return options


def _shell_options(words: tuple[Word, ...]) -> tuple[set[str], tuple[Word, ...]] | None:
    """The letters a shell is given, and the words behind; None where only the shell can tell."""
    flags, at = set[str](), 0
    while at < len(words) and (word := words[at]).text[:1] in ("-", "+") and len(word.text) > 1:
        at += 1
        if word.is_live:
            return None
        if word.text == "--":
            break
        if word.text.startswith("--"):
            flags |= {"l"} if word.text == "--login" else set()
            at += word.text in ("--rcfile", "--init-file")
            continue
        letters = word.text[1:]
        flags |= set(letters) if word.text[0] == "-" else set()
        at += letters.count("o") + letters.count("O")
    if words[at : at + 1] and words[at].text == "-":
        at += 1
    return flags, words[at:]


def _is_python(name: str) -> bool:
    version = name.removeprefix("python")
    return version != name and not version.strip("0123456789.")


def _behind_python(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """The words from the script on; none where a module or a text is run."""
    at = 0
    while at < len(words) and (text := words[at].text).startswith("-"):
        if words[at].is_live or {"m", "c"} & set(text[1:]) or text.startswith("--"):
            return ()
        at += 2 if text in ("-W", "-X") else 1
    return words[at:]


# --- files ------------------------------------------------------------------------


def is_missing(executable: Executable, *, base: Path, environ: Mapping[str, str]) -> bool:
    """Return True where it is certain that whoever runs the command finds no such program."""
    if resolve(executable, base=base, environ=environ) is not None:
        return False
    if "/" not in executable.word and _is_shadowed(executable.word, environ):
        return False
    if not executable.is_foreign:
        return True
    try:
        Path(_joined(_joined(str(base), executable.folder), executable.word)).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # hidden from this user alone
        return False
    return False


def _is_shadowed(word: str, environ: Mapping[str, str]) -> bool:
    """True where a function of the environment, or a file bash reads first, may stand for it."""
    return bool(environ.get("BASH_ENV")) or f"BASH_FUNC_{word}%%" in environ


def resolve(executable: Executable, *, base: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the file bash would run, or None where there is none.

    A script need not be executable: its interpreter only reads it.
    """
    return next(_found(executable, base, environ), None)


def _found(executable: Executable, base: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    # Strings, not Paths: this looks at some hundred places before a dry run may begin.
    places = [_joined(str(base), each) for each in (executable.folder, *executable.otherwise)]
    folder = places[0]
    if executable.otherwise:
        folder = next((place for place in places if _is_folder(place)), folder)
    places = [folder]
    if "/" not in executable.word:
        path = environ.get("PATH", _USUAL_PATH)
        on_path = [_joined(folder, place) for place in path.split(os.pathsep)]
        # bash looks for a script here, then there.
        places = [folder, *on_path] if executable.is_script else on_path
    wanted = os.R_OK if executable.is_script else os.X_OK
    for place in places:
        candidate = _joined(place, executable.word)
        if _is_runnable(candidate, wanted):
            yield Path(candidate)


def _joined(folder: str, name: str) -> str:
    return name if name.startswith("/") or not folder else f"{folder}/{name}"


def _name(word: str) -> str:
    return word.rpartition("/")[2]


def _is_folder(path: str) -> bool:
    try:
        return os.access(path, os.X_OK) and Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _is_runnable(path: str, wanted: int) -> bool:
    try:
        return os.access(path, wanted) and Path(path).is_file()
    except (OSError, ValueError):  # not a path at all
        return False
