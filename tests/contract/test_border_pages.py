"""What a metrics page may hold, and what is read of it then: border/pages/."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.metrics import parse_page

FOLDER = Path(__file__).parent / "border" / "pages"
CASES: dict[str, Mapping[str, object]] = tomllib.loads(
    (FOLDER / "expect.toml").read_text(encoding="utf-8")
)
FAMILIES = ("b", "h", "n_total", "quant_hft_breaker_state", "quant_hft_query_rate_violation_total")
# What is too long, or too young, to stand in the table.
MADE = {"ones": "1" * 500, "long": "x" * (64 << 10)}


def page(case: Mapping[str, object]) -> bytes:
    """The bytes of a case."""
    if "file" in case:
        return (FOLDER / str(case["file"])).read_bytes()
    if "hex" in case:
        return bytes.fromhex(str(case["hex"]))
    text = str(case["holds"])
    for name, made in {**MADE, "now": str(round(time.time() * 1000))}.items():
        text = text.replace(f"{{{name}}}", made)
    return text.encode()


def test_every_input_is_expected() -> None:
    """An input without a line in the table is never read."""
    assert {path.name for path in FOLDER.glob("*.txt")} == {
        case["file"] for case in CASES.values() if "file" in case
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_page_is_read_whole_or_not_at_all(case: Mapping[str, object]) -> None:
    """Each series with its value, or a refusal that says what the page is."""
    if "refused" in case:
        with pytest.raises(ProbeError, match="not a metrics page") as refused:
            parse_page(page(case), families=FAMILIES, fresh_seconds=60)
        assert str(case["refused"]) in str(refused.value)
        return
    wanted = case["is"]
    assert isinstance(wanted, Mapping)
    series = parse_page(page(case), families=FAMILIES, fresh_seconds=60)
    assert {key: str(value) for key, value in series.items()} == {
        key: str(float(value)) for key, value in wanted.items()
    }
