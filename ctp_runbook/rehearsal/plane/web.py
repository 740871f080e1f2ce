"""A small HTTP server on 127.0.0.1 for the parts that speak HTTP: one handler, whole replies."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["Reply", "Request", "serve", "serve_until_term"]

_LARGEST = 256 * 2**20


@dataclass(frozen=True)
class Request:
    """What was asked; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, *, status: int = 200) -> Reply:
        """``data`` as JSON."""
        return cls(status, json.dumps(data).encode())


def serve(  # noqa: C901  # http.server wants classes; theirs are small
    port: int, answer: Callable[[Request], Reply], *, name: str
) -> ThreadingHTTPServer:
    """A server bound to 127.0.0.1:``port``; run its ``serve_forever``. A thread a connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = name, ""
        timeout = 60

        def setup(self) -> None:
            super().setup()
            # Head and body are two writes; waiting for an acknowledgement costs 40 ms a reply.
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def respond(self) -> None:
            reply = answer(self._request())
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body)))
            if reply.body:
                self.send_header("Content-Type", reply.content_type)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = respond

        def _request(self) -> Request:
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            return Request(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers,
                self._body(headers),
            )

        def _body(self, headers: Mapping[str, str]) -> bytes:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return b"".join(iter(self._chunk, b""))
            return self.rfile.read(min(int(headers.get("content-length", 0)), _LARGEST))

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline().split(b";")[0], 16)
            data = self.rfile.read(size)
            self.rfile.readline()
            return data

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged: they may carry passwords."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def server_bind(self) -> None:
            """Without asking a resolver for our own name, which may take seconds."""
            TCPServer.server_bind(self)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say what went wrong; a client that left in the middle is no news."""
            if not isinstance(sys.exc_info()[1], OSError):
                super().handle_error(request, client_address)

    return Server(("127.0.0.1", port), Handler)


def serve_until_term(server: ThreadingHTTPServer) -> None:
    """Serve on this thread, where signals arrive; hence the shutdown on another."""
    end = threading.Thread(target=server.shutdown, daemon=True)
    signal.signal(signal.SIGTERM, lambda *_: end.start())
    server.serve_forever(poll_interval=0.1)
