"""Programs that run the command after them, and which of the words between are their own."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from ctp_runbook.plan.shell.syntax import Word

__all__ = [
    "COMMAND",
    "CONTAINERS",
    "EXEC",
    "LEAVE",
    "REMOTE",
    "RUNNERS",
    "RUNS_NONE",
    "SU",
    "WRAPPERS",
    "Given",
    "Wrapper",
    "behind",
    "behind_python",
    "is_python",
    "shell_options",
]


class Wrapper(Struct, frozen=True):
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
_SETARCH = Wrapper(
    "R F I L S T X Z B 3 v addr-no-randomize fdpic-funcptrs short-inode addr-compat-layout "
    "whole-seconds sticky-timeouts read-implies-exec mmap-page-zero 32bit 3gb 4gb uname-2.6 "
    "verbose"
)
WRAPPERS = {
    "chrt": Wrapper(
        "a b d f i o r R v all-tasks batch deadline fifo idle other rr reset-on-fork verbose",
        "T P D sched-runtime sched-period sched-deadline",
        alone="m p max pid",
        skips=1,
    ),
    "env": Wrapper(
        "i 0 v ignore-environment null debug block-signal default-signal ignore-signal "
        "list-signal-handling",
        "u C a unset chdir argv0",
        "C chdir",
        assigns=True,
    ),
    "flock": Wrapper(
        "e x s n o F shared exclusive nonblock no-fork close verbose",
        "w E wait timeout conflict-exit-code",
        alone="u unlock",
        skips=1,
    ),
    "ionice": Wrapper("t ignore", "c n class classdata", alone="p P u pid pgid uid"),
    "nice": Wrapper("", "n adjustment"),
    "nohup": Wrapper(),
    "numactl": Wrapper(
        "a l all localalloc balancing touch",
        "i m N C p P w interleave membind cpunodebind physcpubind preferred preferred-many",
        alone="s H show hardware",
    ),
    "doas": Wrapper("n", "C u", alone="L s", own_path=True, is_foreign=True),
    "gosu": Wrapper(skips=1, is_foreign=True),
    "runuser": Wrapper("m p P T", "u g G w user group", own_path=True, is_foreign=True),
    "setpriv": Wrapper(
        "clear-groups keep-groups init-groups no-new-privs nnp reset-env",
        "reuid regid ruid euid rgid egid groups inh-caps ambient-caps bounding-set pdeathsig "
        "securebits selinux-label apparmor-profile",
        alone="d dump list-caps",
        is_foreign=True,
    ),
    "setsid": Wrapper("c f w ctty fork wait"),
    "stdbuf": Wrapper("", "i o e input output error"),
    "sudo": Wrapper(
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
    "systemd-run": Wrapper(
        "t P q G r d pty pipe quiet collect remain-after-exit same-dir scope user system wait "
        "no-block no-ask-password slice-inherit send-sighup ignore-failure",
        "u p E unit property description slice uid gid nice working-directory setenv "
        "service-type on-active on-boot on-startup on-unit-active on-unit-inactive on-calendar "
        "timer-property path-property socket-property expand-environment background job-mode",
        "working-directory",
        own_path=True,
        is_foreign=True,
    ),
    "taskset": Wrapper("a c all-tasks cpu-list", alone="p pid", skips=1),
    "time": Wrapper(
        "a append p portability q quiet v verbose", "f format o output", alone="V version help"
    ),
    "timeout": Wrapper(
        "f v p foreground preserve-status verbose", "k s kill-after signal", skips=1
    ),
    "setarch": _SETARCH,
    "linux32": _SETARCH,
    "linux64": _SETARCH,
    "i386": _SETARCH,
    "x86_64": _SETARCH,
}
LEAVE = frozenset({"setsid", "sudo", "systemd-run"})
SU = Wrapper(
    "m p P T l f login preserve-environment fast pty",
    "c s g G w command session-command shell group supp-group whitelist-environment",
)
# What runs a command where this host's files say nothing of it: its words behind the name of the place.
REMOTE = {
    "ssh": Wrapper(
        "4 6 A a C f G g K k M N n q s T t V v X x Y y",
        "B b c D E e F I i J L l m O o P p Q R S W w",
        skips=1,
    ),
    "exec": Wrapper(
        "d i t T interactive tty no-TTY detach privileged quiet q",
        "e u w c n env env-file user workdir detach-keys index container namespace",
        skips=1,
    ),
}
CONTAINERS = frozenset({"docker", "podman", "nerdctl", "docker-compose", "kubectl"})
# What runs other programs by rules of its own; and the words with which it runs none.
RUNNERS = frozenset((
    "bwrap", "busybox", "catchsegv", "cgexec", "chpst", "chroot", "daemonize", "dbus-run-session",
    "fakeroot", "firejail", "gdb", "lxc", "machinectl", "nsenter", "parallel", "perf", "pkexec",
    "prlimit", "rr", "run0", "screen", "script", "setuidgid", "start-stop-daemon", "strace",
    "su-exec", "tmux", "unbuffer", "unshare", "valgrind", "watch", "xargs",
))  # fmt: skip
RUNS_NONE = frozenset(
    ("kill-session", "kill-server", "-X", "-ls", "--stop", "-K", "-p", "--pid", "terminate", "stop")
)
EXEC = Wrapper("c l", "a")
COMMAND = Wrapper("p", alone="v V")


Given = list[tuple[str, Word | None]]


def behind(row: Wrapper, words: tuple[Word, ...]) -> tuple[Given, tuple[Word, ...]] | None:
    """The options and the words behind them; None where only the program can tell them apart."""
    cut = _behind_options(row, words)
    if row is _SETARCH and cut and cut[1] and cut[1][0].text in _ARCHITECTURES:
        # setarch x86_64 -R PROGRAM: the architecture may be left out, and options follow it.
        return _behind_options(row, cut[1][1:]) or ([], ())
    return cut


def _behind_options(row: Wrapper, words: tuple[Word, ...]) -> tuple[Given, tuple[Word, ...]] | None:
    flags, values = {*row.flags.split(), *row.alone.split()}, set(row.values.split())
    parsed, at = Given(), 0
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


def _long(word: Word, flags: set[str], values: set[str]) -> Given | None:
    name, joint, value = word.text[2:].partition("=")
    fits = [each for each in sorted(flags | values) if len(each) > 1 and each.startswith(name)]
    if name not in fits:
        if len(fits) != 1:
            return None
        name = fits[0]
    return [(name, replace(word, text=value) if joint and name in values else None)]


def _short(word: Word, flags: set[str], values: set[str]) -> Given | None:
    letters, options = word.text[1:], Given()
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


def shell_options(words: tuple[Word, ...]) -> tuple[set[str], tuple[Word, ...]] | None:
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


def is_python(name: str) -> bool:
    """True for ``python``, ``python3``, ``python3.11``."""
    version = name.removeprefix("python")
    return version != name and not version.strip("0123456789.")


def behind_python(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """The words from the script on; none where a module or a text is run."""
    at = 0
    while at < len(words) and (text := words[at].text).startswith("-"):
        if words[at].is_live or {"m", "c"} & set(text[1:]) or text.startswith("--"):
            return ()
        at += 2 if text in ("-W", "-X") else 1
    return words[at:]
