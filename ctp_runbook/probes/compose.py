"""Ask Docker about a compose project: what its file says, what runs, what a service logged.

State is read by ``docker inspect``, not from compose's tables: that is the same for every version
of compose. Secrets reach compose by its environment and its env file, never by a flag.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import ProbeError

__all__ = ["Compose", "Container", "port_holder"]

_SERVICE, _HASH = "com.docker.compose.service", "com.docker.compose.config-hash"
_PROJECT, _ONE_OFF = "com.docker.compose.project", "com.docker.compose.oneoff"
_LAST_LINES = 5
_PORT_TAKEN = ("address already in use", "port is already allocated", "ports are not available")


@dataclass(frozen=True)
class Container:
    """A container of the project: one of the replicas of its service, or one left over.

    ``health`` is blank where it has no health check.
    """

    service: str
    id: str
    status: str
    health: str
    config_hash: str
    name: str = field(default="", compare=False)  # it may be renamed, and is the same

    @property
    def shown(self) -> str:
        """``kafka, container p-kafka-1,``: its service, and which of its containers it is."""
        has_name = self.name not in ("", self.service)
        return f"{self.service}, container {self.name}," if has_name else self.service

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

    def published(self, *, seconds: float) -> dict[str, tuple[int | range, ...]]:
        """Return the host's TCP ports of each service, a range where any port of it will do.

        Empty from a compose that gives no JSON; raises ProbeError for JSON of another shape.
        """
        try:
            text = self.compose("config", "--format", "json", seconds=seconds)
            decoder(msgspec.Raw).decode(text)
        except (ProbeError, msgspec.DecodeError, RecursionError):
            return {}
        config = _read(text, _Config, "compose config")
        return {
            name: tuple(port for entry in service.ports or () for port in _ports(name, entry))
            for name, service in (config.services or {}).items()
        }

    def containers(self, *, seconds: float) -> dict[str, Container]:
        """Return every container of the project, by its name."""
        # Those of `compose run` are nobody's service.
        labels = (f"label={_PROJECT}={self.project}", f"label={_ONE_OFF}=False")
        listed = ["docker", "ps", "--all", "--quiet", "--no-trunc"]
        listed += [word for label in labels for word in ("--filter", label)]
        ids = self._output(listed, "docker ps", seconds).split()
        if not ids:
            return {}
        text = self._output(["docker", "inspect", *ids], "docker inspect", seconds)
        containers = [_container(look) for look in _read(text, list[_Look], "docker inspect")]
        by_name = {container.name: container for container in containers}
        if len(by_name) < len(containers):
            raise ProbeError("docker inspect: two containers of one name; run it by hand")
        return by_name

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


# --- what they answer -------------------------------------------------------------


class _Port(msgspec.Struct):
    published: str | int | None = None
    protocol: str = "tcp"


class _Service(msgspec.Struct):
    ports: list[_Port] | None = None


class _Config(msgspec.Struct):
    services: dict[str, _Service] | None = None


class _Health(msgspec.Struct, rename={"status": "Status"}):
    status: str = ""


class _State(msgspec.Struct, rename={"status": "Status", "health": "Health"}):
    status: str = "unknown"
    health: _Health | None = None


class _Labels(msgspec.Struct, rename={"labels": "Labels"}):
    labels: dict[str, str] | None = None


class _Look(
    msgspec.Struct, rename={"id": "Id", "name": "Name", "config": "Config", "state": "State"}
):
    id: str
    state: _State
    config: _Labels
    name: str = "?"


_Type = TypeVar("_Type")


def _read(text: str, kind: type[_Type], what: str) -> _Type:
    try:
        return decoder(kind).decode(text)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ProbeError(
            f"{what}: {error}; nothing of its answer is believed; run it by hand, and see whether "
            "this version of Docker is one that the runbook names"
        ) from error


def _ports(service: str, port: _Port) -> Iterator[int | range]:
    """Yield the port of an entry, or its range; nothing where Docker chooses."""
    if port.protocol != "tcp" or port.published in (None, "", 0, "0"):
        return
    first, joint, last = str(port.published).partition("-")
    numbers = [first, last] if joint else [first]
    if not all(map(str.isdecimal, numbers)) or int(first) > int(numbers[-1]):
        raise ProbeError(
            f"compose config: service {service} publishes {port.published!r}, expected a port, or "
            "the first and the last of a range with a dash between them"
        )
    yield range(int(first), int(last) + 1) if joint else int(first)


def _container(look: _Look) -> Container:
    labels, health = look.config.labels or {}, look.state.health
    status = health.status if health else ""
    service = labels.get(_SERVICE, look.name)
    return Container(
        service=service,
        id=look.id,
        status=look.state.status,
        health="" if status == "none" else status,  # so for a check that was switched off
        config_hash=labels.get(_HASH, ""),
        name=look.name.removeprefix("/") if _SERVICE in labels else service,
    )
