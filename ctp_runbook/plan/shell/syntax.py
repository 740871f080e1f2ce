"""A bash command line as a tree of simple commands, so far as that can be told without running it.

Lists, pipelines, groups, redirections and quotes are read as bash reads them. Loops, conditions,
functions, arrays and here-documents are not: they are refused by name, for a command that is read
wrongly is worse than one that is not read. What a ``$``, a pattern or a tilde stands for is known
to bash alone; the word is marked instead.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NoReturn

from msgspec import Struct

from ctp_runbook.plan.template_text import placeholders

__all__ = ["Group", "List", "Pipeline", "Simple", "Unreadable", "Word", "command_words", "parse"]

_BLANK = re.compile(r"(?:[ \t]|\\\n)+")
_OPERATOR = re.compile(
    r"\n|&&|\|\||\|&|;;|;&|;|&>>|&>|&|\||\(|\)|<<<|<<|<&|<>|>>|>\||>&|<(?!\()|>(?!\()"
)
_REDIRECTIONS = frozenset({"<", ">", ">>", ">|", ">&", "<&", "<>", "&>", "&>>", "<<<"})
_WRITES = frozenset({">", ">>", ">|", ">&", "<>", "&>", "&>>"})
_UNQUOTED = re.compile(r"[^ \t\n|&;()<>'\"\\$`]+")
_IN_DOUBLE = re.compile(r"[^\"\\$`]+")
_VARIABLE = re.compile(r"\$(?:\w+|[*@#?$!-])")
_NUMBER = re.compile(r"\d+|\{[A-Za-z_]\w*\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_PATTERN = re.compile(r"[*?]|\[.*\]|\{.*(?:,|\.\.).*\}|^~|[=:]~")
# fmt: off
_KEYWORDS = frozenset((
    "if", "then", "elif", "else", "fi", "for", "while", "until", "do", "done", "case", "esac",
    "select", "function", "[[", "coproc", "}",
))
# fmt: on
# Words behind which stands no command, or what takes one away.
_NOT_LISTED = frozenset({"for", "select", "case", "function", "[[", "coproc"})
# What two words alone may be put to: where output ends that nobody keeps.
_NOWHERE = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "-"})
_MOST_DEPTH = 20


class Unreadable(Exception):
    """The command is not read: its text says what stands in it, as a noun."""


class Word(Struct, frozen=True):
    """A word: as it stands (``raw``), and as the command gets it (``text``).

    ``is_live``: what bash makes of it is not its text. ``splits``: it may be none or several
    words. ``runs`` are the commands of its substitutions.
    """

    raw: str
    text: str
    is_live: bool = False
    splits: bool = False
    runs: tuple[str, ...] = ()


class Simple(Struct, frozen=True):
    """A simple command; ``writes`` are the files its output goes to.

    ``is_redirected``: some of its output goes elsewhere, so that nobody may read it. ``runs`` are
    the commands of all its substitutions.
    """

    words: tuple[Word, ...]
    assignments: tuple[Word, ...] = ()
    writes: tuple[Word, ...] = ()
    is_redirected: bool = False
    runs: tuple[str, ...] = ()


class Group(Struct, frozen=True):
    """``( … )``, or ``{ …; }``, which bash runs itself."""

    body: List
    is_subshell: bool
    writes: tuple[Word, ...] = ()


class Pipeline(Struct, frozen=True):
    """Commands joined by ``|``; ``joint`` is ``&&`` or ``||`` behind another."""

    joint: str
    commands: tuple[Simple | Group, ...]
    is_negated: bool = False


class List(Struct, frozen=True):
    """Chains of pipelines, each with what ends it: ``;`` or ``&``."""

    chains: tuple[tuple[tuple[Pipeline, ...], str], ...]


@lru_cache(maxsize=512)
def parse(command: str) -> List:
    """Return the tree of ``command``. Raises Unreadable for what is not read."""
    # A placeholder would read as two redirections; as an expansion it is left alone.
    for placeholder in placeholders(command):
        command = command.replace(placeholder, "$_")
    if "\0" in command:
        raise Unreadable("a NUL")
    return _Parser(_tokens(command)).everything()


def command_words(command: str) -> list[str]:
    """Return the first words of the commands of a text that ``parse`` does not read, such as one with
    ``if`` in it; empty where that cannot be told, or where it writes a file or runs a substitution."""
    try:
        tokens = _tokens(command)
    except Unreadable:
        return []
    first: list[str] = []
    is_first, is_target = True, False
    for token in tokens:
        if isinstance(token, Word):
            if token.runs or token.raw in _NOT_LISTED or (is_target and token.text not in _NOWHERE):
                return []
            if is_first and token.raw not in _KEYWORDS and token.raw not in ("!", "time", "{"):
                first.append("" if token.is_live else token.text)
                is_first = False
            is_target = False
        elif token in _WRITES:
            is_target = True
        elif token in ("(", "<<"):
            return []
        else:
            is_first |= token not in _REDIRECTIONS
    return first


# --- words ------------------------------------------------------------------------


def _tokens(command: str) -> list[str | Word]:
    """The operators, as text, and the words."""
    tokens: list[str | Word] = []
    at = 0
    while at < len(command):
        if blank := _BLANK.match(command, at):
            at = blank.end()
        elif command[at] == "#":
            at = (command + "\n").index("\n", at)
        elif operator := _OPERATOR.match(command, at):
            tokens.append(operator[0])
            at = operator.end()
        else:
            word = _Scanner(command, at).word()
            at += len(word.raw)
            if command[at : at + 1] in ("<", ">") and _NUMBER.fullmatch(word.raw):
                continue  # the number of what is redirected, or the variable it is put into
            tokens.append(word)
    return tokens


class _Scanner:
    """Reads one word from ``at`` on."""

    def __init__(self, command: str, at: int) -> None:
        self.command, self.start, self.at = command, at, at
        self.text = self.unquoted = ""
        self.is_live = self.splits = False
        self.runs: list[str] = []

    def word(self) -> Word:
        """The word; Unreadable where a quote or bracket is not closed."""
        while self.at < len(self.command):
            if plain := _UNQUOTED.match(self.command, self.at):
                self.at = plain.end()
                self.text += plain[0]
                self.unquoted += plain[0]
            elif self._special():
                self.unquoted += "x"
            else:
                break
        if _PATTERN.search(self.unquoted):
            self.is_live = self.splits = True
        raw = self.command[self.start : self.at]
        return Word(raw, self.text, self.is_live, self.splits, tuple(self.runs))

    def _special(self) -> bool:
        """Read quotes, a backslash or an expansion; False where the word is over."""
        char, after = self.command[self.at], self.command[self.at + 1 : self.at + 2]
        if char == "'":
            self.text += self._until("'", self.at + 1)
        elif char == '"':
            self._double()
        elif char == "\\":
            if not after:
                self.text += char
            elif after != "\n":
                self.text += after
            self.at = min(self.at + 2, len(self.command))
        elif char in "$`":
            self.splits |= after not in ("'", '"')
            self._expansion(in_quotes=False)
        elif char in "<>" and after == "(":
            self._substitution(self.at + 1)
        else:
            return False
        return True

    def _until(self, end: str, begin: int) -> str:
        close = self.command.find(end, begin)
        if close < 0:
            _refuse("a quote that is not closed")
        self.at = close + 1
        return self.command[begin:close]

    def _double(self) -> None:
        self.at += 1
        while (char := self.command[self.at : self.at + 1]) != '"':
            if not char:
                _refuse("a quote that is not closed")
            if plain := _IN_DOUBLE.match(self.command, self.at):
                self.text += plain[0]
                self.at = plain.end()
            elif char == "\\":
                after = self.command[self.at + 1 : self.at + 2]
                self.text += "" if after == "\n" else after if after in '$`"\\' else char + after
                self.at += 2
            else:
                self._expansion(in_quotes=True)
        self.at += 1

    def _expansion(self, *, in_quotes: bool) -> None:
        after = self.command[self.at + 1 : self.at + 2]
        if self.command[self.at] == "`":
            self.is_live = True
            self._backticks()
        elif after == "'" and not in_quotes:
            self._ansi()
        elif after == '"' and not in_quotes:
            self.at += 1  # a text to be translated, which none here is
        elif after == "(":
            if self.command.startswith("$((", self.at):
                self._arithmetic()
                return
            self._substitution(self.at + 1)
        elif after == "{":
            self._braces()
        elif variable := _VARIABLE.match(self.command, self.at):
            self.is_live = True
            self.at = variable.end()
            self.text += "$"
        else:
            self.text += "$"
            self.at += 1

    def _ansi(self) -> None:
        inside = re.compile(r"\$'((?:[^'\\]|\\.)*)'", re.S).match(self.command, self.at)
        if inside is None:
            _refuse("a quote that is not closed")
        self.is_live |= "\\" in inside[1]
        self.text += inside[1]
        self.at = inside.end()

    def _backticks(self) -> None:
        inside = re.compile(r"`((?:[^`\\]|\\.)*)`", re.S).match(self.command, self.at)
        if inside is None:
            _refuse("a quote that is not closed")
        self.at = inside.end()
        self.text += "$"
        self.runs.append("`")

    def _braces(self) -> None:
        """``${…}``: nothing but a name, or one with a plain alternative, is read."""
        inside = re.compile(r"\$\{[!#]?[\w*@#?$!-]+(?:[^{}'\"`\\$()]*)\}").match(
            self.command, self.at
        )
        if inside is None:
            _refuse("an expansion with another in it")
        self.is_live = True
        self.text += "$"
        self.at = inside.end()

    def _arithmetic(self) -> None:
        """``$((…))`` without a bracket or a substitution in it: a number."""
        inside = re.compile(r"\$\(\([^()`'\"\\]*\)\)").match(self.command, self.at)
        if inside is None or "$(" in inside[0][2:]:
            _refuse("arithmetic")
        self.is_live = True
        self.text += "$"
        self.at = inside.end()

    def _substitution(self, bracket: int) -> None:
        """``$(…)`` and ``<(…)``; ``bracket`` is where it opens."""
        close = _closing(self.command, bracket)
        self.is_live = True
        self.runs.append(self.command[bracket + 1 : close])
        self.text += "$"
        self.at = close + 1


def _closing(command: str, bracket: int) -> int:
    """Where the bracket that opens at ``bracket`` is closed: words inside are read as words are."""
    at, depth = bracket + 1, 1
    if command.count("(", 0, at) > _MOST_DEPTH:
        _refuse("that many brackets")
    while at < len(command):
        if blank := _BLANK.match(command, at):
            at = blank.end()
        elif command[at] == "#":
            at = (command + "\n").index("\n", at)
        elif operator := _OPERATOR.match(command, at):
            if operator[0] == "<<":
                _refuse("a here-document")
            depth += {"(": 1, ")": -1}.get(operator[0], 0)
            if not depth:
                return at
            at = operator.end()
        else:
            word = _Scanner(command, at).word()
            if word.raw == "case":
                _refuse("`case`")
            at += len(word.raw)
    raise Unreadable("a bracket that is not closed")


def _refuse(what: str) -> NoReturn:
    raise Unreadable(what)


# --- commands ---------------------------------------------------------------------


class _Parser:
    """Reads tokens into a tree, as bash's own grammar has it."""

    def __init__(self, tokens: list[str | Word]) -> None:
        self.tokens, self.at = tokens, 0
        self.depth = 0

    @property
    def next(self) -> str | Word:
        """The token to be read; blank at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _raw(self) -> str:
        token = self.next
        return token.raw if isinstance(token, Word) else ""

    def everything(self) -> List:
        """The list all tokens make; a text that bash would refuse is Unreadable."""
        body = self._list()
        if self.next:
            _refuse(f"{self._shown()} where no command may end")
        return body

    def _shown(self) -> str:
        return f"`{self._raw() or self.next}`"

    def _list(self) -> List:
        chains = []
        self._skip_newlines()
        while self.next and self.next != ")" and self._raw() != "}":
            chain = self._chain()
            end = self.next if self.next in (";", "&", "\n") else ""
            chains.append((chain, "&" if end == "&" else ";"))
            if not end:
                break
            self.at += 1
            self._skip_newlines()
        return List(tuple(chains))

    def _skip_newlines(self) -> None:
        while self.next == "\n":
            self.at += 1

    def _chain(self) -> tuple[Pipeline, ...]:
        pipelines = [self._pipeline("")]
        while self.next in ("&&", "||"):
            joint = str(self.next)
            self.at += 1
            self._skip_newlines()
            pipelines.append(self._pipeline(joint))
        return tuple(pipelines)

    def _pipeline(self, joint: str) -> Pipeline:
        is_negated = False
        while (keyword := self._raw()) in ("!", "time"):
            is_negated |= keyword == "!"
            self.at += 1
            if keyword == "time" and self._raw() == "-p":
                self.at += 1
        commands = [self._command()]
        while self.next in ("|", "|&"):
            self.at += 1
            self._skip_newlines()
            commands.append(self._command())
        return Pipeline(joint, tuple(commands), is_negated)

    def _command(self) -> Simple | Group:
        if self.next == "(" or self._raw() == "{":
            return self._group()
        if self._raw() in _KEYWORDS:
            _refuse(self._shown())
        return self._simple()

    def _group(self) -> Group:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            _refuse("groups nested too deeply")
        is_subshell = self.next == "("
        self.at += 1
        if is_subshell and self.next == "(":
            _refuse("arithmetic")
        body = self._list()
        if not body.chains or (self.next != ")" if is_subshell else self._raw() != "}"):
            _refuse("a group that is not closed")
        self.at += 1
        self.depth -= 1
        writes: list[Word] = []
        while self.next in _REDIRECTIONS:
            self._redirection(writes, [])
        if isinstance(self.next, Word):
            _refuse(f"{self._shown()} behind a group")
        return Group(body, is_subshell, tuple(writes))

    def _simple(self) -> Simple:
        words, assignments, writes, runs = list[Word](), list[Word](), list[Word](), list[str]()
        begin, is_redirected = self.at, False
        while self.next:
            token = self.next
            if isinstance(token, Word):
                self.at += 1
                is_assignment = not words and _ASSIGNMENT.match(token.raw)
                (assignments if is_assignment else words).append(token)
                runs += token.runs
            elif token in _REDIRECTIONS:
                is_redirected |= token in _WRITES
                self._redirection(writes, runs)
            elif token == "(":
                _refuse("an array" if assignments and not words else "a function")
            elif token == "<<":
                _refuse("a here-document")
            else:
                break
        if self.at == begin:
            _refuse(f"{self._shown()} where a command is due" if self.next else "an end too soon")
        return Simple(tuple(words), tuple(assignments), tuple(writes), is_redirected, tuple(runs))

    def _redirection(self, writes: list[Word], runs: list[str]) -> None:
        operator, target = self.next, self.tokens[self.at + 1 : self.at + 2]
        if not target or not isinstance(target[0], Word):
            _refuse("a redirection to nowhere")
        self.at += 2
        word = target[0]
        runs += word.runs
        is_copy = operator in (">&", "<&") and word.text.rstrip("-").isdigit()
        if operator in _WRITES and not is_copy and word.text not in _NOWHERE:
            writes.append(word)
