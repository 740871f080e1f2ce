"""The front's own record of who was logged in when: what proves that generations did not overlap.

``front_log.jsonl`` is append-only, one JSON object a line. No tool writes it but the front, so
it judges the tool: it shows what really happened, whatever the journal of a run says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ctp_runbook.host.process import is_running, own_identity
from ctp_runbook.model import Identity
from ctp_runbook.rehearsal.process import utc_text

__all__ = [
    "FrontLog",
    "Overlap",
    "TradingInterval",
    "overlaps",
    "read_front_log",
    "trading_generations",
    "trading_intervals",
]

_ENDINGS = frozenset({"logout", "session_lost"})
_BOUNDARIES = frozenset({"front_started", "front_stopped"})


class FrontLog:
    """Writes ``front_log.jsonl``: each line leaves in one write, before the client is answered."""

    def __init__(self, path: Path) -> None:
        before = read_front_log(path)
        self._seq = len(before)
        # A front that comes back knows the day's highest OrderRef: refs never start over.
        self.max_order_ref = max((each.get("order_ref", 0) for each in before), default=0)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        own = own_identity()
        self.append("front_started", pid=own.pid, start_ticks=own.start_ticks)

    def append(self, event: str, **facts: Any) -> None:
        """Write one event with the next sequence number and both clocks."""
        self._seq += 1
        line = {"seq": self._seq, "wall_utc": utc_text(), "mono_ns": time.monotonic_ns()}
        text = json.dumps({**line, "event": event, **facts}, separators=(",", ":"))
        os.write(self._fd, text.encode() + b"\n")

    def close(self) -> None:
        """Write that the front stopped: from here on nobody can trade."""
        self.append("front_stopped")
        os.close(self._fd)


@dataclass(frozen=True)
class TradingInterval:
    """A TD login, from its success to its logout or loss; ``until_ns`` None: still logged in."""

    generation: str
    role: str
    session_id: int
    from_ns: int
    until_ns: int | None
    from_utc: str
    until_utc: str

    def __str__(self) -> str:
        until = self.until_utc or "now"
        return f"{self.generation} {self.role} session {self.session_id} {self.from_utc}..{until}"


@dataclass(frozen=True)
class Overlap:
    """Two generations able to trade at once. ``until_ns`` None: they still are."""

    first: TradingInterval
    second: TradingInterval
    from_ns: int
    until_ns: int | None

    def __str__(self) -> str:
        if self.until_ns is None:
            return f"{self.first} overlaps {self.second} and still does"
        seconds = (self.until_ns - self.from_ns) / 1e9
        return f"{self.first} overlaps {self.second} for {seconds:.3f} s"


def read_front_log(path: Path) -> list[dict[str, Any]]:
    """Every whole record, without the torn end of a killed front's log; empty without a log."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def trading_intervals(records: Iterable[dict[str, Any]]) -> list[TradingInterval]:
    """Every TD login with its end.

    A front that stopped ends them all; one that was killed ended them at its last line at the
    latest that can be shown, which is where the next ``front_started`` puts it.
    """
    intervals: list[TradingInterval] = []
    open_logins: dict[int, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    for record in records:
        event, session = record["event"], record.get("session_id", 0)
        if event in _BOUNDARIES:
            end = record if event == "front_stopped" else before
            intervals += [_interval(login, end) for login in open_logins.values()]
            open_logins.clear()
        elif event == "login" and record["channel"] == "td":
            open_logins[session] = record
        elif event in _ENDINGS and session in open_logins:
            intervals.append(_interval(open_logins.pop(session), record))
        before = record
    return intervals + [_interval(login, None) for login in open_logins.values()]


def _interval(login: dict[str, Any], end: dict[str, Any] | None) -> TradingInterval:
    return TradingInterval(
        generation=login["generation"],
        role=login["role"],
        session_id=login["session_id"],
        from_ns=login["mono_ns"],
        until_ns=end["mono_ns"] if end else None,
        from_utc=login["wall_utc"],
        until_utc=end["wall_utc"] if end else "",
    )


def overlaps(log_path: Path) -> list[Overlap]:
    """Every time two generations held TD sessions at once, from the front's own log."""
    intervals = sorted(trading_intervals(read_front_log(log_path)), key=lambda each: each.from_ns)
    overlapping = []
    for first, second in combinations(intervals, 2):
        if second.generation != first.generation and _meets(first, second):
            ends = [each.until_ns for each in (first, second) if each.until_ns is not None]
            overlapping.append(Overlap(first, second, second.from_ns, min(ends, default=None)))
    return overlapping


def _meets(first: TradingInterval, second: TradingInterval) -> bool:
    """``second`` began no earlier than ``first``: did it begin before ``first`` ended?"""
    return first.until_ns is None or second.from_ns < first.until_ns


def trading_generations(log_path: Path) -> frozenset[str]:
    """The generations that hold a TD session now; none when the front itself is not running."""
    records = read_front_log(log_path)
    if not _front_runs(records):
        return frozenset()
    return frozenset(
        each.generation for each in trading_intervals(records) if each.until_ns is None
    )


def _front_runs(records: list[dict[str, Any]]) -> bool:
    bounds = [record for record in records if record["event"] in _BOUNDARIES]
    if not bounds or bounds[-1]["event"] == "front_stopped":
        return False
    return is_running(Identity(bounds[-1]["pid"], bounds[-1]["start_ticks"]))
