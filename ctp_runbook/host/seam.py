"""The seam between what decides and the machine: what ``run`` and ``watch`` may ask of a host.

Protocols alone, with few methods each. The modules of this room implement them; a simulated host
needs no more than these methods to stand in for this one. What the probes add to it is in
``probes/seam.py``, and ``run/world.py`` carries all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ctp_runbook.model import Identity

if TYPE_CHECKING:
    from ctp_runbook.host.heartbeat import Beat, Who
    from ctp_runbook.host.held_command import CommandEnd
    from ctp_runbook.host.pin import Pin
    from ctp_runbook.host.process import GroupEnd

__all__ = [
    "Caller",
    "Clock",
    "Commands",
    "Daemons",
    "Files",
    "Hearts",
    "Held",
    "Kept",
    "Locks",
    "Mailbox",
    "Outcry",
    "Pins",
    "Processes",
]


class Clock(Protocol):
    """The instants of a host, in seconds, and every wait for one."""

    def wall(self) -> float:
        """Return seconds since the epoch, by a clock that anybody may set."""

    def mono(self) -> float:
        """Return seconds since some start of this boot; they stand still while it is suspended."""

    def boot(self) -> float:
        """Return seconds since this boot, those it was suspended for included."""

    def boot_id(self) -> str:
        """Return what names this boot: ``mono`` of another one cannot be compared with it."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass; none where ``seconds`` is not above 0."""

    def wait(self, event: threading.Event, *, seconds: float) -> bool:
        """Let time pass until ``event`` is set; False when it was not within ``seconds``."""


class Caller(Protocol):
    """Who calls, and from where: what a run is made with, and what its commands inherit."""

    def user_name(self) -> str:
        """Return who asks, for the record."""

    def host_name(self) -> str:
        """Return the name of the machine."""

    def folder(self) -> Path:
        """Return the working directory, absolute."""

    def environ(self) -> Mapping[str, str]:
        """Return the environment as it is now."""

    def token(self) -> str:
        """Return four digits that nobody can foresee."""

    def commit_of(self) -> str:
        """Return the commit of this code; blank where it is not known."""

    def changed_since(self) -> bool | None:
        """Return whether it was changed since; None where that cannot be told."""


class Held(Protocol):
    """A command that has not begun: it runs nothing before ``release``."""

    @property
    def identity(self) -> Identity:
        """Return who the command is, to be written down before it acts."""

    def release(self) -> None:
        """Let it run."""

    def wait(self, *, deadline: float, interrupt: Callable[[], str]) -> CommandEnd:
        """Wait for it until ``deadline`` (``mono``), or a sentence from ``interrupt``."""

    def end(
        self, *, term_grace: float, kill_grace: float, meanwhile: Callable[[], object] = ...
    ) -> GroupEnd:
        """End it with all of its group, and return what is left of that."""

    def close(self) -> None:
        """Forget it; one that was never released ends without having run."""


class Commands(Protocol):
    """Commands of the plan."""

    def hold(self, command: str, *, cwd: Path, env: Mapping[str, str], output: Path) -> Held:
        """Make a bash command that waits to be released. Raises OSError."""


class Processes(Protocol):
    """Who runs, and the end of those that must not."""

    def own_identity(self) -> Identity:
        """Return who this process is."""

    def identity_of(self, pid: int) -> Identity | None:
        """Return who has this pid now; None for nobody."""

    def is_running(self, identity: Identity) -> bool:
        """Return True while exactly this process runs."""

    def ignores_term(self, pid: int) -> bool:
        """Return True where a process lets TERM pass unheard."""

    def group_members(self, pgid: int) -> tuple[int, ...]:
        """Return the live processes of a group."""

    def children_of(self, parent: Identity) -> tuple[Identity, ...]:
        """Return the live children of a process."""

    def wait_gone(self, identity: Identity, *, seconds: float) -> bool:
        """Wait until a process is gone; False when it was not within ``seconds``."""

    def kill_process(self, identity: Identity, *, seconds: float) -> bool:
        """End one by KILL alone; False when it is not gone within ``seconds``."""

    def end_processes(
        self,
        identities: Iterable[Identity],
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = ...,
    ) -> tuple[Identity, ...]:
        """End several by TERM and KILL, and return those that still run."""

    def end_group(
        self,
        pgid: int,
        *,
        term_grace: float,
        kill_grace: float,
        meanwhile: Callable[[], object] = ...,
    ) -> GroupEnd:
        """End a whole group by TERM and KILL, and return what is left of it."""


class Daemons(Protocol):
    """Processes that outlive whoever starts them."""

    def scope_prefix(self) -> tuple[tuple[str, ...], str]:
        """Return what puts a command into a control group of its own, or why nothing does."""

    def take_up_lack(self) -> str:
        """Return why nothing here takes up a run that nobody conducts; blank where something does."""

    def spawn_detached(
        self, arguments: list[str], *, log: Path, lock: int, others: Collection[int] = ()
    ) -> int:
        """Start a process that takes ``lock`` and ``others`` over, by their numbers, and return its pid.
        Raises OSError."""

    def adopt_orphans(self) -> None:
        """Become the parent of every descendant whose own parent ends."""

    def reap(self) -> None:
        """Let those children go that have ended."""


class Pins(Protocol):
    """Processes known by more than a pid."""

    def pin_process(self, identity: Identity, *, before: Pin | None = None) -> Pin:
        """Return what finds this process again, by name, by family and by command line."""

    def below(self, identity: Identity) -> tuple[Identity, ...]:
        """Return the processes that descend from it."""

    def survivors(self, pin: Pin) -> tuple[Identity, ...]:
        """Return what still runs of what was below it when it was pinned."""

    def lookalikes(
        self,
        pin: Pin,
        *,
        run_ids: Collection[str],
        others: Collection[Identity],
        starts: Collection[str] | None = None,
    ) -> tuple[Identity, ...]:
        """Return who runs its command line and is not accounted for, by one of ``others`` or by a
        step of those runs, where that is one of ``starts``."""


class Kept(Protocol):
    """A file that is open for adding, whatever becomes of its name."""

    def __call__(self, data: bytes, /) -> None:
        """Add to its end. Raises OSError."""

    def read(self) -> bytes:
        """Return all that is in it. Raises OSError."""

    def put_back(self) -> str:
        """See that its name leads to it; what had become of that, or nothing. Raises OSError."""


class Files(Protocol):
    """Files, by their whole names; every method raises OSError where the disk says no."""

    def read(self, path: Path, *, start: int = 0, most: int = -1) -> bytes:
        """Return ``most`` bytes from ``start`` on."""

    def size_of(self, path: Path) -> int:
        """Return its size in bytes."""

    def exists(self, path: Path) -> bool:
        """Return True where there is one."""

    def names_in(self, folder: Path) -> list[str]:
        """Return the names in a folder, in their order."""

    def write_atomic(
        self, path: Path, data: bytes, *, mode: int | None = None, durable: bool = True
    ) -> None:
        """Replace it whole, durably unless told otherwise."""

    def append(self, path: Path, data: bytes) -> None:
        """Add to its end."""

    def appending(self, path: Path) -> AbstractContextManager[Kept]:
        """Hold it open, and give what adds to its end."""

    def scratch(self, name: str) -> AbstractContextManager[Path]:
        """Give an empty file in no folder, for what may hold secrets; it ends with this."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut it to ``size`` bytes."""

    def rename(self, path: Path, target: Path) -> None:
        """Give it another name at one instant."""

    def remove(self, path: Path) -> None:
        """Remove it, if it is there."""


class Locks(Protocol):
    """Locks that end with whoever holds them; one is handed on by its number."""

    def take_environment_lock(
        self, environment: str, *, run_id: str, path: Path | None = None
    ) -> int:
        """Return the lock of an environment. Raises EnvironmentHeld, RunRefused."""

    def holder_of(self, environment: str) -> str:
        """Return the directory of the run that has it now, or nothing."""

    def folders_of(self, environment: str) -> list[Path]:
        """Return the folders in which it had its runs."""

    def keep_from_children(self, lock: int) -> None:
        """Let no command that is started from now on hold it too."""

    def give_back(self, lock: int) -> None:
        """Let go of it; it is free when nobody else holds it."""

    def exclusive(self, path: Path, *, seconds: float) -> AbstractContextManager[None]:
        """Hold a file alone. Raises TimeoutError when that takes longer than ``seconds``."""


class Hearts(Protocol):
    """Signs of life, left with the lock."""

    def write_beat(self, lock: int, who: Who, beat: Beat) -> bool:
        """Leave one; False where that cannot be done."""

    def read_beat(self, lock: int, who: Who) -> Beat | None:
        """Return the last one of who conducts, or guards, what the lock is held for."""

    def beat_of(self, environment: str, who: Who, *, path: Path) -> Beat | None:
        """Return the same, of the run in directory ``path``, for whoever looks on."""


class Mailbox(Protocol):
    """Letters to one reader."""

    def put(self, name: str, data: bytes) -> None:
        """Leave a letter, durably and whole."""

    def names(self) -> list[str]:
        """Return the names of what is there, in their order."""

    def read(self, name: str) -> bytes:
        """Return what a letter says. Raises OSError."""

    def remove(self, name: str) -> None:
        """Take a letter away. Raises OSError."""

    def clear(self) -> None:
        """Take everything away, drafts too."""

    def wait(self) -> None:
        """Return when a letter may have come, a moment later at the latest."""


class Outcry(Protocol):
    """Ways to call for a person."""

    def cry_out(self, sentence: str) -> None:
        """Say it where whoever is on duty hears it. Does not fail."""
