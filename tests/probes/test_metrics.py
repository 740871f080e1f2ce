"""Facts about probes/metrics.py: a page is taken whole and in time, or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.metrics import fetch, is_port_open, parse_page, scrape
from ctp_runbook.record.samples import series_key
from tests.props.plan_fixtures import CLOSED_PORT_URL

PAGE = """\
# HELP quant_hft_order_latency_seconds Time to the front's answer.
# TYPE quant_hft_order_latency_seconds histogram
quant_hft_order_latency_seconds_bucket{le="0.001"} 3
quant_hft_order_latency_seconds_bucket{le="+Inf"} 4
quant_hft_order_latency_seconds_count 4
quant_hft_order_latency_seconds_sum 0.009
# HELP quant_hft_breaker_state 0 closed, 2 open
# TYPE quant_hft_breaker_state gauge
quant_hft_breaker_state{scope="SHFE"} 0.0
quant_hft_breaker_state{scope="DCE"} NaN
# TYPE quant_hft_query_rate_violation counter
quant_hft_query_rate_violation_total 2.0
process_cpu_seconds_total 12.5
"""
FAMILIES = ("quant_hft_order_latency_seconds", "quant_hft_breaker_state")


# --- pages ------------------------------------------------------------------------


def test_the_wanted_families_are_taken() -> None:
    """Every series of them, the parts of a histogram too, and nothing else."""
    series = parse_page(PAGE, families=FAMILIES)
    breaker = series.pop('quant_hft_breaker_state{scope="DCE"}')
    assert breaker != breaker
    assert series == {
        'quant_hft_order_latency_seconds_bucket{le="0.001"}': 3,
        'quant_hft_order_latency_seconds_bucket{le="+Inf"}': 4,
        "quant_hft_order_latency_seconds_count": 4,
        "quant_hft_order_latency_seconds_sum": 0.009,
        'quant_hft_breaker_state{scope="SHFE"}': 0,
    }


def test_a_counter_is_asked_for_by_its_name_on_the_page() -> None:
    """With ``_total``, as DOMAIN names it."""
    name = "quant_hft_query_rate_violation_total"
    assert parse_page(PAGE, families=[name]) == {name: 2.0}


@pytest.mark.parametrize("text", ["", "\n", "# nothing here\n", "other 1\n"])
def test_a_page_without_them_has_no_series(text: str) -> None:
    """That is no error: the judge will say no data."""
    assert parse_page(text, families=FAMILIES) == {}


def test_what_the_format_allows_is_read() -> None:
    """Tabs, a time stamp, a comma after the last label, escapes, and names with a common head."""
    escaped = 'quant_hft_breaker_state{ a="x\\\\y\\"z" , b="1", }\t+Inf 1700000000\n'
    series = parse_page(escaped + "quant_hft_breaker_state_of_another 1\n", families=FAMILIES)
    assert series == {'quant_hft_breaker_state{a="x\\\\y\\"z",b="1"}': math.inf}


BROKEN = {
    "no value": "quant_hft_breaker_state\n",
    "a word for a value": "quant_hft_breaker_state open\n",
    "a number and a half": "quant_hft_breaker_state 1.5.2\n",
    "a name that ends in a number": "quant_hft_breaker_state{}\n",
    "labels not closed": 'quant_hft_breaker_state{scope="SHFE 0\n',
    "labels without quotes": "quant_hft_breaker_state{scope=SHFE} 0\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_page_is_not_measured(text: str) -> None:
    """A wanted line that cannot be read is told, never skipped."""
    with pytest.raises(ProbeError, match="not a metrics page"):
        parse_page(text, families=FAMILIES)


pieces = st.sampled_from(
    [*PAGE.splitlines(), "quant_hft_breaker_state", "{", "}", '"', "\\", "=", ",", " ", "1", "#"]
)


@given(parts=st.lists(pieces | st.text(max_size=5), max_size=12), joint=st.sampled_from(["", "\n"]))
def test_any_page_is_series_or_a_probe_error(parts: list[str], joint: str) -> None:
    """Nothing an engine could print ends the sampling thread."""
    with contextlib.suppress(ProbeError):
        series = parse_page(joint.join(parts), families=FAMILIES)
        assert all(isinstance(value, float) for value in series.values())


@given(data=st.binary(max_size=60))
def test_any_bytes_are_series_or_a_probe_error(data: bytes) -> None:
    """Not even what is no text."""
    with contextlib.suppress(ProbeError):
        parse_page(data + b"\n", families=FAMILIES)


# --- beside prometheus_client -----------------------------------------------------

NAMES = ("b", "b_bucket", "b_sum", "b_count", "b_total", "c:d", "_e")
gaps = st.sampled_from(["", " ", "\t", "  ", "\x0b", "\xa0", "\r"])
blanks = st.sampled_from([" ", " ", " ", "\t", "  "])
odd_texts = st.sampled_from(
    [
        "",
        "td",
        "a\u2028b",
        "\u0085",
        "\x0b",
        '\\"',
        "\\\\",
        "\\n",
        "\\t",
        "}",
        "{",
        ",",
        "=",
        "#",
        '"',
        " # ",
    ]
)
usual_texts = ("td", "md", "a\u2028b")
label_names = st.sampled_from(["x", "le", "y", "_z", "__w", "x:y", "\u00e9", "1"])
values = st.sampled_from(
    [
        *("0", "1", "2.5", "-1", "+3", "1e3", "1E-2", ".5", "5.", "NaN", "nan", "+Inf", "-Inf"),
        *(
            "inf",
            "infinity",
            "1_0",
            "0x1",
            "\u0661",
            "",
            "1 2",
            "--1",
            "1e999",
            "9" * 400,
            "-NaN",
            "1e",
            "e1",
        ),
    ]
)


@st.composite
def sample_lines(draw: st.DrawFn) -> str:
    """A sample as it may be written, right in all parts but one at most."""
    odd = draw(st.sampled_from(["", "", "gap", "name", "text", "end", "value", "stamp", "equals"]))

    def part(kind: str, strategy: st.SearchStrategy[str], *right: str) -> str:
        return draw(strategy if odd == kind else st.sampled_from(right))

    names = [part("name", label_names, "x", "y") for _ in range(draw(st.integers(0, 2)))]
    gap, equals = part("gap", gaps, "", " "), part("equals", st.just(" ="), "=")
    labels = [f'{gap}{name}{equals}"{part("text", odd_texts, *usual_texts)}"' for name in names]
    end = part("end", st.sampled_from(["} ", ",,", " "]), "", ",") if labels else ""
    block = f"{{{','.join(labels)}{end}}}" if labels else draw(st.sampled_from(["", "{}"]))
    head = f"{gap}{draw(st.sampled_from(NAMES))}{block}{draw(blanks)}"
    stamp = part("stamp", st.sampled_from([" 1.5", " x", "\t17"]), "", " 17")
    return f"{head}{part('value', values, '1', '2.5', 'NaN')}{stamp}{gap}"


other_lines = st.sampled_from(
    [
        *("", "#", "# a", "# HELP b a", "# TYPE b gauge", "# TYPE b counter", "# TYPE b histogram"),
        *(
            "# TYPE b",
            "# HELP",
            "#TYPE b gauge",
            '# TYPE "b" gauge',
            "# HELP b \u2028",
            "# EOF",
            " ",
        ),
        *("#\x0bTYPE b", "# TYPE b gauge gauge", "# TYPE 1 gauge", "# HELP b\\n", "#  HELP b"),
    ]
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(lines=st.lists(sample_lines() | other_lines, max_size=3))
def test_what_is_read_is_what_prometheus_client_reads(lines: list[str]) -> None:
    """The same samples, for every page that is taken; it may take more."""
    text = "".join(f"{line}\n" for line in lines)
    try:
        series = parse_page(text, families=NAMES)
    except ProbeError:
        return
    # Whole, for it reads comments too; then without them, for they rename its counters.
    list(text_string_to_metric_families(text))
    bare = "".join(f"{line}\n" for line in lines if not line.lstrip(" \t").startswith("#"))
    samples = [
        sample for family in text_string_to_metric_families(bare) for sample in family.samples
    ]
    theirs = {series_key(one.name, one.labels): float(one.value) for one in samples}
    assert len(theirs) == len(samples), "a series stands twice"
    assert {key: str(value) for key, value in series.items()} == {
        key: str(value) for key, value in theirs.items()
    }


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(
    help_text=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8
    ),
    labels=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8),
        max_size=4,
        unique=True,
    ),
    number=st.floats(),
)
def test_what_prometheus_client_writes_is_read(
    help_text: str, labels: list[str], number: float
) -> None:
    """Every page of it, whatever stands in its labels: engines in Python write no other."""
    registry = CollectorRegistry()
    gauge = Gauge("b", help_text, ["x"], registry=registry)
    for label in labels:
        gauge.labels(label).set(number)
    Histogram("h", help_text, registry=registry).observe(0.2)
    series = parse_page(generate_latest(registry), families=["b", "h"])
    for label in labels:
        assert str(series[series_key("b", {"x": label})]) == str(number)
    assert series["h_count"] == 1.0


# --- answers ----------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Serves raw bytes to each caller, piece by piece; the URL of it."""
    with contextlib.ExitStack() as stack:

        def serve(*answer: bytes, pause: float = 0.0, hang: bool = False) -> str:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            done = threading.Event()
            thread = threading.Thread(target=_serve, args=(server, answer, pause, hang, done))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            stack.callback(done.set)
            return f"http://127.0.0.1:{server.getsockname()[1]}/metrics?a=1"

        yield serve


def _serve(
    server: socket.socket,
    answer: tuple[bytes, ...],
    pause: float,
    hang: bool,
    done: threading.Event,
) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        with caller, contextlib.suppress(OSError):
            assert caller.recv(4096).startswith(b"GET /metrics?a=1 HTTP/1.1\r\n")
            for piece in answer:
                caller.sendall(piece)
                done.wait(pause)
            if hang:
                done.wait(20)


def page(
    body: bytes = PAGE.encode(), *, status: str = "200 OK", length: int | None = None
) -> bytes:
    """A whole HTTP answer."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.twin
def test_a_page_is_fetched_and_read(answering: Callable[..., str]) -> None:
    """Over a connection of its own each time."""
    url = answering(page())
    for _ in range(2):
        assert fetch(url, seconds=5) == PAGE.encode()
        assert scrape(url, families=[FAMILIES[1]], seconds=5).keys() == {
            f'quant_hft_breaker_state{{scope="{scope}"}}' for scope in ("SHFE", "DCE")
        }


@pytest.mark.twin
def test_a_page_may_come_in_chunks(answering: Callable[..., str]) -> None:
    """As some exporters send it, or until the connection closes."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert fetch(answering(chunked), seconds=5) == b"abc"
    assert fetch(answering(b"HTTP/1.0 200 OK\r\n\r\nabc"), seconds=5) == b"abc"


NOT_MEASURED = {
    "not found": (page(status="404 Not Found"), "answered HTTP 404, expected 200"),
    "server error": (page(status="500 Oops"), "answered HTTP 500"),
    "moved": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n",
        "answered HTTP 302",
    ),
    "no HTTP": (b"hello\r\n\r\n", "hello"),
    "closed at once": (b"", "without response"),
    "cut short": (page(PAGE.encode()[:80], length=500), "the answer ended 420 bytes early"),
    "chunk cut short": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
        "IncompleteRead",
    ),
}


@pytest.mark.twin
@pytest.mark.parametrize(("answer", "words"), NOT_MEASURED.values(), ids=NOT_MEASURED)
def test_half_an_answer_is_none(answering: Callable[..., str], answer: bytes, words: str) -> None:
    """What is not a whole page with HTTP 200 is an error that names the URL."""
    url = answering(answer)
    with pytest.raises(ProbeError) as caught:
        fetch(url, seconds=5)
    assert str(caught.value).startswith(f"{url}: ")
    assert words in str(caught.value)


@pytest.mark.twin
def test_a_page_that_is_no_text_is_not_measured(answering: Callable[..., str]) -> None:
    """Bytes that are no UTF-8 are no page."""
    with pytest.raises(ProbeError, match="not text"):
        scrape(answering(page(b"\xff\xfe")), families=FAMILIES, seconds=5)


@pytest.mark.twin
def test_a_closed_port_is_not_measured() -> None:
    """Nobody there is an error, with the system's words."""
    with pytest.raises(ProbeError, match="Connection refused"):
        fetch(CLOSED_PORT_URL, seconds=5)
    assert not is_port_open(CLOSED_PORT_URL, seconds=1)


SLOW = {
    "silent": ((), 0.0),
    "stuck in the body": ((page(length=5000),), 0.0),
    "dripping body": ((page(b"x", length=5000), *[b"x"] * 60), 0.05),
}


@pytest.mark.twin
@pytest.mark.parametrize(("pieces", "pause"), SLOW.values(), ids=SLOW)
def test_an_answer_comes_in_time_or_not_at_all(
    answering: Callable[..., str], pieces: tuple[bytes, ...], pause: float
) -> None:
    """An engine that hangs, or drips, holds nobody much longer than asked."""
    url = answering(*pieces, pause=pause, hang=True)
    began = time.monotonic()
    with pytest.raises(ProbeError, match=r"no whole answer within 0\.3 s"):
        fetch(url, seconds=0.3)
    assert time.monotonic() - began < 15


@pytest.mark.twin
def test_dripping_headers_hold_nobody(answering: Callable[..., str]) -> None:
    """Not even an engine that sends a byte of its header now and then."""
    url = answering(b"HTTP/1.1 200 OK\r\n", *[b"x"] * 400, b": 1\r\n", page()[17:], pause=0.05)
    began = time.monotonic()
    with pytest.raises(ProbeError, match=r"no whole answer within 0\.2 s"):
        fetch(url, seconds=0.2)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/metrics", "http://127.0.0.1:x/metrics"])
def test_a_url_that_is_none_is_not_measured(url: str) -> None:
    """A port that cannot be is an error of the probe, not the end of the thread that asks."""
    for ask in (fetch, is_port_open):
        with pytest.raises(ProbeError, match=f"^{url}: "):
            ask(url, seconds=1)


@pytest.mark.twin
def test_no_proxy_is_asked(answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is a process of this host, whatever the environment says."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(answering(page(b"abc")), seconds=5) == b"abc"


@pytest.mark.twin
def test_a_port_is_open_while_somebody_listens(answering: Callable[..., str]) -> None:
    """Also when what listens speaks no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        assert is_port_open(url, seconds=1)
    assert not is_port_open(url, seconds=1)


@pytest.mark.twin
def test_a_name_with_two_addresses_is_closed_where_all_refuse() -> None:
    """``localhost`` may be two; the one that the host does not have is nobody's."""
    assert not is_port_open(CLOSED_PORT_URL.replace("127.0.0.1", "localhost"), seconds=1)


@pytest.mark.twin
def test_a_port_that_does_not_answer_is_neither_open_nor_closed() -> None:
    """Only a refusal proves that nobody listens; a full backlog refuses nobody."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        url = f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        with pytest.raises(ProbeError, match=f"^{url}: timed out"):
            is_port_open(url, seconds=0.3)
