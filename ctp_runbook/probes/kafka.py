"""Ask Kafka's admin protocol: brokers, topics as they are; and create topics.

librdkafka goes on trying for as long as it is let; every call here has a deadline of its own, and
what it would print goes to a logger nobody listens to.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import lag_fault

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient, PartitionMetadata  # type: ignore[attr-defined]

    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = [
    "Brokers",
    "LagReader",
    "NewTopicSpec",
    "Tail",
    "TopicLook",
    "consumer_lag",
    "newest_record",
]

_LOGGER = logging.getLogger("ctp_runbook.librdkafka")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


@dataclass(frozen=True)
class TopicLook:
    """A topic as the brokers describe it: of each partition, by number, the broker ids of its
    leader (-1 for none), of its replicas, and of those in sync."""

    partitions: Mapping[int, PartitionMetadata]

    @property
    def replication(self) -> int:
        """The smallest number of replicas of any partition."""
        return min((len(part.replicas) for part in self.partitions.values()), default=0)

    @property
    def in_sync(self) -> int:
        """The smallest number of in-sync replicas of any partition."""
        return min((len(part.isrs) for part in self.partitions.values()), default=0)

    @property
    def leaderless(self) -> tuple[int, ...]:
        """Partitions nobody leads: neither written nor read."""
        return self._numbers(lambda part: part.leader < 0)

    @property
    def lagging(self) -> tuple[int, ...]:
        """Partitions with a replica that is not in sync."""
        return self._numbers(lambda part: bool(set(part.replicas) - set(part.isrs)))

    def _numbers(self, is_meant: Callable[[PartitionMetadata], bool]) -> tuple[int, ...]:
        return tuple(number for number, part in sorted(self.partitions.items()) if is_meant(part))


@dataclass(frozen=True)
class NewTopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


def _settings(servers: str, **more: Any) -> dict[str, Any]:
    """Return client settings for ``servers`` that print nothing."""
    return {"bootstrap.servers": servers, "client.id": "ctp-runbook", "logger": _LOGGER, **more}


class Brokers:
    """An admin client. Raises ProbeError for whatever the brokers do not answer in time."""

    def __init__(self, servers: str) -> None:
        from confluent_kafka.admin import AdminClient

        self.servers = servers
        self._last_error = ""
        self._admin: AdminClient = AdminClient(_settings(servers, error_cb=self._remember))

    def _remember(self, error: Any) -> None:
        self._last_error = error.str()

    def ids(self, *, seconds: float) -> dict[int, str]:
        """Return the addresses of the brokers by id."""
        brokers = sorted(self._metadata(seconds).brokers.items())
        return {number: f"{broker.host}:{broker.port}" for number, broker in brokers}

    def topics(self, names: Iterable[str], *, seconds: float) -> dict[str, TopicLook]:
        """Return those of ``names`` that exist, without their configuration."""
        known = self._metadata(seconds).topics
        return {name: TopicLook(known[name].partitions) for name in names if name in known}

    def configs(self, name: str, *, seconds: float) -> dict[str, str] | None:
        """Return a topic's configuration; None from brokers that describe none."""
        from confluent_kafka import admin

        resource = admin.ConfigResource(admin.ResourceType.TOPIC, name)  # type: ignore[attr-defined]
        asked = self._admin.describe_configs([resource], request_timeout=seconds)
        entries = self._result(next(iter(asked.values())), f"describe {name}", seconds)
        return {key: str(entry.value) for key, entry in entries.items()} or None

    def create(self, topics: Sequence[NewTopicSpec], *, seconds: float) -> tuple[str, ...]:
        """Create topics; return the names of those that were not there already."""
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

        wanted = [
            NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.configs))
            for topic in topics
        ]
        created = []
        for name, future in self._admin.create_topics(wanted, request_timeout=seconds).items():
            try:
                self._result(future, f"create {name}", seconds)
            except ProbeError as error:
                # Somebody was quicker: what it came out as is looked at by the gate anyway.
                if not _is_already_there(error.__cause__):
                    raise
            else:
                created.append(name)
        return tuple(created)

    def _metadata(self, seconds: float) -> Any:
        from confluent_kafka import KafkaException

        try:
            return self._admin.list_topics(timeout=seconds)
        except KafkaException as error:
            raise self._error("metadata", error) from error

    def _result(self, future: Any, what: str, seconds: float) -> Any:
        from confluent_kafka import KafkaException

        try:
            return future.result(timeout=seconds + 1)
        except (KafkaException, TimeoutError) as error:
            raise self._error(what, error) from error

    def _error(self, what: str, error: Exception) -> ProbeError:
        words = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
        last = f" (last: {self._last_error})" if self._last_error else ""
        words = words or type(error).__name__
        return ProbeError(f"Kafka at {self.servers}: {what}: {words}{last}")


def _is_already_there(error: BaseException | None) -> bool:
    from confluent_kafka import KafkaError, KafkaException

    code = error.args[0].code() if isinstance(error, KafkaException) else None
    return bool(code == KafkaError.TOPIC_ALREADY_EXISTS)


# --- reading ----------------------------------------------------------------------


def _consumer(servers: str, **more: Any) -> Any:
    """Return a consumer to be assigned, never subscribed: it joins no group and commits nothing."""
    from confluent_kafka import Consumer

    settings = {"group.id": "ctp-runbook-tail", "enable.auto.commit": False, **more}
    return Consumer(_settings(servers, **{"fetch.wait.max.ms": 20}, **settings))


@contextlib.contextmanager
def _errors_of(subject: str) -> Iterator[None]:
    """Raise what goes wrong with Kafka as a ProbeError that begins with ``subject``."""
    from confluent_kafka import KafkaException

    try:
        yield
    except (KafkaException, _Unanswered) as error:
        raise ProbeError(f"{subject}: {error}") from error


class _Unanswered(ProbeError):
    """What a broker said no to, or did not say in time; who asked whom is put before it."""


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise _Unanswered("no answer in time")
    return left


def _partitions(consumer: Any, topic: str, seconds: float) -> list[Any]:
    from confluent_kafka import TopicPartition

    look = consumer.list_topics(topic, timeout=seconds).topics[topic]
    if look.error is not None or not look.partitions:
        raise _Unanswered(look.error.str() if look.error else "it has no partition")
    return [TopicPartition(topic, number) for number in look.partitions]


def _polled(consumer: Any, seconds: float) -> Any:
    """Return the next record; None where none came in time, or a partition is at its end."""
    from confluent_kafka import KafkaError

    message = consumer.poll(seconds)
    if message is None or (error := message.error()) is None:
        return message
    if error.code() == KafkaError._PARTITION_EOF:
        return None
    raise _Unanswered(error.str())


class Tail:
    """The records of a topic from now on."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    @classmethod
    @contextlib.contextmanager
    def open(cls, servers: str, topic: str, *, seconds: float) -> Iterator[Tail]:
        """Yield a tail of every partition of ``topic``. Raises ProbeError where there is none."""
        with (
            _errors_of(f"Kafka at {servers}: topic {topic}"),
            contextlib.closing(_consumer(servers)) as consumer,
        ):
            parts = _partitions(consumer, topic, seconds)
            for part in parts:
                part.offset = consumer.get_watermark_offsets(part, timeout=seconds)[1]
            consumer.assign(parts)
            # The first poll fetches nothing yet: it sets the fetchers going before anything is due.
            consumer.poll(0)
            yield cls(consumer)

    def next(self, *, seconds: float) -> bytes:
        """Return the next record's value; empty when none came in time, or for a tombstone."""
        message = _polled(self._consumer, seconds)
        return b"" if message is None else message.value() or b""


def newest_record(servers: str, topic: str, *, seconds: float) -> bytes | None:
    """Return the value of the newest record of a topic's first partition; None for an empty one."""
    from confluent_kafka import TopicPartition

    end = time.monotonic() + seconds
    with (
        _errors_of(f"Kafka at {servers}: topic {topic}"),
        contextlib.closing(_consumer(servers)) as consumer,
    ):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=_left(end))
        if high <= low:
            return None
        consumer.assign([TopicPartition(topic, 0, high - 1)])
        # An error may be of a broker that is just coming back: it is waited for.
        while (message := consumer.poll(min(0.1, _left(end)))) is None or message.error():
            continue
        return bytes(message.value() or b"")


class LagReader:
    """How far a group is behind on a topic, by record time. Keeps its connection between looks.

    It reads as the group's name and neither joins it nor commits anything.
    """

    def __init__(self, servers: str, *, group: str, topic: str) -> None:
        self._servers, self._group, self._topic = servers, group, topic
        self._consumer: Any = None

    def read(self, *, seconds: float) -> float:
        """Return milliseconds from the last committed record to the newest, of the worst partition.

        0 where everything is committed. Of a partition with no commit at all: the age of its
        first record. Raises ProbeError when the brokers do not answer in time, and for a record
        from the future.
        """
        subject = f"Kafka at {self._servers}: lag of {self._group} on {self._topic}"
        try:
            with _errors_of(subject):
                return self._read(time.monotonic() + seconds)
        except ProbeError:
            self.close()  # its connection may be the trouble
            raise

    def _read(self, end: float) -> float:
        if self._consumer is None:
            own = {"group.id": self._group, "auto.offset.reset": "earliest"}
            self._consumer = _consumer(self._servers, **own)
        parts = _partitions(self._consumer, self._topic, _left(end))
        # Ends first: what is committed meanwhile is not taken for lag.
        bounds = {
            part.partition: self._consumer.get_watermark_offsets(part, timeout=_left(end))
            for part in parts
        }
        behind = {}
        for part in self._consumer.committed(parts, timeout=_left(end)):
            low, high = bounds[part.partition]
            if max(part.offset, 0) < high != low:
                behind[part.partition] = max(part.offset, -1)
        return self._worst(behind, {part: high for part, (_, high) in bounds.items()}, end)

    def _worst(self, behind: Mapping[int, int], ends: Mapping[int, int], end: float) -> float:
        if not behind:
            return 0.0
        last = self._stamps({part: max(0, at - 1) for part, at in behind.items()}, end)
        newest = self._stamps({part: ends[part] - 1 for part in behind}, end)
        now = int(time.time() * 1000)
        lags = [0]
        for part, at in behind.items():
            lag = (newest[part] if at >= 0 else max(now, newest[part])) - last[part]
            # Two stamps that are both ahead may lie as far apart as they should, and prove nothing.
            ahead = min(lag, now - newest[part], now - last[part])
            if fault := lag_fault(ahead, "ms"):
                raise _Unanswered(f"partition {part}: {fault}")
            lags.append(lag)
        return float(max(lags))

    def _stamps(self, places: Mapping[int, int], end: float) -> dict[int, int]:
        """Return the time stamps of the records at these offsets, in ms since the epoch."""
        from confluent_kafka import TopicPartition

        wanted = [TopicPartition(self._topic, part, offset) for part, offset in places.items()]
        self._consumer.assign(wanted)
        stamps = dict[int, int]()
        try:
            while len(stamps) < len(places):
                message = _polled(self._consumer, min(0.1, _left(end)))
                if message is not None:
                    # Records behind the wanted one come too: the first is it.
                    kind, stamp = message.timestamp()
                    if not kind:
                        raise _Unanswered(f"partition {message.partition()}: a record without time")
                    stamps.setdefault(message.partition(), stamp)
        finally:
            self._consumer.unassign()
        return stamps

    def close(self) -> None:
        """Give the connection back; the next look opens another."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def consumer_lag(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``kafka``: how far the group of the rule's label is behind on its topic."""
    servers = around.settings["kafka_bootstrap"]
    reader = LagReader(servers, group=rule.labels["group"], topic=rule.query)
    return lambda: reader.read(seconds=rule.patience_seconds)
