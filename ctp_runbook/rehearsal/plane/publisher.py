"""What the twin's engines call: ticks to Kafka, the trading record to PostgreSQL.

A publisher never holds an engine up: rows go through a bounded queue to a thread of their own,
which connects again when PostgreSQL comes back; what does not fit is counted, not waited for.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ctp_runbook.errors import RunbookError
from ctp_runbook.rehearsal.plane.kafka_broker import make_producer
from ctp_runbook.rehearsal.plane.layout import Plane
from ctp_runbook.rehearsal.plane.postgres import connect
from ctp_runbook.rehearsal.plane.tables import KEYS, TICKS_TOPIC

__all__ = ["Publisher", "upsert"]

_QUEUE_ROWS = 10_000
_RETRY_SECONDS = 0.3
_SPOOL_SECONDS = 1.0


class Publisher:
    """The data plane as an engine sees it; every method returns at once.

    ``on_publish`` is told of each tick whether the broker has it.
    """

    def __init__(
        self,
        plane: Plane,
        *,
        name: str,
        on_publish: Callable[[bool], None] = lambda succeeded: None,
    ) -> None:
        self._plane, self._on_publish = plane, on_publish
        self._producer = make_producer(plane.bootstrap, name=name)
        self._rows: queue.Queue[tuple[str, Mapping[str, Any]] | None] = queue.Queue(_QUEUE_ROWS)
        self.dropped, self.refused = 0, ""
        self._clear = time.monotonic()  # when nothing waited, last
        self._ends = threading.Event()
        self._writer = threading.Thread(target=self._write, name=f"{name} rows", daemon=True)
        self._writer.start()

    @property
    def spooled(self) -> int:
        """What waits, if something has waited without a break for longer than a second."""
        waiting = self._look()
        return waiting if time.monotonic() - self._clear > _SPOOL_SECONDS else 0

    def _look(self) -> int:
        """How many ticks and rows are not yet with Kafka and PostgreSQL."""
        self._producer.poll(0)  # what is delivered counts until its report is taken
        waiting = len(self._producer) + self._rows.qsize()
        if not waiting:
            self._clear = time.monotonic()
        return waiting

    def tick(self, instrument_id: str, *, last_price: float, **fields: Any) -> None:
        """Publish one tick, keyed by its instrument; ``fields`` as in ``market_ticks``."""
        now = datetime.now(UTC)
        record = {
            "instrument_id": instrument_id,
            "last_price": last_price,
            "published_at": now.isoformat(),
            "published_ts_ms": int(now.timestamp() * 1000),
            **fields,
        }
        self._look()
        try:
            self._producer.produce(
                TICKS_TOPIC,
                key=instrument_id,
                value=json.dumps(record),
                on_delivery=lambda error, message: self._on_publish(error is None),
            )
        except BufferError:
            self.dropped += 1
            self._on_publish(False)

    def row(self, table: str, values: Mapping[str, Any]) -> None:
        """Write an order, trade, position, funds or risk event; the newest row of a key stays.

        ``table`` is one of ``orders``, ``trades``, ``position_detail``, ``account_funds``,
        ``risk_events``; columns left out take their defaults.
        """
        try:
            self._rows.put_nowait((table, values))
        except queue.Full:
            self.dropped += 1

    def _write(self) -> None:
        pending: tuple[str, Mapping[str, Any]] | None = None
        while not self._ends.is_set():
            try:
                with connect(self._plane) as database:
                    while not self._ends.is_set():
                        pending = pending or self._rows.get()
                        if pending is None:
                            return
                        self._write_one(database, pending)
                        pending = None
            except RunbookError as error:
                self.refused = str(error)
                self._ends.wait(_RETRY_SECONDS)

    def _write_one(self, database: Any, row: tuple[str, Mapping[str, Any]]) -> None:
        """A row PostgreSQL refuses (wrong column, wrong type) is dropped, and said."""
        import psycopg

        try:
            database.execute(upsert(*row), row[1])
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
            self.dropped += 1
            self.refused = f"{row[0]}: {str(error).strip()}"

    def close(self, *, seconds: float = 2.0) -> int:
        """Deliver what is left, within ``seconds``; how much is not delivered."""
        end = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._rows.put_nowait(None)
        self._writer.join(seconds)
        self._ends.set()
        self._producer.flush(max(0.0, end - time.monotonic()))
        return self._look()


def upsert(table: str, values: Mapping[str, Any]) -> str:
    """The statement that writes ``values`` (names are columns of ours, values are parameters)."""
    names = [name for name in values if name.isidentifier()]
    key = KEYS[table]
    marks = ", ".join(f"%({name})s" for name in names)
    sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name not in key)
    action = f"DO UPDATE SET {sets}" if sets else "DO NOTHING"
    conflict = f" ON CONFLICT ({', '.join(key)}) {action}" if set(key) <= set(names) else ""
    return f"INSERT INTO trading_core.{table} ({', '.join(names)}) VALUES ({marks}){conflict}"
