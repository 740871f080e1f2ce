"""Facts about probes/http_json.py: a number at a path of a JSON page, or a ProbeError."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.sources import SOURCES, Surroundings
from ctp_runbook.probes.http_json import number_at
from tests.props.small_servers import http_page

PAGE = {"pools": {"orders": {"waiting": 7}}, "load": 0.5, "idle": None, "up": True, "big": 10**400}
RULE = MetricRule(
    name="waiting",
    label="Waiting",
    unit="count",
    kind="state",
    source="http_json",
    query="pools.orders.waiting",
    limit=10,
    direction="max",
)


def test_a_number_is_found_by_its_path() -> None:
    """Whole numbers too; null is nothing measured."""
    assert number_at(PAGE, "pools.orders.waiting", where="page") == 7.0
    assert number_at(PAGE, "load", where="page") == 0.5
    assert number_at(PAGE, "idle", where="page") is None


WRONG = {
    "no such key": ("pools.trades", 'found the keys "orders"'),
    "through a number": ("load.now", "found 0.5"),
    "an object": ("pools", "expected a number or null"),
    "a truth value": ("up", "expected a number or null"),
    "too big": ("big", "expected a number or null"),
}


@pytest.mark.parametrize(("path", "said"), WRONG.values(), ids=WRONG)
def test_anything_else_is_told(path: str, said: str) -> None:
    """The address and what stands there are in the sentence."""
    with pytest.raises(ProbeError) as caught:
        number_at(PAGE, path, where="http://page")
    assert str(caught.value).startswith("http://page: ")
    assert said in str(caught.value)


@pytest.mark.twin
def test_a_page_is_asked_at_each_look(tmp_path: Path) -> None:
    """The row's own reader sees the value change."""
    with http_page('{"pools": {"orders": {"waiting": 1}}}', '{"pools": {}}') as url:
        measure = SOURCES["http_json"].measure(
            replace(RULE, url=url), Surroundings({}, tmp_path, {})
        )
        assert measure() == 1.0
        with pytest.raises(ProbeError, match="no 'orders' of"):
            measure()
