"""Is an engine's CTP session usable? By the sources that its template declares, from its trading
state, or from its metrics page.

Process alive proves nothing, and market data up says nothing about trading: both channels are
logged in, settlement is confirmed and the private stream is drained, or the session is not
verified (DOMAIN: login order). Whether it may open positions is a fact of its own: an engine that
only closes is up, and does not trade.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.files import read_small
from ctp_runbook.model import Identity, Member
from ctp_runbook.plan.session_file import FactSource
from ctp_runbook.plan.session_sources import FACT_WORDS, TRADING_MODES, SessionPlan
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.probes.command import Running, run_probe_apart
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.probes.trading_state import (
    TradingState,
    instant_of,
    is_logged_in,
    parse_trading_state,
    read_state_object,
    session_problems,
)
from ctp_runbook.record.samples import series_key, split_series
from ctp_runbook.strict_json import decode_object, keys_of, shown

__all__ = [
    "Fact",
    "SessionFacts",
    "SessionState",
    "read_facts",
    "read_session",
    "read_trading_state",
]

_STATE = "quant_hft_ctp_session_state"
_LOGGED_IN, _CONFIRMED, _DRAINED = 2, 3, 4
_PARTS = {
    "td_logged_in": "TD logged in",
    "md_logged_in": "MD logged in",
    "settlement_confirmed": "settlement confirmed",
    "stream_drained": "private stream drained",
}


@dataclass(frozen=True)
class SessionState:
    """What is known of one engine's sessions, with the source that said so.

    ``problems`` are the parts it did not say in a way that can be understood; they count as no.
    ``as_of`` is when it says that this was so, in seconds since the epoch, where it says that.
    """

    td_logged_in: bool
    md_logged_in: bool
    settlement_confirmed: bool
    stream_drained: bool
    source: str
    problems: tuple[str, ...] = ()
    as_of: float | None = None

    @property
    def is_verified(self) -> bool:
        """True when the engine may be given orders."""
        return all(getattr(self, part) for part in _PARTS) and not self.problems

    @property
    def sentence(self) -> str:
        """Each part, with yes or no."""
        words = [
            f"{name}: {'yes' if getattr(self, part) else 'no'}" for part, name in _PARTS.items()
        ]
        return "; ".join([f"{', '.join(words)} ({self.source})", *self.problems])


def read_session(member: Member, *, command: str, **running: Unpack[Running]) -> SessionState:
    """Read the session of ``member``, by ``command`` (TRADING_STATE_CMD) when there is one.

    Only the four parts of the session are looked at: an old engine is to be started again in a
    rollback also where its funds cannot be read. Raises ProbeError when neither source answers.
    """
    if not command:
        return _on_metrics_page(member, seconds=running["seconds"])
    # ``is True``: on the metrics page 1 means connected, and a text that says no is true to Python.
    fields = read_state_object(_output(command, member, **running), subject=_subject(member))
    return SessionState(
        td_logged_in=is_logged_in(fields.get("td_session")),
        md_logged_in=is_logged_in(fields.get("md_session")),
        settlement_confirmed=fields.get("settlement_confirmed") is True,
        stream_drained=fields.get("stream_drained") is True,
        source="TRADING_STATE_CMD",
        problems=session_problems(fields),
        as_of=instant_of(fields.get("as_of")),
    )


def _on_metrics_page(member: Member, *, seconds: float) -> SessionState:
    series = scrape(member.metrics_url, families=[_STATE], seconds=seconds)
    td, md = (series.get(series_key(_STATE, {"channel": channel})) for channel in ("td", "md"))
    if td is None or md is None:
        raise ProbeError(
            f"{member.metrics_url}: no {_STATE} for td and md; set TRADING_STATE_CMD in the template"
        )
    # NaN fails each of these: what is no number is no login.
    return SessionState(
        td_logged_in=td >= _LOGGED_IN,
        md_logged_in=md >= _LOGGED_IN,
        settlement_confirmed=td >= _CONFIRMED,
        stream_drained=td >= _DRAINED,
        source=member.metrics_url,
    )


def read_trading_state(
    command: str,
    *,
    member: Member,
    compares: Collection[str] = HANDOVER_FACTS,
    **running: Unpack[Running],
) -> TradingState:
    """Read the state TRADING_STATE_CMD prints; CTP_GENERATION tells it which engine is meant.

    Raises ProbeError for anything but exit 0 in time and one whole object, in which each fact of
    ``compares`` stands.
    """
    output = _output(command, member, **running)
    return parse_trading_state(output, subject=_subject(member), compares=compares)


def _output(command: str, member: Member, **running: Unpack[Running]) -> bytes:
    """Return what the command prints. What it says on stderr is for people, quoted when it fails."""
    running["env"] = {
        **running["env"],
        "CTP_GENERATION": str(member.generation),
        "CTP_METRICS_URL": member.metrics_url,
    }
    key = running.setdefault("key", "TRADING_STATE_CMD")
    code, output, said = run_probe_apart(command, **running)
    if code != 0:
        much = f" after {len(output) >> 20} MiB of output" if len(output) >= 1 << 20 else ""
        limit = f" within {running['seconds']:g} s{much}" if code is None else ""
        words = f"; it said: {said}" if said else ""
        raise ProbeError(f"{_subject(member, key)}: exit {code}, expected 0{limit}{words}")
    return output


def _subject(member: Member, key: str = "TRADING_STATE_CMD") -> str:
    return f"{key} for {member.name}"


# --- the sources a template declares ----------------------------------------------


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a session, or is not: ``value`` is None where nothing told it.

    ``source`` says where it was read; ``problem`` why what is there tells nothing. ``mode`` is the
    trading mode of ``may_trade``, ``since`` when it began (seconds since the epoch), where that is
    told.
    """

    name: str
    value: bool | None
    source: str = ""
    mode: str = ""
    problem: str = ""
    since: float | None = None

    @property
    def told_as(self) -> str:
        """The fact of SESSION_NOT_PROVED that it belongs to."""
        return "logged_in" if self.name.endswith("logged_in") else self.name

    @property
    def answer(self) -> str:
        """Yes, no, the trading mode, or that nobody knows."""
        if self.value is None:
            return "not told"
        return self.mode or ("yes" if self.value else "no")


@dataclass(frozen=True)
class SessionFacts:
    """What is known of one engine's session by the sources that its template declares.

    ``not_proved`` are the facts that no source needs to tell, with the reason.
    """

    facts: tuple[Fact, ...]
    not_proved: Mapping[str, str] = field(default_factory=dict)
    as_of: float | None = None

    @property
    def is_verified(self) -> bool:
        """True when all that can be known of it is good enough to give it orders; one that closes
        only for a while will trade. Of whom nothing is known at all nobody gives reasons for that."""
        return self.is_told and all(map(self._is_enough, self.facts))

    @property
    def is_told(self) -> bool:
        """True when at least one source answered."""
        return any(fact.value is not None for fact in self.facts)

    @property
    def mode(self) -> str:
        """Ready, CloseOnly or Blocked; blank where nothing tells."""
        return next((fact.mode for fact in self.facts if fact.name == "may_trade"), "")

    @property
    def words(self) -> str:
        """Whether it may trade, in short: ``may trade: CloseOnly``."""
        permission = next((fact for fact in self.facts if fact.name == "may_trade"), None)
        return f"{FACT_WORDS['may_trade']}: {self.mode or 'not told'}" if permission else ""

    @property
    def sentence(self) -> str:
        """Each fact, with what was said of it and where."""
        return ", ".join(map(self._words_of, self.facts))

    def _is_enough(self, fact: Fact) -> bool:
        if fact.problem:
            return False
        if fact.value is None:
            return fact.told_as in self.not_proved
        return fact.value or fact.mode == "CloseOnly"

    def _words_of(self, fact: Fact) -> str:
        words = FACT_WORDS[fact.name]
        if fact.problem:
            return f"{words}: not told ({fact.problem})"
        if fact.value is None and (reason := self.not_proved.get(fact.told_as)):
            return f"{words}: not told, NOT PROVED ({reason})"
        where = f" ({fact.source})" if fact.source else ""
        return f"{words}: {fact.answer}{where}"


def read_facts(
    member: Member,
    *,
    asked: SessionPlan,
    known: Identity | None,
    wall: float,
    **running: Unpack[Running],
) -> SessionFacts:
    """Read the facts of ``member``'s session, each from where its template says that it is told.

    What was written before the process ``known`` began is another's: a dead engine leaves its file
    and its log behind. ``wall`` is now. A source that does not answer tells nothing; none raises.
    """
    since = _began(known) if known else -math.inf
    look = _Look(member, since=since, wall=wall, running=running)
    facts = [fact for source in asked.sources for fact in look.by_source(source)]
    as_of = None
    if asked.untold:
        by_command, as_of = look.by_command(asked) if asked.command else ([], None)
        facts += by_command
        names_told = {fact.told_as for fact in facts}
        facts += [Fact(name, None) for name in asked.untold if name not in names_told]
    names = list(FACT_WORDS)
    facts.sort(key=lambda fact: names.index(fact.name))
    return SessionFacts(tuple(facts), asked.not_proved, as_of)


def _began(identity: Identity) -> float:
    """When a process began, in seconds since the epoch as the clock goes now."""
    ticks = identity.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks)


_FILE_BYTES = 1 << 20
# A file that is rewritten in place is torn for a moment.
_TRIES, _TRY_SECONDS = 3, 0.05
# What a log says of later than that is not of now.
_FUTURE_SECONDS = 60.0
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class _Look:
    """One look at every source; a file is read once."""

    def __init__(self, member: Member, *, since: float, wall: float, running: Running) -> None:
        self._member, self._since, self._wall = member, since, wall
        self._running = running
        self._files: dict[str, Mapping[str, Any]] = {}

    def by_source(self, source: FactSource) -> list[Fact]:
        """Ask the source of one fact; a login by the page's state is told by channel."""
        ask: Callable[[FactSource], Fact] = getattr(self, f"_by_{source.source}")
        try:
            return [ask(source)]
        except ProbeError as error:
            return [Fact(source.fact, None, problem=str(error))]

    # --- a JSON file --------------------------------------------------------------

    def _by_file(self, source: FactSource) -> Fact:
        fields = self._fields_of(source)
        if stale := self._stale(source, fields):
            raise ProbeError(f"{source.path}: {stale}")
        return _judged(source, _value_at(fields, source.field, source.path), source.path)

    def _fields_of(self, source: FactSource) -> Mapping[str, Any]:
        if source.path not in self._files:
            self._files[source.path] = _object_in(self._running["cwd"] / source.path, source.path)
        return self._files[source.path]

    def _stale(self, source: FactSource, fields: Mapping[str, Any]) -> str:
        """Why what the file says is not of now, or not of this engine; or nothing."""
        name = f"its {source.heartbeat_field}" if source.heartbeat_field else "its last writing"
        if source.heartbeat_field:
            raw = _value_at(fields, source.heartbeat_field, source.path)
            beat = _instant(raw, source.heartbeat_unit)
            if beat is None:
                unit = source.heartbeat_unit
                return f"{name} is {shown(raw)}, expected a time in {unit} since the epoch"
        else:
            try:
                beat = (self._running["cwd"] / source.path).stat().st_mtime
            except OSError as error:
                return f"it cannot be read: {error.strerror}"
        age, most = self._wall - beat, source.fresh_seconds
        if age > most:
            return f"{name} is {age:.1f} s old, more than fresh_seconds {most:g}: who writes it is gone"
        if age < -most:
            return (
                f"{name} is {-age:.1f} s from now, more than fresh_seconds {most:g}: a wrong clock"
            )
        if beat < self._since:
            return f"{name} is of before this engine was started: another one wrote it"
        return ""

    # --- the log ------------------------------------------------------------------

    def _by_log(self, source: FactSource) -> Fact:
        # Imported by who asks a log: few do.
        from ctp_runbook.probes.last_event import last_event
        from ctp_runbook.probes.log import line_parser

        names = tuple(filter(None, (source.event, source.lost_event)))
        event = last_event(
            self._running["cwd"] / source.path,
            parse=line_parser(source.format, pattern=source.pattern),
            names=names,
            since=self._since,
        )
        said = source.event or "its pattern"
        if event is None:
            return _fact(source.fact, False, f"{source.path}: no {said} since this engine began")
        if (ahead := event.wall - self._wall) > _FUTURE_SECONDS:
            when = f"of {ahead:.0f} s from now: a wrong clock, or no time"
            raise ProbeError(f"{source.path}: {said} is {when}")
        if source.lost_event and event.name == source.lost_event:
            return _fact(source.fact, False, f"{source.path}: {event.name} since then")
        if not source.field:
            fact = _fact(source.fact, True, f"{source.path}: {said}")
        elif source.field not in event.fields:
            raise ProbeError(f"{source.path}: {said} has no field {source.field}")
        else:
            value = _as_wanted(event.fields[source.field], source.equals)
            fact = _judged(source, value, source.path)
        return replace(fact, since=event.wall)

    # --- the metrics page ---------------------------------------------------------

    def _by_metric(self, source: FactSource) -> Fact:
        name, labels = split_series(source.query)
        page = scrape(self._member.metrics_url, families=[name], seconds=self._running["seconds"])
        split = ((*split_series(key), value) for key, value in page.items())
        values = [
            value
            for family, own, value in split
            if family == name and labels.items() <= own.items()
        ]
        where = f"{source.query} of {self._member.metrics_url}"
        if not values:
            raise ProbeError(f"{where}: it is not on the page")
        # NaN fails each of these: what is no number is no yes.
        if source.min is None:
            answers = [value == source.equals for value in values]
        else:
            answers = [value >= source.min for value in values]
        said = f"{where}: {', '.join(f'{value:g}' for value in values[:3])}"
        return _fact(source.fact, all(answers), said)

    def _by_session_state(self, source: FactSource) -> Fact:
        state = _on_metrics_page(self._member, seconds=self._running["seconds"])
        answer = {
            "td_logged_in": state.td_logged_in,
            "md_logged_in": state.md_logged_in,
            "logged_in": state.td_logged_in and state.md_logged_in,
            "settlement_confirmed": state.settlement_confirmed,
            "recovered": state.stream_drained,
        }[source.fact]
        return Fact(source.fact, answer, f"{_STATE} of {state.source}")

    # --- the command --------------------------------------------------------------

    def by_command(self, asked: SessionPlan) -> tuple[list[Fact], float | None]:
        """Read what the command says of the facts that nothing else tells, and as of when."""
        subject = _subject(self._member, asked.key)
        running: Running = {**self._running, "key": asked.key}
        try:
            output = _output(asked.command, self._member, **running)
            fields = read_state_object(output, subject=subject)
        except ProbeError as error:
            return [Fact(name, None, problem=str(error)) for name in asked.untold], None
        as_of = instant_of(fields.get("as_of"))
        why = ""
        if "as_of" in fields and as_of is None:
            why = f"{subject}: as_of: found {shown(fields['as_of'])}, expected a time stamp"
        elif as_of is not None and as_of < self._since:
            why = f"{subject}: its as_of is of before this engine was started"
        facts = [fact for name in asked.untold for fact in _said_of(name, fields, asked.key)]
        return ([Fact(each.name, None, problem=why) for each in facts] if why else facts), as_of


def _said_of(name: str, fields: Mapping[str, Any], source: str) -> Iterator[Fact]:
    """Yield what the object of a session command says of a fact."""
    if name == "may_trade":
        if (mode := fields.get("trading_mode")) is None:
            yield Fact(name, None)
        elif mode in TRADING_MODES:
            yield Fact(name, mode == "Ready", source, mode)
        else:
            expected = f"one of {', '.join(TRADING_MODES)}"
            yield Fact(
                name, None, problem=f"trading_mode: found {shown(mode)}, expected {expected}"
            )
        return
    channels = [each for each in ("td_logged_in", "md_logged_in") if each in fields]
    names = ("td_logged_in", "md_logged_in") if name == "logged_in" and channels else (name,)
    for each in names:
        value = fields.get(each)
        if value is None:
            yield Fact(each, None)
        elif isinstance(value, bool):
            yield Fact(each, value, source)
        else:
            found = f"{each}: found {shown(value)}, expected true or false"
            yield Fact(each, None, problem=found)


def _fact(name: str, is_so: bool, source: str) -> Fact:
    mode = ("Ready" if is_so else "Blocked") if name == "may_trade" else ""
    return Fact(name, is_so, source, mode)


def _judged(source: FactSource, value: object, path: str) -> Fact:
    """Return the fact that a value tells: that it is the one that says yes, or a trading mode."""
    said = f"{path}: {source.field} {shown(value)}"
    if source.fact != "may_trade":
        return Fact(source.fact, _is_same(value, source.equals), said)
    if source.equals is not None and _is_same(value, source.equals):
        return Fact(source.fact, True, said, "Ready")
    if isinstance(value, str) and value in TRADING_MODES[source.equals is not None :]:
        return Fact(source.fact, value == "Ready", said, value)
    if source.equals is None:
        expected = f"one of {', '.join(TRADING_MODES)}, or a key equals for another word"
        raise ProbeError(f"{said}, expected {expected}")
    return Fact(source.fact, False, said, "Blocked")


def _as_wanted(value: object, wanted: object) -> object:
    """Return what a line of a log says as what says yes is written: there all is text."""
    if not isinstance(value, str):
        return value
    if isinstance(wanted, bool):
        return {"true": True, "false": False}.get(value, value)
    if isinstance(wanted, float):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _is_same(value: object, wanted: object) -> bool:
    """True for one value of one type: to Python true is 1."""
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _object_in(path: Path, name: str) -> Mapping[str, Any]:
    """Return the object in a JSON file. Raises ProbeError."""
    for left in reversed(range(_TRIES)):
        try:
            document = decode_object(read_small(path, most=_FILE_BYTES), subject=name)
        except OSError as error:
            raise ProbeError(f"{name}: it cannot be read: {error.strerror}") from error
        except ProbeError:
            if not left:
                raise
            time.sleep(_TRY_SECONDS)
            continue
        if document.not_numbers:
            words = ", ".join(document.not_numbers[:3])
            raise ProbeError(f"{name}: not JSON: found {words}, expected finite numbers")
        return document.fields
    raise AssertionError("unreachable")


def _value_at(fields: Mapping[str, Any], name: str, path: str) -> Any:
    """Return a field, by its name or by the names that lead to it with dots between them."""
    if name in fields:
        return fields[name]
    inner: Any = fields
    for part in name.split("."):
        if not isinstance(inner, dict) or part not in inner:
            raise ProbeError(f"{path}: no field {name}; it has {keys_of(fields)}")
        inner = inner[part]
    return inner


def _instant(value: object, unit: str) -> float | None:
    """Return seconds since the epoch; None for what is no time in that unit."""
    if unit == "iso":
        return instant_of(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        return None
    return value / _UNITS[unit]
