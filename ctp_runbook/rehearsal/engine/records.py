"""What an engine writes down beside trading: ticks to Kafka, orders and all else to PostgreSQL.

Records come to the data plane whenever it can be reached; the engine waits for none of it. Until
the plane serves they are kept, the newest ``_KEPT`` of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.front.protocol import USER, Message, trading_day
from ctp_runbook.rehearsal.process import say

if TYPE_CHECKING:
    from ctp_runbook.rehearsal.plane.publisher import Publisher

__all__ = ["Records", "account_rows", "order_row", "trade_row"]

_RETRY_SECONDS = 0.2
_ACCOUNT_SECONDS = 0.5
_CLOSE_SECONDS = 0.4  # an engine ends within a second of TERM
_KEPT = 10_000
_EXCHANGES = {"rb": "SHFE", "au": "SHFE", "IF": "CFFEX"}
_FUNDS = {
    "PreBalance": "pre_balance",
    "Deposit": "deposit",
    "Withdraw": "withdraw",
    "CloseProfit": "close_profit",
    "Commission": "commission",
}
_Row = tuple[str, dict[str, Any]]


def _row_of(message: Message, more: Mapping[str, Any]) -> dict[str, Any]:
    """What order and trade rows share, then ``more``."""
    return {
        # Front, session and ref name an order for the whole day.
        "order_id": f"{message.get('front_id', 1)}-{message['session_id']}-{message['order_ref']}",
        "order_ref": str(message["order_ref"]),
        "account_id": USER,
        "instrument_id": message["instrument"],
        "direction": message["direction"],
        "offset_flag": message["offset"],
        "trading_day": trading_day(),
        **more,
    }


def order_row(message: Message) -> _Row:
    """An order return as a row of ``orders``."""
    status, volume = message["status"], message["volume"]
    more = {
        "order_status": status,
        "limit_price": message["price"],
        "volume_original": volume,
        "volume_traded": volume if status == "filled" else 0,
        "updated_at": datetime.now(UTC),
    }
    return "orders", _row_of(message, more)


def trade_row(message: Message) -> _Row:
    """A trade return as a row of ``trades``."""
    same = {name: message[name] for name in ("volume", "price", "commission", "close_profit")}
    more = {"trade_id": str(message["trade_id"]), **same, "traded_at": datetime.now(UTC)}
    return "trades", _row_of(message, more)


def account_rows(state: Mapping[str, Any]) -> Iterator[_Row]:
    """Positions and funds of a trading state."""
    now = datetime.now(UTC)
    who = {"account_id": USER, "trading_day": state["trading_day"], "updated_at": now}
    for held in state["positions"]:
        same = {name: held[name] for name in ("direction", "hedge_flag", "volume")}
        yield "position_detail", {**who, "instrument_id": held["instrument"], **same}
    yield (
        "account_funds",
        {**who, **{_FUNDS[name]: value for name, value in state["funds"].items()}},
    )


class Records:
    """The data plane in ``plane_dir`` as an engine's log book; without one, nothing happens.

    ``state`` gives the engine's trading state; ``on_publish`` is told of each tick whether the
    broker has it.
    """

    def __init__(self, plane_dir: str, state: Callable[[], Mapping[str, Any]]) -> None:
        self._plane_dir, self._state = plane_dir, state
        self._publisher: Publisher | None = None
        self._kept: deque[Callable[[Publisher], None]] = deque(maxlen=_KEPT)
        self.on_publish: Callable[[bool], None] = lambda succeeded: None

    def __bool__(self) -> bool:
        return bool(self._plane_dir)

    @property
    def spooled(self) -> int:
        """Ticks and rows that have waited for longer than a second."""
        return self._publisher.spooled if self._publisher else len(self._kept)

    def tick(self, message: Message) -> None:
        """Publish a tick."""
        name, price = str(message["instrument"]), float(message["price"])
        fields = {"exchange_id": _EXCHANGES.get(name[:2], ""), "volume": 1}
        fields["trading_day"] = trading_day()
        self._give(lambda publisher: publisher.tick(name, last_price=price, **fields))

    def order(self, message: Message) -> None:
        """Write an order as it is now, or that the front refused it."""
        if message["status"] == "rejected":
            self.risk("order_rejected", f"order {message['order_ref']} was refused by the front")
        else:
            self.row(*order_row(message))

    def trade(self, message: Message) -> None:
        """Write a trade."""
        self.row(*trade_row(message))

    def row(self, table: str, values: Mapping[str, Any]) -> None:
        """Write a row."""
        self._give(lambda publisher: publisher.row(table, values))

    def risk(self, kind: str, sentence: str, *, level: int = 1) -> None:
        """Write a risk event."""
        event = {"event_type": kind, "event_level": level, "event_desc": sentence}
        self.row("risk_events", {"account_id": USER, "occurred_at": datetime.now(UTC), **event})

    def _give(self, record: Callable[[Publisher], None]) -> None:
        if self._publisher is not None:
            record(self._publisher)
        elif self:
            self._kept.append(record)

    async def run(self) -> None:
        """Reach the plane, then write positions and funds whenever they have changed."""
        await self._open()
        written: dict[str, Any] = {}
        while True:
            state = self._state()
            account = {name: state[name] for name in ("trading_day", "positions", "funds")}
            if account != written and account["trading_day"]:
                written = account
                for row in account_rows(account):
                    self.row(*row)
            await asyncio.sleep(_ACCOUNT_SECONDS)

    async def _open(self) -> None:
        """However long that takes; what was kept goes first."""
        said = ""
        while self and self._publisher is None:
            try:
                self._publisher = await asyncio.to_thread(self._reach)
            except RunbookError as error:
                if said != str(error):
                    said = str(error)
                    say(f"data plane: {said}; trying again")
                await asyncio.sleep(_RETRY_SECONDS)
        while self._publisher is not None and self._kept:
            self._kept.popleft()(self._publisher)

    def _reach(self) -> Publisher:
        """Imports Kafka's client and PostgreSQL's (0.2 s), hence late."""
        from ctp_runbook.rehearsal.plane.layout import Plane
        from ctp_runbook.rehearsal.plane.publisher import Publisher

        plane = Plane(Path(self._plane_dir))
        if (broker := plane.part_state("kafka").state) != "serving":
            raise RunbookError(f"broker of {plane.dir} is {broker}")
        name = f"{self._state()['generation']}_core_engine"
        return Publisher(plane, name=name, on_publish=self.on_publish)

    async def close(self) -> None:
        """Deliver what is left, as far as that is done at once."""
        if (publisher := self._publisher) is not None:
            left = await asyncio.to_thread(publisher.close, seconds=_CLOSE_SECONDS)
            dropped = f"{publisher.dropped} dropped {publisher.refused}"
            say(f"data plane: {left} records not delivered, {dropped}")
