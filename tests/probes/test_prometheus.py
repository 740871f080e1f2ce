"""Facts about probes/prometheus.py: one number of now, or what was answered instead."""

from __future__ import annotations

import json
import math
import time

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.prometheus import PrometheusDoor
from tests.props.small_servers import free_port, http_page

pytestmark = pytest.mark.twin


def answer(kind: str, result: object) -> str:
    """What Prometheus says of a query that it understood."""
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


def asked(page: str, *, status: int = 200) -> float | None:
    """The value of a query that is answered so."""
    with http_page(page, status=status) as url:
        door = PrometheusDoor(url.removesuffix("/metrics"))
        return door.value("x", seconds=2, fresh_seconds=10)


def one(value: str, *, age: float = 0.0) -> str:
    """A vector of one series."""
    return answer("vector", [{"metric": {}, "value": [time.time() - age, value]}])


def test_prometheus_says_a_number() -> None:
    """A vector of one, and a scalar; NaN stays NaN, and no series is no data."""
    assert asked(one("12.5")) == 12.5
    assert asked(answer("scalar", [time.time(), "3"])) == 3.0
    nan = asked(one("NaN"))
    assert nan is not None
    assert math.isnan(nan)
    assert asked(answer("vector", [])) is None


BAD_ANSWERS = {
    "two series": (answer("vector", [{"value": [0, "1"]}, {"value": [0, "2"]}]), "2 series"),
    "a string": (answer("string", [0, "x"]), "a string is no number"),
    "its clock is off": (one("1", age=60), r"its clock is \d+ s away"),
    "no sample": (answer("vector", [{"value": "x"}]), "is no sample"),
    "not JSON": ("<html>", "not as Prometheus does"),
    "another JSON": ("{}", "not as Prometheus does"),
}


@pytest.mark.parametrize(("page", "said"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_what_is_no_number_is_an_error(page: str, said: str) -> None:
    """Each with what was answered instead, and where to correct it."""
    with pytest.raises(ProbeError, match=said):
        asked(page)


def test_prometheus_own_words_are_quoted() -> None:
    """A query that it refuses is told as it tells it."""
    refusal = json.dumps({"status": "error", "error": "1:3: parse error: unexpected <op:*>"})
    with pytest.raises(ProbeError, match=r"HTTP 400: 1:3: parse error.*correct the query"):
        asked(refusal, status=400)


def test_nobody_there_is_an_error() -> None:
    """By its address, without the query's own text a second time."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ProbeError, match=f"Prometheus at {url}: .*refused"):
        PrometheusDoor(url).value("x", seconds=1, fresh_seconds=10)
