"""Finished runs made without a process: the real Journal, judge and evidence, on a clock of ours.

Half an hour of watch takes no time here, so that a run can be verified, edited and verified again
thousands of times.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, structs

import ctp_runbook.record.journal as journal_module
from ctp_runbook.gates.gate import GateResult, GateStep
from ctp_runbook.gates.readiness import SLIS, Readiness, SliReading, write_readiness
from ctp_runbook.host.pin import Pin
from ctp_runbook.model import Identity, Outcome, Phase, StepKind, StepStatus
from ctp_runbook.plan.config import MetricRule, WatchRules
from ctp_runbook.plan.gate_table import GATES
from ctp_runbook.plan.step_table import STEP_TABLE, StepSpec, budget_shares
from ctp_runbook.plan.timing import Measured
from ctp_runbook.plan.triggers import parse_trigger
from ctp_runbook.record.evidence import CHECKLISTS, write_evidence, write_manifest
from ctp_runbook.record.history import History, pinned
from ctp_runbook.record.journal import (
    Journal,
    Record,
    digest_of,
    header_text,
    read_journal,
    utc_text,
)
from ctp_runbook.record.rundir import PARENT_JOURNAL, RunDir, behind_path
from ctp_runbook.record.samples import Sample
from ctp_runbook.watch.judge import WindowJudge, WindowJudgement
from ctp_runbook.watch.verdicts import Firing
from tests.props.example_records import header_like, like

__all__ = [
    "KINDS",
    "Clock",
    "aborted_run",
    "completed_run",
    "drill_run",
    "dry_run",
    "keep_end_behind",
    "long_run",
    "make_run",
    "rolled_back_run",
    "seal",
    "undone_run",
]

ENVIRONMENT = "synthetic"
RUNNERS = ("core_engine", "strategy_runner")
TRIGGER = "order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s"
MINUTES = 30.0
OLD_PAGE = "http://127.0.0.1:18080/metrics"
INTERVAL_SECONDS = 120.0
Write = Callable[[Path, float, float], None]
BUDGET_SECONDS = 180.0
_TWO_DAYS = 172_800 * 1_000_000_000
_RULE: dict[str, Any] = {
    "source": "engine",
    "direction": "max",
    "interval_seconds": INTERVAL_SECONDS,
    "fresh_seconds": 300.0,
    "window_seconds": 240.0,
    "min_coverage": 0.8,
}
TOLERANCES = {
    "tolerance_inconclusive_seconds": 120.0,
    "tolerance_error_seconds": 60.0,
    "recovery_seconds": 120.0,
}
RULES = {
    rule.name: rule
    for rule in (
        MetricRule(
            name="order_latency_p99_ms",
            label="Order latency p99",
            unit="ms",
            kind="latency_quantile",
            query="quant_hft_order_latency_seconds",
            scale=1000.0,
            limit=5.0,
            min_events=5,
            **_RULE,
        ),
        MetricRule(
            name="breaker_state",
            label="Breaker",
            unit="state",
            kind="state",
            query="quant_hft_breaker_state",
            limit=0.0,
            **_RULE,
        ),
        MetricRule(
            name="reconnect_p99_s",
            label="Reconnect p99",
            unit="s",
            kind="latency_quantile",
            query="quant_hft_ctp_reconnect_seconds",
            limit=10.0,
            zero_events="pass",
            **_RULE,
        ),
    )
}


@dataclass
class Clock:
    """Wall and monotonic time that go on only when told to; stands in for the time module."""

    wall: float = 1_770_000_000.25
    mono_ns: int = _TWO_DAYS

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.wall

    def monotonic_ns(self) -> int:
        """Nanoseconds since this boot."""
        return self.mono_ns

    @property
    def mono(self) -> float:
        """Seconds since this boot."""
        return self.mono_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.mono_ns += round(seconds * 1e9)


@contextlib.contextmanager
def _on(clock: Clock) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "time", clock)
        yield


@dataclass
class Story:
    """One run being told, act by act, in the words the orchestrator uses."""

    run: RunDir
    clock: Clock
    journal: Journal
    failing: str = ""
    records: list[Record] = field(default_factory=list)
    window: tuple[float, WindowJudge] | None = None
    verdicts: dict[str, str] = field(default_factory=dict)

    def say(self, kind: str, **payload: Any) -> Record:
        """One record, a millisecond after the last."""
        self.clock.advance(0.001)
        record = self.journal.append(like(kind, **payload))
        self.records.append(record)
        return record

    def state(self, to: str, reason: str = "") -> None:
        """Enter a state."""
        self.say("state", to=to, reason=reason or f"on to {to}")

    def probe(self, subject: str, question: str) -> None:
        """A look that finds what was expected."""
        self.say(
            "probe",
            subject=subject,
            question=question,
            ok=True,
            observed=f"{subject} {question}",
            expected=question,
        )

    def identity(self, member: str, pid: int) -> None:
        """Who a member is."""
        self.say("identity", **structs.asdict(pinned(member, "", Pin(Identity(pid, pid * 7)))))

    def phase(self, phase: Phase) -> bool:
        """Do the steps of a phase until one fails."""
        return all(self.step(spec) for spec in STEP_TABLE if spec.phase is phase)

    def step(self, spec: StepSpec) -> bool:
        """Start a step, let it act, prove what it did, end it."""
        number = self.start_step(spec)
        self.clock.advance(0.25)
        fails = spec.name == self.failing
        if not fails:
            self._effect(spec)
        output = f"{spec.name}: done\n".encode()
        name = f"logs/steps/{number:04d}_{spec.name}.log"
        (self.run.path / name).write_bytes(output)
        self.say(
            "step_ended",
            step=spec.name,
            phase=spec.phase.value,
            status="failed" if fails else "ok",
            exit_code=3 if fails else 0,
            duration_ms=250.5,
            output_sha256=digest_of(output),
            output=name,
            reason="exit 3, expected 0" if fails else f"exit 0; proved: {spec.effect}",
            left_behind=[],
        )
        return not fails

    def start_step(self, spec: StepSpec) -> int:
        """Start a step, and leave it at that; the number of its record."""
        self._before(spec)
        number = len(self.records)
        self.say(
            "step_started",
            step=spec.name,
            phase=spec.phase.value,
            attempt=1,
            pid=4000 + number,
            start_ticks=9000 + number,
            command=_command(spec),
            timeout_seconds=30.0,
            due_mono_ns=self.clock.mono_ns + 20_000_000_000,
        )
        return number

    def _before(self, spec: StepSpec) -> None:
        if spec.kind is StepKind.START:
            other = "old" if spec.phase is Phase.SWITCH else "new"
            for role in RUNNERS:
                self.probe(f"{other}_{role}", "gone")

    def _effect(self, spec: StepSpec) -> None:
        if spec.kind is StepKind.GATE:
            self._gate_evidence(spec.name)
        if spec.name in ("precheck", "post_rollback_validate"):
            self._readiness("precheck" if spec.name == "precheck" else "rollback")
        if spec.acts_on is not None:
            member = f"{spec.acts_on[0]}_{spec.acts_on[1]}"
            starts = spec.kind is StepKind.START
            self.probe(member, "alive" if starts else "gone")
            if starts:
                self.identity(member, 5000 + len(self.records))

    def _gate_evidence(self, step: str) -> None:
        for gate in GATES.values():
            if gate.step == step and gate.is_due:
                facts = {"role": "master", "version": "9.1"}
                asked = GateStep(f"observe_{gate.component}", StepStatus.OK, 12.0, "ask it", facts)
                evidence = GateResult(gate, False, (asked,)).evidence()
                (self.run.evidence / gate.file).write_bytes(evidence)

    def _readiness(self, name: str) -> None:
        values: dict[str, Any] = {
            "quant_hft_ctp_query_latency_p99_ms": 120.5,
            "quant_hft_ctp_flow_control_hits": 1.0,
            "quant_hft_ctp_disconnect_recovery_success_rate": 1.0,
            "quant_hft_ctp_reject_classified_ratio": 0.98,
        }
        readings = tuple(
            SliReading(
                spec.name,
                values.get(spec.name, spec.target),
                "measured",
                "seen",
                "probe",
                utc_text(),
            )
            for spec in SLIS.values()
            if spec.core
        )
        path = self.run.evidence / f"ctp_readiness_{name}.json"
        write_readiness(path, Readiness(readings, ENVIRONMENT, "single-host"))

    # --- the old engine ----------------------------------------------------------

    def baseline(self) -> None:
        """Twenty scrapes of the old engine, on its own page."""
        lines = []
        for seq in range(20):
            self.clock.advance(INTERVAL_SECONDS)
            taken = structs.replace(self._sample(seq, slow_after=None), target=OLD_PAGE)
            lines.append(taken.to_line())
        data = b"".join(lines)
        self.run.baseline.write_bytes(data)
        self.say(
            "baseline_ended",
            url=OLD_PAGE,
            samples=len(lines),
            samples_sha256=digest_of(data),
            sentence="20 of 20 scrapes of the old engine over 2280 s",
        )

    # --- the watch ---------------------------------------------------------------

    def watch(
        self,
        *,
        slow_after: int | None = None,
        forced_after: float | None = None,
        tells: bool = False,
    ) -> Firing | None:
        """Watch for MINUTES; latency goes bad from sample ``slow_after`` on. ``tells``: each change
        of a verdict is written down, as it is in earnest.
        """
        fired = self.watch_so_far(slow_after=slow_after, seconds=forced_after, tells=tells)
        self.end_watch(stopped=fired is not None or forced_after is not None, tells=tells)
        return fired

    def watch_so_far(
        self, *, slow_after: int | None = None, seconds: float | None = None, tells: bool = True
    ) -> Firing | None:
        """Watch until the trigger fires, for ``seconds`` or MINUTES, and leave the window open."""
        self.state("WATCHING", "the switch is verified" if tells else "")
        started = self.say("watch_started", minutes=MINUTES, metrics=list(RULES)).mono_ns / 1e9
        ends = started + MINUTES * 60
        self.window = (started, _judge(started, ends))
        judge, fired, lines = self.window[1], None, 0
        while self.clock.mono <= ends and fired is None:
            if seconds is not None and self.clock.mono >= started + seconds:
                break
            sample = self._sample(lines, slow_after=slow_after)
            lines += 1
            with self.run.samples.open("ab") as samples:
                samples.write(sample.to_line())
            fired = judge.add(sample)
            if fired is None:
                self.clock.advance(INTERVAL_SECONDS)
            if tells:
                self._tell(judge)
        return fired

    def _tell(self, judge: WindowJudge) -> None:
        """Write the verdicts so far down, if any of them is another."""
        judged = judge.at(self.clock.mono)
        verdicts = {name: metric.verdict.name for name, metric in judged.metrics.items()}
        if verdicts == self.verdicts:
            return
        self.verdicts = verdicts
        metrics = {
            name: {"verdict": metric.verdict.name, "sentence": metric.sentence}
            for name, metric in judged.metrics.items()
        }
        self.say("judgement", overall=judged.overall.name, metrics=metrics)

    def end_watch(self, *, stopped: bool, tells: bool = True) -> None:
        """The window as it is judged in the end, before its time where it was ``stopped``."""
        assert self.window is not None
        started, judge = self.window
        ends = started + MINUTES * 60
        if not stopped:
            self.clock.advance(max(0.0, ends - self.clock.mono) + 0.05)
        at = min(self.clock.mono, ends)
        judged = judge.at(at, final=True)
        if not tells:
            self.say("judgement", overall=judged.overall.name, metrics={})
        data = self.run.samples.read_bytes()
        self.say(
            "watch_ended",
            samples=data.count(b"\n"),
            samples_sha256=digest_of(data),
            verdict=judged.overall.name,
            sentence=judged.sentence,
            judged_mono=at,
            watched_seconds=round(at - started, 3),
            stopped_early=stopped,
            metrics=_summaries(judged),
            baseline=None,
        )

    def _sample(self, seq: int, *, slow_after: int | None) -> Sample:
        orders, slow = 100.0 + 50 * seq, 0.0
        if slow_after is not None and seq >= slow_after:
            slow = 40.0 * (seq - slow_after + 1)
        latency, reconnect = "quant_hft_order_latency_seconds", "quant_hft_ctp_reconnect_seconds"
        series = {
            f'{latency}_bucket{{le="0.002"}}': orders - slow,
            f'{latency}_bucket{{le="0.02"}}': orders,
            f'{latency}_bucket{{le="+Inf"}}': orders,
            f'{reconnect}_bucket{{le="5.0"}}': 0.0,
            f'{reconnect}_bucket{{le="+Inf"}}': 0.0,
            'quant_hft_breaker_state{scope="td"}': 0.0,
        }
        url = "http://127.0.0.1:18081/metrics"
        wall, mono = self.clock.wall, self.clock.mono
        return Sample(seq, wall, mono, "engine", url, True, "", 3.25, series)

    # --- the way back ------------------------------------------------------------

    def roll_back(self, *, cause: str, firing: Firing | None) -> None:
        """Trigger, rollback, and the old generation trading again."""
        wall = firing.wall if firing else self.clock.wall
        mono = firing.mono if firing else self.clock.mono
        self.say(
            "trigger",
            cause=cause,
            metric=firing.metric if firing else "",
            value=firing.value if firing else None,
            limit=firing.limit if firing else None,
            sample_utc=utc_text(wall),
            sample_mono_ns=int(mono * 1e9),
            sentence=firing.sentence if firing else "--force-rollback",
        )
        self.state("ROLLING_BACK")
        self.say(
            "rollback_started",
            budget_seconds=BUDGET_SECONDS,
            shares=budget_shares(BUDGET_SECONDS),
            started_utc=utc_text(wall),
            started_mono_ns=int(mono * 1e9),
        )
        self.phase(Phase.ROLLBACK)

    def close(
        self,
        outcome: Outcome,
        *,
        trades: str,
        sentence: str = "",
        running: Mapping[str, str] | None = None,
    ) -> None:
        """Steps nobody reached, then the last record; ``running`` where it is not all of ``trades``."""
        done = History.of(self.records).steps
        for spec in STEP_TABLE:
            if spec.phase is not Phase.ROLLBACK and spec.name not in done:
                self.not_done(spec, "not_run", "the run ended before it")
        generations = ("old", "new")
        seen = running or {
            f"{generation}_{role}": "alive" if generation == trades else "gone"
            for generation in generations
            for role in RUNNERS
        }
        self.say(
            "closed",
            outcome=outcome.value,
            exit_code=outcome.exit_code,
            sentence=sentence or f"the run ended {outcome.value}",
            failed_step="",
            running=seen if trades or running else {},
        )

    def not_done(self, spec: StepSpec, status: str, reason: str) -> None:
        """A step that was not run, and why."""
        self.say(
            "step_not_done",
            step=spec.name,
            phase=spec.phase.value,
            status=status,
            reason=reason,
            command=_command(spec),
        )

    def simulate(self) -> None:
        """A dry run: every step simulated, none done."""
        for state, phase in (("GATING", Phase.GATE), ("READY", None), ("SWITCHING", Phase.SWITCH)):
            self.state(state, "dry run")
            for spec in STEP_TABLE:
                if spec.phase is phase:
                    self.not_done(spec, "simulated_ok", "dry run: not run")


def completed_run(outputs: Path, **header: Any) -> RunDir:
    """A run that switched, watched for half an hour, and is done."""
    with telling(outputs, "completed", **header) as story:
        up_to_switch(story)
        story.watch()
        story.close(Outcome.COMPLETED, trades="new")
    return story.run


def rolled_back_run(outputs: Path, **header: Any) -> RunDir:
    """A run whose order latency fired the trigger, and that was back within its budget."""
    with telling(outputs, "rolled-back", **header) as story:
        up_to_switch(story)
        firing = story.watch(slow_after=5)
        assert firing is not None
        story.roll_back(cause="metric", firing=firing)
        story.close(Outcome.ROLLED_BACK_IN_BUDGET, trades="old")
    return story.run


def drill_run(outputs: Path, **header: Any) -> RunDir:
    """A forced drill: all well, rolled back on purpose."""
    given = {"force_rollback": True, "forced_after_seconds": 600.0, **header}
    with telling(outputs, "drill", **given) as story:
        up_to_switch(story)
        story.watch(forced_after=600.0)
        story.roll_back(cause="forced_drill", firing=None)
        story.close(Outcome.ROLLED_BACK_IN_BUDGET, trades="old")
    return story.run


def dry_run(outputs: Path, **header: Any) -> RunDir:
    """A dry run that found nothing in its way."""
    with telling(outputs, "dry", dry_run=True, **header) as story:
        story.simulate()
        story.close(Outcome.DRY_RUN_OK, trades="")
    return story.run


def aborted_run(outputs: Path, *, failing: str = "precheck", **header: Any) -> RunDir:
    """A run with a gate that failed: the old generation was never touched."""
    with telling(outputs, "aborted", **header) as story:
        story.failing = failing
        story.say("orchestrator_started", resumed=False, reason="", guardian=None)
        story.state("GATING")
        story.phase(Phase.GATE)
        story.close(Outcome.ABORTED_BEFORE_SWITCH, trades="old")
    return story.run


def long_run(
    outputs: Path,
    *,
    rules: Mapping[str, Mapping[str, Any]],
    minutes: float,
    trigger: str,
    write: Write,
) -> RunDir:
    """A run with a watch of its own length and metrics; ``write`` leaves the samples, given their
    file and when the watch began (wall, mono)."""
    plan = {
        "monitor_minutes": minutes,
        "monitor_keys": list(rules),
        "trigger_text": trigger,
        "watch": {**TOLERANCES, "metrics": dict(rules)},
    }
    with telling(outputs, "long", plan=plan) as story:
        up_to_switch(story)
        story.state("WATCHING")
        begun = story.say("watch_started", minutes=minutes, metrics=list(rules))
        started = begun.mono_ns / 1e9
        write(story.run.samples, begun.wall.timestamp(), started)
        story.clock.advance(minutes * 60 + 0.05)
        data = story.run.samples.read_bytes()
        story.say(
            "watch_ended",
            samples=data.count(b"\n"),
            samples_sha256=digest_of(data),
            verdict="PASSED",
            sentence="",
            judged_mono=started + minutes * 60,
            watched_seconds=minutes * 60,
            stopped_early=False,
            metrics={},
        )
        story.close(Outcome.COMPLETED, trades="new")
    return story.run


def undone_run(outputs: Path, **header: Any) -> RunDir:
    """A completed run, beside it the run that rolls it back; returns the latter."""
    parent = make_run("completed", outputs, **header)
    data = parent.journal.read_bytes()
    before = History.of(read_journal(parent.journal).records)
    sha256 = digest_of(data)
    own = {"parent_run": parent.run_id, "plan_files": {PARENT_JOURNAL: sha256}}
    clock = Clock()
    clock.advance(2 * 3600)
    with telling(outputs, "undone", clock=clock, **{**header, **own}) as story:
        (story.run.plan / PARENT_JOURNAL).write_bytes(data)
        story.say("parent", run_id=parent.run_id, journal_sha256=sha256, outcome="COMPLETED")
        for member, pin in before.pins.items():
            story.say("identity", **structs.asdict(pinned(member, "", pin)))
        story.say("orchestrator_started", resumed=False, reason="")
        story.roll_back(cause="operator", firing=None)
        story.close(Outcome.ROLLED_BACK_IN_BUDGET, trades="old")
    return story.run


KINDS = {
    "completed": completed_run,
    "rolled_back": rolled_back_run,
    "drill": drill_run,
    "dry": dry_run,
    "aborted": aborted_run,
    "undone": undone_run,
}


def keep_end_behind(run: RunDir) -> Path:
    """Take the last record out of a journal into the place for what it had no room for; that place."""
    *before, last = run.journal.read_bytes().splitlines(keepends=True)
    behind = behind_path(run)
    assert behind is not None
    behind.parent.mkdir(mode=0o700, exist_ok=True)
    behind.write_bytes(last)
    run.journal.write_bytes(b"".join(before))
    return behind


def make_run(kind: str, outputs: Path, **header: Any) -> RunDir:
    """A finished run of a kind in KINDS, under a seal."""
    run = KINDS[kind](outputs, **header)
    seal(run)
    return run


def seal(run: RunDir) -> None:
    """An executed notebook, evidence, and the sealed manifest over all of it."""
    journal = read_journal(run.journal)
    data = run.journal.read_bytes()
    stamp = {
        "status": "completed",
        "run_id": run.run_id,
        "journal_records": len(journal.records),
        "journal_sha256": digest_of(data),
    }
    cell = {
        "cell_type": "code",
        "execution_count": 1,
        "id": "plan",
        "metadata": {"papermill": {"status": "completed", "exception": False}},
        "outputs": [],
        "source": "show(run)",
    }
    notebook = {
        "cells": [cell],
        "metadata": {"ctp_runbook": stamp},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (run.notebooks / "07_verify.ipynb").write_text(json.dumps(notebook, indent=1) + "\n")
    write_evidence(run, History.of(journal.records))
    write_manifest(run, sealed=True)


@contextlib.contextmanager
def telling(
    outputs: Path, name: str, *, clock: Clock | None = None, **header: Any
) -> Iterator[Story]:
    clock = clock or Clock()
    run = RunDir(outputs.resolve() / f"20260202T023000Z-{name}")
    run.make()
    for checklist in CHECKLISTS:
        (run.plan / checklist).write_text(json.dumps({"checklist": name, "steps": 17}) + "\n")
    (run.plan / "watch.toml").write_text(_watch_toml())
    with _on(clock):
        journal = Journal(run.journal, durable=False)
        story = Story(run, clock, journal)
        created = header_like(**_header(run, header))
        run.run_json.write_bytes(header_text(created))
        story.say("run_created", **structs.asdict(created))
        yield story
        journal.close()


def up_to_switch(story: Story) -> None:
    story.say("orchestrator_started", resumed=False, reason="", guardian=None)
    story.state("GATING")
    for role in RUNNERS:
        story.probe(f"old_{role}", "alive")
        story.identity(f"old_{role}", 4100)
    story.phase(Phase.GATE)
    story.state("READY")
    story.say("control", request="go", by="operator", reason="", requested_utc=utc_text())
    story.baseline()
    story.state("SWITCHING")
    story.phase(Phase.SWITCH)


def _header(run: RunDir, given: Mapping[str, Any]) -> dict[str, Any]:
    plan = {**_plan(), **given.get("plan", {})}
    return {
        "run_id": run.run_id,
        "environment": ENVIRONMENT,
        "dry_run": False,
        "rehearsal": False,
        "plan_sha256": "5" * 64,
        "created_by": "operator",
        "host": "host",
        "force_rollback": False,
        "forced_after_seconds": 0.0,
        "short_watch_reason": "",
        "parent_run": "",
        "measured": Measured(4.5, 3, 8.5, 2),
        "overrides": {},
        "cwd": str(run.path.parent),
        "copies": {},
        **given,
        "plan": plan,
    }


def _plan() -> dict[str, Any]:
    return {
        "environment": ENVIRONMENT,
        "window_local": "2026-02-02T08:30:00+08:00",
        "ctp_config_path": "configs/prod/ctp.yaml",
        "monitor_minutes": MINUTES,
        "monitor_keys": list(RULES),
        "trigger_text": TRIGGER,
        "max_rollback_seconds": BUDGET_SECONDS,
        "cutover_evidence_output": "",
        "rollback_evidence_output": "",
        "warnings": [],
        "steps": [
            {
                "name": spec.name,
                "phase": spec.phase.value,
                "kind": spec.kind.value,
                "command": _command(spec),
                "timeout_seconds": 30.0,
            }
            for spec in STEP_TABLE
        ],
        "watch": {
            **TOLERANCES,
            "metrics": dict(RULES),
        },
    }


def _watch_toml() -> str:
    lines = [f"{name} = {value}" for name, value in TOLERANCES.items()]
    for name, rule in RULES.items():
        lines.append(f"[metrics.{name}]")
        lines += [
            f"{key} = {json.dumps(value)}"
            for key, value in structs.asdict(rule).items()
            if key not in ("name", "labels") and value not in ("", None, UNSET)
        ]
    return "\n".join(lines) + "\n"


def _command(spec: StepSpec) -> str:
    for gate in GATES.values():
        if gate.step == spec.name:
            return f"ctp-runbook infra {gate.name} --execute"
    return f"/opt/quant-hft/bin/{spec.name} --config ctp.yaml"


def _judge(started: float, ends: float) -> WindowJudge:
    units = {name: rule.unit for name, rule in RULES.items()}
    return WindowJudge(
        rules=_rules(),
        keys=tuple(RULES),
        trigger=parse_trigger(TRIGGER, units=units, file="synthetic", line=1),
        started_mono=started,
        ends_mono=ends,
    )


def _rules() -> WatchRules:
    return WatchRules(
        metrics=RULES,
        tolerance_inconclusive_seconds=TOLERANCES["tolerance_inconclusive_seconds"],
        tolerance_error_seconds=TOLERANCES["tolerance_error_seconds"],
        recovery_seconds=TOLERANCES["recovery_seconds"],
    )


def _summaries(judged: WindowJudgement) -> dict[str, Any]:
    fields = ("sentence", "value", "limit", "margin", "worst", "coverage")
    return {
        name: {"verdict": one.verdict.name, **{key: getattr(one, key) for key in fields}}
        for name, one in judged.metrics.items()
    }
