"""Peers that drip, stall, cut or flood, each on a port of its own, in a process of their own.

Run as a program it prints the ports by name, as one line of JSON, and serves until its stdin ends.
A peer of its own process takes no time of the one it is asked by.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

__all__ = ["HTTP", "REDIS", "TLS", "hostile_peers"]

DRIP_SECONDS = 0.02
_OK = b"HTTP/1.1 200 OK\r\n"
_BIG = b"x" * 65536
# None: be silent from here on. A peer that ends closes the connection.
Script = Callable[[], AsyncIterator[bytes | None]]


def _drips(before: bytes, piece: bytes) -> Script:
    async def script() -> AsyncIterator[bytes | None]:
        yield before
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            yield piece

    return script


def _floods(before: bytes, piece: bytes) -> Script:
    async def script() -> AsyncIterator[bytes | None]:
        yield before
        # Large writes: what is measured is who reads, not this loop.
        much = piece * max(1, len(_BIG) // len(piece))
        while True:
            yield much

    return script


def _stalls(before: bytes) -> Script:
    async def script() -> AsyncIterator[bytes | None]:
        yield before
        yield None

    return script


def _cuts(before: bytes) -> Script:
    async def script() -> AsyncIterator[bytes | None]:
        yield before

    return script


_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_LONG = _OK + b"Content-Length: 9000000000\r\n\r\n"
HTTP: dict[str, Script] = {
    "drips its status": _drips(b"", b"H"),
    "drips a header": _drips(_OK, b"x"),
    "drips headers": _drips(_OK, b"X: 1\r\n"),
    "drips its body": _drips(_LONG, b"x"),
    "drips chunks": _drips(_CHUNKED, b"1\r\nx\r\n"),
    "stalls at once": _stalls(b""),
    "stalls in its headers": _stalls(_OK),
    "stalls in its body": _stalls(_LONG + b"abc"),
    "cuts its headers": _cuts(_OK + b"Content-Le"),
    "cuts its body": _cuts(_LONG + b"abc"),
    "cuts a chunk": _cuts(_CHUNKED + b"ff\r\nabc"),
    "floods a header": _floods(_OK + b"X: ", b"x"),
    "floods headers": _floods(_OK, b"X: 1\r\n"),
    "floods 100 Continue": _floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "floods its body": _floods(_OK + b"\r\n", b'b{x="1"} 1\n'),
    "floods by its length": _floods(_LONG, b"[[],[],"),
    "floods chunks": _floods(_CHUNKED, b"1\r\nx\r\n"),
    "floods a chunk's size": _floods(_CHUNKED, b"0"),
}
REDIS: dict[str, Script] = {
    "drips a word": _drips(b"+", b"x"),
    "drips a bulk": _drips(b"+PONG\r\n$1000000\r\n", b"x"),
    "stalls at once": _stalls(b""),
    "stalls in a bulk": _stalls(b"+PONG\r\n$1000\r\nabc"),
    "cuts a bulk": _cuts(b"+PONG\r\n$1000\r\nabc"),
    "floods a word": _floods(b"+", b"x"),
    "floods a bulk": _floods(b"+PONG\r\n$9000000000\r\n", b"x"),
    "floods a list": _floods(b"*9000000000\r\n", b":1\r\n"),
    "floods lists in lists": _floods(b"", b"*1\r\n"),
}
TLS: dict[str, Script] = {
    "stalls in the handshake": _stalls(b""),
    "drips the handshake": _drips(b"\x16\x03\x03\x40\x00", b"\x00"),
}
_ALL = {"http": HTTP, "redis": REDIS, "tls": TLS}


async def _serve(
    script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with contextlib.suppress(OSError):
        await reader.read(65536)
        async for piece in script():
            if piece is None:
                await reader.read()  # until the caller leaves
                break
            writer.write(piece)
            await writer.drain()
        writer.close()


async def _main() -> None:
    loop, ports = asyncio.get_running_loop(), {}
    for kind, scripts in _ALL.items():
        for name, script in scripts.items():

            def begin(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script = script
            ) -> asyncio.Task[None]:
                task = loop.create_task(_serve(script, reader, writer))
                running.add(task)
                task.add_done_callback(running.discard)
                return task

            server = await asyncio.start_server(begin, "127.0.0.1", 0)
            ports[f"{kind}: {name}"] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


running: set[asyncio.Task[None]] = set()


@contextlib.contextmanager
def hostile_peers() -> Iterator[dict[str, int]]:
    """The ports of all peers, by ``kind: name``."""
    argv = [sys.executable, str(Path(__file__))]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            yield json.loads(program.stdout.readline())
        finally:
            program.stdin.close()
            program.kill()


if __name__ == "__main__":
    asyncio.run(_main())
