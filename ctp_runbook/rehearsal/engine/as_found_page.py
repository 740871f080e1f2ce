"""The metrics page of a new engine as found: one gauge until something happens."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

__all__ = ["Page"]

_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class Page:
    """The metrics page: a family is there from its first event on, and not before."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # no C++ engine has them
        self._registry = CollectorRegistry(auto_describe=True)
        self.connected = Gauge("quant_hft_ctp_connected", "1: connected.", registry=self._registry)
        self._latency: Histogram | None = None
        self._counters: dict[str, Counter] = {}

    def order(self, seconds: float) -> None:
        """An order that was submitted, after so long."""
        if self._latency is None:
            name = "quant_hft_order_latency_seconds"
            self._latency = Histogram(name, "Submit.", buckets=_BUCKETS, registry=self._registry)
        self._latency.observe(seconds)

    def count(self, name: str) -> None:
        """An event, such as ``risk_reject``."""
        if name not in self._counters:
            counter = Counter(f"quant_hft_{name}", "Events.", registry=self._registry)
            self._counters[name] = counter
        self._counters[name].inc()

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
