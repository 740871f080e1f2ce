"""A metric rule for tests of sources: what it measures is beside the point."""

from __future__ import annotations

from typing import Any

from ctp_runbook.plan.config import MetricRule

__all__ = ["rule_of"]


def rule_of(source: str, query: str, **more: Any) -> MetricRule:
    """A rule of this source and query, whose other keys are as good as any."""
    usual = {"unit": "ms", "kind": "lag", "limit": 10, "direction": "max"}
    return MetricRule(name="x", label="X", source=source, query=query, **{**usual, **more})
