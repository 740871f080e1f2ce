"""The engine's HTTP door: a few fixed paths, GET or POST, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Route", "open_door"]

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_READ_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """What a path answers with."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"

    @classmethod
    def of(cls, data: Any, *, status: int = 200) -> Answer:
        """``data`` as JSON."""
        return cls(json.dumps(data).encode() + b"\n", status=status)

    @property
    def head(self) -> bytes:
        """Status line and headers."""
        reason = _REASONS.get(self.status, "Service Unavailable")
        return (
            f"HTTP/1.1 {self.status} {reason}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        ).encode()


# Method and path, e.g. "GET /metrics".
Route = Mapping[str, Callable[[], Awaitable[Answer]]]


async def open_door(port: int, routes: Route) -> asyncio.Server:
    """Listen on 127.0.0.1:``port``, also where the front holds the port reserved (SO_REUSEADDR)."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            answer = await _answer(reader, routes)
            writer.write(answer.head + answer.body)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, sock=listener)


async def _answer(reader: asyncio.StreamReader, routes: Route) -> Answer:
    request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _READ_SECONDS)
    words = request.split(b"\r\n", 1)[0].decode("latin-1").split()
    if len(words) != 3:
        return Answer.of({"error": "not an HTTP request"}, status=400)
    method, path = words[0], words[1].split("?")[0]
    if handler := routes.get(f"{method} {path}"):
        return await handler()
    known = any(route.endswith(f" {path}") for route in routes)
    return Answer.of({"error": f"no {method} {path}"}, status=405 if known else 404)
