"""Scrape a Prometheus text page (text exposition format 0.0.4) into named series.

A page is read whole or not at all: one line that is not of the format, one series that stands
twice, an end that is missing, and nothing on it is believed. The grammar is narrower than that of
``prometheus_client``'s parser, which calls itself lax; what it takes, that parser reads to the
same samples (tests/probes/test_metrics.py).
"""

from __future__ import annotations

import errno
import io
import math
import re
import socket
import time
from collections.abc import Collection, Iterator
from functools import lru_cache

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import default_port_of, split_url
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.record.samples import series_key

__all__ = ["fetch", "is_port_open", "parse_page", "scrape"]

# Nobody can listen where the host has no such address (``::1`` of localhost without IPv6).
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# What a family's series end in: a histogram has three kinds of them, some counters one.
_PARTS = ("", "_bucket", "_sum", "_count", "_total")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', re.ASCII | re.DOTALL)
_ESCAPE = re.compile(r"\\(.)")
# Names that begin with two underscores are Prometheus' own. Possessive: a line of quotes and
# backslashes has one reading, and is not tried in another.
_PAIR = r'[ \t]*+(?!__)[a-zA-Z_]\w*="(?:[^"\\\r\0]|\\[\\"n])*+"[ \t]*+'
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WORDS = r"[-+]?[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN]"
# Name, labels, value, and the time stamp of a value that is not of now.
_LINE = re.compile(
    rf"[ \t]*+([a-zA-Z_:][\w:]*)(?:[ \t]*+\{{((?:{_PAIR}(?:,{_PAIR})*,?)?[ \t]*+)\}}[ \t]*+|[ \t]++)"
    rf"({_NUMBER}|{_WORDS})(?:[ \t]++(-?\d{{1,19}}))?[ \t]*+",
    re.ASCII,
)
_NAME = r"[a-zA-Z_:][\w:]*"
_BLANK_OR_COMMENT = re.compile(
    rf"[ \t]*+(?:#(?:[ \t]++TYPE[ \t]++{_NAME}[ \t]++\w+[ \t]*+"
    rf"|[ \t]++HELP[ \t]++{_NAME}(?:[ \t][^\r\0]*)?"
    r"|(?!\s++(?:TYPE|HELP)(?:\s|$))[^\r\0]*))?",
    re.ASCII,
)
_LONGEST_LINE = 64 << 10
_MOST_SERIES = 50_000
_LONGEST_KEPT = 1024
_LINES_A_LOOK = 2048
# How far a value's own time may be from this host's, where nobody says.
_FRESH_SECONDS = 60.0
_TEXT_FORMAT = {"Accept": "text/plain;version=0.0.4"}
# What a page begins with that is something else.
_HEADS = {
    b"\x1f\x8b": "gzip, which was not asked for",
    b"\xef\xbb\xbf": "text with a byte order mark",
    b"\xff\xfe": "UTF-16, not text in UTF-8",
    b"\xfe\xff": "UTF-16, not text in UTF-8",
    b"<": "HTML or XML",
    b"{": "JSON",
}


def fetch(url: str, *, seconds: float) -> bytes:
    """Return the body of ``url`` by GET, whole within ``seconds``. Raises ProbeError.

    Follows no redirect and uses no proxy: what is asked is a process of this host.
    """
    try:
        status, body = exchange(url, seconds=seconds, headers=_TEXT_FORMAT)
    except ProbeError as error:
        raise ProbeError(f"{url}: {error}") from error
    if 300 <= status < 400:
        raise ProbeError(f"{url}: answered HTTP {status}, a redirect, expected 200: name the page")
    if status != 200:
        raise ProbeError(f"{url}: answered HTTP {status}, expected 200")
    return body


def parse_page(
    page: bytes | str,
    *,
    families: Collection[str],
    fresh_seconds: float = math.inf,
    deadline: float = math.inf,
) -> dict[str, float]:
    """Return the series of the page whose family is in ``families`` (histogram parts included).

    Raises ProbeError where any line of it is not in the exposition format, one of these series
    stands twice or says a time further than ``fresh_seconds`` from now, or reading takes beyond
    ``deadline`` (monotonic seconds).
    """
    data = page if isinstance(page, bytes) else page.encode(errors="surrogatepass")
    names = {family + part for family in families for part in _PARTS}
    series: dict[str, float] = {}
    for name, labels, value, stamp in _lines(data, deadline):
        if name not in names:
            continue
        # A long one is not remembered: of those a page may have others each second.
        key = (_key if len(labels) < _LONGEST_KEPT else _key.__wrapped__)(name, labels)
        if key in series:
            raise _no_page(f"{key} stands on it twice, as {series[key]:g} and {value:g}")
        if stamp and (apart := abs(time.time() - int(stamp) / 1000)) > fresh_seconds:
            raise _no_page(
                f"{key} has the time stamp {stamp}, {apart:.0f} s away from now; it proves "
                f"nothing of the last {fresh_seconds:g} s (fresh_seconds)"
            )
        series[key] = value
        if len(series) > _MOST_SERIES:
            raise _no_page(f"more than {_MOST_SERIES} series of {', '.join(sorted(families))}")
    return series


def _no_page(what: str) -> ProbeError:
    return ProbeError(f"not a metrics page: {what}")


def _lines(data: bytes, deadline: float) -> Iterator[tuple[str, str, float, str]]:
    """Yield name, labels, value and time stamp of each sample on the page."""
    begin = data[:1024].lstrip(b" \t\n")
    if head := next(filter(begin.startswith, _HEADS), b""):
        raise _no_page(f"it is {_HEADS[head]}; expected Prometheus' text format 0.0.4")
    if data and not data.endswith(b"\n"):
        raise _no_page(f"its last line has no end, it may have been cut: {_shown(data[-40:])}")
    # Lines end in \n alone: what else str.splitlines takes for an end may stand in a label.
    for number, raw in enumerate(io.BytesIO(data), start=1):
        if number % _LINES_A_LOOK == 0 and time.monotonic() > deadline:
            raise ProbeError(f"{len(data)} bytes could not be read in time")
        if len(raw) > _LONGEST_LINE:
            raise _no_page(f"line {number} is longer than {_LONGEST_LINE >> 10} KiB")
        try:
            line = raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise _no_page(f"line {number} is not text in UTF-8: {_shown(raw)}") from error
        if match := _LINE.fullmatch(line):
            name, labels, digits, stamp = match.groups()
            yield name, labels or "", _value(digits, number), stamp or ""
        elif line.strip(" \t") == "# EOF":
            raise _no_page("it is OpenMetrics; expected Prometheus' text format 0.0.4")
        elif not _BLANK_OR_COMMENT.fullmatch(line):
            ends = ": its lines end in CR LF, expected LF" if line.endswith("\r") else ""
            raise _no_page(f"line {number} cannot be read{ends}: {_shown(raw)}")


def _shown(raw: bytes) -> str:
    return ascii(raw[:40].decode(errors="replace").strip("\n"))


def _value(digits: str, number: int) -> float:
    value = float(digits)
    if math.isinf(value) and digits[-1].isdigit():
        raise _no_page(f"line {number}: {digits[:40]} is beyond what a number can be")
    return value


# An engine's page has the same series from one second to the next.
@lru_cache(maxsize=65536)
def _key(name: str, labels: str) -> str:
    pairs = _LABEL.findall(labels)
    if len(values := dict(pairs)) < len(pairs):
        raise _no_page(f"a label stands twice in {name}{{{labels[:80]}}}")
    return series_key(name, {key: _ESCAPE.sub(_unescaped, value) for key, value in values.items()})


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def scrape(
    url: str, *, families: Collection[str], seconds: float, fresh_seconds: float = _FRESH_SECONDS
) -> dict[str, float]:
    """Fetch a metrics page and return its wanted series, within ``seconds``. Raises ProbeError."""
    deadline = time.monotonic() + seconds
    body = fetch(url, seconds=seconds)
    try:
        return parse_page(body, families=families, fresh_seconds=fresh_seconds, deadline=deadline)
    except ProbeError as error:
        raise ProbeError(f"{url}: {error}") from error


def is_port_open(url: str, *, seconds: float) -> bool:
    """Return True when somebody accepts connections at the URL's host and port, False when they
    are refused. Raises ProbeError for anything else: a port that does not answer may be held.
    """
    try:
        parts, port = split_url(url)
        address = parts.hostname or "", port or default_port_of(url)
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
