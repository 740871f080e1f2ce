"""Ask Prometheus by its HTTP interface: a query's value now."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.exchange import exchange

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
        """Return the query's one value now, NaN included; None where no series answers.

        What was scraped longer ago than ``fresh_seconds`` is no answer: without that bound
        Prometheus repeats a series that ended for five minutes. Raises ProbeError, also when the
        two clocks are further apart than that.
        """
        lookback = f"{max(1, round(fresh_seconds * 1000))}ms"
        parameters = urlencode({"query": query, "lookback_delta": lookback})
        sample = self._sample(self._ask(f"query?{parameters}", seconds=seconds))
        if sample is None:
            return None
        try:
            taken, value = map(float, sample)
        except (TypeError, ValueError) as error:
            raise self._error(f"{sample!r} is no sample") from error
        # Ahead as well as behind: of a clock that differs nobody knows how old a sample is.
        if (apart := abs(time.time() - taken)) > fresh_seconds:
            raise self._error(
                f"its clock is {apart:.0f} s away from this host's; fresh_seconds is "
                f"{fresh_seconds:g}: set the clocks"
            )
        return value

    def _ask(self, path: str, *, seconds: float) -> Any:
        """Return the data of an answer that Prometheus calls a success."""
        try:
            status, body = exchange(f"{self.url.rstrip('/')}/api/v1/{path}", seconds=seconds)
        except ProbeError as error:
            raise self._error(str(error)) from error
        try:
            answer = json.loads(body)
            if status == 200 and answer["status"] == "success":
                return answer["data"]
            why = str(answer["error"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._error(
                f"answered HTTP {status}, and not as Prometheus does; is sources.prometheus_url "
                "right?"
            ) from error
        raise self._error(f"HTTP {status}: {why}; {_REMEDY}")

    def _sample(self, data: Any) -> Any:
        """Return time and value of the one series, or of the scalar; None for no series."""
        kind = data.get("resultType") if isinstance(data, dict) else None
        result = data.get("result") if kind in ("scalar", "vector") else None
        if kind == "scalar":
            return result
        if not isinstance(result, list) or not all(isinstance(row, dict) for row in result):
            raise self._error(f"a {kind} is no number; {_REMEDY}")
        if len(result) > 1:
            raise self._error(
                f"{len(result)} series, expected one: aggregate them (max, sum) in the query; "
                f"{_REMEDY}"
            )
        return result[0].get("value") if result else None

    def _error(self, what: str) -> ProbeError:
        return ProbeError(f"Prometheus at {self.url}: {what}")


def query_value(rule: MetricRule, around: Surroundings) -> Measure:
    """Make the source ``prometheus``: the one value of the rule's query now."""
    door, seconds = PrometheusDoor(around.settings["prometheus_url"]), rule.patience_seconds
    return lambda: door.value(rule.query, seconds=seconds, fresh_seconds=rule.fresh_seconds)
