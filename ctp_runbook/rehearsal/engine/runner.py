"""What the old and the new strategy runner share: their configuration, and what they trade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ORDERS_PER_SECOND", "RunnerSettings", "order_of"]

ORDERS_PER_SECOND = 5.0


@dataclass(frozen=True)
class RunnerSettings:
    """``valkey_dir`` holds Valkey's port; ``front_dir`` and the rest are the direct runner's own.

    The direct runner closes the Redis path once its own stands; without ``valkey_dir`` it has none
    to close.
    """

    valkey_dir: str = ""
    front_dir: str = ""
    order_ttl_seconds: float = 0.1
    ignore_term: bool = False


def order_of(number: int) -> dict[str, Any]:
    """One lot in turn: buys that open, sells that close."""
    direction, offset = ("sell", "close") if number % 2 else ("buy", "open")
    return {"instrument": "au2512", "direction": direction, "offset": offset, "price": 550.0}
