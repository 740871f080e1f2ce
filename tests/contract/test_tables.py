"""Tables: a test run leaves the checkout as it was, and `make prove` keeps what it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import KEPT_TABLES

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"


def test_a_table_is_printed_and_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch, record_table: Callable[[str, list[str]], None]
) -> None:
    """Unless it is said where: neither a new table nor one that is tracked is written."""
    monkeypatch.delenv(KEPT_TABLES, raising=False)
    before = {path: path.read_bytes() for path in BENCHMARKS.glob("*.txt")}
    for name in ("a_new_table", "endings"):
        record_table(name, ["a row"])
    assert {path: path.read_bytes() for path in BENCHMARKS.glob("*.txt")} == before


def test_a_table_is_kept_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_table: Callable[[str, list[str]], None],
) -> None:
    """One file a table, a line a row."""
    monkeypatch.setenv(KEPT_TABLES, str(tmp_path))
    record_table("endings", ["a row", "another"])
    assert (tmp_path / "endings.txt").read_text() == "a row\nanother\n"


def test_prove_alone_says_where() -> None:
    """And it runs every test that makes a table, not the slow ones only."""
    targets = {
        lines[0].partition(":")[0]: "\n".join(lines)
        for lines in map(str.splitlines, (ROOT / "Makefile").read_text().split("\n\n"))
    }
    assert [name for name, text in targets.items() if f"{KEPT_TABLES}=" in text] == ["prove"]
    assert '-m "slow or table"' in targets["prove"]
