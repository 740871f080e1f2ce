"""Orders on their way: kept back by the breaker, answered, timed out, cancelled when too old.

The engine's own quotes, intents from the Redis bridge and the direct runner's orders all go
through here, so that latency and rejects are measured in one way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.session import FrontRefused, TradingLink
from ctp_runbook.rehearsal.front.protocol import Message, ProtocolError
from ctp_runbook.rehearsal.process import say

__all__ = ["OrderFlow"]

_SWEEP_SECONDS = 0.02
_TIMEOUT_SECONDS = 2.0


@dataclass
class OrderFlow:
    """Sends orders over ``link`` and follows each to its first answer.

    ``on_answer`` gets the seconds from insert to answer; ``on_kept_back`` is called for an
    order the breaker did not let out. A resting order is cancelled after ``ttl_seconds``;
    0 leaves it.
    """

    link: TradingLink
    breaker: Breaker
    ttl_seconds: float = 0.1
    on_answer: Callable[[float], None] = lambda seconds: None
    on_kept_back: Callable[[], None] = lambda: None
    answered: int = 0
    _sent: dict[int, float] = field(default_factory=dict)
    _resting: dict[int, float] = field(default_factory=dict)
    _session_id: int = 0

    def place(self, **order: Any) -> bool:
        """Send one lot, its fields as for an insert; False when it was kept back or there is no
        session ready for it."""
        if not self.breaker.allows():
            self.on_kept_back()
            return False
        try:
            ref = self.link.insert(volume=1, **order)
        except ProtocolError:
            self.breaker.failed()
            return False
        self._sent[ref] = time.monotonic()
        return True

    def take(self, message: Message) -> None:
        """An order return or a refusal; those of other sessions are not ours to count."""
        if message.get("session_id", self.link.session_id) != self.link.session_id:
            return
        ref, status = int(message["order_ref"]), message["status"]
        if (sent := self._sent.pop(ref, None)) is not None:
            self.answered += 1
            self.on_answer(time.monotonic() - sent)
            if status == "rejected":
                self.breaker.failed()
            else:
                self.breaker.succeeded()
        if status == "working" and self.ttl_seconds:
            self._resting.setdefault(ref, time.monotonic())
        else:
            self._resting.pop(ref, None)

    async def sweep(self) -> None:
        """Count timeouts and cancel what rests too long, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            if self._session_id != self.link.session_id:  # what another session sent is not ours
                self._session_id = self.link.session_id
                self._sent.clear()
                self._resting.clear()
            now = time.monotonic()
            for ref in [ref for ref, at in self._sent.items() if now - at > _TIMEOUT_SECONDS]:
                del self._sent[ref]
                self.breaker.failed()
            await self.cancel_resting(for_seconds=self.ttl_seconds)

    async def cancel_resting(self, *, for_seconds: float = 0.0) -> None:
        """Cancel every order of this session that has rested for so long: all, at a clean end."""
        until = time.monotonic() - for_seconds
        for ref in [ref for ref, at in self._resting.items() if at <= until]:
            if self._resting.pop(ref, None) is None:
                continue  # filled or cancelled while another's cancel was waited for
            try:
                await self.link.cancel(session_id=self.link.session_id, order_ref=ref)
            except (FrontRefused, ProtocolError, TimeoutError) as error:
                say(f"td: cancel of order {ref} failed: {error!r}")
