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
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from typing import TYPE_CHECKING

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import ca_file_of, default_port_of, split_url

if TYPE_CHECKING:
    import ssl

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
    may still come in; ``is_over`` is True once the peer has closed.
    """

    def __init__(self, sock: socket.socket, *, deadline: float, room: int) -> None:
        self._sock, self._deadline = sock, deadline
        self.room, self.is_over = room, False

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Read some bytes; 0 where the peer closed. Raises TimeoutError, TooMuch, OSError."""
        self._sock.settimeout(_left(self._deadline))
        size = self._sock.recv_into(buffer, nbytes)
        self.room -= size
        self.is_over = self.is_over or not size
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
    parts, own_port = split_url(url)
    host = parts.hostname or "127.0.0.1"
    # Before anybody is asked: an authority that cannot be read makes no connection.
    context = _trusting(ca_file_of(url)) if is_tls else None
    sock = _connect(host, own_port or default_port, deadline)
    try:
        if context is not None:
            sock = _wrapped(sock, context, host, deadline)
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
        except BaseException:
            sock.close()
            raise
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


def _trusting(ca_file: str) -> ssl.SSLContext:
    """Return what verifies a peer's certificate and name, by the system's authorities or this file's."""
    # Late: most of what is asked is a process of this host, and asked in plain text.
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise OSError(f"ca_file {ca_file}: no certificates can be read from it: {error}") from error


def _wrapped(
    sock: socket.socket, context: ssl.SSLContext, host: str, deadline: float
) -> socket.socket:
    """Return the socket as TLS, its peer's certificate verified for ``host``."""
    import ssl

    try:
        # The handshake is one call, and one time-out is all of its time.
        sock.settimeout(_left(deadline))
        # A connection that ends without a word of TLS may have been cut by somebody.
        return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
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
    answer_headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Return status and whole body, whatever the status is; no redirect, and no proxy.

    Into ``answer_headers`` go the headers of the answer, their names in small letters.

    User, password and fragment of the URL are not sent; ``#ca_file=PATH`` in it names the
    authority of an ``https`` one. A body above ``most_bytes`` is refused. Raises ProbeError that
    says what went wrong and not where: the caller knows what listens there, and what to do.
    """
    deadline, most = time.monotonic() + seconds, most_bytes or _LARGEST_ANSWER
    try:
        parts, own_port = split_url(url)
        if parts.scheme not in ("http", "https"):
            raise ProbeError(f"a {parts.scheme or 'blank'} address, expected http:// or https://")
        if not parts.hostname:
            raise ProbeError("an address without a host")
        port, is_tls = default_port or default_port_of(url), parts.scheme == "https"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = HTTPConnection(parts.hostname or "", own_port or port)
        with open_link(
            url, default_port=port, deadline=deadline, room=_LARGEST_HEAD, is_tls=is_tls
        ) as link:
            # A link has what http.client asks of a socket.
            connection.sock = link
            connection.request(method, target, body, dict(headers or {}))
            with _response(connection, link) as response:
                # What frames the chunks comes on top of them; the deadline bounds that.
                link.room = 4 * most + _LARGEST_HEAD
                if answer_headers is not None:
                    answer_headers.update(
                        (name.lower(), value) for name, value in response.headers.items()
                    )
                return response.status, _whole_body(response, most)
    except TimeoutError as error:
        raise ProbeError(f"no whole answer within {seconds:g} s") from error
    except TooMuch as error:
        raise ProbeError(f"the answer is longer than {most >> 20} MiB") from error
    except IncompleteRead as error:
        raise ProbeError(f"the answer was cut in a chunk ({error})") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a port that is no number
        raise ProbeError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _response(connection: HTTPConnection, link: Link) -> Iterator[HTTPResponse]:
    try:
        response = connection.getresponse()
    except TooMuch as error:
        raise HTTPException(f"more than {_LARGEST_HEAD >> 10} KiB of headers") from error
    with response:
        # http.client takes the end of the connection for the end of the headers, and what stands
        # behind a line that is no header for the body.
        if link.is_over:
            raise HTTPException("the answer was cut in its headers")
        if response.headers.defects:
            raise HTTPException("the answer's headers cannot be read")
        yield response


def _whole_body(response: HTTPResponse, most: int) -> bytes:
    _check_framing(response)
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > most:
            raise TooMuch
    # http.client takes a body that is too short for a whole one.
    if response.length:
        raise HTTPException(f"the answer ended {response.length} bytes early")
    return bytes(body)


def _check_framing(response: HTTPResponse) -> None:
    """Refuse what ``http.client`` reads in one of several ways, or passes over."""
    coding, framing = (
        ", ".join(response.headers.get_all(name, [])).strip().lower()
        for name in ("Content-Encoding", "Transfer-Encoding")
    )
    if coding not in ("", "identity"):
        raise HTTPException(
            f"the answer is compressed (Content-Encoding: {coding[:40]}), which was not asked for"
        )
    if framing not in ("", "chunked"):
        raise HTTPException(f"the answer comes as Transfer-Encoding: {framing[:40]}")
    lengths = {length.strip() for length in response.headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(re.fullmatch(r"[0-9]{1,18}", length) for length in lengths):
        raise HTTPException(
            f"the answer's Content-Length is {' and '.join(sorted(lengths))[:80]!r}"
        )


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
