"""The seam between what decides and the machine: what ``run`` and ``watch`` may ask of a host.

Protocols alone, with few methods each. The real host implements them in this room; a simulated
one needs no more than these methods to stand in for it.
"""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The instants of a host, in seconds, and every wait for one."""

    def wall(self) -> float:
        """Return seconds since the epoch, by a clock that anybody may set."""

    def mono(self) -> float:
        """Return seconds since some start of this boot; they stand still while it is suspended."""

    def boot(self) -> float:
        """Return seconds since this boot, those it was suspended for included."""

    def boot_id(self) -> str:
        """Return what names this boot: ``mono`` of another one cannot be compared with it."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass; none where ``seconds`` is not above 0."""

    def wait(self, event: threading.Event, *, seconds: float) -> bool:
        """Let time pass until ``event`` is set; False when it was not within ``seconds``."""
