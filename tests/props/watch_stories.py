"""Watch windows made up for figures: dense samples of all six metrics, as a real half hour has."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import structs

from ctp_runbook.plan.config import WatchRules, load_watch
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, Writer, utc_text
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.measure import MetricSeries
from ctp_runbook.watch.points import Point
from ctp_runbook.watch.verdicts import Firing
from tests.props.example_records import like
from tests.props.whole_window import judge_window

__all__ = ["Story", "above", "gap_and_hold", "passed", "spike"]

ROOT = Path(__file__).parents[2]
KEYS = (
    "order_latency_p99_ms",
    "breaker_state",
    "query_rate_violation",
    "reconnect_p99_s",
    "kafka_lag_ms",
    "clickhouse_ingest_delay_ms",
)
TRIGGER = "order_latency_p99_ms_gt_8ms_or_reconnect_p99_s_gt_10s"
BOUNDS = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5)
WALL = 1_772_411_460.0
MONO = 5000.0


@dataclass
class Story:
    """Records and samples of one made-up run; times are seconds after the watch began."""

    minutes: float
    rules: WatchRules
    trigger: str = TRIGGER
    records: list[Record] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def say(self, kind: str, at: float, **payload: Any) -> None:
        """One record at ``at``."""
        number = len(self.records)
        self.records.append(
            Record(
                seq=number,
                wall_utc=utc_text(WALL + at),
                mono_ns=int((MONO + at) * 1e9),
                boot_id="boot",
                writer=Writer(1, 1),
                payload=like(kind, **payload),
                prev="",
            )
        )

    def step(self, name: str, phase: str, at: float, seconds: float, status: str = "ok") -> None:
        """A step from ``at`` on."""
        common = {"step": name, "phase": phase}
        self.say(
            "step_started", at, **common, attempt=1, pid=7, start_ticks=7, command=f"do {name}"
        )
        self.say(
            "step_ended",
            at + seconds,
            **common,
            status=status,
            exit_code=0 if status == "ok" else 3,
            duration_ms=seconds * 1000,
            output_sha256="",
            output="",
            reason="exit 0" if status == "ok" else "exit 3",
        )

    @property
    def history(self) -> History:
        """The records, folded."""
        return History.of(self.records)

    def before(self) -> dict[str, tuple[Point, ...]]:
        """Ten minutes of an old engine that was a bit slower, up to the first stop."""
        old = Story(10.0, self.rules)
        sample(old, until=600, latency_ms=lambda t: 3.1 + 0.3 * math.sin(t / 90))
        moved = [structs.replace(s, wall=s.wall - 620, mono=s.mono - 620) for s in old.samples]
        made = {}
        for key in KEYS:
            rule = structs.replace(self.rules.metrics[key], warm_up_seconds=0.0)
            series = MetricSeries(rule, started_mono=0.0)
            made[key] = tuple(series.add(s) for s in moved if s.source == rule.source)
        return made

    def judged(self) -> tuple[WindowJudgement, Firing | None]:
        """The window judged as the orchestrator would."""
        units = {name: rule.unit for name, rule in self.rules.metrics.items()}
        last = max(s.mono for s in self.samples)
        ends = MONO + self.minutes * 60
        return judge_window(
            self.samples,
            rules=self.rules,
            keys=KEYS,
            trigger=parse_trigger(self.trigger, units=units, file="story", line=1),
            started_mono=MONO,
            ends_mono=ends,
            judged_mono=min(ends, last),
        )


def begin(
    minutes: float = 30.0, *, trigger: str = TRIGGER, limits: Mapping[str, float] | None = None
) -> Story:
    """A run up to the start of its watch: gates, switch, 4 s of downtime; ``limits`` over those of
    configs/."""
    rules = load_watch(ROOT / "configs" / "rich_engine.watch.toml")
    changed = {
        key: structs.replace(rules.metrics[key], limit=n) for key, n in (limits or {}).items()
    }
    rules = structs.replace(rules, metrics={**rules.metrics, **changed})
    story = Story(minutes, rules, trigger)
    story.say("run_created", -60, **_header(minutes, rules, trigger))
    story.say("state", -50, to="GATING", reason="start")
    story.say("state", -20, to="SWITCHING", reason="go by ops")
    for name, at, seconds in (
        ("stop_old_strategy_runner", -19.0, 0.6),
        ("stop_old_core_engine", -18.3, 1.4),
        ("start_new_core_engine", -16.8, 9.1),
        ("start_new_strategy_runner", -7.6, 1.2),
        ("warmup_query", -6.3, 1.1),
    ):
        story.step(name, "switch", at, seconds)
    story.say("state", 0, to="WATCHING", reason="the switch is verified")
    story.say("watch_started", 0, minutes=minutes, metrics=list(KEYS))
    return story


def _header(minutes: float, rules: WatchRules, trigger: str) -> dict[str, Any]:
    return {
        "run_id": "20260302T003052Z-single-host-ubuntu-4f1c",
        "dry_run": False,
        "rehearsal": False,
        "plan_sha256": "ab" * 32,
        "plan": {
            "environment": "single-host-ubuntu",
            "monitor_minutes": minutes,
            "monitor_keys": list(KEYS),
            "trigger_text": trigger,
            "max_rollback_seconds": 180.0,
            "steps": [
                {"name": s.name, "phase": s.phase, "kind": s.kind, "command": "x"}
                | {"timeout_seconds": 60.0}
                for s in STEP_TABLE
            ],
            "watch": {
                "tolerance_inconclusive_seconds": rules.tolerance_inconclusive_seconds,
                "tolerance_error_seconds": rules.tolerance_error_seconds,
                "recovery_seconds": rules.recovery_seconds,
                "metrics": {key: rules.metrics[key] for key in KEYS},
            },
        },
    }


def sample(
    story: Story,
    *,
    until: float,
    latency_ms: Callable[[float], float],
    silent: tuple[float, float] = (math.inf, math.inf),
    reconnects: Mapping[float, float] | None = None,
) -> None:
    """Samples as the engine, Kafka and ClickHouse would give them, with ``silent`` errors."""
    dice = random.Random(7)
    counts = dict.fromkeys((*BOUNDS, math.inf), 0.0)
    at = 0.0
    while at <= until:
        for _ in range(30):
            took = dice.lognormvariate(0, 0.35) * latency_ms(at) / 2.4 / 1000
            for bound in counts:
                counts[bound] += took <= bound
        quiet = silent[0] <= at <= silent[1]
        _take(story, at, "engine", _engine(counts, at, reconnects or {}), ok=not quiet)
        if round(at) % 5 == 0:
            lag = 60 + 25 * math.sin(at / 90) + dice.uniform(0, 40)
            _take(story, at, "kafka", {'kafka_lag_ms{group="clickhouse-ingest"}': lag})
            delay = 700 + 300 * math.sin(at / 200) + dice.uniform(0, 250)
            _take(story, at, "clickhouse", {"clickhouse_ingest_delay_ms": delay})
        at += 1.0


def _engine(counts: Mapping[float, float], at: float, reconnects: Mapping[float, float]) -> Any:
    name, again = "quant_hft_order_latency_seconds", "quant_hft_ctp_reconnect_seconds"
    series = {
        f'{name}_bucket{{le="{"+Inf" if math.isinf(b) else b}"}}': n for b, n in counts.items()
    }
    for bound in (1.0, 2.0, 5.0, 10.0, 30.0, math.inf):
        taken = sum(1 for when, took in reconnects.items() if when <= at and took <= bound)
        series[f'{again}_bucket{{le="{"+Inf" if math.isinf(bound) else bound}"}}'] = float(taken)
    series['quant_hft_breaker_state{scope="td"}'] = 0.0
    series["quant_hft_query_rate_violation_total"] = 0.0
    return series


def _take(
    story: Story, at: float, source: str, series: Mapping[str, float], *, ok: bool = True
) -> None:
    story.samples.append(
        Sample(
            seq=len(story.samples),
            wall=WALL + at,
            mono=MONO + at,
            source=source,
            target="http://127.0.0.1:18081/metrics" if source == "engine" else source,
            ok=ok,
            error="" if ok else "connection refused",
            took_ms=4.0,
            series=dict(series) if ok else {},
        )
    )


def finish(story: Story, at: float, *, stopped: bool, outcome: str) -> None:
    """End of watch and run."""
    judged, _ = story.judged()
    story.say(
        "watch_ended",
        at,
        samples=len(story.samples),
        samples_sha256="0" * 64,
        verdict=judged.overall.name,
        stopped_early=stopped,
        metrics={},
    )
    story.say("closed", at + 40, outcome=outcome, exit_code=0, sentence="over", running={})


def passed() -> Story:
    """Half an hour well within every limit, one reconnect."""
    story = begin()
    sample(
        story,
        until=1800,
        latency_ms=lambda t: 2.2 + 0.5 * math.sin(t / 130),
        reconnects={610.0: 1.6},
    )
    finish(story, 1800, stopped=False, outcome="COMPLETED")
    return story


def gap_and_hold() -> Story:
    """Ten minutes of which one brought no sample, and a hold until it recovered."""
    story = begin(10.0)
    sample(story, until=600, latency_ms=lambda t: 2.4, silent=(240, 330))
    story.say("state", 300, to="HOLDING", reason="no fresh measurement")
    story.say("state", 380, to="WATCHING", reason="recovered")
    finish(story, 600, stopped=False, outcome="COMPLETED")
    return story


def above(limit: float) -> Story:
    """Ten minutes with one reconnect of 300 s; the widest bucket ends at 30 s."""
    story = begin(10.0, trigger="reconnect_p99_s > 90", limits={"reconnect_p99_s": limit})
    sample(story, until=600, latency_ms=lambda t: 2.4, reconnects={200.0: 300.0})
    finish(story, 600, stopped=False, outcome="COMPLETED")
    return story


def spike() -> Story:
    """Latency climbs until the trigger fires, and the rollback takes 31 s."""
    story = begin()
    sample(story, until=900, latency_ms=lambda t: 2.4 if t < 400 else 2.4 + (t - 400) / 20)
    _, firing = story.judged()
    assert firing is not None
    at = firing.mono - MONO
    story.samples = [s for s in story.samples if s.mono <= firing.mono]
    story.say(
        "trigger",
        at + 0.1,
        cause="metric",
        metric=firing.metric,
        value=firing.value,
        limit=firing.limit,
        sample_utc=utc_text(firing.wall),
        sample_mono_ns=int(firing.mono * 1e9),
        sentence=firing.sentence,
    )
    story.say("state", at + 0.2, to="ROLLING_BACK", reason=firing.sentence)
    story.say(
        "rollback_started",
        at + 0.2,
        budget_seconds=180.0,
        started_utc=utc_text(firing.wall),
        started_mono_ns=int(firing.mono * 1e9),
    )
    begun = at + 0.4
    for name, seconds, status in (
        ("stop_new_strategy_runner", 0.7, "ok"),
        ("stop_new_core_engine", 6.2, "timed_out"),
        ("restore_previous_binaries", 1.1, "ok"),
        ("restore_redis_bridge_compat", 0.3, "ok"),
        ("start_previous_core_engine", 14.8, "ok"),
        ("start_previous_strategy_runner", 2.1, "ok"),
        ("post_rollback_validate", 5.2, "ok"),
    ):
        story.step(name, "rollback", begun, seconds, status)
        begun += seconds + 0.05
    finish(story, begun, stopped=True, outcome="ROLLED_BACK_IN_BUDGET")
    return story
