"""Stand-ins for infrastructure that a twin without a data plane lacks, kept in the real Valkey.

Kafka, ClickHouse and Debezium are not part of such a twin. What their gates would look at is a
hash in Valkey that says how many partitions a topic has: a gate that reads it observes a
server's real state, and a wrong value in it fails the gate as a wrong topic would.
"""

from __future__ import annotations

from ctp_runbook.rehearsal.engine.bridge import bridge_client, set_compat
from ctp_runbook.rehearsal.twin import Twin

__all__ = ["PARTITIONS", "TOPIC", "TOPICS", "read_topics", "write_seams", "write_topic"]

TOPICS = "quant_hft:twin:topics"
TOPIC, PARTITIONS = "market.ticks.v1", 6


def write_seams(twin: Twin) -> None:
    """The state a fresh twin starts from: the topic as it should be, the Redis path open."""
    if not twin.has_plane:
        write_topic(twin, partitions=PARTITIONS)
    set_compat(twin.valkey_dir, enabled=True)


def write_topic(twin: Twin, *, partitions: int) -> None:
    """Give the stand-in topic so many partitions."""
    with bridge_client(twin.valkey_dir, name="seams") as client:
        client.hset(TOPICS, TOPIC, partitions)


def read_topics(twin: Twin) -> dict[str, str]:
    """Stand-in topics and their partitions, as Valkey has them."""
    with bridge_client(twin.valkey_dir, name="seams") as client:
        return dict(client.hgetall(TOPICS))
