"""Sampling that keeps time: one thread a target, on a schedule of the monotonic clock.

A slow or dead target delays nobody else. What comes back goes into one queue; whoever reads it
numbers, keeps and judges the samples. Each sample says when it was due, so that drift and gaps are
data; one more thread looks at the clocks themselves. Instants and waits are the clock's that is
passed in, so that a simulated host can stand in for this one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct, structs

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.clocks import ClockWatch, Disturbance
from ctp_runbook.host.seam import Clock
from ctp_runbook.record.samples import Sample

__all__ = ["Reading", "Sampler", "Target", "read_once"]

Reading = Callable[[], Mapping[str, float]]
_LOOK_SECONDS = 0.25
_LONGEST_ERROR = 4000


class Target(Struct, frozen=True):
    """Something to sample: ``read`` returns its series, or raises ProbeError.

    ``by_wall_seconds``: how long a time, measured by the wall clock, one answer speaks of; for so
    long after the clock was set it proves nothing. 0 for what no wall clock is part of.
    ``is_shared``: it answers for no engine, so it is there before the switch too.
    """

    source: str
    name: str
    read: Reading
    interval_seconds: float
    by_wall_seconds: float = 0.0
    is_shared: bool = False


class Sampler:
    """Samples every target until it is stopped; ``take`` hands out what came, unnumbered."""

    def __init__(
        self, targets: Collection[Target], *, clocks: Clock, watch: ClockWatch | None = None
    ) -> None:
        self._samples: deque[Sample] = deque()
        self._arrived, self._stop = threading.Event(), threading.Event()
        # One that others looked at before misses nothing that happened in between.
        self._clock, self._watch = clocks, watch or ClockWatch(clocks)
        self._threads = [
            threading.Thread(target=self._sample, args=(target,), daemon=True) for target in targets
        ]
        self._threads.append(threading.Thread(target=self._look, daemon=True))

    def start(self) -> None:
        """Begin sampling, now and then at every interval."""
        self._watch.look()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no further sample; one under way is left to end by itself."""
        self._stop.set()

    def take(self, *, seconds: float) -> Sample | None:
        """Return the next sample, or None when none came within ``seconds``."""
        # Cleared before the look: what arrives between the look and the wait ends the wait.
        self._arrived.clear()
        if not self._samples:
            self._clock.wait(self._arrived, seconds=seconds)
        return self._samples.popleft() if self._samples else None

    def disturbances(self) -> tuple[Disturbance, ...]:
        """What happened to the clocks since this was last asked."""
        self._watch.look()
        return self._watch.take()

    def _look(self) -> None:
        while not self._clock.wait(self._stop, seconds=_LOOK_SECONDS):
            self._watch.look()

    def _sample(self, target: Target) -> None:
        due, missed = self._clock.mono(), 0
        while not self._clock.wait(self._stop, seconds=due - self._clock.mono()):
            sample = read_once(target, clocks=self._clock)
            self._watch.look()
            sample = self._trusted(sample, target)
            self._samples.append(structs.replace(sample, due=round(due, 6), missed=missed))
            self._arrived.set()
            # A target slower than its interval misses turns; it does not pile them up.
            missed = int((self._clock.mono() - due) / target.interval_seconds)
            due += (missed + 1) * target.interval_seconds

    def _trusted(self, sample: Sample, target: Target) -> Sample:
        """The sample, without its values where they were measured by a clock that was set."""
        if not target.by_wall_seconds or not sample.ok:
            return sample
        if (step := self._watch.step_within(target.by_wall_seconds)) is None:
            return sample
        ago = sample.mono - step.to_mono
        why = f"the wall clock was set {step.seconds:+.1f} s, {max(0.0, ago):.0f} s ago"
        error = f"{why}; what is measured by it proves nothing for {target.by_wall_seconds:g} s"
        return structs.replace(sample, ok=False, error=error, series={})


def read_once(target: Target, *, clocks: Clock) -> Sample:
    """Return one sample of ``target``, good or not."""
    began, series, error = clocks.mono(), {}, ""
    try:
        # Whoever writes the sample down takes texts that UTF-8 can say, and floats, for granted.
        series = {_name(key): float(value) for key, value in target.read().items()}
    except ProbeError as problem:
        error = _words(problem) or type(problem).__name__
    except (Exception, SystemExit) as problem:  # noqa: BLE001  a stranger's probe may raise anything
        # The edge of a thread: what a probe did not foresee would end it, in silence.
        error = f"{target.name}: {type(problem).__name__}: {_words(problem)}"
    mono, wall = clocks.mono(), clocks.wall()
    took_ms = round((mono - began) * 1000, 3)
    ok = not error
    return Sample(0, wall, mono, target.source, target.name, ok, error, took_ms, series)


def _name(key: str) -> str:
    return key.encode().decode()  # UnicodeEncodeError for half a character


def _words(problem: BaseException) -> str:
    """Return what an error says, as it can be written down, whatever it is."""
    try:
        text = str(problem)
    except Exception:  # noqa: BLE001  a stranger's error may have anything for its words
        return "an error that cannot be put into words"
    shown = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"
    return shown.encode(errors="backslashreplace").decode()
