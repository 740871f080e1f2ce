"""One question by HTTP to a process of this host, answered whole and in time, or not at all."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ctp_runbook.errors import ProbeError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["exchange"]

_LARGEST_ANSWER = 64 << 20


class _TimedSocket(socket.socket):
    """A socket all of whose reads end by one deadline (monotonic seconds): an answer that drips
    in, header or body, takes no longer than one that never comes."""

    deadline = 0.0

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _connect(host: str, port: int, *, deadline: float) -> _TimedSocket:
    plain = socket.create_connection((host, port), timeout=_left(deadline))
    timed = _TimedSocket(fileno=plain.detach())
    timed.deadline = deadline
    timed.settimeout(_left(deadline))
    return timed


def exchange(
    url: str,
    *,
    seconds: float,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    default_port: int = 80,
) -> tuple[int, bytes]:
    """Return status and whole body, whatever the status is; no redirect, and no proxy.

    User and password in the URL are not sent. Raises ProbeError that says what went wrong and
    not where: the caller knows what listens there, and what to do about it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or default_port
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(HTTPConnection(host, port)) as connection:
            connection.sock = _connect(host, port, deadline=time.monotonic() + seconds)
            connection.request(method, target, body, dict(headers or {}))
            with connection.getresponse() as response:
                return response.status, _whole_body(response)
    except TimeoutError as error:
        raise ProbeError(f"no whole answer within {seconds:g} s") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a port that is no number
        raise ProbeError(str(error) or type(error).__name__) from error


def _whole_body(response: HTTPResponse) -> bytes:
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise HTTPException(f"the answer is longer than {_LARGEST_ANSWER >> 20} MiB")
    # http.client takes a body that is too short for a whole one.
    if response.length:
        raise HTTPException(f"the answer ended {response.length} bytes early")
    return bytes(body)
