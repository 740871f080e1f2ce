"""What a peer may send, byte by byte, and what is taken for its answer then: border/wire/."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctp_runbook
from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import below, ca_file_of, ca_problem, with_ca_file
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes import exchange as module
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from ctp_runbook.probes.connect import ask_connect
from ctp_runbook.probes.exchange import exchange, post_json
from ctp_runbook.probes.metrics import fetch, is_port_open
from ctp_runbook.probes.prometheus import PrometheusDoor
from ctp_runbook.probes.redis import look_at_redis
from tests.props.rules import rule_of

FOLDER = Path(__file__).parent / "border" / "wire"
CASES: dict[str, Mapping[str, object]] = tomllib.loads(
    (FOLDER / "expect.toml").read_text(encoding="utf-8")
)
# An authority of these tests' own, and a certificate of it for localhost and 127.0.0.1.
AUTHORITY, SERVER, KEY = (FOLDER / name for name in ("authority.pem", "server.pem", "server.key"))
MADE = {
    "digits": "9" * 5000,
    "headers": "".join(f"X-{number}: 1\r\n" for number in range(200)),
    "long": "x" * 70_000,
    "huge": "x" * (17 << 20),
}


@contextlib.contextmanager
def peer(
    answer: bytes, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a peer that sends the same to each caller and closes, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            with caller, contextlib.suppress(OSError):
                caller.settimeout(5)
                link = context.wrap_socket(caller, server_side=True) if context else caller
                with link:
                    asked.append(link.recv(65536))
                    link.sendall(answer)
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(65536):
                        pass

    with socket.create_server((host, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.twin
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer_is_whole_or_none(case: Mapping[str, object]) -> None:
    """A status with its body, or an error that says what came instead."""
    text = str(case["sends"]).replace("\n", "\r\n")
    for name, made in MADE.items():
        text = text.replace(f"{{{name}}}", made)
    with peer(text.encode()) as (port, _):
        url = f"http://127.0.0.1:{port}/"
        if "is" in case:
            wanted = case.get("status", 200), str(case["is"]).encode()
            assert exchange(url, seconds=10) == wanted
            return
        with pytest.raises(ProbeError) as caught:
            exchange(url, seconds=10)
    assert str(case["error"]) in str(caught.value)
    assert str(caught.value)


class Bytes:
    """A socket that has said all it will say."""

    def __init__(self, said: bytes) -> None:
        self._left = said

    def settimeout(self, seconds: float) -> None:
        """Know no time."""

    def send(self, data: bytes) -> int:
        """Take all of it."""
        return len(data)

    def recv_into(self, buffer: memoryview, nbytes: int = 0) -> int:
        """Give the next bytes."""
        piece = self._left[: len(buffer)]
        buffer[: len(piece)] = piece
        self._left = self._left[len(piece) :]
        return len(piece)

    def close(self) -> None:
        """Be gone."""


pieces = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b"200", b"\r\n", b"\n", b"Content-Length: ", b"3"),
        *(b"Transfer-Encoding: chunked\r\n", b"abc", b"0\r\n\r\n", b"-1", b": ", b"100", b"\0"),
        *(b"Content-Encoding: ", b"gzip", b"\xff", b"HTTP/1.1 204 No\r\n", b"99999999999"),
    ]
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(said=st.lists(pieces | st.binary(max_size=4), max_size=10))
def test_any_bytes_are_an_answer_or_a_probe_error(said: list[bytes]) -> None:
    """Whatever comes over the wire ends no thread."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ProbeError):
        patch.setattr(module, "_connect", lambda *_: Bytes(b"".join(said)))
        status, body = exchange("http://127.0.0.1:1/", seconds=1)
        assert 100 <= status <= 999
        assert isinstance(body, bytes)


# --- TLS --------------------------------------------------------------------------

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nb 1\n"


def tls() -> ssl.SSLContext:
    """A server's side of TLS, by the certificate beside the table."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SERVER, KEY)
    return context


CLIENTS: dict[str, Callable[[str], object]] = {
    "metrics page": lambda url: fetch(url, seconds=3),
    "Prometheus": lambda url: PrometheusDoor(url).value("x", seconds=3, fresh_seconds=9),
    "Connect": lambda url: ask_connect(url, "GET", "/", seconds=3),
    "ClickHouse": lambda url: ClickHouseDoor(url, "me", "geheim").rows("SELECT 1", seconds=3),
    "Redis": lambda url: look_at_redis(
        url.replace("https://", "rediss://me:geheim@").replace("http://", "redis://"), seconds=3
    ),
    "webhook": lambda url: refused(post_json(url, {"a": "geheim"}, seconds=3)),
}


def refused(sentence: str) -> None:
    """Raise what a webhook says instead of raising it."""
    if sentence:
        raise ProbeError(sentence)


@pytest.mark.twin
@pytest.mark.parametrize("ask", CLIENTS.values(), ids=CLIENTS)
def test_nothing_is_said_to_a_peer_that_cannot_be_trusted(ask: Callable[[str], object]) -> None:
    """Not even which path is asked for: with it would go the password."""
    with peer(PAGE, context=tls()) as (port, asked):
        with pytest.raises(ProbeError, match=r"its certificate cannot be trusted: .*#ca_file=PATH"):
            ask(f"https://127.0.0.1:{port}")
        assert asked == []
    with peer(PAGE) as (port, asked):
        with pytest.raises(ProbeError, match=r"no TLS: .*is it https that listens there"):
            ask(f"https://127.0.0.1:{port}")
        assert [hello for hello in asked if b"geheim" in hello or b"HTTP" in hello] == []


@pytest.mark.twin
@pytest.mark.parametrize("ask", CLIENTS.values(), ids=CLIENTS)
def test_a_peer_of_the_authority_that_is_named_is_asked(ask: Callable[[str], object]) -> None:
    """Inside TLS, whatever it then answers."""
    with peer(PAGE, context=tls()) as (port, asked), contextlib.suppress(ProbeError):
        ask(f"https://127.0.0.1:{port}/#ca_file={AUTHORITY}")
    assert len(asked) == 1
    assert b"ca_file" not in asked[0]


@pytest.mark.twin
def test_a_page_is_fetched_inside_tls() -> None:
    """By an address or a name that the certificate has; another name is refused."""
    with peer(PAGE, context=tls()) as (port, _):
        for host in ("127.0.0.1", "localhost"):
            assert fetch(f"https://{host}:{port}/#ca_file={AUTHORITY}", seconds=5) == b"b 1\n"
    said = r"certificate cannot be trusted: .*127\.0\.0\.2"
    other = peer(PAGE, context=tls(), host="127.0.0.2")
    with other as (port, _), pytest.raises(ProbeError, match=said):
        fetch(f"https://127.0.0.2:{port}/#ca_file={AUTHORITY}", seconds=5)


@pytest.mark.twin
def test_an_address_in_plain_text_is_not_answered_by_tls() -> None:
    """A port that wants TLS is not asked again without."""
    with peer(PAGE, context=tls()) as (port, _), pytest.raises(ProbeError):
        fetch(f"http://127.0.0.1:{port}/", seconds=2)


@pytest.mark.twin
def test_the_handshake_is_part_of_the_time() -> None:
    """A peer that accepts and says nothing is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ProbeError, match=r"no whole answer within 0\.3 s"):
            exchange(f"https://127.0.0.1:{server.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - began < 60


SCHEMES = {
    "ftp://127.0.0.1/": "a ftp address, expected http:// or https://",
    "127.0.0.1:9090": "expected http:// or https://",
    "localhost": "a blank address",
    "file:///etc/passwd": "a file address",
    "unix:///run/docker.sock": "a unix address",
    "http:///metrics": "an address without a host",
    "": "a blank address",
}


@pytest.mark.parametrize(("url", "said"), SCHEMES.items())
def test_an_address_is_http_or_refused(url: str, said: str) -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(ProbeError, match=said):
        exchange(url, seconds=1)


def test_redis_is_asked_by_its_own_schemes() -> None:
    """An address of something else is not spoken to in another protocol."""
    with pytest.raises(ProbeError, match="expected redis:// or rediss://"):
        look_at_redis("http://127.0.0.1:1/", seconds=1)


@pytest.mark.twin
def test_a_port_without_a_number_is_that_of_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """443 for https, and 8443 for ClickHouse's."""
    asked: list[object] = []

    def connect(host: str, port: int, deadline: float) -> socket.socket:
        asked.append(port)
        raise ConnectionRefusedError

    monkeypatch.setattr(module, "_connect", connect)
    for url in ("https://h/", "http://h/"):
        with pytest.raises(ProbeError):
            exchange(url, seconds=1)
        with pytest.raises(ProbeError):
            ClickHouseDoor(url, "", "").rows("SELECT 1", seconds=1)
    assert asked == [443, 8443, 80, 8123]
    assert "//h:8443" in ClickHouseDoor("https://h/", "", "").shown
    monkeypatch.setattr(
        socket, "create_connection", lambda address, **_: connect(address[0], address[1], 0.0)
    )
    with pytest.raises(ProbeError):
        is_port_open("https://h/", seconds=1)
    assert asked[-1] == 443


# --- authorities ------------------------------------------------------------------


def test_an_authority_stands_in_the_address() -> None:
    """It stays there for every path below, and is put where the table names one for all."""
    url = f"https://h:1/a#ca_file={AUTHORITY}"
    assert ca_file_of(url) == str(AUTHORITY)
    assert ca_file_of("https://h:1/a#part") == ""
    assert below(url, "/b/c", query="d=e") == f"https://h:1/a/b/c?d=e#ca_file={AUTHORITY}"
    assert with_ca_file("https://h:1/a", str(AUTHORITY)) == url
    assert with_ca_file(url, "/another") == url
    assert with_ca_file("http://h:1/", "/another") == "http://h:1/"
    assert ca_file_of(with_ca_file("https://h:1/", "/a b&c%#d")) == "/a b&c%#d"


def test_an_authority_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """By the path that was named, before anything is asked by it."""
    assert ca_problem(f"https://h:1/#ca_file={AUTHORITY}") == ""
    assert ca_problem("https://h:1/") == ""
    (tmp_path / "empty.pem").write_text("no certificate\n")
    problems = {
        f"https://h:1/#ca_file={tmp_path}/none.pem": f"{tmp_path}/none.pem: no certificates can be",
        f"https://h:1/#ca_file={tmp_path}/empty.pem": "empty.pem: no certificates can be read",
        f"https://h:1/#ca_file={tmp_path}": "no certificates can be read from it",
        "https://h:1/#ca_file=own.pem": "ca_file own.pem is not absolute",
        f"http://h:1/#ca_file={AUTHORITY}": "is not https://",
        f"https://[h:1/#ca_file={AUTHORITY}": "no address that can be read",
        "https://h:1/#ca_file=/a%00b": "no certificates can be read",
    }
    for url, said in problems.items():
        assert said in ca_problem(url)
    with pytest.raises(ProbeError, match="no certificates can be read"):
        exchange(f"https://127.0.0.1:1/#ca_file={tmp_path}/none.pem", seconds=1)


@pytest.mark.parametrize("source", ["prometheus", "clickhouse"])
def test_a_watch_names_one_authority_for_its_sources(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ca_file`` of [sources], where the address does not name its own."""
    asked: list[str] = []

    def refuse(ca_file: str) -> ssl.SSLContext:
        asked.append(ca_file)
        raise OSError("no")

    monkeypatch.setattr(module, "_trusting", refuse)
    for url in ("https://h:1/", "https://h:1/#ca_file=/own.pem"):
        around = Surroundings({f"{source}_url": url, "ca_file": "/all.pem"}, tmp_path, {})
        with pytest.raises(ProbeError, match="no"):
            SOURCES[source].measure(rule_of(source, "x"), around)()
    assert asked == ["/all.pem", "/own.pem"]


# --- one of each ------------------------------------------------------------------

# What a module of the product may import of this kind, and which one does.
ONE_OF_EACH = {
    r"http\.client|urllib3?\.request|urllib3|httpx|requests|aiohttp": {"probes/exchange.py"},
    r"prometheus_client\.(?:parser|openmetrics)": set(),
    r"clickhouse_connect|redis": set(),
    # The twin's engines use the client library as engines do.
    r"valkey": {"probes/redis.py"},
}


@pytest.mark.parametrize(("names", "homes"), ONE_OF_EACH.items())
def test_there_is_one_client_of_each_kind(names: str, homes: set[str]) -> None:
    """A second one would have other limits, and nobody would know which."""
    pattern = re.compile(rf"^ *(?:from|import) (?:{names})\b", re.MULTILINE)
    product = Path(ctp_runbook.__file__).parent
    found = {
        str(path.relative_to(product))
        for path in product.rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found == homes
