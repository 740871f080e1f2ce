"""What a run looks like to a reader, room by room: a History in, blocks out.

Notebooks and report show the same blocks, so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from ctp_runbook.errors import ProbeError, RunRefused
from ctp_runbook.model import Generation, Outcome, Phase, State, StepStatus, Verdict
from ctp_runbook.plan.gate_table import GATES, gates_in
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.step_table import steps_of
from ctp_runbook.record.evidence import (
    no_runner_since,
    rollback_seconds,
    trading_downtime_seconds,
    unobserved_steps,
)
from ctp_runbook.record.gate_files import NO_READINESS, ReadinessFile, readiness_of
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import NOT_PROVED, Cause, Closed, Finding, override_name
from ctp_runbook.record.result_env import parse_env
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table, mark
from ctp_runbook.show.step_figures import pictures_of
from ctp_runbook.show.topology import drift_rows, gate_topology, speaker_of
from ctp_runbook.show.topology_figure import topology_picture
from ctp_runbook.watch.baseline import baseline_points, usual_of
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.measure import more_than
from ctp_runbook.watch.points import Point, Points
from ctp_runbook.watch.replay import read_rules

__all__ = [
    "GATE_STEPS",
    "below_headline",
    "budget_figure",
    "commands_table",
    "comparison_table",
    "downtime_figure",
    "facts_of_plan",
    "findings",
    "headline",
    "member_table",
    "mode_banner",
    "observed_rows",
    "observed_tables",
    "outcome_banner",
    "outcome_sentence",
    "override_banners",
    "plan_blocks",
    "read_readiness",
    "readiness_table",
    "refuse_other_plan",
    "rollback_blocks",
    "rule_table",
    "step_table",
    "steps_in",
    "timeline_table",
    "topology_blocks",
    "unobserved_note",
    "verdict_table",
    "watch_banner",
    "watch_blocks",
]

GATE_STEPS = tuple(dict.fromkeys(gate.step for gate in GATES.values()))
# A dozen SLIs take some kilobytes.
_READINESS_BYTES = 1 << 20
_CAUSES: Mapping[Cause, str] = {
    "metric": "a metric reached the rollback trigger",
    "step_failed": "a step of the switch failed",
    "operator": "an operator asked for it",
    "forced_drill": "a forced drill",
    "member_died": "a process of the new stack died",
    "hold_expired": "nobody decided while it was holding",
    "resume": "taken up again after a crash, it was not safe to go on",
    "judge": "the watch could not be judged good",
}
_MEMBERS = ("old_strategy_runner", "old_core_engine", "new_core_engine", "new_strategy_runner")
_NOT_BEGUN = (StepStatus.NOT_RUN, StepStatus.SIMULATED_OK)
_HEADLINES: Mapping[Outcome, tuple[str, str]] = {
    Outcome.COMPLETED: ("good", "The new stack trades; the watch window PASSED"),
    Outcome.DRY_RUN_OK: ("info", "Dry run: nothing stands in the way; nothing was done"),
    Outcome.REFUSED: ("bad", "Refused: nothing was touched"),
    Outcome.ABORTED_BEFORE_SWITCH: (
        "bad",
        "Ended before the switch: the old stack still trades and was not touched",
    ),
    Outcome.ROLLED_BACK_IN_BUDGET: ("warn", "Rolled back in time, and validated"),
    Outcome.ROLLED_BACK_LATE: ("bad", "Rolled back, but later than the budget allows"),
    Outcome.ROLLED_BACK_UNVALIDATED: (
        "bad",
        "Rolled back, but the previous stack is not validated",
    ),
    Outcome.ROLLBACK_FAILED: ("bad", "ROLLBACK FAILED: an operator must act now"),
}


# What a closing sentence says of an outcome that its headline says as well: there it is left out.
_SAID_ABOVE: Mapping[Outcome, tuple[str, str]] = {
    Outcome.COMPLETED: (
        "The new stack trades",
        "the new generation trades; the watch window passed",
    ),
    Outcome.ABORTED_BEFORE_SWITCH: ("still trades", "; the old stack still trades, untouched"),
    Outcome.ROLLBACK_FAILED: ("must act", " An operator must act now."),
}
# How the closing sentence begins where nothing proves that orders move or may move.
_ALIVE = "the new generation is "
_NOT_TOUCHED = "this run did not touch the old stack"


def headline(history: History) -> tuple[str, str]:
    """Return the kind of banner and the run's result in plain words."""
    if history.outcome is None:
        return "warn", f"The run is not over: {history.state.value}"
    if history.outcome is Outcome.DRY_RUN_OK and history.would_refuse:
        return "warn", "Dry run: nothing was done; --execute would refuse this plan"
    if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET and history.wants_rollback:
        kind, title = _as_seen(history, history.outcome)
        as_asked = title.replace("Rolled back in time", "Rolled back as asked, in time")
        return ("good" if kind == "warn" else kind), as_asked
    return _as_seen(history, history.outcome)


def _as_seen(history: History, outcome: Outcome) -> tuple[str, str]:
    """The words of an outcome, where what was seen at the end bears them out."""
    kind, title = _HEADLINES[outcome]
    seen = history.closed.payload.running if history.closed else {}
    if outcome is Outcome.COMPLETED:
        ended = history.watch_ended
        verdict = ended.payload.verdict if ended else "not made"
        if verdict != Verdict.PASSED.name or not _is_alive(seen, Generation.NEW):
            return "warn", f"COMPLETED, with the watch {verdict}: see who runs"
        if history.closed and history.closed.payload.sentence.startswith(_ALIVE):
            return "warn", "The watch window PASSED; that the new stack trades is not proved"
    if outcome is Outcome.ABORTED_BEFORE_SWITCH and not _is_alive(seen, Generation.OLD):
        return kind, "Ended before the switch: this run did not touch the old stack"
    if title.startswith("Rolled back") and not _is_alive(seen, Generation.OLD):
        return "bad", "Rolled back, and not all of the previous stack was seen alive: see who runs"
    return kind, title


def _is_alive(seen: Mapping[str, str], generation: Generation) -> bool:
    """True where every part of it that was looked at was alive, and one was."""
    parts = [state for name, state in seen.items() if name.startswith(f"{generation}_")]
    return bool(parts) and set(parts) == {"alive"}


def mode_banner(history: History) -> Banner:
    """Say DRY RUN, REHEARSAL or REAL RUN, so that no page can be taken for another kind."""
    if history.is_dry_run:
        sentence = "no command of the template is run; this never verifies as a real run"
        return Banner("info", "DRY RUN", sentence)
    environment = history.plan.environment
    if history.created.rehearsal:
        return Banner("info", "REHEARSAL", f"real commands against the twin {environment}")
    return Banner("warn", "REAL RUN", f"environment {environment}")


def override_banners(history: History) -> list[Banner]:
    """Say every override with its reason, in red; nothing where nothing was overridden."""
    return [
        Banner("bad", _overridden(name), reason)
        for name, reason in history.created.overrides.items()
    ]


def _overridden(name: str) -> str:
    shown = override_name(name)
    return f"NOT PROVED of the session ({shown})" if name == NOT_PROVED else f"OVERRIDE {shown}"


def outcome_banner(history: History) -> Banner:
    """Say how the run ended, with the orchestrator's own sentence."""
    kind, title = headline(history)
    if history.closed is None:
        return Banner(kind, title, _standing(history))
    closed = history.closed.payload
    sentence = _not_said(closed, title)
    if sentence.casefold().startswith(title.casefold()):  # one cause is told once
        title, sentence = f"{sentence[:1].upper()}{sentence[1:]}", ""
    ending = f"{title} ({closed.outcome.value}, exit {closed.exit_code})"
    return Banner(kind, ending, sentence)


def below_headline(history: History) -> Banner:
    """The same below a heading that has the plain words of it."""
    kind, title = headline(history)
    if history.closed is None:
        return Banner(kind, "So far", _standing(history))
    closed = history.closed.payload
    sentence = _not_said(closed, title)
    if sentence.casefold().startswith(title.casefold()):
        sentence = sentence[len(title) :].lstrip("; ,")
    return Banner(kind, f"{closed.outcome.value}, exit {closed.exit_code}", sentence)


def _not_said(closed: Closed, title: str) -> str:
    """The closing sentence without what the headline says."""
    said, again = _SAID_ABOVE.get(closed.outcome, ("", ""))
    sentence = closed.sentence
    if again and said in title:
        sentence = sentence.removesuffix(again)
    if _NOT_TOUCHED in title:
        sentence = sentence.replace(f"{_NOT_TOUCHED}, but what", "what")
    return sentence


def outcome_sentence(history: History) -> str:
    """Say how the run ended; while it has not, why it is where it is."""
    if history.closed is not None:
        return f"{history.closed.payload.outcome.value}: {history.closed.payload.sentence}"
    return f"{history.state.value}: {_reason(history)}"


def _reason(history: History) -> str:
    return history.transitions[-1].reason if history.transitions else "it has not begun"


def _standing(history: History) -> str:
    """Why a run that is not over is where it is, since when, and what it was at by its last record."""
    since = [
        f"since {datetime.fromisoformat(entry.wall_utc):%H:%M:%S}Z"
        for entry in history.transitions[-1:]
    ]
    why = ": ".join([*since, _reason(history)])
    begun = [f"{step.name} was begun, and did not end yet" for step in history.unfinished[-1:]]
    return "; ".join([why, *begun])


def facts_of_plan(history: History) -> Facts:
    """Say which run of which plan this is."""
    created, plan = history.created, history.plan
    pairs: list[tuple[str, object]] = [
        ("run", history.run_id),
        ("environment", plan.environment),
        ("window", plan.window_local),
        ("CTP configuration", plan.ctp_config_path),
        ("watch", f"{plan.monitor_minutes:.3g} min: {', '.join(plan.monitor_keys)}"),
        ("rollback when", plan.trigger_text),
        ("rollback budget", f"{plan.max_rollback_seconds:g} s"),
        ("plan sha256", created.plan_sha256),
        ("created", f"by {created.created_by} on {created.host}"),
        ("earlier cutovers took", created.measured.cutover),
        ("earlier rollbacks took", created.measured.rollback),
    ]
    drill = "rolls back after a verified switch (--force-rollback)"
    special = {
        "rolls back run": created.parent_run,
        "drill": drill if created.force_rollback else "",
        "short watch": created.short_watch_reason,
    }
    return Facts([*pairs, *((name, fact) for name, fact in special.items() if fact)])


def steps_in(history: History, phase: Phase) -> list[str]:
    """Return the names of a phase's steps as the run's plan has them."""
    return [step.name for step in history.plan.steps if step.phase is phase]


def step_table(history: History, names: Iterable[str], *, title: str = "") -> Table:
    """Show steps as they went: status, time taken, exit code, and why."""
    rows = []
    for step in map(history.step, names):
        took = f"{step.duration_ms / 1000:.1f} s" if step.duration_ms else ""
        code = "" if step.exit_code is None else step.exit_code
        rows.append((step.name, mark(step.status.value), took, code, step.reason, step.output))
    columns = ("step", "status", "took", "exit", "why", "output")
    return Table(columns, rows, title, numbers=("took", "exit"), code=("output",))


def commands_table(history: History) -> Table:
    """Show each step's command, folded away."""
    commands = [(step.name, step.command) for step in history.plan.steps]
    return Table(("step", "command"), commands, "Commands", code=("command",), folded=True)


def read_readiness(path: Path) -> ReadinessFile:
    """Return a readiness file as far as it is one; what is wrong with it, its gate says."""
    from ctp_runbook.host.files import read_small
    from ctp_runbook.strict_json import decode_json

    try:
        report, _ = decode_json(read_small(path, most=_READINESS_BYTES), subject=path.name)
    except (OSError, ProbeError):
        return NO_READINESS
    return readiness_of(report)[0]


def readiness_table(report: ReadinessFile, *, title: str = "") -> Table:
    """Show the SLIs of a readiness file: what was measured, against what, from where."""
    rows = [
        (
            sli.name,
            *(f"{_value(value)}{_unit(sli.unit)}" for value in (sli.value, sli.target)),
            "– not measurable" if sli.is_unmeasurable else mark(sli.healthy),
            *(sli.provenance, sli.source, sli.detail),
        )
        for sli in report.slis
    ]
    columns = ("SLI", "value", "target", "healthy", "provenance", "source", "detail")
    return Table(columns, rows, title, numbers=("value", "target"))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def rule_table(history: History) -> Table:
    """Show what a watch would hold each metric against."""
    rows = [
        (
            name,
            f"{_number(rule.limit, rule.unit)} for {rule.for_seconds:g} s"
            + (", proved" if rule.is_sequential else ""),
            f"{rule.window_seconds:g} s",
            rule.min_events,
            f"{rule.min_coverage:.0%}",
            rule.source,
        )
        for name, rule in history.plan.watch.metrics.items()
    ]
    columns = ("metric", "limit", "window", "least events", "least coverage", "source")
    return Table(columns, rows, numbers=("window", "least events", "least coverage"))


def watch_banner(history: History, judged: WindowJudgement) -> Banner:
    """Say what the watch came to: passed, cut short by a trigger, or judged otherwise."""
    if history.trigger is not None:
        trigger = history.trigger.payload
        if trigger.cause == "forced_drill":
            return Banner("info", "Watch cut short by the drill", trigger.sentence)
        title = f"Watch cut short: rollback triggered ({trigger.cause})"
        return Banner("bad", title, trigger.sentence)
    kind = {Verdict.PASSED: "good", Verdict.FAILED: "bad"}.get(judged.overall, "warn")
    return Banner(kind, f"Watch {judged.overall.name}", judged.sentence)


def watch_blocks(
    run: RunDir, history: History, judged: WindowJudgement, *, both: bool = False
) -> Iterator[Block]:
    """Show the watch: its picture, every metric's verdict, and the old engine beside the new.

    Raises JournalError for unreadable samples.
    """
    from ctp_runbook.show.watch_figure import watch_picture

    before = baseline_points(run, history, read_rules(history.plan.watch))
    yield watch_picture(history, judged, before=before, both=both)
    yield verdict_table(history, judged, title="Verdicts")
    sampled = history.baseline_ended
    sentence = sampled.payload.sentence if sampled else "the old engine was not sampled"
    if any(point.value is not None for points in before.values() for point in points):
        yield comparison_table(history, judged, before=before, sentence=sentence)
    else:  # a table without a figure would look like something that was forgotten
        yield Banner("info", "Old engine against new", sentence)


def verdict_table(history: History, judged: WindowJudgement | None, *, title: str = "") -> Table:
    """Show a line a metric: verdict, worst value, limit, margin, coverage, and the judge's words."""
    metrics = judged.metrics if judged else {}
    rows = []
    for name in history.plan.monitor_keys:
        unit = history.plan.watch.metrics[name].unit
        # A watch that never began has no verdict, and a row left out would look like none was due.
        if (metric := metrics.get(name)) is None:
            rows.append((name, "– not watched", "", "", "", "", ""))
            continue
        # What passed without a value had nothing to measure, which its words tell; it is no gap.
        none = "no event" if metric.verdict is Verdict.PASSED else "no data"
        numbers = (
            more_than(_number(metric.worst, unit, none=none), is_over=metric.worst_is_over),
            _number(metric.limit, unit),
            "not known" if metric.worst_is_over else _number(metric.margin, unit, none="–"),
            f"{metric.coverage:.0%}",
        )
        rows.append((name, mark(metric.verdict.name), *numbers, metric.sentence))
    numbers_in = ("worst", "limit", "margin", "coverage")
    return Table(("metric", "verdict", *numbers_in, "why"), rows, title, numbers=numbers_in)


def comparison_table(
    history: History,
    judged: WindowJudgement,
    *,
    before: Mapping[str, tuple[Point, ...]],
    sentence: str,
) -> Table:
    """Show old engine against new by the points that are drawn: median, p99, and how they shifted."""
    rows = []
    for name, metric in judged.metrics.items():
        unit = history.plan.watch.metrics[name].unit
        old, new = usual_of(Points.of(before[name])), usual_of(metric.points)
        shifts = (_shifted(old.median, new.median, unit), _shifted(old.p99, new.p99, unit))
        rows.append((name, *shifts, f"{old.many} / {new.many}"))
    numbers = ("median", "p99", "points before / after")
    title = f"Old engine against new, by the points drawn ({sentence}); no verdict rests on it"
    return Table(("metric", *numbers), rows, title, numbers=numbers)


def _shifted(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return "too few"
    old, new = (
        "above all buckets" if math.isinf(each) else f"{each:.3g}{_unit(unit)}"
        for each in (before, after)
    )
    shift = after - before
    return f"{old} → {new}" + (f" ({shift:+.3g})" if math.isfinite(shift) else "")


def _number(value: float | None, unit: str, *, none: str = "no data") -> str:
    return none if value is None else f"{value + 0.0:.4g}{_unit(unit)}"


def _unit(unit: str) -> str:
    # What is counted, and a part of one, is a number alone.
    return "" if unit in ("", "state", "count", "ratio") else f" {unit}"


def member_table(history: History) -> Table:
    """Show the members: identity as recorded, and what was seen of them at the end."""
    running, members = (
        history.closed.payload.running if history.closed else {},
        history.members,
    )
    rows = []
    for name in _MEMBERS:
        # A row left out would look like somebody who was forgotten.
        identity = str(history.identities.get(name, "not recorded"))
        there = name in members
        identity = identity if there else "none: its work is done in the engine"
        rows.append((name, identity, mark(running.get(name, "")) if there else ""))
    return Table(("member", "identity", "at the end"), rows, "Who runs")


def rollback_blocks(history: History, *, both: bool = False) -> Iterator[Block]:
    """Show why it was rolled back, how the budget was spent, and each step; or that it was not."""
    trigger, begun = history.trigger, history.rollback_started
    if trigger is None or begun is None:
        none = "no trigger came true, nobody asked for it" if history.closed else "none so far"
        yield Banner("info", "No rollback", none)
        yield from pictures_of(history, Phase.ROLLBACK, both=both)
        return
    fired = trigger.payload
    in_time = history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    kind = "bad" if not in_time else "good" if history.wants_rollback else "warn"
    if history.closed is None:
        kind, done = "warn", "Rolling back"
    else:
        done = "ROLLBACK FAILED" if history.outcome is Outcome.ROLLBACK_FAILED else "Rolled back"
    yield Banner(kind, f"{done}: {_CAUSES[fired.cause]}", fired.sentence)
    shares = begun.payload.shares
    pairs: list[tuple[str, object]] = [
        ("trigger condition", history.plan.trigger_text),
        ("triggering sample", fired.sample_utc),
        ("split", ", ".join(f"{name} {part:.3g} s" for name, part in shares.items())),
    ]
    if fired.metric:
        rule = history.plan.watch.metrics.get(fired.metric)
        unit = rule.unit if rule else ""
        value, limit = _number(fired.value, unit), _number(fired.limit, unit)
        observed = (
            f"{fired.metric} = {more_than(value, is_over=fired.is_over)}, rollback level {limit}"
        )
        pairs.insert(2, ("observed", observed))
    pairs.append(("budget", budget_figure(history)))
    yield Facts(pairs, "Why, and in what time")
    yield from pictures_of(history, Phase.ROLLBACK, both=both)
    yield step_table(history, steps_in(history, Phase.ROLLBACK), title="Rollback steps")


def budget_figure(history: History) -> str:
    """Return what of its budget a rollback took, and whether that restored trading."""
    begun = history.rollback_started
    if begun is None:
        return "none"
    budget = f"{begun.payload.budget_seconds:g} s"
    if history.closed is None:
        since = datetime.fromisoformat(begun.payload.started_utc)
        return f"{budget}, running since {since:%H:%M:%S}Z"
    seconds = rollback_seconds(history)
    spent = f"{seconds:.1f} s of {budget}"
    if history.outcome is Outcome.ROLLBACK_FAILED:
        return f"{spent}, and FAILED"
    return f"{spent} ({'kept' if seconds <= begun.payload.budget_seconds else 'EXCEEDED'})"


def findings(history: History) -> Iterator[Notes]:
    """Yield what the run itself saw worth saying, the gravest first."""
    said = [record.payload for record in history.of_kind(Finding)]
    # What is said twice, as after a resume, is shown once.
    for severity, kind in (("critical", "bad"), ("warning", "warn"), ("info", "info")):
        sentences = [entry.sentence for entry in said if entry.severity == severity]
        yield Notes(kind, list(dict.fromkeys(sentences)))


def timeline_table(history: History) -> Table:
    """Show when the run entered each state, and why."""
    entries = [
        (datetime.fromisoformat(entry.wall_utc), entry.state, entry.reason)
        for entry in history.transitions
    ]
    if history.closed is not None:
        entries.append((history.closed.wall, State.CLOSED, history.closed.payload.outcome.value))
    rows = []
    for when, state, why in entries:
        after = (when - history.records[0].wall).total_seconds()
        rows.append((f"{when:%H:%M:%S}Z", f"+{after:.1f} s", state.value, why))
    return Table(("UTC", "after", "state", "why"), rows, "Timeline", numbers=("after",))


def downtime_figure(history: History) -> str:
    """Return the trading downtime in seconds, and since when there is one that is not over; ``none``
    while nothing was stopped."""
    left_out = history.plan.left_out
    first_stop = next(step for step in steps_of(Phase.SWITCH) if step not in left_out)
    if history.is_dry_run or history.step(first_stop).status in _NOT_BEGUN:
        return "none"
    if since := no_runner_since(history):
        return f"since {datetime.fromisoformat(since):%H:%M:%S}Z, not over by the last record"
    return f"{trading_downtime_seconds(history):.1f} s"


def topology_blocks(run: RunDir, *, both: bool = False) -> Iterator[Block]:
    """Show the host as the infra gates saw it, and what is not as wanted; nothing before any has
    ended."""
    if (seen := gate_topology(run)) is None:
        return
    yield topology_picture(seen, both=both)
    if rows := drift_rows(run):
        yield Table(("gate", "step", "why"), rows, "Not as wanted")


def unobserved_note(run: RunDir, history: History) -> Notes:
    """Say which gates passed by a command that left no evidence; nothing where none did."""
    return Notes(
        "warn", tuple(unobserved_steps(run, history).values()), "Not observed by this tool"
    )


def observed_rows(run: RunDir) -> list[tuple[str, str, str]]:
    """Return what the evidence of each infra gate says: the gate, of what, and what was seen."""
    rows = []
    for gate in gates_in(run.evidence):
        values, problems = parse_env(run.evidence / gate.file)
        start = f"{gate.prefix}_OBSERVED_"
        for key, value in values.items():
            if key.startswith(start):
                rows.append((speaker_of(gate), key.removeprefix(start).lower(), value))
        rows += [(speaker_of(gate), "problem", problem) for problem in problems]
    return rows


def observed_tables(run: RunDir) -> list[Block]:
    """Return what the infra gates saw, as a table if they saw anything."""
    rows = observed_rows(run)
    title = f"All {len(rows)} observations"
    return [Table(("gate", "observed", "seen"), rows, title, folded=True)] if rows else []


def plan_blocks(history: History, plan: Plan, *, checklist: Path) -> list[Block]:
    """Show facts, warnings, steps, commands."""
    rows = [
        (
            n,
            s.phase.value,
            s.name,
            "skipped" if s.skipped else f"{s.timeout_seconds:g} s",
            s.effect,
            ", ".join(s.undo),
        )
        for n, s in enumerate(plan.steps, start=1)
    ]
    columns = ("#", "phase", "step", "at most", "done when", "undone by")
    return [
        facts_of_plan(history),
        Notes("bad", history.would_refuse),
        Notes("warn", [w for w in plan.warnings if w not in plan.execute_refusals], "Warnings"),
        Notes("bad", plan.declared, "Declared exceptions"),
        Table(columns, rows, "Steps", numbers=("#", "at most")),
        commands_table(history),
        Facts([("checklist", checklist)]),
    ]


def refuse_other_plan(history: History, plan: Plan, *, execute: bool) -> None:
    """Raise RunRefused when the run was made from another plan, or is of another kind."""
    recorded = history.created.plan_sha256
    if recorded != plan.sha256:
        raise RunRefused(
            f"run {history.run_id} was made from a plan with sha256 {recorded[:12]}…; these "
            f"templates give {plan.sha256[:12]}…; name the run's own templates, or start a new run"
        )
    if history.is_dry_run is (execute is True):
        kind = "a dry run" if history.is_dry_run else "a real run"
        raise RunRefused(
            f"run {history.run_id} is {kind}; execute = {execute} does not fit; set it to "
            f"{not execute}, or start a new run"
        )
