"""What Prometheus may answer, and what is made of it then: border/prometheus/."""

from __future__ import annotations

import contextlib
import json
import os
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes import prometheus
from ctp_runbook.probes.prometheus import PrometheusDoor

FOLDER = Path(__file__).parent / "border" / "prometheus"
CASES: dict[str, Mapping[str, object]] = tomllib.loads(
    (FOLDER / "expect.toml").read_text(encoding="utf-8")
)
MADE = {"ones": "1" * 500, "nested": "[" * 900 + "]" * 900, "many": f"[{'[],' * 100_001}1]"}


def value_of(body: bytes, status: int = 200) -> float | None:
    """What a query comes to that is answered so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prometheus, "exchange", lambda *_, **__: (status, body))
        return PrometheusDoor("http://p:9090").value("x", seconds=1, fresh_seconds=30)


def test_every_input_is_expected() -> None:
    """An input without a line in the table is never read."""
    assert {path.name for path in FOLDER.glob("*.json")} == {
        case["file"] for case in CASES.values() if "file" in case
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer_is_a_number_or_an_error(case: Mapping[str, object]) -> None:
    """Never a number that not everybody stands behind, and never a traceback."""
    text = str(case.get("holds", ""))
    if "file" in case:
        text = (FOLDER / str(case["file"])).read_text(encoding="utf-8")
    for name, made in {**MADE, "now": f"{time.time():.3f}"}.items():
        text = text.replace(f"{{{name}}}", made)
    status = case.get("status", 200)
    assert isinstance(status, int)
    if "error" in case:
        with pytest.raises(ProbeError, match=r"^Prometheus at http://p:9090: ") as caught:
            value_of(text.encode(), status)
        assert str(case["error"]) in str(caught.value)
    else:
        wanted = None if case["is"] == "none" else case["is"]
        assert str(value_of(text.encode(), status)) == str(wanted)


scalars: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, 1, 1.5, 10**400, "", "1", "NaN", "success", "vector", "scalar", [], {}]
)
answers = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(
    whole=st.fixed_dictionaries(
        {"status": st.just("success") | scalars},
        optional={
            "data": st.fixed_dictionaries(
                {"resultType": st.sampled_from(["vector", "scalar", "matrix"]) | scalars},
                optional={
                    "result": answers
                    | st.lists(st.fixed_dictionaries({"value": answers}), max_size=2)
                    | st.just([{"value": [0, "1"]}])
                },
            )
            | answers,
            "warnings": answers,
            "infos": answers,
            "isPartial": scalars,
            "error": answers,
        },
    )
    | answers,
    cut=st.integers(0, 3),
)
def test_any_answer_is_a_number_or_a_probe_error(whole: object, cut: int) -> None:
    """And a number only where nobody warns, whatever types the rest is of."""
    body = json.dumps(whole).replace("[0, ", f"[{time.time():.1f}, ").encode()
    with contextlib.suppress(ProbeError):
        value = value_of(body[: len(body) - cut])
        assert value is None or isinstance(value, float)
        assert isinstance(whole, dict)
        assert whole["status"] == "success"
        assert not whole.get("warnings")
        assert not whole.get("isPartial")


@settings(max_examples=int(os.environ.get("CTP_RUNBOOK_CASES", "200")))
@given(body=st.binary(max_size=40), status=st.sampled_from([200, 400, 503]))
def test_any_bytes_are_an_error(body: bytes, status: int) -> None:
    """A whole answer of Prometheus is never made by chance."""
    with pytest.raises(ProbeError):
        value_of(body, status)
