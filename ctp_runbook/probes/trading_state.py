"""What an engine says of its trading state: read whole, or not at all (DOMAIN: trading state).

An object that lacks ``working_orders`` does not say that no order works, and one that calls its
positions by other names does not say that none is held. So the output of TRADING_STATE_CMD
becomes a typed value in which every field of the comparison stands, or a ProbeError with every
problem; nothing else comes out of here, whatever comes in.

What HANDOVER_COMPARES leaves out need not be there, for no engine has all of it. All else must: what
is to be compared and is not said is not equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.template_keys import HANDOVER_FACTS
from ctp_runbook.strict_json import (
    LARGEST_WHOLE,
    LONGEST_SHOWN,
    decode_object,
    keys_of,
    shown,
)

__all__ = [
    "COMPARED_FUNDS",
    "MisshapenState",
    "Position",
    "TradingState",
    "WorkingOrder",
    "instant_of",
    "is_logged_in",
    "parse_trading_state",
    "read_state_object",
    "session_problems",
    "stale_words",
]

# Fields that do not float with the price.
COMPARED_FUNDS = ("PreBalance", "Deposit", "Withdraw", "CloseProfit", "Commission")

_LOGIN_WORDS = ("logged_in", "ready")
_ORDER_NAMES = ("order_ref", "order_id", "id")
_SESSION_NAMES = ("front_id", "session_id")
# Of both engines alike: two ways of writing one day would look like two days, and across a
# settlement next to nothing is compared.
_DAY = re.compile(r"[0-9]{8}")
_SHOWN_PROBLEMS = 12
# CTP writes "no value" as the largest double, 1.8e308, which is finite: no account holds that.
_LARGEST_AMOUNT = 1e18
_LARGEST_VOLUME = 2**31


class MisshapenState(ProbeError):
    """An object was read that is no trading state; asked again, it would be none either.

    ``lacks`` are the facts of HANDOVER_COMPARES of which it says nothing at all.
    """

    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkingOrder:
    """An order that rests at the exchange; ``details`` is what else was said of it, for people.

    One reference is used again by another session of the day: ``session`` tells them apart,
    and is blank where the engine does not say.
    """

    order_ref: str
    session: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Position:
    """Lots held of one instrument in one direction."""

    instrument: str
    direction: str
    hedge_flag: str
    volume: int


@dataclass(frozen=True)
class TradingState:
    """A whole trading state. ``trading_day`` is YYYYMMDD.

    ``funds`` holds what the engine gives of COMPARED_FUNDS. ``notes`` are the fields that are
    written down and never compared. None is what HANDOVER_COMPARES leaves out and this engine
    does not say, or not in a way that can be understood; and all of the session where none of it is
    said, for another source may be asked for that.
    """

    td_session: str | bool | None
    md_session: str | bool | None
    settlement_confirmed: bool | None
    stream_drained: bool | None
    trading_day: str
    max_order_ref: int | None
    next_order_ref: int | None
    working_orders: tuple[WorkingOrder, ...] | None
    positions: tuple[Position, ...] | None
    funds: Mapping[str, float] | None
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        fields: Mapping[str, Any],
        *,
        subject: str,
        compares: Collection[str] = HANDOVER_FACTS,
    ) -> TradingState:
        """Return the state in an object that was read; ``subject`` says of what, in the error.

        Raises ProbeError with every problem of every field, those left out of ``compares`` apart.
        """
        # First: an error object lacks every field, and its own words say why.
        _refuse_error_of_ctp(fields, subject=subject)
        left_out = {name for fact in _FIELDS_OF.keys() - {*compares} for name in _FIELDS_OF[fact]}
        if fields.keys().isdisjoint(_SESSION_FORMS):
            left_out |= _SESSION_FORMS.keys()
        wanted = {name: form for name, form in _FORMS.items() if name not in left_out}
        if problems := _first(_problems(fields, wanted)):
            error = MisshapenState(f"{subject}: no whole trading state: {'; '.join(problems)}")
            error.lacks = tuple(
                fact
                for fact, names in _FIELDS_OF.items()
                if fact in compares and not fields.keys() & {*names}
            )
            raise error
        # A list of working orders that can be read is counted, compared or not.
        read = {name: _READ.get(name, _as_it_is)(fields[name]) for name in wanted}
        for name in left_out:
            is_said = not any(_problems(fields, {name: _FORMS[name]}))
            read[name] = _READ.get(name, _as_it_is)(fields[name]) if is_said else None
        notes = {name: fields[name] for name, fits in _NOTES.items() if fits(fields.get(name))}
        return cls(**read, notes=notes)

    @property
    def payload(self) -> dict[str, Any]:
        """The state as the journal keeps it; ``TradingState.of`` reads it back."""
        said = {name: getattr(self, name) for name in _FORMS}
        if self.working_orders is not None:
            said["working_orders"] = [dict(order.details) for order in self.working_orders]
        if self.positions is not None:
            said["positions"] = [dict(vars(position)) for position in self.positions]
        if self.funds is not None:
            said["funds"] = dict(self.funds)
        return {name: value for name, value in said.items() if value is not None} | dict(self.notes)

    @property
    def orders_by_ref(self) -> Counter[str]:
        """How many orders work under each reference; one that is listed twice is one."""
        return Counter(order.order_ref for order in set(self.working_orders or ()))

    @property
    def as_of(self) -> float | None:
        """When the engine says that this was so, in seconds since the epoch."""
        return instant_of(self.notes.get("as_of"))


def parse_trading_state(
    output: bytes, *, subject: str, compares: Collection[str] = HANDOVER_FACTS
) -> TradingState:
    """Return the trading state a command printed. Raises ProbeError, and nothing else."""
    document = decode_object(output, subject=subject)
    state = TradingState.of(document.fields, subject=subject, compares=compares)
    # Also in a field that nobody compares: what printed it is no writer of JSON.
    if document.not_numbers:
        words = ", ".join(document.not_numbers[:3])
        raise ProbeError(f"{subject}: not JSON: found {words}, expected finite numbers")
    return state


def read_state_object(output: bytes, *, subject: str) -> Mapping[str, Any]:
    """Return the one object a command printed, its fields not looked at yet.

    Raises ProbeError for anything else, and for CTP's own error object.
    """
    fields = decode_object(output, subject=subject).fields
    _refuse_error_of_ctp(fields, subject=subject)
    return fields


def session_problems(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what of the session is not said, or not in a form that can be understood."""
    return _first((*_field_problems(fields, _SESSION_FORMS), *_instant_problems(fields)))


def stale_words(as_of: float | None, *, now: float, most: float) -> str:
    """Return why what was so at ``as_of`` says nothing of ``now``, or nothing; unknown is not stale.

    Seconds since the epoch. A state of the future is none either: it is a clock that is wrong, or
    a file that was copied.
    """
    if as_of is None or abs(now - as_of) <= most:
        return ""
    when = f"{now - as_of:.0f} s ago" if as_of < now else f"{as_of - now:.0f} s from now"
    return (
        f"its as_of is {when}, more than trading_state_max_age_seconds {most:g} (limits.toml): it is "
        "a state that was kept, or a clock that is wrong; have the command ask the engine itself"
    )


def is_logged_in(value: object) -> bool:
    """Return True for the words of a login and for JSON's true.

    A bare 1 is not it, for on the metrics page 1 means not logged in.
    """
    return value is True or (isinstance(value, str) and value in _LOGIN_WORDS)


def _refuse_error_of_ctp(fields: Mapping[str, Any], *, subject: str) -> None:
    """Raise what CTP answers where it has nothing to tell: ``ErrorID``, 0 for no error."""
    code = fields.get("ErrorID", 0)
    if code == 0 and isinstance(code, int):
        return
    message = shown(fields.get("ErrorMsg", ""))
    raise ProbeError(
        f"{subject}: an error of CTP and no trading state: ErrorID {shown(code)}, "
        f"ErrorMsg {message}"
    )


# --- the forms of the fields ------------------------------------------------------

_Fits = Callable[[Any], bool]
_Form = tuple[_Fits, str]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_WHOLE


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST_AMOUNT


def _is_text(value: object) -> bool:
    """Return True for a printable name; half a surrogate pair and control characters are none."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= LONGEST_SHOWN
        and value.isprintable()
    )


def _is_order_id(value: object) -> bool:
    return _is_count(value) or _is_text(value)


def _is_day(value: object) -> bool:
    """Return True for the text YYYYMMDD of a real date."""
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        return False
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def instant_of(value: object) -> float | None:
    """Return the seconds since the epoch of a time stamp with its offset from UTC; None for others."""
    if not isinstance(value, str) or not _is_text(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.utcoffset() is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None


_LOGIN: _Form = (
    lambda value: _is_bool(value) or value == "" or _is_text(value),
    "a word (ready, logged_in, connected, …) or true or false",
)
_FLAG: _Form = (_is_bool, "true or false")
_COUNT: _Form = (_is_count, "a whole number from 0 on")
_NAME: _Form = (_is_text, "a name")
_SESSION_FORMS: Mapping[str, _Form] = {
    "td_session": _LOGIN,
    "md_session": _LOGIN,
    "settlement_confirmed": _FLAG,
    "stream_drained": _FLAG,
}
_FORMS: Mapping[str, _Form] = {
    **_SESSION_FORMS,
    "trading_day": (_is_day, "a date as YYYYMMDD, in a text"),
    "max_order_ref": _COUNT,
    "next_order_ref": _COUNT,
    "working_orders": (lambda value: isinstance(value, list), "a list, [] when none works"),
    "positions": (lambda value: isinstance(value, list), "a list, [] when none is held"),
    "funds": (lambda value: isinstance(value, dict), "an object"),
}
_POSITION_FORMS: Mapping[str, _Form] = {
    "instrument": _NAME,
    "direction": (lambda value: value in ("long", "short"), "long or short"),
    "hedge_flag": _NAME,
    "volume": (
        lambda value: _is_count(value) and value < _LARGEST_VOLUME,
        "lots, a whole number from 0 on",
    ),
}
_NOTES: Mapping[str, _Fits] = {
    "front_id": _is_whole,
    "session_id": _is_whole,
    "login_attempts_left": _is_whole,
    "as_of": _is_text,
}
# The fields in which each fact of HANDOVER_COMPARES stands.
_FIELDS_OF: Mapping[str, tuple[str, ...]] = {
    **{fact: (fact,) for fact in HANDOVER_FACTS},
    "order_ref": ("max_order_ref", "next_order_ref"),
}


# --- what is wrong with them ------------------------------------------------------


def _problems(fields: Mapping[str, Any], forms: Mapping[str, _Form]) -> Iterator[str]:
    """Yield what is wrong with each field: its name, what was read, what is expected."""
    yield from _field_problems(fields, forms)
    yield from _instant_problems(fields)
    if "working_orders" in forms:
        yield from _item_problems(fields, "working_orders", _order_problems)
    if "positions" in forms:
        yield from _item_problems(fields, "positions", _position_problems)
    if "funds" in forms and isinstance(funds := fields.get("funds"), dict):
        yield from _funds_problems(funds)


def _instant_problems(fields: Mapping[str, Any]) -> Iterator[str]:
    if "as_of" in fields and instant_of(fields["as_of"]) is None:
        expected = "a time stamp with its offset, such as 2026-03-02T01:02:03Z, or no such field"
        yield f"as_of: found {shown(fields['as_of'])}, expected {expected}"


def _field_problems(
    fields: Mapping[str, Any], forms: Mapping[str, _Form], *, within: str = ""
) -> Iterator[str]:
    missing = [name for name in forms if name not in fields]
    for name, (fits, expected) in forms.items():
        if name in fields and not fits(fields[name]):
            yield f"{within}{name}: found {shown(fields[name])}, expected {expected}"
    for name in missing:
        yield f"{within}{name}: missing, expected {forms[name][1]}"
    if missing:
        yield f"{within or 'it '}has {keys_of(fields)}"


def _item_problems(
    fields: Mapping[str, Any], name: str, problems: Callable[[str, Any], Iterator[str]]
) -> Iterator[str]:
    items = fields.get(name)
    for place, item in enumerate(items if isinstance(items, list) else ()):
        where = f"{name}[{place}]"
        if isinstance(item, dict):
            yield from problems(where, item)
        else:
            yield f"{where}: found {shown(item)}, expected an object"


def _position_problems(where: str, item: Mapping[str, Any]) -> Iterator[str]:
    return _field_problems(item, _POSITION_FORMS, within=f"{where} ")


def _order_problems(where: str, item: Mapping[str, Any]) -> Iterator[str]:
    name = _order_name(item)
    if not name:
        yield f"{where}: has {keys_of(item)}, expected one of {', '.join(_ORDER_NAMES)}"
    elif not _is_order_id(item[name]):
        expected = "a name or a whole number from 0 on"
        yield f"{where} {name}: found {shown(item[name])}, expected {expected}"


def _funds_problems(funds: Mapping[str, Any]) -> Iterator[str]:
    """Yield wrong amounts, and names nearly right: those would be left out without a word."""
    known = {_plain(name): name for name in COMPARED_FUNDS}
    for name, value in funds.items():
        meant = known.get(_plain(name))
        if meant is not None and meant != name:
            yield f"funds {shown(name)}: an unknown name, expected {meant}"
        elif meant and not _is_amount(value):
            yield f"funds {name}: found {shown(value)}, expected a finite number"
    if funds and not known.keys() & set(map(_plain, funds)):
        yield f"funds has {keys_of(funds)}, expected of {', '.join(COMPARED_FUNDS)}"


def _plain(name: str) -> str:
    return re.sub("[_ -]", "", name).casefold()


def _first(problems: Iterable[str]) -> tuple[str, ...]:
    """Return the first dozen: thousands of orders may all be wrong in the same way."""
    first = tuple(islice(problems, _SHOWN_PROBLEMS + 1))
    return first if len(first) <= _SHOWN_PROBLEMS else (*first[:_SHOWN_PROBLEMS], "and more")


# --- the values -------------------------------------------------------------------


def _order_name(item: Mapping[str, Any]) -> str:
    return next((name for name in _ORDER_NAMES if name in item), "")


def _order(item: Mapping[str, Any]) -> WorkingOrder:
    session = [str(item[name]) for name in _SESSION_NAMES if _is_order_id(item.get(name))]
    details = {key: value for key, value in item.items() if _is_text(key) and _is_detail(value)}
    # CTP pads a reference with blanks on the left, and some engines take them away.
    return WorkingOrder(str(item[_order_name(item)]).strip(), "/".join(session), details)


def _is_detail(value: object) -> bool:
    return any(fits(value) for fits in (_is_bool, _is_text, _is_whole, _is_amount))


def _position(item: Mapping[str, Any]) -> Position:
    return Position(**{name: item[name] for name in _POSITION_FORMS})


def _funds(funds: Mapping[str, float]) -> Mapping[str, float]:
    return {name: funds[name] for name in COMPARED_FUNDS if name in funds}


def _as_it_is(value: Any) -> Any:
    return value


# What becomes of a field that fits its form; all others stay as they are.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "working_orders": lambda items: tuple(map(_order, items)),
    "positions": lambda items: tuple(map(_position, items)),
    "funds": _funds,
}
