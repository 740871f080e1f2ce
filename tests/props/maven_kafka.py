"""The real thing, out of Maven Central: a KRaft broker, Kafka Connect and Debezium's connector.

Jars are fetched once into ``~/.cache/ctp-runbook-tests``. Where Maven or Java is not here, or Maven
Central is out of reach, tests are skipped with that reason; with ``CTP_RUNBOOK_REQUIRE_MAVEN=1``
(CI) they fail instead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.props.small_servers import free_port

__all__ = ["Jars", "fetch_jars", "kafka_broker", "kafka_connect"]

KAFKA, DEBEZIUM = "4.1.0", "3.3.1.Final"
CACHE = Path(os.environ.get("CTP_RUNBOOK_TEST_CACHE", Path.home() / ".cache/ctp-runbook-tests"))
_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_POM = """\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>ctp-runbook</groupId><artifactId>tests</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{0}</groupId><artifactId>{1}</artifactId><version>{2}</version></dependency>"
_SETS = {
    f"kafka-{KAFKA}": (
        ("org.apache.kafka", "kafka_2.13", KAFKA),
        ("org.apache.kafka", "connect-runtime", KAFKA),
        ("org.slf4j", "slf4j-simple", "1.7.36"),
    ),
    f"debezium-{DEBEZIUM}": (("io.debezium", "debezium-connector-postgres", DEBEZIUM),),
}
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Jars:
    """Folders of jars: Kafka with Connect, and Debezium's connector."""

    kafka: Path
    debezium: Path

    def java(self, *words: str) -> list[str]:
        """A command line of a class of Kafka's."""
        return ["java", *_JVM, "-cp", f"{self.kafka}/*", *words]


def fetch_jars() -> Jars:
    """The jars, fetched unless they are here; skips the test where they cannot be."""
    folders = [_fetch(name, dependencies) for name, dependencies in _SETS.items()]
    return Jars(*folders)


def _fetch(name: str, dependencies: tuple[tuple[str, str, str], ...]) -> Path:
    target = CACHE / name
    if target.is_dir():
        return target
    if missing := [tool for tool in ("mvn", "java") if shutil.which(tool) is None]:
        _out_of_reach(f"{' and '.join(missing)} not installed")
    draft = CACHE / f".{name}.{os.getpid()}"
    draft.mkdir(parents=True)
    text = _POM.format(dependencies="".join(_DEPENDENCY.format(*one) for one in dependencies))
    (draft / "pom.xml").write_text(text)
    argv = ["mvn", "-q", "-B", "-f", str(draft / "pom.xml"), "dependency:copy-dependencies"]
    argv += ["-DincludeScope=runtime", f"-DoutputDirectory={draft / 'jars'}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
            _out_of_reach(f"mvn dependency:copy-dependencies: {' '.join(errors[:1])[:300]}")
        with contextlib.suppress(OSError):  # another test run was quicker
            (draft / "jars").rename(target)
    except subprocess.TimeoutExpired:
        _out_of_reach("mvn dependency:copy-dependencies took more than 300 s")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _out_of_reach(why: str) -> None:
    reason = f"no real Kafka: Maven Central is out of reach ({why})"
    if os.environ.get("CTP_RUNBOOK_REQUIRE_MAVEN") == "1":
        pytest.fail(f"{reason}; CTP_RUNBOOK_REQUIRE_MAVEN=1 requires it")
    pytest.skip(reason)


@contextlib.contextmanager
def kafka_broker(jars: Jars, folder: Path) -> Iterator[str]:
    """The address of a one-node KRaft broker that creates no topic by itself."""
    port, controller = free_port(), free_port()
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / "kafka-logs"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }
    file = _properties(folder / "server.properties", settings)
    form = ("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", file)
    subprocess.run(jars.java(*form), check=True, capture_output=True, timeout=240)
    with _running(jars.java("kafka.Kafka", file), folder / "kafka.log"):
        _wait(lambda: _has_brokers(f"127.0.0.1:{port}"), folder / "kafka.log")
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def kafka_connect(
    jars: Jars, folder: Path, *, broker: str, environ: dict[str, str] | None = None
) -> Iterator[str]:
    """The URL of a distributed worker with Debezium's connector, and ``${env:…}`` at hand."""
    port, plugins = free_port(), folder / "plugins"
    plugins.mkdir()
    (plugins / "debezium").symlink_to(jars.debezium)
    settings = {
        "bootstrap.servers": broker,
        "group.id": "tests",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "offset.flush.interval.ms": "1000",
        "scheduled.rebalance.max.delay.ms": "0",
        "listeners": f"http://127.0.0.1:{port}",
        "plugin.path": str(plugins),
        "config.providers": "env",
        "config.providers.env.class": (
            "org.apache.kafka.common.config.provider.EnvVarConfigProvider"
        ),
    }
    for kind in ("offset", "config", "status"):
        settings[f"{kind}.storage.topic"] = f"connect-{kind}"
        settings[f"{kind}.storage.replication.factor"] = "1"
        if kind != "config":
            settings[f"{kind}.storage.partitions"] = "1"
    file = _properties(folder / "connect.properties", settings)
    argv = jars.java("org.apache.kafka.connect.cli.ConnectDistributed", file)
    with _running(argv, folder / "connect.log", environ=environ):
        _wait(lambda: _answers(port, "/connectors"), folder / "connect.log")
        yield f"http://127.0.0.1:{port}"


def _properties(path: Path, settings: dict[str, str]) -> str:
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return str(path)


@contextlib.contextmanager
def _running(
    argv: list[str], log: Path, *, environ: dict[str, str] | None = None
) -> Iterator[None]:
    with log.open("wb") as sink:
        server = subprocess.Popen(
            argv, stdout=sink, stderr=sink, env={**os.environ, **(environ or {})}, cwd=log.parent
        )
    try:
        yield
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(is_there: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not is_there():
        if time.monotonic() > end:
            pytest.fail(f"not up within {_START_SECONDS:g} s:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _has_brokers(address: str) -> bool:
    from ctp_runbook.errors import ProbeError
    from ctp_runbook.probes.kafka import Brokers

    try:
        return bool(Brokers(address).ids(seconds=1.0))
    except ProbeError:
        return False


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
