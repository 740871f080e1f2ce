"""Answers of ClickHouse held to a table: an exception behind HTTP 200 is one, rows are as declared."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms

FOLDER = Path(__file__).parent / "border/clickhouse"
CASES = tomllib.loads((FOLDER / "expect.toml").read_text(encoding="utf-8"))


class Answering(ClickHouseDoor):
    """A door behind which everything is answered so, with HTTP 200."""

    answer: bytes

    def _send(self, query: str, seconds: float) -> bytes:
        return self.answer


def door_to(answer: bytes) -> ClickHouseDoor:
    """A way to that answer."""
    door = Answering("http://h", "me", "geheim")
    object.__setattr__(door, "answer", answer)
    return door


@pytest.mark.parametrize(("case", "expect"), CASES.items(), ids=CASES)
def test_an_answer_is_what_the_table_says(case: str, expect: dict[str, Any]) -> None:
    """A value, nothing, or an error in words."""
    door = door_to((FOLDER / f"{case}.txt").read_bytes())
    if said := expect.get("said"):
        with pytest.raises(ProbeError) as caught:
            ingest_delay_ms(door, "q", seconds=1)
        assert said in str(caught.value)
        assert str(caught.value).startswith("ClickHouse at http://h:8123: ")
        assert len(str(caught.value)) < 500
    else:
        assert ingest_delay_ms(door, "q", seconds=1) == expect.get("value")


def test_every_case_has_its_input() -> None:
    """And every input its case."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)


def test_a_statement_that_failed_half_way_is_no_success() -> None:
    """What a statement gives back is nothing, or the exception."""
    door_to(b"").run("CREATE TABLE t", seconds=1)
    with pytest.raises(ProbeError, match=r"HTTP 200: Code: 241\. DB::Exception: Memory"):
        door_to(b"rows\nCode: 241. DB::Exception: Memory").run("INSERT", seconds=1)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
ROWS = st.lists(st.lists(VALUES, max_size=3) | VALUES, max_size=2)
TYPES = st.sampled_from(
    [
        "Float64",
        "UInt64",
        "Nullable(Int32)",
        "String",
        "DateTime",
        "Array(String)",
        "(",
        "Nullable(",
    ]
)
COLUMN = st.fixed_dictionaries({"name": st.text(max_size=3), "type": TYPES | VALUES})
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "data": ROWS | VALUES,
        "meta": st.lists(COLUMN, max_size=3) | VALUES,
        "rows": st.integers(0, 2) | VALUES,
        "exception": VALUES,
    },
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")), deadline=None)
@given(
    answer=st.binary(max_size=40)
    | ANSWERS.map(lambda data: json.dumps(data).encode("utf-8", "replace"))
    | ANSWERS.map(lambda data: json.dumps(data)[:-1].encode("utf-8", "replace")),
)
def test_any_answer_is_a_number_or_an_error_in_words(answer: bytes) -> None:
    """A delay only where a strict reading of the answer finds one row of two numbers and no
    exception."""
    found = None
    with contextlib.suppress(ProbeError):
        found = ingest_delay_ms(door_to(answer), "q", seconds=1)
    if found is not None:
        data = json.loads(answer)
        [[value, events]] = data["data"]
        assert not data.get("exception")
        assert found == value >= 0
        assert events > 0
        assert math.isfinite(found)  # what Python's reader takes for a number is none here
