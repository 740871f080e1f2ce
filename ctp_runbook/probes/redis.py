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
    def sentence(self) -> str:
        """``role master, version 9.1.2, loading 0``."""
        version = self.info.get("valkey_version") or self.info.get("redis_version", "unknown")
        told = {name: self.info.get(name, "unknown") for name in ("role", "loading")}
        return f"role {told['role']}, version {version}, loading {told['loading']}"


def look_at_redis(url: str, *, seconds: float, keys: Iterable[str] = ()) -> RedisLook:
    """PING, INFO, CLIENT LIST and GET of ``keys``, all within ``seconds``. Raises ProbeError."""
    parts = urlsplit(url)
    shown = shown_url(url)
    try:
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
                raise ProbeError(f"{shown}: PING was answered {answer!r}, expected PONG")
            info = _fields(ask("INFO"), lines="\r\n", joint=":")
            clients = [
                _fields(line, lines=" ", joint="=").get("name", "")
                for line in ask("CLIENT", "LIST").splitlines()
            ]
            found = {key: ask("GET", key) for key in keys}
    except (OSError, ValueError) as error:
        raise ProbeError(f"{shown}: {str(error) or type(error).__name__}") from error
    return RedisLook(info, tuple(filter(None, clients)), found)


def shown_url(url: str) -> str:
    """The URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True)
class _Asker:
    link: socket.socket
    tape: IO[bytes]
    deadline: float

    def __call__(self, *words: str) -> str:
        """Send one command; its answer as text, blank for nil."""
        self.link.settimeout(max(0.01, self.deadline - time.monotonic()))
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.link.sendall(b"".join(parts))
        head = self.tape.readline(65536)
        if not head.endswith(b"\r\n"):
            raise ProbeError("the server closed the connection in the middle of an answer")
        kind, rest = head[:1], head[1:-2].decode(errors="replace")
        if kind == b"-":
            raise ProbeError(f"{words[0]} was refused: {rest}")
        if kind != b"$":
            return rest
        size = int(rest)
        if size > _LONGEST_ANSWER:
            raise ProbeError(f"{words[0]} was answered with {size} bytes")
        return self.tape.read(size + 2)[:-2].decode(errors="replace") if size >= 0 else ""


def _fields(text: str, *, lines: str, joint: str) -> dict[str, str]:
    pairs = (line.partition(joint) for line in text.split(lines))
    return {name: value for name, found, value in pairs if found}
