"""The plan: both templates and both config files, checked and typed, with their digest.

The clock is never read here. A plan is the same whenever it is made; only a real run asks
``window_refusals`` whether now is the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from ctp_runbook.errors import ConfigError, Problem, TemplateError
from ctp_runbook.host.files import read_small
from ctp_runbook.model import Generation, Member, Phase, Role, Step, StepKind
from ctp_runbook.plan.config import Limits, MetricRule, WatchRules, load_limits, load_watch
from ctp_runbook.plan.preflight import inspect_plan
from ctp_runbook.plan.session_sources import SessionPlan, read_sessions, session_problems
from ctp_runbook.plan.shell.commands import executables
from ctp_runbook.plan.shell.files import resolve
from ctp_runbook.plan.step_table import (
    NO_MEMBER,
    SESSION_PROVED,
    STEP_TABLE,
    StepSpec,
    presence_key,
    step_spec,
)
from ctp_runbook.plan.template_keys import (
    HANDOVER_FACTS,
    NOT_MEASURABLE,
    READINESS_KEYS,
    TemplateValues,
    read_keys,
)
from ctp_runbook.plan.template_rules import cross_problems, monitor_keys, trigger_of
from ctp_runbook.plan.template_text import Entry, read_template
from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.redact import Redactor

if TYPE_CHECKING:
    from _hashlib import HASH

__all__ = ["PLAN_FILES", "Plan", "load_plan", "plan_digest", "window_refusals"]

_T = TypeVar("_T")
_PIECE_BYTES = 1 << 16
_LONGEST_CONFIG_BYTES = 1 << 20
# The attributes of a plan that name the files it was made from.
PLAN_FILES = ("cutover_template", "rollback_template", "limits_file", "watch_file")


class Plan(Struct, frozen=True):
    """Everything a run needs to know, fixed before it starts. Times are minutes or seconds
    as named; ``sha256`` binds a real run to what was reviewed."""

    environment: str
    window_local: datetime
    window_text: str
    ctp_config_path: str
    gates: tuple[Step, ...]
    switch: tuple[Step, ...]
    rollback: tuple[Step, ...]
    members: Mapping[str, Member]
    monitor_minutes: float
    monitor_keys: tuple[str, ...]
    trigger: Trigger
    watch: WatchRules
    limits: Limits
    max_rollback_seconds: float
    lead_minutes: float
    window_minutes: float
    session_policy: str
    hold_seconds: float
    hold_expiry: str
    forced_rollback_after_seconds: float
    trading_state_command: str
    working_orders_policy: str
    cancel_working_orders_command: str
    handover_compares: tuple[str, ...]
    rollback_cancel_seconds: float
    redis_compat: str
    alert_command: str
    alert_webhook_url: str
    readiness_commands: Mapping[str, str]
    sessions: Mapping[str, SessionPlan]
    session_files: Mapping[str, Path]
    cutover_evidence_output: str
    rollback_evidence_output: str
    cutover_template: Path
    rollback_template: Path
    limits_file: Path
    watch_file: Path
    warnings: tuple[str, ...]
    execute_refusals: tuple[str, ...]
    redactor: Redactor
    # What a real run goes on without, by the reasons of whoever filled the templates in.
    declared: tuple[str, ...] = ()
    sha256: str = ""

    def __repr__(self) -> str:
        return f"<Plan {self.environment} {self.sha256[:12]}>"  # the webhook's address is a secret

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in the order of CONTRACT §2: gates, switch, rollback."""
        return self.gates + self.switch + self.rollback

    @property
    def minutes_needed(self) -> float:
        """The longest that switch, watch and rollback may take together."""
        switch = sum(step.timeout_seconds for step in self.switch)
        return (switch + self.max_rollback_seconds) / 60 + self.monitor_minutes

    @property
    def is_rehearsal(self) -> bool:
        """True for an environment called ``rehearsal`` or ``rehearsal-…``: the twin's."""
        return self.environment.partition("-")[0] == "rehearsal"

    def step(self, name: str) -> Step:
        """Return the step called ``name``; KeyError for a name that is none of the seventeen."""
        return {step.name: step for step in self.steps}[name]

    def member(self, generation: Generation, role: Role) -> Member:
        """Return that member; KeyError for one that the plan says is not there."""
        return self.members[f"{generation}_{role}"]

    def members_of(self, generation: Generation) -> tuple[Member, ...]:
        """Return the members of a generation, its engine first."""
        return tuple(each for each in self.members.values() if each.generation is generation)

    @property
    def left_out(self) -> frozenset[str]:
        """The steps of members that are not there."""
        return frozenset(step.name for step in self.steps if step.skipped)

    @property
    def watched(self) -> tuple[MetricRule, ...]:
        """The rules of MONITOR_KEYS, in that order."""
        return tuple(self.watch.metrics[key] for key in self.monitor_keys)


class _Inputs(Struct, frozen=True):
    """What was read from the disk, with nothing wrong in it."""

    values: TemplateValues
    watch: WatchRules
    limits: Limits
    redactor: Redactor
    sessions: Mapping[str, SessionPlan]


def load_plan(
    cutover_template: Path,
    rollback_template: Path,
    *,
    limits: Path,
    watch: Path,
    environ: Mapping[str, str],
    base: Path,
    session_files: Mapping[str, Path] | None = None,
) -> Plan:
    """Read, check and type everything; ``base`` is the directory commands will run in.

    ``session_files``, by generation, stand for the files that G_SESSION_SOURCES names.

    Raises:
        ConfigError: when limits.toml or watch.toml has a problem (template problems included).
        TemplateError: with every problem of both templates.
    """
    kept = session_files or {}
    inputs = _read_inputs(cutover_template, rollback_template, limits, watch, environ, base, kept)
    values = inputs.values
    steps = _steps(values, inputs.limits, inputs.sessions)
    members = _members(values)
    preflight = inspect_plan(
        values,
        steps=steps,
        members=members,
        limits=inputs.limits,
        watch=inputs.watch,
        sessions=inputs.sessions,
        base=base,
        environ=environ,
        redactor=inputs.redactor,
    )
    redactor = inputs.redactor
    plan = Plan(
        **_facts(values),
        window_local=values.window(),
        hold_seconds=values.number("HOLD_SECONDS", default=inputs.limits.hold_seconds),
        hold_expiry=values.text("HOLD_EXPIRY") or inputs.limits.hold_expiry,
        gates=tuple(step for step in steps if step.phase is Phase.GATE),
        switch=tuple(step for step in steps if step.phase is Phase.SWITCH),
        rollback=tuple(step for step in steps if step.phase is Phase.ROLLBACK),
        members=members,
        sessions=inputs.sessions,
        session_files={
            generation: kept.get(generation, base / session.file)
            for generation, session in inputs.sessions.items()
            if session.file
        },
        monitor_keys=monitor_keys(values),
        handover_compares=values.words("HANDOVER_COMPARES"),
        trigger=trigger_of(values, inputs.watch),
        watch=inputs.watch,
        limits=inputs.limits,
        cutover_template=cutover_template,
        rollback_template=rollback_template,
        limits_file=limits,
        watch_file=watch,
        warnings=tuple(map(redactor, preflight.warnings)),
        execute_refusals=tuple(map(redactor, preflight.refusals)),
        declared=tuple(map(redactor, preflight.declared)),
        redactor=redactor,
    )
    return msgspec.structs.replace(plan, sha256=plan_digest(plan, base=base, environ=environ))


# The fields of a Plan that are one template value each.
_TEXTS = {
    "environment": "CUTOVER_ENV_NAME",
    "window_text": "CUTOVER_WINDOW_LOCAL",
    "ctp_config_path": "CTP_CONFIG_PATH",
    "session_policy": "SESSION_POLICY",
    "trading_state_command": "TRADING_STATE_CMD",
    "working_orders_policy": "WORKING_ORDERS_POLICY",
    "cancel_working_orders_command": "CANCEL_WORKING_ORDERS_CMD",
    "redis_compat": "RESTORE_REDIS_BRIDGE_COMPAT",
    "alert_command": "ALERT_CMD",
    "alert_webhook_url": "ALERT_WEBHOOK_URL",
    "cutover_evidence_output": "CUTOVER_EVIDENCE_OUTPUT",
    "rollback_evidence_output": "ROLLBACK_EVIDENCE_OUTPUT",
}
_NUMBERS = {
    "monitor_minutes": "POST_SWITCH_MONITOR_MINUTES",
    "max_rollback_seconds": "MAX_ROLLBACK_SECONDS",
    "lead_minutes": "CUTOVER_LEAD_MINUTES",
    "window_minutes": "CUTOVER_WINDOW_MINUTES",
    "forced_rollback_after_seconds": "FORCED_ROLLBACK_AFTER_SECONDS",
    "rollback_cancel_seconds": "ROLLBACK_CANCEL_SECONDS",
}


def _facts(values: TemplateValues) -> dict[str, Any]:
    return {
        **{field: values.text(key) for field, key in _TEXTS.items()},
        **{field: values.number(key) for field, key in _NUMBERS.items()},
        "readiness_commands": {
            sli: text for key, sli in READINESS_KEYS.items() if (text := values.text(key))
        },
    }


def _read_inputs(
    cutover_template: Path,
    rollback_template: Path,
    limits: Path,
    watch: Path,
    environ: Mapping[str, str],
    base: Path,
    kept: Mapping[str, Path],
) -> _Inputs:
    """Read all four files and raise every problem of all of them, secrets masked."""
    cutover = read_template(cutover_template, flag="--cutover-template")
    rollback = read_template(rollback_template, flag="--rollback-template")
    values = read_keys(cutover, rollback)
    config: list[Problem] = []
    rules = _loaded(load_watch, watch, config)
    policies = _loaded(load_limits, limits, config)
    sessions = _loaded(lambda path: read_sessions(values, base=path, kept=kept), base, config)
    across = (*cross_problems(values, rules), *session_problems(values))
    problems = (*config, *values.problems, *across)
    redact = policies.redact if policies else ()
    redactor = _redactor(
        (*cutover.entries, *rollback.entries),
        environ=environ,
        env_files=_env_files(base),
        extra=redact,
        addresses=_addresses(rules) if rules else (),
        config=_config_text(base / values.text("CTP_CONFIG_PATH")),
    )
    masked = [
        _masked(problem, redactor)
        for problem in sorted(problems, key=_reading_order([cutover.file, rollback.file]))
    ]
    if rules is None or policies is None or sessions is None:
        raise ConfigError(masked)
    if masked:
        raise TemplateError(masked)
    rules = _at_session_files(rules, sessions[Generation.NEW])
    return _Inputs(values, rules, policies, redactor, sessions)


def _at_session_files(rules: WatchRules, session: SessionPlan) -> WatchRules:
    """The rules that read where the new engine tells a fact of its session, with the file it tells it in:
    where that is stands in one place."""
    paths = {source.fact: source.path for source in session.sources if source.source == "file"}
    moved = {
        rule.name: msgspec.structs.replace(rule, reads={**rule.read, "path": path})
        for rule in rules.metrics.values()
        if (path := paths.get(rule.read.get("path_of", "")))
    }
    return msgspec.structs.replace(rules, metrics={**rules.metrics, **moved}) if moved else rules


def _loaded(load: Callable[[Path], _T], path: Path, problems: list[Problem]) -> _T | None:
    """What is read from ``path``; None with its problems added to the others."""
    try:
        return load(path)
    except ConfigError as error:
        problems += error.problems
        return None


def _masked(problem: Problem, redactor: Redactor) -> Problem:
    return problem._replace(
        key=redactor(problem.key),
        found=redactor(problem.found),
        expected=redactor(problem.expected),
    )


def _reading_order(files: list[str]) -> Callable[[Problem], tuple[int, bool, int]]:
    """Sorts problems as a reader meets them: config first, then by line, missing keys last."""

    def position(problem: Problem) -> tuple[int, bool, int]:
        file = files.index(problem.file) if problem.file in files else -1
        return file, problem.line == 0, problem.line

    return position


def _redactor(
    entries: Iterable[Entry],
    *,
    environ: Mapping[str, str],
    env_files: Iterable[Path],
    extra: tuple[str, ...],
    addresses: Iterable[str],
    config: str,
) -> Redactor:
    """What must not be shown: of the environment, of templates and rules, of ``infra/env/``, and of
    the configuration that the engine starts with."""
    entries = tuple(entries)
    # Also what names an environment or a user in the open, which no password is masked for.
    named = {entry.key: entry.value for entry in entries if not entry.key.endswith("_CMD")}
    # A webhook's address is all it takes to use it.
    webhooks = (e.value for e in entries if e.key == "ALERT_WEBHOOK_URL" and e.value)
    return Redactor.gather(
        environ={**environ, **named},
        extra=(*extra, *webhooks),
        env_files=env_files,
        texts=[*(entry.value for entry in entries), *addresses],
        config=config,
    )


def _addresses(rules: WatchRules) -> Iterator[str]:
    """Where the watch asks, and what: an address may have a password in it."""
    yield from rules.sources.values()
    for rule in rules.metrics.values():
        yield from (rule.url, rule.query, *rule.read.values())


def _config_text(path: Path) -> str:
    """What CTP_CONFIG_PATH says, if it can be read: preflight tells of what is not there."""
    try:
        data = read_small(path, most=_LONGEST_CONFIG_BYTES)
    except (OSError, ValueError):
        return ""
    return data.decode("utf-8", errors="replace")


def _env_files(base: Path) -> tuple[Path, ...]:
    try:
        return tuple(sorted((base / "infra" / "env").iterdir()))
    except OSError:
        return ()


def _steps(
    values: TemplateValues, limits: Limits, sessions: Mapping[str, SessionPlan]
) -> tuple[Step, ...]:
    return tuple(_step(spec, values, limits, sessions) for spec in STEP_TABLE)


def _step(
    spec: StepSpec, values: TemplateValues, limits: Limits, sessions: Mapping[str, SessionPlan]
) -> Step:
    step = Step(
        name=spec.name,
        phase=spec.phase,
        kind=spec.kind,
        key=values.spelling(spec.command_key),
        command=values.text(spec.command_key),
        timeout_seconds=values.number(
            spec.timeout_key, default=limits.step_timeout_seconds[spec.name]
        ),
        effect=f"{_proved(spec, sessions)}{_compared(spec, values)}",
        undo=tuple(name for name in spec.undo if not _lacks_member(values, step_spec(name))),
        acts_on=spec.acts_on,
    )
    if spec.acts_on is None or not _lacks_member(values, spec):
        return step
    return _left_out(step, *spec.acts_on)


def _proved(spec: StepSpec, sessions: Mapping[str, SessionPlan]) -> str:
    """What is proved of the step; of a session with sources of its own, no more than they tell."""
    if spec.kind is not StepKind.START or spec.acts_on is None:
        return spec.effect
    session = sessions[spec.acts_on[0]]
    return (
        spec.effect.replace(SESSION_PROVED, session.proved) if session.is_declared else spec.effect
    )


def _compared(spec: StepSpec, values: TemplateValues) -> str:
    """What the proof of the new engine's start compares beside its session, and what it does not."""
    is_new = spec.kind is StepKind.START and spec.acts_on == (Generation.NEW, Role.CORE_ENGINE)
    if not is_new or not values.text("TRADING_STATE_CMD"):
        return ""
    compares = values.words("HANDOVER_COMPARES")
    left_out = ", ".join(fact for fact in HANDOVER_FACTS if fact not in compares)
    but = f" (not compared: {left_out})" if left_out else ""
    return f", {', '.join(compares)} as the old engine left them{but}"


def _lacks_member(values: TemplateValues, spec: StepSpec) -> bool:
    return spec.acts_on is not None and values.lacks(*spec.acts_on)


def _left_out(step: Step, generation: Generation, role: Role) -> Step:
    """The step of a member that is not there: the line that says so stands where its command would,
    so that whatever tells of commands tells of it."""
    key = presence_key(generation, role)
    line, part = f"{key}={NO_MEMBER}", role.replace("_", " ")
    reason = f"{line}: there is no {generation} {part}, its work is done in the {generation} engine"
    return step._replace(
        key=key, command=line, timeout_seconds=0.0, effect=reason, undo=(), skipped=reason
    )


def _members(values: TemplateValues) -> dict[str, Member]:
    members = (
        _member(values, generation, role)
        for generation in Generation
        for role in Role
        if not values.lacks(generation, role)
    )
    return {member.name: member for member in members}


def _member(values: TemplateValues, generation: Generation, role: Role) -> Member:
    stem = f"{generation}_{role}".upper()
    return Member(
        generation=generation,
        role=role,
        alive_command=values.text(f"{stem}_ALIVE_CMD"),
        pid_file=values.text(f"{stem}_PID_FILE"),
        unit=values.text(f"{stem}_UNIT"),
        metrics_url=values.text(f"{stem}_METRICS_URL") if role is Role.CORE_ENGINE else "",
    )


def plan_digest(plan: Plan, *, base: Path, environ: Mapping[str, str]) -> str:
    """Return the SHA-256 over the bytes of everything the plan stands on, as they are on disk now.

    Each part goes in with its name as the template writes it and its length, so that the
    digest is the same in another checkout and no two sets of files share one. A file that is
    not there counts as such.
    """
    digest = hashlib.sha256()
    parts: dict[str, Path | None] = {
        "cutover_template": plan.cutover_template,
        "rollback_template": plan.rollback_template,
        "limits": plan.limits_file,
        "watch": plan.watch_file,
        "ctp_config": base / plan.ctp_config_path,
    }
    for generation, session in plan.sessions.items():
        if session.file:
            parts[f"{generation}_session_sources"] = base / session.file
    named = {each for command in _all_commands(plan) for each in executables(command)}
    for executable in named:
        name = f"executable {executable.folder} {executable.word} {executable.is_script}"
        name += "".join(f" or {folder}" for folder in executable.otherwise)
        parts[name] = resolve(executable, base=base, environ=environ)
    for path in _ca_files(plan):
        parts[f"ca_file {path}"] = base / path
    for name in sorted(parts):
        digest = _with_file(digest, f"{len(name)}:{name}", parts[name])
    return digest.hexdigest()


def _ca_files(plan: Plan) -> Iterator[str]:
    """Whom the plan's TLS trusts: another authority there is another server to be believed."""
    addresses = [member.metrics_url for member in plan.members.values()]
    addresses += [plan.alert_webhook_url, *plan.watch.sources.values()]
    addresses += [rule.url for rule in plan.watch.metrics.values()]
    for address in addresses:
        if "#ca_file=" in address:
            # Late: for plans that have one.
            from ctp_runbook.host.addresses import ca_file_of

            with contextlib.suppress(ValueError):
                yield ca_file_of(address)
    if path := plan.watch.sources.get("ca_file", ""):
        yield path


def _all_commands(plan: Plan) -> Iterator[str]:
    yield from (step.command for step in plan.steps if not step.skipped)
    yield from (member.alive_command for member in plan.members.values())
    yield from (plan.trading_state_command, plan.cancel_working_orders_command, plan.alert_command)
    yield from (session.command for session in plan.sessions.values())
    for command in plan.readiness_commands.values():
        if not command.startswith(NOT_MEASURABLE):
            yield command


def _with_file(digest: HASH, title: str, path: Path | None) -> HASH:
    """Return the digest with a file's title, length and bytes added, or that it is missing."""
    longer = digest.copy()
    try:
        # A pipe would be waited at for ever, and a device read without end.
        if path is None or not path.is_file():
            digest.update(f"{title}:missing:".encode())
            return digest
        # Piece by piece: fresh memory for a whole shell costs more than its digest.
        with path.open("rb", buffering=0) as source:
            left = os.fstat(source.fileno()).st_size
            longer.update(f"{title}:{left}:".encode())
            while piece := source.read(_PIECE_BYTES):
                longer.update(piece)
                left -= len(piece)
        if left == 0:
            return longer
        # No plain file, or one that is being written: as long as what is read of it.
        content = path.read_bytes()
    except (OSError, ValueError):
        return _with_file(digest, title, None)
    digest.update(f"{title}:{len(content)}:".encode() + content)
    return digest


def window_refusals(plan: Plan, *, now: datetime) -> tuple[str, ...]:
    """Say why a real run may not start, or switch, at ``now`` (aware); empty where it may."""
    return (*_outside_window(plan, now), *_against_session_policy(plan, now))


def _outside_window(plan: Plan, now: datetime) -> Iterator[str]:
    opens = plan.window_local - timedelta(minutes=plan.lead_minutes)
    closes = plan.window_local + timedelta(minutes=plan.window_minutes)
    shown = _shown(now, plan)
    if now < opens:
        yield (
            f"it is {shown}, before {_shown(opens, plan)} (CUTOVER_WINDOW_LOCAL -"
            f" CUTOVER_LEAD_MINUTES {plan.lead_minutes:g}); start later or correct the template"
        )
    if now > closes:
        yield (
            f"it is {shown}, after {_shown(closes, plan)} (CUTOVER_WINDOW_LOCAL +"
            f" CUTOVER_WINDOW_MINUTES {plan.window_minutes:g}); plan a new window"
        )


def _against_session_policy(plan: Plan, now: datetime) -> Iterator[str]:
    """``in_session`` also wants all that may follow done before the close."""
    policy, sessions = plan.session_policy, plan.limits.sessions
    if policy == "any":
        return
    if not sessions.are_known:
        yield f"SESSION_POLICY is {policy}, but limits.toml has no [sessions]; add them"
        return
    close = sessions.close_after(now)
    if policy == "outside_trading" and close is not None:
        yield f"it is {_shown(now, plan)}, in a trading session; SESSION_POLICY is {policy}; wait"
    if policy == "in_session" and close is None:
        yield f"it is {_shown(now, plan)}, outside sessions; SESSION_POLICY is {policy}; wait"
    needed = timedelta(minutes=plan.minutes_needed)
    if policy == "in_session" and close is not None and now + needed > close:
        yield (
            f"it is {_shown(now, plan)}; switch, watch and rollback may take"
            f" {plan.minutes_needed:.0f} minutes, but trading closes at {_shown(close, plan)};"
            " start in the next session"
        )


def _shown(moment: datetime, plan: Plan) -> str:
    return moment.astimezone(plan.window_local.tzinfo).isoformat(timespec="seconds")
