"""What the twin's processes have alike: where they are named, how they speak and are ended."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["ProcessFolder", "end_tasks", "on_term", "say", "utc_text"]

_AGAIN_SECONDS = 0.05


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


async def end_tasks(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks, each as often as it takes: they have ended on return, whatever they raised.

    Once is not enough: Python 3.11's ``wait_for`` swallows a cancellation that meets its answer, and
    a task that goes on for ever keeps its process alive.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)  # looked at: who cares has been told


def on_term(act: Callable[[], object]) -> None:
    """Have the running event loop ``act`` on TERM and on INT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)
