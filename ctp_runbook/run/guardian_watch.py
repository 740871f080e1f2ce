"""The orchestrator's side of the pair: it keeps an eye on its guardian."""

from __future__ import annotations

import os
import time

from ctp_runbook.record.rundir import RunDir
from ctp_runbook.run.context import RunContext

__all__ = ["GuardianWatch"]

_GUARDIAN_LOOK_SECONDS = 0.5


class GuardianWatch:
    """The orchestrator's eye on its guardian: a dead one is replaced."""

    def __init__(self, run: RunDir, *, pid: int, lock_fd: int) -> None:
        from ctp_runbook.host.process import identity_of

        self._run, self._lock_fd = run, lock_fd
        self._identity = identity_of(pid) if pid else None
        self._next_look = 0.0

    @property
    def described(self) -> dict[str, int]:
        """Who it is, for the record; empty when there is none."""
        known = self._identity
        return {"pid": known.pid, "start_ticks": known.start_ticks} if known else {}

    def look(self, context: RunContext) -> None:
        """Look at most twice a second; start a new guardian when the old one is gone."""
        from ctp_runbook.host.process import is_running

        now = time.monotonic()
        if self._lock_fd < 0 or now < self._next_look:
            return
        self._next_look = now + _GUARDIAN_LOOK_SECONDS
        if self._identity is None or is_running(self._identity):
            return
        from ctp_runbook.run.guardian import spawn_guardian

        self._identity = spawn_guardian(self._run, lock_fd=self._lock_fd, adopt=os.getpid())
        context.record(
            "guardian_started",
            pid=self._identity.pid,
            start_ticks=self._identity.start_ticks,
            reason="the one before it died",
        )
