"""Ask Docker about a compose project: what its file says, what runs, what a service logged.

State is read by ``docker inspect``, not from compose's tables: that is the same for every version
of compose. Secrets reach compose by its environment and its env file, never by a flag.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError

__all__ = ["Compose", "Container", "port_holder"]

_SERVICE, _HASH = "com.docker.compose.service", "com.docker.compose.config-hash"
_PROJECT, _ONE_OFF = "com.docker.compose.project", "com.docker.compose.oneoff"
_LAST_LINES = 5
_PORT_TAKEN = ("address already in use", "port is already allocated", "ports are not available")


@dataclass(frozen=True)
class Container:
    """A container of the project. ``health`` is blank where it has no health check."""

    service: str
    id: str
    status: str
    health: str
    config_hash: str

    @property
    def is_running(self) -> bool:
        """True for a container with a process in it."""
        return self.status in ("running", "restarting", "paused")

    @property
    def is_healthy(self) -> bool:
        """True only where a health check says so: no check is no health."""
        return self.status == "running" and self.health == "healthy"

    @property
    def is_over(self) -> bool:
        """True for a container whose process ended."""
        return self.status in ("exited", "dead")

    @property
    def sentence(self) -> str:
        """``running, unhealthy``."""
        return f"{self.status}, {self.health or 'no health check'}"


@dataclass(frozen=True)
class Compose:
    """A compose file, its project and its env file."""

    file: Path
    project: str
    env_file: Path | None
    environ: Mapping[str, str] = field(repr=False, default_factory=dict)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """``docker compose``, else ``docker-compose``. Raises ProbeError for neither."""
        if shutil.which("docker", path=self.environ.get("PATH")) is None:
            raise ProbeError("no `docker` on PATH; install Docker, or use --profile rehearsal")
        if self._call(["docker", "compose", "version"], 10.0).returncode == 0:
            return ("docker", "compose")
        if shutil.which("docker-compose", path=self.environ.get("PATH")):
            return ("docker-compose",)
        raise ProbeError("no `docker compose`; install Docker's compose plugin")

    def compose(self, *words: str, seconds: float) -> str:
        """Run a compose command on this file; raises ProbeError with its last lines."""
        flags = ["-f", str(self.file), *(("-p", self.project) if self.project else ())]
        if self.env_file:
            flags += ["--env-file", str(self.env_file)]
        return self._output([*self.words, *flags, *words], f"compose {' '.join(words)}", seconds)

    def hashes(self, *, seconds: float) -> dict[str, str]:
        """Return the configuration hash of each service, as the file is now."""
        lines = self.compose("config", "--hash", "*", seconds=seconds).splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def published(self, *, seconds: float) -> dict[str, tuple[int, ...]]:
        """Return the host ports of each service; empty from a compose that gives no JSON."""
        try:
            config = json.loads(self.compose("config", "--format", "json", seconds=seconds))
        except (ProbeError, ValueError):
            return {}
        ports = {name: service.get("ports", ()) for name, service in config["services"].items()}
        return {
            name: tuple(int(port["published"]) for port in listed if "published" in port)
            for name, listed in ports.items()
        }

    def containers(self, *, seconds: float) -> dict[str, Container]:
        """Return the project's containers by service."""
        # Those of `compose run` are nobody's service.
        labels = (f"label={_PROJECT}={self.project}", f"label={_ONE_OFF}=False")
        listed = ["docker", "ps", "--all", "--quiet", "--no-trunc"]
        listed += [word for label in labels for word in ("--filter", label)]
        ids = self._output(listed, "docker ps", seconds).split()
        if not ids:
            return {}
        looks = json.loads(self._output(["docker", "inspect", *ids], "docker inspect", seconds))
        return {container.service: container for container in map(_container, looks)}

    def logs(self, container: Container, *, seconds: float) -> str:
        """Return the last lines a container logged, on one line; docker has them before compose."""
        argv = ["docker", "logs", "--tail", str(_LAST_LINES), container.id]
        try:
            done = self._call(argv, seconds)
        except ProbeError as error:
            return str(error)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        return " | ".join(line for line in lines[-_LAST_LINES:] if line) or "no log"

    def up(self, *, seconds: float) -> None:
        """Create and start what is missing; what runs is left alone, whatever its configuration."""
        try:
            self.compose("up", "--detach", "--no-recreate", seconds=seconds)
        except ProbeError as error:
            if any(words in str(error).lower() for words in _PORT_TAKEN):
                raise ProbeError(
                    f"{error}; somebody else listens on that port: `ss -ltnp` says who; stop it, or "
                    "give the service another port in the env file"
                ) from error
            raise

    def _output(self, argv: list[str], what: str, seconds: float) -> str:
        done = self._call(argv, seconds)
        if done.returncode:
            said = (done.stderr or done.stdout).splitlines()
            lines = [line.strip() for line in said if line.strip()][-_LAST_LINES:]
            raise ProbeError(f"{what}: exit {done.returncode}: {' | '.join(lines)}")
        return done.stdout

    def _call(self, argv: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                argv,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"{' '.join(argv[:2])}: no end within {seconds:.0f} s") from error
        except OSError as error:
            raise ProbeError(f"{argv[0]}: {error.strerror}") from error


def port_holder(port: int) -> str:
    """Return ``name (pid N)`` of who listens on a port of this host; blank for nobody."""
    import psutil

    try:
        links = psutil.net_connections("tcp")
        listening = (link for link in links if link.status == psutil.CONN_LISTEN)
        pids = [link.pid for link in listening if link.laddr and link.laddr.port == port]
        if not pids:
            return ""
        return f"{psutil.Process(pids[0]).name()} (pid {pids[0]})" if pids[0] else "somebody"
    except (psutil.Error, OSError):  # not ours to see
        return "somebody"


def _container(look: dict[str, Any]) -> Container:
    labels, state = look["Config"].get("Labels") or {}, look["State"]
    return Container(
        service=labels.get(_SERVICE, look.get("Name", "?")),
        id=look["Id"],
        status=state.get("Status", "unknown"),
        health=(state.get("Health") or {}).get("Status", ""),
        config_hash=labels.get(_HASH, ""),
    )
