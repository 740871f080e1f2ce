"""The ingester: each topic into its ClickHouse queue table, offsets committed after the insert.

It stands in for ClickHouse's Kafka engine, and like it consumes a topic only while a materialized
view hangs on the queue table: without one the records stay in Kafka and the lag grows.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.rehearsal.plane.layout import DATABASE, Plane
from ctp_runbook.rehearsal.plane.tables import QUEUES, TOPICS

__all__ = ["GROUP", "Store", "main"]

# Of infra/clickhouse: the one configs/watch.toml measures. There each CDC topic has another.
GROUP = "clickhouse-ingest"
_POLL_SECONDS = 0.1
_VIEWS_SECONDS = 1.0
_BATCH = 2000


class Store:
    """ClickHouse over HTTP, one connection kept open."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._password = plane.credentials().clickhouse
        self._open: http.client.HTTPConnection | None = None

    def run(self, query: str, data: bytes = b"", *, database: str = DATABASE) -> str:
        """The answer's text; raises ProbeError for anything but 200."""
        headers = {"X-ClickHouse-User": "quant_hft", "X-ClickHouse-Key": self._password}
        path = "/?" + urllib.parse.urlencode({"query": query, "database": database})
        if self._open is None:
            port = self._plane.port("clickhouse")
            self._open = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            self._open.request("POST", path, data, headers)
            reply = self._open.getresponse()
            text = reply.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ProbeError(f"ClickHouse: {error!r}") from error
        if reply.status != 200:
            raise ProbeError(f"ClickHouse: status {reply.status}: {text.strip()}")
        return text

    def close(self) -> None:
        """Give the connection back; the next statement opens another."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def fed_queues(self) -> frozenset[str]:
        """Queue tables that a materialized view reads from."""
        rows = self.run(
            "SELECT name FROM system.tables WHERE database = currentDatabase() "
            "AND notEmpty(dependencies_table) FORMAT TSVRaw"
        )
        return frozenset(rows.split())

    def insert(self, queue: str, records: Iterable[bytes]) -> None:
        """Append records, each as it came, to a queue table."""
        lines = [json.dumps({"raw": record.decode("utf-8", "replace")}) for record in records]
        self.run(f"INSERT INTO {DATABASE}.{queue} FORMAT JSONEachRow", "\n".join(lines).encode())


class _Ingester:
    def __init__(self, plane: Plane) -> None:
        from confluent_kafka import Consumer

        self._store = Store(plane)
        self._consumer: Any = Consumer(
            {
                "bootstrap.servers": plane.bootstrap,
                "group.id": GROUP,
                "client.id": "ingester",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "topic.metadata.refresh.interval.ms": 1000,
                "reconnect.backoff.max.ms": 500,
            }
        )
        self._fed: frozenset[str] = frozenset()
        self._looked = 0.0
        self.ends = False

    def run(self) -> None:
        """Until told to end; what fails is said once and tried again."""
        said = ""
        while not self.ends:
            try:
                self._turn()
                said = ""
            except ProbeError as error:
                if said != str(error):
                    said = str(error)
                    print(f"{error}; trying again", flush=True)
                self._looked = 0.0
                self._fed = frozenset()  # assigned anew, from what is committed
                time.sleep(0.3)
        self._consumer.close()

    def _turn(self) -> None:
        if time.monotonic() - self._looked > _VIEWS_SECONDS:
            self._assign()
        messages = self._consumer.consume(_BATCH, _POLL_SECONDS)
        found: defaultdict[str, list[bytes]] = defaultdict(list)
        for message in messages:
            if message.error() is None and message.value() is not None:
                found[message.topic()].append(message.value())
        for topic, records in found.items():
            self._store.insert(QUEUES[topic], records)
        if found:
            self._commit(messages)

    def _assign(self) -> None:
        """Consume the topics whose queue is fed on, from where the group stands."""
        fed = self._store.fed_queues() & frozenset(QUEUES.values())
        self._looked = time.monotonic()
        if fed == self._fed:
            return
        topics = [topic for topic, queue in QUEUES.items() if queue in fed]
        self._consumer.assign(self._positions(topics))
        self._fed = fed
        print(f"consuming {', '.join(topics) or 'nothing: no view feeds on a queue'}", flush=True)

    def _positions(self, topics: Iterable[str]) -> list[Any]:
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        wanted = [TopicPartition(name, number) for name in topics for number in range(TOPICS[name])]
        try:
            stands = self._consumer.committed(wanted, timeout=5) if wanted else []
        except KafkaException as error:
            raise ProbeError(f"broker: {error}") from error
        for place in stands:
            if place.offset < 0:
                place.offset = OFFSET_BEGINNING
        return list(stands)

    def _commit(self, messages: Iterable[Any]) -> None:
        """Commit what was inserted; a record is inserted twice rather than lost."""
        from confluent_kafka import KafkaException, TopicPartition

        ends: Mapping[tuple[str, int], int] = {
            (message.topic(), message.partition()): message.offset() + 1
            for message in messages
            if message.error() is None
        }
        places = [TopicPartition(*place, offset) for place, offset in ends.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise ProbeError(f"broker: {error}") from error


def main() -> None:
    """Ingest a plane's topics until TERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--plane", type=Path, required=True)
    ingester = _Ingester(Plane(parser.parse_args().plane))

    def end(*_: Any) -> None:
        ingester.ends = True

    signal.signal(signal.SIGTERM, end)
    ingester.run()


if __name__ == "__main__":
    main()
