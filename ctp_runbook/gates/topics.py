"""``infra/kafka/topics.toml``: the topics as they are to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import ConfigError, Problem
from ctp_runbook.plan.checked_toml import Field, TomlText, read_toml
from ctp_runbook.probes.kafka import NewTopicSpec

__all__ = ["WantedTopic", "load_topics"]

_FOR_EVER = -1
_FIELDS = {
    "partitions": Field("integer", low=1, high=1000),
    "replication": Field("integer", low=1, high=10),
    "min_insync_replicas": Field("integer", low=1, high=10),
    "retention_ms": Field("integer", low=_FOR_EVER, high=1e15),
    "cleanup_policy": Field("text", choices=("delete", "compact", "compact,delete")),
}


@dataclass(frozen=True)
class WantedTopic:
    """One topic of the file; ``source`` is the file's name, for sentences."""

    name: str
    partitions: int
    replication: int
    min_insync_replicas: int
    retention_ms: int
    cleanup_policy: str
    source: str

    @property
    def configs(self) -> dict[str, str]:
        """Kafka's names and spellings of what the file says."""
        return {
            "retention.ms": str(self.retention_ms),
            "min.insync.replicas": str(self.min_insync_replicas),
            "cleanup.policy": self.cleanup_policy,
        }

    @property
    def spec(self) -> NewTopicSpec:
        """How to create it."""
        return NewTopicSpec(self.name, self.partitions, self.replication, self.configs)


def load_topics(path: Path) -> tuple[WantedTopic, ...]:
    """The topics of a file, in its order. Raises ConfigError with every problem."""
    text = read_toml(path, flag="--infra")
    table = text.table()
    topics = table.get("topics")
    problems = [
        text.problem((key,), "an unknown key", "topics") for key in table if key != "topics"
    ]
    if not isinstance(topics, dict) or not topics:
        problems.append(text.problem(("topics",), "no topic", 'a table [topics."NAME"] a topic'))
        raise ConfigError(problems)
    for name, fields in topics.items():
        problems += _problems(text, name, fields)
    if problems:
        raise ConfigError(problems)
    return tuple(WantedTopic(name, **fields, source=str(path)) for name, fields in topics.items())


def _problems(text: TomlText, name: str, fields: object) -> Iterator[Problem]:
    path = ("topics", name)
    if not isinstance(fields, dict):
        yield text.problem(path, "no table", f'a table [topics."{name}"]')
        return
    found = list(text.check(path, fields, _FIELDS))
    yield from found
    if not found and fields["min_insync_replicas"] > fields["replication"]:
        yield text.problem(
            (*path, "min_insync_replicas"),
            str(fields["min_insync_replicas"]),
            f"at most replication, {fields['replication']}: nothing could be written else",
        )
