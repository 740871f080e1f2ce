"""A number in the JSON object that a service shows, asked for with httpx."""

from __future__ import annotations

import httpx

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["json_number"]


def json_number(rule: MetricRule, around: Surroundings) -> Measure:
    """The number under the rule's query, by the user of ``sources.example_http_json_user``."""
    user = around.settings.get("example_http_json_user", "nobody")

    def measure() -> float | None:
        try:
            answer = httpx.get(rule.url, headers={"X-User": user}, timeout=rule.patience_seconds)
            value = answer.raise_for_status().json()[rule.query]
            return None if value is None else float(value)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ProbeError(
                f"{rule.url}: {rule.query}: {type(error).__name__}: {error}"
            ) from error

    return measure
