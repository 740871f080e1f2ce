"""What the twin's processes have alike: where they are named, how they speak and are ended."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["ProcessFolder", "on_term", "say", "utc_text"]


@dataclass(frozen=True)
class ProcessFolder:
    """A directory (absolute) with a pid file and a log for every process that belongs to it."""

    dir: Path

    def pid_file(self, name: str) -> Path:
        """Whom ``name`` runs as."""
        return self.dir / "run" / f"{name}.pid"

    def log(self, name: str) -> Path:
        """What ``name`` has printed."""
        return self.dir / "logs" / f"{name}.log"


def utc_text() -> str:
    """Now, as ``2025-01-31T01:02:03.000004Z``."""
    # By the call that a run's own instants come from: where a test sets that clock, it is set here.
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def say(sentence: str) -> None:
    """Print a line to the log that whoever started the process gave it."""
    print(utc_text(), sentence, file=sys.stderr, flush=True)


def on_term(act: Callable[[], object]) -> None:
    """Have the running event loop ``act`` on TERM and on INT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)
