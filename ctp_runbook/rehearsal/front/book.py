"""What the simulated front knows of the day: orders, trades, positions, funds.

The private stream of CTP is per investor: every session of the user sees every order and trade
of the day, its own or not, and a session that resumes gets them all again.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, replace

from ctp_runbook.rehearsal.front.protocol import Message, Push

__all__ = ["INSTRUMENTS", "PRE_BALANCE", "Book", "Order"]

INSTRUMENTS = ("rb2601", "au2512", "IF2512")
PRE_BALANCE = 1_000_000.0
_COMMISSION = 1.25
_FILL_EVERY = 3  # resting orders: one in three finds a counterparty, so buys and sells do in turn


# What a trade return says of its order.
_TRADED = ("session_id", "order_ref", "instrument", "direction", "offset", "volume", "price")


@dataclass(frozen=True)
class Order:
    """An order at the front; front, session and ref together name it for the whole day."""

    session_id: int
    order_ref: int
    instrument: str
    direction: str
    offset: str
    volume: int
    price: float
    immediate: bool
    status: str = "working"

    @classmethod
    def of(cls, request: Message, *, session_id: int) -> Order:
        """The order an insert request asks for."""
        return cls(
            session_id=session_id,
            order_ref=int(request["order_ref"]),
            instrument=str(request["instrument"]),
            direction=str(request["direction"]),
            offset=str(request["offset"]),
            volume=int(request["volume"]),
            price=float(request["price"]),
            immediate=bool(request.get("immediate")),
        )

    @property
    def key(self) -> tuple[int, int]:
        """Session and ref; the twin has one front."""
        return self.session_id, self.order_ref

    def push(self) -> Message:
        """The order return."""
        fields = {name: value for name, value in vars(self).items() if name != "immediate"}
        return {"push": Push.ORDER, "front_id": 1, **fields}


class Book:
    """Orders and trades of one user for one day. Nothing here waits or does I/O."""

    def __init__(self, *, max_order_ref: int = 0) -> None:
        self.orders: dict[tuple[int, int], Order] = {}
        self.trades: list[Message] = []
        self.max_order_ref = max_order_ref
        self._long: defaultdict[str, int] = defaultdict(int)
        self._trade_ids = itertools.count(1)
        self._resting = itertools.count(1)

    def accept(self, order: Order) -> list[Message]:
        """Take an order: its returns, in order. An immediate one that finds nobody is cancelled."""
        self.max_order_ref = max(self.max_order_ref, order.order_ref)
        accepted = order.push()
        if order.immediate:
            return [accepted, self._store(replace(order, status="cancelled"))]
        if next(self._resting) % _FILL_EVERY or not self._has_counterpart(order):
            return [self._store(order)]
        filled = self._store(replace(order, status="filled"))
        return [accepted, filled, self._trade(order)]

    def _store(self, order: Order) -> Message:
        self.orders[order.key] = order
        return order.push()

    def _has_counterpart(self, order: Order) -> bool:
        """A close needs something to close."""
        return order.offset == "open" or self._long[order.instrument] >= order.volume

    def _trade(self, order: Order) -> Message:
        opens = order.offset == "open"
        self._long[order.instrument] += order.volume if opens else -order.volume
        trade = {
            "push": Push.TRADE,
            "trade_id": next(self._trade_ids),
            **{name: getattr(order, name) for name in _TRADED},
            "commission": _COMMISSION * order.volume,
            "close_profit": 0.0 if opens else 1.0 * order.volume,
        }
        self.trades.append(trade)
        return trade

    def cancel(self, session_id: int, order_ref: int) -> Message | None:
        """The order return of a cancel; None when no such order is working."""
        order = self.orders.get((session_id, order_ref))
        if order is None or order.status != "working":
            return None
        return self._store(replace(order, status="cancelled"))

    def replay(self, *, extra: int) -> list[Message]:
        """The day so far, as the private stream gives it: last order states, then trades.

        ``extra`` puts that many more long-cancelled orders in front, to make a day longer.
        """
        padding = [
            Order(0, -ref, INSTRUMENTS[0], "buy", "open", 1, 1.0, True, "cancelled").push()
            for ref in range(1, extra + 1)
        ]
        return padding + [order.push() for order in self.orders.values()] + self.trades
