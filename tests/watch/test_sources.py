"""Facts about watch/sources.py: who is asked for which metric, and what a silent source says."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ctp_runbook.host.clocks import Clocks
from ctp_runbook.plan.config import load_watch
from ctp_runbook.watch.sampler import read_once
from ctp_runbook.watch.sources import watch_targets
from tests.plan.test_config import WATCH
from tests.props.plan_fixtures import make_plan, open_context
from tests.props.small_servers import http_page

pytestmark = pytest.mark.twin
PIPELINE = ("kafka", "clickhouse")
KEYS = "query_rate_violation,kafka_lag_ms,clickhouse_ingest_delay_ms"


def targets_of(tmp_path: Path, watch: str) -> dict[str, str]:
    """The error of one look at each target, by the target's name."""
    file = tmp_path / "sources.toml"
    file.write_text(watch.replace(":9092", ":1").replace(":8123", ":1"))
    trigger = "query_rate_violation > 3"
    plan = make_plan(tmp_path, MONITOR_KEYS=KEYS, ROLLBACK_TRIGGER_CONDITION=trigger)
    plan = replace(plan, watch=load_watch(file))
    with open_context(tmp_path, plan=plan) as context:
        samples = [
            read_once(target, clocks=Clocks())
            for target in watch_targets(
                context.plan, cwd=context.cwd, environ=context.environment_of()
            )
        ]
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


EVERY_SOURCE = """
[metrics.errors_a_minute]
label = "Errors a minute"
unit = "count"
kind = "counter"
source = "prometheus"
query = "sum(increase(errors_total[60s]))"
limit = 0
direction = "max"

[metrics.spread_ms]
label = "Spread"
unit = "ms"
kind = "state"
source = "command"
query = "echo 7"
limit = 10
direction = "max"

[metrics.replayed]
label = "Replayed"
unit = "count"
kind = "state"
source = "replay"
query = "x"
limit = 10
direction = "max"

[metrics.of_another_page]
label = "Of another page"
unit = "count"
kind = "state"
source = "engine"
query = "up"
url = "PAGE"
limit = 10
direction = "max"

[metrics.of_that_page_too]
label = "Of that page too"
unit = "count"
kind = "state"
source = "engine"
query = "down"
url = "PAGE"
limit = 10
direction = "max"
"""


def test_every_source_stands_in_one_watch(tmp_path: Path) -> None:
    """Each metric has its sample by the name the judge wants; two of one page share a scrape."""
    with http_page("up 1\ndown 0\nnoise 5\n") as url:
        file = tmp_path / "sources.toml"
        file.write_text(WATCH + EVERY_SOURCE.replace("PAGE", url))
        rules = load_watch(file)
        ours = tuple(name for name, rule in rules.metrics.items() if rule.source not in PIPELINE)
        plan = replace(make_plan(tmp_path), watch=rules, monitor_keys=ours)
        with open_context(tmp_path, plan=plan) as context:
            targets = watch_targets(context.plan, cwd=context.cwd, environ=context.environment_of())
            samples = {one.name: read_once(one, clocks=Clocks()) for one in targets}
    others = {"replay", "errors_a_minute", "spread_ms", "breaker_state"}
    assert set(samples) == {"engine", url, *others}
    assert samples[url].series == {"up": 1.0, "down": 0.0}
    assert samples["spread_ms"].series == {"spread_ms": 7.0}
    assert "lacks sources.prometheus_url" in samples["errors_a_minute"].error
    assert "lacks sources.replay_file" in samples["replay"].error
