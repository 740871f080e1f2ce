"""Sampling that keeps time: one thread a target, on a schedule of the monotonic clock.

A slow or dead target delays nobody else. What comes back goes into one queue; the one who
reads it numbers, keeps and judges the samples.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ctp_runbook.errors import ProbeError
from ctp_runbook.samples import Sample

__all__ = ["Reading", "Sampler", "Target", "read_once"]

Reading = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Target:
    """Something to sample: ``read`` returns its series, or raises ProbeError."""

    source: str
    name: str
    read: Reading
    interval_seconds: float


class Sampler:
    """Samples every target until it is stopped; ``take`` hands out what came, unnumbered."""

    def __init__(self, targets: Collection[Target]) -> None:
        self._queue: queue.SimpleQueue[Sample] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._sample, args=(target,), daemon=True) for target in targets
        ]

    def start(self) -> None:
        """Begin sampling, now and then at every interval."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no further sample; one under way is left to end by itself."""
        self._stop.set()

    def take(self, *, seconds: float) -> Sample | None:
        """The next sample, or None when none came within ``seconds``."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            return None

    def _sample(self, target: Target) -> None:
        due, missed = time.monotonic(), 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._queue.put(read_once(target, due=due, missed=missed))
            # A target slower than its interval misses turns; it does not pile them up.
            missed = int((time.monotonic() - due) / target.interval_seconds)
            due += (missed + 1) * target.interval_seconds


def read_once(target: Target, *, due: float = 0.0, missed: int = 0) -> Sample:
    """One sample of ``target``, good or not; it was ``due`` then, after ``missed`` lost turns."""
    began = time.monotonic()
    series: Mapping[str, float] = {}
    error = ""
    try:
        series = target.read()
    except ProbeError as problem:
        error = str(problem)
    mono = time.monotonic()
    return Sample(
        seq=0,
        wall=time.time(),
        mono=mono,
        source=target.source,
        target=target.name,
        ok=not error,
        error=error,
        took_ms=round((mono - began) * 1000, 3),
        series=series,
        due=round(due, 6),
        missed=missed,
    )
