"""Facts about probes/kafka.py: topics and lag by what the brokers say, and what they do not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import PartitionMetadata  # type: ignore[attr-defined]

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes import kafka
from ctp_runbook.probes.kafka import (
    Brokers,
    LagReader,
    NewTopicSpec,
    Tail,
    TopicLook,
    newest_record,
)
from tests.props.rules import rule_of

TOPIC, NOW = "ticks", 1_770_000_000.0


# --- topics -----------------------------------------------------------------------


def partition(leader: int, replicas: list[int], in_sync: list[int]) -> PartitionMetadata:
    """A partition as librdkafka describes it."""
    part = PartitionMetadata()
    part.leader, part.replicas, part.isrs = leader, replicas, in_sync
    return part


# Partitions; replication, in sync, leaderless, lagging.
LOOKS: dict[str, tuple[list[PartitionMetadata], tuple[object, ...]]] = {
    "all well": ([partition(1, [1, 2], [1, 2])] * 2, (2, 2, (), ())),
    "one behind": (
        [partition(1, [1, 2], [1, 2]), partition(1, [1, 2], [1])],
        (2, 1, (), (1,)),
    ),
    "one without a leader": (
        [partition(-1, [1, 2], []), partition(0, [1], [1])],
        (1, 0, (0,), (0,)),
    ),
    "no partition": ([], (0, 0, (), ())),
}


@pytest.mark.parametrize(("parts", "seen"), LOOKS.values(), ids=LOOKS)
def test_a_topic_is_as_its_weakest_partition(
    parts: list[PartitionMetadata], seen: tuple[object, ...]
) -> None:
    """Replication and in-sync replicas are the smallest; who has no leader is named."""
    look = TopicLook(dict(reversed(list(enumerate(parts)))))
    assert (look.replication, look.in_sync, look.leaderless, look.lagging) == seen


class Future:
    """A call that was answered so."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def result(self, timeout: float) -> object:
        """Give the answer, or raise it."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def error(code: int) -> KafkaException:
    """What librdkafka raises."""
    return KafkaException(KafkaError(code))


class Admin:
    """An admin client that answers as it is told to."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    def create_topics(self, topics: list[Any], request_timeout: float) -> dict[str, Future]:
        """One answer a topic."""
        return {topic.topic: Future(self.answers.get(topic.topic)) for topic in topics}

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Future]:
        """The same for each."""
        return {resource: Future(self.answers["configs"]) for resource in resources}


@pytest.fixture
def brokers() -> Brokers:
    """Brokers that nobody is asked of: each test puts its own admin client in."""
    return Brokers("127.0.0.1:1")


SPECS = [NewTopicSpec(name, 1, 1, {"retention.ms": "1"}) for name in ("new", "old")]


def test_only_what_was_not_there_counts_as_created(brokers: Brokers) -> None:
    """Somebody may be quicker; any other refusal is an error that names topic and brokers."""
    there = error(KafkaError.TOPIC_ALREADY_EXISTS)
    brokers._admin = Admin(new=None, old=there)  # type: ignore[assignment]
    assert brokers.create(SPECS, seconds=1) == ("new",)
    brokers._admin = Admin(new=error(KafkaError.POLICY_VIOLATION), old=there)  # type: ignore[assignment]
    with pytest.raises(ProbeError, match=r"^Kafka at 127.0.0.1:1: create new: ") as caught:
        brokers.create(SPECS, seconds=1)
    assert isinstance(caught.value.__cause__, KafkaException)
    brokers._admin = Admin(new=TimeoutError())  # type: ignore[assignment]
    with pytest.raises(ProbeError, match="create new: TimeoutError"):
        brokers.create(SPECS, seconds=1)


@dataclass
class Entry:
    """One setting."""

    value: object


def test_a_broker_may_describe_no_configuration(brokers: Brokers) -> None:
    """None is that, and not an empty one; values are texts."""
    for entries, configs in (({}, None), ({"retention.ms": Entry(1)}, {"retention.ms": "1"})):
        brokers._admin = Admin(configs=entries)  # type: ignore[assignment]
        assert brokers.configs("new", seconds=1) == configs


@pytest.mark.twin
def test_brokers_that_do_not_answer_hold_nobody() -> None:
    """librdkafka would go on trying; each call ends in its own time, with its last error."""
    nobody = Brokers("127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(ProbeError, match=r"^Kafka at 127.0.0.1:1: metadata: "):
        nobody.ids(seconds=1)
    with (
        pytest.raises(ProbeError, match=r"Kafka at 127.0.0.1:1: topic ticks: "),
        Tail.open("127.0.0.1:1", TOPIC, seconds=0.5),
    ):
        pass
    with pytest.raises(ProbeError, match=r"Kafka at 127.0.0.1:1: lag of ingest on ticks: "):
        LagReader("127.0.0.1:1", group="ingest", topic=TOPIC).read(seconds=0.5)
    with pytest.raises(ProbeError, match=r"Kafka at 127.0.0.1:1: topic ticks: "):
        newest_record("127.0.0.1:1", TOPIC, seconds=0.5)
    assert time.monotonic() - began < 10


# --- reading ----------------------------------------------------------------------


@dataclass
class Message:
    """A record, or the word that there is none."""

    part: int = 0
    stamp: int = 0
    data: bytes | None = b""
    trouble: KafkaError | None = None

    def partition(self) -> int:
        """Where it stands."""
        return self.part

    def timestamp(self) -> tuple[int, int]:
        """When it was written, in ms."""
        return 1, self.stamp

    def value(self) -> bytes | None:
        """None is a tombstone."""
        return self.data

    def error(self) -> KafkaError | None:
        """What is wrong, if anything."""
        return self.trouble


_END = KafkaError(KafkaError._PARTITION_EOF)


@dataclass
class Consumer:
    """A consumer of one topic: time stamps of its records by partition, and what is committed."""

    stamps: Mapping[int, list[int]] = field(default_factory=lambda: {0: [1, 2]})
    commits: Mapping[int, int] = field(default_factory=dict)
    trouble: KafkaError | None = None
    word: Message = field(default_factory=lambda: Message(trouble=_END))
    queue: list[Message | None] = field(default_factory=list)
    closed: int = 0

    @property
    def topics(self) -> Mapping[str, Any]:
        """As cluster metadata has them."""
        return {TOPIC: Topic(self.trouble, dict.fromkeys(self.stamps))}

    def list_topics(self, topic: str, timeout: float) -> Consumer:
        """Itself: it has the topics."""
        return self

    def get_watermark_offsets(self, part: TopicPartition, timeout: float) -> tuple[int, int]:
        """From the first record to behind the last."""
        return 0, len(self.stamps[part.partition])

    def committed(self, parts: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """-1001 where nothing is."""
        return [
            TopicPartition(TOPIC, part.partition, self.commits.get(part.partition, -1001))
            for part in parts
        ]

    def assign(self, parts: list[TopicPartition]) -> None:
        """What is polled next: every record from there on, after a word of another kind."""
        self.queue = [None, self.word]
        for part in parts:
            stamps = self.stamps[part.partition][part.offset :]
            self.queue += [Message(part.partition, stamp, b"%d" % stamp) for stamp in stamps]

    def unassign(self) -> None:
        """Nothing is polled any more."""
        self.queue = []

    def poll(self, seconds: float) -> Message | None:
        """The next one."""
        return self.queue.pop(0) if self.queue else None

    def close(self) -> None:
        """Be closed."""
        self.closed += 1


@dataclass
class Topic:
    """A topic of the metadata."""

    error: KafkaError | None
    partitions: Mapping[int, None]


@pytest.fixture
def consuming(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Consumer]:
    """Make the next consumer this one."""

    def use(**facts: Any) -> Consumer:
        consumer = Consumer(**facts)
        monkeypatch.setattr(kafka, "_consumer", lambda servers, **settings: consumer)
        return consumer

    monkeypatch.setattr(time, "time", lambda: NOW)
    return use


# Stamps by partition, commits by partition, and the lag.
LAGS: dict[str, tuple[dict[int, list[int]], dict[int, int], float]] = {
    "all committed": ({0: [100, 200, 300]}, {0: 3}, 0.0),
    "one behind": ({0: [100, 200, 300]}, {0: 2}, 100.0),
    "two behind": ({0: [100, 200, 300]}, {0: 1}, 200.0),
    "committed before the first": ({0: [100, 200, 300]}, {0: 0}, 200.0),
    "the worst partition counts": ({0: [100, 200], 1: [100, 900]}, {0: 1, 1: 1}, 800.0),
    "one partition is done": ({0: [100, 200], 1: [100, 900]}, {0: 1, 1: 2}, 100.0),
    "an empty partition": ({0: [], 1: [100, 200]}, {1: 2}, 0.0),
    "nothing was ever written": ({0: []}, {}, 0.0),
    "no commit at all": ({0: [int(NOW * 1000) - 5000, int(NOW * 1000)]}, {}, 5000.0),
    "no commit, from the future": ({0: [int(NOW * 1000), int(NOW * 1000) + 70]}, {}, 70.0),
    "stamps that go back": ({0: [300, 100]}, {0: 1}, 0.0),
}


@pytest.mark.parametrize(("stamps", "commits", "lag"), LAGS.values(), ids=LAGS)
def test_lag_is_by_record_time(
    stamps: dict[int, list[int]],
    commits: dict[int, int],
    lag: float,
    consuming: Callable[..., Consumer],
) -> None:
    """From the last committed record to the newest; of no commit, the age of the first record."""
    consuming(stamps=stamps, commits=commits)
    assert LagReader("h:1", group="ingest", topic=TOPIC).read(seconds=5) == lag


def test_a_connection_is_kept_until_it_is_the_trouble(consuming: Callable[..., Consumer]) -> None:
    """Connecting takes longer than a look; what failed is closed, and the next look opens another."""
    consumer = consuming(commits={0: 2})
    reader = LagReader("h:1", group="ingest", topic=TOPIC)
    assert (reader.read(seconds=5), reader.read(seconds=5), consumer.closed) == (0.0, 0.0, 0)
    consumer.trouble = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(ProbeError, match=r"^Kafka at h:1: lag of ingest on ticks: .*Unknown topic"):
        reader.read(seconds=5)
    assert consumer.closed == 1
    consumer.trouble = None
    with pytest.raises(ProbeError, match="lag of ingest on ticks: no answer in time"):
        reader.read(seconds=0)
    assert consumer.closed == 2


def test_a_topic_without_partitions_has_no_lag(consuming: Callable[..., Consumer]) -> None:
    """No partition is no answer, and not a lag of zero."""
    consuming(stamps={})
    with pytest.raises(ProbeError, match="it has no partition"):
        LagReader("h:1", group="ingest", topic=TOPIC).read(seconds=5)


def test_the_source_reads_the_group_of_its_label(consuming: Callable[..., Consumer]) -> None:
    """The row's own reader: the query is the topic."""
    consuming(commits={0: 1})
    rule = rule_of("kafka", TOPIC, labels={"group": "ingest"})
    around = Surroundings({"kafka_bootstrap": "h:1"}, Path(), {})
    assert SOURCES["kafka"].measure(rule, around)() == 1.0


def test_the_newest_record_is_the_last_of_the_first_partition(
    consuming: Callable[..., Consumer],
) -> None:
    """An empty topic has none; a tombstone is blank; the connection is given back."""
    consumer = consuming(stamps={0: [100, 200]})
    assert newest_record("h:1", TOPIC, seconds=5) == b"200"
    assert consumer.closed == 1
    consuming(stamps={0: []})
    assert newest_record("h:1", TOPIC, seconds=5) is None


def test_a_tail_begins_behind_what_is_there(consuming: Callable[..., Consumer]) -> None:
    """Only what comes from now on; nothing, a partition's end and a tombstone are blank."""
    consumer = consuming(stamps={0: [100], 1: []})
    with Tail.open("h:1", TOPIC, seconds=5) as tail:
        consumer.queue = [None, Message(trouble=_END), Message(data=None), Message(data=b"new")]
        assert [tail.next(seconds=1) for _ in range(4)] == [b"", b"", b"", b"new"]
    assert consumer.closed == 1


@pytest.mark.parametrize("at", ["open", "next"])
def test_a_tail_that_breaks_is_told(at: str, consuming: Callable[..., Consumer]) -> None:
    """By brokers and topic, whether it broke at once or later; it is closed all the same."""
    consumer = consuming()
    trouble = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    consumer.trouble = trouble if at == "open" else None
    consumer.word = Message(trouble=trouble)
    with (
        pytest.raises(ProbeError, match=r"^Kafka at h:1: topic ticks: "),
        Tail.open("h:1", TOPIC, seconds=5) as tail,
    ):
        tail.next(seconds=1)
    assert consumer.closed == 1


def test_what_goes_wrong_beside_a_tail_is_not_kafka_s(consuming: Callable[..., Consumer]) -> None:
    """Its words are left as they are."""
    consuming()
    with (
        pytest.raises(ProbeError, match=r"^PostgreSQL is down$"),
        Tail.open("h:1", TOPIC, seconds=5),
    ):
        raise ProbeError("PostgreSQL is down")
