"""TOML whose every key is known: each problem with its line, all of them in one go."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook.errors import ConfigError, Problem
from ctp_runbook.plan.template_keys import nearest_name
from ctp_runbook.plan.template_text import quoted
from ctp_runbook.plan.trading_sessions import parse_span

__all__ = ["Field", "TomlText", "may_run_away", "read_toml"]

_LARGEST_CONFIG_BYTES = 1 << 20
_DAY = 86_400.0
# A repeat that may be taken more often than that doubles the ways of one around it without end.
_FEW = 20


def may_run_away(pattern: str) -> str:
    """Say why an expression may take for ever on a line that it does not match, or nothing.

    That is a repeat within a repeat, as ``(a+)+``: the ways to share a text among the two double
    with each character, and whoever matches holds the interpreter, and with it every other look.
    """
    import importlib  # for plans that have an expression

    parser: Any = importlib.import_module("re._parser")
    if _is_repeated(parser.parse(pattern), within=False):
        return (
            "has a repeat within a repeat, which may take for ever; write the inner one possessive "
            "(a++ for a+), or bound it"
        )
    return ""


def _is_repeated(part: Any, *, within: bool) -> bool:
    """True where an open repeat stands in another; an atomic group is left with one way only."""
    if isinstance(part, tuple) and len(part) == 2 and str(part[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        (_, most, body) = part[1]
        is_open = most > _FEW
        return (within and is_open) or _is_repeated(body, within=within or is_open)
    if isinstance(part, tuple) and len(part) == 2 and str(part[0]) == "ATOMIC_GROUP":
        return _is_repeated(part[1], within=False)
    if isinstance(part, tuple | list) or hasattr(part, "data"):
        return any(_is_repeated(each, within=within) for each in part)
    return False


class Field(Struct, frozen=True):
    """The type and range of one key; ``required`` keys have no default."""

    kind: str  # number, integer, boolean, text, texts, spans, strings, scalar
    low: float = 0.0
    high: float = _DAY
    low_allowed: bool = True
    choices: tuple[str, ...] = ()
    required: bool = True

    @property
    def is_numeric(self) -> bool:
        """True of a key that holds a number, which has a range."""
        return self.kind in ("number", "integer")

    @property
    def words(self) -> str:
        """What is expected, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.is_numeric:
            sign = ">=" if self.low_allowed else ">"
            noun = "a finite number" if self.kind == "number" else "a whole number"
            return f"{noun} {sign} {self.low:g} and <= {self.high:g}"
        return _KIND_WORDS[self.kind]

    def accepts(self, value: object) -> bool:
        """Say whether ``value`` is of this type and in this range."""
        return _ACCEPTS[self.kind](self, value)


_ANY_NUMBER = Field("number", low=-1e300, high=1e300)
_KIND_WORDS = {
    "boolean": "true or false",
    "text": "a text that is not blank and has no NUL",
    "texts": "a list of texts",
    "spans": "a list of spans such as 09:00-10:15",
    "strings": "a table of texts",
    "scalar": "a text, a finite number, true or false",
}


def _is_number(spec: Field, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # NaN and the infinities fail these comparisons, and a whole number of any size stands them.
    above = value >= spec.low if spec.low_allowed else value > spec.low
    return above and value <= spec.high


def _is_text(spec: Field, value: object) -> bool:
    is_one = isinstance(value, str) and bool(value.strip()) and value in (spec.choices or (value,))
    # No path, name or query has a NUL: whoever opens one is told so by an error of another kind.
    return is_one and "\0" not in str(value)


_ACCEPTS: dict[str, Callable[[Field, object], bool]] = {
    "number": _is_number,
    "integer": lambda spec, value: isinstance(value, int) and _is_number(spec, value),
    "boolean": lambda spec, value: isinstance(value, bool),
    "text": _is_text,
    "texts": lambda spec, value: isinstance(value, list) and all(map(_is_str, value)),
    "spans": lambda spec, value: isinstance(value, list) and all(map(_is_span, value)),
    "scalar": lambda spec, value: isinstance(value, bool | str) or _is_number(_ANY_NUMBER, value),
    "strings": lambda spec, value: isinstance(value, dict) and all(map(_is_str, value.values())),
}


def _is_span(value: object) -> bool:
    return isinstance(value, str) and parse_span(value) is not None


def _is_str(value: object) -> bool:
    return isinstance(value, str)


class TomlText(Struct, frozen=True):
    """A TOML file's name and text, from which the line of a key is found."""

    file: str
    flag: str
    text: str

    def table(self) -> dict[str, Any]:
        """Parse the file, or raise a ConfigError with the line TOML could not be read at."""
        try:
            return tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> ConfigError:
        """Return what to raise for a file that is no TOML, or no file."""
        reason = getattr(error, "strerror", None) or str(error)
        at = re.search(r"\(at line (\d+)", reason)
        problem = Problem(
            file=self.file,
            line=int(at.group(1)) if at else 0,
            key=self.flag,
            found=f"a file that cannot be read as TOML ({reason})",
            expected="a TOML file in UTF-8",
            remedy="mend the file, or name another one",
        )
        return ConfigError([problem])

    def problem(
        self, path: tuple[str, ...], found: str, expected: str, remedy: str = ""
    ) -> Problem:
        """Return a problem of the key at ``path``, with the line it (or its table) stands on."""
        key = ".".join(path)
        remedy = remedy or f"correct {key}"
        return Problem(self.file, self.line(path), key, found, expected, remedy)

    def line(self, path: tuple[str, ...]) -> int:
        """Find the line of a key, of its table where it has none, or 0."""
        table: tuple[str, ...] = ()
        header = 0
        for number, line in enumerate(self.text.splitlines(), start=1):
            if head := re.match(r"\s*\[([^\[\]]+)\]", line):
                table = _parts(head.group(1))
                header = number if table == path[: len(table)] else header
            elif (pair := re.match(r"\s*([\w\"'. -]+?)\s*=", line)) is not None:
                table_path = table + _parts(pair.group(1))
                if table_path == path:
                    return number
            if table == path:
                return number
        return header

    def check_table(
        self, name: str, table: object, fields: Mapping[str, Field]
    ) -> Iterator[Problem]:
        """Yield the same for a table that may be none at all."""
        if isinstance(table, dict):
            yield from self.check((name,), table, fields)
        else:
            yield self.problem((name,), "no table", f"a table [{name}]")

    def check(
        self,
        path: tuple[str, ...],
        table: Mapping[str, object],
        fields: Mapping[str, Field],
        tables: tuple[str, ...] = (),
    ) -> Iterator[Problem]:
        """Yield unknown, mistyped and missing keys of one table."""
        for key, value in table.items():
            if key not in fields:
                yield self._unknown((*path, key), (*fields, *tables))
            elif not fields[key].accepts(value):
                found = "a value of another type" if isinstance(value, dict) else _shown(value)
                yield self.problem((*path, key), found, fields[key].words)
        for key, spec in fields.items():
            if spec.required and key not in table:
                yield self.problem((*path, key), "no such key", spec.words)

    def _unknown(self, path: tuple[str, ...], known: tuple[str, ...]) -> Problem:
        near = nearest_name(path[-1], known)
        return Problem(
            file=self.file,
            line=self.line(path),
            key=".".join(path),
            found="an unknown key",
            expected="one of " + ", ".join(known),
            remedy=f"write {near}" if near else "delete the key",
            nearest=near,
        )


def _shown(value: object) -> str:
    # A bool is "true" in TOML, and so it should be in what an operator reads.
    return str(value).lower() if isinstance(value, bool) else quoted(str(value))


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def read_toml(path: Path, *, flag: str) -> TomlText:
    """Return the file's text, or raise a ConfigError with one problem."""
    try:
        with path.open("rb") as stream:
            # Cut in the middle, a file that is too large does not parse; no config comes near it.
            raw = stream.read(_LARGEST_CONFIG_BYTES)
        return TomlText(str(path), flag, raw.decode("utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise TomlText(str(path), flag, "").unreadable(error) from error
