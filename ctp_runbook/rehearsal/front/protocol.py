"""The words a twin client and the simulated CTP front exchange: one JSON object a line.

A client sends ``{"op": …, "rid": n, …}``; the front answers ``{"reply": …, "rid": n,
"error_id": 0, "return_code": 0, …}`` and pushes ``{"push": …}`` on its own. Error numbers are
CTP's (error.xml of the API); return codes are those the API's request calls give back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from ctp_runbook.errors import RunbookError

__all__ = [
    "AUTH_CODE",
    "PASSWORD",
    "USER",
    "CtpError",
    "Login",
    "Message",
    "Op",
    "ProtocolError",
    "Push",
    "ReturnCode",
    "SessionState",
    "decode",
    "encode",
    "read_ports",
    "trading_day",
]

Message: TypeAlias = dict[str, Any]

# The twin's one account. Nothing outside the twin knows it, so it is no secret.
USER = "twin"
PASSWORD = "twin-account-password"
AUTH_CODE = "twin-app-authentication"


class ProtocolError(RunbookError):
    """A line that is no JSON object, or a session that ended in the middle of a request."""


class Op(StrEnum):
    """What a client may ask for."""

    AUTHENTICATE = "authenticate"
    LOGIN = "login"
    CONFIRM_SETTLEMENT = "confirm_settlement"
    QUERY = "query"
    RESUME = "resume"
    SUBSCRIBE = "subscribe"
    INSERT = "insert"
    CANCEL = "cancel"
    HEARTBEAT = "heartbeat"
    LOGOUT = "logout"


class Push(StrEnum):
    """What the front sends unasked."""

    ORDER = "order"
    TRADE = "trade"
    STREAM_DRAINED = "stream_drained"
    TICK = "tick"
    HEARTBEAT = "heartbeat"


class CtpError(IntEnum):
    """CTP's own error numbers, as far as the twin's front gives them."""

    NONE = 0
    INVALID_LOGIN = 3
    DUPLICATE_LOGIN = 5
    NOT_LOGIN_YET = 6
    NOT_INITED = 7
    INSTRUMENT_NOT_FOUND = 16
    DUPLICATE_ORDER_REF = 22
    ORDER_NOT_FOUND = 25
    INSUFFICIENT_MONEY = 31
    SETTLEMENT_NOT_CONFIRMED = 42
    AUTHENTICATION_FAILED = 63
    LOGIN_FORBIDDEN = 75
    QUERY_NOT_READY = 90


class ReturnCode(IntEnum):
    """What a request call of the API gives back before anything reaches the front."""

    SENT = 0
    TOO_MANY_PENDING = -2
    TOO_MANY_PER_SECOND = -3


class SessionState(IntEnum):
    """How far a session got; the value of ``quant_hft_ctp_session_state``. MD ends at 2."""

    DISCONNECTED = 0
    CONNECTED = 1
    LOGGED_IN = 2
    SETTLEMENT_CONFIRMED = 3
    READY = 4


@dataclass(frozen=True)
class Login:
    """Who logs in. ``generation`` and ``role`` travel as UserProductInfo does in CTP."""

    generation: str
    role: str
    user: str = USER
    password: str = PASSWORD
    auth_code: str = AUTH_CODE

    def fields(self, *, pid: int) -> Message:
        """The login request's fields."""
        return {**asdict(self), "pid": pid}


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The object on one line; raises ProtocolError for anything else."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"found {line[:80]!r}; expected one JSON object a line") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"found {line[:80]!r}; expected one JSON object a line")
    return message


def trading_day() -> str:
    """``YYYYMMDD`` in China; the twin's day does not roll in the evening as the real one does."""
    return datetime.now(timezone(timedelta(hours=8))).strftime("%Y%m%d")


def read_ports(front_dir: Path) -> dict[str, Any]:
    """The front's ``ports.json``: ``td``, ``md``, ``control`` and the list ``reserved``.

    Raises ProtocolError while the front has not written it.
    """
    path = front_dir / "ports.json"
    try:
        return decode(path.read_bytes())
    except (OSError, ProtocolError) as error:
        raise ProtocolError(f"the front has not written {path} ({error}); is it up?") from error
