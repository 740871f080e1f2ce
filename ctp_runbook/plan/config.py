"""``configs/watch.toml`` and ``configs/limits.toml``: rules and policies, typed and complete.

Every limit a verdict is measured against stands in watch.toml and nowhere else; limits.toml
holds timeouts and policies. Unknown, missing and mistyped keys are refused all at once, each
with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, Struct, UnsetType, structs

from ctp_runbook.errors import ConfigError, PlanRefused, Problem
from ctp_runbook.plan.checked_toml import Field, TomlText, read_toml
from ctp_runbook.plan.sources import KINDS, SOURCES, Source, find_source, known_sources
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.plan.template_text import quoted
from ctp_runbook.plan.trading_sessions import TradingSessions, parse_span

__all__ = ["Limits", "MetricRule", "WatchRules", "load_limits", "load_watch"]

_UNITS_SHOWN = ("ms", "s")
_PATIENCE_SECONDS = 2.0
# A recorder, a border and a trader's session are no orders.
_ORDERS = re.compile(
    r"(?<![A-Za-z])(?:[Oo]rder|[Tt]rade|[Ff]ill|ORDER|TRADE|FILL)(?:s|d|ed)?(?![a-z])"
)
_FALSE_ALARM_RATE = 0.01
_BURST_SECONDS = 10.0


class MetricRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one metric of the watch is measured and judged.

    ``query`` is the metric family for the sources ``engine`` and ``replay``, and the query text for
    the others; ``url`` is a metrics page beside the new engine's own. ``scale`` turns what was
    measured into ``unit`` (1000: seconds into ms). ``reads`` has the keys that only its source knows
    (path, format, …); ``absent`` says what a family is that is not on a page; without an event for
    longer than ``still_seconds`` nothing is proved. ``baseline_max_shift`` is of records of before.

    ``test`` says what makes a quantile of buckets beyond its limit: ``sequential``, a proof that too
    many events are over it, where those within ``burst_seconds`` may have one cause; or ``plain``, the
    quantile of the window (so are records of before the key). ``false_alarm_rate`` is the metric's share
    of the whole watch's, for its limit and the numbers of the trigger together; records without one gave
    each of these 1 %. ``needs``: ``proof``, where only a proven quantile passes. One event over ``cap``,
    in ``unit``, fails at once.
    """

    name: str
    label: str
    unit: str
    kind: str
    source: str
    query: str
    limit: float
    direction: str
    url: str = ""
    labels: dict[str, str] = {}
    quantile: float = 0.99
    scale: float = 1.0
    for_seconds: float = 0.0
    warm_up_seconds: float = 0.0
    interval_seconds: float = 1.0
    window_seconds: float = 60.0
    min_events: int = 1
    zero_events: str = "inconclusive"
    fresh_seconds: float = 10.0
    min_coverage: float = 0.9
    # Not written where nobody sets them: records of before have the same bytes as ever.
    baseline_max_shift: float | UnsetType | None = UNSET
    absent: str | UnsetType = UNSET
    still_seconds: float | UnsetType = UNSET
    reads: dict[str, str] | UnsetType = UNSET
    test: str | UnsetType = UNSET
    false_alarm_rate: float | UnsetType = UNSET
    burst_seconds: float | UnsetType = UNSET
    needs: str | UnsetType = UNSET
    cap: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        # A record may come from anywhere, and is judged by these as watch.toml's own would be.
        for name, field in _METRIC_FIELDS.items():
            value = getattr(self, name)
            is_checked = (field.choices or field.is_numeric) and value is not UNSET
            if is_checked and not field.accepts(value):
                raise ValueError(f"{name} = {value!r}: expected {field.words}")

    @staticmethod
    def own_words() -> frozenset[str]:
        """Return the fields that hold words of this project, which redaction leaves as they are."""
        words = ("name", "unit", "kind", "source", "direction", "zero_events", "absent")
        return frozenset((*words, "test", "needs"))

    @property
    def read(self) -> Mapping[str, str]:
        """Return the keys that only its source knows."""
        return {} if self.reads is UNSET else self.reads

    @property
    def is_sequential(self) -> bool:
        """True where a proof makes it beyond its limit, and not the quantile of a window."""
        return self.test == "sequential"

    @property
    def allowed_share(self) -> float:
        """The share of events that may be over the limit: 0.01 of a p99."""
        return float(1 - Decimal(repr(self.quantile)))

    @property
    def false_alarms(self) -> float:
        """How often the whole watch of an engine within its limit may fail: a share of watches."""
        return _FALSE_ALARM_RATE if self.false_alarm_rate is UNSET else self.false_alarm_rate

    @property
    def span_seconds(self) -> float:
        """How far apart two events may be and still have one cause."""
        return _BURST_SECONDS if self.burst_seconds is UNSET else self.burst_seconds

    @property
    def families(self) -> tuple[str, ...]:
        """Return the families of a page that it is made of: of a counter there may be several."""
        return tuple(self.query.split()) if self.kind == "counter" else (self.query,)

    @property
    def shows_orders(self) -> bool:
        """True where it passes only while orders move: it is made of order events, and none for some
        time is no pass. A number of them without ``still_seconds`` may be of long ago."""
        if _ORDERS.search(f"{self.name} {self.query}") is None:
            return False
        has_least = self.kind == "counter" and self.direction == "min" and self.limit > 0
        goes_on = self.still_seconds is not UNSET and self.zero_events != "pass"
        return has_least or goes_on

    def amount(self, shown: str) -> str:
        """Return a number of this metric as a person writes it: ``5 ms``, and of a state or a count
        the number alone, for ``1 state`` is no unit."""
        return f"{shown} {self.unit}" if self.unit in _UNITS_SHOWN else shown

    @property
    def patience_seconds(self) -> float:
        """How long one look may take: as long as until the next, two seconds at most."""
        return min(_PATIENCE_SECONDS, max(self.interval_seconds, 0.5))


class WatchRules(Struct, frozen=True):
    """The rules of the watch; tolerances say how long a bad state may last before HOLDING.

    ``sources`` says where metrics that no engine exposes are asked for; never a password, only
    the name of the variable that holds one.
    """

    metrics: Mapping[str, MetricRule]
    tolerance_inconclusive_seconds: float
    tolerance_error_seconds: float
    recovery_seconds: float
    sources: Mapping[str, str] = {}


class Limits(Struct, frozen=True):
    """Timeouts and policies; ``step_timeout_seconds`` has every step of the runbook."""

    step_timeout_seconds: Mapping[str, float]
    term_grace_seconds: float
    kill_grace_seconds: float
    effect_poll_seconds: float
    ready_probe_max_age_seconds: float
    alive_timeout_seconds: float
    proof_grace_seconds: float
    min_watch_minutes: float
    hold_seconds: float
    hold_expiry: str
    require_plan_sha256: bool
    journal_reserve_bytes: int
    restarts_max: int
    alert_timeout_seconds: float = 5.0
    trading_state_max_age_seconds: float = 60.0
    sli_timeout_seconds: float = 5.0
    redact: tuple[str, ...] = ()
    sessions: TradingSessions = TradingSessions()

    def __repr__(self) -> str:
        return "<Limits>"  # what is to be redacted may be secrets themselves


def _text(*choices: str, required: bool = True) -> Field:
    return Field("text", choices=choices, required=required)


_SECONDS = Field("number")
_POSITIVE = Field("number", low_allowed=False)
_OPTIONAL_SECONDS = Field("number", required=False)
_OPTIONAL_POSITIVE = Field("number", low_allowed=False, required=False)

_WATCH_FIELDS: Mapping[str, Field] = {
    "tolerance_inconclusive_seconds": _SECONDS,
    "tolerance_error_seconds": _SECONDS,
    "recovery_seconds": _SECONDS,
    "false_alarm_rate": Field("number", high=0.5, low_allowed=False, required=False),
}
_METRIC_FIELDS: Mapping[str, Field] = {
    "label": _text(),
    "unit": _text("ms", "s", "state", "count", "ratio"),
    "kind": _text(*KINDS),
    "source": _text(),
    "query": _text(),
    "limit": Field("number", low=-1e12, high=1e12),
    "direction": _text("max", "min"),
    "url": _text(required=False),
    "labels": Field("strings", required=False),
    "quantile": Field("number", high=0.999999, low_allowed=False, required=False),
    "scale": Field("number", high=1e9, low_allowed=False, required=False),
    "for_seconds": _OPTIONAL_SECONDS,
    "warm_up_seconds": _OPTIONAL_SECONDS,
    "interval_seconds": _OPTIONAL_POSITIVE,
    "window_seconds": _OPTIONAL_POSITIVE,
    "min_events": Field("integer", high=1e9, required=False),
    "zero_events": _text("pass", "inconclusive", required=False),
    "fresh_seconds": _OPTIONAL_POSITIVE,
    "min_coverage": Field("number", high=1.0, required=False),
    "still_seconds": _OPTIONAL_POSITIVE,
    "absent": _text("no_data", "zero", required=False),
    "test": _text("sequential", "plain", required=False),
    "false_alarm_rate": Field("number", high=0.5, low_allowed=False, required=False),
    "burst_seconds": _OPTIONAL_SECONDS,
    "needs": _text("proof", required=False),
    "cap": Field("number", high=1e12, low_allowed=False, required=False),
}
# What plans of before may have, and what is told to who writes it today.
_REMOVED_FIELDS: Mapping[str, Field] = {"baseline_max_shift": _OPTIONAL_SECONDS}
_REMOVED = (
    "a key that is no longer read: a shift from the old engine is shown and fails nothing",
    "no such key",
    "delete the line, and let `ctp-runbook calibrate` say which `limit` the old engine itself keeps",
)
_LIMIT_FIELDS: Mapping[str, Field] = {
    "term_grace_seconds": _SECONDS,
    "kill_grace_seconds": _POSITIVE,
    "effect_poll_seconds": _POSITIVE,
    "ready_probe_max_age_seconds": _POSITIVE,
    "alive_timeout_seconds": _POSITIVE,
    "proof_grace_seconds": _SECONDS,
    "min_watch_minutes": Field("number", high=1440),
    "hold_seconds": _SECONDS,
    "hold_expiry": _text("rollback", "keep"),
    "require_plan_sha256": Field("boolean"),
    "journal_reserve_bytes": Field("integer", high=1 << 40),
    "restarts_max": Field("integer", high=100),
    "alert_timeout_seconds": Field("number", high=60, low_allowed=False, required=False),
    "trading_state_max_age_seconds": _OPTIONAL_POSITIVE,
    "sli_timeout_seconds": Field("number", high=300, low_allowed=False, required=False),
    "redact": Field("texts", required=False),
}
_LIMIT_TABLES = ("step_timeout_seconds", "sessions")
_SESSION_FIELDS: Mapping[str, Field] = {
    "utc_offset_hours": Field("number", low=-12, high=14),
    "day": Field("spans"),
    "night": Field("spans"),
}
_TIMEOUT_FIELDS: Mapping[str, Field] = {step.name: _POSITIVE for step in STEP_TABLE}


def load_watch(path: Path, *, only_written: bool = False) -> WatchRules:
    """Read watch.toml.

    ``only_written`` reads the file of a run of before: names no test where the file names none, and
    takes keys that are refused since.

    Raises:
        ConfigError: with every problem of the file.
    """
    return _watch_rules(read_toml(path, flag="--watch"), only_written)


def load_limits(path: Path) -> Limits:
    """Read limits.toml.

    Raises:
        ConfigError: with every problem of the file.
    """
    return _limits(read_toml(path, flag="--limits"))


# The same text gives the same frozen rules: parsing TOML is most of what making a plan costs,
# and a plan is made again before the first stop.
@lru_cache(maxsize=8)
def _watch_rules(source: TomlText, only_written: bool) -> WatchRules:
    table = source.table()
    metrics, sources = table.pop("metrics", None), table.pop("sources", {})
    problems = list(source.check((), table, _WATCH_FIELDS, tables=("metrics", "sources")))
    if not isinstance(metrics, dict) or not metrics:
        problems.append(source.problem(("metrics",), "no [metrics.NAME] table", "at least one"))
        metrics = {}
    rows = dict(SOURCES)
    for name, rule in metrics.items():
        problems += _rule_problems(source, name, rule, rows, only_written)
    # What else is installed has a say in [sources] where a rule asks it, and only there.
    settings = (setting for row in rows.values() for setting in row.settings)
    fields = {setting: _text(required=False) for setting in settings}
    problems += source.check_table("sources", sources, fields)
    if problems:
        raise ConfigError(problems)
    rules = {name: _rule(name, rule, rows, only_written) for name, rule in metrics.items()}
    whole_watch = float(table.pop("false_alarm_rate", _FALSE_ALARM_RATE))
    if not only_written:
        rules = _sharing(rules, whole_watch)
    return WatchRules(MappingProxyType(rules), sources=MappingProxyType(sources), **_numbers(table))


def _rule(
    name: str, table: Mapping[str, Any], rows: Mapping[str, Source], only_written: bool
) -> MetricRule:
    own = rows[table["source"]].reads
    read = {key: value for key, value in table.items() if key in own}
    rest = {key: value for key, value in table.items() if key not in own}
    if rows[table["source"]].has_buckets(table) and not only_written:
        rest = {"test": "sequential", **rest}
    return MetricRule(name=name, reads=read or UNSET, **_numbers(rest))


def _sharing(rules: Mapping[str, MetricRule], whole_watch: float) -> dict[str, MetricRule]:
    """The rules, with the rate of false alarms of the whole watch divided among those that are proved
    and name none of their own: whatever is true of how they hang together, they add up to it."""
    sharers = {
        name
        for name, rule in rules.items()
        if rule.is_sequential and rule.false_alarm_rate is UNSET
    }
    return {
        name: structs.replace(rule, false_alarm_rate=whole_watch / len(sharers))
        if name in sharers
        else rule
        for name, rule in rules.items()
    }


def _rule_problems(
    source: TomlText, name: str, rule: object, rows: dict[str, Source], only_written: bool
) -> Iterator[Problem]:
    """What is wrong with a rule; the row of its source is added to ``rows``."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield source.problem(("metrics", name), f"the name {quoted(name)}", "a-z, 0-9 and _")
    if not isinstance(rule, dict):
        yield source.problem(("metrics", name), "no table", f"a table [metrics.{name}]")
        return
    row = _row_of(rule)
    own = dict.fromkeys(row.reads if row else (), _text(required=False))
    known = {**_METRIC_FIELDS, **own}
    if only_written:
        known |= _REMOVED_FIELDS
    else:
        removed = [key for key in rule if key in _REMOVED_FIELDS]
        yield from (source.problem(("metrics", name, key), *_REMOVED) for key in removed)
        rule = {key: value for key, value in rule.items() if key not in removed}
    mistyped = list(source.check(("metrics", name), rule, known))
    yield from mistyped
    fresh, interval = (rule.get(key) for key in ("fresh_seconds", "interval_seconds"))
    if not mistyped and fresh is not None and interval is not None and fresh < interval:
        # Every sample would be stale before the next one comes, and no `for` could mature.
        where = ("metrics", name, "fresh_seconds")
        yield source.problem(where, f"{fresh:g}", f"at least interval_seconds {interval:g}")
    if isinstance(asked := rule.get("source"), str) and not (mistyped and own):
        for key, found, expected in _source_problems(asked, rule, rows):
            yield source.problem(("metrics", name, key), found, expected)


def _row_of(rule: Mapping[str, Any]) -> Source | None:
    try:
        return find_source(rule["source"])
    except (KeyError, TypeError, PlanRefused):
        return None  # told where the source is looked at


def _source_problems(
    asked: str, rule: Mapping[str, Any], rows: dict[str, Source]
) -> Iterator[tuple[str, str, str]]:
    """Key, what was found and what is expected, between a rule and the row of its source."""
    try:
        row = find_source(asked)
    except PlanRefused as error:
        yield "source", f"{quoted(asked)}, and {error}", "a source that can be used"
        return
    if row is None:
        yield "source", quoted(asked), "one of " + ", ".join(known_sources())
        return
    rows[asked] = row
    yield from row.problems(rule)


@lru_cache(maxsize=8)
def _limits(source: TomlText) -> Limits:
    table = source.table()
    timeouts = table.pop("step_timeout_seconds", {})
    sessions = table.pop("sessions", None)
    problems = list(source.check((), table, _LIMIT_FIELDS, tables=_LIMIT_TABLES))
    problems += source.check_table("step_timeout_seconds", timeouts, _TIMEOUT_FIELDS)
    if sessions is not None:
        problems += source.check_table("sessions", sessions, _SESSION_FIELDS)
    if problems:
        raise ConfigError(problems)
    return Limits(
        step_timeout_seconds=MappingProxyType(_numbers(timeouts)),
        redact=tuple(table.pop("redact", ())),
        sessions=_sessions(sessions),
        **_numbers(table),
    )


def _sessions(table: Mapping[str, Any] | None) -> TradingSessions:
    if table is None:
        return TradingSessions()
    day, night = (tuple(filter(None, map(parse_span, table[key]))) for key in ("day", "night"))
    return TradingSessions(day, night, float(table["utc_offset_hours"]))


def _numbers(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with whole numbers as floats, where the field is not a count."""
    counts = {"min_events", "journal_reserve_bytes", "restarts_max"}
    return {
        key: float(value) if type(value) is int and key not in counts else value
        for key, value in table.items()
    }
