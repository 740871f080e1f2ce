"""The plan as a person follows it: a checklist in Markdown, and the same facts as JSON.

Both come from one set of facts, redacted once. Neither reads the clock or the machine: the same
inputs give the same bytes, so that two checklists can be compared with ``diff``. What earlier
runs measured is such an input; without any, cutover and rollback are UNMEASURED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from ctp_runbook.decoding import convert
from ctp_runbook.model import Phase, Role, Step, StepKind
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.gate_table import GATES, unobserved_gates
from ctp_runbook.plan.plan import Plan
from ctp_runbook.plan.session_sources import FACT_WORDS, source_words
from ctp_runbook.plan.step_table import step_spec
from ctp_runbook.plan.timing import Measured

__all__ = [
    "EVIDENCE_FILES",
    "Checklist",
    "ChecklistFacts",
    "MeasuredFacts",
    "MemberFacts",
    "MetricFacts",
    "StepFacts",
    "TriggerFacts",
    "WatchFacts",
    "checklist",
]

EVIDENCE_FILES = (
    *(gate.file for gate in GATES.values() if gate.is_due),
    "ctp_readiness_precheck.json",
    "ctp_cutover_result.env",
    "ctp_rollback_result.env",
    "ctp_readiness_rollback.json",
    "ctp_one_shot_cutover_checklist.md",
    "ctp_one_shot_cutover_checklist.json",
)

_COMPARISON = {"max": "<=", "min": ">="}


class Checklist(NamedTuple):
    """One checklist, written twice; each text ends with a newline."""

    markdown: str
    json: str


class MemberFacts(Struct, frozen=True):
    """A member, and how it is known."""

    name: str
    alive_command: str
    pid_file: str
    unit: str
    metrics_url: str


class StepFacts(Struct, frozen=True, kw_only=True):
    """A step: what runs, what proves it, what takes it back; ``skipped`` is why it does not run."""

    name: str
    phase: Phase
    kind: StepKind
    key: str
    command: str
    timeout_seconds: float
    effect: str
    undo: tuple[str, ...]
    acts_on: str
    skipped: str = ""
    when_it_fails: str


class MetricFacts(Struct, frozen=True):
    """A metric of the watch; ``limit`` is in words, with its unit and how it is judged."""

    name: str
    label: str
    source: str
    for_seconds: float
    window_seconds: float
    interval_seconds: float
    warm_up_seconds: float
    min_events: int
    zero_events: str
    query: str
    limit: str


class WatchFacts(Struct, frozen=True):
    """The watch; ``false_alarms`` are shares of watches, by metric that a proof fails."""

    minutes: float
    hold_seconds: float
    hold_expiry: str
    tolerance_inconclusive_seconds: float
    tolerance_error_seconds: float
    recovery_seconds: float
    metrics: tuple[MetricFacts, ...]
    false_alarms: dict[str, float] = {}


class TriggerFacts(Struct, frozen=True):
    """What rolls back at once: as the template has it, and in words."""

    text: str
    sentence: str


class MeasuredFacts(Struct, frozen=True):
    """What earlier runs took: in words, and in seconds."""

    cutover: str
    rollback: str
    cutover_seconds: float | None
    cutover_runs: int
    rollback_seconds: float | None
    rollback_runs: int


class ChecklistFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole checklist as its JSON file has it, secrets masked. What has a default is there
    only where there is such a thing."""

    schema: Literal[1]
    plan_sha256: str
    cutover_window_local: str
    environment: str
    lead_minutes: float
    window_minutes: float
    session_policy: str
    ctp_config_path: str
    trading_state_command: str
    working_orders_policy: str
    cancel_working_orders_command: str
    readiness_commands: dict[str, str]
    max_rollback_seconds: float
    rollback_cancel_seconds: float
    redis_compat: str
    forced_rollback_after_seconds: float
    warnings: tuple[str, ...]
    execute_refusals: tuple[str, ...]
    templates: tuple[str, ...]
    limits_file: str
    watch_file: str
    members: tuple[MemberFacts, ...]
    gates: tuple[StepFacts, ...]
    switch: tuple[StepFacts, ...]
    watch: WatchFacts
    trigger: TriggerFacts
    rollback: tuple[StepFacts, ...]
    measured: MeasuredFacts
    declared: tuple[str, ...] = ()
    session_sources: dict[str, dict[str, str]] = {}
    session_not_proved: dict[str, str] = {}
    evidence_files: tuple[str, ...]
    not_observed: tuple[str, ...] = ()
    evidence_copies: tuple[str, ...]


def checklist(plan: Plan, measured: Measured | None = None) -> Checklist:
    """Return what a person follows, with a box for every step, and its facts for machines."""
    facts = _facts(plan, measured or Measured())
    lines = [
        *_head(facts),
        *_findings(facts),
        *_phase("1. Gates", facts.gates, "The old stack goes on trading."),
        *_ready(facts),
        *_phase("3. Switch", facts.switch, "From the first stop on, nothing trades."),
        *_watch(facts),
        *_phase("5. Rollback", facts.rollback, _rollback_words(facts)),
        *_evidence(facts),
    ]
    as_json = msgspec.json.format(msgspec.json.encode(facts), indent=2).decode()
    return Checklist("\n".join(lines).rstrip("\n") + "\n", as_json + "\n")


def _facts(plan: Plan, measured: Measured) -> ChecklistFacts:
    """All that is shown, with secrets masked."""
    facts = {
        "schema": 1,
        "plan_sha256": plan.sha256,
        "cutover_window_local": plan.window_text,
        **_picked(plan, *_AS_IN_PLAN),
        "templates": [str(plan.cutover_template), str(plan.rollback_template)],
        "limits_file": str(plan.limits_file),
        "watch_file": str(plan.watch_file),
        "members": [
            _picked(member, "name", "alive_command", "pid_file", "unit", "metrics_url")
            for member in plan.members.values()
        ],
        "gates": [_step_facts(step) for step in plan.gates],
        "switch": [_step_facts(step) for step in plan.switch],
        "watch": {
            "minutes": plan.monitor_minutes,
            **_picked(plan, "hold_seconds", "hold_expiry"),
            **_picked(plan.watch, "tolerance_inconclusive_seconds", "tolerance_error_seconds"),
            "recovery_seconds": plan.watch.recovery_seconds,
            "metrics": [_rule_facts(rule) for rule in plan.watched],
            "false_alarms": {r.name: r.false_alarms for r in plan.watched if r.is_sequential},
        },
        "trigger": _picked(plan.trigger, "text", "sentence"),
        "rollback": [_step_facts(step) for step in plan.rollback],
        "measured": {
            **_picked(measured, "cutover", "rollback"),
            **msgspec.structs.asdict(measured),
        },
        "declared": plan.declared,
        **_evidence_facts(plan),
        "evidence_copies": [plan.cutover_evidence_output, plan.rollback_evidence_output],
    }
    return convert(plan.redactor.data(facts) | _session_facts(plan), ChecklistFacts)


def _evidence_facts(plan: Plan) -> dict[str, Any]:
    """The files that are due, and which gates leave none."""
    unobserved = unobserved_gates({step.name: step.command for step in plan.gates})
    left_out = {gate.file for gate in unobserved}
    return {
        "evidence_files": [name for name in EVIDENCE_FILES if name not in left_out],
        "not_observed": list(unobserved.values()),
    }


def _session_facts(plan: Plan) -> dict[str, Any]:
    """How each engine's session is told, where the template says so, with secrets masked; nothing for
    engines that are asked as ever."""
    # By value alone: facts and engines are names of ours, and two that are masked would be one.
    masked = plan.redactor
    declared = {name: each for name, each in plan.sessions.items() if each.is_declared}
    if not declared:
        return {}
    sources = {
        f"{name}_{Role.CORE_ENGINE}": {
            **{each.fact: masked(source_words(each)) for each in session.sources},
            **{fact: session.key for fact in session.untold if session.command},
        }
        for name, session in declared.items()
    }
    not_proved = next(iter(declared.values())).not_proved
    reasons = {fact: masked(reason) for fact, reason in not_proved.items()}
    return {"session_sources": sources, "session_not_proved": reasons}


_AS_IN_PLAN = (
    "environment",
    "lead_minutes",
    "window_minutes",
    "session_policy",
    "ctp_config_path",
    "trading_state_command",
    "working_orders_policy",
    "cancel_working_orders_command",
    "readiness_commands",
    "max_rollback_seconds",
    "rollback_cancel_seconds",
    "redis_compat",
    "forced_rollback_after_seconds",
    "warnings",
    "execute_refusals",
)


def _picked(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _step_facts(step: Step) -> dict[str, Any]:
    return {
        **step._asdict(),
        "acts_on": "_".join(step.acts_on) if step.acts_on else "",
        "when_it_fails": step_spec(step.name).when_it_fails,
    }


def _rule_facts(rule: MetricRule) -> dict[str, Any]:
    return {
        **_picked(rule, "name", "label", "source", "for_seconds", "window_seconds"),
        **_picked(rule, "interval_seconds", "warm_up_seconds", "min_events", "zero_events"),
        "query": " ".join(rule.query.split()),
        "limit": f"{_COMPARISON[rule.direction]} {rule.amount(f'{rule.limit:g}')}{_test_words(rule)}",
    }


def _test_words(rule: MetricRule) -> str:
    """How a limit is judged that not one value decides."""
    words = ""
    if rule.is_sequential:
        words = (
            f", FAILED by a proof ({100 * rule.false_alarms:.3g}% of watches may be false alarms)"
        )
        words += " and PASSED by one" if rule.needs == "proof" else ""
    if rule.cap is not UNSET:
        words += f", none over {rule.amount(f'{rule.cap:g}')}"
    return words


def _head(facts: ChecklistFacts) -> Iterator[str]:
    yield f"# One-shot cutover checklist: {facts.environment}"
    yield ""
    yield from _table(
        ("what", "value"),
        (
            ("plan digest (`--plan-sha256`)", _code(facts.plan_sha256)),
            ("window", _code(facts.cutover_window_local)),
            ("gates may start", f"{facts.lead_minutes:g} minutes before the window"),
            ("switch may start", f"until {facts.window_minutes:g} minutes after it"),
            ("session policy", facts.session_policy),
            ("earlier cutovers took", facts.measured.cutover),
            ("earlier rollbacks took", facts.measured.rollback),
            ("CTP configuration", _code(facts.ctp_config_path)),
            ("working orders", facts.working_orders_policy),
            ("templates", ", ".join(map(_code, facts.templates))),
            ("limits", f"{_code(facts.limits_file)}, {_code(facts.watch_file)}"),
        ),
    )
    yield from ("", "## Who runs", "")
    yield from _table(
        ("member", "alive command (0 alive, 1 gone)", "identity", "metrics"),
        (
            (
                member.name,
                _code(member.alive_command),
                _code(member.unit or member.pid_file),
                _code(member.metrics_url),
            )
            for member in facts.members
        ),
    )
    yield ""
    # Who is not there is said once, so that nobody looks for who was forgotten.
    missing = dict.fromkeys(step.skipped for step in (*facts.switch, *facts.rollback))
    if reasons := list(filter(None, missing)):
        yield from (f"- {_escaped(reason)}." for reason in reasons)
        yield ""
    yield from _sessions(facts)


def _sessions(facts: ChecklistFacts) -> Iterator[str]:
    """How each session is told; what nobody tells in red, and in a word where there is no colour."""
    if not facts.session_sources:
        return
    yield from ("## Whose session is told by what", "")
    rows = [
        (engine, FACT_WORDS[fact], _escaped(words))
        for engine, sources in facts.session_sources.items()
        for fact, words in sources.items()
    ]
    yield from _table(("engine", "fact", "told by"), rows)
    yield ""
    for fact, reason in facts.session_not_proved.items():
        red = _red(f"**✗ NOT PROVED: {FACT_WORDS[fact]}**")
        yield f"- [ ] {red}, where nothing above tells it: {_escaped(reason)}"
    yield ""


def _findings(facts: ChecklistFacts) -> Iterator[str]:
    """Warnings, those first that make a real run refuse."""
    yield from ("## Before a real run", "")
    refusals = facts.execute_refusals
    remarks = [text for text in facts.warnings if text not in refusals]
    if refusals:
        yield from (f"`--execute` refuses until these {len(refusals)} are mended:", "")
        yield from (f"- [ ] {_escaped(text)}" for text in refusals)
    else:
        yield "Nothing in the templates stands in the way of `--execute`."
    yield ""
    if remarks:
        yield from ("To be aware of:", "")
        yield from (f"- [ ] {_escaped(text)}" for text in remarks)
        yield ""
    if declared := facts.declared:
        yield from ("## Declared exceptions", "")
        yield from ("A real run goes on without these, because the templates say so:", "")
        yield from (f"- [ ] {_red(f'✗ {_escaped(text)}')}" for text in declared)
        yield ""


def _phase(title: str, steps: Iterable[StepFacts], words: str) -> Iterator[str]:
    yield from (f"## {title}", "", words, "")
    for number, step in enumerate(steps, start=1):
        yield f"### {title.split('.')[0]}.{number} {step.name}"
        yield ""
        if step.skipped:
            yield from (f"Skipped: {step.skipped}.", "")
            continue
        yield f"- [ ] Run ({_code(step.key)}, at most {step.timeout_seconds:g} s):"
        yield from ("", *_fenced(step.command), "")
        yield f"- [ ] Proved: {step.effect}."
        yield f"- Undone by: {', '.join(step.undo) or 'nothing to undo'}."
        yield f"- When it fails: {step.when_it_fails}"
        yield ""


def _ready(facts: ChecklistFacts) -> Iterator[str]:
    yield from ("## 2. Ready", "")
    yield "- [ ] Every gate passed, and its probes are fresh."
    yield f"- [ ] The window is open: {_code(facts.cutover_window_local)}."
    yield f"- [ ] Working orders: policy {facts.working_orders_policy}."
    yield "- [ ] The plan digest is the one that was reviewed."
    yield from ("- [ ] Go, by name and time: ______________________", "")


def _watch(facts: ChecklistFacts) -> Iterator[str]:
    watch = facts.watch
    yield from (f"## 4. Watch: {watch.minutes:g} minutes", "")
    yield from _table(
        ("", "metric", "limit", "taken over", "fewest events", "no event at all", "source"),
        (
            (
                "☐",
                f"{_escaped(rule.label)} ({_code(rule.name)})",
                _escaped(rule.limit) + _lasting(rule),
                f"{rule.window_seconds:g} s",
                str(rule.min_events),
                rule.zero_events,
                rule.source,
            )
            for rule in watch.metrics
        ),
    )
    yield ""
    yield f"- Rolls back at once when: {_code(facts.trigger.sentence)}"
    yield f"  (template: {_code(facts.trigger.text)})."
    yield (
        "- Holds for a decision when a limit is exceeded, or nothing could be proved for"
        f" {watch.tolerance_inconclusive_seconds:g} s, or measured for"
        f" {watch.tolerance_error_seconds:g} s."
    )
    yield f"- {_false_alarms(watch)}"
    yield (
        f"- A hold lasts {watch.hold_seconds:g} s at most, then: {watch.hold_expiry}."
        f" It ends by itself after {watch.recovery_seconds:g} s of recovery."
    )
    yield "- [ ] The watch ended with the verdict: ______________________"
    yield ""


def _false_alarms(watch: WatchFacts) -> str:
    """How often the whole watch of an engine within its limits may fail, and what has no such rate."""
    rates = watch.false_alarms
    rest = [rule.name for rule in watch.metrics if rule.name not in rates]
    plain = (
        f"{', '.join(map(_code, rest))}: limits that values are held against, whose rate of false alarms"
        " nothing but `ctp-runbook calibrate` tells."
    )
    if not rates:
        return plain
    each = ", ".join(f"{_code(name)} {100 * rate:.3g}%" for name, rate in rates.items())
    proved = (
        f"Proofs may fail the watch of an engine within its limits in {100 * sum(rates.values()):.3g}% of"
        f" watches at most, all together: {each}."
    )
    return f"{proved} {plain}" if rest else proved


def _lasting(rule: MetricFacts) -> str:
    return f" (for {rule.for_seconds:g} s)" if rule.for_seconds else ""


def _rollback_words(facts: ChecklistFacts) -> str:
    return (
        f"Only when triggered or asked for. {facts.max_rollback_seconds:g} s of wall clock from"
        " the trigger to the validated previous stack. Only what was done is undone. Redis"
        f" compatibility path: {facts.redis_compat}."
    )


def _evidence(facts: ChecklistFacts) -> Iterator[str]:
    yield from ("## 6. Evidence", "", "In `outputs/<run_id>/evidence/`:", "")
    yield from (f"- [ ] {_code(name)}" for name in facts.evidence_files)
    if unobserved := facts.not_observed:
        yield from ("", "Nothing is due from these gates; look at their effect yourself:", "")
        yield from (f"- [ ] {_escaped(words)}" for words in unobserved)
    yield from ("", "Copies, written by a real run only:", "")
    yield from (f"- [ ] {_code(name)}" for name in facts.evidence_copies)
    yield from ("", "- [ ] `ctp-runbook verify --run outputs/<run_id>` ends with exit code 0.")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _code(text: str) -> str:
    """``text`` as inline code, safe in a table; a dash where there is none."""
    if not text:
        return "–"
    ticks = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text.replace('|', chr(92) + '|')}{space}{ticks}"


def _red(text: str) -> str:
    return f'<span style="color:#c00">{text}</span>'


def _escaped(text: str) -> str:
    """Prose with what Markdown would take for markup shown as it is."""
    for char in "\\`*_<>|[]":
        text = text.replace(char, "\\" + char)
    return text


def _fenced(command: str) -> tuple[str, str, str]:
    fence = "```"
    while fence in command:
        fence += "`"
    return f"{fence}bash", command, fence
