"""Why a switch is to be undone: what the watch, a step or a person gives the rollback to act on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ctp_runbook.watch.verdicts import Firing

__all__ = ["Trouble"]


@dataclass(frozen=True)
class Trouble:
    """Why the switch is to be undone, and the moment that started the rollback's clock.

    ``is_over``: what was seen of the metric is more than ``value``.
    """

    cause: str
    sentence: str
    wall: float
    mono: float
    metric: str = ""
    value: float | None = None
    limit: float | None = None
    is_over: bool = False

    @classmethod
    def now(cls, cause: str, sentence: str) -> Trouble:
        """Trouble noticed this very moment."""
        return cls(cause, sentence, time.time(), time.monotonic())

    @classmethod
    def fired(cls, firing: Firing) -> Trouble:
        """The rollback trigger became true at a sample."""
        return cls(
            "metric",
            firing.sentence,
            firing.wall,
            firing.mono,
            metric=firing.metric,
            value=firing.value,
            limit=firing.limit,
            is_over=firing.is_over,
        )
