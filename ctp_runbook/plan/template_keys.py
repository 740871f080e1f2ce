"""What each template key means: where it belongs, its type and range, its default.

``read_keys`` checks the entries of both templates together and returns every problem it
finds, so that an operator mends a file once and not once per mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache

from msgspec import Struct

from ctp_runbook.errors import Problem
from ctp_runbook.model import Generation, Phase, Role
from ctp_runbook.plan.step_table import (
    NO_MEMBER,
    ROLES_BESIDE,
    STEP_TABLE,
    member_steps,
    presence_key,
)
from ctp_runbook.plan.template_text import Entry, TemplateText, placeholders, quoted

__all__ = [
    "HANDOVER_FACTS",
    "KEYS",
    "LOGIN_CHANNELS",
    "NOT_MEASURABLE",
    "READINESS_KEYS",
    "SESSION_FACTS",
    "SLI_NAMES",
    "SYNONYMS",
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
# What is to be known of an engine's session before it counts as trading (SESSION_NOT_PROVED).
SESSION_FACTS = ("logged_in", "settlement_confirmed", "recovered", "may_trade")
# The two channels of a login, told apart (DOMAIN: two sessions, two fronts).
LOGIN_CHANNELS = ("td_logged_in", "md_logged_in")
# Instead of the command of READINESS_<SLI>_CMD, with a reason behind it.
NOT_MEASURABLE = "not_measurable:"

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
    # command, number, choice, words, reasons, name, path, unit, url, webhook, window, text
    kind: str
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
    for generation in Generation:
        for role in Role:
            stem = f"{generation}_{role}".upper()
            yield TemplateKey(f"{stem}_ALIVE_CMD", "command")
            yield TemplateKey(f"{stem}_PID_FILE", "path")
            yield TemplateKey(f"{stem}_UNIT", "unit")
        for role in ROLES_BESIDE:
            yield TemplateKey(presence_key(generation, role), "choice", choices=(NO_MEMBER,))
        side = generation.upper()
        yield TemplateKey(f"{side}_CORE_ENGINE_METRICS_URL", "url")
        yield TemplateKey(f"{side}_SESSION_CMD", "command")
        yield TemplateKey(f"{side}_SESSION_SOURCES", "path")


def _keys_of_member(generation: Generation, role: Role) -> frozenset[str]:
    """Every key that speaks of this part, but for the one that says whether it is there."""
    stem = f"{generation}_{role}_".upper()
    steps = member_steps(generation, role)
    own = {key for step in steps for key in (step.command_key, step.timeout_key)}
    return frozenset(own | {key for key in KEYS if key.startswith(stem)})


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
    TemplateKey("SESSION_NOT_PROVED", "reasons", choices=SESSION_FACTS),
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


# Another spelling of a key, for an engine that has no Redis bridge to be put back.
SYNONYMS: Mapping[str, str] = {
    f"RESTORE_STRATEGY_ENGINE_COMPAT_{end}": f"RESTORE_REDIS_BRIDGE_COMPAT_{end}"
    for end in ("CMD", "TIMEOUT_SECONDS")
}


class TemplateValues(Struct, frozen=True):
    """The values of both templates that passed their own check, and all that did not."""

    entries: Mapping[str, Entry]
    problems: tuple[Problem, ...]

    def text(self, key: str) -> str:
        """Return the literal value, or the key's default; blank where it has none."""
        entry = self.entries.get(key)
        return entry.value if entry is not None and entry.value else KEYS[key].default

    def spelling(self, key: str) -> str:
        """Return the key as the template writes it, which may be a synonym."""
        entry = self.entries.get(key)
        return entry.key if entry is not None else key

    def lacks(self, generation: Generation, role: Role) -> bool:
        """Return whether this part is said not to be there: OLD_STRATEGY_RUNNER=none."""
        return role in ROLES_BESIDE and self.text(presence_key(generation, role)) == NO_MEMBER

    def number(self, key: str, *, default: float | None = None) -> float:
        """Return the value as a number; ``default`` is what limits.toml says for a key left out."""
        text = self.text(key)
        return float(text) if text else float(default or 0.0)

    def words(self, key: str) -> tuple[str, ...]:
        """Return the words of a comma list, or of the key's default."""
        return _words(self.text(key))

    def reasons(self, key: str) -> dict[str, str]:
        """Return the words of ``word: reason; word: reason``, each with its reason."""
        return dict(_reasons(self.text(key)))

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each key that holds a command, with it; no command is what says why there is none."""
        for key, entry in self.entries.items():
            is_command = KEYS[key].kind == "command" and entry.value
            if is_command and not (
                key in READINESS_KEYS and entry.value.startswith(NOT_MEASURABLE)
            ):
                yield key, entry.value

    def window(self) -> datetime:
        """Return ``CUTOVER_WINDOW_LOCAL``, aware."""
        return datetime.fromisoformat(self.text("CUTOVER_WINDOW_LOCAL"))


# Words that operators, steps and keys use for one thing.
_SAME_WORDS = {"PREVIOUS": "OLD", "COMMAND": "CMD", "S": "SECONDS", "SEC": "SECONDS"}
# Of the words of both names together, those they must share where their order is another.
_LEAST_SHARED = 0.6


@lru_cache(maxsize=1024)
def nearest_name(name: str, known: tuple[str, ...]) -> str:
    """Return the known name most like ``name``, or blank; difflib is only paid for by a mistake.

    A name of the same words in another order is the nearest: a step is ``start_new_core_engine``, its
    keys begin with ``NEW_CORE_ENGINE_START``, and letter by letter that of the stop is nearer.
    """
    import difflib

    if len(name) > 80:
        return ""
    if alike := _of_same_words(name, known):
        spelt = " ".join(_sorted_words(name))
        ratio = difflib.SequenceMatcher(None, b=spelt)

        def likeness(other: str) -> float:
            ratio.set_seq1(" ".join(_sorted_words(other)))
            return ratio.ratio()

        return max(alike, key=likeness)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return match[0] if match else ""


def _of_same_words(name: str, known: tuple[str, ...]) -> list[str]:
    """The known names that share most words with ``name``; none where that are too few."""
    words = {*_sorted_words(name)}
    shared = {
        other: len(words & theirs) / len(words | theirs)
        for other in known
        if (theirs := {*_sorted_words(other)})
    }
    most = max(shared.values(), default=0.0)
    return [other for other, share in shared.items() if share == most >= _LEAST_SHARED]


def _sorted_words(name: str) -> list[str]:
    """The words of a name, each as it is written in most of them."""
    return sorted(_SAME_WORDS.get(word, word) for word in re.findall(r"[^\W_]+", name.upper()))


def read_keys(cutover: TemplateText, rollback: TemplateText) -> TemplateValues:
    """Check every entry of both templates: known, in its place, once, of its type."""
    problems: list[Problem] = [*cutover.problems, *rollback.problems]
    first: dict[str, Entry] = {}
    unwanted = _unwanted_keys((*cutover.entries, *rollback.entries))
    for home, template in (("cutover", cutover), ("rollback", rollback)):
        for entry in template.entries:
            key = SYNONYMS.get(entry.key, entry.key)
            problem = _place_problem(entry, home, first.get(key))
            if problem is None:
                first[key] = entry
                if key in unwanted:
                    problem = _unwanted_problem(entry, unwanted[key])
                else:
                    problem = _value_problem(entry, KEYS[key])
            if problem is not None:
                problems.append(problem)
    refused = {(problem.file, SYNONYMS.get(problem.key, problem.key)) for problem in problems}
    problems += _missing(cutover, rollback, {**first, **unwanted}, refused)
    wrong = {SYNONYMS.get(problem.key, problem.key) for problem in problems}
    good = {key: entry for key, entry in first.items() if key not in wrong}
    return TemplateValues(entries=good, problems=tuple(problems))


def _unwanted_keys(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The keys of parts that are said not to be there, each with the line that says so."""
    said = {entry.key: entry for entry in entries if entry.value == NO_MEMBER}
    return {
        key: said[presence]
        for generation in Generation
        for role in ROLES_BESIDE
        if (presence := presence_key(generation, role)) in said
        for key in _keys_of_member(generation, role)
    }


def _unwanted_problem(entry: Entry, none: Entry) -> Problem | None:
    """A key of a part that is not there; a blank one says nothing of it."""
    if not entry.value:
        return None
    line = f"{none.key}={none.value}"
    return entry.problem(
        found=f"a value, and {line} ({none.file}:{none.line})",
        expected=f"no such line, for {line} says that there is no such process",
        remedy=f"delete this line, or {line} if there is one",
    )


def _place_problem(entry: Entry, home: str, earlier: Entry | None) -> Problem | None:
    """A key that is unknown, in the wrong template, or given before."""
    known = KEYS.get(SYNONYMS.get(entry.key, entry.key))
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
    other = f"as {earlier.key} " if earlier.key != entry.key else ""
    return entry.problem(
        found=f"the key a second time, first {other}at {earlier.file}:{earlier.line}",
        expected="each key once over both templates",
        remedy="delete one of the two lines",
    )


def _unknown(entry: Entry) -> Problem:
    bare = entry.key.removeprefix("export ").strip()
    shown = quoted(entry.key)[1:-1]
    known = (*KEYS, *SYNONYMS)
    near = bare if bare in known else nearest_name(bare.upper(), known)
    return Problem(
        file=entry.file,
        line=entry.line,
        key=shown,
        found="an unknown key",
        expected="a key of the cutover or rollback template",
        remedy=f"write it as {near}"
        if near
        else "delete the line; infra/runbook/template_keys.md has every key",
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
        return _unexplained(entry)
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
        remedy=f"correct {entry.key}",
        nearest=_nearest_choice(entry.value, key),
    )


def _unexplained(entry: Entry) -> Problem | None:
    """An SLI that is said not to be measurable, without the reason."""
    if entry.key not in READINESS_KEYS or entry.value != NOT_MEASURABLE:
        return None
    return entry.problem(
        found=f"{NOT_MEASURABLE!r} alone",
        expected=f"the reason behind it: {NOT_MEASURABLE} REASON",
        remedy="say why this engine cannot have it, or give the command that measures it",
    )


def _reasons(value: str) -> Iterator[tuple[str, str]]:
    """Yield word and reason of each part; a part that lacks one has it blank."""
    for part in filter(None, map(str.strip, value.split(";"))):
        word, _, reason = part.partition(":")
        yield word.strip(), reason.strip()


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(","))


def _nearest_choice(value: str, key: TemplateKey) -> str:
    words = _words(value) if key.kind == "words" else (value,)
    words = tuple(word for word, _ in _reasons(value)) if key.kind == "reasons" else words
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
            if value in key.choices:
                return None
            only = f"{key.choices[0]}, or no such line"
            return "one of " + ", ".join(key.choices) if key.choices[1:] else only
        case "words":
            listed = _words(value)
            is_good = {*listed} <= {*key.choices} and len({*listed}) == len(listed)
            return None if is_good else f"each at most once of {', '.join(key.choices)}"
        case "reasons":
            reasons = tuple(_reasons(value))
            names = [name for name, reason in reasons if reason and name in key.choices]
            is_good = bool(names) and len(set(names)) == len(reasons)
            words = f"FACT: REASON; FACT: REASON, each at most once of {', '.join(key.choices)}"
            return None if is_good else words
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
