"""Facts about probes/prometheus.py: one number of now, or what was answered instead."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes.prometheus import PrometheusDoor
from tests.props.rules import rule_of
from tests.props.small_servers import Asked, free_port, http_page, scripted_http

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


QUIET = {
    "no series": answer("vector", []),
    "a histogram": answer("vector", [{"metric": {}, "histogram": [0, {}]}]),
    "no scalar": json.dumps({"status": "success", "data": {"resultType": "scalar"}}),
}


@pytest.mark.parametrize("page", QUIET.values(), ids=QUIET)
def test_what_has_no_value_is_no_data(page: str) -> None:
    """And no error: the judge will say that nothing was measured."""
    assert asked(page) is None


ODD_ANSWERS = {
    "a matrix": (answer("matrix", []), "a matrix is no number; correct the query"),
    "series that are numbers": (answer("vector", [1]), "a vector is no number"),
    "no list of series": (answer("vector", {}), "a vector is no number"),
    "data that is a list": (json.dumps({"status": "success", "data": []}), "a None is no number"),
    "three parts": (answer("scalar", [1, 2, 3]), "is no sample"),
    "a value that is null": (answer("scalar", [1, None]), "is no sample"),
    "a status alone": ('{"status": "error"}', "not as Prometheus does"),
    "nested without end": ("[" * 100_000, "not as Prometheus does"),
}


@pytest.mark.parametrize(("page", "said"), ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_another_form_of_answer_is_an_error(page: str, said: str) -> None:
    """Each is told by the address, never taken for a number."""
    with pytest.raises(ProbeError, match=f"^Prometheus at http://127.*{said}"):
        asked(page)


def test_a_query_is_bounded_by_its_freshness(tmp_path: Path) -> None:
    """The row's own reader: Prometheus would repeat a series that ended for five minutes."""
    seen: list[Asked] = []

    def reply(request: Asked) -> tuple[int, str]:
        seen.append(request)
        return 200, one("7")

    rule = rule_of("prometheus", 'up{job="a b"}', fresh_seconds=2.5)
    with scripted_http(reply) as url:
        around = Surroundings({"prometheus_url": f"{url}/prom/"}, tmp_path, {})
        assert SOURCES["prometheus"].measure(rule, around)() == 7.0
    ((method, path, _, _),) = seen
    assert (method, urlsplit(path).path) == ("GET", "/prom/api/v1/query")
    assert parse_qs(urlsplit(path).query) == {
        "query": ['up{job="a b"}'],
        "lookback_delta": ["2500ms"],
    }
