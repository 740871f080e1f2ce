"""The schema gate held to a table: what differs is told by name, and how it is written is nothing.

``border/schema/NAME.sql`` holds what is wanted, and behind ``-- live`` what a real engine of
ClickHouse is given before the gate runs.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.gate import GateOptions, GateResult
from ctp_runbook.gates.run import run_gate
from ctp_runbook.probes.clickhouse import ClickHouseDoor
from tests.props.small_clickhouse import small_clickhouse

pytestmark = pytest.mark.twin
FOLDER = Path(__file__).parent / "border/schema"
CASES = tomllib.loads((FOLDER / "expect.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseDoor]:
    """An engine."""
    with small_clickhouse() as door:
        yield door


def judged(server: ClickHouseDoor, folder: Path, *, case: str) -> GateResult:
    """How the gate goes on a server that has what the case says."""
    wanted, _, live = (FOLDER / f"{case}.sql").read_text(encoding="utf-8").partition("-- live\n")
    server.run("DROP DATABASE IF EXISTS q SYNC", seconds=10)
    server.run("CREATE DATABASE q", seconds=10)
    for statement in live.split(";\n")[:-1]:
        # The twin's engine refuses to start a queue, and has it nevertheless.
        with contextlib.suppress(ProbeError) if "Kafka" in statement else contextlib.nullcontext():
            server.run(statement, seconds=10)
    (folder / "clickhouse").mkdir()
    (folder / "clickhouse/010_all.sql").write_text(wanted, encoding="utf-8")
    options = GateOptions(execute=True, infra=folder, clickhouse_url=server.url)
    return run_gate("clickhouse-schema", options, environ={})


@pytest.mark.parametrize(("case", "expect"), CASES.items(), ids=CASES)
def test_the_gate_says_what_the_table_says(
    case: str, expect: dict[str, Any], server: ClickHouseDoor, tmp_path: Path
) -> None:
    """And leaves no scratch database, whatever it says."""
    result = judged(server, tmp_path, case=case)
    if said := expect.get("said", ()):
        assert result.exit_code == 3
        for words in said:
            assert words in result.sentence
        for words in expect.get("never", ()):
            assert words not in result.sentence
    else:
        assert result.is_ok, result.sentence
        assert judged_again(server, tmp_path).changes == 0
    scratch = "SELECT name FROM system.databases WHERE name LIKE '%scratch%'"
    assert server.rows(scratch, seconds=10) == []


def judged_again(server: ClickHouseDoor, folder: Path) -> GateResult:
    """The same gate once more."""
    options = GateOptions(execute=True, infra=folder, clickhouse_url=server.url)
    return run_gate("clickhouse-schema", options, environ={})


def test_every_case_has_its_input() -> None:
    """And every input its case."""
    assert {path.stem for path in FOLDER.glob("*.sql")} == set(CASES)
