"""The gate ``kafka-topics``: each topic of topics.toml exists and is as the file says.

A topic that is missing is created. One that is there and differs is a failure that says which
command brings it in line: what the old engine reads is not altered under its feet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ConfigError, Problem, RunRefused
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.plan.checked_toml import Field, TomlText, read_toml
from ctp_runbook.plan.template_text import read_variables
from ctp_runbook.probes.kafka import Brokers, NewTopicSpec, TopicLook

__all__ = ["kafka_tasks", "load_topics", "topics_of_env"]

_CALL_SECONDS = 10.0
_SETTLE_SECONDS = 0.2
_FOR_EVER = -1
_FIELDS = {
    "partitions": Field("integer", low=1, high=1000),
    "replication": Field("integer", low=1, high=10),
    "min_insync_replicas": Field("integer", low=1, high=10),
    "retention_ms": Field("integer", low=_FOR_EVER, high=1e15),
    "cleanup_policy": Field("text", choices=("delete", "compact", "compact,delete")),
}
# Kafka's names of what the file says.
_CONFIGS = {
    "retention.ms": "retention_ms",
    "min.insync.replicas": "min_insync_replicas",
    "cleanup.policy": "cleanup_policy",
}
_PLACES = ("kafka/topics.toml", "topics.toml", "kafka/*.env", "env/*.env", "*.env")
# Variables that list topics, and how those end that say something of one.
_LISTS = frozenset({"KAFKA_TOPICS", "KAFKA_CREATE_TOPICS", "KAFKA_TOPIC_LIST", "TOPICS"})
_ENDINGS = {
    "PARTITIONS": "partitions",
    "REPLICATION": "replication",
    "REPLICATION_FACTOR": "replication",
    "MIN_INSYNC_REPLICAS": "min_insync_replicas",
    "RETENTION_MS": "retention_ms",
    "CLEANUP_POLICY": "cleanup_policy",
}
_GATE = "ctp-runbook infra kafka-topics"


# --- infra/kafka/topics.toml ------------------------------------------------------


def load_topics(path: Path) -> tuple[NewTopicSpec, ...]:
    """Read the topics of a file, in its order. Raises ConfigError with every problem."""
    text = read_toml(path, flag="--infra")
    table = text.table()
    topics = table.pop("topics", None)
    problems = [text.problem((key,), "an unknown key", "topics") for key in table]
    if not isinstance(topics, dict) or not topics:
        problems.append(text.problem(("topics",), "no topic", 'a table [topics."NAME"] a topic'))
        raise ConfigError(problems)
    for name, fields in topics.items():
        problems += _problems(text, name, fields)
    if problems:
        raise ConfigError(problems)
    return tuple(_spec(name, fields) for name, fields in topics.items())


def _spec(name: str, fields: Mapping[str, Any]) -> NewTopicSpec:
    configs = {key: str(fields[own]) for key, own in _CONFIGS.items()}
    return NewTopicSpec(name, fields["partitions"], fields["replication"], configs)


def _problems(text: TomlText, name: str, fields: object) -> Iterator[Problem]:
    path = ("topics", name)
    if not isinstance(fields, dict):
        yield text.problem(path, "no table", f'a table [topics."{name}"]')
    elif problems := list(text.check(path, fields, _FIELDS)):
        yield from problems
    elif fields["min_insync_replicas"] > (most := fields["replication"]):
        expected = f"at most replication, {most}: nothing could be written else"
        where = (*path, "min_insync_replicas")
        yield text.problem(where, str(fields["min_insync_replicas"]), expected)


def _wanted(context: GateContext) -> tuple[Path, tuple[NewTopicSpec, ...]]:
    """The file, or the folder of files, that says what topics there are to be, and those. Raises
    RunRefused for no such."""
    own = context.options.env_file
    try:
        files = context.infra_files(*_PLACES, says=_says_topics).files
    except RunRefused:
        if own is None or not _says_topics(own):
            raise
        files = (own,)
    if files[0].suffix == ".toml":
        return files[0], load_topics(files[0])
    return (files[0].parent if files[1:] else files[0]), _of_all(files)


def _of_all(files: tuple[Path, ...]) -> tuple[NewTopicSpec, ...]:
    """The topics of several env files: one of them alone would leave those of the others unlooked at."""
    first: dict[str, tuple[Path, NewTopicSpec]] = {}
    problems = list[Problem]()
    for file in files:
        for topic in topics_of_env(file):
            where, same = first.setdefault(topic.name, (file, topic))
            if same != topic:
                problems.append(_said_otherwise(file, topic.name, where))
    if problems:
        raise ConfigError(problems)
    return tuple(topic for _, topic in first.values())


def _said_otherwise(path: Path, name: str, first: Path) -> Problem:
    found = f"the topic a second time, otherwise than in {first}"
    return Problem(str(path), 0, name, found, "each topic once", "say it in one place")


def _says_topics(path: Path) -> bool:
    """True where a file names topics, also where it cannot be read: that is told when it is."""
    if path.suffix == ".toml":
        return True
    try:
        names = [*read_variables(path, environ={})]
    except OSError:
        return False
    except ValueError:
        text = path.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff")
        names = re.findall(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=", text, re.MULTILINE)
    return any(key in _LISTS or _one_topic(key) for key in names)


def _one_topic(key: str) -> str:
    """What a variable names its topic by, blank for one that names none."""
    match = re.fullmatch(r"(?:KAFKA_)?TOPIC_(\w+)", key)
    return match[1] if match and not match[1].endswith(tuple(_ENDINGS)) else ""


def topics_of_env(path: Path) -> tuple[NewTopicSpec, ...]:
    """Read the topics of an env file: ``KAFKA_TOPICS=NAME:PARTITIONS[:REPLICATION[:POLICY]],…``, or
    ``TOPIC_X=NAME`` with ``TOPIC_X_PARTITIONS`` and its like.

    ``KAFKA_TOPIC_PARTITIONS`` and its like hold for those that do not say it themselves. What is
    not said of a topic's configuration is not compared; one broker replicates nothing, so
    replication is 1 where nothing is said. Raises ConfigError with every problem.
    """
    try:
        values = read_variables(path, environ={})
    except (OSError, ValueError) as error:
        mend = Problem(str(path), 0, "", str(error), "NAME=value lines", "mend the file")
        raise ConfigError([mend]) from error
    usual = _said(values, "KAFKA_", "KAFKA_TOPIC_", "KAFKA_DEFAULT_", "KAFKA_NUM_", "TOPIC_")
    topics, problems = dict[str, dict[str, str]](), list[Problem]()
    for key, value in values.items():
        if key in _LISTS:
            for item in re.split(r"[,;\s]+", value.strip(",; \t\n")):
                name, *said = item.split(":")
                order = ("partitions", "replication", "cleanup_policy")
                fields = {**usual, **dict(zip(order, said, strict=False))}
                if topics.setdefault(name, fields) != fields:
                    problems.append(_said_otherwise(path, name, path))
        elif _one_topic(key):
            fields = {**usual, **_said(values, f"{key}_")}
            if topics.setdefault(value, fields) != fields:
                problems.append(_said_otherwise(path, value, path))
    for name, fields in topics.items():
        problems += _env_problems(path, name, fields)
    if problems:
        raise ConfigError(problems)
    return tuple(_env_spec(name, fields) for name, fields in topics.items())


def _said(values: Mapping[str, str], *starts: str) -> dict[str, str]:
    return {
        own: value
        for start in starts
        for ending, own in _ENDINGS.items()
        if (value := values.get(start + ending, ""))
    }


def _env_problems(path: Path, name: str, fields: Mapping[str, str]) -> Iterator[Problem]:
    remedy = 'write NAME:PARTITIONS:REPLICATION, or kafka/topics.toml with a table [topics."NAME"]'
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        yield Problem(str(path), 0, "", repr(name), "the name of a topic", remedy)
        return
    for own, rule in _FIELDS.items():
        value = fields.get(own, "")
        if not value and own != "partitions":
            continue
        if rule.choices:
            is_good, expected = value in rule.choices, " or ".join(rule.choices)
        else:
            is_good = bool(re.fullmatch(r"-?\d{1,15}", value)) and (
                rule.low <= int(value) <= rule.high
            )
            expected = f"a whole number, {rule.low:g} to {rule.high:g}"
        if not is_good:
            found = repr(value) if value else "not said"
            yield Problem(str(path), 0, f"{name} {own}", found, expected, remedy)
            return
    in_sync, most = int(fields.get("min_insync_replicas", 1)), int(fields.get("replication", 1))
    if in_sync > most:
        expected = f"at most replication, {most}: nothing could be written else"
        yield Problem(str(path), 0, f"{name} min_insync_replicas", f"{in_sync}", expected, remedy)


def _env_spec(name: str, fields: Mapping[str, str]) -> NewTopicSpec:
    configs = {key: fields[own] for key, own in _CONFIGS.items() if own in fields}
    return NewTopicSpec(name, int(fields["partitions"]), int(fields.get("replication", 1)), configs)


# --- the gate ---------------------------------------------------------------------


def kafka_tasks(context: GateContext) -> tuple[Task, ...]:
    """Reach the brokers, create what is missing, look at each topic; none without an address."""
    servers = context.bootstrap_servers
    if not servers:
        return ()
    file, wanted = _wanted(context)
    gate = _KafkaGate(context, servers, file, wanted)
    create = f"create what is missing of {len(wanted)} topics of {file}"
    return (
        Task("reach_brokers", f"metadata of {servers}", gate.reach, is_vital=True),
        Task("create_topics", create, gate.create, acts=True, is_vital=True),
        *(
            Task(topic.name, f"describe {topic.name}", partial(gate.look, topic))
            for topic in wanted
        ),
    )


@dataclass(frozen=True)
class _KafkaGate:
    context: GateContext
    servers: str
    file: Path
    wanted: tuple[NewTopicSpec, ...]

    @cached_property
    def brokers(self) -> Brokers:
        return Brokers(self.servers)

    @property
    def seconds(self) -> float:
        return self.context.deadline.call(_CALL_SECONDS)

    def reach(self) -> Observation:
        """Ask for the brokers and their addresses."""
        ids = self.brokers.ids(seconds=self.seconds)
        addresses = {f"broker_{number}": address for number, address in ids.items()}
        return Observation({"brokers": str(len(ids)), **addresses})

    def create(self) -> Observation:
        """Create the missing topics, and wait until every broker asked knows them."""
        names = [topic.name for topic in self.wanted]
        known = self.brokers.topics(names, seconds=self.seconds)
        missing = [topic for topic in self.wanted if topic.name not in known]
        created = self.brokers.create(missing, seconds=self.seconds) if missing else ()
        while missing and len(self.brokers.topics(names, seconds=self.seconds)) < len(names):
            self.context.tell("waiting until the new topics are known to the brokers")
            if not self.context.deadline.pause(_SETTLE_SECONDS):
                break
        facts = {"created": ", ".join(created) or "none", "existing": str(len(known))}
        return Observation(facts, changes=len(created))

    def look(self, topic: NewTopicSpec) -> Observation:
        """Compare what the brokers say of a topic with what its table says."""
        look = self.brokers.topics([topic.name], seconds=self.seconds).get(topic.name)
        if look is None:
            why = f"topic {topic.name}: does not exist; create it: {_GATE} --execute"
            return Observation({"exists": "no"}, (why,))
        configs = self.brokers.configs(topic.name, seconds=self.seconds)
        facts = {
            "partitions": str(len(look.partitions)),
            "replication": str(look.replication),
            "in_sync": str(look.in_sync),
            **{name: (configs or {}).get(name, "not observable") for name in topic.configs},
        }
        problems = (*self._shape(topic, look), *self._configs(topic, configs))
        return Observation(facts, tuple(f"topic {topic.name}: {problem}" for problem in problems))

    def _shape(self, topic: NewTopicSpec, look: TopicLook) -> Iterator[str]:
        want, have = topic.partitions, len(look.partitions)
        if have < want:
            fix = f"--alter --topic {topic.name} --partitions {want}"
            yield f"{self._differs('partitions', have, want)}; run {self._tool('topics', fix)}"
        elif have > want:
            yield (
                f"{self._differs('partitions', have, want)}; partitions cannot be taken away: "
                f"correct {self.file}, or delete the topic while nothing writes to it"
            )
        if look.replication != topic.replication:
            differs = self._differs("replication", look.replication, topic.replication)
            fix = "--reassignment-json-file PLAN.json --execute"
            yield f"{differs}; run {self._tool('reassign-partitions', fix)}"
        if look.leaderless:
            yield f"partitions {_list(look.leaderless)} have no leader; is a broker down?"
        if look.lagging or look.in_sync < int(topic.configs.get("min.insync.replicas", 1)):
            yield (
                f"in-sync replicas of partitions {_list(look.lagging)}: {look.in_sync}, expected "
                f"{topic.replication}; wait for the broker that is behind, or see its log"
            )

    def _configs(self, topic: NewTopicSpec, configs: dict[str, str] | None) -> Iterator[str]:
        if configs is None:
            # The twin's broker describes none: there retention is not what is rehearsed.
            if not self.context.options.is_rehearsal:
                yield (
                    "the broker describes no configuration, so retention is not observable; "
                    "outside profile rehearsal nothing unobserved passes: let this client "
                    "DescribeConfigs (ACL), or use a broker that answers it"
                )
            return
        for name, want in topic.configs.items():
            have = configs.get(name, "not set")
            # A policy is a set, which the broker writes in an order of its own.
            if sorted(have.split(",")) != sorted(want.split(",")):
                fix = (
                    f"--alter --entity-type topics --entity-name {topic.name} "
                    f"--add-config {name}=[{want}]"
                )
                yield f"{self._differs(name, have, want)}; run {self._tool('configs', fix)}"

    def _differs(self, what: str, have: object, want: object) -> str:
        return f"{what} {have}, expected {want} ({self.file})"

    def _tool(self, tool: str, arguments: str) -> str:
        """Return a call of Kafka's own script, in the compose project where there is one."""
        options = self.context.options
        inside = ""
        if options.compose_file:
            project = f" -p {options.project_name}" if options.project_name else ""
            inside = f"docker compose -f {options.compose_file}{project} exec kafka "
        return f"`{inside}kafka-{tool}.sh --bootstrap-server {self.servers} {arguments}`"


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
