"""Ask ClickHouse over its HTTP interface; user and password go in headers, never in the URL."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import msgspec

from ctp_runbook.decoding import convert, decoder
from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import with_ca_file
from ctp_runbook.model import lag_fault
from ctp_runbook.probes.exchange import exchange

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["ClickHouseDoor", "ingest_delay", "ingest_delay_ms", "quoted"]

_PORTS = {"http": 8123, "https": 8443}
_SHOWN = 300
# The columns of a whole database are some hundred KiB.
_LONGEST_ANSWER = 4 << 20
_EXCEPTION = "DB::Exception"
_CODE_HEADER = "x-clickhouse-exception-code"
_WRAPPERS = ("Nullable(", "LowCardinality(")
_WHOLE = frozenset(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_TEXTS = ("String", "FixedString", "Enum", "Date", "UUID")


class _Column(msgspec.Struct):
    name: str
    type: str


class _Answer(msgspec.Struct):
    """An answer in format JSONCompact, as far as it is believed."""

    data: list[list[Any]] | None = None
    meta: list[_Column] = []
    rows: int | None = None
    exception: str = ""

    @property
    def problem(self) -> str:
        """How its rows are not what it declares; blank for not at all."""
        data = self.data or []
        if self.rows not in (None, len(data)):
            return f"declares {self.rows} rows, holds {len(data)}"
        for row in data if self.meta else ():
            if len(row) < len(self.meta):
                return f"declares {len(self.meta)} columns, a row holds {len(row)}"
            for column, value in zip(self.meta, row, strict=False):
                if not _fits(column.type, value):
                    return f"declares column {column.name} {column.type}, a row holds {value!r:.80}"
        return ""


def _fits(kind: str, value: object) -> bool:
    """Return True for a value that JSON can hold of a type of ClickHouse; True for a rare type."""
    bare = kind
    while bare.startswith(_WRAPPERS):
        bare = bare.partition("(")[2].removesuffix(")")
    if value is None:  # NaN and infinity come so, too
        return bare.startswith("Float") or bare != kind
    if bare in _WHOLE:
        return type(value) is int
    if bare.startswith("Float"):
        return type(value) in (int, float)
    return type(value) is str or not bare.startswith(_TEXTS)


@dataclass(frozen=True)
class ClickHouseDoor:
    """An address and a login. Every question has a deadline of its own."""

    url: str
    user: str
    password: str = field(repr=False)

    @property
    def shown(self) -> str:
        """The address without user and password."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:  # an address that is none, which may be a secret as a whole
            return "an address that cannot be read"
        return f"{parts.scheme}://{parts.hostname}:{port}"

    def rows(self, query: str, *, seconds: float, like: Any = list[Any]) -> list[Any]:
        """Return the rows of a SELECT, each ``like`` this type; 64-bit integers come as numbers.

        Raises ProbeError also for an answer that began well (HTTP 200) and tells an exception in
        its body, and for rows that are not as its ``meta`` and ``rows`` declare.
        """
        raw = self._send(query, seconds)
        try:
            answer = decoder(_Answer).decode(raw)
            if answer.exception:
                raise ProbeError(self._refusal(200, answer.exception))
            rows: list[Any] = convert(answer.data, list[like])
        except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            self._raise_exception_in(raw)
            shown = raw[:60].decode("utf-8", "replace")
            raise ProbeError(
                f"ClickHouse at {self.shown}: answered {shown!r}, expected rows in JSON; is this "
                f"its HTTP interface (--clickhouse-url)? {error}"
            ) from error
        if problem := answer.problem:
            raise ProbeError(f"ClickHouse at {self.shown}: {problem}; nothing of it is believed")
        return rows

    def run(self, statement: str, *, seconds: float) -> None:
        """Run a statement that gives nothing back."""
        self._raise_exception_in(self._send(statement, seconds))

    def _raise_exception_in(self, raw: bytes) -> None:
        """Raise what an answer tells behind its HTTP 200: it was begun when the query failed."""
        text = raw.decode("utf-8", "replace")
        if _EXCEPTION in text:
            raise ProbeError(self._refusal(200, text[max(0, text.rfind("Code: ")) :]))

    def _send(self, query: str, seconds: float) -> bytes:
        settings = {
            "default_format": "JSONCompact",
            "output_format_json_quote_64bit_integers": "0",
            # The server gives up too, so that no question outlives the gate that asked it.
            "max_execution_time": str(max(1, int(seconds))),
        }
        headers = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password}
        answer_headers: dict[str, str] = {}
        try:
            parts = urlsplit(self.url)
            status, raw = exchange(
                parts._replace(path="/", query=urlencode(settings)).geturl(),
                seconds=seconds,
                method="POST",
                body=query.encode(),
                headers=headers,
                default_port=_PORTS.get(parts.scheme, 0),
                most_bytes=_LONGEST_ANSWER,
                answer_headers=answer_headers,
            )
        except (ProbeError, ValueError) as error:
            raise ProbeError(
                f"ClickHouse at {self.shown}: {error}; is the service up "
                "(`docker compose ps clickhouse`), and is --clickhouse-url right?"
            ) from error
        # Also behind HTTP 200, and where what stands before it took the body away.
        code = (
            f"Code: {answer_headers[_CODE_HEADER]}"
            if answer_headers.get(_CODE_HEADER, "0").strip() != "0"
            else ""
        )
        if status != 200 or code:
            text = raw.decode("utf-8", "replace")
            begun = text.rfind(code) if code else 0
            raise ProbeError(
                self._refusal(status, text[begun:] if begun >= 0 else f"{code}. {text}")
            )
        return raw

    def _refusal(self, status: int, text: str) -> str:
        remedy = ""
        if "Code: 516" in text or "Code: 193" in text:
            remedy = (
                f"; user {self.user} and its password are taken from CLICKHOUSE_USER and "
                "CLICKHOUSE_PASSWORD of the environment or the env file: correct them there"
            )
        elif "Code: 497" in text:
            remedy = (
                f"; an administrator grants user {self.user} what is named there (the schema is "
                "compared in databases ctp_runbook_scratch_…, which are made and dropped)"
            )
        elif "NOT_ENOUGH_SPACE" in text or "No space left" in text:
            remedy = "; make room on the disk of its data directory"
        return (
            f"ClickHouse at {self.shown}: HTTP {status}: {' '.join(text.split())[:_SHOWN]}{remedy}"
        )


def ingest_delay(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``clickhouse``: what the rule's query says of the rows that came in of late."""
    settings = around.settings

    def measure() -> float | None:
        # Each time anew: a password may be changed while the watch goes on.
        password = around.secret("clickhouse_key_env")
        user = settings.get("clickhouse_user", "default")
        url = with_ca_file(settings["clickhouse_url"], settings.get("ca_file", ""))
        door = ClickHouseDoor(url, user, password)
        return ingest_delay_ms(door, rule.query, seconds=rule.patience_seconds)

    return measure


def ingest_delay_ms(door: ClickHouseDoor, query: str, *, seconds: float) -> float | None:
    """Return the delay a query tells, ``value, events`` in one row; None where there was no event.

    What came in long ago says nothing about now: the query bounds its own window. Raises ProbeError
    for records from the future too.
    """
    rows = door.rows(query, seconds=seconds)
    if len(rows) != 1 or len(rows[0]) != 2:
        raise ProbeError(
            f"ClickHouse at {door.shown}: {len(rows)} rows, expected one of value and events; "
            "correct the query in watch.toml"
        )
    value, events = rows[0]
    if not (_is_number(events) and events >= 0 and (value is None or _is_number(value))):
        raise ProbeError(
            f"ClickHouse at {door.shown}: value {value!r:.80}, events {events!r:.80}, expected two "
            "numbers; correct the query in watch.toml"
        )
    if not events or value is None:
        return None
    if fault := lag_fault(float(value), "ms"):
        raise ProbeError(f"ClickHouse at {door.shown}: {fault}")
    return max(0.0, float(value))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def quoted(text: str) -> str:
    """Return a text as a ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
