"""The ingester: each topic into its ClickHouse queue table, offsets committed after the insert.

It stands in for ClickHouse's Kafka engine, and like it consumes a topic only while a materialized
view hangs on the queue table: without one the records stay in Kafka and the lag grows.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.rehearsal.plane.layout import DATABASE, Plane
from ctp_runbook.rehearsal.plane.tables import QUEUES, TOPICS

__all__ = ["GROUP", "Store", "main"]

# Of infra/clickhouse: the one configs/watch.toml measures. There each CDC topic has another.
GROUP = "clickhouse-ingest"
_POLL_SECONDS = 0.1
_VIEWS_SECONDS = 1.0
_BATCH = 2000
_SECONDS = 10.0


class Store:
    """ClickHouse over HTTP."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        key = plane.credentials().clickhouse
        self._headers = {"X-ClickHouse-User": "quant_hft", "X-ClickHouse-Key": key}

    def run(self, query: str, data: bytes = b"", *, database: str = DATABASE) -> str:
        """The answer's text; raises ProbeError for anything but 200."""
        words = urllib.parse.urlencode({"query": query, "database": database})
        url = f"{self._plane.url('clickhouse')}/?{words}"
        try:
            status, raw = exchange(
                url, seconds=_SECONDS, method="POST", body=data, headers=self._headers
            )
        except ProbeError as error:
            raise ProbeError(f"ClickHouse: {error}") from error
        text = raw.decode("utf-8", "replace")
        if status != 200:
            raise ProbeError(f"ClickHouse: status {status}: {text.strip()}")
        return text

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
        batches: defaultdict[str, list[bytes]] = defaultdict(list)
        for message in messages:
            if message.error() is None and message.value() is not None:
                batches[message.topic()].append(message.value())
        for topic, records in batches.items():
            self._store.insert(QUEUES[topic], records)
        if batches:
            self._commit()

    def _assign(self) -> None:
        """Consume the topics whose queue is fed on, from where the group stands."""
        from confluent_kafka import TopicPartition

        fed = self._store.fed_queues() & frozenset(QUEUES.values())
        self._looked = time.monotonic()
        if fed == self._fed:
            return
        topics = [topic for topic, queue in QUEUES.items() if queue in fed]
        self._consumer.assign(
            [TopicPartition(name, number) for name in topics for number in range(TOPICS[name])]
        )
        self._fed = fed
        print(f"consuming {', '.join(topics) or 'nothing: no view feeds on a queue'}", flush=True)

    def _commit(self) -> None:
        """Commit what was taken and inserted; a record is inserted twice rather than lost."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            raise ProbeError(f"broker: {error}") from error


def main() -> None:
    """Ingest a plane's topics until TERM."""
    ingester = _Ingester(Plane.of_command_line())

    def end(*_: Any) -> None:
        ingester.ends = True

    signal.signal(signal.SIGTERM, end)
    ingester.run()


if __name__ == "__main__":
    main()
