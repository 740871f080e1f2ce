"""The one way out of this room: all that a run may ask of the machine and of the engines on it.

Nothing in ``run`` calls the operating system itself (an import contract in pyproject.toml sees to
it). Another world put in this one's place takes every instant, process, file and answer with it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from ctp_runbook._late import LateModule
from ctp_runbook.host import files, process
from ctp_runbook.host.clocks import Clocks
from ctp_runbook.host.mailbox import FolderMailbox

if TYPE_CHECKING:
    from ctp_runbook.host import caller as _caller
    from ctp_runbook.host import daemon as _daemon
    from ctp_runbook.host import heartbeat as _heartbeat
    from ctp_runbook.host import held_command as _held_command
    from ctp_runbook.host import lock as _lock
    from ctp_runbook.host import outcry as _outcry
    from ctp_runbook.host import pin as _pin
    from ctp_runbook.host.seam import (
        Caller,
        Clock,
        Commands,
        Daemons,
        Files,
        Hearts,
        Locks,
        Mailbox,
        Outcry,
        Pins,
        Processes,
    )
    from ctp_runbook.probes import exchange as _exchange
    from ctp_runbook.probes import liveness as _liveness
    from ctp_runbook.probes import metrics as _metrics
    from ctp_runbook.probes import session as _session
    from ctp_runbook.probes import supervision as _supervision
    from ctp_runbook.probes.seam import Pages, Sessions, Supervisors, Webhooks, Witnesses
else:
    # A dry run holds, starts and asks nothing, and is not to pay for what would.
    _caller = LateModule("ctp_runbook.host.caller")
    _daemon = LateModule("ctp_runbook.host.daemon")
    _heartbeat = LateModule("ctp_runbook.host.heartbeat")
    _held_command = LateModule("ctp_runbook.host.held_command")
    _lock = LateModule("ctp_runbook.host.lock")
    _outcry = LateModule("ctp_runbook.host.outcry")
    _pin = LateModule("ctp_runbook.host.pin")
    _exchange = LateModule("ctp_runbook.probes.exchange")
    _liveness = LateModule("ctp_runbook.probes.liveness")
    _metrics = LateModule("ctp_runbook.probes.metrics")
    _session = LateModule("ctp_runbook.probes.session")
    _supervision = LateModule("ctp_runbook.probes.supervision")

__all__ = ["HERE", "World"]


class World(Struct, frozen=True):
    """A host, and the engines that answer on it. Each part does one thing and can be replaced.

    The parts of this machine are modules of ``host`` and ``probes`` as they stand.
    """

    clock: Clock = field(default_factory=Clocks)
    caller: Caller = _caller
    commands: Commands = _held_command
    processes: Processes = process
    daemons: Daemons = _daemon
    pins: Pins = _pin
    files: Files = files
    locks: Locks = _lock
    hearts: Hearts = _heartbeat
    outcry: Outcry = _outcry
    mailbox: Callable[[Path], Mailbox] = FolderMailbox
    witnesses: Witnesses = _liveness
    supervisors: Supervisors = _supervision
    sessions: Sessions = _session
    pages: Pages = _metrics
    webhooks: Webhooks = _exchange

    def load(self) -> None:
        """Import every part now: in the middle of a rollback the disk may not give it."""
        for name in self.__struct_fields__:
            # What somebody else put in its place is there already.
            if isinstance(part := getattr(self, name), LateModule):
                part.import_now()

    @property
    def now(self) -> datetime:
        """The wall clock, UTC-aware."""
        return datetime.fromtimestamp(self.clock.wall(), UTC)


# The machine this process runs on.
HERE = World()
