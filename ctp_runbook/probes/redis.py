"""Ask a Redis-protocol server (RESP2) a few questions, with a deadline and no client library."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote, urlsplit

from ctp_runbook.errors import ProbeError

__all__ = ["RedisLook", "look_at_redis", "shown_url"]

_LONGEST_ANSWER = 16 << 20


@dataclass(frozen=True)
class RedisLook:
    """What a server said of itself: INFO's fields, its clients' names, and the keys asked for."""

    info: dict[str, str]
    clients: tuple[str, ...]
    keys: dict[str, str]

    @property
    def is_healthy(self) -> bool:
        """True for a primary that has its data loaded: what says nothing is not healthy."""
        return self.info.get("role") == "master" and self.info.get("loading") == "0"

    @property
    def version(self) -> str:
        """Valkey's own version, else the one of Redis it is compatible with."""
        return self.info.get("valkey_version") or self.info.get("redis_version", "unknown")

    @property
    def sentence(self) -> str:
        """``role master, version 9.1.2, loading 0``."""
        role, loading = (self.info.get(name, "unknown") for name in ("role", "loading"))
        return f"role {role}, version {self.version}, loading {loading}"


def look_at_redis(url: str, *, seconds: float, keys: Iterable[str] = ()) -> RedisLook:
    """Ask PING, INFO, CLIENT LIST and GET of ``keys``, all within ``seconds``. Raises ProbeError."""
    try:
        return _look(url, seconds, keys)
    except (OSError, ValueError, ProbeError) as error:
        raise ProbeError(f"{shown_url(url)}: {str(error) or type(error).__name__}") from error


def _look(url: str, seconds: float, keys: Iterable[str]) -> RedisLook:
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 6379)
    with (
        socket.create_connection(address, timeout=seconds) as link,
        link.makefile("rb") as tape,
    ):
        ask = _Asker(link, tape, deadline=time.monotonic() + seconds)
        if parts.password is not None:
            user = [unquote(parts.username)] if parts.username else []
            ask("AUTH", *user, unquote(parts.password))
        if (answer := ask("PING")) != "PONG":
            raise ProbeError(f"PING was answered {answer!r}, expected PONG")
        info = _fields(ask("INFO"), lines="\r\n", joint=":")
        clients = (
            _fields(line, lines=" ", joint="=") for line in ask("CLIENT", "LIST").split("\n")
        )
        names = [client["name"] for client in clients if client.get("name")]
        return RedisLook(info, tuple(names), {key: ask("GET", key) for key in keys})


def shown_url(url: str) -> str:
    """Return the URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True)
class _Asker:
    link: socket.socket
    tape: IO[bytes]
    deadline: float

    def __call__(self, *words: str) -> str:
        """Send one command; return its answer as text, blank for nil."""
        self.link.settimeout(max(0.01, self.deadline - time.monotonic()))
        bulks = (b"$%d\r\n%s\r\n" % (len(data), data) for data in map(str.encode, words))
        self.link.sendall(b"*%d\r\n" % len(words) + b"".join(bulks))
        head = self.tape.readline(65536)
        if not head.endswith(b"\r\n"):
            raise ProbeError("the server closed the connection in the middle of an answer")
        kind, rest = head[:1], head[1:-2].decode(errors="replace")
        if kind == b"-":
            raise ProbeError(f"{words[0]} was refused: {rest}")
        if kind != b"$":
            return rest
        # Said before it is read: a server gone wrong would fill the memory.
        if (size := int(rest)) > _LONGEST_ANSWER:
            raise ProbeError(f"{words[0]} was answered with {size} bytes")
        return self.tape.read(size + 2)[:-2].decode(errors="replace") if size >= 0 else ""


def _fields(text: str, *, lines: str, joint: str) -> dict[str, str]:
    return dict(line.split(joint, 1) for line in text.split(lines) if joint in line)
