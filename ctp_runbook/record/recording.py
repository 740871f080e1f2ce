"""A window that was recorded, played again: each sample as long after the start as it was then."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ctp_runbook.errors import JournalError, ProbeError
from ctp_runbook.record.samples import read_samples

__all__ = ["Recording"]


class Recording:
    """The samples of an engine in a file; ``clock`` says how far the replay is, in seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            samples = [sample for sample in read_samples(path) if sample.source == "engine"]
        except (JournalError, OSError) as error:
            raise ProbeError(f"sources.replay_file {path}: cannot be read: {error}") from error
        if not samples:
            raise ProbeError(f"sources.replay_file {path}: no sample of an engine is in it")
        self._path, self._clock, self._began = path, clock, clock()
        self._samples = samples
        self._times = [sample.mono - samples[0].mono for sample in samples]

    def read(self) -> Mapping[str, float]:
        """Return the series of the last sample taken by now.

        Raises ProbeError as it did then, and once the recording is over: its last value repeated
        would be no data taken for good data.
        """
        played = self._clock() - self._began
        number = bisect.bisect_right(self._times, played) - 1
        # The last sample stands for as long as the one before it did.
        after = self._times[-1] - self._times[-2] if len(self._times) > 1 else 0.0
        if played > self._times[-1] + after:
            raise ProbeError(
                f"sources.replay_file {self._path}: it ends after {self._times[-1]:g} s"
            )
        sample = self._samples[max(0, number)]
        if not sample.ok:
            raise ProbeError(sample.error)
        return sample.series
