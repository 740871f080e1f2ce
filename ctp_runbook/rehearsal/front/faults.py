"""What can be made to go wrong at the simulated front while it runs, and when.

``Faults`` is the front's present misbehaviour; ``FaultOrder`` is one request to change it, now
or armed to happen some seconds after a generation's next login.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ctp_runbook.errors import RunbookError

__all__ = ["FaultOrder", "Faults"]


@dataclass(frozen=True)
class FaultOrder:
    """One request to the front's control port; every field left out changes nothing.

    ``…_generation`` blank means every generation; ``reject_generation`` goes with both rejects.
    ``after_login_of`` arms the rest: ``after_seconds`` after that generation's engine next logs
    in, then ``repeat`` times in all, ``repeat_every_seconds`` apart. ``reset`` disarms what is
    armed and lets logins in again.
    """

    order_latency_ms: float | None = None
    order_latency_generation: str = ""
    disconnect: str = ""
    refuse_logins: str = ""
    refuse_seconds: float = 0.0
    reject_orders_ratio: float | None = None
    reject_instrument_query: bool | None = None
    reject_generation: str = ""
    replay_size: int | None = None
    replay_delay_ms: float | None = None
    after_login_of: str = ""
    after_seconds: float = 0.0
    repeat: int = 1
    repeat_every_seconds: float = 0.0
    reset: bool = False

    @classmethod
    def parse(cls, wanted: dict[str, Any]) -> FaultOrder:
        """Refuses a name it does not know, so that a misspelt fault is not a fault left out."""
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(wanted) - known):
            raise RunbookError(f"unknown faults {unknown}; expected some of {sorted(known)}")
        return cls(**wanted)

    @property
    def unarmed(self) -> FaultOrder:
        """The same, to happen at once."""
        return replace(self, after_login_of="", after_seconds=0.0, repeat=1)


@dataclass
class Faults:
    """How the front misbehaves now. ``refused_until`` holds monotonic seconds."""

    order_latency_ms: float = 0.0
    order_latency_generation: str = ""
    reject_orders_ratio: float = 0.0
    reject_instrument_query: bool = False
    reject_generation: str = ""
    replay_size: int = 0
    replay_delay_ms: float = 0.0
    refused_until: dict[str, float] = field(default_factory=dict)
    _rejects_owed: float = 0.0

    def take(self, order: FaultOrder) -> None:
        """Apply what ``order`` names (disconnecting is the front's own to do)."""
        if order.reset:
            self.refused_until.clear()
        if order.order_latency_ms is not None:
            self.order_latency_ms = order.order_latency_ms
            self.order_latency_generation = order.order_latency_generation
        for name in ("reject_orders_ratio", "reject_instrument_query", "replay_size"):
            if (value := getattr(order, name)) is not None:
                setattr(self, name, value)
        if order.reject_orders_ratio is not None or order.reject_instrument_query is not None:
            self.reject_generation = order.reject_generation
        if order.replay_delay_ms is not None:
            self.replay_delay_ms = order.replay_delay_ms
        if order.refuse_logins:
            self.refused_until[order.refuse_logins] = time.monotonic() + order.refuse_seconds

    def order_latency_seconds(self, generation: str) -> float:
        """How long an order of ``generation`` waits for its first return."""
        applies = self.order_latency_generation in ("", generation)
        return self.order_latency_ms / 1000 if applies else 0.0

    def refuses_login(self, generation: str) -> bool:
        """True while logins of ``generation`` are turned away."""
        return time.monotonic() < self.refused_until.get(generation, 0.0)

    def rejects_instrument_query(self, generation: str) -> bool:
        """Whether an instrument query of ``generation`` is refused."""
        return self.reject_instrument_query and self.reject_generation in ("", generation)

    def rejects_next_order(self, generation: str) -> bool:
        """Spreads the rejects evenly: a ratio of 0.25 rejects every fourth order."""
        if self.reject_generation not in ("", generation):
            return False
        self._rejects_owed += self.reject_orders_ratio
        if self._rejects_owed < 1:
            return False
        self._rejects_owed -= 1
        return True
