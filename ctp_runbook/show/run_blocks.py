"""What a run looks like to a reader, room by room: a History in, blocks out.

Notebooks and report show the same blocks, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunRefused
from ctp_runbook.model import Outcome, State, StepStatus, Verdict
from ctp_runbook.plan.gate_table import GATES, gates_in
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.evidence import rollback_seconds, trading_downtime_seconds
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Shift
from ctp_runbook.record.result_env import parse_env
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table, mark
from ctp_runbook.show.topology import drift_rows, gate_topology
from ctp_runbook.show.topology_figure import topology_picture
from ctp_runbook.watch.baseline import Baseline
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.measure import more_than

__all__ = [
    "GATE_STEPS",
    "comparison_table",
    "downtime_figure",
    "evidence_table",
    "facts_of_plan",
    "findings",
    "headline",
    "member_table",
    "mode_banner",
    "observed_tables",
    "outcome_banner",
    "outcome_sentence",
    "override_banners",
    "plan_blocks",
    "readiness_table",
    "refuse_other_plan",
    "rollback_blocks",
    "rule_table",
    "step_table",
    "timeline_table",
    "topology_blocks",
    "verdict_table",
    "watch_banner",
]

GATE_STEPS = tuple(dict.fromkeys(gate.step for gate in GATES.values()))
_CAUSES = {
    "metric": "a metric reached the rollback trigger",
    "step_failed": "a step of the switch failed",
    "operator": "an operator asked for it",
    "forced_drill": "a forced drill",
    "member_died": "a process of the new stack died",
    "hold_expired": "nobody decided while it was holding",
    "resume": "taken up again after a crash, it was not safe to go on",
    "judge": "the watch could not be judged good",
}
_NOT_BEGUN = (StepStatus.NOT_RUN, StepStatus.SIMULATED_OK)
_HEADLINES: Mapping[Outcome, tuple[str, str]] = {
    Outcome.COMPLETED: ("good", "The new stack trades; the watch window proved every limit"),
    Outcome.DRY_RUN_OK: ("info", "Dry run: nothing stands in the way; nothing was done"),
    Outcome.REFUSED: ("bad", "Refused: nothing was touched"),
    Outcome.ABORTED_BEFORE_SWITCH: (
        "bad",
        "Ended before the switch: the old stack still trades and was not touched",
    ),
    Outcome.ROLLED_BACK_IN_BUDGET: (
        "warn",
        "Rolled back in time: the previous stack trades again, validated",
    ),
    Outcome.ROLLED_BACK_LATE: ("bad", "Rolled back, but later than the budget allows"),
    Outcome.ROLLED_BACK_UNVALIDATED: (
        "bad",
        "Rolled back, but the previous stack is not validated",
    ),
    Outcome.ROLLBACK_FAILED: ("bad", "ROLLBACK FAILED: an operator must act now"),
}


def headline(history: History) -> tuple[str, str]:
    """Kind of banner and the run's result in plain words."""
    if history.outcome is None:
        return "warn", f"The run is not over: {history.state.value}"
    return _HEADLINES[history.outcome]


def mode_banner(history: History) -> Banner:
    """DRY RUN, REHEARSAL or REAL RUN, so that no page can be taken for another kind."""
    if history.is_dry_run:
        told = "no command of the template is run; this never verifies as a real run"
        return Banner("info", "DRY RUN", told)
    environment = history.plan.get("environment", "")
    if history.created.get("rehearsal"):
        return Banner("info", "REHEARSAL", f"real commands against the twin {environment}")
    return Banner("warn", "REAL RUN", f"environment {environment}")


def override_banners(history: History) -> list[Banner]:
    """Every override with its reason, in red; nothing where nothing was overridden."""
    overrides = history.created.get("overrides", {})
    return [
        Banner("bad", f"OVERRIDE --{name.replace('_', '-')}", str(reason))
        for name, reason in overrides.items()
    ]


def outcome_banner(history: History) -> Banner:
    """How the run ended, with the orchestrator's own sentence."""
    kind, title = headline(history)
    if history.closed is None:
        return Banner(kind, title, outcome_sentence(history))
    outcome = history.closed.payload["outcome"]
    code = history.closed.payload["exit_code"]
    return Banner(
        kind, f"{title} ({outcome}, exit {code})", str(history.closed.payload["sentence"])
    )


def outcome_sentence(history: History) -> str:
    """How the run ended in one sentence; while it has not, why it is where it is."""
    if history.closed is not None:
        return f"{history.closed.payload['outcome']}: {history.closed.payload['sentence']}"
    reason = history.transitions[-1].reason if history.transitions else "it has not begun"
    return f"{history.state.value}: {reason}"


def facts_of_plan(history: History) -> Facts:
    """Which run of which plan this is."""
    created, plan = history.created, history.plan
    pairs: list[tuple[str, object]] = [
        ("run", history.run_id),
        ("environment", plan.get("environment", "")),
        ("window", plan.get("window_local", "")),
        ("CTP configuration", plan.get("ctp_config_path", "")),
        (
            "watch",
            f"{plan.get('monitor_minutes', 0):.3g} min: {', '.join(plan.get('monitor_keys', ()))}",
        ),
        ("rollback when", plan.get("trigger_text", "")),
        ("rollback budget", f"{plan.get('max_rollback_seconds', 0):g} s"),
        ("plan sha256", created.get("plan_sha256", "")),
        ("created", f"by {created.get('created_by', '')} on {created.get('host', '')}"),
    ]
    if "measured" in created:
        known = created.measured
        pairs.append(("earlier cutovers took", known.cutover))
        pairs.append(("earlier rollbacks took", known.rollback))
    if created.get("parent_run"):
        pairs.append(("rolls back run", created["parent_run"]))
    if created.get("force_rollback"):
        pairs.append(("drill", "rolls back after a verified switch (--force-rollback)"))
    if created.get("short_watch_reason"):
        pairs.append(("short watch", created["short_watch_reason"]))
    return Facts(pairs)


def step_table(history: History, names: Sequence[str], *, title: str = "") -> Table:
    """Steps as they went: status, time taken, exit code, and why."""
    rows = []
    for name in names:
        step = history.step(name)
        took = f"{step.duration_ms / 1000:.1f} s" if step.duration_ms else ""
        code = "" if step.exit_code is None else step.exit_code
        rows.append((name, mark(step.status.value), took, code, step.reason, step.output))
    columns = ("step", "status", "took", "exit", "why", "output")
    return Table(
        columns, rows, title, numbers=frozenset({"took", "exit"}), code=frozenset({"output"})
    )


def readiness_table(report: Mapping[str, Any], *, title: str = "") -> Table:
    """The SLIs of a readiness file: what was measured, against what, from where."""
    rows = [
        (
            one.get("name", ""),
            f"{_value(one.get('value'))} {one.get('unit', '')}".strip(),
            _value(one.get("target")),
            mark(bool(one.get("healthy"))),
            one.get("provenance", ""),
            one.get("source", ""),
            one.get("detail", ""),
        )
        for one in report.get("slis", ())
    ]
    columns = ("SLI", "value", "target", "healthy", "provenance", "source", "detail")
    return Table(columns, rows, title, numbers=frozenset({"value", "target"}))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def rule_table(history: History) -> Table:
    """What a watch would hold each metric against."""
    rules = history.plan.get("watch", {}).get("metrics", {})
    rows = [
        (
            name,
            f"{_number(rule['limit'], rule['unit'])} for {rule['for_seconds']:g} s",
            f"{rule['window_seconds']:g} s",
            rule["min_events"],
            f"{rule['min_coverage']:.0%}",
            rule["source"],
        )
        for name, rule in rules.items()
    ]
    columns = ("metric", "limit", "window", "least events", "least coverage", "source")
    return Table(columns, rows, numbers=frozenset({"window", "least events", "least coverage"}))


def watch_banner(history: History, judged: WindowJudgement) -> Banner:
    """What the watch came to: passed, cut short by a trigger, or judged otherwise."""
    if history.trigger is not None:
        cause, told = history.trigger.payload["cause"], str(history.trigger.payload["sentence"])
        if cause == "forced_drill":
            return Banner("info", "Watch cut short by the drill", told)
        return Banner("bad", f"Watch cut short: rollback triggered ({cause})", told)
    kind = {Verdict.PASSED: "good", Verdict.FAILED: "bad"}.get(judged.overall, "warn")
    return Banner(kind, f"Watch {judged.overall.name}", judged.sentence)


def verdict_table(history: History, judged: WindowJudgement | None) -> Table:
    """One line a metric: verdict, worst value, limit, margin, coverage, and the judge's words."""
    rules = history.plan.get("watch", {}).get("metrics", {})
    rows = []
    for name in history.plan.get("monitor_keys", ()):
        unit = rules.get(name, {}).get("unit", "")
        one = judged.metrics.get(name) if judged else None
        if one is None:
            rows.append((name, "– not watched", "", "", "", "", ""))
            continue
        numbers = (
            more_than(_number(one.worst, unit), is_over=one.worst_is_over),
            _number(one.limit, unit),
            "not known" if one.worst_is_over else _number(one.margin, unit),
        )
        rows.append((name, mark(one.verdict.name), *numbers, f"{one.coverage:.0%}", one.sentence))
    columns = ("metric", "verdict", "worst", "limit", "margin", "coverage", "why")
    numeric = frozenset({"worst", "limit", "margin", "coverage"})
    return Table(columns, rows, numbers=numeric)


def comparison_table(history: History, baseline: Baseline) -> Table:
    """Old engine against new, a metric a line: median, p99, their shifts, and the numbers behind."""
    rules = history.plan.get("watch", {}).get("metrics", {})
    rows = []
    for name, one in baseline.compared.items():
        unit = rules.get(name, {}).get("unit", "")
        shifts = (_shifted(one.median, unit), _shifted(one.p99, unit))
        rank = "" if one.rank_p is None else f"p {one.rank_p:.2g}"
        said = mark("FAILED") if one.failed else ""
        rows.append((name, said, *shifts, rank, f"{one.n_before} / {one.n_after}", one.sentence))
    columns = ("metric", "", "median", "p99", "rank test", "n before / after", "why")
    title = f"Old engine against new: {baseline.sentence}"
    return Table(columns, rows, title, numbers=frozenset({"median", "p99", "rank test"}))


def _shifted(shift: Shift | None, unit: str) -> str:
    if shift is None:
        return "too few"
    shown = "" if unit in ("state", "count") else f" {unit}"
    interval = f"{shift.low:+.3g} to {shift.high:+.3g}"
    return f"{shift.before:.3g} → {shift.after:.3g}{shown} ({shift.shift:+.3g}; {interval})"


def _number(value: float | None, unit: str) -> str:
    shown_unit = "" if unit in ("state", "count") else f" {unit}"
    return "no data" if value is None else f"{value + 0.0:.4g}{shown_unit}"


def member_table(history: History) -> Table:
    """The four members: identity as recorded, and what was found at the end."""
    running = history.closed.payload.get("running", {}) if history.closed else {}
    rows = [
        (name, str(history.identities.get(name, "not recorded")), mark(running.get(name, "")))
        for name in (
            "old_strategy_runner",
            "old_core_engine",
            "new_core_engine",
            "new_strategy_runner",
        )
    ]
    return Table(("member", "identity", "at the end"), rows, "Who runs")


def rollback_blocks(history: History) -> Iterator[Block]:
    """Why it was rolled back, how the budget was spent, and each step; or that it was not."""
    trigger, begun = history.trigger, history.rollback_started
    if trigger is None or begun is None:
        told = "no trigger came true, nobody asked for it"
        yield Banner("info", "No rollback", told if history.closed else "none so far")
        return
    given = trigger.payload
    seconds, budget = rollback_seconds(history), float(begun.payload["budget_seconds"])
    in_time = history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    because = _CAUSES.get(given["cause"], str(given["cause"]))
    yield Banner("warn" if in_time else "bad", f"Rolled back: {because}", str(given["sentence"]))
    pairs: list[tuple[str, object]] = [
        ("trigger condition", history.plan.get("trigger_text", "")),
        ("triggering sample", given.get("sample_utc", "")),
    ]
    if given.get("metric"):
        pairs.append(
            ("observed", f"{given['metric']} = {given['value']:.4g}, limit {given['limit']:g}")
        )
    shares = begun.payload.get("shares", {})
    pairs.append(("split", ", ".join(f"{name} {part:.3g} s" for name, part in shares.items())))
    if history.closed is not None:
        spent = f"{seconds:.1f} s of {budget:g} s ({'kept' if seconds <= budget else 'EXCEEDED'})"
        pairs.append(("budget", spent))
    yield Facts(pairs)
    names = [step["name"] for step in history.plan.get("steps", ()) if step["phase"] == "rollback"]
    yield step_table(history, names, title="Rollback steps")


def findings(history: History) -> Iterator[Notes]:
    """What the run itself found worth saying, the gravest first."""
    said = [r.payload for r in history.records if r.kind == "finding"]
    for severity, kind in (("critical", "bad"), ("warning", "warn"), ("info", "info")):
        sentences = [str(one["sentence"]) for one in said if one["severity"] == severity]
        yield Notes(kind, list(dict.fromkeys(sentences)))


def timeline_table(history: History) -> Table:
    """When the run entered each state, and why."""
    begun = history.records[0].wall if history.records else None
    rows = []
    for entry in history.transitions:
        when = datetime.fromisoformat(entry.wall_utc)
        after = f"+{(when - begun).total_seconds():.1f} s" if begun else ""
        rows.append((f"{when:%H:%M:%S}Z", after, entry.state.value, entry.reason))
    if history.closed is not None:
        when = history.closed.wall
        after = f"+{(when - begun).total_seconds():.1f} s" if begun else ""
        rows.append(
            (f"{when:%H:%M:%S}Z", after, State.CLOSED.value, history.closed.payload["outcome"])
        )
    columns = ("UTC", "after", "state", "why")
    return Table(columns, rows, "Timeline", numbers=frozenset({"after"}))


def evidence_table(files: Mapping[str, str]) -> Table:
    """Evidence files with their digests (``sha256sum`` of each)."""
    rows = sorted(files.items())
    return Table(("file", "sha256"), rows, "Evidence", code=frozenset({"sha256"}))


def downtime_figure(history: History) -> str:
    """Trading downtime in seconds; ``none`` while nothing was stopped."""
    if history.is_dry_run or history.step("stop_old_strategy_runner").status in _NOT_BEGUN:
        return "none"
    return f"{trading_downtime_seconds(history):.1f} s"


def topology_blocks(run: RunDir, *, both: bool = False) -> Iterator[Block]:
    """The host as the infra gates saw it, and what is not as wanted; nothing before any has ended."""
    if (seen := gate_topology(run)) is None:
        return
    yield topology_picture(seen, both=both)
    if rows := drift_rows(run):
        yield Table(("gate", "step", "why"), rows, "Not as wanted")


def observed_tables(run: RunDir) -> list[Block]:
    """What the evidence of each infra gate says it saw."""
    rows = []
    for gate in gates_in(run.evidence):
        values, problems = parse_env(run.evidence / gate.file)
        start = f"{gate.prefix}_OBSERVED_"
        seen = {key.removeprefix(start): v for key, v in values.items() if key.startswith(start)}
        told_by = gate.step if gate.is_due else gate.name
        rows += [(told_by, key.lower(), value) for key, value in seen.items()]
        rows += [(told_by, "problem", problem) for problem in problems]
    columns = ("gate", "observed", "seen")
    return [Table(columns, rows, f"All {len(rows)} observations", folded=True)] if rows else []


def plan_blocks(history: History, made: Plan, *, checklist: Path) -> list[Block]:
    """Facts, warnings, steps, commands."""
    rows = [
        (n, s.phase.value, s.name, f"{s.timeout_seconds:g} s", s.effect, ", ".join(s.undo))
        for n, s in enumerate(made.steps, start=1)
    ]
    commands = [(s["name"], s["command"]) for s in history.plan["steps"]]
    columns = ("#", "phase", "step", "at most", "done when", "undone by")
    return [
        facts_of_plan(history),
        Notes("warn", made.warnings, "Warnings"),
        Notes("bad", made.execute_refusals, "--execute would refuse"),
        Table(columns, rows, "Steps", numbers=frozenset({"#", "at most"})),
        Table(("step", "command"), commands, "Commands", frozenset({"command"}), folded=True),
        Facts([("checklist", checklist)]),
    ]


def refuse_other_plan(history: History, made: Plan, *, execute: bool) -> None:
    """Raise RunRefused when the run was made from another plan, or is of another kind."""
    recorded = history.created["plan_sha256"]
    if recorded != made.sha256:
        raise RunRefused(
            f"run {history.run_id} was made from a plan with sha256 {recorded[:12]}…; these "
            f"templates give {made.sha256[:12]}…; name the run's own templates, or start a new run"
        )
    if history.is_dry_run is (execute is True):
        kind = "a dry run" if history.is_dry_run else "a real run"
        raise RunRefused(
            f"run {history.run_id} is {kind}; execute = {execute} does not fit; set it to "
            f"{not execute}, or start a new run"
        )
