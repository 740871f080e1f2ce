"""Services that are only looked at: a Redis-protocol server, an HTTP page, a TCP port."""

from __future__ import annotations

from functools import partial

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.gates.gate import Observation, Task
from ctp_runbook.probes.metrics import fetch, is_port_open
from ctp_runbook.probes.redis import RedisLook, look_at_redis, shown_url

__all__ = ["endpoint_task", "redis_task"]

_PROBE_SECONDS = 5.0
# A snapshot that failed, or an append-only file that cannot be written, loses the bridge's data.
_PERSISTENCE = ("rdb_last_bgsave_status", "aof_last_write_status")


def redis_task(url: str, *, name: str = "redis") -> Task:
    """Return the task of PING and INFO: role, version, persistence of a Redis-protocol server."""
    question = f"PING, INFO {shown_url(url)}"
    return Task(f"observe_{name}", question, partial(_observe_redis, url))


def endpoint_task(name: str, url: str) -> Task:
    """Return the task of looking at a URL by its scheme; raises RunRefused where there is none."""
    scheme, joint, _ = url.partition("://")
    if scheme == "redis":
        return redis_task(url, name=name)
    if scheme == "http":
        return Task(f"observe_{name}", f"GET {shown_url(url)}", partial(_observe_page, url))
    if scheme == "tcp":
        return Task(f"observe_{name}", f"connect {shown_url(url)}", partial(_observe_port, url))
    # Without a scheme all of it may be a secret.
    shown = f"{scheme}://…" if joint else "…"
    raise RunRefused(f"--endpoint {name}={shown}: expected redis://, http:// or tcp://")


def _observe_page(url: str) -> Observation:
    body = fetch(url, seconds=_PROBE_SECONDS)
    return Observation({"http": "200", "bytes": str(len(body))})


def _observe_port(url: str) -> Observation:
    if is_port_open(url, seconds=_PROBE_SECONDS):
        return Observation({"tcp": "accepts"})
    return Observation({"tcp": "refused"}, (f"connect {shown_url(url)}: nobody accepts",))


def _observe_redis(url: str) -> Observation:
    """Look whether a server is a loaded primary that does not lose what it is given."""
    look = _look(url)
    facts = {"role": look.info.get("role", "unknown"), "version": look.version}
    facts |= {
        name: look.info.get(name, "unknown") for name in ("loading", "aof_enabled", *_PERSISTENCE)
    }
    problems = []
    if not look.is_healthy:
        remedy = _remedy(url, look)
        problems.append(f"{look.sentence}; expected role master, loading 0{remedy}")
    problems += [
        f"{name} is {look.info[name]}, expected ok; look at the disk of its data directory and "
        "its log, then `BGSAVE`"
        for name in _PERSISTENCE
        if look.info.get(name, "ok") != "ok"
    ]
    return Observation(facts, tuple(problems))


def _look(url: str) -> RedisLook:
    try:
        return look_at_redis(url, seconds=_PROBE_SECONDS)
    except ProbeError as error:
        remedy = "is this Redis' port? `ss -ltnp` says who listens there"
        if any(word in str(error) for word in ("AUTH", "WRONGPASS")):
            remedy = "its password is that of the URL, else REDIS_PASSWORD of the env file"
        raise ProbeError(f"{error}; {remedy}") from error


def _remedy(url: str, look: RedisLook) -> str:
    if look.info.get("role") != "slave":
        return ""
    host, port = (look.info.get(f"master_{name}", "?") for name in ("host", "port"))
    return (
        f"; {shown_url(url)} follows {host}:{port}: name the primary by --redis-url, or "
        "`REPLICAOF NO ONE` if it is meant to be it"
    )
