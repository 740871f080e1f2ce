"""Ask Prometheus by its HTTP interface: a query's value now."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.addresses import below, with_ca_file
from ctp_runbook.probes.exchange import exchange
from ctp_runbook.strict_json import LONGEST_ANSWER_BYTES, LONGEST_SHOWN, decode_answer

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.plan.sources import Measure, Surroundings

__all__ = ["PrometheusDoor", "query_value"]

_REMEDY = "correct the query in watch.toml"
# As Prometheus writes a value; float() takes more, blanks and underscores among it.
_VALUE = re.compile(r"(?a)[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?Inf|NaN")
_SHOWN_WARNINGS = 300


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
        sample = self._sample(self._ask("query", query=parameters, seconds=seconds))
        if sample is None:
            return None
        taken, value = self._read(sample)
        # Ahead as well as behind: of a clock that differs nobody knows how old a sample is.
        if (apart := abs(time.time() - taken)) > fresh_seconds:
            raise self._error(
                f"its clock is {apart:.0f} s away from this host's; fresh_seconds is "
                f"{fresh_seconds:g}: set the clocks"
            )
        return value

    def _read(self, sample: Any) -> tuple[float, float]:
        """Return when a sample was taken, and its value."""
        match sample:
            case [int() | float() as taken, str() as value] if not isinstance(taken, bool):
                if _VALUE.fullmatch(value):
                    with contextlib.suppress(OverflowError):  # a time of five hundred digits
                        return float(taken), float(value)
        raise self._error(f"{str(sample)[:LONGEST_SHOWN]} is no sample of time and value")

    def _ask(self, path: str, *, query: str, seconds: float) -> Any:
        """Return the data of an answer that Prometheus calls a success, and has no doubt about."""
        try:
            url = below(self.url, f"api/v1/{path}", query=query)
            status, body = exchange(url, seconds=seconds, most_bytes=LONGEST_ANSWER_BYTES)
        except (ProbeError, ValueError) as error:
            raise self._error(str(error)) from error
        no_answer = (
            f"answered HTTP {status}, and not as Prometheus does; is sources.prometheus_url right?"
        )
        try:
            answer = decode_answer(body, subject="its answer")
        except ProbeError as error:
            raise self._error(f"{no_answer} ({error})") from error
        match answer:
            case {"status": "success", "data": data} if status == 200:
                self._check_doubts(answer)
                return data
            case {"error": why}:
                raise self._error(f"HTTP {status}: {str(why)[:_SHOWN_WARNINGS]}; {_REMEDY}")
        raise self._error(no_answer)

    def _check_doubts(self, answer: dict[str, Any]) -> None:
        """Refuse what was answered without all who should have: a part of a sum is no sum.

        ``infos`` are about the query's style, and change no value.
        """
        said = answer.get("warnings") or []
        partial = answer.get("isPartial") or False
        if not said and partial is False:
            return
        words = "; ".join(map(str, said)) if isinstance(said, list) else str(said)
        what = "its answer is partial" if partial is not False else "it warns"
        raise self._error(
            f"{what}, so it proves nothing: {words[:_SHOWN_WARNINGS] or 'no warning says why'}; "
            "see which of its stores or targets do not answer"
        )

    def _sample(self, data: Any) -> Any:
        """Return time and value of the one series, or of the scalar; None for no series."""
        kind = data.get("resultType") if isinstance(data, dict) else None
        result = data.get("result") if kind in ("scalar", "vector") else None
        if kind == "scalar":
            return result
        if not isinstance(result, list) or not all(isinstance(row, dict) for row in result):
            raise self._error(f"a {str(kind)[:LONGEST_SHOWN]} is no number; {_REMEDY}")
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
    settings, seconds = around.settings, rule.patience_seconds
    door = PrometheusDoor(with_ca_file(settings["prometheus_url"], settings.get("ca_file", "")))
    return lambda: door.value(rule.query, seconds=seconds, fresh_seconds=rule.fresh_seconds)
