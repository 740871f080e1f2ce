"""The gate ``kafka-topics``: each topic of topics.toml exists and is as the file says.

A topic that is missing is created. One that is there and differs is a failure that says which
command brings it in line: what the old engine reads is not altered under its feet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.gates.topics import WantedTopic, load_topics
from ctp_runbook.probes.kafka import Brokers, TopicLook

__all__ = ["kafka_tasks"]

_CALL_SECONDS = 10.0
_SETTLE_SECONDS = 0.2


def kafka_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the brokers, create what is missing, look at each topic; none without an address."""
    servers = context.bootstrap_servers
    if not servers:
        return ()
    wanted = load_topics(context.infra("kafka/topics.toml"))
    gate = _KafkaGate(context, servers, wanted)
    return (
        Task("reach_brokers", f"metadata of {servers}", gate.reach, is_vital=True),
        Task(
            "create_topics",
            f"create what is missing of {len(wanted)} topics of {wanted[0].source}",
            gate.create,
            acts=True,
            is_vital=True,
        ),
        *(gate.task(topic) for topic in wanted),
    )


@dataclass(frozen=True)
class _KafkaGate:
    context: GateContext
    servers: str
    wanted: tuple[WantedTopic, ...]

    @cached_property
    def brokers(self) -> Brokers:
        return Brokers(self.servers)

    @property
    def seconds(self) -> float:
        return self.context.deadline.call(_CALL_SECONDS)

    def reach(self) -> Observation:
        """Brokers and their addresses."""
        ids = self.brokers.ids(seconds=self.seconds)
        told = {f"broker_{number}": address for number, address in ids.items()}
        return Observation({"brokers": str(len(ids)), **told})

    def create(self) -> Observation:
        """Create the missing topics, and wait until every broker asked knows them."""
        names = [topic.name for topic in self.wanted]
        known = self.brokers.topics(names, seconds=self.seconds)
        missing = [topic for topic in self.wanted if topic.name not in known]
        if not missing:
            return Observation({"created": "none", "existing": str(len(known))})
        made = self.brokers.create([one.spec for one in missing], seconds=self.seconds)
        while len(self.brokers.topics(names, seconds=self.seconds)) < len(names):
            self.context.tell("waiting until the new topics are known to the brokers")
            if not self.context.deadline.pause(_SETTLE_SECONDS):
                break
        facts = {"created": ", ".join(made) or "none", "existing": str(len(known))}
        return Observation(facts, changes=len(made))

    def task(self, topic: WantedTopic) -> Task:
        """Describe one topic."""
        return Task(topic.name, f"describe {topic.name}", lambda: self.look(topic))

    def look(self, topic: WantedTopic) -> Observation:
        """What the brokers say of a topic, against what its table says."""
        found = self.brokers.topics([topic.name], seconds=self.seconds).get(topic.name)
        if found is None:
            why = f"topic {topic.name}: does not exist; create it: {_GATE} --execute"
            return Observation({"exists": "no"}, (why,))
        configs = self.brokers.configs(topic.name, seconds=self.seconds)
        facts = {
            "partitions": str(len(found.partitions)),
            "replication": str(found.replication),
            "in_sync": str(found.in_sync),
            **{name: (configs or {}).get(name, "not observable") for name in topic.configs},
        }
        problems = (*self._shape(topic, found), *self._configs(topic, configs))
        return Observation(facts, tuple(f"topic {topic.name}: {one}" for one in problems))

    def _shape(self, topic: WantedTopic, found: TopicLook) -> Iterator[str]:
        want, have = topic.partitions, len(found.partitions)
        if have < want:
            fix = f"--alter --topic {topic.name} --partitions {want}"
            yield f"{_differs('partitions', have, want, topic)}; run {self._tool('topics', fix)}"
        elif have > want:
            yield (
                f"{_differs('partitions', have, want, topic)}; partitions cannot be taken away: "
                f"correct {topic.source}, or delete the topic while nothing writes to it"
            )
        if found.replication != topic.replication:
            told = _differs("replication", found.replication, topic.replication, topic)
            fix = "--reassignment-json-file PLAN.json --execute"
            yield f"{told}; run {self._tool('reassign-partitions', fix)}"
        if found.leaderless:
            yield f"partitions {_list(found.leaderless)} have no leader; is a broker down?"
        if found.lagging or found.in_sync < topic.min_insync_replicas:
            yield (
                f"in-sync replicas of partitions {_list(found.lagging)}: {found.in_sync}, expected "
                f"{topic.replication}; wait for the broker that is behind, or see its log"
            )

    def _configs(self, topic: WantedTopic, configs: dict[str, str] | None) -> Iterator[str]:
        if configs is None:
            if not self.context.options.is_rehearsal:
                yield (
                    "the broker describes no configuration, so retention is not observable; "
                    "outside profile rehearsal nothing unobserved passes: let this client "
                    "DescribeConfigs (ACL), or use a broker that answers it"
                )
            return
        for name, want in topic.configs.items():
            if not _same(name, have := configs.get(name, "not set"), want):
                fix = (
                    f"--alter --entity-type topics --entity-name {topic.name} "
                    f"--add-config {name}=[{want}]"
                )
                yield f"{_differs(name, have, want, topic)}; run {self._tool('configs', fix)}"

    def _tool(self, tool: str, arguments: str) -> str:
        """Kafka's own script, run in the compose project where there is one."""
        options = self.context.options
        inside = ""
        if options.compose_file:
            project = f" -p {options.project_name}" if options.project_name else ""
            inside = f"docker compose -f {options.compose_file}{project} exec kafka "
        return f"`{inside}kafka-{tool}.sh --bootstrap-server {self.servers} {arguments}`"


_GATE = "ctp-runbook infra kafka-topics"


def _differs(what: str, have: object, want: object, topic: WantedTopic) -> str:
    return f"{what} {have}, expected {want} ({topic.source})"


def _same(name: str, have: str, want: str) -> bool:
    if name == "cleanup.policy":
        return set(have.split(",")) == set(want.split(","))
    return have == want


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
