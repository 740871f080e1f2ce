"""Rules over several keys: what two templates must agree on, and what makes a plan undoable.

A rule looks only at values that passed their own check, so that one mistake is one problem.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from ctp_runbook.errors import Problem, TriggerError
from ctp_runbook.model import Generation, Role
from ctp_runbook.plan.config import WatchRules
from ctp_runbook.plan.template_keys import READINESS_KEYS, TemplateValues, nearest_name
from ctp_runbook.plan.template_text import Entry, quoted
from ctp_runbook.plan.triggers import Trigger, parse_trigger

__all__ = ["cross_problems", "monitor_keys", "trigger_of"]

_PID_FILE_KEYS = tuple(
    f"{generation}_{role}_PID_FILE".upper() for generation in Generation for role in Role
)


def monitor_keys(values: TemplateValues) -> tuple[str, ...]:
    """Return the metrics of ``MONITOR_KEYS`` in their order."""
    return tuple(name.strip() for name in values.text("MONITOR_KEYS").split(","))


def trigger_of(values: TemplateValues, rules: WatchRules) -> Trigger:
    """Parse the rollback trigger over the watched metrics.

    Raises:
        TriggerError: with every term that does not parse or fit.
    """
    watched = monitor_keys(values)
    # MONITOR_KEYS that are wrong themselves must not make the trigger wrong as well.
    names = watched if set(watched) <= set(rules.metrics) else tuple(rules.metrics)
    entry = values.entries["ROLLBACK_TRIGGER_CONDITION"]
    return parse_trigger(
        entry.value,
        units={name: rules.metrics[name].unit for name in names},
        file=entry.file,
        line=entry.line,
    )


def cross_problems(values: TemplateValues, rules: WatchRules | None) -> Iterator[Problem]:
    """Yield every problem between keys; those that need watch.toml only when it could be read."""
    yield from _same_environment(values)
    yield from _same_start(values)
    yield from _shared_paths(values)
    yield from _readiness_twice(values)
    yield from _working_orders(values)
    if rules is None:
        return
    yield from _monitor_problems(values, rules)
    if "ROLLBACK_TRIGGER_CONDITION" in values.entries:
        try:
            trigger_of(values, rules)
        except TriggerError as error:
            yield from error.problems


def _both(values: TemplateValues, first: str, second: str) -> tuple[Entry, Entry] | None:
    left, right = values.entries.get(first), values.entries.get(second)
    return (left, right) if left and right and left.value and right.value else None


def _same_environment(values: TemplateValues) -> Iterator[Problem]:
    pair = _both(values, "CUTOVER_ENV_NAME", "ROLLBACK_ENV_NAME")
    if pair and pair[0].value != pair[1].value:
        cutover, rollback = pair
        yield rollback.problem(
            found=quoted(rollback.value),
            expected=f"{quoted(cutover.value)}, as {cutover.file}:{cutover.line} says",
            remedy="use the two templates of one environment",
        )


def _same_start(values: TemplateValues) -> Iterator[Problem]:
    """A rollback that would start again what the cutover started undoes nothing."""
    for role in map(str.upper, Role):
        pair = _both(values, f"NEW_{role}_START_CMD", f"PREVIOUS_{role}_START_CMD")
        if pair and pair[0].value.split() == pair[1].value.split():
            new, previous = pair
            yield previous.problem(
                found=f"the command of {new.key} ({new.file}:{new.line})",
                expected="the command that starts the previous generation",
                remedy="write how the previous one is started; this rollback would undo nothing",
            )


def _shared_paths(values: TemplateValues) -> Iterator[Problem]:
    """Pid files and evidence copies that name one file."""
    for group, what in (
        (_PID_FILE_KEYS, "a pid file of its own"),
        (("CUTOVER_EVIDENCE_OUTPUT", "ROLLBACK_EVIDENCE_OUTPUT"), "a file of its own"),
    ):
        owners: dict[str, Entry] = {}
        for key in group:
            entry = values.entries.get(key)
            if entry is None or not entry.value:
                continue
            first = owners.setdefault(posixpath.normpath(entry.value), entry)
            if first is not entry:
                yield entry.problem(
                    found=f"{quoted(entry.value)}, as {first.key} ({first.file}:{first.line})",
                    expected=what,
                    remedy="name another file; with one file, one would be taken for the other",
                )


def _readiness_twice(values: TemplateValues) -> Iterator[Problem]:
    """Two spellings of one SLI's key."""
    owners: dict[str, Entry] = {}
    for key, entry in values.entries.items():
        sli = READINESS_KEYS.get(key)
        if sli is None or not entry.value:
            continue
        first = owners.setdefault(sli, entry)
        if first is not entry:
            yield entry.problem(
                found=f"a second command for {sli}, after {first.key} ({first.file}:{first.line})",
                expected="one command for each SLI",
                remedy="delete one of the two lines",
            )


def _working_orders(values: TemplateValues) -> Iterator[Problem]:
    policy = values.entries.get("WORKING_ORDERS_POLICY")
    if policy and policy.value == "cancel" and not values.text("CANCEL_WORKING_ORDERS_CMD"):
        yield policy.problem(
            found="'cancel' without CANCEL_WORKING_ORDERS_CMD",
            expected="the command that cancels working orders",
            remedy="add CANCEL_WORKING_ORDERS_CMD, or use refuse",
        )
    compares = values.entries.get("HANDOVER_COMPARES")
    handles = policy is not None and policy.value in ("cancel", "hand_over")
    if policy and compares and handles and "working_orders" not in values.words(compares.key):
        yield compares.problem(
            found=f"{quoted(compares.value)}, without working_orders",
            expected=f"working_orders among them, for WORKING_ORDERS_POLICY is {policy.value} "
            f"({policy.file}:{policy.line})",
            remedy="add working_orders, or use refuse",
        )
    pair = _both(values, "ROLLBACK_CANCEL_SECONDS", "MAX_ROLLBACK_SECONDS")
    if pair and float(pair[0].value) >= float(pair[1].value):
        yield pair[0].problem(
            found=quoted(pair[0].value),
            expected=f"less than MAX_ROLLBACK_SECONDS {quoted(pair[1].value)}",
            remedy="leave time for the rollback itself",
        )


def _monitor_problems(values: TemplateValues, rules: WatchRules) -> Iterator[Problem]:
    entry = values.entries.get("MONITOR_KEYS")
    if entry is None:
        return
    seen: set[str] = set()
    for name in monitor_keys(values):
        known = ", ".join(rules.metrics)
        if not name:
            found, near = "an empty name between commas", ""
        elif name in seen:
            found, near = f"{quoted(name)} twice", ""
        elif name not in rules.metrics:
            found = f"the unknown metric {quoted(name)}"
            near = nearest_name(name, tuple(rules.metrics))
        else:
            seen.add(name)
            continue
        yield entry.problem(
            found=found,
            expected=f"each once of the metrics of watch.toml ({known})",
            remedy="correct MONITOR_KEYS, or add the metric to watch.toml",
            nearest=near,
        )
