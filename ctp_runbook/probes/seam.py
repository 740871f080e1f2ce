"""What the probes add to the seam: how a run asks a member, a session, a page.

Protocols alone; the modules of this room implement them, and a simulated host may too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ctp_runbook.model import Identity, Member

if TYPE_CHECKING:
    from ctp_runbook.host.pin import Pin
    from ctp_runbook.plan.session_sources import SessionPlan
    from ctp_runbook.probes.liveness import Liveness
    from ctp_runbook.probes.session import SessionFacts, SessionState
    from ctp_runbook.probes.trading_state import TradingState

__all__ = ["Pages", "Sessions", "Supervisors", "Webhooks", "Witnesses"]


class Witnesses(Protocol):
    """Who tells whether a member lives."""

    def observe_member(
        self,
        member: Member,
        *,
        known: Identity | None,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        leftovers: tuple[int, ...] = (),
        survivors: tuple[int, ...] = (),
        lookalikes: tuple[int, ...] | None = None,
        interrupt: Callable[[], str] = ...,
    ) -> Liveness:
        """Ask every witness once, and return what they said."""

    def shows_by_name_or_port(self, member: Member, *, known: Identity | None, cwd: Path) -> bool:
        """Return True where a cheap glance says that something of it runs."""

    def recorded_identity(self, member: Member, *, cwd: Path = ...) -> Identity | None:
        """Return who its pid file or unit names."""

    def processes_of_step(self, run_id: str, steps: tuple[str, ...]) -> tuple[int, ...]:
        """Return the live processes that steps of a run started."""


class Supervisors(Protocol):
    """What can be seen beforehand of who starts a member again."""

    def signs_of_revival(
        self,
        member: Member,
        pin: Pin,
        *,
        stop_command: str,
        seconds: float,
        interrupt: Callable[[], str] = ...,
    ) -> tuple[str, ...]:
        """Return a sentence for each sign that it will not end, or not stay ended."""

    def gap_in_pin(self, member: Member, pin: Pin) -> str:
        """Return why the pinned process is not the member itself, or nothing."""

    def ends_this_tool(self, command: str) -> str:
        """Return why a stop command would end this tool as well, or nothing."""


class Sessions(Protocol):
    """What an engine says of itself; each method raises ProbeError for no whole answer."""

    def read_session(
        self,
        member: Member,
        *,
        command: str,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        interrupt: Callable[[], str] = ...,
    ) -> SessionState:
        """Return whether its session is usable."""

    def read_facts(
        self,
        member: Member,
        *,
        asked: SessionPlan,
        known: Identity | None,
        wall: float,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        interrupt: Callable[[], str] = ...,
    ) -> SessionFacts:
        """Return what its declared sources tell of its session; none raises."""

    def read_trading_state(
        self,
        command: str,
        *,
        member: Member,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        compares: Collection[str] = ...,
        interrupt: Callable[[], str] = ...,
    ) -> TradingState:
        """Return its orders, positions and funds; those of ``compares`` it must say."""


class Pages(Protocol):
    """Pages of metrics; each method raises ProbeError."""

    def fetch(self, url: str, *, seconds: float) -> bytes:
        """Return a page whole."""

    def scrape(self, url: str, *, families: Collection[str], seconds: float) -> Mapping[str, float]:
        """Return the series of some families on a page."""


class Webhooks(Protocol):
    """Pages that call for a person."""

    def post_json(self, url: str, facts: Mapping[str, str], *, seconds: float) -> str:
        """Send facts to a page; return why they were not taken, or nothing."""
