"""What an engine knows of its account: a fold over the order and trade returns it was sent.

Every login replays the day from the start, so the fold starts anew with each replay; what it
then holds is what the front holds, whoever sent the orders.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ctp_runbook.rehearsal.front.protocol import Message

__all__ = ["Account"]

_WORKING = "working"


class Account:
    """Working orders, positions and funds of the user, for the whole trading day."""

    def __init__(self) -> None:
        self.working: dict[tuple[int, int], Message] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything: a replay of the whole day follows."""
        self.working.clear()
        self._volumes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._commission = self._close_profit = 0.0

    def take_order(self, message: Message) -> None:
        """Follow an order to its end."""
        key = (int(message["session_id"]), int(message["order_ref"]))
        if message["status"] == _WORKING:
            self.working[key] = message
        else:
            self.working.pop(key, None)

    def take_trade(self, message: Message) -> None:
        """Book a trade: a sell that closes takes from the long position."""
        opens = message["offset"] == "open"
        side = "long" if opens == (message["direction"] == "buy") else "short"
        self._volumes[message["instrument"], side] += message["volume"] * (1 if opens else -1)
        self._commission += message["commission"]
        self._close_profit += message["close_profit"]

    def working_orders(self) -> list[Message]:
        """Orders that still rest at the exchange, this session's and others'."""
        return [
            {key: value for key, value in order.items() if key not in ("push", "status")}
            for order in self.working.values()
        ]

    def positions(self) -> list[dict[str, Any]]:
        """By instrument, direction and hedge flag; empty ones left out."""
        return [
            {"instrument": name, "direction": side, "hedge_flag": "speculation", "volume": volume}
            for (name, side), volume in sorted(self._volumes.items())
            if volume
        ]

    def funds(self, settlement: Message) -> dict[str, float]:
        """The fields that do not float with the price; the first three from settlement."""
        return {
            "PreBalance": float(settlement.get("pre_balance", 0.0)),
            "Deposit": float(settlement.get("deposit", 0.0)),
            "Withdraw": float(settlement.get("withdraw", 0.0)),
            "CloseProfit": round(self._close_profit, 2),
            "Commission": round(self._commission, 2),
        }
