"""How the simulated front behaves: from its start, and what is made to go wrong while it runs.

``Faults`` is the front's present misbehaviour; ``FaultOrder`` is one request to change it, now
or armed to happen some seconds after a generation's next login.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunbookError

__all__ = ["FaultOrder", "Faults", "FrontSettings"]


@dataclass(frozen=True)
class FrontSettings:
    """How a front behaves from its start; ``second_login`` is accept, kick or refuse.

    A second login is one of the same user *and role*: an engine and its runner are one user
    with two sessions in CTP too.
    """

    dir: Path
    second_login: str = "accept"
    heartbeat_seconds: float = 6.0
    lockout_failures: int = 5
    queries_per_second: float = 1.0
    query_latency_ms: float = 20.0
    orders_per_second: float = 200.0
    ticks_per_second: float = 10.0


@dataclass(frozen=True)
class FaultOrder:
    """One request to the front's control port; every field left out changes nothing.

    ``…_generation`` blank means every generation; ``reject_generation`` goes with both rejects.
    ``after_login_of`` arms the rest: ``after_seconds`` after that generation's engine next logs
    in, then ``repeat`` times in all, ``repeat_every_seconds`` apart. ``reset`` comes first: it
    disarms what is armed and takes everything back.
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
        try:
            return cls(**wanted)
        except TypeError as error:
            known = [each.name for each in fields(cls)]
            raise RunbookError(f"not faults: {error}; expected some of {known}") from error


# What a field changes is changed for this generation; the others keep theirs.
_WHOSE = {
    "order_latency_ms": "order_latency_generation",
    "reject_orders_ratio": "reject_generation",
    "reject_instrument_query": "reject_generation",
    "replay_size": "",
    "replay_delay_ms": "",
}


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
        for name, whose in _WHOSE.items():
            if (value := getattr(order, name)) is not None:
                setattr(self, name, value)
                if whose:
                    setattr(self, whose, getattr(order, whose))
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
