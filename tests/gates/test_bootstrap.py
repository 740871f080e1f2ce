"""The compose half of the bootstrap gate: nothing that runs is restarted, no silence is health."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.gates.bootstrap import _compose_tasks, bootstrap_tasks
from ctp_runbook.gates.context import GateContext
from ctp_runbook.gates.gate import GateOptions, GateResult, perform
from ctp_runbook.plan.gate_table import GATES
from tests.props.fake_docker import FakeDocker


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    """A project of two services that run as their file says."""
    fake = FakeDocker(tmp_path)
    fake.service("redis")
    fake.service("kafka")
    return fake


def _gate(docker: FakeDocker, *, execute: bool = True, seconds: float = 60.0) -> GateResult:
    compose = docker.bin / "compose.yaml"
    compose.touch()
    options = GateOptions(
        execute=execute,
        probe=not execute,
        compose_file=compose,
        project_name="prodlike",
        deadline_seconds=seconds,
    )
    environ = {"PATH": f"{docker.bin}:{os.environ['PATH']}"}
    context = GateContext.of(options, environ=environ, tell=lambda line: None)
    tasks = _compose_tasks(context)
    steps = perform(tasks, execute=execute, probe=not execute)
    return GateResult(GATES["bootstrap"], not execute, steps)


def test_what_is_up_is_left_alone(docker: FakeDocker) -> None:
    """A second run starts nothing, changes nothing, and `up` says --no-recreate."""
    result = _gate(docker)
    assert result.is_ok, result.sentence
    assert result.changes == 0
    assert "up --detach --no-recreate" in docker.asked()
    assert b"OBSERVED_WAIT_HEALTHY_REDIS=running, healthy\n" in result.evidence()


def test_what_is_missing_is_started(docker: FakeDocker) -> None:
    """A service that is not there is started and counted; the other stays as it was."""
    docker.service("kafka", status="absent", runs="")
    result = _gate(docker)
    assert result.is_ok, result.sentence
    assert result.changes == 1
    assert b"OBSERVED_COMPOSE_UP_STARTED=kafka\n" in result.evidence()


def test_another_configuration_fails_before_anything_is_started(docker: FakeDocker) -> None:
    """A running container that is not the file's is named, and nothing is brought up."""
    docker.service("redis", hash="h2")
    result = _gate(docker)
    assert result.exit_code == 3
    assert "service redis runs with another configuration" in result.sentence
    assert "not restarted under the old engine" in result.sentence
    assert " up " not in docker.asked()


def test_a_service_of_nobody_is_named(docker: FakeDocker) -> None:
    """Without a configuration hash nobody knows what a container runs with."""
    docker.service("redis", runs="")
    assert "config hash none" in _gate(docker).sentence


BAD_HEALTH = {
    "unhealthy": ({"health": "unhealthy"}, "its last lines: FATAL: could not map memory"),
    "no health check": ({"health": ""}, "service kafka has no health check"),
    "restarting": ({"status": "restarting", "health": "starting"}, "kafka is restarting, starting"),
}


@pytest.mark.parametrize(("given", "said"), BAD_HEALTH.values(), ids=BAD_HEALTH)
def test_what_is_not_healthy_is_named(docker: FakeDocker, given: dict[str, str], said: str) -> None:
    """Not healthy within the deadline: by name, with its last log lines or what it lacks."""
    becomes = given.get("health", "healthy")
    docker.service("kafka", becomes=becomes, **given)
    result = _gate(docker, seconds=8.0)
    assert result.exit_code == 3
    assert said in result.sentence
    assert "wait_healthy" in result.sentence


BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    "an unhealthy replica": ({"health": "unhealthy"}, "is running, unhealthy, expected running"),
    "one that exited": ({"status": "exited", "health": ""}, "is exited, no health check"),
    "one without a check": ({"health": ""}, "has no health check"),
    "one of another configuration": ({"runs": "h0"}, "runs with another configuration"),
    "an old one that exited": (
        {"status": "exited", "runs": "h0"},
        "is exited, made with another configuration",
    ),
}


@pytest.mark.parametrize(("given", "said"), BESIDE.values(), ids=BESIDE)
def test_every_container_of_a_service_counts(
    docker: FakeDocker, given: dict[str, Any], said: str
) -> None:
    """One that is well does not speak for another, which is told by its name."""
    docker.beside("p-kafka-2", "kafka", **given)
    result = _gate(docker, execute=False)
    assert result.exit_code == 2
    assert f"service kafka, container p-kafka-2, {said}" in result.sentence


def test_healthy_replicas_are_told_apart(docker: FakeDocker) -> None:
    """Each has its line in the evidence; one of `compose run` is nobody's service."""
    docker.beside("p-kafka-2", "kafka")
    docker.beside("p-kafka-run", "kafka", oneoff=True, health="unhealthy")
    result = _gate(docker)
    assert result.is_ok, result.sentence
    assert b"OBSERVED_WAIT_HEALTHY_KAFKA=running, healthy\n" in result.evidence()
    assert b"OBSERVED_WAIT_HEALTHY_P_KAFKA_2=running, healthy\n" in result.evidence()
    assert b"P_KAFKA_RUN" not in result.evidence()


@pytest.mark.parametrize("ports", [None, ["8000-8010"]], ids=["null", "a range"])
def test_ports_that_are_no_number_stop_nothing(docker: FakeDocker, ports: list[str] | None) -> None:
    """As compose writes a service that publishes none, or takes any of a range."""
    docker.service("kafka", status="absent", runs="", ports=ports)
    result = _gate(docker)
    assert result.is_ok, result.sentence
    assert result.changes == 1


@pytest.mark.twin
def test_a_range_is_taken_when_all_of_it_is(docker: FakeDocker) -> None:
    """Docker looks for a free port of it."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        docker.service("redis", status="absent", runs="", ports=[f"{port}-{port}"])
        held = _gate(docker).sentence
        docker.service("redis", status="absent", runs="", ports=[f"{port}-{port + 40}"])
        assert _gate(docker).is_ok
    assert f"port {port} of service redis is held by" in held


def test_a_port_held_by_someone_else(docker: FakeDocker) -> None:
    """Where `up` itself runs into a port that is taken, its words stand with what to run."""
    docker.service("redis", status="absent", runs="")
    docker.set(up_fails="Bind for 127.0.0.1:6379 failed: port is already allocated")
    result = _gate(docker)
    assert result.exit_code == 3
    assert "port is already allocated" in result.sentence
    assert "`ss -ltnp` says who" in result.sentence


@pytest.mark.twin
def test_a_held_port_is_seen_before_up(docker: FakeDocker) -> None:
    """A listener on the port of a service that is not up fails the gate before `up`, by name."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        docker.service("redis", status="absent", runs="", ports=[port])
        result = _gate(docker)
    assert f"port {port} of service redis is held by" in result.sentence
    assert f"pid {os.getpid()}" in result.sentence
    assert " up " not in docker.asked()


def test_compose_that_refuses_is_quoted(docker: FakeDocker) -> None:
    """A file that compose refuses (a password not given) ends the gate with compose's words."""
    docker.set(refuses="required variable REDIS_PASSWORD is missing a value")
    result = _gate(docker)
    assert "REDIS_PASSWORD is missing a value" in result.sentence
    assert [step.status.value for step in result.steps[1:]] == ["not_run"] * 3


def test_a_probe_starts_nothing(docker: FakeDocker) -> None:
    """--probe compares and looks at health, and never calls `up`."""
    docker.service("kafka", status="exited", health="")
    result = _gate(docker, execute=False)
    assert result.exit_code == 2
    assert "kafka is exited" in result.sentence
    assert " up " not in docker.asked()


def test_a_project_needs_its_name(tmp_path: Path) -> None:
    """Without --project-name nobody knows whose containers run: refused; a missing file too."""
    (tmp_path / "compose.yaml").touch()
    for options, said in (
        (GateOptions(compose_file=tmp_path / "compose.yaml"), "--project-name"),
        (GateOptions(compose_file=tmp_path / "none.yaml", project_name="x"), "no such file"),
    ):
        context = GateContext.of(options, environ={}, tell=print)
        with pytest.raises(RunRefused, match=said):
            _compose_tasks(context)


def test_without_docker(docker: FakeDocker) -> None:
    """No docker on PATH is said, with the profile that needs none."""
    (docker.bin / "docker").unlink()
    (docker.bin / "compose.yaml").touch()
    options = GateOptions(
        execute=True, compose_file=docker.bin / "compose.yaml", project_name="prodlike"
    )
    context = GateContext.of(options, environ={"PATH": str(docker.bin)}, tell=print)
    steps = perform(_compose_tasks(context), execute=True)
    assert "no `docker` on PATH" in steps[0].reason


def test_a_service_that_the_file_does_not_have_is_named(docker: FakeDocker) -> None:
    """Somebody runs it under the project's name: nothing is started beside it."""
    docker.service("redis", hash="", runs="h1")
    docker.set(hides=["redis"])
    result = _gate(docker)
    assert "service redis runs and is not in" in result.sentence
    assert " up " not in docker.asked()


def test_another_compose_at_work_is_waited_for(docker: FakeDocker) -> None:
    """One whose gate was killed may have made the container a moment ago."""
    docker.service("kafka", status="absent", runs="")
    docker.set(in_use=1)
    result = _gate(docker)
    assert result.is_ok, result.sentence
    assert docker.asked().count("up --detach") == 2


def test_another_compose_that_does_not_end_is_told(docker: FakeDocker) -> None:
    """At the deadline, in docker's words."""
    docker.service("kafka", status="absent", runs="")
    docker.set(in_use=999)
    result = _gate(docker, seconds=6.0)
    assert result.exit_code == 3
    assert "is already in use by container 7" in result.sentence


def test_a_container_that_was_replaced_is_told(docker: FakeDocker) -> None:
    """It ran, and another runs in its place: the old engine's connection is gone."""
    docker.service("redis", replaced=True)
    result = _gate(docker)
    assert "service redis was replaced while it ran" in result.sentence


def test_what_failed_while_up_ran_is_shown_with_its_logs(docker: FakeDocker) -> None:
    """Compose gives up on a service whose dependency is unhealthy: that one is named, too."""
    docker.service("redis", health="unhealthy")
    docker.service("kafka", status="exited", health="")
    docker.set(up_fails="dependency failed to start: container redis is unhealthy")
    result = _gate(docker)
    assert "dependency failed to start" in result.sentence
    assert "service redis is running, unhealthy, expected running, healthy" in result.sentence
    assert "service kafka is exited, no health check" in result.sentence
    assert "its last lines: FATAL: could not map memory" in result.sentence


def test_a_look_that_is_cut_short_does_not_hide_what_was_seen(docker: FakeDocker) -> None:
    """Docker hangs in the last call before the deadline: the service that is not healthy is told."""
    docker.service("redis", health="starting")
    docker.set(hangs_after=4)
    late = _gate(docker, seconds=10.0)
    assert "service redis is running, starting, expected running, healthy" in late.sentence
    assert "a later look was cut short by the deadline" in late.sentence


@pytest.mark.parametrize("answered", [2, 3], ids=["before it is started", "and after"])
def test_a_deadline_that_is_used_up_does_not_hide_who_is_ill(
    docker: FakeDocker, answered: int
) -> None:
    """Docker, slow on a busy host, has the deadline out around `up`: the service is named all the same."""
    docker.service("redis", health="unhealthy")
    docker.set(hangs_after=answered - 1, hangs=1)
    late = _gate(docker, seconds=6.0)
    assert late.exit_code == 3
    assert "service redis is running, unhealthy, expected running, healthy" in late.sentence
    assert "its last lines: FATAL: could not map memory" in late.sentence


def test_what_ended_for_good_is_not_waited_for(docker: FakeDocker) -> None:
    """An exited container, or one without a check, mends itself by no waiting."""
    docker.service("kafka", status="exited", health="")
    docker.service("redis", health="")
    began = time.monotonic()
    result = _gate(docker, execute=False)
    assert time.monotonic() - began < 30
    assert "kafka is exited" in result.sentence
    assert "service redis has no health check" in result.sentence


# Which flags are set, and which steps the gate then has.
PARTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "a database": (
        {"postgres_dsn": "dbname=d"},
        ["migrate_timescale", "observe_timescale", "observe_redis"],
    ),
    "Redis": ({"redis_url": "redis://h"}, ["observe_redis"]),
    "endpoints": (
        {"endpoints": {"front": "tcp://h:1", "page": "http://h"}},
        ["observe_front", "observe_page"],
    ),
    "a compose file": (
        {"compose_file": Path("infra/docker-compose.single-host.yaml"), "project_name": "p"},
        [
            *("compose_config", "compare_running", "compose_up", "wait_healthy"),
            *("migrate_timescale", "observe_timescale", "observe_redis"),
        ],
    ),
    "a compose file of the twin": (
        {"compose_file": Path("none.yaml"), "project_name": "p", "profile": "rehearsal"},
        [],
    ),
}


@pytest.mark.parametrize(("flags", "names"), PARTS.values(), ids=PARTS)
def test_a_gate_looks_at_what_is_named(flags: dict[str, Any], names: list[str]) -> None:
    """A compose file brings its own database and Redis; the twin has no containers."""
    context = GateContext.of(GateOptions(**flags), environ={}, tell=print)
    tasks = bootstrap_tasks(context)
    assert [task.name for task in tasks] == names
    assert [task.name for task in tasks if task.acts] == [
        name for name in names if name in ("compose_up", "migrate_timescale")
    ]
