"""Facts about probes/compose.py: what a project's file says and what runs, in docker's words."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.compose import Compose, Container, port_holder
from tests.props.fake_docker import FakeDocker

FILE = Path("compose.yaml")


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    """A project of two services; kafka is not there."""
    fake = FakeDocker(tmp_path)
    fake.service("redis", ports=[6379, 6380])
    fake.service("kafka", status="absent", runs="", hash="h2")
    return fake


def compose(docker: FakeDocker, *, env_file: Path | None = None) -> Compose:
    """The project, with the fake first on PATH."""
    environ = {"PATH": f"{docker.bin}:{os.environ['PATH']}"}
    return Compose(FILE, "prodlike", env_file, environ)


def script(folder: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which ``name`` is this shell script, and nothing else is on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


# --- a container ------------------------------------------------------------------

# Status, health; is it running, healthy, over; in words.
CONTAINERS = {
    ("running", "healthy"): (True, True, False, "running, healthy"),
    ("running", "starting"): (True, False, False, "running, starting"),
    ("running", ""): (True, False, False, "running, no health check"),
    ("restarting", "healthy"): (True, False, False, "restarting, healthy"),
    ("paused", "healthy"): (True, False, False, "paused, healthy"),
    ("created", ""): (False, False, False, "created, no health check"),
    ("exited", "unhealthy"): (False, False, True, "exited, unhealthy"),
    ("dead", ""): (False, False, True, "dead, no health check"),
}


@pytest.mark.parametrize(("state", "seen"), CONTAINERS.items())
def test_no_check_is_no_health(state: tuple[str, str], seen: tuple[object, ...]) -> None:
    """Healthy is only what runs and says so."""
    container = Container("redis", "id", *state, config_hash="h")
    got = (container.is_running, container.is_healthy, container.is_over, container.sentence)
    assert got == seen


# --- a project --------------------------------------------------------------------


def test_what_the_file_says(docker: FakeDocker) -> None:
    """A hash a service, and the ports of this host that each wants."""
    project = compose(docker, env_file=Path("prod.env"))
    assert project.hashes(seconds=5) == {"redis": "h1", "kafka": "h2"}
    assert project.published(seconds=5) == {"redis": (6379, 6380), "kafka": ()}
    assert "compose -f compose.yaml -p prodlike --env-file prod.env config" in docker.asked()


def test_what_runs(docker: FakeDocker) -> None:
    """The containers of the project by service, without those of `compose run`."""
    found = compose(docker).containers(seconds=5)
    assert found == {"redis": Container("redis", "redis", "running", "healthy", "h1")}
    assert "--filter label=com.docker.compose.project=prodlike" in docker.asked()
    assert "--filter label=com.docker.compose.oneoff=False" in docker.asked()
    docker.service("redis", status="absent")
    assert compose(docker).containers(seconds=5) == {}


def test_a_container_that_says_little_is_read_all_the_same(tmp_path: Path) -> None:
    """Without labels it goes by its name, without a health check it has no health."""
    look = json.dumps([{"Id": "7", "Name": "/x", "Config": {"Labels": None}, "State": {}}])
    environ = script(tmp_path / "bin", "docker", f"case $1 in ps) echo 7;; *) echo '{look}';; esac")
    found = Compose(FILE, "p", None, environ).containers(seconds=5)
    assert found == {"/x": Container("/x", "7", "unknown", "", "")}


def test_a_compose_without_json_publishes_nothing(tmp_path: Path) -> None:
    """An older one knows no --format: then nobody's port is looked for."""
    environ = script(tmp_path / "bin", "docker", 'case "$*" in *json*) exit 1;; esac')
    assert Compose(FILE, "p", None, environ).published(seconds=5) == {}
    environ = script(tmp_path / "bin", "docker", "echo services:")
    assert Compose(FILE, "p", None, environ).published(seconds=5) == {}


def test_logs_are_the_last_lines(tmp_path: Path) -> None:
    """Of both streams, on one line; and where they cannot be had, why."""
    container = Container("redis", "id", "exited", "", "h")
    environ = script(tmp_path / "bin", "docker", "printf 'a\\n\\n  b\\n'; echo c >&2")
    project = Compose(FILE, "p", None, environ)
    assert project.logs(container, seconds=5) == "a | b | c"
    script(tmp_path / "bin", "docker", "true")
    assert project.logs(container, seconds=5) == "no log"
    script(tmp_path / "bin", "docker", "while :; do :; done")
    assert project.logs(container, seconds=0.3) == "docker logs: no end within 0 s"


def test_up_leaves_alone_what_runs(docker: FakeDocker) -> None:
    """Whatever its configuration."""
    compose(docker).up(seconds=5)
    assert "up --detach --no-recreate" in docker.asked()
    assert set(compose(docker).containers(seconds=5)) == {"redis", "kafka"}


UP_FAILS = {
    "port is already allocated": True,
    "listen tcp: Address already in use": True,
    "Ports are not available": True,
    "no such image": False,
}


@pytest.mark.parametrize(("words", "is_port"), UP_FAILS.items())
def test_up_that_fails_is_quoted(words: str, is_port: bool, docker: FakeDocker) -> None:
    """With who to look for where a port is taken."""
    docker.set(up_fails=words)
    with pytest.raises(ProbeError, match=f"compose up --detach --no-recreate: .*{words}") as caught:
        compose(docker).up(seconds=5)
    assert ("`ss -ltnp` says who" in str(caught.value)) is is_port


def test_only_the_last_lines_of_a_failure_are_quoted(tmp_path: Path) -> None:
    """What compose says before them is its progress."""
    fails = "printf '%s\\n\\n' 1 2 3 4 5 6 7 8 9 >&2; exit 4"
    environ = script(tmp_path / "bin", "docker", f'test "$2" = version || {{ {fails}; }}')
    with pytest.raises(ProbeError, match=r"^compose config: exit 4: 5 \| 6 \| 7 \| 8 \| 9$"):
        Compose(FILE, "p", None, environ).compose("config", seconds=5)


# --- which compose ----------------------------------------------------------------


def test_compose_is_the_plugin_or_the_old_command(tmp_path: Path) -> None:
    """The plugin first; without either it is said what to install."""
    folder = tmp_path / "bin"
    environ = script(folder, "docker", "exit 0")
    assert Compose(FILE, "p", None, environ).words == ("docker", "compose")
    script(folder, "docker", "exit 1")
    with pytest.raises(ProbeError, match="install Docker's compose plugin"):
        _ = Compose(FILE, "p", None, environ).words
    script(folder, "docker-compose", "exit 0")
    assert Compose(FILE, "p", None, environ).words == ("docker-compose",)
    with pytest.raises(ProbeError, match="use --profile rehearsal"):
        _ = Compose(FILE, "p", None, {"PATH": str(tmp_path)}).words


def test_a_command_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    """By its name, with the system's words."""
    folder = tmp_path / "bin"
    environ = script(folder, "docker", "exit 0")
    (folder / "docker").write_text("#!/no/such/shell\n")
    with pytest.raises(ProbeError, match="docker: No such file or directory"):
        Compose(FILE, "p", None, environ).containers(seconds=5)


# --- ports ------------------------------------------------------------------------


@pytest.mark.twin
def test_who_holds_a_port_is_named() -> None:
    """By name and pid; nobody is blank."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_holder(port).endswith(f"(pid {os.getpid()})")
    assert port_holder(port) == ""
