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
        """The state in an object that was read; ``subject`` says of what, in the error.

        Raises ProbeError with every problem of every field.
        """
        _refuse_error_of_ctp(fields, subject=subject)
        if problems := _told(_problems(fields), limit=_SHOWN_PROBLEMS):
            raise ProbeError(f"{subject}: no whole trading state: {'; '.join(problems)}")
        return cls(
            td_session=fields["td_session"],
            md_session=fields["md_session"],
            settlement_confirmed=fields["settlement_confirmed"],
            stream_drained=fields["stream_drained"],
            trading_day=_day(fields["trading_day"]),
            max_order_ref=fields["max_order_ref"],
            next_order_ref=fields["next_order_ref"],
            working_orders=tuple(map(_order, fields["working_orders"])),
            positions=tuple(map(_position, fields["positions"])),
            funds={
                name: fields["funds"][name] for name in COMPARED_FUNDS if name in fields["funds"]
            },
            notes={name: fields[name] for name, fits in _NOTES.items() if fits(fields.get(name))},
        )

    @property
    def payload(self) -> dict[str, Any]:
        """The state as the journal keeps it; ``TradingState.of`` reads it back."""
        return {
            "td_session": self.td_session,
            "md_session": self.md_session,
            "settlement_confirmed": self.settlement_confirmed,
            "stream_drained": self.stream_drained,
            "trading_day": self.trading_day,
            "max_order_ref": self.max_order_ref,
            "next_order_ref": self.next_order_ref,
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
    """The trading state a command printed. Raises ProbeError, and nothing else."""
    document = decode_object(output, subject=subject)
    state = TradingState.of(document.fields, subject=subject)
    if document.not_numbers:
        found = ", ".join(document.not_numbers[:3])
        raise ProbeError(f"{subject}: not JSON: found {found}, expected finite numbers")
    return state


def read_state_object(output: bytes, *, subject: str) -> Mapping[str, Any]:
    """The one object a command printed, its fields not looked at yet.

    Raises ProbeError for anything else, and for CTP's own error object.
    """
    fields = decode_object(output, subject=subject).fields
    _refuse_error_of_ctp(fields, subject=subject)
    return fields


def session_problems(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the session is not said, or in another form than it can be understood in."""
    return _told(_field_problems(fields, _SESSION_FORMS), limit=_SHOWN_PROBLEMS)


def is_logged_in(value: object) -> bool:
    """True for the words of a login and for JSON's true.

    A bare 1 is not it, for on the metrics page 1 means not logged in.
    """
    return value is True or (isinstance(value, str) and value in _LOGIN_WORDS)


# --- the fields -------------------------------------------------------------------


def _refuse_error_of_ctp(fields: Mapping[str, Any], *, subject: str) -> None:
    """CTP answers with ``ErrorID`` where it has nothing to tell; 0 is its word for no error."""
    code = fields.get("ErrorID", 0)
    if code == 0 and isinstance(code, int):
        return
    said = shown(fields.get("ErrorMsg", ""))
    raise ProbeError(
        f"{subject}: an error of CTP and no trading state: ErrorID {shown(code)}, ErrorMsg {said}"
    )


def _is_login(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and (not value or _is_text(value)))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and -LARGEST_WHOLE < value < LARGEST_WHOLE
    )


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_volume(value: Any) -> bool:
    return _is_count(value) and value < _LARGEST_VOLUME


def _is_amount(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST_AMOUNT  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    """Half a surrogate pair and control characters are not printable, and no name either."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= LONGEST_SHOWN
        and value.isprintable()
    )


def _is_direction(value: object) -> bool:
    return isinstance(value, str) and value in ("long", "short")


def _is_day(value: object) -> bool:
    return bool(_day(value))


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_order_id(value: object) -> bool:
    return _is_count(value) or _is_text(value)


_Form = tuple[Callable[[Any], bool], str]
_SESSION_FORMS: Mapping[str, _Form] = {
    "td_session": (_is_login, "a word (ready, logged_in, connected, …) or true or false"),
    "md_session": (_is_login, "a word (ready, logged_in, connected, …) or true or false"),
    "settlement_confirmed": (_is_flag, "true or false"),
    "stream_drained": (_is_flag, "true or false"),
}
_FORMS: Mapping[str, _Form] = {
    **_SESSION_FORMS,
    "trading_day": (_is_day, "a date as YYYYMMDD"),
    "max_order_ref": (_is_count, "a whole number from 0 on"),
    "next_order_ref": (_is_count, "a whole number from 0 on"),
    "working_orders": (_is_list, "a list, [] when none works"),
    "positions": (_is_list, "a list, [] when none is held"),
    "funds": (_is_object, "an object"),
}
_POSITION_FORMS: Mapping[str, _Form] = {
    "instrument": (_is_text, "a name"),
    "direction": (_is_direction, "long or short"),
    "hedge_flag": (_is_text, "a name"),
    "volume": (_is_volume, "lots, a whole number from 0 on"),
}
_NOTES: Mapping[str, Callable[[Any], bool]] = {
    "front_id": _is_whole,
    "session_id": _is_whole,
    "login_attempts_left": _is_whole,
    "as_of": _is_text,
}


def _problems(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with each field: its name, what was read, what is expected."""
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
        found = shown(item[name])
        yield f"{where} {name}: found {found}, expected a name or a whole number from 0 on"


def _funds_problems(funds: Mapping[str, Any]) -> Iterator[str]:
    """A name nearly right would be left out of the comparison without a word."""
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
    return name.replace("_", "").replace("-", "").replace(" ", "").casefold()


# --- the values -------------------------------------------------------------------


def _day(value: object) -> str:
    """YYYYMMDD of a real date, also from a whole number or with dashes; else nothing."""
    text = str(value) if _is_whole(value) else value
    parts = _DAY.fullmatch(text) if isinstance(text, str) else None
    if parts is None:
        return ""
    try:
        date(int(parts[1]), int(parts[3]), int(parts[4]))
    except ValueError:
        return ""
    return f"{parts[1]}{parts[3]}{parts[4]}"


def _order_name(item: Mapping[str, Any]) -> str:
    return next((name for name in _ORDER_NAMES if name in item), "")


def _order(item: Mapping[str, Any]) -> WorkingOrder:
    said = [str(item[name]) for name in _SESSION_NAMES if _is_order_id(item.get(name))]
    details = {key: value for key, value in item.items() if _is_text(key) and _is_plain(value)}
    # CTP pads a reference with blanks on the left, and some engines take them away.
    return WorkingOrder(str(item[_order_name(item)]).strip(), "/".join(said), details)


def _is_plain(value: object) -> bool:
    return isinstance(value, bool) or _is_text(value) or _is_whole(value) or _is_amount(value)


def _position(item: Mapping[str, Any]) -> Position:
    return Position(**{name: item[name] for name in _POSITION_FORMS})


# --- words ------------------------------------------------------------------------


def _told(problems: Iterable[str], *, limit: int) -> tuple[str, ...]:
    """The first ``limit`` problems: thousands of orders may all be wrong in the same way."""
    first = tuple(islice(problems, limit + 1))
    return first if len(first) <= limit else (*first[:limit], "and more")
