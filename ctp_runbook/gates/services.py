"""Services that are only looked at: a Redis-protocol server, an HTTP page, a TCP port."""

from __future__ import annotations

from dataclasses import dataclass

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.gate import Observation, Observer
from ctp_runbook.probes.redis import RedisLook, look_at_redis, shown_url

__all__ = ["EndpointObserver", "RedisObserver", "endpoint_observer"]

_PROBE_SECONDS = 5.0
# A snapshot that failed, or an append-only file that cannot be written, loses the bridge's data.
_PERSISTENCE = ("rdb_last_bgsave_status", "aof_last_write_status")


@dataclass(frozen=True)
class RedisObserver:
    """PING and INFO of a Redis-protocol server."""

    url: str
    name: str = "redis"

    @property
    def question(self) -> str:
        """``PING, INFO redis://…`` without user and password."""
        return f"PING, INFO {shown_url(self.url)}"

    def observe(self) -> Observation:
        """Role, version, persistence; a server that is no loaded primary is a problem."""
        look = self._look()
        info = look.info
        facts = {
            "role": info.get("role", "unknown"),
            "version": info.get("valkey_version") or info.get("redis_version", "unknown"),
            "loading": info.get("loading", "unknown"),
            "aof_enabled": info.get("aof_enabled", "unknown"),
            **{name: info.get(name, "unknown") for name in _PERSISTENCE},
        }
        problems = []
        if not look.is_healthy:
            problems.append(f"{look.sentence}; expected role master, loading 0{self._remedy(info)}")
        problems += [
            f"{name} is {info[name]}, expected ok; look at the disk of its data directory and "
            "its log, then `BGSAVE`"
            for name in _PERSISTENCE
            if info.get(name, "ok") != "ok"
        ]
        return Observation(facts, tuple(problems))

    def _look(self) -> RedisLook:
        try:
            return look_at_redis(self.url, seconds=_PROBE_SECONDS)
        except ProbeError as error:
            remedy = "is this Redis' port? `ss -ltnp` says who listens there"
            if any(word in str(error) for word in ("AUTH", "WRONGPASS")):
                remedy = "its password is that of the URL, else REDIS_PASSWORD of the env file"
            raise ProbeError(f"{shown_url(self.url)}: {error}; {remedy}") from error

    def _remedy(self, info: dict[str, str]) -> str:
        if info.get("role") != "slave":
            return ""
        return (
            f"; {self.question.removeprefix('PING, INFO ')} follows "
            f"{info.get('master_host', '?')}:{info.get('master_port', '?')}: name the primary by "
            "--redis-url, or `REPLICAOF NO ONE` if it is meant to be it"
        )


@dataclass(frozen=True)
class EndpointObserver:
    """An ``http://`` page that answers 200, or a ``tcp://`` port that accepts."""

    name: str
    url: str

    @property
    def question(self) -> str:
        """``GET http://…`` or ``connect tcp://…`` without user and password."""
        verb = "GET" if self.url.startswith("http://") else "connect"
        return f"{verb} {shown_url(self.url)}"

    def observe(self) -> Observation:
        """Whether it answers, and with how much."""
        from ctp_runbook.probes.metrics import fetch, is_port_open

        if self.url.startswith("http://"):
            body = fetch(self.url, seconds=_PROBE_SECONDS)
            return Observation({"http": "200", "bytes": str(len(body))})
        if is_port_open(self.url, seconds=_PROBE_SECONDS):
            return Observation({"tcp": "accepts"})
        return Observation({"tcp": "refused"}, (f"{self.question}: nobody accepts",))


def endpoint_observer(name: str, url: str) -> Observer:
    """The observer for a URL's scheme; raises RunRefused where there is none."""
    if url.startswith("redis://"):
        return RedisObserver(url, name)
    if url.startswith(("http://", "tcp://")):
        return EndpointObserver(name, url)
    raise RunRefused(
        f"--endpoint {name}={url.partition('://')[0]}://…: expected redis://, http:// or tcp://"
    )
