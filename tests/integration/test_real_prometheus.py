"""A real Prometheus scrapes a host that is well, one where everything is wrong, and one that is dead.

Its configuration and rules are those of infra/; only addresses and intervals are this test's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.config import load_watch
from ctp_runbook.probes.metrics import fetch, parse_page
from ctp_runbook.probes.prometheus import PrometheusDoor
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries
from tests.props.small_servers import free_port

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
RULES = load_watch(ROOT / "configs/rich_engine.watch.toml")
ALERTS = ROOT / "infra/prometheus/alerts.yml"
Page = Callable[[int], str]
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.1, 1, 5, 10, 20, 60)


def histogram(name: str, *, count: int, at: float) -> str:
    """``count`` events that all took ``at`` seconds."""
    lines = [f'{name}_bucket{{le="{b}"}} {count if at <= b else 0}' for b in BOUNDS]
    return "\n".join([*lines, f'{name}_bucket{{le="+Inf"}} {count}', f"{name}_count {count}", ""])


def engine(turn: int, *, bad: bool) -> str:
    """An engine's page at its ``turn``-th scrape: 50 orders more each time."""
    return (
        histogram("quant_hft_order_latency_seconds", count=50 * turn, at=0.015 if bad else 0.0015)
        + histogram("quant_hft_ctp_reconnect_seconds", count=turn if bad else 0, at=15)
        + f'quant_hft_breaker_state{{scope="orders"}} {2 if bad else 0}\n'
        f"quant_hft_query_rate_violation_total {turn if bad else 0}\n"
    )


def kafka(turn: int, *, bad: bool) -> str:
    """The exporter's page: 1000 ticks a second come in."""
    topic = 'topic="market.ticks.v1",partition="0"'
    return (
        f'kafka_consumergroup_lag{{consumergroup="clickhouse-ingest",{topic}}} {5000 if bad else 2}\n'
        f"kafka_topic_partition_current_offset{{{topic}}} {1000 * turn}\n"
    )


def connect(turn: int, *, bad: bool) -> str:
    """Kafka Connect's page."""
    connector = 'connector="trading-core-connector",state="failed"'
    return f"kafka_connect_connector_tasks{{{connector}}} {int(bad)}\n"


def postgres(turn: int, *, bad: bool) -> str:
    """The page of PostgreSQL's exporter."""
    slot = 'slot_name="trading_core_slot"'
    return (
        f"pg_replication_slot_slot_is_active{{{slot}}} {int(not bad)}\n"
        f"pg_replication_slot_safe_wal_size_bytes{{{slot}}} {1e9 if bad else 8e9}\n"
    )


def ingest(turn: int, *, bad: bool) -> str:
    """ClickHouse's own handler."""
    return (
        f"quant_hft_clickhouse_ingest_delay_ms {9000 if bad else 40}\n"
        "quant_hft_clickhouse_ingest_rows 500\n"
    )


def nothing(turn: int, *, bad: bool) -> str:
    """A page that answers, with nothing on it that a rule asks for."""
    return "up_since 1\n"


# By the port that infra/prometheus/prometheus.yml has for it.
PAGES = {
    "18081": engine,
    "9308": kafka,
    "9404": connect,
    "9187": postgres,
    "8123": ingest,
    "9363": nothing,
}


@contextlib.contextmanager
def serve(page: Page) -> Iterator[int]:
    """The port of a page that knows how often it was asked."""
    turns = iter(range(1, 1 << 30))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """The next turn's page."""
            body = page(next(turns)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Prometheus:
    """A running one, by its HTTP interface."""

    def __init__(self, port: int) -> None:
        self.door = PrometheusDoor(f"http://127.0.0.1:{port}")
        self._base = f"{self.door.url}/api/v1"

    def get(self, path: str, **given: str) -> Any:
        """``data`` of an answer."""
        query = f"?{urllib.parse.urlencode(given)}" if given else ""
        return json.loads(fetch(f"{self._base}/{path}{query}", seconds=5))["data"]

    def value(self, query: str) -> float | None:
        """The value of an instant query that gives one series at most."""
        found = self.get("query", query=query)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> dict[str, str]:
        """State of each alert that is not quiet."""
        return {one["labels"]["alertname"]: one["state"] for one in self.get("alerts")["alerts"]}


@contextlib.contextmanager
def prometheus(folder: Path, ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Debian's Prometheus on infra/'s own files; ``ports`` maps their ports to this test's."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here: Debian's package prometheus has it")
    folder.mkdir()
    (folder / "password").write_text("monitor")
    own = free_port()
    text = (ROOT / "infra/prometheus/prometheus.yml").read_text(encoding="utf-8")
    for was in re.findall(r"127\.0\.0\.1:(\d+)", text):
        now = own if was == "9090" else ports.get(was) or free_port()
        text = text.replace(f"127.0.0.1:{was}", f"127.0.0.1:{now}")
    text = re.sub(r"(interval|timeout): \ds", r"\1: 1s", text)
    text = text.replace("/etc/prometheus/alerts.yml", str(ALERTS))
    text = text.replace("/run/prometheus/monitor_password", str(folder / "password"))
    (folder / "prometheus.yml").write_text(text)
    argv = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    argv += [f"--web.listen-address=127.0.0.1:{own}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield Prometheus(own)
    finally:
        process.terminate()
        process.wait(20)


Hosts = Mapping[str, Prometheus]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three hosts, each with its Prometheus, after enough scrapes for every rule."""
    folder = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as stack:
        found = {}
        for name, bad in (("well", False), ("wrong", True)):
            ports = {
                port: stack.enter_context(serve(functools.partial(page, bad=bad)))
                for port, page in PAGES.items()
            }
            if bad:  # the old engine answers as well
                ports["18080"] = stack.enter_context(serve(functools.partial(engine, bad=True)))
            found[name] = stack.enter_context(prometheus(folder / name, ports))
        found["dead"] = stack.enter_context(prometheus(folder / "dead", {}))
        time.sleep(16)  # `for` of 10 s, after two scrapes and an evaluation
        yield found


def recorded() -> list[str]:
    """Names of the recording rules."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]


def test_a_host_that_is_well_raises_no_alert(hosts: Hosts) -> None:
    """Every rule is evaluated without an error, and none speaks."""
    groups = hosts["well"].get("rules")["groups"]
    told = [(r["name"], r["health"], r.get("lastError")) for g in groups for r in g["rules"]]
    assert len(told) == 22
    assert [one for one in told if one[1] != "ok"] == []
    assert hosts["well"].alerts() == {}


def test_every_metric_of_the_watch_has_a_value(hosts: Hosts) -> None:
    """All six, but the p99 of reconnects that did not happen, and what only engines as found count: no
    value, and so no alert."""
    values = {name: hosts["well"].value(name) for name in recorded()}
    missing = [name for name, value in values.items() if value is None or value != value]
    assert sorted(values) == sorted([*RULES.metrics, "callbacks_dropped_or_late"])
    assert sorted(missing) == ["callbacks_dropped_or_late", "reconnect_p99_s"]


def test_what_is_wrong_is_told(hosts: Hosts) -> None:
    """Each alert that has a reason speaks; those that wait a minute are pending."""
    speak = ("OrderLatency", "BreakerOpen", "QueryRateViolation", "ReconnectSlow", "KafkaLag")
    more = ("ClickHouseIngestDelay", "BothEnginesAnswer", "ConnectorTaskFailed")
    expected = dict.fromkeys((*speak, *more, "ReplicationSlotNearLoss"), "firing")
    expected["ReplicationSlotIdle"] = "pending"
    end = time.monotonic() + 20
    while (found := hosts["wrong"].alerts()) != expected and time.monotonic() < end:
        time.sleep(0.5)
    assert found == expected


def test_a_host_that_is_dead_is_told(hosts: Hosts) -> None:
    """No engine answers, and every other target is down."""
    end = time.monotonic() + 20
    while hosts["dead"].alerts().get("NoEngine") != "firing" and time.monotonic() < end:
        time.sleep(0.5)
    assert hosts["dead"].alerts() == {"NoEngine": "firing", "TargetDown": "pending"}


@pytest.mark.parametrize("name", ["order_latency_p99_ms", "reconnect_p99_s"])
def test_prometheus_and_the_watch_take_the_same_quantile(hosts: Hosts, name: str) -> None:
    """Of the same pages both get the same p99, to a percent."""
    rule = RULES.metrics[name]
    series = MetricSeries(rule, started_mono=-rule.warm_up_seconds)
    for turn in range(1, 12):
        page = parse_page(engine(turn, bad=True), families=[rule.query])
        sample = Sample(turn, 1e9 + turn, float(turn), "engine", "", True, "", 1.0, page)
        point = series.add(sample)
    assert point.value is not None
    found = hosts["wrong"].value(f'{name}{{generation="new"}}')
    assert found == pytest.approx(point.value, rel=0.01)


def test_the_watch_may_ask_prometheus(hosts: Hosts) -> None:
    """The value of now; no series is no data; a wrong query is quoted, a stretch of time is none."""
    door = hosts["wrong"].door
    ask = functools.partial(door.value, seconds=2, fresh_seconds=10)
    assert ask('quant_hft_clickhouse_ingest_delay_ms{job="clickhouse_ingest"}') == 9000
    assert ask("quant_hft_of_nobody") is None
    with pytest.raises(ProbeError, match="2 series, expected one"):
        ask("order_latency_p99_ms")
    with pytest.raises(ProbeError, match=r"HTTP 400.*parse error"):
        ask("sum(")
    with pytest.raises(ProbeError, match="a matrix is no number"):
        ask('quant_hft_query_rate_violation_total{generation="new"}[5s]')
