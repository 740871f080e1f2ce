"""Facts about watch/conformance.py: what a source must keep, and how each failing is told."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Measure, Source
from ctp_runbook.watch.conformance import check_source

pytestmark = pytest.mark.twin
HERE = __name__


@pytest.mark.parametrize("row", SOURCES.values(), ids=SOURCES)
def test_our_own_sources_conform(row: Source) -> None:
    """What others are held to, ours keep."""
    assert check_source(row) == ()


def good(rule: object, around: object) -> Measure:
    """Make what finds nobody."""

    def measure() -> float | None:
        raise ProbeError("example at 127.0.0.1:1: refused")

    return measure


def says_seven(rule: object, around: object) -> Measure:
    """Make what answers where nobody is."""
    return lambda: 7.0


def raises_its_own(rule: object, around: object) -> Measure:
    """Make what lets an error of its client through."""

    def measure() -> float | None:
        raise ConnectionRefusedError(111)

    return measure


def is_blank(rule: object, around: object) -> Measure:
    """Make what does not say what happened."""

    def measure() -> float | None:
        raise ProbeError("")

    return measure


def is_late(rule: object, around: object) -> Measure:
    """Make what waits past its time."""

    def measure() -> float | None:
        time.sleep(2.7)
        raise ProbeError("late")

    return measure


def asks_at_once(rule: object, around: object) -> Measure:
    """Ask before the first look."""
    raise ConnectionRefusedError(111)


def row_of(performer: str, **more: Any) -> Source:
    """A row whose performer is in this file."""
    return Source("example", f"test_conformance_props:{performer}", **more)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file goes by a name that ``module:function`` can have."""
    import sys

    monkeypatch.setitem(sys.modules, "test_conformance_props", sys.modules[HERE])


def test_a_source_that_keeps_all_conforms() -> None:
    """Nothing is said of it."""
    row = row_of("good", settings=("example_url",), needs=("example_url",), labels=("zone",))
    assert check_source(row) == ()


GOOD = row_of("good")
WRONG = {
    "name": (replace(GOOD, name="Ex-ample"), "the name 'Ex-ample'"),
    "kind": (replace(GOOD, kinds=("speed",)), "kinds speed"),
    "no kind": (replace(GOOD, kinds=()), "no kinds"),
    "url": (replace(GOOD, url="yes"), "url 'yes'"),
    "need": (replace(GOOD, needs=("example_url",)), "which is none of its settings"),
    "key of every rule": (replace(GOOD, reads=("query",)), "it reads query, which every rule has"),
    "setting": (replace(GOOD, settings=("address",)), "expected example_address"),
    "page": (replace(GOOD, is_page=True), "is_page"),
    "ours": (replace(GOOD, name="kafka"), "is a source of ctp_runbook's own"),
    "no module": (replace(GOOD, performer="nowhere:x"), "No module named 'nowhere'"),
    "no function": (row_of("nothing"), "cannot be imported"),
    "no colon": (replace(GOOD, performer="good"), "is no module:name"),
    "no callable": (row_of("HERE"), "is a str; expected a function"),
    "an answer": (row_of("says_seven"), "it says 7.0; expected ProbeError"),
    "a foreign error": (row_of("raises_its_own"), "raises ConnectionRefusedError"),
    "blank": (row_of("is_blank"), "its ProbeError is blank"),
    "late": (row_of("is_late"), "expected rule.patience_seconds at most"),
    "too early": (row_of("asks_at_once"), "cannot be made before anybody is asked"),
}


@pytest.mark.parametrize(("row", "said"), WRONG.values(), ids=WRONG)
def test_what_a_source_does_wrong_is_told(row: Source, said: str) -> None:
    """Each failing has its sentence, with what was expected."""
    assert said in "; ".join(check_source(row))
