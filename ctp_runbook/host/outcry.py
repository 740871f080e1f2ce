"""How a process calls for a person: the terminal and syslog."""

from __future__ import annotations

import contextlib
import sys
import syslog

__all__ = ["cry_out"]


def cry_out(sentence: str) -> None:
    """Say what must not be missed, to syslog and on the terminal, whatever of both works."""
    syslog.syslog(syslog.LOG_CRIT, f"ctp-runbook: {sentence}")
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
