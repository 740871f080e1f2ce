"""A host that is only said to be there: time passes when somebody waits, members live as they are told.

It stands behind the seam (run/world.py) in place of processes, probes and clocks; files are real.
What is decided can be tried in any situation, in no time, and the same each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from ctp_runbook.errors import ProbeError
from ctp_runbook.host.held_command import CommandEnd
from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import GroupEnd, boot_id
from ctp_runbook.model import Identity, Member
from ctp_runbook.plan.session_sources import SessionPlan
from ctp_runbook.probes.liveness import Liveness
from ctp_runbook.probes.session import Fact, SessionFacts, SessionState
from ctp_runbook.probes.trading_state import TradingState
from ctp_runbook.run.world import HERE, World

__all__ = ["SimulatedClock", "SimulatedHost"]

MEMBERS = ("old_core_engine", "old_strategy_runner", "new_core_engine", "new_strategy_runner")
# Of this boot: the journal writes its own clock and boot still.
IDENTITIES = {name: Identity(1000 + n, 7, boot_id()) for n, name in enumerate(MEMBERS)}
COMMAND = Identity(5000, 7, boot_id())


@dataclass
class SimulatedClock:
    """Stands still until somebody sleeps; from now on, for records are of the real clock."""

    now: float = field(default_factory=time.monotonic)

    def wall(self) -> float:
        """The real one: files that are judged by their age carry real times."""
        return time.time()

    def mono(self) -> float:
        """Since some start."""
        return self.now

    def boot(self) -> float:
        """Nothing is ever suspended."""
        return self.now

    def boot_id(self) -> str:
        """The one there is."""
        return boot_id()

    def sleep(self, seconds: float) -> None:
        """It is later now."""
        self.now += max(0.0, seconds)

    def wait(self, event: threading.Event, *, seconds: float) -> bool:
        """Nobody sets an event here."""
        self.sleep(seconds)
        return event.is_set()


@dataclass
class SimulatedHost:
    """``lives``: what each member is said to be, alive, gone or undecided; ``exits``: the exit code
    of a command that is not to end well, and ``acts`` what a command does when it runs."""

    clock: SimulatedClock = field(default_factory=SimulatedClock)
    lives: dict[str, str] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    acts: dict[str, Callable[[], object]] = field(default_factory=dict)
    session: bool | str = True
    after_look: Callable[[], None] = lambda: None
    ran: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    graces: list[tuple[float, float]] = field(default_factory=list)
    alike: tuple[Identity, ...] = ()
    deaf: set[str] = field(default_factory=set)
    signs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stubborn: set[Identity] = field(default_factory=set)

    @property
    def world(self) -> World:
        """This host as a run reaches it."""
        return structs.replace(
            HERE,
            clock=self.clock,
            commands=self,
            processes=self,
            pins=self,
            witnesses=self,
            supervisors=self,
            sessions=self,
        )

    # --- commands -----------------------------------------------------------------

    def hold(
        self, command: str, *, cwd: Path, env: Mapping[str, str], output: Path
    ) -> SimulatedCommand:
        """A command that ends at once when it is released."""
        output.touch()
        return SimulatedCommand(self, command)

    # --- processes ----------------------------------------------------------------

    def own_identity(self) -> Identity:
        """Who asks."""
        return Identity(1, 1, boot_id())

    def identity_of(self, pid: int) -> Identity | None:
        """Whoever of the members has that pid and lives."""
        return next((one for one in self.running if one.pid == pid), None)

    @property
    def running(self) -> set[Identity]:
        """The members that run."""
        return {IDENTITIES[name] for name, word in self.lives.items() if word != "gone"}

    def is_running(self, identity: Identity) -> bool:
        """True for a member that is not gone."""
        return identity in self.running

    def ignores_term(self, pid: int) -> bool:
        """True for the deaf."""
        return pid in {IDENTITIES[name].pid for name in self.deaf}

    def children_of(self, parent: Identity) -> tuple[Identity, ...]:
        """Nobody has any."""
        return ()

    def group_members(self, pgid: int) -> tuple[int, ...]:
        """Nothing leads a group."""
        return ()

    def wait_gone(self, identity: Identity, *, seconds: float) -> bool:
        """At once, or never."""
        return not self.is_running(identity)

    def end_processes(
        self,
        identities: Iterable[Identity],
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> tuple[Identity, ...]:
        """All go but the stubborn."""
        self.graces.append((term_grace, kill_grace))
        wanted = tuple(identities)
        for name, identity in IDENTITIES.items():
            if identity in wanted and identity not in self.stubborn:
                self.lives[name] = "gone"
        return tuple(identity for identity in wanted if identity in self.stubborn)

    def end_group(
        self,
        pgid: int,
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> GroupEnd:
        """There is nobody in it."""
        return GroupEnd((), killed=False)

    # --- pins ---------------------------------------------------------------------

    def pin_process(self, identity: Identity, *, before: Pin | None = None) -> Pin:
        """By its identity alone."""
        return Pin(identity)

    def below(self, identity: Identity) -> tuple[Identity, ...]:
        """Nobody."""
        return ()

    def survivors(self, pin: Pin) -> tuple[Identity, ...]:
        """Nobody."""
        return ()

    def lookalikes(
        self,
        pin: Pin,
        *,
        run_ids: Collection[str],
        others: Collection[Identity],
        starts: Collection[str] | None = None,
    ) -> tuple[Identity, ...]:
        """Whoever was said to be."""
        return self.alike

    # --- probes -------------------------------------------------------------------

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
        interrupt: Callable[[], str] = lambda: "",
    ) -> Liveness:
        """What the member is said to be; a look takes a tenth of a second."""
        self.looks.append(member.name)
        self.clock.sleep(0.1)
        word = self.lives.get(member.name, "gone")
        seen = Liveness(
            member.name,
            command={"alive": 0, "gone": 1, "silent": None}.get(word, 3),
            identity=IDENTITIES[member.name] if word != "gone" else None,
            identity_known=True,
            port_open=None,
            lookalikes=lookalikes,
        )
        self.after_look()
        return seen

    def gap_in_pin(self, member: Member, pin: Pin) -> str:
        """None."""
        return ""

    def ends_this_tool(self, command: str) -> str:
        """No."""
        return ""

    def signs_of_revival(
        self,
        member: Member,
        pin: Pin,
        *,
        stop_command: str,
        seconds: float,
        interrupt: Callable[[], str] = lambda: "",
    ) -> tuple[str, ...]:
        """What was said to be seen."""
        return self.signs.get(member.name, ())

    def shows_by_name_or_port(self, member: Member, *, known: Identity | None, cwd: Path) -> bool:
        """True where it is not said to be gone."""
        return self.lives.get(member.name, "gone") != "gone"

    def recorded_identity(self, member: Member, *, cwd: Path = Path()) -> Identity | None:
        """Its own."""
        return IDENTITIES[member.name]

    def processes_of_step(self, run_id: str, steps: tuple[str, ...]) -> tuple[int, ...]:
        """Nothing carries a mark."""
        return ()

    def read_session(
        self,
        member: Member,
        *,
        command: str,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        interrupt: Callable[[], str] = lambda: "",
    ) -> SessionState:
        """All or nothing; a text is why it cannot be read."""
        if isinstance(self.session, str):
            raise ProbeError(self.session)
        good = self.session
        return SessionState(good, good, good, good, source="said to be")

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
        interrupt: Callable[[], str] = lambda: "",
    ) -> SessionFacts:
        """All or nothing; a text is why nothing is told."""
        why = self.session if isinstance(self.session, str) else ""
        value = None if why else bool(self.session)
        mode = "Ready" if value else "" if why else "Blocked"
        names = ("logged_in", "settlement_confirmed", "recovered", "may_trade")
        return SessionFacts(tuple(Fact(name, value, "", mode, why) for name in names))

    def read_trading_state(
        self,
        command: str,
        *,
        member: Member,
        cwd: Path,
        env: Mapping[str, str],
        seconds: float,
        compares: Collection[str] = (),
        interrupt: Callable[[], str] = lambda: "",
    ) -> TradingState:
        """Nobody asks here."""
        raise ProbeError("no state was said to be")


@dataclass(frozen=True)
class SimulatedCommand:
    """A command of the host."""

    host: SimulatedHost
    command: str
    identity: Identity = COMMAND

    def release(self) -> None:
        """Run: what it does is done at once."""
        self.host.ran.append(self.command)
        self.host.acts.get(self.command, lambda: None)()

    def wait(self, *, deadline: float, interrupt: Callable[[], str]) -> CommandEnd:
        """It takes half a second."""
        self.host.clock.sleep(0.5)
        return CommandEnd(self.host.exits.get(self.command, 0))

    def end(
        self,
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> GroupEnd:
        """Nothing is left of it."""
        return GroupEnd((), killed=False)

    def close(self) -> None:
        """Nothing to give back."""
