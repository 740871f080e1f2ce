"""Walks the tree of a command line in the order bash would, and notes what would be executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from ctp_runbook.plan.shell.files import Executable, name_of
from ctp_runbook.plan.shell.state import At, Shell
from ctp_runbook.plan.shell.syntax import Group, List, Pipeline, Simple, Unreadable, Word, parse
from ctp_runbook.plan.shell.vocabulary import (
    BUILTINS,
    CHANGES_PATH,
    DECLARES,
    IDLE,
    INERT,
    INTERPRETERS,
    PROGRAMS,
    SHELLS,
    ends,
    hands_on,
    is_setup,
    is_strict_after,
    may_set_path,
    only_prints,
    sets_path,
)
from ctp_runbook.plan.shell.wrappers import (
    COMMAND,
    CONTAINERS,
    EXEC,
    LEAVE,
    REMOTE,
    RUNNERS,
    RUNS_NONE,
    SU,
    WRAPPERS,
    Given,
    Wrapper,
    behind,
    behind_python,
    is_python,
    shell_options,
)

__all__ = ["Reading", "read_command"]

_MOST_DEPTH = 12
# Read for what stands deeper in shells than anybody writes.
_TOO_DEEP = "case"


class Reading(Struct, frozen=True):
    """``acts`` are the words of the commands that may have an effect; ``texts``, what shells were
    given to run by ``-c``."""

    named: tuple[Executable, ...]
    needed: tuple[Executable, ...]
    untold: tuple[str, ...]
    acts: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    has_effect: bool
    substitutes: bool


@lru_cache(maxsize=256)
def read_command(command: str) -> Reading:
    """Return what was noted of ``command``; never raises."""
    reader = _Reader()
    reader.text(command, Shell(), At())
    return Reading(
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

    def text(self, command: str, shell: Shell, at: At) -> None:
        """Read what a shell is given to run."""
        self.texts.append(command)
        self.depth += 1
        try:
            tree = parse(command if self.depth <= _MOST_DEPTH else _TOO_DEEP)
        except Unreadable as gap:
            if self.depth <= _MOST_DEPTH and only_prints(command):
                self.untold.append(str(gap))
            else:
                self.gives_up(str(gap), shell)
        else:
            self.list(tree, shell, at)
        self.depth -= 1

    def gives_up(self, what: str, shell: Shell, words: tuple[Word, ...] = ()) -> None:
        """Only bash knows what is run here, and what it does."""
        self.untold.append(what)
        self.acted(words, shell)
        shell.knows_path = shell.goes_on = False

    def acted(self, words: tuple[Word, ...], shell: Shell) -> None:
        """Note a command that may have an effect, and may have made files."""
        self.has_effect = True
        self.acts.append(tuple(word.text for word in words))
        if not words or name_of(words[0].text) not in INERT:
            shell.knows_files = False

    def list(self, tree: List, shell: Shell, at: At) -> None:
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
            may_end |= shell.is_strict and not all(map(is_setup, chain))
            if own is not shell:
                shell.absorb(own)
            if shell.has_ended:
                return

    def chain(self, chain: tuple[Pipeline, ...], shell: Shell, at: At) -> None:
        has_or = any(pipeline.joint == "||" for pipeline in chain)
        decides = at.decides and not has_or
        reached, is_ready, moved = True, True, False
        # Where the shell was before, and behind each ``cd`` of the chain.
        trail = [shell.places]
        for number, pipeline in enumerate(chain):
            is_other = pipeline.joint == "||"
            reached &= not is_other
            here = reached and is_ready
            is_ready &= is_setup(pipeline)
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
                if trail[1:] and not ends(pipeline) and number + 1 < len(chain):
                    trail, shell.places = [None], None
            elif own.places != before:
                same = before and own.places and len(before) == len(own.places)
                trail = [*trail, own.places] if same else [own.places]
            if shell.has_ended:
                return
        is_minded = ends(chain[-1]) if has_or else shell.is_strict and not chain[1:]
        if trail[1:] and not is_minded:
            shell.may_stay(trail)
        # Where it may have stayed behind.
        shell.is_there &= not moved

    def pipeline(self, pipeline: Pipeline, shell: Shell, at: At) -> None:
        is_alone = len(pipeline.commands) == 1
        for number, command in enumerate(pipeline.commands, start=1):
            own = shell if is_alone else shell.child()
            is_last = number == len(pipeline.commands) and not pipeline.is_negated
            where = replace(at, decides=at.decides and is_last)
            if number > 1 and hands_on(command):
                self.name("cat", own, where)
            elif isinstance(command, Simple):
                self.simple(command, own, where)
            else:
                self.group(command, own, where)
            if not is_alone:
                shell.absorb(own)

    def group(self, group: Group, shell: Shell, at: At) -> None:
        own = shell.child() if group.is_subshell else shell
        self.inside(own, at, lambda: self.list(group.body, own, at.inside()))
        self.written(group.writes, own)
        if own is not shell:
            shell.absorb(own)

    @staticmethod
    def inside(shell: Shell, at: At, read: Callable[[], None]) -> None:
        """Read what the shell itself runs there: unless it surely comes there, it may go on."""
        had_ended = shell.has_ended
        read()
        if not at.here:
            shell.goes_on &= not shell.has_ended
            shell.has_ended = had_ended

    def simple(self, command: Simple, shell: Shell, at: At) -> None:
        self.substituted(command.runs, shell, at)
        is_moved = any(map(sets_path, command.assignments))
        knew_path, had_path = shell.knows_path, shell.sets_path
        shell.knows_path &= not is_moved
        shell.sets_path |= is_moved
        if command.words:
            self.command(command.words, shell, at)
            # Set for this command alone.
            shell.knows_path |= knew_path and is_moved
            shell.sets_path &= had_path or not is_moved
        self.written(command.writes, shell)

    def substituted(self, runs: tuple[str, ...], shell: Shell, at: At) -> None:
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

    def _quietly(self, text: str, shell: Shell, at: At) -> None:
        """Read a text whose gaps are not worth a word."""
        before = len(self.untold)
        self.text(text, shell, at.inside(decides=False))
        del self.untold[before:]

    def written(self, writes: tuple[Word, ...], shell: Shell) -> None:
        for word in writes:
            self.has_effect = True
            shell.knows_files &= not word.is_live
            shell.files |= {name_of(word.text)}

    # --- one command --------------------------------------------------------------

    def command(self, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Read a command by its words, through what only runs it."""
        word = words[0]
        if word.is_live or self.depth > _MOST_DEPTH:
            self.gives_up(f"what {word.raw} stands for", shell, words)
            return
        if at.in_bash and word.text in BUILTINS:
            self.builtin(words, shell, at)
            return
        if not word.text or word.text.startswith("-"):
            self.acted(words, shell)
            return
        self.name(word.text, shell, at)
        name, outside = name_of(word.text), replace(at, in_bash=False)
        is_su = name == "runuser" and not {"-u", "--user"} & {each.text for each in words}
        if name == "su" or is_su:
            self.su(words, shell, outside)
        elif row := WRAPPERS.get(name):
            self.wrapped(row, words, shell, outside)
        elif name in SHELLS:
            self.shell(words, shell, outside)
        elif name in IDLE and name in PROGRAMS:
            pass
        elif name == "ssh" or name in CONTAINERS:
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

    def name(self, word: str, shell: Shell, at: At, *, is_script: bool = False) -> None:
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
        is_fixed = shell.knows_files and name_of(word) not in shell.files
        is_found = is_absolute or (not shell.is_foreign and (shell.knows_path or not is_bare))
        is_there = is_absolute or shell.is_there or is_looked_up
        if at.sure and is_fixed and is_found and is_there:
            self.needed[executable] = None

    def wrapped(self, row: Wrapper, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Read the command behind a wrapper's own words."""
        name = name_of(words[0].text)
        cut = behind(row, words[1:])
        if cut is None:
            self.gives_up(f"what {name} runs with these options", shell, words)
            return
        (parsed, rest), is_sure = cut, True
        options = {option for option, _ in parsed}
        if options & set(row.alone.split()) or not (rest or row.assigns):
            self.acted(words, shell)
            return
        own = self._inside(row, name, parsed, shell)
        while row.assigns and rest and ("=" in rest[0].text or rest[0].raw == "-"):
            own.knows_path &= not (sets_path(rest[0]) or rest[0].raw == "-")
            own.sets_path |= sets_path(rest[0])
            is_sure &= not rest[0].splits
            rest = rest[1:]
        # Those that need not wait for it say nothing of how it ends.
        where = replace(at, sure=at.sure and is_sure, decides=at.decides and name not in LEAVE)
        if name == "flock" and rest[0].text in ("-c", "--command") and rest[1:]:
            self.string(rest[1], "flock -c", own, where)
        elif rest:
            self.depth += 1
            self.command(rest, own, where)
            self.depth -= 1
        shell.absorb(own)

    def _inside(self, row: Wrapper, name: str, parsed: Given, shell: Shell) -> Shell:
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

    def su(self, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Read what ``su`` hands to somebody's shell; its options stand anywhere."""
        name, parsed, plain, rest = name_of(words[0].text), Given(), list[Word](), words[1:]
        while rest:
            if (cut := behind(SU, rest)) is None:
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

    def remote(self, name: str, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Read a command that another host or a container runs, for whether it does anything."""
        texts = [each.text for each in words]
        verb = name if name == "ssh" else next((t for t in texts if t in ("exec", "run")), "")
        if not verb:
            self.acted(words, shell)
            return
        begin = 1 if name == "ssh" else texts.index(verb) + 1
        cut = behind(REMOTE[verb], words[begin:]) if verb in REMOTE else None
        rest = tuple(word for word in cut[1] if word.raw != "--") if cut else ()
        if cut and not rest and {"N", "O", "W", "V", "Q"} & dict(cut[0]).keys():
            self.acted(words, shell)  # a tunnel, or a question
            return
        self.untold.append(f"what {name}{'' if verb == name else f' {verb}'} runs there")
        own, where = Shell(places=None), replace(at, sure=False, is_told=False)
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
        if name in RUNNERS and not texts & RUNS_NONE:
            self.untold.append(f"what {name} runs")
        elif name == "find" and texts & {"-exec", "-execdir", "-ok", "-okdir"}:
            self.untold.append("what find runs")

    def string(self, word: Word, what: str, shell: Shell, at: At) -> None:
        """Read the text a shell is given by ``-c``."""
        if word.is_live:
            self.gives_up(f"what {what} is given", shell)
            return
        self.text(word.text, shell, at.inside())

    def shell(self, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Read what ``bash`` and its like are given: a text, a script, or their input."""
        name, own = name_of(words[0].text), shell.child()
        cut = shell_options(words[1:])
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

    def script(self, word: Word, shell: Shell, at: At) -> None:
        if word.is_live:
            self.untold.append(f"what {word.raw} stands for")
        elif word.text:
            self.name(word.text, shell, at, is_script=True)

    def interpreted(self, name: str, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """Note the script another interpreter is given, where it stands right behind it."""
        rest = words[1:]
        if is_python(name):
            rest = behind_python(rest)
        elif name not in INTERPRETERS:
            return
        if rest and not rest[0].text.startswith("-"):
            self.script(rest[0], shell, at)

    def builtin(self, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        name, rest = words[0].text, words[1:]
        if name in ("cd", "pushd", "popd"):
            rest = rest[1:] if rest and rest[0].text == "--" else rest
            shell.move(rest[0] if len(rest) == 1 and name != "popd" else None)
        elif name == "set":
            shell.is_strict = is_strict_after(rest, was=shell.is_strict)
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
        elif name in CHANGES_PATH or (name in DECLARES and any(map(may_set_path, rest))):
            shell.knows_path = False
            shell.sets_path |= name in DECLARES
        if name not in IDLE and name not in ("exec", "command", "builtin", "eval", ".", "source"):
            self.acted(words, shell)

    def by_builtin(self, name: str, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        """``exec``, which ends the shell, and ``command``, which is one more word."""
        cut = behind(EXEC if name == "exec" else COMMAND, words[1:])
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

    def evaluated(self, words: tuple[Word, ...], shell: Shell, at: At) -> None:
        if any(word.is_live for word in words):
            self.gives_up("what eval is given", shell, words)
        else:
            text = " ".join(word.text for word in words[1:])
            self.inside(shell, at, lambda: self.text(text, shell, at.inside()))
