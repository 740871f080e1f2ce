"""``infra/clickhouse/*.sql`` cut into statements: what each is to make, and what it is called.

Only as much SQL is understood as is needed to run a statement under another database and to refuse
one that could take something away, before anything is run. What a statement means is for the
server to say: gates/clickhouse.py lets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from ctp_runbook.errors import ConfigError, Problem

__all__ = [
    "SqlFile",
    "Statement",
    "clauses",
    "definitions",
    "load_sql",
    "settings",
    "unbracketed",
    "view_target",
]

_PART = r'(?:\w+|`(?:[^`\\]|\\.)+`|"(?:[^"\\]|\\.)+")'
_NAME = rf"{_PART}\s*\.\s*{_PART}"
_HEADS = tuple(
    re.compile(pattern, re.I | re.S)
    for pattern in (
        rf"CREATE\s+(DATABASE)\s+IF\s+NOT\s+EXISTS\s+({_PART})(?!\S|\s*\.)",
        rf"CREATE\s+(TABLE|MATERIALIZED\s+VIEW|VIEW)\s+IF\s+NOT\s+EXISTS\s+({_NAME})",
        rf"(ALTER)\s+TABLE\s+({_NAME})\s",
    )
)
_ADDS = re.compile(r"ADD\s+COLUMN\s+IF\s+NOT\s+EXISTS\s", re.I)
_PART_OF_NAME = re.compile(_PART, re.S)
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|\w+|.", re.S
)
_CLAUSES = ("PARTITION BY", "PRIMARY KEY", "ORDER BY", "SAMPLE BY", "TTL", "SETTINGS")
_EXPECTED = (
    "CREATE … IF NOT EXISTS database.name, or ALTER TABLE database.name ADD COLUMN IF NOT EXISTS: "
    "migrations only add"
)


@dataclass(frozen=True)
class Statement:
    """One statement: ``kind`` is DATABASE, TABLE, VIEW, MATERIALIZED VIEW or ALTER.

    ``name`` is ``database.table`` without quotes. ``target`` and ``select`` are those of a view,
    ``engine`` is that of a table, without its arguments; blank where the statement has none.
    """

    text: str
    kind: str
    name: str
    engine: str = ""
    target: str = ""
    select: str = ""

    @property
    def database(self) -> str:
        """The database it is in."""
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        """Its name without its database."""
        return self.name.partition(".")[2]

    @property
    def quoted(self) -> str:
        """Its name as a statement may hold it."""
        return f"{_identifier(self.database)}.{_identifier(self.short)}"

    @property
    def is_view(self) -> bool:
        """True for both kinds of view."""
        return "VIEW" in self.kind

    def on_twin(self) -> Statement:
        """Return a queue as the twin has it: its engine Null, filled by the ingester."""
        if self.engine != "Kafka":
            return self
        at = next(at for at, word in _words(self.text) if word == "ENGINE")
        return replace(self, text=f"{self.text[:at]}ENGINE = Null", engine="Null")

    def moved(self, name: str) -> str:
        """Return the statement that makes the same under another name, ``database.table``.

        A view becomes a plain one: it takes nothing in, and its query is the same.
        """
        if self.is_view:
            return f"CREATE VIEW {name} AS {self.select}"
        head = _head(self.text)
        assert head is not None  # or it were no statement
        return f"{self.text[: head.start(2)]}{name}{self.text[head.end(2) :]}"


@dataclass(frozen=True)
class SqlFile:
    """A file and its statements; ``more`` are ALTERs that add columns."""

    path: Path
    statements: tuple[Statement, ...]
    more: tuple[Statement, ...] = ()


def load_sql(folder: Path, paths: Iterable[Path] | None = None) -> tuple[SqlFile, ...]:
    """Read the files of a folder, or these of it, in name order. Raises ConfigError with every problem."""
    files, problems = list[SqlFile](), list[Problem]()
    for path in sorted(folder.glob("*.sql") if paths is None else paths):
        try:
            texts = list(_parts(path.read_text(encoding="utf-8"), ";"))
        except (OSError, ValueError) as error:
            problems.append(_problem(path, "no text", str(error)))
            continue
        bad = [text for text in texts if not _head(text)]
        problems += [_problem(path, repr(" ".join(text.split())[:60]), _EXPECTED) for text in bad]
        read = [_parse(text, head) for text in texts if (head := _head(text))]
        more = tuple(statement for statement in read if statement.kind == "ALTER")
        files.append(
            SqlFile(path, tuple(statement for statement in read if statement not in more), more)
        )
    if not files and not problems:
        problems.append(_problem(folder, "no *.sql", "the schema's files"))
    if problems:
        raise ConfigError(problems)
    return tuple(files)


def _problem(path: Path, found: str, expected: str) -> Problem:
    return Problem(str(path), 0, "", found, expected, "mend the file")


# --- statements -------------------------------------------------------------------


def _head(text: str) -> re.Match[str] | None:
    """Return where kind and name stand; None for what does more than add."""
    head = next(filter(None, (pattern.match(text) for pattern in _HEADS)), None)
    if head and head[1].upper() == "ALTER":
        return head if all(map(_ADDS.match, _parts(text[head.end() :], ","))) else None
    return head


def _parse(text: str, head: re.Match[str]) -> Statement:
    statement = Statement(text, " ".join(head[1].upper().split()), _unquoted(head[2]))
    rest = text[head.end() :]
    if statement.is_view:
        query = next((rest[at + 2 :].strip() for at, word in _words(rest) if word == "AS"), "")
        return replace(statement, target=view_target(rest), select=query)
    after = next((rest[at:] for at, word in _words(rest) if word == "ENGINE"), "")
    engine = re.match(r"ENGINE\s*=?\s*(\w+)", after, re.I)
    return replace(statement, engine=engine[1] if engine else "")


def _unquoted(name: str) -> str:
    return ".".join(
        re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] in '`"' else part
        for part in _PART_OF_NAME.findall(name)
    )


def view_target(text: str) -> str:
    """Return where a view's CREATE says it writes to; blank where it keeps its rows itself."""
    for at, word in _words(text):
        if word == "AS":
            break
        if word == "TO" and (
            name := re.compile(rf"\s*({_NAME}|{_PART})", re.S).match(text, at + 2)
        ):
            return _unquoted(name[1])
    return ""


def _identifier(name: str) -> str:
    """Return a name as a statement may hold it: in backticks where it is not one word."""
    if name.isascii() and name.isidentifier():
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


# --- tokens -----------------------------------------------------------------------


def _parts(text: str, joint: str) -> Iterator[str]:
    """Yield what stands between joints, without comments and blanks around it."""
    depth, part = 0, ""
    for token in _TOKEN.findall(text):
        depth += {"(": 1, ")": -1}.get(token, 0)
        # A comma inside brackets separates nothing here; a semicolon always ends its statement,
        # or an open bracket would hide what comes after it from the look for what takes away.
        if token == joint and (joint == ";" or not depth):
            yield from filter(None, [part.strip()])
            part = ""
        else:
            part += " " if token.startswith(("--", "/*")) else token
    yield from filter(None, [part.strip()])


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Yield each word that is in no bracket and no quotes, in capitals, with where it is."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if not depth and re.match(r"\w", token[0]):
            yield token.start(), token[0].upper()


# --- what the server wrote --------------------------------------------------------
# Both sides of a comparison are the server's own text, cut by the same rule: that forgets the
# order of pieces and comments, and nothing else.


def definitions(create: str) -> dict[str, str]:
    """Return what stands in the brackets of a CREATE: ``column price`` is ``Decimal(18, 4)``.

    So with what comes behind the type, and with each ``index``, ``constraint``, ``projection``.
    """
    parts = {}
    for part in _parts(_first_bracket(create), ","):
        tokens = _TOKEN.findall(part)
        if "COMMENT" in tokens[:-2]:  # a blank before it, a blank and a text behind it
            at = tokens.index("COMMENT")
            del tokens[at - 1 : at + 3]
        kind = "column" if tokens[0].startswith("`") else tokens[0].lower()
        at = 0 if kind == "column" else 2
        parts[f"{kind} {_identifier(_unquoted(tokens[at]))}"] = "".join(tokens[at + 1 :]).strip()
    return parts


def _first_bracket(text: str) -> str:
    depth, start = 0, 0
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if token[0] == "(" and depth == 1:
            start = token.end()
        elif token[0] == ")" and not depth:
            return text[start : token.start()]
    return ""


def clauses(engine_full: str) -> dict[str, str]:
    """Return the clauses of an engine by keyword; the engine and its arguments under a blank one."""
    words, starts = [*_words(engine_full), (len(engine_full), "")], [(0, "")]
    for (at, word), (_, after) in pairwise(words):
        starts += [(at, keyword) for keyword in (word, f"{word} {after}") if keyword in _CLAUSES]
    ends = [*(at for at, _ in starts[1:]), len(engine_full)]
    return {
        keyword: engine_full[at + len(keyword) : end].strip()
        for (at, keyword), end in zip(starts, ends, strict=True)
    }


def unbracketed(key: str) -> str:
    """Return a key without brackets around all of it: the server keeps those it was given."""
    inside = _first_bracket(key)
    return inside if key == f"({inside})" else key


def settings(clause: str) -> dict[str, str]:
    """Return the settings of a SETTINGS clause, with values as they are spelt."""
    pairs = (pair.partition("=") for pair in _parts(clause, ","))
    return {key.strip(): value.strip() for key, _, value in pairs}
