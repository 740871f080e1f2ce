"""The one way out to a peer: a link all of whose waits end by one deadline, and HTTP over it.

A peer may drip, stall, cut or flood. Whatever it does, a call ends within its seconds, reads no
more than it has room for, and gives back an answer that is whole, or a ProbeError that says why
there is none. ``https`` is TLS with a verified certificate, or no question at all: what is asked
may carry a password.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import ca_file_of, default_port_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Link", "TooMuch", "exchange", "open_link", "post_json"]

# An engine's page is a few hundred KiB, a large exporter's some MiB.
_LARGEST_ANSWER = 16 << 20
_LARGEST_HEAD = 256 << 10
_TLS_REMEDY = (
    "to trust an authority of your own, write #ca_file=PATH behind the URL or set SSL_CERT_FILE"
)


class TooMuch(HTTPException):
    """A peer sent more than there is room for."""


class Link:
    """A connection, plain or TLS, that is over by ``deadline`` (monotonic seconds).

    It has what ``http.client`` and the Redis client ask of a socket. ``room`` is how many bytes
    may still come in.
    """

    def __init__(self, sock: socket.socket, *, deadline: float, room: int) -> None:
        self._sock, self._deadline = sock, deadline
        self.room = room

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Read some bytes; 0 where the peer closed. Raises TimeoutError, TooMuch, OSError."""
        self._sock.settimeout(_left(self._deadline))
        size = self._sock.recv_into(buffer, nbytes)
        self.room -= size
        if self.room < 0:
            raise TooMuch
        return size

    def recv(self, most: int, flags: int = 0) -> bytes:
        """Read at most so many bytes, as a socket does."""
        buffer = bytearray(most)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send all of it by the deadline, also to a peer that reads a byte now and then."""
        # A TLS socket's own sendall gives each of its pieces the whole time-out again.
        left = memoryview(data).cast("B")
        while left:
            self._sock.settimeout(_left(self._deadline))
            left = left[self._sock.send(left) :]

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """Return what ``http.client`` reads an answer from."""
        return io.BufferedReader(_Tape(self))

    def settimeout(self, seconds: float | None) -> None:
        """Change nothing: a library's idea of a time-out is not the caller's deadline."""

    def shutdown(self, how: int) -> None:
        """Do nothing: the connection ends where it was opened."""

    def close(self) -> None:
        """Do nothing: ``http.client`` closes its socket before it has read the body."""


class _Tape(io.RawIOBase):
    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._link.recv_into(buffer)


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


@contextlib.contextmanager
def open_link(
    url: str, *, default_port: int, deadline: float, room: int, is_tls: bool
) -> Iterator[Link]:
    """Connect to the host of ``url``, and shake hands where it is TLS; close it at the end.

    Raises OSError, TimeoutError among them, and ValueError for what is no address.
    """
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    sock = _connect(host, parts.port or default_port, deadline)
    try:
        if is_tls:
            sock = _wrapped(sock, host, ca_file_of(url), deadline)
        yield Link(sock, deadline=deadline, room=room)
    finally:
        sock.close()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Try each of the host's addresses in turn, all of them by the deadline."""
    problem: OSError = OSError(f"{host} has no address")
    for family, kind, proto, _, address in _addresses(host, port, deadline):
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
            return sock
        except TimeoutError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            problem = error
    raise problem


_Address = tuple[int, int, int, str, tuple[str, int]]


def _addresses(host: str, port: int, deadline: float) -> list[_Address]:
    def look(flags: int = 0) -> list[_Address]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)  # type: ignore[return-value]

    with contextlib.suppress(socket.gaierror):
        return look(socket.AI_NUMERICHOST)
    # A resolver takes no deadline. Whoever waits for it has one: a thread that nobody waits for
    # any more ends when the resolver gives up.
    answers: list[list[_Address] | OSError | UnicodeError] = []

    def resolve() -> None:
        try:
            answers.append(look())
        except (OSError, UnicodeError) as error:
            answers.append(error)

    thread = threading.Thread(target=resolve, daemon=True, name="resolver")
    thread.start()
    thread.join(_left(deadline))
    if not answers:
        raise TimeoutError
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _wrapped(sock: socket.socket, host: str, ca_file: str, deadline: float) -> socket.socket:
    """Return the socket as TLS, its peer's certificate verified for ``host``."""
    # Late: most of what is asked is a process of this host, and asked in plain text.
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise OSError(f"ca_file {ca_file}: no certificates can be read from it: {error}") from error
    try:
        # The handshake is one call, and one time-out is all of its time.
        sock.settimeout(_left(deadline))
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise OSError(
            f"its certificate cannot be trusted: {error.verify_message}; {_TLS_REMEDY}"
        ) from error
    except ssl.SSLError as error:
        raise OSError(
            f"no TLS: {error.reason or error}; is it https that listens there?"
        ) from error


def exchange(
    url: str,
    *,
    seconds: float,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    default_port: int = 0,
    most_bytes: int = 0,
) -> tuple[int, bytes]:
    """Return status and whole body, whatever the status is; no redirect, and no proxy.

    User, password and fragment of the URL are not sent; ``#ca_file=PATH`` in it names the
    authority of an ``https`` one. A body above ``most_bytes`` is refused. Raises ProbeError that
    says what went wrong and not where: the caller knows what listens there, and what to do.
    """
    deadline, most = time.monotonic() + seconds, most_bytes or _LARGEST_ANSWER
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ProbeError(f"a {parts.scheme or 'blank'} address, expected http:// or https://")
        if not parts.hostname:
            raise ProbeError("an address without a host")
        port, is_tls = default_port or default_port_of(url), parts.scheme == "https"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = HTTPConnection(parts.hostname or "", parts.port or port)
        with open_link(
            url, default_port=port, deadline=deadline, room=_LARGEST_HEAD, is_tls=is_tls
        ) as link:
            # A link has what http.client asks of a socket.
            connection.sock = link
            connection.request(method, target, body, dict(headers or {}))
            with _response(connection) as response:
                # What frames the chunks comes on top of them; the deadline bounds that.
                link.room = 4 * most + _LARGEST_HEAD
                return response.status, _whole_body(response, most)
    except TimeoutError as error:
        raise ProbeError(f"no whole answer within {seconds:g} s") from error
    except TooMuch as error:
        raise ProbeError(f"the answer is longer than {most >> 20} MiB") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a port that is no number
        raise ProbeError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _response(connection: HTTPConnection) -> Iterator[HTTPResponse]:
    try:
        response = connection.getresponse()
    except TooMuch as error:
        raise HTTPException(f"more than {_LARGEST_HEAD >> 10} KiB of headers") from error
    with response:
        yield response


def _whole_body(response: HTTPResponse, most: int) -> bytes:
    coding = response.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise HTTPException(
            f"the answer is compressed (Content-Encoding: {coding[:40]}), which was not asked for"
        )
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > most:
            raise TooMuch
    # http.client takes a body that is too short for a whole one.
    if response.length:
        raise HTTPException(f"the answer ended {response.length} bytes early")
    return bytes(body)


def post_json(url: str, facts: Mapping[str, str], *, seconds: float) -> str:
    """POST ``facts`` as JSON; return why they were not taken within ``seconds``, or nothing."""
    try:
        status, _ = exchange(
            url,
            seconds=seconds,
            method="POST",
            body=json.dumps(dict(facts)).encode(),
            headers={"Content-Type": "application/json"},
            most_bytes=1 << 20,
        )
    except ProbeError as error:
        return f"not delivered: {error}"
    return "" if 200 <= status < 300 else f"HTTP {status}"
