"""Ask Kafka's admin protocol: brokers, topics as they are; and create topics.

librdkafka goes on trying for as long as it is let; every call here has a deadline of its own, and
what it would print goes to a logger nobody listens to.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import ProbeError

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient, TopicMetadata  # type: ignore[attr-defined]

    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = [
    "Brokers",
    "LagReader",
    "NewTopicSpec",
    "Partition",
    "Tail",
    "TopicLook",
    "consumer_lag",
    "newest_record",
    "quiet_settings",
]

_LOGGER = logging.getLogger("ctp_runbook.librdkafka")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


@dataclass(frozen=True)
class Partition:
    """One partition: broker ids of its leader (-1 for none), its replicas and those in sync."""

    number: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True)
class TopicLook:
    """A topic as the brokers describe it. ``configs`` is None where they describe none."""

    name: str
    partitions: tuple[Partition, ...]
    configs: Mapping[str, str] | None = None

    @property
    def replication(self) -> int:
        """The smallest number of replicas of any partition."""
        return min((len(one.replicas) for one in self.partitions), default=0)

    @property
    def in_sync(self) -> int:
        """The smallest number of in-sync replicas of any partition."""
        return min((len(one.in_sync) for one in self.partitions), default=0)

    @property
    def leaderless(self) -> tuple[int, ...]:
        """Partitions nobody leads: neither written nor read."""
        return tuple(one.number for one in self.partitions if one.leader < 0)

    @property
    def lagging(self) -> tuple[int, ...]:
        """Partitions with a replica that is not in sync."""
        return tuple(one.number for one in self.partitions if set(one.replicas) - set(one.in_sync))


@dataclass(frozen=True)
class NewTopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


def quiet_settings(servers: str, **more: Any) -> dict[str, Any]:
    """Client settings for ``servers`` that print nothing."""
    return {"bootstrap.servers": servers, "client.id": "ctp-runbook", "logger": _LOGGER, **more}


class Brokers:
    """An admin client. Raises ProbeError for whatever the brokers do not answer in time."""

    def __init__(self, servers: str) -> None:
        from confluent_kafka.admin import AdminClient

        self.servers = servers
        self._last_error = ""
        settings = quiet_settings(servers, error_cb=self._remember)
        self._admin: AdminClient = AdminClient(settings)

    def _remember(self, error: Any) -> None:
        self._last_error = error.str()

    def ids(self, *, seconds: float) -> dict[int, str]:
        """Addresses of the brokers by id."""
        brokers = self._metadata(seconds).brokers
        return {number: f"{one.host}:{one.port}" for number, one in sorted(brokers.items())}

    def topics(self, names: Iterable[str], *, seconds: float) -> dict[str, TopicLook]:
        """Those of ``names`` that exist, without their configuration."""
        found = self._metadata(seconds).topics
        return {name: _look(name, found[name]) for name in names if name in found}

    def configs(self, name: str, *, seconds: float) -> dict[str, str] | None:
        """A topic's configuration; None from brokers that describe none."""
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            ConfigResource,
            ResourceType,
        )

        asked = self._admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name)], request_timeout=seconds
        )
        entries = self._result(next(iter(asked.values())), f"describe {name}", seconds)
        return {key: str(entry.value) for key, entry in entries.items()} or None

    def create(self, topics: Sequence[NewTopicSpec], *, seconds: float) -> tuple[str, ...]:
        """Create topics; names of those that were created and not there already."""
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

        wanted = [
            NewTopic(one.name, one.partitions, one.replication, config=dict(one.configs))
            for one in topics
        ]
        created = []
        for name, future in self._admin.create_topics(wanted, request_timeout=seconds).items():
            try:
                self._result(future, f"create {name}", seconds)
            except ProbeError as error:
                cause = error.__cause__
                if isinstance(cause, KafkaException) and (
                    cause.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
                ):
                    continue
                raise
            created.append(name)
        return tuple(created)

    def _metadata(self, seconds: float) -> Any:
        from confluent_kafka import KafkaException

        try:
            return self._admin.list_topics(timeout=seconds)
        except KafkaException as error:
            raise ProbeError(self._sentence("metadata", error)) from error

    def _result(self, future: Any, what: str, seconds: float) -> Any:
        from confluent_kafka import KafkaException

        try:
            return future.result(timeout=seconds + 1)
        except (KafkaException, TimeoutError) as error:
            raise ProbeError(self._sentence(what, error)) from error

    def _sentence(self, what: str, error: Exception) -> str:
        told = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
        last = f" (last: {self._last_error})" if self._last_error else ""
        return f"Kafka at {self.servers}: {what}: {told or type(error).__name__}{last}"


def _look(name: str, topic: TopicMetadata) -> TopicLook:
    parts = (
        Partition(number, one.leader, tuple(one.replicas), tuple(one.isrs))
        for number, one in sorted(topic.partitions.items())
    )
    return TopicLook(name, tuple(parts))


class Tail:
    """The records of a topic from now on. Assigned, not subscribed: it joins no group."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer, self._topic = consumer, topic

    @classmethod
    @contextlib.contextmanager
    def open(cls, servers: str, topic: str, *, seconds: float) -> Iterator[Tail]:
        """A tail of every partition of ``topic``. Raises ProbeError where there is none."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        settings = quiet_settings(servers, **{"fetch.wait.max.ms": 20})
        consumer = Consumer(
            {**settings, "group.id": "ctp-runbook-tail", "enable.auto.commit": False}
        )
        try:
            found = consumer.list_topics(topic, timeout=seconds).topics[topic]
            if found.error is not None:
                raise ProbeError(f"Kafka at {servers}: topic {topic}: {found.error.str()}")
            parts = [TopicPartition(topic, number) for number in found.partitions]
            for part in parts:
                part.offset = consumer.get_watermark_offsets(part, timeout=seconds)[1]
            consumer.assign(parts)
            # The first poll fetches nothing yet: it sets the fetchers going before anything is due.
            consumer.poll(0)
            yield cls(consumer, topic)
        except KafkaException as error:
            raise ProbeError(f"Kafka at {servers}: topic {topic}: {error}") from error
        finally:
            consumer.close()

    def next(self, *, seconds: float) -> bytes:
        """The next record's value; empty when none came in time, or for a tombstone."""
        from confluent_kafka import KafkaError

        message = self._consumer.poll(seconds)
        if message is None:
            return b""
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return b""
            raise ProbeError(f"Kafka: topic {self._topic}: {error.str()}")
        return message.value() or b""


class LagReader:
    """How far a group is behind on a topic, by record time. Keeps its connection between looks.

    It reads as the group's name and neither joins it nor commits anything.
    """

    def __init__(self, servers: str, *, group: str, topic: str) -> None:
        self._servers, self._group, self._topic = servers, group, topic
        self._consumer: Any = None

    def read(self, *, seconds: float) -> float:
        """Milliseconds from the last committed record to the newest, of the worst partition.

        0 where everything is committed. Of a partition with no commit at all: the age of its
        first record. Raises ProbeError when the brokers do not answer in time.
        """
        from confluent_kafka import KafkaException

        end = time.monotonic() + seconds
        try:
            return self._read(end)
        except (KafkaException, ProbeError) as error:
            self.close()
            raise ProbeError(
                f"Kafka at {self._servers}: lag of {self._group} on {self._topic}: {error}"
            ) from error

    def _read(self, end: float) -> float:
        from confluent_kafka import Consumer, TopicPartition

        if self._consumer is None:
            more = {"fetch.wait.max.ms": 20, "auto.offset.reset": "earliest"}
            settings = quiet_settings(self._servers, **more, **{"enable.auto.commit": False})
            self._consumer = Consumer({**settings, "group.id": self._group})
        found = self._consumer.list_topics(self._topic, timeout=_left(end)).topics[self._topic]
        if found.error is not None or not found.partitions:
            raise ProbeError(found.error.str() if found.error else "it has no partition")
        parts = [TopicPartition(self._topic, number) for number in found.partitions]
        # Ends first: what is committed meanwhile is not taken for lag.
        ends = {
            part.partition: self._consumer.get_watermark_offsets(part, timeout=_left(end))
            for part in parts
        }
        committed = self._consumer.committed(parts, timeout=_left(end))
        behind = {
            one.partition: max(one.offset, -1)
            for one in committed
            if max(one.offset, 0) < ends[one.partition][1] != ends[one.partition][0]
        }
        return self._worst(behind, {part: high for part, (_, high) in ends.items()}, end)

    def _worst(self, behind: Mapping[int, int], ends: Mapping[int, int], end: float) -> float:
        if not behind:
            return 0.0
        last = self._stamps({part: max(0, at - 1) for part, at in behind.items()}, end)
        newest = self._stamps({part: ends[part] - 1 for part in behind}, end)
        now = int(time.time() * 1000)
        lags = (
            (newest[part] if at >= 0 else max(now, newest[part])) - last[part]
            for part, at in behind.items()
        )
        return float(max(0, *lags))

    def _stamps(self, places: Mapping[int, int], end: float) -> dict[int, int]:
        """Time stamps of the records at these offsets, in ms since the epoch."""
        from confluent_kafka import KafkaError, TopicPartition

        wanted = [TopicPartition(self._topic, part, offset) for part, offset in places.items()]
        self._consumer.assign(wanted)
        found = dict[int, int]()
        try:
            while len(found) < len(places):
                message = self._consumer.poll(min(0.1, _left(end)))
                if message is None or message.partition() in found:
                    continue
                if (error := message.error()) is None:
                    found[message.partition()] = message.timestamp()[1]
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise ProbeError(error.str())
        finally:
            self._consumer.unassign()
        return found

    def close(self) -> None:
        """Give the connection back; the next look opens another."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def consumer_lag(rule: MetricRule, around: Surroundings) -> Measure:
    """The source ``kafka``: how far the group of the rule's label is behind on its topic."""
    servers = around.settings["kafka_bootstrap"]
    reader = LagReader(servers, group=rule.labels["group"], topic=rule.query)
    return lambda: reader.read(seconds=rule.patience_seconds)


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise ProbeError("no answer in time")
    return left


def newest_record(servers: str, topic: str, *, seconds: float) -> bytes | None:
    """The value of the newest record of a topic's first partition; None for an empty one."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    end = time.monotonic() + seconds
    settings = quiet_settings(servers, **{"fetch.wait.max.ms": 20, "enable.auto.commit": False})
    consumer = Consumer({**settings, "group.id": "ctp-runbook-tail"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=_left(end))
        if high <= low:
            return None
        consumer.assign([TopicPartition(topic, 0, high - 1)])
        while (message := consumer.poll(min(0.1, _left(end)))) is None or message.error():
            continue
        return bytes(message.value() or b"")
    except (KafkaException, ProbeError) as error:
        raise ProbeError(f"Kafka at {servers}: topic {topic}: {error}") from error
    finally:
        consumer.close()
