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
_CLAUSES = "ENGINE|PARTITION BY|PRIMARY KEY|ORDER BY|SAMPLE BY|TTL|SETTINGS|COMMENT"
_AFTER_TYPE = re.compile(r"\s(DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL|COMMENT)\b", re.I)
_NO_COLUMN = re.compile(r"(INDEX|CONSTRAINT|PROJECTION|PRIMARY\s+KEY)\s", re.I)
_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'|`[^`]*`|.", re.S)


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
        """A queue as the twin has it: its engine Null, filled by the ingester."""
        if self.engine != "Kafka":
            return self
        head = self.text[: re.search(r"\bENGINE\s*=", self.text, re.I).start()]  # type: ignore[union-attr]
        return replace(self, text=f"{head}ENGINE = Null", engine="Null", settings=())


@dataclass(frozen=True)
class SqlFile:
    """A file and its statements; ``more`` are ALTERs that add columns."""

    path: Path
    statements: tuple[Statement, ...]
    more: tuple[str, ...] = ()


def load_sql(folder: Path) -> tuple[SqlFile, ...]:
    """The files of a folder in name order. Raises ConfigError with every problem."""
    files, problems = list[SqlFile](), list[Problem]()
    for path in sorted(folder.glob("*.sql")):
        try:
            texts = list(_split(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            problems.append(_problem(path, "no text", str(error)))
            continue
        bad = [text for text in texts if not (_CREATE.match(text) or _ADDITIVE.match(text))]
        problems += [_problem(path, repr(" ".join(text.split())[:60]), _EXPECTED) for text in bad]
        statements = tuple(_parse(text) for text in texts if _CREATE.match(text))
        files.append(SqlFile(path, statements, tuple(t for t in texts if _ADDITIVE.match(t))))
    if not files and not problems:
        problems.append(_problem(folder, "no *.sql", "the schema's files"))
    if problems:
        raise ConfigError(problems)
    return tuple(files)


_EXPECTED = "CREATE … IF NOT EXISTS, or ALTER TABLE … ADD COLUMN IF NOT EXISTS: migrations only add"


def _problem(path: Path, found: str, expected: str) -> Problem:
    return Problem(str(path), 0, "", found, expected, "mend the file")


def squeezed(text: str) -> str:
    """An expression without what may be written otherwise: blanks, backticks, outer brackets."""
    bare = re.sub(r"[\s`]+", "", text)
    while bare.startswith("(") and _closing(bare, 0) == len(bare) - 1:
        bare = bare[1:-1]
    return bare


def _split(text: str) -> Iterator[str]:
    """Statements without comments and semicolons."""
    part = ""
    for token in _TOKEN.findall(text):
        if token.startswith(("--", "/*")):
            part += " "
        elif token == ";":
            yield from filter(None, [part.strip()])
            part = ""
        else:
            part += token
    yield from filter(None, [part.strip()])


def _parse(text: str) -> Statement:
    head = _CREATE.match(text)
    assert head is not None
    kind, name = " ".join(head[1].upper().split()), head[2].replace("`", "")
    rest = text[head.end() :].strip()
    if kind == "DATABASE":
        return Statement(text, kind, name)
    if "VIEW" in kind:
        into = re.match(r"TO\s+([\w.`]+)", rest, re.I)
        select = re.search(r"\bAS\s+(?=(SELECT|WITH)\b)", rest, re.I)
        target = into[1].replace("`", "") if into else ""
        return Statement(
            text, kind, name, target=target, select=rest[select.end() :] if select else ""
        )
    return _parse_table(Statement(text, kind, name), rest)


def _parse_table(statement: Statement, rest: str) -> Statement:
    end = _closing(rest, 0) if rest.startswith("(") else -1
    columns = tuple(map(_column, _listed(rest[1:end]))) if end > 0 else ()
    clauses = dict(_clauses(rest[end + 1 :]))
    engine = clauses.get("ENGINE", "").lstrip("= ").strip()
    settings = (pair.partition("=") for pair in _listed(clauses.get("SETTINGS", "")))
    return replace(
        statement,
        columns=tuple(one for one in columns if one is not None),
        engine=engine.partition("(")[0].strip(),
        order_by=clauses.get("ORDER BY", ""),
        partition_by=clauses.get("PARTITION BY", ""),
        settings=tuple((key.strip(), value.strip()) for key, _, value in settings),
    )


def _column(text: str) -> WantedColumn | None:
    if _NO_COLUMN.match(text):
        return None
    name, _, rest = text.strip().partition(" ")
    after = _AFTER_TYPE.search(f" {rest}")
    kind = rest[: after.start()] if after else rest
    return WantedColumn(name.strip("`"), " ".join(kind.split()))


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    """The clauses behind a table's columns, by their keyword."""
    words = _CLAUSES.replace(" ", r"\s+")
    found = list(re.finditer(rf"\b({words})\b", text, re.I))
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        yield " ".join(match[1].upper().split()), text[match.end() : end].strip()


def _listed(text: str) -> Iterator[str]:
    """The parts between the commas that stand outside brackets and quotes."""
    depth, part = 0, ""
    for token in _TOKEN.findall(text):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += token
    if part.strip():
        yield part.strip()


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` is closed; -1 for nowhere."""
    depth, at = 0, start
    for token in _TOKEN.findall(text[start:]):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if not depth:
            return at
        at += len(token)
    return -1
