"""Where an engine tells of its session: a command, or a TOML file with a table for each fact.

Engines that were not written for this project tell each fact in another place, and some facts
nowhere (DOMAIN: engines as found). What no place tells is not proved: a real run refuses it, unless
SESSION_NOT_PROVED names it with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from ctp_runbook.errors import ConfigError, Problem
from ctp_runbook.model import Generation
from ctp_runbook.plan.template_keys import LOGIN_CHANNELS, SESSION_FACTS, TemplateValues

if TYPE_CHECKING:
    from ctp_runbook.plan.session_file import FactSource

__all__ = [
    "FACT_WORDS",
    "TRADING_MODES",
    "SessionPlan",
    "read_sessions",
    "session_problems",
    "source_words",
]

# What an engine may do with orders: all, only close positions, nothing.
TRADING_MODES = ("Ready", "CloseOnly", "Blocked")
FACT_WORDS = {
    "logged_in": "TD and MD logged in",
    "td_logged_in": "TD logged in",
    "md_logged_in": "MD logged in",
    "settlement_confirmed": "settlement confirmed",
    "recovered": "recovered",
    "may_trade": "may trade",
}


class SessionPlan(Struct, frozen=True, kw_only=True):
    """How the session of one engine is asked for, where a template says so.

    ``sources`` come first; ``command`` is asked for the facts they do not tell. ``not_proved`` is
    what no source needs to tell, by fact, with the reason.
    """

    command: str = ""
    key: str = ""
    file: str = ""
    sources: tuple[FactSource, ...] = ()
    not_proved: Mapping[str, str] = {}

    @property
    def is_declared(self) -> bool:
        """True where the template names a session source; else TRADING_STATE_CMD or the engine's
        page is asked, as ever."""
        return bool(self.command or self.file)

    @property
    def untold(self) -> tuple[str, ...]:
        """The facts of which no table of the file tells."""
        facts = {_fact_of(source.fact) for source in self.sources}
        return tuple(fact for fact in SESSION_FACTS if fact not in facts)

    @property
    def lacking(self) -> tuple[str, ...]:
        """The facts that nothing tells and nobody accounts for; a command may tell any."""
        if self.command or not self.file:
            return ()
        return tuple(fact for fact in self.untold if fact not in self.not_proved)

    @property
    def unproved(self) -> Mapping[str, str]:
        """What nothing need prove, with the reason. A fact that a table of the file tells is asked for,
        whatever reason there was once; nothing where no source is declared."""
        return {
            fact: reason
            for fact, reason in self.not_proved.items()
            if self.is_declared and (self.command or fact in self.untold)
        }

    @property
    def proved(self) -> str:
        """What is proved of a session before its engine counts as up, and what is not, in words."""
        gaps = [fact for fact in SESSION_FACTS if fact in self.unproved]
        known = [FACT_WORDS[fact] for fact in SESSION_FACTS if fact not in gaps]
        words = ", ".join(known).replace(FACT_WORDS["may_trade"], "not Blocked")
        missing = ", ".join(FACT_WORDS[fact] for fact in gaps)
        return f"{words} (NOT PROVED: {missing})" if gaps else words

    @property
    def close_only_seconds(self) -> float:
        """How long this engine is known to close only; 0 where nobody says."""
        return max((source.close_only_seconds for source in self.sources), default=0.0)


def _fact_of(table: str) -> str:
    return "logged_in" if table in LOGIN_CHANNELS else table


def source_words(source: FactSource) -> str:
    """Return where a fact is told, in words: ``file engine.json: mode``."""
    what = source.path or source.query or "the engine's page"
    which = ": ".join(filter(None, (source.event or source.pattern, source.field)))
    return f"{source.source} {what}{': ' if which else ''}{which}"


def read_sessions(
    values: TemplateValues, *, base: Path, kept: Mapping[str, Path]
) -> dict[str, SessionPlan]:
    """Return how each generation's session is asked for. Raises ConfigError with every problem.

    ``kept`` has copies of the files, by generation, that stand for those the template names.
    """
    not_proved, problems, plans = values.reasons("SESSION_NOT_PROVED"), list[Problem](), {}
    for generation in Generation:
        stem = generation.value.upper()
        key, named = f"{stem}_SESSION_SOURCES", values.text(f"{stem}_SESSION_SOURCES")
        sources: tuple[FactSource, ...] = ()
        if named:
            from ctp_runbook.plan.session_file import read_sources  # most plans name none

            try:
                sources = read_sources(kept.get(generation, base / named), flag=key)
            except ConfigError as error:
                problems += error.problems
        plans[generation.value] = SessionPlan(
            command=values.text(f"{stem}_SESSION_CMD"),
            key=f"{stem}_SESSION_CMD",
            file=named,
            sources=sources,
            not_proved=not_proved,
        )
    if problems:
        raise ConfigError(problems)
    return plans


def session_problems(values: TemplateValues) -> Iterator[Problem]:
    """Yield what no session source of an engine can be read by: reasons without any source."""
    entry = values.entries.get("SESSION_NOT_PROVED")
    keys = [f"{g.value.upper()}_SESSION_{what}" for g in Generation for what in ("CMD", "SOURCES")]
    if entry is not None and entry.value and not any(map(values.text, keys)):
        yield entry.problem(
            found="reasons for what is not proved, and no session source",
            expected=f"one of {', '.join(keys)}",
            remedy="name what tells the other facts, or delete the line",
        )
