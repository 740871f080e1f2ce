"""The TOML file that tells where an engine's session is read: a table a fact, each checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from ctp_runbook.errors import ConfigError, Problem
from ctp_runbook.host.files import read_small
from ctp_runbook.plan.checked_toml import Field, TomlText
from ctp_runbook.plan.template_keys import LOGIN_CHANNELS, SESSION_FACTS

__all__ = ["FactSource", "read_sources"]

_SERIES = r'(?a)[a-zA-Z_:][\w:]*(\{(\w+="[^"\\]*",?)*\})?'
_TABLES = (*LOGIN_CHANNELS, *SESSION_FACTS)
_MOST_BYTES = 1 << 20


class FactSource(Struct, frozen=True, kw_only=True):
    """Where one fact is told, and what of it says yes.

    ``equals`` or ``min`` is what the value must be; of ``may_trade`` in a file or a log it may be
    left out: its value is then one of TRADING_MODES. ``lost_event`` takes back what ``event`` told.
    What is older than ``fresh_seconds`` says
    nothing. ``close_only_seconds`` is how long this engine closes only after it has recovered.
    """

    fact: str
    source: str
    path: str = ""
    field: str = ""
    equals: bool | float | str | None = None
    min: float | None = None
    heartbeat_field: str = ""
    heartbeat_unit: str = "ns"
    fresh_seconds: float = 5.0
    format: str = "logfmt"
    event: str = ""
    lost_event: str = ""
    pattern: str = ""
    query: str = ""
    close_only_seconds: float = 0.0


def read_sources(path: Path, *, flag: str) -> tuple[FactSource, ...]:
    """Return the tables of the file that ``flag`` names. Raises ConfigError with every problem."""
    return _sources_in(_text_of(path, flag=flag))


def _text_of(path: Path, *, flag: str) -> TomlText:
    """Return the file's text; a pipe in its place is not waited at."""
    try:
        return TomlText(str(path), flag, read_small(path, most=_MOST_BYTES).decode())
    except (OSError, ValueError) as error:
        raise TomlText(str(path), flag, "").unreadable(error) from error


_TEXT = Field("text", required=False)
_SECONDS = Field("number", low_allowed=False, required=False)
_COMMON = {"source": Field("text", choices=("file", "log", "metric", "session_state"))}
_VALUE = {"equals": Field("scalar", required=False)}
_MIN = {"min": Field("number", low=-1e300, high=1e300, required=False)}
_MUST = Field("text")
# The keys of each source; what of a fact's own comes below.
_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "file": {
        "path": _MUST,
        "field": _MUST,
        **_VALUE,
        "heartbeat_field": _TEXT,
        "heartbeat_unit": Field("text", choices=("ns", "us", "ms", "s", "iso"), required=False),
        "fresh_seconds": _SECONDS,
    },
    "log": {
        "path": _MUST,
        "event": _TEXT,
        "field": _TEXT,
        **_VALUE,
        "format": Field("text", choices=("logfmt", "json", "pattern"), required=False),
        "pattern": _TEXT,
    },
    "metric": {"query": _MUST, **_VALUE, **_MIN},
    "session_state": {},
}
_OF_MAY_TRADE = {"close_only_seconds": _SECONDS}


@lru_cache(maxsize=8)
def _sources_in(text: TomlText) -> tuple[FactSource, ...]:
    """Return the tables of a file, each checked. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    tables = text.table()
    for name in tables.keys() - {*_TABLES}:
        problems.append(text.problem((name,), "an unknown fact", f"one of {', '.join(_TABLES)}"))
    sources = []
    for name, table in tables.items():
        if name not in _TABLES:
            continue
        if wrong := list(_table_problems(text, name, table)):
            problems += wrong
            continue
        numbers = {key: _plain(value) for key, value in table.items()}
        sources.append(FactSource(fact=name, **numbers))
    problems += _login_problems(text, tables)
    if not tables:
        problems.append(text.problem(("logged_in",), "no table", "a table for each fact"))
    if problems:
        raise ConfigError(problems)
    return tuple(sorted(sources, key=lambda source: _TABLES.index(source.fact)))


def _plain(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _login_problems(text: TomlText, tables: Mapping[str, Any]) -> Iterator[Problem]:
    """Market data up says nothing about trading: one channel alone is no login."""
    channels = [name for name in LOGIN_CHANNELS if name in tables]
    if len(channels) == 1 and "logged_in" not in tables:
        other = next(name for name in LOGIN_CHANNELS if name not in channels)
        yield text.problem(
            tuple(channels), f"no table [{other}] beside it", f"[{other}] as well, or [logged_in]"
        )
    if channels and "logged_in" in tables:
        yield text.problem(
            ("logged_in",), f"[{channels[0]}] beside it", "either of them: one for both, or each"
        )


def _table_problems(text: TomlText, name: str, table: object) -> Iterator[Problem]:
    if not isinstance(table, dict):
        yield text.problem((name,), "no table", f"a table [{name}]")
        return
    source = table.get("source")
    if not isinstance(source, str) or source not in _FIELDS:
        yield from text.check((name,), {"source": source} if "source" in table else {}, _COMMON)
        return
    own = _OF_MAY_TRADE if name == "may_trade" else {}
    wrong = list(text.check((name,), table, {**_COMMON, **_FIELDS[source], **own}))
    yield from wrong or _value_problems(text, name, table)


def _value_problems(text: TomlText, name: str, table: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what stands in no key of its own: which values say yes."""
    source = table["source"]
    if source == "session_state" and name == "may_trade":
        yield text.problem((name, "source"), "'session_state'", "a source that tells of orders")
    if source == "metric":
        if ("equals" in table) == ("min" in table):
            yield text.problem((name,), "not one of equals and min", "either equals or min")
        elif isinstance(table.get("equals"), str):
            yield text.problem((name, "equals"), "a text", "a number: a metric has no other value")
        if not re.fullmatch(_SERIES, table["query"]):
            yield text.problem((name, "query"), repr(table["query"]), 'NAME or NAME{label="value"}')
    if source == "file" and name != "may_trade" and "equals" not in table:
        yield text.problem((name,), "no key equals", "the value that says yes")
    if source == "log":
        yield from _log_problems(text, name, table)


def _log_problems(text: TomlText, name: str, table: Mapping[str, Any]) -> Iterator[Problem]:
    is_pattern = table.get("format") == "pattern"
    if is_pattern:
        try:
            groups = re.compile(table.get("pattern", "")).groupindex
        except re.error as error:
            yield text.problem((name, "pattern"), f"{error}", "a regular expression")
        else:
            if table.get("pattern") and not groups:
                yield text.problem((name, "pattern"), "no named group", "(?P<name>…) in it")
    if is_pattern and not table.get("pattern"):
        yield text.problem((name,), "no key pattern", "the expression whose groups are the fields")
    if not is_pattern and not table.get("event"):
        yield text.problem((name,), "no key event", "the name of the event that tells it")
    if "equals" in table and "field" not in table:
        yield text.problem(
            (name,), "equals without field", "the field of the event it is a value of"
        )
