"""Scrape a Prometheus text page (text exposition format 0.0.4) into named series."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.record.samples import series_key

__all__ = ["fetch", "is_port_open", "parse_page", "scrape"]

# Nobody can listen where the host has no such address (``::1`` of localhost without IPv6).
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# What a family's series end in: a histogram has three kinds of them, some counters one.
_PARTS = ("", "_bucket", "_sum", "_count", "_total")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_PAIR = r'\s*[a-zA-Z_]\w*="(?:[^"\\]|\\.)*"\s*'
# Name, labels, value, and a time stamp that nobody asks for.
_LINE = re.compile(
    rf"([a-zA-Z_:][\w:]*)(?:\s*\{{((?:{_PAIR}(?:,{_PAIR})*,?)?)\s*\}}\s*|\s+)"
    r"([-+0-9.eEinfINFnaNA]+)(?:\s+-?[0-9]+)?\s*"
)
_NAME = re.compile(r"[\w:]*")


def fetch(url: str, *, seconds: float) -> bytes:
    """Return the body of ``url`` by GET, whole within ``seconds``. Raises ProbeError.

    Follows no redirect and uses no proxy: what is asked is a process of this host.
    """
    try:
        status, body = exchange(url, seconds=seconds)
    except ProbeError as error:
        raise ProbeError(f"{url}: {error}") from error
    if status != 200:
        raise ProbeError(f"{url}: answered HTTP {status}, expected 200")
    return body


def parse_page(text: str, *, families: Collection[str]) -> dict[str, float]:
    """Return the series of the page whose family is in ``families`` (histogram parts included).

    Only wanted lines are looked at: a page is mostly what nobody asked for, and is read every
    second. Raises ProbeError when one of them is not in the exposition format.
    """
    wanted = tuple(families)
    names = {family + part for family in families for part in _PARTS}
    lines = (line for line in text.splitlines() if line.startswith(wanted))
    return dict(_series(line) for line in lines if _name(line) in names)


def _name(line: str) -> str:
    match = _NAME.match(line)
    return match[0] if match else ""


def _series(line: str) -> tuple[str, float]:
    try:
        name, labels, value = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        return _key(name, labels or ""), float(value)
    except (AttributeError, ValueError) as error:
        raise ProbeError(f"not a metrics page: a line of {_name(line)} cannot be read") from error


# An engine's page has the same series from one second to the next.
@lru_cache(maxsize=65536)
def _key(name: str, labels: str) -> str:
    pairs = {key: _ESCAPE.sub(_unescaped, value) for key, value in _LABEL.findall(labels)}
    return series_key(name, pairs)


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def scrape(url: str, *, families: Collection[str], seconds: float) -> dict[str, float]:
    """Fetch a metrics page and return its wanted series. Raises ProbeError."""
    try:
        text = fetch(url, seconds=seconds).decode()
    except UnicodeDecodeError as error:
        raise ProbeError(f"{url}: not text") from error
    return parse_page(text, families=families)


def is_port_open(url: str, *, seconds: float) -> bool:
    """Return True when somebody accepts connections at the URL's host and port, False when they
    are refused. Raises ProbeError for anything else: a port that does not answer may be held.
    """
    try:
        parts = urlsplit(url)
        address = parts.hostname or "", parts.port or 80
        with socket.create_connection(address, timeout=seconds, all_errors=True):
            return True
    except ExceptionGroup as group:
        reasons = [reason for reason in group.exceptions if isinstance(reason, OSError)]
    except (OSError, ValueError) as error:  # an unknown host, a port that is no number
        raise ProbeError(f"{url}: {error}") from error
    # A name may have several addresses; those that the host lacks do not speak against a refusal.
    refused = [reason for reason in reasons if isinstance(reason, ConnectionRefusedError)]
    others = [
        reason
        for reason in reasons
        if reason not in refused and reason.errno not in _NO_SUCH_ADDRESS
    ]
    if others or not refused:
        raise ProbeError(f"{url}: {(others or reasons)[0]}")
    return False
