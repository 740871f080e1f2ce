"""What an engine says of its trading state: read whole, or not at all (DOMAIN: trading state).

An object that lacks ``working_orders`` does not say that no order works, and one that calls its
positions by other names does not say that none is held. So the output of TRADING_STATE_CMD
becomes a typed value in which every field of the comparison stands, or a ProbeError with every
problem; nothing else comes out of here, whatever comes in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes.strict_json import (
    LARGEST_WHOLE,
    LONGEST_SHOWN,
    decode_object,
    keys_of,
    shown,
)

__all__ = [
    "COMPARED_FUNDS",
    "Position",
    "TradingState",
    "WorkingOrder",
    "is_logged_in",
    "parse_trading_state",
    "read_state_object",
    "session_problems",
]

# Fields that do not float with the price.
COMPARED_FUNDS = ("PreBalance", "Deposit", "Withdraw", "CloseProfit", "Commission")

_LOGIN_WORDS = ("logged_in", "ready")
_ORDER_NAMES = ("order_ref", "order_id", "id")
_SESSION_NAMES = ("front_id", "session_id")
_DAY = re.compile(r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})")
_SHOWN_PROBLEMS = 12
# CTP writes "no value" as the largest double, 1.8e308, which is finite: no account holds that.
_LARGEST_AMOUNT = 1e18
_LARGEST_VOLUME = 2**31


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
    """A whole trading state. ``trading_day`` is YYYYMMDD, whichever way it was written.

    ``funds`` holds what the engine gives of COMPARED_FUNDS. ``notes`` are the fields that are
    written down and never compared.
    """

    td_session: str | bool
    md_session: str | bool
    settlement_confirmed: bool
    stream_drained: bool
    trading_day: str
    max_order_ref: int
    next_order_ref: int
    working_orders: tuple[WorkingOrder, ...]
    positions: tuple[Position, ...]
    funds: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any], *, subject: str) -> TradingState:
        """Return the state in an object that was read; ``subject`` says of what, in the error.

        Raises ProbeError with every problem of every field.
        """
        # First: an error object lacks every field, and its own words say why.
        _refuse_error_of_ctp(fields, subject=subject)
        if problems := _first(_problems(fields)):
            raise ProbeError(f"{subject}: no whole trading state: {'; '.join(problems)}")
        funds = fields["funds"]
        read = {
            **fields,
            "trading_day": _day(fields["trading_day"]),
            "working_orders": tuple(map(_order, fields["working_orders"])),
            "positions": tuple(map(_position, fields["positions"])),
            "funds": {name: funds[name] for name in COMPARED_FUNDS if name in funds},
        }
        notes = {name: fields[name] for name, fits in _NOTES.items() if fits(fields.get(name))}
        return cls(**{name: read[name] for name in _FORMS}, notes=notes)

    @property
    def payload(self) -> dict[str, Any]:
        """The state as the journal keeps it; ``TradingState.of`` reads it back."""
        return {
            **{name: getattr(self, name) for name in _FORMS},
            "working_orders": [dict(order.details) for order in self.working_orders],
            "positions": [dict(vars(position)) for position in self.positions],
            "funds": dict(self.funds),
            **self.notes,
        }

    @property
    def orders_by_ref(self) -> Counter[str]:
        """How many orders work under each reference; one that is listed twice is one."""
        return Counter(order.order_ref for order in set(self.working_orders))


def parse_trading_state(output: bytes, *, subject: str) -> TradingState:
    """Return the trading state a command printed. Raises ProbeError, and nothing else."""
    document = decode_object(output, subject=subject)
    state = TradingState.of(document.fields, subject=subject)
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
    return _first(_field_problems(fields, _SESSION_FORMS))


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


def _day(value: object) -> str:
    """Return YYYYMMDD of a real date, also of a whole number or with dashes; else nothing."""
    text = str(value) if _is_whole(value) else value
    parts = _DAY.fullmatch(text) if isinstance(text, str) else None
    if parts is None:
        return ""
    try:
        return date(int(parts[1]), int(parts[3]), int(parts[4])).isoformat().replace("-", "")
    except ValueError:
        return ""


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
    "trading_day": (lambda value: bool(_day(value)), "a date as YYYYMMDD"),
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


# --- what is wrong with them ------------------------------------------------------


def _problems(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each field: its name, what was read, what is expected."""
    yield from _field_problems(fields, _FORMS)
    yield from _item_problems(fields, "working_orders", _order_problems)
    yield from _item_problems(fields, "positions", _position_problems)
    if isinstance(funds := fields.get("funds"), dict):
        yield from _funds_problems(funds)


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
