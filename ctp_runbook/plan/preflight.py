"""What can be told about a plan without running anything: the static preflight.

Every finding is a warning of the plan and of a dry run. Those that make a real run unsafe are
also reasons why ``--execute`` refuses; it prints all of them at once.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ctp_runbook.host.files import nearest_there
from ctp_runbook.model import Generation, Member, Role, Step, StepKind
from ctp_runbook.plan.config import Limits, WatchRules
from ctp_runbook.plan.shell_words import Executable, executables, is_idle, resolve, swallows_failure
from ctp_runbook.plan.template_keys import HANDOVER_FACTS, KEYS, READINESS_KEYS, TemplateValues
from ctp_runbook.plan.template_rules import monitor_keys
from ctp_runbook.plan.template_text import placeholders, quoted
from ctp_runbook.redact import Redactor, literal_secrets

__all__ = ["Preflight", "evidence_gap", "inspect_plan"]

_PROC_PID_FILE = (
    r"""\bproc\s+(?:start|stop)\b.*?--pid-file[= ]\s*((?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+)"""
)
_PID_FILE_KEYS = tuple(
    f"{generation}_{role}_PID_FILE".upper() for generation in Generation for role in Role
)
# What file systems take, and how much longer a draft's name is: dots, a pid and an instant
# (host/files.py write_atomic).
_PATH_MAX, _NAME_MAX, _DRAFT_BYTES = 4095, 255, 32
_GLANCE_BYTES = 65536
_WORLD_CHANGING = frozenset({StepKind.GATE, StepKind.STOP, StepKind.START})


class Preflight(Struct, frozen=True):
    """The findings: ``refusals`` stop a real run, ``remarks`` are only shown."""

    refusals: tuple[str, ...]
    remarks: tuple[str, ...]

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
    base: Path,
    environ: Mapping[str, str],
    redactor: Redactor,
) -> Preflight:
    """Look at everything a template says, from outside; reads files, runs nothing."""
    steps = tuple(steps)
    refusals = [
        *_placeholders(values),
        *_unidentified(members, measured_by_command=_has_readiness_commands(values)),
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
        *_short_watch(values, limits),
        *_no_orders_watched(values, watch),
        *_orders(values),
        *_holidays(values),
    ]
    return Preflight(tuple(dict.fromkeys(refusals)), tuple(dict.fromkeys(remarks)))


def _at(values: TemplateValues, key: str) -> str:
    entry = values.entries[key]
    return f"{entry.file}:{entry.line}: {key}"


def _commands(values: TemplateValues) -> Iterator[tuple[str, str]]:
    for key, entry in values.entries.items():
        if KEYS[key].kind == "command" and entry.value:
            yield key, entry.value


def _placeholders(values: TemplateValues) -> Iterator[str]:
    for key, command in _commands(values):
        left = placeholders(command)
        if left:
            yield f"{_at(values, key)} still has {', '.join(left)}; replace what is in <…>"


def _has_readiness_commands(values: TemplateValues) -> bool:
    return any(values.entries[key].value for key in READINESS_KEYS if key in values.entries)


def _unidentified(members: Mapping[str, Member], *, measured_by_command: bool) -> Iterator[str]:
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
        optional = member.generation is Generation.OLD and measured_by_command
        if member.role is Role.CORE_ENGINE and not member.metrics_url and not optional:
            yield (
                f"{stem}_METRICS_URL is not given: the session of {member.name} could not be"
                " verified; add it, e.g. http://127.0.0.1:18080/metrics"
            )


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
    named: dict[Executable, list[str]] = {}
    for key, command in _commands(values):
        for executable in executables(command):
            named.setdefault(executable, []).append(key)
    for executable, keys in named.items():
        if resolve(executable, base=base, environ=environ) is None:
            on_path = "/" not in executable.word and not executable.is_script
            what = "not on PATH" if on_path else "no file that can be run here"
            others = f" and {len(keys) - 1} more" if keys[1:] else ""
            yield (
                f"{_at(values, keys[0])}{others}: {quoted(executable.word)} is {what};"
                " install it or correct the command"
            )


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
        old, new = members[f"{Generation.OLD}_{role}"], members[f"{Generation.NEW}_{role}"]
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
    for key, command in _commands(values):
        if words := list(dict.fromkeys(literal_secrets(command, redactor))):
            # In brackets: a name with a colon after it would be masked as one with a value.
            behind = ", ".join(redactor(each) or "nothing" for each in words)
            yield (
                f"{_at(values, key)}: a secret stands in the command itself (behind {behind}), and "
                "every user of this host reads it in the process list while it runs; keep it in the "
                "environment or in a file of mode 0600, and name that"
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


def _orders(values: TemplateValues) -> Iterator[str]:
    compares = values.words("HANDOVER_COMPARES")
    left_out = [fact for fact in HANDOVER_FACTS if fact not in compares]
    if left_out and values.text("TRADING_STATE_CMD"):
        yield (
            f"{_at(values, 'HANDOVER_COMPARES')}: {', '.join(left_out)} not compared between the "
            "old engine and the new one: what is lost there is not noticed; have somebody compare"
            " it by hand"
        )
    if not values.text("TRADING_STATE_CMD"):
        yield (
            "TRADING_STATE_CMD is not given: working orders and positions are not compared"
            " across the switch; add it where the engine can report them"
        )


def _holidays(values: TemplateValues) -> Iterator[str]:
    policy = values.text("SESSION_POLICY")
    if policy != "any":
        yield f"SESSION_POLICY is {policy}: weekends are known, holidays are not; check the day"
