"""What an engine exposes on ``/metrics``, in the names of DOMAIN.md; measured, never made up."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from ctp_runbook.rehearsal.engine.breaker import Breaker
from ctp_runbook.rehearsal.engine.records import Records
from ctp_runbook.rehearsal.front.protocol import SessionState

__all__ = ["EngineMetrics"]

_PREFIX = "quant_hft_"
_LATENCY_BUCKETS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0,
)  # fmt: skip
_QUERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_RECONNECT_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0)


class EngineMetrics:
    """One engine's metrics in a registry of their own: no process or platform metrics.

    ``usual_reconnect_buckets``: those of the client library, as in an engine whose author named none.
    """

    def __init__(self, *, usual_reconnect_buckets: bool = False) -> None:
        # Six gauges nobody reads, in every scrape. The library ships the function untyped.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=True)
        self.order_latency = self._histogram(
            "order_latency_seconds", "Order insert to the front's first answer.", _LATENCY_BUCKETS
        )
        self.query_latency = self._histogram(
            "ctp_query_latency_seconds", "Query to its answer.", _QUERY_BUCKETS
        )
        buckets = Histogram.DEFAULT_BUCKETS if usual_reconnect_buckets else _RECONNECT_BUCKETS
        self.reconnect_seconds = self._histogram(
            "ctp_reconnect_seconds", "TD session lost to ready again.", buckets
        )
        self.reconnects = self._counter("ctp_reconnect", "TD sessions that came back.")
        self.risk_rejects = self._counter("risk_reject", "Orders kept back.", "reason")
        self.rate_violations = self._counter("query_rate_violation", "Queries refused (-2, -3).")
        self._connected = self._gauge("ctp_connected", "1: TD logged in.")
        self._session = self._gauge(
            "ctp_session_state",
            "0 disconnected, 1 connected, 2 logged in, 3 settlement confirmed, 4 ready.",
            "channel",
        )
        self._breaker = self._gauge("breaker_state", "0 closed, 1 half-open, 2 open.", "scope")
        for channel in ("td", "md"):
            self.session(channel, SessionState.DISCONNECTED)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=buckets, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, text, labels, registry=self._registry)

    def session(self, channel: str, state: SessionState) -> None:
        """Set how far a channel's session got."""
        self._session.labels(channel).set(state)
        if channel == "td":
            self._connected.set(state >= SessionState.LOGGED_IN)

    def watch_breaker(self, breaker: Breaker) -> None:
        """Have every scrape read the breaker's state: it changes by time alone, too."""
        self._breaker.labels(breaker.scope).set_function(lambda: breaker.state)

    def watch_records(self, records: Records) -> None:
        """Count what becomes of the ticks for Kafka; have every scrape read what still waits."""
        publishes = self._counter("kafka_publish", "Ticks given to Kafka.", "result")
        ok, failed = publishes.labels("ok"), publishes.labels("failed")  # on the page from now
        records.on_publish = lambda succeeded: (ok if succeeded else failed).inc()
        backlog = self._gauge("kafka_spool_backlog", "Records waiting for longer than a second.")
        backlog.set_function(lambda: records.spooled)

    def page(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self._registry)
