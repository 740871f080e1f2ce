"""Ask ClickHouse over its HTTP interface; user and password go in headers, never in the URL."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

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

    def rows(self, query: str, *, seconds: float) -> list[list[Any]]:
        """Return the rows of a SELECT; 64-bit integers come as numbers."""
        raw = self._send(query, seconds)
        try:
            rows: list[list[Any]] = json.loads(raw)["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            shown = raw[:60].decode("utf-8", "replace")
            raise ProbeError(
                f"ClickHouse at {self.shown}: answered {shown!r}, expected rows in JSON; is this "
                "its HTTP interface (--clickhouse-url)?"
            ) from error
        return rows

    def run(self, statement: str, *, seconds: float) -> None:
        """Run a statement that gives nothing back."""
        self._send(statement, seconds)

    def _send(self, query: str, seconds: float) -> bytes:
        settings = {
            "default_format": "JSONCompact",
            "output_format_json_quote_64bit_integers": "0",
            # The server gives up too, so that no question outlives the gate that asked it.
            "max_execution_time": str(max(1, int(seconds))),
        }
        headers = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password}
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
            )
        except (ProbeError, ValueError) as error:
            raise ProbeError(
                f"ClickHouse at {self.shown}: {error}; is the service up "
                "(`docker compose ps clickhouse`), and is --clickhouse-url right?"
            ) from error
        if status != 200:
            raise ProbeError(self._refusal(status, raw.decode("utf-8", "replace")))
        return raw

    def _refusal(self, status: int, text: str) -> str:
        remedy = ""
        if "Code: 516" in text or "Code: 193" in text:
            remedy = (
                f"; user {self.user} and its password are taken from CLICKHOUSE_USER and "
                "CLICKHOUSE_PASSWORD of the environment or the env file: correct them there"
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
    if not events or value is None:
        return None
    if fault := lag_fault(float(value), "ms"):
        raise ProbeError(f"ClickHouse at {door.shown}: {fault}")
    return max(0.0, float(value))


def quoted(text: str) -> str:
    """Return a text as a ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
