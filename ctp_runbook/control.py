"""Requests to a running orchestrator: one small file each, left in ``control/``.

Files outlive both sides: a request made while the orchestrator is being restarted is found by
the next one. What was taken is in the journal, under the file's name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ctp_runbook.errors import RunRefused
from ctp_runbook.journal import Record, utc_text
from ctp_runbook.rundir import RunDir, write_atomic

__all__ = ["REQUESTS", "Inbox", "Request", "send_request"]

REQUESTS = ("go", "abort", "hold", "resume", "rollback")


@dataclass(frozen=True)
class Request:
    """What somebody asked for, who, and why."""

    request: str
    by: str
    reason: str
    requested_utc: str
    file: str

    @property
    def sentence(self) -> str:
        """``rollback asked for by ops: spreads look wrong``."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.request} asked for by {self.by}{why}"


def send_request(run: RunDir, request: str, *, by: str, reason: str = "") -> None:
    """Leave a request for the run's orchestrator. Raises RunRefused for an unknown one."""
    if request not in REQUESTS:
        raise RunRefused(f"request {request!r}: expected one of {', '.join(REQUESTS)}")
    name = f"{time.time_ns():020d}-{os.getpid()}-{request}.json"
    body = {"request": request, "by": by, "reason": reason, "requested_utc": utc_text()}
    write_atomic(run.control / name, json.dumps(body).encode())


class Inbox:
    """The orchestrator's side: each request once, in the order made."""

    def __init__(self, run: RunDir, *, taken: Iterable[Record]) -> None:
        self._run = run
        self._taken = {str(r.payload.get("file")) for r in taken if r.kind == "control"}

    def poll(self) -> list[Request]:
        """Requests that came since the last look; a file that is not one is passed over."""
        found = []
        for name in sorted(os.listdir(self._run.control)):
            if name in self._taken or not name.endswith(".json") or name.startswith("."):
                continue
            self._taken.add(name)
            try:
                raw = json.loads((self._run.control / name).read_bytes())
                # What no UTF-8 can say would never get into the journal.
                texts = {k: str(v).encode(errors="replace").decode() for k, v in raw.items()}
                request = Request(**texts, file=name)
            except (OSError, ValueError, TypeError, AttributeError, RecursionError):
                continue
            if request.request in REQUESTS:
                found.append(request)
        return found
