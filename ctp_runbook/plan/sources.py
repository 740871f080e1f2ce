"""Where a metric may come from: a row a source, with all that is known of it before it is asked.

A source is one module that reads it and one row here; another distribution adds a row of its own
as an entry point of the group ``ctp_runbook.sources``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ctp_runbook._late import LateModule
from ctp_runbook.errors import PlanRefused, ProbeError
from ctp_runbook.plan.template_keys import LOGIN_CHANNELS, SESSION_FACTS
from ctp_runbook.plan.template_text import read_variables

if TYPE_CHECKING:
    from ctp_runbook.plan import plugins as _plugins
else:
    _plugins = LateModule("ctp_runbook.plan.plugins")  # for names that none of our rows has

__all__ = [
    "KINDS",
    "PAGES",
    "SOURCES",
    "SOURCE_GROUP",
    "TIME_UNITS",
    "Counted",
    "Measure",
    "Source",
    "Surroundings",
    "file_problems",
    "find_source",
    "known_sources",
    "words_of",
    "wrong_words",
]

SOURCE_GROUP = "ctp_runbook.sources"
KINDS = ("latency_quantile", "state", "counter", "lag", "outage")
_FAMILY = r"(?a)[a-zA-Z_:][\w:]*"
_OF_ONE_VALUE = ("latency_quantile", "state", "counter", "lag")


class Counted(Struct, frozen=True):
    """A value, and of how many events it was made; None where they are none, or too few for one.

    ``places`` is kept with the sample, for whoever goes on from there: what was read up to where.
    """

    value: float | None
    events: float
    places: Mapping[str, float] = {}


# One look: the metric's value, None where there was nothing to measure, or ProbeError.
Measure = Callable[[], float | Counted | None]


_COUNTED = ("latency_quantile", "counter")  # of events, which a page may show at the first of them
_OF_EVENTS = " and ".join(_COUNTED)
_OF_BUCKETS = 'no such key but for a latency_quantile of a page, with direction = "max"'
# What an instant in a file or a line of a log is written in.
TIME_UNITS = ("s", "ms", "us", "ns", "iso")
_FACTS = (*SESSION_FACTS, *LOGIN_CHANNELS)
_OF_A_PROOF = ("false_alarm_rate", "burst_seconds", "needs")


class Surroundings(Struct, frozen=True):
    """From where a source is asked: ``settings`` is the table [sources] of watch.toml."""

    settings: Mapping[str, str]
    cwd: Path
    environ: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<Surroundings in {self.cwd}>"  # the environment holds secrets

    def secret(self, setting: str) -> str:
        """Return the variable that ``setting`` names: of the environment, else of the file env_file.

        Raises ProbeError for a file that cannot be read.
        """
        name, file = self.settings.get(setting, ""), self.settings.get("env_file", "")
        if not name or name in self.environ or not file:
            return self.environ.get(name, "")
        try:
            return read_variables(Path(file), environ=self.environ).get(name, "")
        except (OSError, ValueError) as error:
            raise ProbeError(f"env_file {file} cannot be read: {error}") from error


class Source(Struct, frozen=True):
    """A row: what a rule may say of this source, and how it is measured.

    ``performer`` is ``module:function``, imported at the first look: it takes a rule and
    ``Surroundings`` and returns a ``Measure``; making one asks nobody. Blank for metrics pages,
    which the watch reads itself: it judges their buckets, on hosts too that have no plug-in.
    ``settings`` are its keys in [sources], ``needs`` those it cannot do without, ``labels`` what a
    rule must have of those. ``url``: whether a rule has one (no, may, must). ``by_wall_clock``: an
    answer speaks of a stretch of time, and proves nothing while a step of the clock is in it.
    ``is_shared``: it is asked of the data plane, not of an engine, and so before the switch too.
    ``reads`` are keys of its own in a rule, texts, which ``rule.read`` has; ``checker`` is the
    ``module:function`` that yields what is wrong with them: key, found, expected.
    """

    name: str
    performer: str
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = _OF_ONE_VALUE
    url: str = "no"
    by_wall_clock: bool = True
    is_shared: bool = False
    is_page: bool = False
    reads: tuple[str, ...] = ()
    checker: str = ""

    def lacking(self, settings: Mapping[str, str], labels: Mapping[str, str]) -> str:
        """Say what it needs and a watch.toml does not say, in words; blank where it has all."""
        missing = [f"sources.{key}" for key in self.needs if not settings.get(key)]
        missing += [f"the label {key}" for key in self.labels if not labels.get(key)]
        return " and ".join(missing)

    def problems(self, rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        """Yield key, what was found, what is expected, of what a rule says and this source cannot do."""
        if rule.get("kind") in [kind for kind in KINDS if kind not in self.kinds]:
            words = f"{rule['kind']} for source '{self.name}'"
            yield "kind", words, f"one of {', '.join(self.kinds)}"
        if "url" in rule and self.url == "no":
            # It would be asked of nobody, and the metric of whom [sources] names.
            takers = " or ".join(f'"{row.name}"' for row in SOURCES.values() if row.url != "no")
            yield "url", f"a page's url for source '{self.name}'", f"no url but for source {takers}"
        if "url" not in rule and self.url == "must":
            yield "url", "no such key", f"the address that source '{self.name}' asks"
        if self.is_page and isinstance(query := rule.get("query"), str):
            # What no family can be called is on no page: with absent = "zero" it would pass for ever.
            names = query.split() if rule.get("kind") == "counter" else [query]
            if odd := [name for name in names if not re.fullmatch(_FAMILY, name)]:
                yield "query", f"'{odd[0]}'", "the name of a family; labels go into the key labels"
        if "absent" in rule and not (self.is_page and rule.get("kind") in _COUNTED):
            yield "absent", f"'{rule['absent']}'", "no such key but for what a page counts"
        if "still_seconds" in rule and rule.get("kind") not in _COUNTED:
            yield "still_seconds", f"{rule['still_seconds']}", f"no such key but for {_OF_EVENTS}"
        yield from self._test_problems(rule)
        if self.checker:
            home, _, name = self.checker.partition(":")
            # One of ours is there: what is said of a plug-in's that is not is no dry run's to load.
            is_ours = home.startswith("ctp_runbook.")
            check = (
                getattr(LateModule(home), name) if is_ours else _plugins.load_named(self.checker)
            )
            yield from check(rule)

    def has_buckets(self, rule: Mapping[str, Any]) -> bool:
        """Say whether buckets tell how many events of a rule are over its limit."""
        is_quantile = rule.get("kind") == "latency_quantile"
        return self.is_page and is_quantile and rule.get("direction") == "max"

    def _test_problems(self, rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if not self.has_buckets(rule):
            for key in ("test", *_OF_A_PROOF, "cap"):
                if key in rule:
                    yield key, f"{rule[key]!r}", _OF_BUCKETS
            return
        for key in _OF_A_PROOF:
            if key in rule and rule.get("test") == "plain":
                yield (
                    key,
                    f"{rule[key]!r}",
                    'no such key beside test = "plain", which proves nothing',
                )
        limit, cap = rule.get("limit"), rule.get("cap")
        if isinstance(cap, float | int) and isinstance(limit, float | int) and cap < limit:
            yield "cap", f"{cap:g}", f"at least the limit {limit:g}"

    def measure(self, rule: object, around: Surroundings) -> Measure:
        """Make what looks at ``rule``. Raises ImportError and the like for a performer that is none."""
        look: Measure = _plugins.load_named(self.performer)(rule, around)
        return look


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.name: source
        for source in (
            Source("engine", "", kinds=KINDS, url="may", by_wall_clock=False, is_page=True),
            Source(
                "prometheus",
                "ctp_runbook.probes.prometheus:query_value",
                settings=("prometheus_url", "ca_file"),
                needs=("prometheus_url",),
            ),
            Source(
                "kafka",
                "ctp_runbook.probes.kafka:consumer_lag",
                settings=("kafka_bootstrap",),
                needs=("kafka_bootstrap",),
                labels=("group",),
                is_shared=True,
            ),
            Source(
                "clickhouse",
                "ctp_runbook.probes.clickhouse:ingest_delay",
                settings=(
                    *("clickhouse_url", "clickhouse_user", "clickhouse_key_env", "env_file"),
                    "ca_file",
                ),
                needs=("clickhouse_url",),
                is_shared=True,
            ),
            # What a command prints is its own affair: no clock of ours is known to be part of it.
            Source("command", "ctp_runbook.probes.command:command_value", by_wall_clock=False),
            # A log is judged by when a line came to be read, or by what two lines say of themselves.
            Source(
                "log",
                "ctp_runbook.probes.engine_files:log_value",
                by_wall_clock=False,
                reads=(
                    *("path", "journal_unit", "journal_user_unit", "format", "event_field"),
                    *("field", "words", "until", "key", "time_field", "time_unit"),
                ),
                checker="ctp_runbook.probes.engine_files:log_problems",
            ),
            Source(
                "file",
                "ctp_runbook.probes.engine_files:file_value",
                kinds=("state", "lag"),
                reads=("path", "path_of", "words", "heartbeat_field", "heartbeat_unit"),
                checker="ctp_runbook.plan.sources:file_problems",
            ),
            Source(
                "replay",
                "",
                kinds=KINDS,
                settings=("replay_file",),
                needs=("replay_file",),
                by_wall_clock=False,
                is_page=True,
            ),
        )
    }
)
# Samples of these are metrics pages, of an engine now or then; no plug-in's are.
PAGES = frozenset(source.name for source in SOURCES.values() if source.is_page)


def known_sources() -> tuple[str, ...]:
    """Return the names a rule may give: ours, then those that are installed beside us."""
    return tuple(dict.fromkeys((*SOURCES, *_plugins.installed_names(SOURCE_GROUP))))


def find_source(name: str) -> Source | None:
    """Return the row of this name, None for nobody's. Raises PlanRefused for a plug-in that is broken."""
    if (own := SOURCES.get(name)) is not None:
        return own
    row = _plugins.find_row(SOURCE_GROUP, name, kind=Source)
    if row is not None and row.is_page:
        raise PlanRefused([f"source '{name}' says it is a metrics page; only engines' are"])
    return row


# --- what a rule says of a file or a log of an engine's ----------------------------


def file_problems(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key, what was found and what is expected, of a rule for the source ``file``."""
    if "path" not in rule:
        yield "path", "no such key", "the JSON file that the engine rewrites"
    if rule.get("path_of", _FACTS[0]) not in _FACTS:
        yield "path_of", f"'{rule['path_of']}'", f"one of {', '.join(_FACTS)}"
    yield from wrong_words(rule)
    if rule.get("heartbeat_unit", "s") not in TIME_UNITS:
        yield "heartbeat_unit", f"'{rule['heartbeat_unit']}'", f"one of {', '.join(TIME_UNITS)}"


def words_of(text: str) -> dict[str, float]:
    """Return what words stand for: ``Ready=0 CloseOnly=1``. Raises ValueError for what is none."""
    pairs = [pair.partition("=") for pair in text.split()]
    words = {word: float(value) for word, _, value in pairs}
    if len(words) < len(pairs) or not all(map(math.isfinite, words.values())):
        raise ValueError("a word twice, or one that stands for no number")
    return words


def wrong_words(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key, what was found and what is expected, where the words of a rule stand for nothing."""
    try:
        words_of(str(rule.get("words", "")))
    except ValueError:
        yield (
            "words",
            f"'{rule['words']}'",
            "words, each once, with a number each: Ready=0 CloseOnly=1 Blocked=2",
        )
