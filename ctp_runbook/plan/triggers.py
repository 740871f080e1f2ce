"""The rollback trigger: a sentence over metrics, parsed when the plan is made (CONTRACT §1).

Two forms, which may be mixed::

    order_latency_p99_ms_gt_5ms_or_reconnect_p99_s_gt_10s
    order_latency_p99_ms > 5 for 3s or reconnect_p99_s > 10

``and`` binds tighter than ``or``. Values are kept in the metric's own unit. What does not
parse is an error with its position, never ignored.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from ctp_runbook.errors import Problem, TriggerError
from ctp_runbook.plan.template_keys import nearest_name
from ctp_runbook.plan.template_text import quoted

__all__ = ["Condition", "Trigger", "parse_trigger"]

_LONGEST_TRIGGER = 2000
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(
    rf"""
    (?P<metric>[A-Za-z](?:(?!_(?:[gl][te]|eq|ne)_)\w)*)
    (?: _(?P<word>[gl][te]|eq|ne)_ | \s*(?P<sign>>=|<=|==|!=|>|<)\s* )
    (?P<number>{_NUMBER})
    (?P<unit>\s*(?!for\b|or\b|and\b)[A-Za-z%]+)?
    (?: \s+for\s+(?P<duration>{_NUMBER})\s*(?P<duration_unit>(?!or\b|and\b)[A-Za-z]*) )?
    """,
    re.ASCII | re.VERBOSE,
)
_JOINT = re.compile(r"_(or|and)_|\s+(or|and)\s+")
_NEXT_JOINT = r"_(or|and)_|\s(or|and)\s"

_OPERATORS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
}
_OF_SIGN = {sign: word for word, (sign, _) in _OPERATORS.items()}

# Milliseconds of each unit of time; integers, so that 5 ms into seconds is exactly 0.005.
_TIME_UNITS = {"ms": 1, "s": 1000, "min": 60_000}
# Found, expected, remedy, and the nearest known name: the tail of a Problem.
_Finding = tuple[str, str, str, str]
_SENTENCES = "METRIC_gt_NUMBER[UNIT] or METRIC > NUMBER [UNIT] [for NUMBER s], joined by or / and"


class Condition(Struct, frozen=True):
    """One comparison; ``value`` is in the metric's own unit, which ``unit`` names."""

    metric: str
    op: str
    value: float
    for_seconds: float = 0.0
    unit: str = ""

    def holds(self, value: float, *, is_over: bool = False) -> bool:
        """Say whether the comparison is surely true of ``value``, or where ``is_over`` of whatever is
        more than it; NaN proves nothing and never holds."""
        if is_over:
            # All that is more than a value is more than what is no more than that value. Nothing
            # else can be said of all of it: it has no end.
            return self.op in ("gt", "ge", "ne") and self.value <= value
        return not math.isnan(value) and _OPERATORS[self.op][1](value, self.value)

    @property
    def sentence(self) -> str:
        """``order_latency_p99_ms > 5 ms for 3 s``; parses to an equal condition."""
        unit = f" {self.unit}" if self.unit in _TIME_UNITS else ""
        lasting = f" for {_plain(self.for_seconds)} s" if self.for_seconds else ""
        return f"{self.metric} {_OPERATORS[self.op][0]} {_plain(self.value)}{unit}{lasting}"


class Trigger(Struct, frozen=True):
    """A disjunction of conjunctions; ``text`` is what the template says."""

    text: str
    any_of: tuple[tuple[Condition, ...], ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics it looks at, each once, in order."""
        named = (condition.metric for group in self.any_of for condition in group)
        return tuple(dict.fromkeys(named))

    @property
    def sentence(self) -> str:
        """The whole trigger in the readable form; parses to an equal trigger."""
        groups = (" and ".join(c.sentence for c in group) for group in self.any_of)
        return " or ".join(groups)


def parse_trigger(
    text: str,
    *,
    units: Mapping[str, str],
    file: str,
    line: int,
    key: str = "ROLLBACK_TRIGGER_CONDITION",
) -> Trigger:
    """Parse ``text`` against ``units`` (metric → unit of each MONITOR_KEYS entry).

    Raises:
        TriggerError: with every term that does not parse or does not fit its metric.
    """
    findings: list[_Finding] = []
    groups: list[list[Condition]] = [[]]
    for joint, term in _terms(text, findings):
        if joint == "or":
            groups.append([])
        condition = _condition(term, units, findings)
        if condition is not None:
            groups[-1].append(condition)
    if findings:
        raise TriggerError(Problem(file, line, key, *problem) for problem in findings)
    return Trigger(text=text, any_of=tuple(tuple(group) for group in groups))


def _terms(text: str, findings: list[_Finding]) -> list[tuple[str, re.Match[str]]]:
    """The terms with the joint before each; what is no term goes to ``findings``."""
    terms: list[tuple[str, re.Match[str]]] = []
    if len(text) > _LONGEST_TRIGGER:
        findings.append(
            (f"{len(text)} characters", f"{_LONGEST_TRIGGER} at most", "shorten it", "")
        )
        return terms
    end = len(text.rstrip())
    at = len(text) - len(text.lstrip())
    joint = ""
    while True:
        term = _TERM.match(text, at, end)
        after = term.end() if term else at
        following = _JOINT.match(text, after, end)
        if term is not None and (following or after == end):
            terms.append((joint, term))
        else:
            following = re.compile(_NEXT_JOINT).search(text, at, end)
            findings.append(_not_a_term(text[at : following.start() if following else end], at))
        if following is None:
            return terms
        joint, at = following.group(1) or following.group(2), following.end()


def _not_a_term(part: str, at: int) -> _Finding:
    where = f"{quoted(part)} at column {at + 1}"
    return where, _SENTENCES, "write the condition in one of these forms", ""


def _condition(
    term: re.Match[str], units: Mapping[str, str], findings: list[_Finding]
) -> Condition | None:
    """The condition a term states, or None with the reasons added to ``findings``."""
    where = f"{quoted(term.group())} at column {term.start() + 1}"
    metrics = _metrics(term["metric"], units)
    if len(metrics) != 1:
        findings.append(_no_metric(where, term["metric"], metrics, units))
        return None
    (metric,), before = metrics, len(findings)
    value = _value(term["number"], (term["unit"] or "").strip(), units[metric])
    if value is None:
        findings.append(
            (f"{where}; the unit of {metric} is {units[metric]}", *_wanted(units[metric]))
        )
    lasting = _value(term["duration"] or "0", term["duration_unit"] or "s", "s")
    if lasting is None or lasting < 0:
        findings.append(
            (where, "for NUMBER s (or ms, min), not negative", "correct the duration", "")
        )
    if len(findings) > before or value is None or lasting is None:
        return None
    op = term["word"] or _OF_SIGN[term["sign"]]
    return Condition(metric, op, value, lasting, units[metric])


def _metrics(name: str, units: Mapping[str, str]) -> list[str]:
    """The metrics ``name`` may stand for: itself, or those it is a prefix of."""
    return [name] if name in units else [metric for metric in units if metric.startswith(name)]


def _no_metric(where: str, name: str, metrics: list[str], units: Mapping[str, str]) -> _Finding:
    why = f"fits {' and '.join(metrics)}" if metrics else "is not watched"
    return (
        f"{where}; {quoted(name)} {why}",
        f"one of MONITOR_KEYS ({', '.join(units)}) or a unique prefix",
        "name one metric that is watched",
        nearest_name(name, tuple(units)),
    )


def _wanted(unit: str) -> tuple[str, str, str]:
    if unit in _TIME_UNITS:
        return "a finite number in ms, s or min", "correct the unit", ""
    return "a plain finite number without a unit", "leave the unit out", ""


def _value(number: str, unit: str, own: str) -> float | None:
    """``number`` ``unit`` in the unit ``own``; None where the two do not go together."""
    value = float(number)
    if not math.isfinite(value):
        return None
    if not unit or unit == own:
        return value
    if unit not in _TIME_UNITS or own not in _TIME_UNITS:
        return None
    converted = value * _TIME_UNITS[unit] / _TIME_UNITS[own]
    return converted if math.isfinite(converted) else None


def _plain(value: float) -> str:
    """The shortest text that parses back to the same number."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
