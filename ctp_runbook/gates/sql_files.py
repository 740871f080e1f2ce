"""``infra/clickhouse/*.sql`` read as what they are to make: databases, tables and views.

Only as much SQL is understood as those files use; a statement that could take something away is
refused before anything is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctp_runbook.errors import ConfigError, Problem

__all__ = ["SqlFile", "Statement", "WantedColumn", "load_sql", "squeezed"]

_CREATE = re.compile(
    r"CREATE\s+(DATABASE|TABLE|MATERIALIZED\s+VIEW|VIEW)\s+IF\s+NOT\s+EXISTS\s+([\w.`]+)", re.I
)
_ADDITIVE = re.compile(r"ALTER\s+TABLE\s+[\w.`]+\s+ADD\s+COLUMN\s+IF\s+NOT\s+EXISTS\s", re.I)
_CLAUSE = re.compile(
    r"\b(ENGINE|PARTITION\s+BY|PRIMARY\s+KEY|ORDER\s+BY|SAMPLE\s+BY|TTL|SETTINGS|COMMENT)\b", re.I
)
_AFTER_TYPE = re.compile(r"\s(DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL|COMMENT)\b", re.I)
_NO_COLUMN = re.compile(r"(INDEX|CONSTRAINT|PROJECTION|PRIMARY\s+KEY)\s", re.I)
_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'|`[^`]*`|.", re.S)
_EXPECTED = "CREATE … IF NOT EXISTS, or ALTER TABLE … ADD COLUMN IF NOT EXISTS: migrations only add"


@dataclass(frozen=True)
class WantedColumn:
    """A column and its type as the file spells it."""

    name: str
    type: str


@dataclass(frozen=True)
class Statement:
    """One CREATE: ``kind`` is DATABASE, TABLE, VIEW or MATERIALIZED VIEW; the rest as it applies.

    ``settings`` are those of the engine, with values as they are spelt.
    """

    text: str
    kind: str
    name: str
    columns: tuple[WantedColumn, ...] = ()
    engine: str = ""
    order_by: str = ""
    partition_by: str = ""
    settings: tuple[tuple[str, str], ...] = ()
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
    def is_view(self) -> bool:
        """True for both kinds of view."""
        return "VIEW" in self.kind

    def on_twin(self) -> Statement:
        """Return a queue as the twin has it: its engine Null, filled by the ingester."""
        if self.engine != "Kafka":
            return self
        head = re.split(r"\bENGINE\s*=", self.text, maxsplit=1, flags=re.I)[0]
        return replace(self, text=f"{head}ENGINE = Null", engine="Null", settings=())


@dataclass(frozen=True)
class SqlFile:
    """A file and its statements; ``more`` are ALTERs that add columns."""

    path: Path
    statements: tuple[Statement, ...]
    more: tuple[str, ...] = ()


def load_sql(folder: Path) -> tuple[SqlFile, ...]:
    """Read the files of a folder in name order. Raises ConfigError with every problem."""
    files, problems = list[SqlFile](), list[Problem]()
    for path in sorted(folder.glob("*.sql")):
        try:
            texts = list(_parts(path.read_text(encoding="utf-8"), ";"))
        except (OSError, ValueError) as error:
            problems.append(_problem(path, "no text", str(error)))
            continue
        bad = [text for text in texts if not (_CREATE.match(text) or _ADDITIVE.match(text))]
        problems += [_problem(path, repr(" ".join(text.split())[:60]), _EXPECTED) for text in bad]
        creates = tuple(_parse(text, head) for text in texts if (head := _CREATE.match(text)))
        files.append(SqlFile(path, creates, tuple(filter(_ADDITIVE.match, texts))))
    if not files and not problems:
        problems.append(_problem(folder, "no *.sql", "the schema's files"))
    if problems:
        raise ConfigError(problems)
    return tuple(files)


def _problem(path: Path, found: str, expected: str) -> Problem:
    return Problem(str(path), 0, "", found, expected, "mend the file")


def squeezed(text: str) -> str:
    """Return an expression without what may be written otherwise: blanks, backticks, brackets
    around all of it."""
    bare = re.sub(r"[\s`]+", "", text)
    while bare.startswith("(") and _closing(bare) == len(bare) - 1:
        bare = bare[1:-1]
    return bare


# --- statements -------------------------------------------------------------------


def _parse(text: str, head: re.Match[str]) -> Statement:
    kind, name = " ".join(head[1].upper().split()), head[2].replace("`", "")
    statement, rest = Statement(text, kind, name), text[head.end() :].strip()
    if statement.is_view:
        into = re.match(r"TO\s+([\w.`]+)", rest, re.I)
        select = re.search(r"\bAS\s+(?=(SELECT|WITH)\b)", rest, re.I)
        return replace(
            statement,
            target=into[1].replace("`", "") if into else "",
            select=rest[select.end() :] if select else "",
        )
    return statement if kind == "DATABASE" else _with_table(statement, rest)


def _with_table(statement: Statement, rest: str) -> Statement:
    end = _closing(rest) if rest.startswith("(") else -1
    columns = map(_column, _parts(rest[1:end], ",")) if end > 0 else ()
    # Behind the columns: keyword, clause, keyword, clause.
    _, *clauses = _CLAUSE.split(rest[end + 1 :])
    keywords = (" ".join(word.upper().split()) for word in clauses[::2])
    by_keyword = {word: text.strip() for word, text in zip(keywords, clauses[1::2], strict=True)}
    engine = by_keyword.get("ENGINE", "").lstrip("= ")
    settings = (pair.partition("=") for pair in _parts(by_keyword.get("SETTINGS", ""), ","))
    return replace(
        statement,
        columns=tuple(column for column in columns if column is not None),
        engine=engine.partition("(")[0].strip(),
        order_by=by_keyword.get("ORDER BY", ""),
        partition_by=by_keyword.get("PARTITION BY", ""),
        settings=tuple((key.strip(), value.strip()) for key, _, value in settings),
    )


def _column(text: str) -> WantedColumn | None:
    if _NO_COLUMN.match(text):
        return None
    name, _, rest = text.partition(" ")
    kind = _AFTER_TYPE.split(f" {rest}", maxsplit=1)[0]
    return WantedColumn(name.strip("`"), " ".join(kind.split()))


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


def _closing(text: str) -> int:
    """Return where the bracket at the start of ``text`` is closed; -1 for nowhere."""
    depth, at = 0, 0
    for token in _TOKEN.findall(text):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if not depth:
            return at
        at += len(token)
    return -1
