"""The time a gate has in all, and how much of it one call may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ctp_runbook.errors import ProbeError

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """``ends`` is a moment of the monotonic clock; ``seconds`` is what there was in all."""

    seconds: float
    ends: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline of a gate that begins now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left; negative once it is over."""
        return self.ends - time.monotonic()

    def call(self, most: float) -> float:
        """How long one call may take: ``most``, or what is left. Raises ProbeError for nothing."""
        if self.left <= 0:
            raise ProbeError(
                f"the gate's deadline of {self.seconds:g} s is used up (--deadline-seconds); "
                "see which step took it, then run the gate again: it goes on where it was"
            )
        return min(most, self.left)

    def pause(self, seconds: float) -> bool:
        """Sleep a little before looking again; False when there is no time left to look."""
        if self.left <= seconds:
            return False
        time.sleep(seconds)
        return True
