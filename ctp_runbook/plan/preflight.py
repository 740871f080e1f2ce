"""What can be told about a plan without running anything: the static preflight.

Every finding is a warning of the plan and of a dry run. Those that make a real run unsafe are
also reasons why ``--execute`` refuses; it prints all of them at once. What a template itself
declares, such as a fact that its engine cannot tell, is no warning to whoever wrote it there: it is an
exception, which is shown apart, in red, from the plan to the report.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ctp_runbook.host.files import nearest_there
from ctp_runbook.model import Generation, Member, Role, Step, StepKind
from ctp_runbook.plan.config import Limits, WatchRules
from ctp_runbook.plan.session_sources import FACT_WORDS, SessionPlan
from ctp_runbook.plan.shell.commands import executables, is_idle, needed, swallows_failure, untold
from ctp_runbook.plan.shell.files import Executable, is_missing, resolve
from ctp_runbook.plan.step_table import presence_key, sender_of
from ctp_runbook.plan.template_keys import (
    HANDOVER_FACTS,
    KEYS,
    NOT_MEASURABLE,
    READINESS_KEYS,
    SESSION_FACTS,
    TemplateValues,
)
from ctp_runbook.plan.template_rules import monitor_keys
from ctp_runbook.plan.template_text import placeholders, quoted
from ctp_runbook.redact import Redactor, literal_secrets

__all__ = ["Preflight", "evidence_gap", "inspect_plan"]

_PROC_PID_FILE = (
    r"""\bproc\s+(?:start|stop)\b.*?--pid-file[= ]\s*((?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+)"""
)
# As `proc stop` has them where they are not given (host/proc.py).
_PROC_GRACES = {"--grace-seconds": 10.0, "--kill-grace-seconds": 5.0}
_PID_FILE_KEYS = tuple(
    f"{generation}_{role}_PID_FILE".upper() for generation in Generation for role in Role
)
# What file systems take, and how much longer a draft's name is: dots, a pid and an instant
# (host/files.py write_atomic).
_PATH_MAX, _NAME_MAX, _DRAFT_BYTES = 4095, 255, 32
_GLANCE_BYTES = 65536
_WORLD_CHANGING = frozenset({StepKind.GATE, StepKind.STOP, StepKind.START})


class Preflight(Struct, frozen=True):
    """The findings: ``refusals`` stop a real run, ``remarks`` are only shown.

    ``declared`` is what a real run goes on without because a template says so.
    """

    refusals: tuple[str, ...]
    remarks: tuple[str, ...]
    declared: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything, as the plan and a dry run show it."""
        return self.refusals + self.remarks


def inspect_plan(
    values: TemplateValues,
    *,
    steps: Iterable[Step],
    members: Mapping[str, Member],
    limits: Limits,
    watch: WatchRules,
    sessions: Mapping[str, SessionPlan],
    base: Path,
    environ: Mapping[str, str],
    redactor: Redactor,
) -> Preflight:
    """Look at everything a template says, from outside; reads files, runs nothing."""
    steps = tuple(step for step in steps if not step.skipped)
    refusals = [
        *_placeholders(values),
        *_unidentified(members),
        *_sessions_unproved(values, members, sessions, watch),
        *_not_measured(values),
        *_config_missing(values, base),
        *_ca_files_unreadable(values, watch),
        *_evidence_unwritable(values, base),
        *_executables_missing(values, base, environ),
        *_proves_nothing(steps),
        *_shared_between_generations(steps, members),
    ]
    remarks = [
        *_literal_secrets(values, redactor),
        *_swallowed(steps),
        *_stops(steps, members),
        *_answers(members),
        *_executables_not_yet(values, base, environ),
        *_only_bash_knows(values),
        *_short_watch(values, limits),
        *_no_orders_watched(values, watch),
        *_no_state_asked(values),
        *_holidays(values),
    ]
    declared = [
        *_accounted_for(values),
        *_not_compared(values),
        *_traded_by_engine(values, members),
    ]
    return Preflight(*(tuple(dict.fromkeys(said)) for said in (refusals, remarks, declared)))


def _at(values: TemplateValues, key: str) -> str:
    entry = values.entries[key]
    return f"{entry.file}:{entry.line}: {entry.key}"


def _placeholders(values: TemplateValues) -> Iterator[str]:
    for key, command in values.commands():
        left = placeholders(command)
        if left:
            yield f"{_at(values, key)} still has {', '.join(left)}; replace what is in <…>"


def _unidentified(members: Mapping[str, Member]) -> Iterator[str]:
    """What a real run needs to know of each member, and was not told."""
    for member in members.values():
        stem = member.name.upper()
        if not member.alive_command:
            yield (
                f"{stem}_ALIVE_CMD is not given: {member.name} could not be proved alive or"
                f" gone; add it, e.g. ctp-runbook proc alive --pid-file FILE"
            )
        if not member.pid_file and not member.unit:
            yield (
                f"neither {stem}_PID_FILE nor {stem}_UNIT is given: {member.name} has no"
                " identity; add one of them"
            )


def _sessions_unproved(
    values: TemplateValues,
    members: Mapping[str, Member],
    sessions: Mapping[str, SessionPlan],
    watch: WatchRules,
) -> Iterator[str]:
    """What could not be known of an engine's session: the new one's after the switch, and the old
    one's after a rollback, when nobody would trade for want of a proof."""
    for generation in Generation:
        engine = members[f"{generation}_{Role.CORE_ENGINE}"]
        yield from _facts_untold(values, engine, sessions[generation])
        if sessions[generation].is_declared:
            yield from _pages_missing(values, engine, sessions[generation], watch)
        elif not engine.metrics_url:
            yield from _nothing_asked(values, engine)


def _facts_untold(values: TemplateValues, engine: Member, session: SessionPlan) -> Iterator[str]:
    side = engine.generation.upper()
    if session.lacking:
        facts = ", ".join(f"{FACT_WORDS[fact]} ([{fact}])" for fact in session.lacking)
        yield (
            f"{side}_SESSION_SOURCES {quoted(session.file)} has no table for {facts}: "
            f"of {engine.name} that could not be proved; add it, give {side}_SESSION_CMD, or name "
            f"it in SESSION_NOT_PROVED={session.lacking[0]}: REASON"
        )
    if not session.sources and session.command and {*SESSION_FACTS} <= {*session.not_proved}:
        yield (
            f"{_at(values, 'SESSION_NOT_PROVED')} names all that there is to know of a session, and "
            f"{side}_SESSION_CMD need tell nothing of {engine.name}: it could not be proved to be up; "
            "leave out what the command tells"
        )


def _pages_missing(
    values: TemplateValues, engine: Member, session: SessionPlan, watch: WatchRules
) -> Iterator[str]:
    """What is read from the page of an engine that gives none."""
    if engine.metrics_url:
        return
    side, url = engine.generation.upper(), f"{engine.name.upper()}_METRICS_URL"
    if pages := [each for each in session.sources if each.source in ("metric", "session_state")]:
        yield (
            f"{url} is not given, and {side}_SESSION_SOURCES reads {pages[0].fact} of "
            f"{engine.name} there; add it, or name another source"
        )
    if engine.generation is not Generation.OLD and (names := _on_page(values, watch)):
        yield (
            f"{url} is not given: {', '.join(names)} of MONITOR_KEYS are read from the new "
            "engine's page; add it, or give those metrics another source in watch.toml"
        )


def _nothing_asked(values: TemplateValues, engine: Member) -> Iterator[str]:
    """Of an engine without a page and without session sources: whether anything else tells."""
    side, url = engine.generation.upper(), f"{engine.name.upper()}_METRICS_URL"
    is_old = engine.generation is Generation.OLD
    if not values.text("TRADING_STATE_CMD"):
        when = " after a rollback" if is_old else ""
        yield (
            f"{url} is not given, nor TRADING_STATE_CMD, {side}_SESSION_CMD or "
            f"{side}_SESSION_SOURCES: the session of {engine.name} could not be verified{when}; "
            "add what tells it, e.g. http://127.0.0.1:18080/metrics"
        )
    elif not (is_old and any(values.text(key) for key in READINESS_KEYS)):
        yield (
            f"{url} is not given: the session of {engine.name} could not be"
            " verified; add it, e.g. http://127.0.0.1:18080/metrics"
        )


def _on_page(values: TemplateValues, watch: WatchRules) -> list[str]:
    """The watched metrics that are read from the new engine's own page."""
    rules = (watch.metrics[key.strip()] for key in values.text("MONITOR_KEYS").split(","))
    return [rule.name for rule in rules if rule.source == "engine" and not rule.url]


def _not_measured(values: TemplateValues) -> Iterator[str]:
    """A value that was written into the template is declared, however it is printed."""
    for key, command in values.commands():
        if key.endswith("_SESSION_CMD") and is_idle(command):
            yield (
                f"{_at(values, key)} only prints: {quoted(command)} says the same of an engine that "
                "is dead; give the command that asks it"
            )
        if key in READINESS_KEYS and is_idle(command):
            yield (
                f"{_at(values, key)} only prints: {quoted(command)} is declared, not measured, and "
                "the precheck gate refuses what is declared; give the command that measures it, or "
                f"{NOT_MEASURABLE} REASON where this engine cannot have it"
            )


def _accounted_for(values: TemplateValues) -> Iterator[str]:
    """What a real run goes on without, by the reasons of whoever filled the template in."""
    for fact, reason in values.reasons("SESSION_NOT_PROVED").items():
        yield (
            f"{_at(values, 'SESSION_NOT_PROVED')}: NOT PROVED where no source tells it: "
            f"{FACT_WORDS[fact]} ({reason})"
        )
    for key in READINESS_KEYS:
        if (said := values.text(key)).startswith(NOT_MEASURABLE):
            reason = said.removeprefix(NOT_MEASURABLE).strip()
            yield f"{_at(values, key)}: NOT MEASURED, for it is said not to be measurable: {reason}"


def _config_missing(values: TemplateValues, base: Path) -> Iterator[str]:
    path = values.text("CTP_CONFIG_PATH")
    try:
        missing = not (base / path).is_file()
    except (OSError, ValueError):
        missing = True
    if missing:
        where = _at(values, "CTP_CONFIG_PATH")
        yield f"{where}: there is no file {quoted(path)}; create it or correct the path"


def _ca_files_unreadable(values: TemplateValues, watch: WatchRules) -> Iterator[str]:
    """One sentence for each address whose authority cannot be read: it would be asked of nobody."""
    addresses = [
        (_at(values, key), entry.value)
        for key, entry in values.entries.items()
        if KEYS[key].kind in ("url", "webhook")
    ]
    addresses += [
        (f"watch.toml: metrics.{rule.name}.url", rule.url) for rule in watch.metrics.values()
    ]
    sources = watch.sources
    addresses += [
        (f"watch.toml: sources.{key}", value)
        for key, value in sources.items()
        if key.endswith("_url")
    ]
    if path := sources.get("ca_file", ""):
        addresses.append(("watch.toml: sources.ca_file", f"https://host/#ca_file={path}"))
    for where, address in addresses:
        if "ca_file=" not in address:
            continue
        # Late: urllib.parse, and ssl, for plans that have one.
        from ctp_runbook.host.addresses import ca_problem

        if problem := ca_problem(address):
            yield f"{where}: {problem}; correct the path behind ca_file"


def _evidence_unwritable(values: TemplateValues, base: Path) -> Iterator[str]:
    pid_files = {
        os.path.realpath(base / name): key for key in _PID_FILE_KEYS if (name := values.text(key))
    }
    for side in ("CUTOVER", "ROLLBACK"):
        key = f"{side}_EVIDENCE_OUTPUT"
        named = values.text(key)
        path = base / named
        owner = pid_files.get(os.path.realpath(path), "")
        gap = "is an address, which nothing is written to" if "://" in named else ""
        gap = gap or (f"is the pid file of {owner}" if owner else evidence_gap(path, side=side))
        if gap:
            yield (
                f"{_at(values, key)}: {quoted(named)} {gap}; name a file that the"
                " evidence of each run may replace"
            )


def evidence_gap(path: Path, *, side: str) -> str:
    """Why the result file of a ``side`` (CUTOVER, ROLLBACK) cannot be put at ``path``, or nothing.

    A file that is there already is replaced only if it is an earlier result of that side: whatever
    else it may be, somebody keeps it. Nothing is written to find out.
    """
    try:
        return _folder_gap(path) or _content_gap(path, side=side)
    except (OSError, ValueError) as error:
        return f"cannot be written: {getattr(error, 'strerror', None) or error}"


def _folder_gap(path: Path) -> str:
    names = [len(os.fsencode(name)) for name in path.parent.parts]
    names.append(len(os.fsencode(path.name)) + _DRAFT_BYTES)
    if max(names) > _NAME_MAX or len(os.fsencode(path)) > _PATH_MAX - _DRAFT_BYTES:
        return (
            f"is too long: names end at {_NAME_MAX} bytes and paths at {_PATH_MAX}, of which a "
            f"draft takes {_DRAFT_BYTES}"
        )
    folder = nearest_there(path.parent)
    if not folder.is_dir():
        return f"is below {folder}, which is no directory"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"is in {folder}, where this user may not write"
    if record := next((up for up in path.parents if (up / "journal.jsonl").exists()), None):
        return f"is in the record of run {record.name}"
    return ""


def _content_gap(path: Path, *, side: str) -> str:
    if not os.path.lexists(path):
        return ""
    if path.is_dir():
        return "is a directory"
    if path.exists() and not path.is_file():
        return "is no regular file"
    folder, known = path.parent.stat(), path.lstat()
    is_sticky = folder.st_mode & stat.S_ISVTX
    if is_sticky and os.geteuid() not in (0, known.st_uid, folder.st_uid):
        return "belongs to somebody else, and cannot be replaced"
    if not path.exists():
        return ""  # a link to nothing
    with path.open("rb") as file:
        glance = file.read(_GLANCE_BYTES)
    is_result = any(line.startswith(f"{side}_ENV=".encode()) for line in glance.splitlines())
    if glance.strip() and not is_result:
        return f"is there already, and is no {side.lower()} result that a run wrote"
    return ""


def _executables_missing(
    values: TemplateValues, base: Path, environ: Mapping[str, str]
) -> Iterator[str]:
    """One sentence for each executable that is not there, with every key that names it."""
    for executable, keys in _keys_of(values, needed).items():
        if is_missing(executable, base=base, environ=environ):
            yield (
                f"{_which(values, keys)}: {quoted(executable.word)} is {_gap(executable)};"
                " install it or correct the command"
            )


def _executables_not_yet(
    values: TemplateValues, base: Path, environ: Mapping[str, str]
) -> Iterator[str]:
    """One for each that is not there and need not be yet: what it takes may come before it."""
    surely = _keys_of(values, needed)
    for executable, keys in _keys_of(values, executables).items():
        if executable not in surely and resolve(executable, base=base, environ=environ) is None:
            yield (
                f"{_which(values, keys)}: {quoted(executable.word)} is {_gap(executable)} as seen"
                " from here; what runs before it, or another user's PATH, may bring it, or make it"
                " needless: see that it is there then"
            )


def _only_bash_knows(values: TemplateValues) -> Iterator[str]:
    for key, command in values.commands():
        if (gaps := untold(command)) and not placeholders(command):
            yield (
                f"{_at(values, key)}: it cannot be told from here {_listed(gaps)}: whether what it runs is"
                " there was not looked at, and the plan's digest does not hold it; see for"
                " yourself, or write the command out"
            )


def _listed(gaps: tuple[str, ...]) -> str:
    return ", ".join(
        gap if gap.startswith(("what", "where")) else f"what {gap} does" for gap in gaps
    )


def _keys_of(
    values: TemplateValues, find: Callable[[str], tuple[Executable, ...]]
) -> dict[Executable, list[str]]:
    """Which keys name each of the executables that are found in their commands."""
    named: dict[Executable, list[str]] = {}
    for key, command in values.commands():
        for executable in find(command):
            named.setdefault(executable, []).append(key)
    return named


def _which(values: TemplateValues, keys: list[str]) -> str:
    return _at(values, keys[0]) + (f" and {len(keys) - 1} more" if keys[1:] else "")


def _gap(executable: Executable) -> str:
    on_path = "/" not in executable.word and not executable.is_script
    return "not on PATH" if on_path else "no file that can be run here"


def _proves_nothing(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        if step.kind is StepKind.STOP and swallows_failure(step.command):
            yield (
                f"{step.key} hides its own failure (|| true): a stop must fail when it did not"
                " stop; use ctp-runbook proc stop"
            )
        if step.kind in _WORLD_CHANGING and is_idle(step.command):
            yield (
                f"{step.key} only prints or succeeds, it does nothing: {quoted(step.command)};"
                " write the command that does the step"
            )


def _stops(steps: Iterable[Step], members: Mapping[str, Member]) -> Iterator[str]:
    """Stop commands that take their witness away, and those that are cut before they are done."""
    for step in steps:
        if step.kind is not StepKind.STOP or step.acts_on is None:
            continue
        member = members["_".join(step.acts_on)]
        limit = f"{step.key.removesuffix('_CMD')}_TIMEOUT_SECONDS {step.timeout_seconds:g} s"
        removes = "rm" in step.command or "unlink" in step.command
        if (
            removes
            and member.pid_file
            and re.search(rf"\b(?:rm|unlink)\b[^;&|]*{re.escape(member.pid_file)}", step.command)
        ):
            yield (
                f"{step.key} removes the pid file {quoted(member.pid_file)} itself: what tells then"
                " whether the process went is who was pinned before; it is waited for until"
                f" {limit} is over, so give it as long as {member.name} may need"
            )
        if not re.search(r"\bproc\s+stop\b", step.command):
            continue
        waits = {name: _option(step.command, name, usual) for name, usual in _PROC_GRACES.items()}
        if (seconds := sum(waits.values())) > step.timeout_seconds:
            yield (
                f"{step.key} waits up to {seconds:g} s ({', '.join(waits)}), and {limit} ends it"
                " before it has sent KILL or proved anything; raise the timeout or lower the graces"
            )


def _answers(members: Mapping[str, Member]) -> Iterator[str]:
    """Alive commands that say neither 0 nor 1 of a member that is gone."""
    for member in members.values():
        # Without a file the words are none, and bash's own kill ends with its usage.
        if re.match(r"\s*kill\s+-0\s+(?:\$\(|`)[^|]*$", member.alive_command):
            yield (
                f"{member.name.upper()}_ALIVE_CMD ends with 2, and not with 1, where its pid file is not"
                f" there: {quoted(member.alive_command)} never says gone, and its stop is not proved;"
                ' write the quotes of kill -0 "$(cat FILE)"'
            )


def _option(command: str, name: str, usual: float) -> float:
    match = re.search(rf"{name}[= ]\s*(\d+(?:\.\d+)?)", command)
    return float(match[1]) if match else usual


def _shared_between_generations(
    steps: Iterable[Step], members: Mapping[str, Member]
) -> Iterator[str]:
    """What would make one generation look like the other."""
    owners: dict[str, Step] = {}
    for step in steps:
        if step.acts_on is None or "--pid-file" not in step.command:
            continue
        match = re.search(_PROC_PID_FILE, step.command)
        if match is None:
            continue
        first = owners.setdefault(match.group(1), step)
        if first.acts_on != step.acts_on:
            yield (
                f"{step.key} and {first.key} use one pid file {quoted(match.group(1))} for"
                " different processes; give each its own"
            )
    for role in Role:
        pair = [members.get(f"{generation}_{role}") for generation in Generation]
        if (old := pair[0]) is None or (new := pair[1]) is None:
            continue  # one of the two is not there: nobody can be taken for it
        for what, first_value, second_value in (
            ("ALIVE_CMD", old.alive_command, new.alive_command),
            ("UNIT", old.unit, new.unit),
        ):
            if first_value and first_value == second_value:
                yield (
                    f"OLD_{role.upper()}_{what} and NEW_{role.upper()}_{what} are the same:"
                    " the generations could not be told apart; give each its own"
                )


def _literal_secrets(values: TemplateValues, redactor: Redactor) -> Iterator[str]:
    """One sentence for each command with a secret in it, which no masking of ours keeps from others."""
    for key, command in values.commands():
        if words := list(dict.fromkeys(literal_secrets(command, redactor))):
            # In brackets: a name with a colon after it would be masked as one with a value.
            behind = ", ".join(redactor(each) or "nothing" for each in words)
            yield (
                f"{_at(values, key)}: a secret stands in the command itself (behind {behind}), and "
                "every user of this host reads it in the process list while it runs; keep it in the "
                "environment or in a file of mode 0600, and name that (infra/runbook/secrets.md)"
            )


def _swallowed(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        if step.kind is not StepKind.STOP and swallows_failure(step.command):
            yield f"{step.key} hides its own failure (|| true): its exit code proves nothing"
        if step.kind not in _WORLD_CHANGING and is_idle(step.command):
            yield f"{step.key} only prints or succeeds: it checks or restores nothing"


def _short_watch(values: TemplateValues, limits: Limits) -> Iterator[str]:
    minutes = values.number("POST_SWITCH_MONITOR_MINUTES")
    if minutes < limits.min_watch_minutes:
        yield (
            f"{_at(values, 'POST_SWITCH_MONITOR_MINUTES')}: {minutes:g} minutes <"
            f" limits.min_watch_minutes {limits.min_watch_minutes:g}; a real run needs"
            " --short-watch REASON"
        )


def _no_orders_watched(values: TemplateValues, watch: WatchRules) -> Iterator[str]:
    """An engine that stands still is alive and connected, and its heartbeat fresh: orders tell."""
    keys = monitor_keys(values)
    if not any(watch.metrics[key].shows_orders for key in keys if key in watch.metrics):
        yield (
            f"{_at(values, 'MONITOR_KEYS')}: no metric of it shows that orders move, and an engine that"
            " stands still looks healthy by all others; give the metric of the time orders take a"
            " still_seconds, or add a counter of orders with a least number"
        )


def _not_compared(values: TemplateValues) -> Iterator[str]:
    """What HANDOVER_COMPARES leaves out; nothing where the key is left out itself."""
    compares = values.words("HANDOVER_COMPARES")
    left_out = [fact for fact in HANDOVER_FACTS if fact not in compares]
    if left_out and values.text("TRADING_STATE_CMD"):
        yield (
            f"{_at(values, 'HANDOVER_COMPARES')}: {', '.join(left_out)} not compared between the "
            "old engine and the new one: what is lost there is not noticed; have somebody compare"
            " it by hand"
        )


def _no_state_asked(values: TemplateValues) -> Iterator[str]:
    if not values.text("TRADING_STATE_CMD"):
        yield (
            "TRADING_STATE_CMD is not given: working orders and positions are not compared"
            " across the switch; add it where the engine can report them"
        )


def _traded_by_engine(values: TemplateValues, members: Mapping[str, Member]) -> Iterator[str]:
    """What a comparison across the switch means where the engines themselves send orders."""
    if not values.text("TRADING_STATE_CMD"):
        return
    for generation, meanwhile in (
        (Generation.OLD, "until it is stopped: what it trades after its state was kept"),
        (Generation.NEW, "as soon as it may: what it trades before it is compared"),
    ):
        if sender_of(generation, members) == f"{generation}_{Role.CORE_ENGINE}":
            yield (
                f"{_at(values, presence_key(generation, Role.STRATEGY_RUNNER))}: the {generation} "
                f"engine sends orders itself, {meanwhile} is a difference, and rolls back; have its "
                "strategies rest meanwhile, or leave positions and funds out of HANDOVER_COMPARES"
            )


def _holidays(values: TemplateValues) -> Iterator[str]:
    policy = values.text("SESSION_POLICY")
    if policy != "any":
        yield f"SESSION_POLICY is {policy}: weekends are known, holidays are not; check the day"
