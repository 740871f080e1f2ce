"""Is an engine's CTP session usable? From its trading state, or from its metrics page.

Process alive proves nothing, and market data up says nothing about trading: both channels are
logged in, settlement is confirmed and the private stream is drained, or the session is not
verified (DOMAIN: login order).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Unpack

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Member
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
from ctp_runbook.record.samples import series_key

__all__ = ["SessionState", "read_session", "read_trading_state"]

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
    running["key"] = "TRADING_STATE_CMD"
    code, output, said = run_probe_apart(command, **running)
    if code != 0:
        much = f" after {len(output) >> 20} MiB of output" if len(output) >= 1 << 20 else ""
        limit = f" within {running['seconds']:g} s{much}" if code is None else ""
        words = f"; it said: {said}" if said else ""
        raise ProbeError(f"{_subject(member)}: exit {code}, expected 0{limit}{words}")
    return output


def _subject(member: Member) -> str:
    return f"TRADING_STATE_CMD for {member.name}"
