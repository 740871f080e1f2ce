"""Facts about watch_sources.py: who is asked for which metric, and what a silent source says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ctp_runbook.config import load_watch
from ctp_runbook.sampler import read_once
from ctp_runbook.watch_sources import watch_targets
from tests.plan_fixtures import make_plan, open_context
from tests.test_config import WATCH

pytestmark = pytest.mark.twin
KEYS = "query_rate_violation,kafka_lag_ms,clickhouse_ingest_delay_ms"


def targets_of(tmp_path: Path, watch: str) -> dict[str, str]:
    """The error of one look at each target, by the target's name."""
    file = tmp_path / "sources.toml"
    file.write_text(watch.replace(":9092", ":1").replace(":8123", ":1"))
    trigger = "query_rate_violation > 3"
    plan = make_plan(tmp_path, MONITOR_KEYS=KEYS, ROLLBACK_TRIGGER_CONDITION=trigger)
    plan = replace(plan, watch=load_watch(file))
    with open_context(tmp_path, plan=plan) as context:
        samples = [read_once(target) for target in watch_targets(context)]
    assert [sample.source for sample in samples] == ["engine", "kafka", "clickhouse"]
    assert not any(sample.ok for sample in samples)
    return {sample.target: sample.error for sample in samples}


def test_a_source_that_is_down_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Each target goes by its metric's name, as the judge wants it; nothing is taken for zero."""
    errors = targets_of(tmp_path, WATCH)
    assert "Kafka at 127.0.0.1:1" in errors["kafka_lag_ms"]
    assert "ClickHouse at http://127.0.0.1:1" in errors["clickhouse_ingest_delay_ms"]


def test_a_source_nobody_named_is_an_error_too(tmp_path: Path) -> None:
    """The sentence says which key of watch.toml is missing."""
    text = WATCH.replace(WATCH[WATCH.index("[sources]") : WATCH.index("[metrics.")], "")
    errors = targets_of(tmp_path, text)
    assert "lacks sources.kafka_bootstrap" in errors["kafka_lag_ms"]
    assert "lacks sources.clickhouse_url" in errors["clickhouse_ingest_delay_ms"]
