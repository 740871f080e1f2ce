"""Facts about probes/exchange.py: what is sent, and what is said where no whole answer comes."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes import exchange as module
from ctp_runbook.probes.exchange import exchange, post_json
from tests.props.small_servers import Asked, free_port, scripted_http

pytestmark = pytest.mark.twin


def test_what_is_asked_is_sent_whole() -> None:
    """Method, path with its query, headers and body; the status is data, whatever it is."""
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[int, str]:
        seen.append(asked)
        return 409, "busy"

    with scripted_http(answer) as url:
        got = exchange(
            f"{url}/a/b?c=d%20e", seconds=5, method="PUT", body=b"{}", headers={"X-Own": "1"}
        )
    assert got == (409, b"busy")
    ((method, path, headers, body),) = seen
    assert (method, path, body) == ("PUT", "/a/b?c=d%20e", b"{}")
    assert (headers["X-Own"], headers["Content-Length"]) == ("1", "2")


PATHS = {"": "/", "/": "/", "?a=1": "/?a=1", "/x": "/x", "/x#part": "/x"}


@pytest.mark.parametrize(("end", "path"), PATHS.items())
def test_a_url_is_asked_by_its_path(end: str, path: str) -> None:
    """One without a path means the root; what stands behind # is for nobody but a browser."""
    with scripted_http(lambda asked: (200, asked[1])) as url:
        assert exchange(url + end, seconds=5) == (200, path.encode())


def test_user_and_password_are_not_sent() -> None:
    """A probe that wants them sends a header; a URL may stand in a log of whoever answers."""
    with scripted_http(lambda asked: (200, str(asked[1:3]))) as url:
        _, body = exchange(url.replace("//", "//me:geheim@"), seconds=5)
    assert b"geheim" not in body
    assert b"Authorization" not in body


def test_a_port_that_is_not_named_is_the_service_s_own() -> None:
    """``default_port`` is ClickHouse's, say; one in the URL wins."""
    with scripted_http(lambda asked: (200, "here")) as url:
        port = int(url.rpartition(":")[2])
        assert exchange("http://127.0.0.1/", seconds=5, default_port=port) == (200, b"here")
        assert exchange(url, seconds=5, default_port=free_port()) == (200, b"here")


WITHOUT_ANSWER = {
    "nobody there": ("http://127.0.0.1:{port}/", "Connection refused"),
    "no port": ("http://127.0.0.1:x/", "Port could not be cast to integer"),
    "no such port": ("http://127.0.0.1:99999/", "Port out of range"),
    "no host": ("http://no-such-host.invalid/", ""),
    "a broken address": ("http://[::1/", "Invalid IPv6 URL"),
    "a space": ("http://127.0.0.1:{port}/a b", "refused"),
}


@pytest.mark.parametrize(("url", "said"), WITHOUT_ANSWER.values(), ids=WITHOUT_ANSWER)
def test_no_answer_is_a_probe_error_without_the_address(url: str, said: str) -> None:
    """The caller knows whose address it is, and says it once."""
    with pytest.raises(ProbeError) as caught:
        exchange(url.format(port=free_port()), seconds=2)
    assert said in str(caught.value)
    assert str(caught.value)
    assert "http://" not in str(caught.value)


def test_an_answer_without_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory of whoever asks."""
    monkeypatch.setattr(module, "_LARGEST_ANSWER", 1 << 20)
    said = "the answer is longer than 1 MiB"
    large = "x" * (3 << 20)
    with scripted_http(lambda _: (200, large)) as url, pytest.raises(ProbeError, match=said):
        exchange(url, seconds=5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/", "no address"])
def test_what_is_no_address_is_not_delivered(url: str) -> None:
    """Said in words, not raised: a webhook is called in a thread that nobody waits for."""
    assert post_json(url, {"a": "b"}, seconds=1).startswith("not delivered: ")


def test_a_resolver_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no deadline itself, and a name server that is down is asked for a long time."""
    woken, numeric = threading.Event(), socket.getaddrinfo

    def hang(host: str, port: int, **kwargs: Any) -> Any:
        if kwargs["flags"] & socket.AI_NUMERICHOST:
            return numeric(host, port, **kwargs)
        woken.wait(20)
        raise socket.gaierror("nobody answers")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    try:
        with pytest.raises(ProbeError, match=r"no whole answer within 0\.2 s"):
            exchange("http://metrics.invalid/", seconds=0.2)
        assert time.monotonic() - began < 15
    finally:
        woken.set()


def test_each_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses does not speak for the next."""
    numeric = socket.getaddrinfo

    def two(host: str, port: int, **kwargs: Any) -> Any:
        if host != "engine.invalid":
            return numeric(host, port, **kwargs)
        if kwargs["flags"] & socket.AI_NUMERICHOST:
            raise socket.gaierror("no number")
        return [
            *numeric("127.0.0.1", free_port(), type=socket.SOCK_STREAM),
            *numeric("127.0.0.1", port, type=socket.SOCK_STREAM),
        ]

    with scripted_http(lambda asked: (200, asked[2]["Host"])) as url:
        port = int(url.rpartition(":")[2])
        monkeypatch.setattr(socket, "getaddrinfo", two)
        assert exchange(f"http://engine.invalid:{port}/", seconds=5) == (
            200,
            f"engine.invalid:{port}".encode(),
        )


@pytest.mark.parametrize(
    "url", ["http://ann:hunter/22@127.0.0.1/", "http://ann:hunter\u2100@127.0.0.1/"]
)
def test_an_address_that_cannot_be_read_is_not_quoted(url: str) -> None:
    """What is not read as it was meant is often a password with a sign in it."""
    with pytest.raises(ProbeError) as raised:
        exchange(url, seconds=1)
    assert "hunter" not in str(raised.value)
