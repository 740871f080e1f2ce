"""Ask Prometheus by its HTTP interface: a query's value now."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.metrics import ask

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["PrometheusDoor", "query_value"]

_REMEDY = "correct the query in watch.toml"


@dataclass(frozen=True)
class PrometheusDoor:
    """A Prometheus at ``url``, its base address (``http://127.0.0.1:9090``)."""

    url: str

    def value(self, query: str, *, seconds: float, fresh_seconds: float) -> float | None:
        """The query's one value now, NaN included; None where no series answers.

        What was scraped longer ago than ``fresh_seconds`` is no answer: without that bound
        Prometheus repeats a series that ended for five minutes. Raises ProbeError, also when the
        two clocks are further apart than that.
        """
        given = {"query": query, "lookback_delta": f"{max(1, round(fresh_seconds * 1000))}ms"}
        data = self._ask("query", given, seconds=seconds)
        if (found := self._only(data)) is None:
            return None
        taken, value = self._point(found)
        if abs(time.time() - taken) > fresh_seconds:
            raise ProbeError(
                f"Prometheus at {self.url}: its clock is {abs(time.time() - taken):.0f} s away from "
                f"this host's; fresh_seconds is {fresh_seconds:g}: set the clocks"
            )
        return value

    def _ask(self, path: str, given: dict[str, str], *, seconds: float) -> Any:
        url = f"{self.url.rstrip('/')}/api/v1/{path}?{urlencode(given)}"
        try:
            status, body = ask(url, seconds=seconds)
        except ProbeError as error:
            told = str(error).removeprefix(f"{url}: ")
            raise ProbeError(f"Prometheus at {self.url}: {told}") from error
        try:
            told = json.loads(body)
            if status == 200 and told["status"] == "success":
                return told["data"]
            why = str(told["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError(
                f"Prometheus at {self.url}: answered HTTP {status}, and not as Prometheus does; is "
                "sources.prometheus_url right?"
            ) from error
        raise ProbeError(f"Prometheus at {self.url}: HTTP {status}: {why}; {_REMEDY}")

    def _only(self, data: Any) -> Any:
        """Time and value of the one thing that a query found."""
        if isinstance(data, dict) and data.get("resultType") == "scalar":
            return data.get("result")
        series = self._series(data)
        return series[0].get("value") if series else None

    def _series(self, data: Any) -> list[Any]:
        kind = data.get("resultType") if isinstance(data, dict) else None
        series = data.get("result") if kind == "vector" else None
        if not isinstance(series, list) or not all(isinstance(one, dict) for one in series):
            raise ProbeError(f"Prometheus at {self.url}: a {kind} is no number; {_REMEDY}")
        if len(series) > 1:
            raise ProbeError(
                f"Prometheus at {self.url}: {len(series)} series, expected one: aggregate them (max, "
                f"sum) in the query; {_REMEDY}"
            )
        return series

    def _point(self, found: Any) -> tuple[float, float]:
        try:
            taken, value = found
            return float(taken), float(value)
        except (TypeError, ValueError) as error:
            raise ProbeError(f"Prometheus at {self.url}: {found!r} is no sample") from error


def query_value(rule: MetricRule, around: Surroundings) -> Measure:
    """The source ``prometheus``: the one value of the rule's query now."""
    door, seconds = PrometheusDoor(around.settings["prometheus_url"]), rule.patience_seconds
    return lambda: door.value(rule.query, seconds=seconds, fresh_seconds=rule.fresh_seconds)
