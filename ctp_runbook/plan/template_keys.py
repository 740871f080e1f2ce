"""What each template key means: where it belongs, its type and range, its default.

``read_keys`` checks the entries of both templates together and returns every problem it
finds, so that an operator mends a file once and not once per mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

from msgspec import Struct

from ctp_runbook.errors import Problem
from ctp_runbook.model import Phase
from ctp_runbook.plan.step_table import STEP_TABLE
from ctp_runbook.plan.template_text import Entry, TemplateText, placeholders, quoted

__all__ = [
    "HANDOVER_FACTS",
    "KEYS",
    "READINESS_KEYS",
    "SLI_NAMES",
    "TemplateKey",
    "TemplateValues",
    "nearest_name",
    "read_keys",
]

SLI_NAMES = (
    "quant_hft_ctp_query_latency_p99_ms",
    "quant_hft_ctp_flow_control_hits",
    "quant_hft_ctp_disconnect_recovery_success_rate",
    "quant_hft_ctp_reject_classified_ratio",
    "quant_hft_core_process_alive",
    "quant_hft_storage_redis_health",
    "quant_hft_storage_timescale_health",
    "quant_hft_strategy_bridge_chain_integrity",
    "quant_hft_kafka_publish_success_rate",
    "quant_hft_kafka_spool_backlog",
    "quant_hft_cdc_lag_seconds",
    "quant_hft_clickhouse_ingest_lag_seconds",
)

# What of a trading state can be compared between the two engines (HANDOVER_COMPARES).
HANDOVER_FACTS = ("positions", "working_orders", "funds", "order_ref")

_NUMBER = r"(?a)[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# The pattern of a kind, and what is expected in words.
_FORMS = {
    "name": (
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "letters, digits, '.', '_' and '-', 64 at most",
    ),
    "unit": (
        r"(?:--user (?:--machine=[A-Za-z0-9_][A-Za-z0-9_.-]*@(?:\.host)? )?)?"
        r"(?!--)[A-Za-z0-9:_.\\@-]{1,255}",
        "the name of a systemd unit; one of a user manager as `--user NAME`, of another user's as "
        "`--user --machine=USER@ NAME`",
    ),
    "webhook": (r"https?://[^\s/]+\S*", "http://… or https://… without spaces"),
}
_URL = (
    r"(?a)https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})(?:[/?][^\s#@]*)?"
    r"(?:#ca_file=[^\s#&]+)?"
)
_DAY_SECONDS = 86_400.0
_YEARS = range(2000, 2100)


class TemplateKey(Struct, frozen=True):
    """One known key. ``home`` is the template it belongs in; ``either`` for our own keys."""

    name: str
    kind: str  # command, number, choice, words, name, path, unit, url, webhook, window, text
    home: str = "either"  # cutover, rollback, either
    required: bool = False
    low: float = 0.0
    high: float = _DAY_SECONDS
    low_allowed: bool = True
    choices: tuple[str, ...] = ()
    default: str = ""

    @property
    def range_words(self) -> str:
        """The range of a number in words."""
        sign = ">=" if self.low_allowed else ">"
        return f"a finite number {sign} {self.low:g} and <= {self.high:g}"


def _required() -> Iterator[TemplateKey]:
    """The keys RUNBOOK.md's own templates have, but for the step commands."""
    for home, kinds in _REQUIRED.items():
        for name, kind in kinds.items():
            yield TemplateKey(name, kind, home, required=True, low_allowed=False)


_REQUIRED: dict[str, dict[str, str]] = {
    "cutover": {
        "CUTOVER_ENV_NAME": "name",
        "CUTOVER_WINDOW_LOCAL": "window",
        "CTP_CONFIG_PATH": "path",
        "POST_SWITCH_MONITOR_MINUTES": "number",
        "MONITOR_KEYS": "text",
        "CUTOVER_EVIDENCE_OUTPUT": "path",
    },
    "rollback": {
        "ROLLBACK_ENV_NAME": "name",
        "ROLLBACK_TRIGGER_CONDITION": "text",
        "MAX_ROLLBACK_SECONDS": "number",
        "ROLLBACK_EVIDENCE_OUTPUT": "path",
    },
}


def _step_keys() -> Iterator[TemplateKey]:
    for step in STEP_TABLE:
        home = "rollback" if step.phase is Phase.ROLLBACK else "cutover"
        yield TemplateKey(step.command_key, "command", home, required=True)
        yield TemplateKey(step.timeout_key, "number", low_allowed=False)


def _member_keys() -> Iterator[TemplateKey]:
    for generation in ("OLD", "NEW"):
        for role in ("CORE_ENGINE", "STRATEGY_RUNNER"):
            stem = f"{generation}_{role}"
            yield TemplateKey(f"{stem}_ALIVE_CMD", "command")
            yield TemplateKey(f"{stem}_PID_FILE", "path")
            yield TemplateKey(f"{stem}_UNIT", "unit")
        yield TemplateKey(f"{generation}_CORE_ENGINE_METRICS_URL", "url")


def _readiness_names() -> Iterator[tuple[str, str]]:
    """``READINESS_<SLI>_CMD`` of each SLI, with and without the prefix of its name."""
    for sli in SLI_NAMES:
        short = sli.removeprefix("quant_hft_")
        for spelling in {sli: 0, short: 0, short.removeprefix("ctp_"): 0}:
            yield f"READINESS_{spelling.upper()}_CMD", sli


READINESS_KEYS: Mapping[str, str] = dict(_readiness_names())


def _readiness_keys() -> Iterator[TemplateKey]:
    for name in READINESS_KEYS:
        yield TemplateKey(name, "command")


_OPTIONAL = (
    TemplateKey("CUTOVER_LEAD_MINUTES", "number", high=1440, default="30"),
    TemplateKey("CUTOVER_WINDOW_MINUTES", "number", high=1440, default="60"),
    TemplateKey(
        "SESSION_POLICY", "choice", choices=("any", "outside_trading", "in_session"), default="any"
    ),
    TemplateKey("HOLD_SECONDS", "number"),
    TemplateKey("HOLD_EXPIRY", "choice", choices=("rollback", "keep")),
    TemplateKey("ALERT_CMD", "command"),
    TemplateKey("ALERT_WEBHOOK_URL", "webhook"),
    TemplateKey("FORCED_ROLLBACK_AFTER_SECONDS", "number", default="0"),
    TemplateKey("TRADING_STATE_CMD", "command"),
    TemplateKey(
        "WORKING_ORDERS_POLICY",
        "choice",
        choices=("refuse", "cancel", "hand_over"),
        default="refuse",
    ),
    TemplateKey("CANCEL_WORKING_ORDERS_CMD", "command"),
    TemplateKey(
        "HANDOVER_COMPARES", "words", choices=HANDOVER_FACTS, default=", ".join(HANDOVER_FACTS)
    ),
    TemplateKey("ROLLBACK_CANCEL_SECONDS", "number", default="10"),
    TemplateKey(
        "RESTORE_REDIS_BRIDGE_COMPAT",
        "choice",
        choices=("auto", "always", "never"),
        default="auto",
    ),
)

KEYS: Mapping[str, TemplateKey] = {
    key.name: key
    for keys in (_required(), _step_keys(), _member_keys(), _OPTIONAL, _readiness_keys())
    for key in keys
}


class TemplateValues(Struct, frozen=True):
    """The values of both templates that passed their own check, and all that did not."""

    entries: Mapping[str, Entry]
    problems: tuple[Problem, ...]

    def text(self, key: str) -> str:
        """Return the literal value, or the key's default; blank where it has none."""
        entry = self.entries.get(key)
        return entry.value if entry is not None and entry.value else KEYS[key].default

    def number(self, key: str, *, default: float | None = None) -> float:
        """Return the value as a number; ``default`` is what limits.toml says for a key left out."""
        text = self.text(key)
        return float(text) if text else float(default or 0.0)

    def words(self, key: str) -> tuple[str, ...]:
        """Return the words of a comma list, or of the key's default."""
        return _words(self.text(key))

    def window(self) -> datetime:
        """Return ``CUTOVER_WINDOW_LOCAL``, aware."""
        return datetime.fromisoformat(self.text("CUTOVER_WINDOW_LOCAL"))


@lru_cache(maxsize=1024)
def nearest_name(name: str, known: tuple[str, ...]) -> str:
    """Return the known name most like ``name``, or blank; difflib is only paid for by a mistake."""
    import difflib

    if len(name) > 80:
        return ""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return match[0] if match else ""


def read_keys(cutover: TemplateText, rollback: TemplateText) -> TemplateValues:
    """Check every entry of both templates: known, in its place, once, of its type."""
    problems: list[Problem] = [*cutover.problems, *rollback.problems]
    first: dict[str, Entry] = {}
    for home, template in (("cutover", cutover), ("rollback", rollback)):
        for entry in template.entries:
            problem = _place_problem(entry, home, first.get(entry.key))
            if problem is None:
                first[entry.key] = entry
                problem = _value_problem(entry, KEYS[entry.key])
            if problem is not None:
                problems.append(problem)
    refused = {(problem.file, problem.key) for problem in problems}
    problems += _missing(cutover, rollback, first, refused)
    wrong = {problem.key for problem in problems}
    good = {key: entry for key, entry in first.items() if key not in wrong}
    return TemplateValues(entries=good, problems=tuple(problems))


def _place_problem(entry: Entry, home: str, earlier: Entry | None) -> Problem | None:
    """A key that is unknown, in the wrong template, or given before."""
    known = KEYS.get(entry.key)
    if known is None:
        return _unknown(entry)
    if known.home not in (home, "either"):
        return entry.problem(
            found=f"a key of the {known.home} template",
            expected=f"keys of the {home} template",
            remedy=f"move the line to the {known.home} template",
        )
    if earlier is None:
        return None
    return entry.problem(
        found=f"the key a second time, first at {earlier.file}:{earlier.line}",
        expected="each key once over both templates",
        remedy="delete one of the two lines",
    )


def _unknown(entry: Entry) -> Problem:
    bare = entry.key.removeprefix("export ").strip()
    shown = quoted(entry.key)[1:-1]
    near = bare if bare in KEYS else nearest_name(bare.upper(), tuple(KEYS))
    return Problem(
        file=entry.file,
        line=entry.line,
        key=shown,
        found="an unknown key",
        expected="a key of the cutover or rollback template",
        remedy=f"write it as {near}" if near else "delete the line",
        nearest=near,
    )


def _missing(
    cutover: TemplateText,
    rollback: TemplateText,
    present: Mapping[str, Entry],
    refused: set[tuple[str, str]],
) -> Iterator[Problem]:
    """Required keys that stand nowhere; not repeated where the line itself was refused."""
    files = {"cutover": cutover, "rollback": rollback}
    for key in KEYS.values():
        if not key.required or key.name in present:
            continue
        template = files[key.home]
        unreadable = not template.entries and template.problems
        if unreadable or (template.file, key.name) in refused:
            continue
        yield Problem(
            file=template.file,
            line=0,
            key=key.name,
            found="no such line",
            expected=f"{key.name}=<value> in the {key.home} template",
            remedy="add the line",
        )


def _value_problem(entry: Entry, key: TemplateKey) -> Problem | None:
    """What is wrong with the value of a known key, if anything."""
    if not entry.value:
        if not key.required:
            return None
        return entry.problem(found="a blank value", expected="a value", remedy="fill it in")
    if key.kind == "command":
        return None
    left = placeholders(entry.value)
    if left:
        return entry.problem(
            found=f"the placeholder {left[0]}",
            expected="the value it stands for",
            remedy="replace the placeholder",
        )
    expected = _expected(entry.value, key)
    if expected is None:
        return None
    return entry.problem(
        found=quoted(entry.value),
        expected=expected,
        remedy=f"correct {key.name}",
        nearest=_nearest_choice(entry.value, key),
    )


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(","))


def _nearest_choice(value: str, key: TemplateKey) -> str:
    words = _words(value) if key.kind == "words" else (value,)
    wrong = next((word for word in words if word not in key.choices), "")
    return nearest_name(wrong.lower(), key.choices) if wrong and key.choices else ""


def _expected(value: str, key: TemplateKey) -> str | None:
    """What was expected instead of ``value``; None where it is as it should be."""
    if key.kind in _FORMS:
        pattern, words = _FORMS[key.kind]
        return None if re.fullmatch(pattern, value) else words
    match key.kind:
        case "number":
            return None if _in_range(value, key) else key.range_words
        case "choice":
            return None if value in key.choices else "one of " + ", ".join(key.choices)
        case "words":
            listed = _words(value)
            is_good = {*listed} <= {*key.choices} and len({*listed}) == len(listed)
            return None if is_good else f"each at most once of {', '.join(key.choices)}"
        case "window":
            return _window_expected(value)
        case "url":
            return None if _is_metrics_url(value) else "http://HOST:PORT/PATH without user info"
        case _:
            return None


def _in_range(value: str, key: TemplateKey) -> bool:
    if not re.fullmatch(_NUMBER, value):
        return False
    number = float(value)
    above = number >= key.low if key.low_allowed else number > key.low
    return math.isfinite(number) and above and number <= key.high


def _is_metrics_url(value: str) -> bool:
    match = re.fullmatch(_URL, value)
    return match is not None and 0 < int(match.group(1)) < 65_536


def _window_expected(value: str) -> str | None:
    example = "ISO 8601 with a UTC offset, such as 2026-03-02T08:30:00+08:00"
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return example
    if moment.utcoffset() is None:
        return f"{example} (the offset is missing)"
    return None if moment.year in _YEARS else f"a year from {_YEARS.start} to {_YEARS.stop - 1}"
