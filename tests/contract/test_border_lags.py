"""Lags by records whose time is that of another clock or another day: border/lags/."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.gates.readiness_probes import ReadinessSources, measure
from ctp_runbook.probes import kafka
from ctp_runbook.probes.clickhouse import ClickHouseDoor, ingest_delay_ms
from ctp_runbook.probes.kafka import LagReader
from ctp_runbook.probes.postgres import PostgresDoor
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.measure import MetricSeries
from tests.props.rules import rule_of

FOLDER = Path(__file__).parent / "border" / "lags"
CASES: dict[str, dict[str, dict[str, Any]]] = tomllib.loads((FOLDER / "expect.toml").read_text())
NOW = 1_770_000_000.0


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock stands."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_every_answer_is_expected() -> None:
    """A recorded answer without a line in the table is never read."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES["clickhouse"])


def check(case: Mapping[str, Any], lag: float | None, said: str) -> None:
    """A lag, or no lag and the words; never less than none."""
    assert lag == case.get("lag"), said
    assert case.get("says", "") in said
    assert lag is None or lag >= 0


@pytest.mark.parametrize("name", CASES["clickhouse"])
def test_an_ingest_delay_is_none_of_the_future(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay of minus a day is within no limit: it is no delay."""
    rows = json.loads((FOLDER / f"{name}.json").read_text())["data"]
    monkeypatch.setattr(ClickHouseDoor, "rows", lambda door, query, seconds: rows)
    lag, said = None, "nothing"
    try:
        lag = ingest_delay_ms(ClickHouseDoor("http://h", "u", "p"), "q", seconds=5)
    except ProbeError as error:
        said = str(error)
    check(CASES["clickhouse"][name], lag, said)


class Topic(LagReader):
    """The records of a case, for a reader that asks no broker."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        super().__init__("h:1", group="ingest", topic="ticks")
        self.stamps = {int(part): stamps for part, stamps in case["stamps"].items()}
        self.commits = {int(part): offset for part, offset in case["commits"].items()}

    def _read(self, end: float) -> float:
        ends = {part: len(stamps) for part, stamps in self.stamps.items()}
        behind = {
            part: self.commits.get(part, -1)
            for part in self.stamps
            if self.commits.get(part, -1) != ends[part]
        }
        return self._worst(behind, ends, end)

    def _stamps(self, places: Mapping[int, int], end: float) -> dict[int, int]:
        return {part: int(NOW * 1000) + self.stamps[part][at] for part, at in places.items()}


@pytest.mark.parametrize("name", CASES["kafka"])
def test_a_group_is_not_ahead_of_its_topic(name: str) -> None:
    """Each partition for itself; two stamps of the same wrong day prove nothing by their distance."""
    case, lag, said = CASES["kafka"][name], None, "nothing"
    try:
        lag = Topic(case).read(seconds=5)
    except ProbeError as error:
        said = str(error)
    check(case, lag, said)


@pytest.mark.parametrize("name", CASES["cdc"])
def test_a_change_is_not_seen_before_it_was_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest order against the newest change; without a lag the SLI stands there, not healthy."""
    case = CASES["cdc"][name]

    class Answers:
        def execute(self, query: str) -> Answers:
            self.row = (False, "17") if "recovery" in query else (NOW * 1000 + case["written"],)
            return self

        def fetchall(self) -> list[tuple[object, ...]]:
            return [self.row]

    @contextmanager
    def opened(door: PostgresDoor, *, seconds: float) -> Iterator[Answers]:
        yield Answers()

    record = json.dumps({"__source_ts_ms": int(NOW * 1000) + case["seen"]}).encode()
    monkeypatch.setattr(PostgresDoor, "open", opened)
    monkeypatch.setattr(kafka, "newest_record", lambda servers, topic, seconds: record)
    sources = ReadinessSources(
        "x", bootstrap_servers="h:1", postgres=PostgresDoor("host=h dbname=d", "")
    )
    readings = {reading.name: reading for reading in measure(sources).readings}
    sli = readings["quant_hft_cdc_lag_seconds"]
    assert sli.is_healthy is ("lag" in case)
    value = None if sli.value is None else float(sli.value)
    check(case, value, sli.detail)


@pytest.mark.parametrize("name", CASES["watch"])
def test_a_lag_of_any_source_is_never_negative(name: str) -> None:
    """A command, Prometheus, a recorded window: what they call a lag is judged by the same rule."""
    case = CASES["watch"][name]
    rule = rule_of("command", "q", unit="s")
    series = MetricSeries(rule, started_mono=0.0)
    values = {rule.name: case["value"]}
    point = series.add(Sample(0, NOW, 1.0, "command", rule.name, True, "", 1.0, values))
    check(case, point.value, point.reason.replace("x has", "m has"))
    assert point.status == ("good" if "lag" in case else "no_data")
