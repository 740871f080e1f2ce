"""Is an engine's CTP session usable? From its trading state, or from its metrics page.

Process alive proves nothing, and market data up says nothing about trading: both channels are
logged in, settlement is confirmed and the private stream is drained, or the session is not
verified (DOMAIN: login order).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import Member
from ctp_runbook.probes.liveness import run_probe_apart
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.samples import series_key

__all__ = ["SessionState", "read_session", "read_trading_state"]

_STATE = "quant_hft_ctp_session_state"
_LOGGED_IN, _CONFIRMED, _DRAINED = 2, 3, 4


@dataclass(frozen=True)
class SessionState:
    """What is known of one engine's sessions, with the source that said so."""

    td_logged_in: bool
    md_logged_in: bool
    settlement_confirmed: bool
    stream_drained: bool
    source: str

    @property
    def is_verified(self) -> bool:
        """True when the engine may be given orders."""
        return (
            self.td_logged_in
            and self.md_logged_in
            and self.settlement_confirmed
            and self.stream_drained
        )

    @property
    def sentence(self) -> str:
        """Each part, with yes or no."""
        parts = {
            "TD logged in": self.td_logged_in,
            "MD logged in": self.md_logged_in,
            "settlement confirmed": self.settlement_confirmed,
            "private stream drained": self.stream_drained,
        }
        told = ", ".join(f"{name}: {'yes' if seen else 'no'}" for name, seen in parts.items())
        return f"{told} ({self.source})"


def read_session(
    member: Member,
    *,
    command: str,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
) -> SessionState:
    """The session of ``member``, by ``command`` (TRADING_STATE_CMD) when there is one.

    Raises ProbeError when neither source answers.
    """
    if command:
        state = read_trading_state(
            command, member=member, cwd=cwd, env=env, seconds=seconds, interrupt=interrupt
        )
        return SessionState(
            td_logged_in=str(state.get("td_session")) in _LOGIN_WORDS,
            md_logged_in=str(state.get("md_session")) in _LOGIN_WORDS,
            settlement_confirmed=state.get("settlement_confirmed") is True,
            stream_drained=state.get("stream_drained") is True,
            source="TRADING_STATE_CMD",
        )
    return _from_metrics(member, seconds=seconds)


# "True" is JSON's true; a bare 1 is not it, for on the metrics page 1 means not logged in.
_LOGIN_WORDS = ("logged_in", "ready", "True")


def _from_metrics(member: Member, *, seconds: float) -> SessionState:
    series = scrape(member.metrics_url, families=[_STATE], seconds=seconds)
    td = series.get(series_key(_STATE, {"channel": "td"}))
    md = series.get(series_key(_STATE, {"channel": "md"}))
    if td is None or md is None:
        raise ProbeError(
            f"{member.metrics_url}: no {_STATE} for td and md; set TRADING_STATE_CMD in the template"
        )
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
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    interrupt: Callable[[], str] = lambda: "",
) -> dict[str, Any]:
    """The JSON object TRADING_STATE_CMD prints; CTP_GENERATION tells it which engine is meant.

    What it says on stderr is for people and quoted when it fails; it is no part of the object.

    Raises ProbeError for anything but one object and exit 0 within ``seconds``.
    """
    told = {
        **env,
        "CTP_GENERATION": str(member.generation),
        "CTP_METRICS_URL": member.metrics_url,
    }
    code, output, said = run_probe_apart(
        command, cwd=cwd, env=told, seconds=seconds, interrupt=interrupt
    )
    if code != 0:
        words = f"; it said: {said}" if said else ""
        raise ProbeError(f"TRADING_STATE_CMD for {member.name}: exit {code}, expected 0{words}")
    try:
        state = json.loads(output)
    except ValueError as error:
        raise ProbeError(f"TRADING_STATE_CMD for {member.name}: not JSON: {error}") from error
    if not isinstance(state, dict):
        raise ProbeError(f"TRADING_STATE_CMD for {member.name}: not a JSON object")
    return state
