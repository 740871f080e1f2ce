"""`infra bootstrap --execute` on a real Docker engine, with the project's own compose file.

The images are stand-ins (tests/props/stand_in_image.py); engine, compose, networks, volumes, ports and
health checks are real. What differs from the file is in ``_project``.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

from ctp_runbook.plan.gate_table import GATES
from tests.props.private_engine import Engine, private_engine
from tests.props.real_chain import ROOT
from tests.props.stand_in_image import BREAK

pytestmark = pytest.mark.timeout(400)

COMPOSE = ROOT / "infra/docker-compose.single-host.yaml"
PASSWORDS = {
    name: f"{name.lower().replace('_', '-')}-geheim-0123"
    for name in (*re.findall(r"\$\{(\w+):\?", COMPOSE.read_text("utf-8")), "ENGINE_DB_PASSWORD")
}
SERVICES = tuple(yaml.safe_load(COMPOSE.read_text("utf-8"))["services"])


@dataclass(frozen=True)
class Project:
    """A copy of infra/ and the engine that it is brought up on."""

    engine: Engine
    infra: Path

    @property
    def argv(self) -> list[str]:
        """The gate's command line."""
        file, settings = self.infra / COMPOSE.name, self.infra / "env/prodlike.env"
        argv = [sys.executable, "-m", "ctp_runbook", "infra", "bootstrap", "--execute"]
        argv += ["--compose-file", str(file), "--env-file", str(settings)]
        argv += ["--project-name", "standin", "--infra", str(self.infra)]
        return [*argv, "--evidence-dir", str(self.infra.parent)]

    def gate(self, *, seconds: float = 60, environ: Mapping[str, str] | None = None) -> Gate:
        """The gate, run to its end."""
        self.evidence.unlink(missing_ok=True)
        given = {**PASSWORDS, **(environ or {})}
        argv = [*self.argv, "--deadline-seconds", str(seconds)]
        process = self.engine.inside(*argv, environ=given)
        said, _ = process.communicate(timeout=seconds + 30)
        assert not [one for one in PASSWORDS.values() if one in said]
        assert self.evidence.exists(), said
        return Gate(process.returncode, said, self.evidence.read_text())

    @property
    def evidence(self) -> Path:
        """Where the gate writes."""
        return self.infra.parent / GATES["bootstrap"].file

    def containers(self) -> dict[str, str]:
        """Each container's id with its start and its restarts, by service."""
        listed = self.engine.docker("ps", "--all", "--quiet", "--no-trunc").split()
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.Id}} {{.State.StartedAt}}'
        lines = self.engine.docker("inspect", "--format", form, *listed) if listed else ""
        return {line.split()[0]: line for line in lines.splitlines()}

    def named(self, service: str) -> str:
        """A service with the name of its container, as the gate tells of it."""
        name = self.engine.docker("inspect", "--format", "{{.Name}}", self._id(service))
        return f"{service}, container {name.strip().lstrip('/')},"

    def wait_for_health(self, service: str, health: str) -> None:
        """Until the engine's own check of a container says so."""
        form, end = "{{.State.Health.Status}}", time.monotonic() + 90
        while self.engine.docker("inspect", "--format", form, self._id(service)).strip() != health:
            assert time.monotonic() < end
            time.sleep(0.2)

    def _id(self, service: str) -> str:
        return self.containers()[service].split()[1]

    def shell(self, service: str, command: str) -> None:
        """Run a command in a container."""
        self.engine.docker("exec", self._id(service), "sh", "-c", command)

    def remove(self, *services: str) -> None:
        """Take away the containers of services."""
        found = self.containers()
        self.engine.docker("rm", "--force", *(found[name].split()[1] for name in services))


@dataclass(frozen=True)
class Gate:
    """What a gate's command ended with."""

    exit_code: int
    said: str
    evidence: str

    def facts(self, name: str) -> dict[str, str]:
        """The lines of the evidence whose key begins with ``name``, after the gate's own."""
        prefix = f"{GATES['bootstrap'].prefix}_{name}"
        lines = (line.partition("=") for line in self.evidence.splitlines())
        return {key: value for key, _, value in lines if key.startswith(prefix)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The engine with its images, and nothing up."""
    with private_engine() as engine:
        engine.tag(_images())
        yield Project(engine, _project(tmp_path_factory.mktemp("project") / "infra"))


def _images() -> set[str]:
    text = (ROOT / "infra/env/prodlike.env").read_text("utf-8")
    return set(re.findall(r"^[A-Z_]+_IMAGE=(\S+)$", text, re.MULTILINE))


def _project(infra: Path) -> Path:
    """infra/ with quick checks, without a limit that not every engine in a container may set."""
    shutil.copytree(ROOT / "infra", infra)
    file = infra / COMPOSE.name
    text = file.read_text("utf-8")
    # Kafka's alone: what never serves is to be called unhealthy soon.
    text = text.replace("retries: 4\n      start_period: 60s", "retries: 4\n      start_period: 5s")
    for key, value in (("interval", "1s"), ("retries", "4")):
        text = re.sub(rf"^(      {key}:) \S+$", rf"\1 {value}", text, flags=re.MULTILINE)
    text = re.sub(r"    ulimits:\n      nofile: .*\n", "", text)
    file.write_text(text, encoding="utf-8")
    return infra


def test_a_bootstrap_killed_in_the_middle_comes_up_healthy_when_run_again(
    project: Project,
) -> None:
    """KILL while compose starts services; the next run ends with every service healthy."""
    process = project.engine.inside(*project.argv, environ=PASSWORDS)
    end = time.monotonic() + 90
    while not 2 <= len(project.containers()) < len(SERVICES):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.kill()
    process.communicate()
    done = project.gate()
    assert done.exit_code == 0, done.said
    healthy = done.facts("OBSERVED_WAIT_HEALTHY_")
    assert len(healthy) == len(SERVICES)
    assert set(healthy.values()) == {"running, healthy"}
    assert set(done.facts("SUCCESS").values()) == {"true"}


def test_running_it_again_changes_nothing(project: Project) -> None:
    """CHANGES=0, and every container is the one it was, never started anew."""
    before = project.containers()
    done = project.gate()
    assert done.exit_code == 0, done.said
    assert set(done.facts("OBSERVED_CHANGES").values()) == {"0"}
    assert project.containers() == before


def test_a_service_that_falls_ill_is_named_with_its_last_lines(project: Project) -> None:
    """Its check fails while its process runs: exit 3, its name, its log; the others are left."""
    before = project.containers()
    project.shell("clickhouse", BREAK)
    project.wait_for_health("clickhouse", "unhealthy")  # the engine's word, after four checks
    done = project.gate(seconds=20)
    assert done.exit_code == 3, done.said
    name = project.named("clickhouse")
    assert f"service {name} is running, unhealthy, expected running, healthy" in done.said
    assert "FATAL: could not map memory" in done.said
    assert set(re.findall(r"service ([\w-]+)[^;]*? is running, ", done.said)) == {"clickhouse"}
    assert project.containers() == before
    project.shell("clickhouse", "rm /tmp/broken")


def test_drift_of_a_running_container_is_no_restart(project: Project) -> None:
    """Another memory bound in the environment: FAILED naming redis, and its container runs on."""
    before = project.containers()
    done = project.gate(environ={"REDIS_MAXMEMORY": "512mb"})
    assert done.exit_code == 3, done.said
    assert f"service {project.named('redis')} runs with another configuration" in done.said
    assert "not restarted under the old engine" in done.said
    assert project.containers() == before


def test_a_service_that_others_wait_for_is_named_too(project: Project) -> None:
    """Kafka never serves, so compose gives up on what depends on it: Kafka's own lines are shown."""
    project.remove("kafka", "kafka-connect", "kafka-exporter", "clickhouse")
    done = project.gate(seconds=40, environ={"KAFKA_HEAP_OPTS": "-Xmx-none"})
    assert done.exit_code == 3, done.said
    assert f"service {project.named('kafka')} is running, unhealthy" in done.said
    assert "Invalid maximum heap size" in done.said


def test_nothing_is_left_on_this_machine(project: Project) -> None:
    """The engine's ports are its own: nobody outside its network listens for it."""
    theirs = Path(f"/proc/{project.engine.pid}/ns/net").readlink()
    assert theirs != Path("/proc/self/ns/net").readlink()
