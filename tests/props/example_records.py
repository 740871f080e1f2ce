"""One payload of every kind of record, whole, and any other like it but for what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ctp_runbook.model import Outcome, Phase, State, StepKind, StepStatus
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.timing import Measured
from ctp_runbook.record import kinds
from ctp_runbook.record.kinds import Payload

__all__ = ["EXAMPLES", "header_like", "like"]

SHA256 = "5e" * 32
INSTANT = "2026-02-02T02:02:02.000002+00:00"
_RULE = MetricRule(
    name="order_latency_p99_ms",
    label="Order latency p99",
    unit="ms",
    kind="latency_quantile",
    source="engine",
    query="quant_hft_order_latency_seconds",
    limit=5.0,
    direction="max",
)
_PLAN = kinds.PlanFacts(
    environment="example",
    window_local="2026-02-02T02:00:00+00:00",
    ctp_config_path="/etc/ctp/example.json",
    monitor_minutes=30.0,
    monitor_keys=("order_latency_p99_ms",),
    trigger_text="order_latency_p99_ms > 5",
    max_rollback_seconds=180.0,
    hold_seconds=60.0,
    hold_expiry="rollback",
    session_policy="any",
    cutover_evidence_output="",
    rollback_evidence_output="",
    warnings=(),
    steps=(
        kinds.PlannedStep(
            name="stop_old_strategy_runner",
            phase=Phase.SWITCH,
            kind=StepKind.STOP,
            command="true",
            timeout_seconds=10.0,
        ),
    ),
    watch=kinds.WatchFacts(
        tolerance_inconclusive_seconds=120.0,
        tolerance_error_seconds=60.0,
        recovery_seconds=120.0,
        metrics={_RULE.name: _RULE},
    ),
)
_COMPARED = kinds.Comparison(
    metric=_RULE.name,
    n_before=8,
    n_after=30,
    events_before=800.0,
    events_after=3000.0,
    median=kinds.Shift(before=1.0, after=1.5, shift=0.5, low=-0.5, high=1.0),
    rank_p=0.5,
    sentence="no worse",
)
EXAMPLES: Mapping[str, Payload] = {
    payload.kind: payload
    for payload in (
        kinds.RunCreated(
            run_id="20260202T020202Z-example-0001",
            environment="example",
            dry_run=False,
            rehearsal=False,
            plan_sha256=SHA256,
            created_by="ops",
            host="trader1",
            probe=False,
            force_rollback=False,
            forced_after_seconds=0.0,
            restarts_max=3,
            short_watch_reason="",
            parent_run="",
            cwd="/srv/ctp",
            files=kinds.PlanFiles(
                cutover_template="cutover.env",
                rollback_template="rollback.env",
                limits_file="limits.toml",
                watch_file="watch.toml",
            ),
            copies={},
            plan=_PLAN,
            measured=Measured(),
            overrides={},
            plan_files={},
            kept_files={},
        ),
        kinds.StateEntered(to=State.GATING, reason="started"),
        kinds.OrchestratorStarted(
            resumed=False, reason="", guardian=kinds.GuardianFacts(pid=4000, start_ticks=400)
        ),
        kinds.GuardianStarted(pid=4001, start_ticks=401, reason="the one before it died"),
        kinds.MemberPinned(
            member="old_core_engine",
            unit="",
            pid=4002,
            start_ticks=402,
            executable="/srv/ctp/core_engine",
            command_sha256=SHA256,
            tree=((4003, 403),),
            bystanders=(),
        ),
        kinds.ProbeAnswered(
            subject="old_core_engine", question="alive", ok=True, observed="runs", expected="alive"
        ),
        kinds.RequestTaken(
            request="go", by="ops", reason="", requested_utc=INSTANT, file="1.json", start=1
        ),
        kinds.RequestAnswered(request="go", file="1.json", obeyed=True, sentence="it begins"),
        kinds.AlertSent(occasion="holding", sentence="it holds", hooks=("ALERT_CMD",)),
        kinds.AlertEnded(
            occasion="holding", hook="ALERT_CMD", ok=True, sentence="exit 0", took_ms=12.5
        ),
        kinds.ParentAdopted(run_id="parent", journal_sha256=SHA256, outcome="COMPLETED"),
        kinds.StepStarted(
            step="stop_old_strategy_runner",
            phase=Phase.SWITCH,
            attempt=1,
            pid=4004,
            start_ticks=404,
            command="true",
            timeout_seconds=10.0,
            due_mono_ns=1,
        ),
        kinds.StepEnded(
            step="stop_old_strategy_runner",
            phase=Phase.SWITCH,
            status=StepStatus.OK,
            exit_code=0,
            duration_ms=12.5,
            output_sha256=SHA256,
            output="logs/steps/0001_stop_old_strategy_runner.log",
            reason="exit 0",
            left_behind=(4005,),
        ),
        kinds.StepNotDone(
            step="stop_old_core_engine",
            phase=Phase.SWITCH,
            status=StepStatus.NOT_RUN,
            reason="the run ended before it",
            command="true",
        ),
        kinds.ActStarted(
            act="cancel_working_orders", member="old_core_engine", pid=4006, command="true"
        ),
        kinds.ActEnded(act="cancel_working_orders", member="old_core_engine", exit_code=None),
        kinds.TradingStateRead(member="old_core_engine", state={"trading_day": "20260202"}),
        kinds.BaselineEnded(
            url="http://127.0.0.1/metrics", samples=20, samples_sha256=SHA256, sentence="20 of 20"
        ),
        kinds.WatchStarted(minutes=30.0, metrics=(_RULE.name,)),
        kinds.WatchGap(from_utc=INSTANT, to_utc=INSTANT, reason="resumed"),
        kinds.WatchDisturbed(
            what="paused",
            seconds=5.0,
            from_utc=INSTANT,
            to_utc=INSTANT,
            from_mono=1.0,
            to_mono=6.0,
            sentence="nothing ran for 5 s",
        ),
        kinds.Judged(
            overall="PASSED",
            metrics={_RULE.name: kinds.MetricVerdict(verdict="PASSED", sentence="within")},
        ),
        kinds.Triggered(
            cause="metric",
            metric=_RULE.name,
            value=10.0,
            limit=5.0,
            is_over=False,
            sample_utc=INSTANT,
            sample_mono_ns=1,
            sentence="order_latency_p99_ms > 5",
        ),
        kinds.WatchEnded(
            samples=1800,
            samples_sha256=SHA256,
            verdict="PASSED",
            sentence="all within",
            judged_mono=1800.5,
            watched_seconds=1800.0,
            stopped_early=False,
            metrics={
                _RULE.name: kinds.MetricEnd(
                    verdict="PASSED",
                    sentence="within",
                    value=1.5,
                    limit=5.0,
                    margin=3.5,
                    worst=2.5,
                    coverage=1.0,
                )
            },
            baseline=kinds.ComparisonFacts(sentence="no worse", metrics={_RULE.name: _COMPARED}),
        ),
        kinds.RollbackStarted(
            budget_seconds=180.0,
            shares={"stop_new_strategy_runner": 20.0},
            started_utc=INSTANT,
            started_mono_ns=1,
        ),
        kinds.Finding(severity="warning", sentence="look at this"),
        kinds.Closed(
            outcome=Outcome.COMPLETED,
            exit_code=0,
            sentence="done",
            failed_step="",
            running={"new_core_engine": "alive"},
        ),
    )
}


def like(kind: str, /, **facts: Any) -> Payload:
    """The example of a kind with other ``facts``, as JSON would have them; a table in them (the
    plan of a header) changes the keys it names and no other."""
    example = msgspec.to_builtins(EXAMPLES[kind])
    return msgspec.convert(_changed(example, facts), type(EXAMPLES[kind]))


def header_like(**facts: Any) -> kinds.RunCreated:
    """A header with other ``facts``."""
    header = like("run_created", **facts)
    assert isinstance(header, kinds.RunCreated)
    return header


def _changed(example: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    is_part = {"plan", "files"}
    plain = msgspec.to_builtins(dict(facts))
    return {
        **example,
        **{
            key: _changed(example[key], value) if key in is_part else value
            for key, value in plain.items()
        },
    }
