"""Orders on their way: kept back by the breaker, answered, timed out, cancelled when too old.

The engine's own quotes, intents from the Redis bridge and the direct runner's orders all go
through here, so that latency and rejects are measured in one way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.session import FrontRefused, TradingLink
from ctp_runbook.rehearsal.front.protocol import Message, ProtocolError

__all__ = ["OrderFlow"]

_SWEEP_SECONDS = 0.02


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
    timeout_seconds: float = 2.0
    on_answer: Callable[[float], None] = lambda seconds: None
    on_kept_back: Callable[[], None] = lambda: None
    answered: int = 0
    rejected: int = 0
    _sent: dict[int, float] = field(default_factory=dict)
    _resting: dict[int, float] = field(default_factory=dict)
    _session_id: int = 0

    def place(
        self, *, instrument: str, direction: str, offset: str, price: float, immediate: bool
    ) -> bool:
        """Send one lot; False when it was kept back or there is no session ready for it."""
        if not self.breaker.allows():
            self.on_kept_back()
            return False
        try:
            ref = self.link.insert(
                instrument=instrument,
                direction=direction,
                offset=offset,
                volume=1,
                price=price,
                immediate=immediate,
            )
        except ProtocolError:
            self.breaker.failed()
            return False
        self._sent[ref] = time.monotonic()
        return True

    def take(self, message: Message) -> None:
        """An order return or a refusal; those of other sessions are not ours to count."""
        if message.get("session_id", self.link.session_id) != self.link.session_id:
            return
        ref = int(message["order_ref"])
        if (sent := self._sent.pop(ref, None)) is not None:
            self._take_answer(message, time.monotonic() - sent)
        if message["status"] == "working" and self.ttl_seconds:
            self._resting.setdefault(ref, time.monotonic())
        else:
            self._resting.pop(ref, None)

    def _take_answer(self, message: Message, seconds: float) -> None:
        self.answered += 1
        self.on_answer(seconds)
        if message["status"] == "rejected":
            self.rejected += 1
            self.breaker.failed()
        else:
            self.breaker.succeeded()

    async def sweep(self) -> None:
        """Count timeouts and cancel what rests too long, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            if self._session_id != self.link.session_id:  # what another session sent is not ours
                self._session_id = self.link.session_id
                self._sent.clear()
                self._resting.clear()
            now = time.monotonic()
            for ref in [ref for ref, at in self._sent.items() if now - at > self.timeout_seconds]:
                del self._sent[ref]
                self.breaker.failed()
            for ref in [ref for ref, at in self._resting.items() if now - at > self.ttl_seconds]:
                del self._resting[ref]
                await self._cancel(ref)

    async def cancel_resting(self) -> None:
        """Cancel every order of this session that still rests: what a clean end does."""
        for ref in list(self._resting):
            del self._resting[ref]
            await self._cancel(ref)

    async def _cancel(self, ref: int) -> None:
        try:
            await self.link.cancel(session_id=self.link.session_id, order_ref=ref)
        except (FrontRefused, ProtocolError, TimeoutError) as error:
            self.link.say(f"td: cancel of order {ref} failed: {error!r}")
