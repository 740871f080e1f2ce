"""Who a member is, pinned: read from the system while it is known to be well, sought afterwards.

A pid file may be removed by the very command that should stop its process, and whoever starts a
process again tells nobody. What was pinned can be looked for all the same: by its pid and start
time, by the processes it had started, and by its executable and command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctp_runbook.host.process import boot_id, identity_of, is_running, led_by, parents
from ctp_runbook.model import Identity
from ctp_runbook.redact import MASK

__all__ = ["Pin", "below", "lookalikes", "pin_process", "survivors"]

_DELETED = " (deleted)"
# What a start goes through, and what a script calls beside it: `timeout 8h engine | tee log` in a
# shell is an engine. Nobody else who runs `sleep 5` is a second one of it.
_STARTERS = frozenset(
    {"ash", "bash", "busybox", "chrt", "dash", "env", "flock", "ionice", "ksh", "nice", "nohup"}
    | {"numactl", "runuser", "script", "setpriv", "setsid", "sh", "stdbuf", "su", "sudo"}
    | {"taskset", "timeout", "zsh"}
)
_HELPERS = frozenset(
    {"awk", "cat", "cut", "date", "gawk", "grep", "head", "inotifywait", "journalctl", "logger"}
    | {"mawk", "mkfifo", "nc", "pgrep", "ps", "rotatelogs", "sed", "sleep", "tail", "tee", "ts"}
    | {"wc", "xargs"}
)
# An executable, and the digest of a command line.
_Line = tuple[str, str]


@dataclass(frozen=True)
class Pin:
    """A member's process as the system told it.

    ``executable`` and ``command_sha256`` (of its arguments, file names made absolute) find it when
    it is started again. ``tree`` are the processes below it. ``bystanders`` ran with the same
    command line beside it, and are not it. ``kin`` are the executables and command lines of what a
    shell below it, or itself, had started: of a supervised engine that is the engine.
    """

    identity: Identity
    executable: str = ""
    command_sha256: str = ""
    tree: tuple[Identity, ...] = ()
    bystanders: tuple[Identity, ...] = ()
    kin: tuple[_Line, ...] = ()

    @property
    def lines(self) -> tuple[_Line, ...]:
        """Every command line that it is known by."""
        return ((self.executable, self.command_sha256), *self.kin)

    def has_line(self, executable: str, sha256: str) -> bool:
        """True where it is known by this executable and command line."""
        return any(
            sha256 == own and (_is_named(executable, name) or _is_kin(executable, name))
            for name, own in self.lines
        )

    def is_like(self, other: Pin) -> bool:
        """True when both have one executable and one command line."""
        return replace(self, kin=()).has_line(other.executable, other.command_sha256)

    def shares_line(self, other: Pin) -> bool:
        """True where who looks like the one may as well be the other."""
        return any(self.has_line(*line) for line in other.lines)


def pin_process(identity: Identity, *, before: Pin | None = None) -> Pin:
    """Pin a running process. ``before`` is what the same member was pinned as: who stood beside
    that one stands beside this one, and whoever came since does not; what ran below this very
    process still counts where it has lost its parent."""
    same = before if before is not None and before.identity == identity else None
    tree = tuple(dict.fromkeys((*(survivors(same) if same else ()), *below(identity))))
    kin = tuple(dict.fromkeys((*(same.kin if same else ()), *_kin(identity, tree))))
    bare = Pin(identity, _executable(identity.pid), _command_sha256(identity.pid), tree, (), kin)
    known = before if before is not None and before.is_like(bare) else None
    own = {identity, *tree}
    fresh = [line for line in bare.lines if known is None or not known.has_line(*line)]
    beside = (*(known.bystanders if known else ()), *(p for p in _alike(fresh) if p not in own))
    return Pin(identity, bare.executable, bare.command_sha256, tree, beside, kin)


def _kin(identity: Identity, tree: tuple[Identity, ...]) -> Iterator[_Line]:
    """What was started by a shell, the pinned process or one below it, and is the thing itself."""
    family = {each.pid: Path(_executable(each.pid)).name for each in (identity, *tree)}
    up = parents()
    for pid, program in family.items():
        is_started = family.get(up.get(pid, 0), "") in _STARTERS
        line = (_executable(pid), _command_sha256(pid))
        if is_started and program not in _STARTERS | _HELPERS and all(line):
            yield line


def survivors(pin: Pin) -> tuple[Identity, ...]:
    """Of the processes that were below the pinned one, those that still run, and whoever is in the
    group or session that it led: those it may have started after it was pinned."""
    known = pin.identity
    # No new process is given a pid that is still some session's: with nobody else under this one,
    # what the session of that number holds is of the pinned process.
    is_its_own = known.boot_id in ("", boot_id()) and identity_of(known.pid) in (None, known)
    led = filter(None, map(identity_of, led_by(known.pid) if is_its_own else ()))
    return tuple(dict.fromkeys((*filter(is_running, pin.tree), *led)))


def lookalikes(
    pin: Pin,
    *,
    run_ids: Collection[str],
    others: Collection[Identity],
    starts: Collection[str] | None = None,
) -> tuple[Identity, ...]:
    """Processes with the executable and command line of the pinned one that are not accounted for.

    Accounted for is what carries one of ``run_ids`` as CTP_RUN_ID (our own steps started it), and,
    with all that is below them, what stood beside it when it was pinned and ``others`` (who is
    pinned as another member): a new engine may well be the old one's binary, replaced in place,
    and every process looks like its parent for a moment. Of our own steps ``starts`` are those that
    may start who looks like it, by default any: a stop command that starts its engine again has
    started nobody that was asked for.
    """
    if not pin.command_sha256:
        return ()
    known = {pin.identity, *pin.bystanders, *others}
    alike = [
        process
        for process in _alike(pin.lines)
        if process not in known and not _is_ours(process.pid, run_ids, starts)
    ]
    if alike:  # rarely: looking below each of the others means reading all of /proc
        theirs = {child for other in (*others, *pin.bystanders) for child in below(other)}
        if pin.kin:  # its shell may have started another of them by now, which is its own
            theirs |= {*pin.tree, *below(pin.identity)}
        alike = [process for process in alike if process not in theirs]
    return tuple(alike)


def _alike(lines: Collection[_Line]) -> Iterator[Identity]:
    """Everybody who runs one of these executables with its command line, or a program of its name
    that lies elsewhere with the same arguments, where those name a file."""
    for name in os.listdir("/proc") if lines else ():
        # The executable first: one cheap look that rules out nearly all.
        if not name.isdigit() or not (program := _executable(int(name))):
            continue
        pid = int(name)
        exact = {sha256 for executable, sha256 in lines if _is_named(program, executable)}
        by_name = {sha256 for executable, sha256 in lines if _is_kin(program, executable)}
        if not exact and not by_name:
            continue
        words = _words(pid)
        own = {_whole_sha256(words)} & exact | {_arguments_sha256(program, words)} & (
            exact | by_name
        )
        if own - {""} and (identity := identity_of(pid)):
            yield identity


def _is_ours(pid: int, run_ids: Collection[str], starts: Collection[str] | None) -> bool:
    """True for what a run of ours started by a step that may have."""
    variables = _variables(pid)
    if not any(f"CTP_RUN_ID={run_id}".encode() in variables for run_id in run_ids):
        return False
    step = next((each for each in variables if each.startswith(b"CTP_STEP=")), b"")
    return starts is None or not step or os.fsdecode(step[len(b"CTP_STEP=") :]) in starts


def below(identity: Identity) -> tuple[Identity, ...]:
    """The processes that descend from ``identity``, and those of the group or session it leads: a
    child that was made a daemon has lost its parent, and not its session. Where somebody else leads
    them, they may be shared with strangers, and parents alone count."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    family = set(led_by(identity.pid))
    left = list(children.get(identity.pid, ()))
    while left:
        pid = left.pop()
        family.add(pid)
        left += children.get(pid, ())
    return tuple(filter(None, map(identity_of, sorted(family))))


def _is_named(executable: str, pinned: str) -> bool:
    """True where a program lies where the pinned one lay.

    A pin comes out of the journal, and a path in which something looked like a secret went in
    masked. Compared to the letter it would match nobody, and a second engine would pass for none.
    """
    if executable == pinned or MASK not in pinned:
        return executable == pinned
    parts = map(re.escape, pinned.split(MASK))
    return re.fullmatch(".*".join(parts), executable, re.DOTALL) is not None


def _is_kin(executable: str, pinned: str) -> bool:
    """True where two programs bear one name, whatever their folders and versions: a release beside
    the other, ``python3`` and ``python3.11``."""
    name = _family(executable)
    return bool(name) and name == _family(pinned)


def _family(executable: str) -> str:
    name = Path(executable).name
    return re.sub(r"(?<=[A-Za-z])[-_.]?v?\d[\d.]*$", "", name)


def _executable(pid: int) -> str:
    """Where its program lies, also when another was put in its place; empty for a kernel's thread.

    Of another user's process the kernel hides that from everybody but root: then it is what the
    process calls itself.
    """
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(_DELETED)
    except PermissionError:
        return next(iter(_words(pid)), "")
    except OSError:
        return ""


def _command_sha256(pid: int) -> str:
    """The digest of its arguments, which may hold what no journal should; empty without any.

    Arguments that name a file tell it from all others by themselves, and its program's own name
    counts as little as its folder: somebody else may start the same from elsewhere.
    """
    words = _words(pid)
    return _arguments_sha256(_executable(pid), words) or _whole_sha256(words)


def _arguments_sha256(executable: str, words: list[str]) -> str:
    """The digest of a program's name and what is behind it; empty where that names no file."""
    name, arguments = _family(executable), words[1:]
    if not name or not any(re.match(r"(?:-[^=]*=)?/.", word) for word in arguments):
        return ""
    return hashlib.sha256(os.fsencode("\0".join(["", name, *arguments]))).hexdigest()


def _whole_sha256(words: list[str]) -> str:
    return hashlib.sha256(os.fsencode("\0".join(words))).hexdigest() if any(words) else ""


def _words(pid: int) -> list[str]:
    """Its arguments; a relative name of a file is made absolute, for somebody else may start the
    same from elsewhere."""
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return []
    folder = Path(f"/proc/{pid}/cwd")
    with contextlib.suppress(OSError):
        here = folder.readlink()
        words = [
            os.path.normpath(here / word) if _is_file(folder, word) else word for word in words
        ]
    return words


def _is_file(folder: Path, word: str) -> bool:
    if not word or word.startswith("-"):
        return False
    try:
        return os.path.lexists(folder / word)
    except (OSError, ValueError):
        return False


def _variables(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
