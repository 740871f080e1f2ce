"""Facts about gates/kafka.py: topics.toml is read whole, and a topic is held to its table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import PartitionMetadata  # type: ignore[attr-defined]

from ctp_runbook.errors import ConfigError, RunRefused
from ctp_runbook.gates import kafka
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.kafka import load_topics
from ctp_runbook.gates.run import run_gate
from ctp_runbook.probes.kafka import NewTopicSpec, TopicLook

ROOT = Path(__file__).parents[2]
GOOD = """\
[topics."a.b"]
partitions = 6
replication = 1
min_insync_replicas = 1
retention_ms = 1000
cleanup_policy = "delete"
"""


# --- the file ---------------------------------------------------------------------


def test_the_shipped_topics_are_those_of_the_pipeline() -> None:
    """Ticks have six partitions; the five CDC topics and the audit topic one each."""
    topics = load_topics(ROOT / "infra/kafka/topics.toml")
    assert {topic.name: topic.partitions for topic in topics} == {
        "market.ticks.v1": 6,
        "quant_hft_pg.trading_core.orders": 1,
        "quant_hft_pg.trading_core.trades": 1,
        "quant_hft_pg.trading_core.position_detail": 1,
        "quant_hft_pg.trading_core.account_funds": 1,
        "quant_hft_pg.trading_core.risk_events": 1,
        "quant_hft_ops.ops_audit.events": 1,
    }
    assert topics[0].configs["retention.ms"] == str(7 * 24 * 3600 * 1000)


BAD = {
    "no topic": ("", "no topic"),
    "no table": ('topics = "x"', "no topic"),
    "unknown table": (GOOD + "[more]\n", "unknown key"),
    "a topic that is a number": ("topics.x = 3", 'a table [topics."x"]'),
    "unknown key": (GOOD + "partition = 6\n", "did you mean partitions?"),
    "no partitions": (GOOD.replace("partitions = 6", "partitions = 0"), ">= 1"),
    "a text": (GOOD.replace("= 6", '= "6"'), "whole number"),
    "no such policy": (GOOD.replace("delete", "forget"), "compact"),
    "missing": (GOOD.replace("replication = 1\n", ""), "no such key"),
    "more in sync than there are": (
        GOOD.replace("min_insync_replicas = 1", "min_insync_replicas = 2"),
        "at most replication, 1",
    ),
    "no TOML": ("[", "cannot be read as TOML"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """What is no topic is refused before a broker is asked."""
    path = tmp_path / "topics.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_topics(path)
    assert said in str(refused.value)


ENV: dict[str, tuple[str, list[tuple[str, int, int, dict[str, str]]]]] = {
    "a list": (
        "KAFKA_TOPICS='a.b:6:1, c'\nKAFKA_TOPIC_PARTITIONS=3\n",
        [("a.b", 6, 1, {}), ("c", 3, 1, {})],
    ),
    "a list as images take it": (
        "KAFKA_CREATE_TOPICS=a:6:2:compact",
        [("a", 6, 2, {"cleanup.policy": "compact"})],
    ),
    "one by one": (
        "TOPIC_TICKS=a.b\nTOPIC_TICKS_PARTITIONS=6\nTOPIC_TICKS_RETENTION_MS=1000\n"
        "KAFKA_TOPIC_ORDERS=c\nKAFKA_NUM_PARTITIONS=1\nKAFKA_PORT=9092\n",
        [("a.b", 6, 1, {"retention.ms": "1000"}), ("c", 1, 1, {})],
    ),
}


@pytest.mark.parametrize(("text", "topics"), ENV.values(), ids=ENV)
def test_topics_may_stand_in_an_env_file(
    text: str, topics: list[tuple[str, int, int, dict[str, str]]], tmp_path: Path
) -> None:
    """What is said is wanted; what is not said of a topic's configuration is not compared."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env/other.env").write_text("A=1\n")
    file = tmp_path / "env/prod.env"
    file.write_text(text)
    wanted = [NewTopicSpec(*topic) for topic in topics]
    assert list(kafka.topics_of_env(file)) == wanted
    found, read = kafka._wanted(_context(infra=tmp_path))
    assert (found, list(read)) == (file, wanted)
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert kafka._wanted(_context(infra=other, env_file=file))[0] == file


def _context(**options: Any) -> GateContext:
    return GateContext.of(GateOptions(**options), environ={}, tell=print)


BAD_ENV = {
    "no partitions": (
        "KAFKA_TOPICS=a.b",
        "a.b partitions: found not said; expected a whole number",
    ),
    "many partitions": ("KAFKA_TOPICS=a:9999", "'9999'; expected a whole number, 1 to 1000"),
    "a word": ("TOPIC_A=a\nTOPIC_A_PARTITIONS=six", "a partitions: found 'six'"),
    "no policy": ("KAFKA_TOPICS=a:1:1:forget", "found 'forget'; expected delete or compact"),
    "no name": ("KAFKA_TOPICS='a:1 b!:1'", "found 'b!'; expected the name of a topic"),
    "twice": ("KAFKA_TOPICS=a:6,a:3", "a: found the topic a second time, otherwise"),
    "windows line ends": ("KAFKA_TOPICS=a:6\r\nA='b'\r", "NAME=value lines"),
    "a bad line": ("KAFKA_TOPICS=a:6\nA='b", "NAME=value lines"),
    "an empty list": ("KAFKA_TOPICS=", "expected the name of a topic"),
    "more in sync than there are": (
        "TOPIC_A=a\nTOPIC_A_PARTITIONS=1\nTOPIC_A_MIN_INSYNC_REPLICAS=2",
        "at most replication, 1",
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD_ENV.values(), ids=BAD_ENV)
def test_topics_that_are_not_said_whole_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """No number of partitions is invented: by name, and with what to write."""
    file = tmp_path / "t.env"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as refused:
        kafka.topics_of_env(file)
    assert said in str(refused.value)


def test_an_env_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """It names topics, so it is what was looked for: by its line, not as if there were none."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env/a.env").write_bytes(b"export KAFKA_TOPICS=a:6\r\n")
    with pytest.raises(ConfigError, match=r"a\.env: found "):
        kafka._wanted(_context(infra=tmp_path))


def test_all_env_files_that_name_topics_count(tmp_path: Path) -> None:
    """One of them alone would leave the others' topics unlooked at; two ways of one are refused."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env/a.env").write_text("KAFKA_TOPICS=a:6,b:1\n")
    (tmp_path / "env/b.env").write_text("TOPIC_B=b\nTOPIC_B_PARTITIONS=1\nTOPIC_C=c\n")
    with pytest.raises(ConfigError, match="c partitions: found not said"):
        kafka._wanted(_context(infra=tmp_path))
    (tmp_path / "env/b.env").write_text("KAFKA_TOPICS=b:1,c:2\n")
    found, topics = kafka._wanted(_context(infra=tmp_path))
    assert (found, [topic.name for topic in topics]) == (tmp_path / "env", ["a", "b", "c"])
    (tmp_path / "env/b.env").write_text("KAFKA_TOPICS=b:2\n")
    with pytest.raises(ConfigError, match=r"otherwise than in .*a\.env"):
        kafka._wanted(_context(infra=tmp_path))


def test_no_topics_anywhere_are_refused_by_place(tmp_path: Path) -> None:
    """Also beside env files that say nothing of topics."""
    (tmp_path / "a.env").write_text("KAFKA_PORT=1\n")
    options = GateOptions(infra=tmp_path, bootstrap_servers="h:1")
    with pytest.raises(RunRefused, match=r"looked for .*kafka/topics\.toml, .*env/\*\.env.*a\.env"):
        run_gate("kafka-topics", options, environ={})


# --- the gate ---------------------------------------------------------------------

CONFIGS = {"retention.ms": "1000", "min.insync.replicas": "1", "cleanup.policy": "delete"}


def look_of(count: int = 6, *, replicas: int = 1, in_sync: int = 1, leader: int = 1) -> TopicLook:
    """A topic of partitions that are all alike."""
    part = PartitionMetadata()
    part.leader, part.replicas, part.isrs = leader, list(range(replicas)), list(range(in_sync))
    return TopicLook(dict.fromkeys(range(count), part))


@dataclass
class FakeBrokers:
    """Brokers that have this topic, or will once it is created and looked for often enough."""

    look: TopicLook | None = field(default_factory=look_of)
    described: dict[str, str] | None = field(default_factory=lambda: dict(CONFIGS))
    slow: int = 0
    created: list[NewTopicSpec] = field(default_factory=list)

    def ids(self, *, seconds: float) -> dict[int, str]:
        """One broker."""
        return {1: "h:9092"}

    def topics(self, names: Iterable[str], *, seconds: float) -> dict[str, TopicLook]:
        """The topic, if it is there."""
        if self.look is None and self.created and self.slow:
            self.slow -= 1
        elif self.look is None and self.created:
            self.look = look_of()
        return {name: self.look for name in names if self.look is not None}

    def configs(self, name: str, *, seconds: float) -> dict[str, str] | None:
        """What is described of it."""
        return self.described

    def create(self, topics: list[NewTopicSpec], *, seconds: float) -> tuple[str, ...]:
        """Take the order."""
        self.created += topics
        return tuple(topic.name for topic in topics)


def gate(
    brokers: FakeBrokers, folder: Path, monkeypatch: pytest.MonkeyPatch, **flags: Any
) -> GateResult:
    """How the gate goes with these brokers and one topic wanted."""
    (folder / "kafka").mkdir(exist_ok=True)
    (folder / "kafka" / "topics.toml").write_text(GOOD)
    monkeypatch.setattr(kafka, "Brokers", lambda servers: brokers)
    options = {"execute": True, "infra": folder, "bootstrap_servers": "h:9092", **flags}
    return run_gate("kafka-topics", GateOptions(**options), environ={})


def test_a_topic_that_is_as_wanted_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is created; what was seen is in the evidence."""
    brokers = FakeBrokers()
    result = gate(brokers, tmp_path, monkeypatch)
    assert result.is_ok, result.sentence
    assert (result.changes, brokers.created) == (0, [])
    assert [step.name for step in result.steps] == ["reach_brokers", "create_topics", "a.b"]
    assert result.steps[0].facts == {"brokers": "1", "broker_1": "h:9092"}
    assert result.steps[1].facts == {"created": "none", "existing": "1"}
    assert result.steps[2].facts == {
        "partitions": "6",
        "replication": "1",
        "in_sync": "1",
        **CONFIGS,
    }


def test_a_topic_that_is_missing_is_created_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its table says; brokers know of it a moment later."""
    brokers = FakeBrokers(look=None, slow=2)
    result = gate(brokers, tmp_path, monkeypatch)
    assert result.is_ok, result.sentence
    assert brokers.created == [NewTopicSpec("a.b", 6, 1, CONFIGS)]
    assert (result.changes, result.steps[1].facts["created"]) == (1, "a.b")


def test_a_topic_that_does_not_come_fails_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waited for until the deadline, and said to be missing, with what creates it."""
    brokers = FakeBrokers(look=None, slow=10_000)
    result = gate(brokers, tmp_path, monkeypatch, deadline_seconds=0.7)
    assert "topic a.b: does not exist; create it: ctp-runbook infra kafka-topics" in result.sentence
    looked = gate(FakeBrokers(look=None), tmp_path, monkeypatch, execute=False, probe=True)
    assert (looked.exit_code, looked.steps[1].status.value) == (2, "simulated_ok")


WRONG: dict[str, tuple[FakeBrokers, str]] = {
    "too few partitions": (
        FakeBrokers(look_of(3)),
        "partitions 3, expected 6 ({file}); run `kafka-topics.sh --bootstrap-server h:9092 --alter "
        "--topic a.b --partitions 6`",
    ),
    "too many partitions": (
        FakeBrokers(look_of(7)),
        "partitions 7, expected 6 ({file}); partitions cannot be taken away",
    ),
    "more replicas": (
        FakeBrokers(look_of(replicas=2, in_sync=2)),
        "replication 2, expected 1 ({file}); run `kafka-reassign-partitions.sh",
    ),
    "no leader": (
        FakeBrokers(look_of(2, leader=-1)),
        "partitions 0, 1 have no leader; is a broker down?",
    ),
    "a replica behind": (
        FakeBrokers(look_of(replicas=1, in_sync=0)),
        "in-sync replicas of partitions 0, 1, 2, 3, 4, 5: 0, expected 1; wait for the broker",
    ),
    "another retention": (
        FakeBrokers(described={**CONFIGS, "retention.ms": "5"}),
        "retention.ms 5, expected 1000 ({file}); run `kafka-configs.sh --bootstrap-server h:9092 "
        "--alter --entity-type topics --entity-name a.b --add-config retention.ms=[1000]`",
    ),
    "a setting that is not described": (
        FakeBrokers(described={"retention.ms": "1000", "min.insync.replicas": "1"}),
        "cleanup.policy not set, expected delete",
    ),
    "nothing described": (FakeBrokers(described=None), "the broker describes no configuration, so"),
}


@pytest.mark.parametrize(("brokers", "said"), WRONG.values(), ids=WRONG)
def test_a_topic_that_differs_is_told_with_what_mends_it(
    brokers: FakeBrokers, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not altered under the old engine's feet: the command is for an operator."""
    result = gate(replace(brokers), tmp_path, monkeypatch)
    assert result.exit_code == 3
    assert f"topic a.b: {said.format(file=tmp_path / 'kafka/topics.toml')}" in result.sentence


def test_the_twin_s_broker_need_not_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rehearsal retention is not what is rehearsed; the evidence says it was not seen."""
    result = gate(FakeBrokers(described=None), tmp_path, monkeypatch, profile="rehearsal")
    assert result.is_ok, result.sentence
    assert result.steps[2].facts["retention.ms"] == "not observable"


def test_a_policy_is_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker writes it in an order of its own."""
    described = {**CONFIGS, "cleanup.policy": "delete,compact"}
    monkeypatch.setattr(f"{__name__}.GOOD", GOOD.replace('"delete"', '"compact,delete"'))
    assert gate(FakeBrokers(described=described), tmp_path, monkeypatch).is_ok


TOOLS = {
    "compose": ({"compose_file": Path("c.yaml")}, "`docker compose -f c.yaml exec kafka kafka-"),
    "its project": (
        {"compose_file": Path("c.yaml"), "project_name": "p"},
        "`docker compose -f c.yaml -p p exec kafka kafka-topics.sh --bootstrap-server h:9092",
    ),
}


@pytest.mark.parametrize(("flags", "said"), TOOLS.values(), ids=TOOLS)
def test_kafka_s_script_is_run_where_kafka_is(
    flags: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the container, where there is a compose file."""
    assert said in gate(FakeBrokers(look_of(3)), tmp_path, monkeypatch, **flags).sentence
