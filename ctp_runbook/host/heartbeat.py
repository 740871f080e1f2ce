"""Signs of life of the two who keep a run conducted, in the file that locks their environment.

Each overwrites one line of its own, at a place of its own behind the holder's name. Nobody reads
the journal for it, nothing grows, and no folder that somebody may remove is needed: both hold the
file open, as they hold the lock. Instants are monotonic: they stand still while the host is
suspended, and the process that a line names is of this boot or runs no more.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from ctp_runbook.host.lock import lock_of
from ctp_runbook.model import Identity

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Beat", "Who", "beat_of", "read_beat", "write_beat"]

Who = Literal["orchestrator", "guardian"]
# Behind all that a lock says of runs (host/lock.py), and both in one page: a full disk takes both
# lines or neither.
_PLACES: dict[Who, int] = {"orchestrator": 65536, "guardian": 65664}
_LINE_BYTES = 128


class Beat(NamedTuple):
    """That process ``pid`` lived at ``mono``.

    It said that it would be busy with one thing for ``busy`` seconds at most, and that it is to be
    replaced when it is silent for ``patience`` seconds beyond that.
    """

    pid: int
    start_ticks: int
    mono: float
    busy: float
    patience: float

    @property
    def allowed(self) -> float:
        """How many seconds it may be silent."""
        return self.busy + self.patience

    def is_of(self, identity: Identity) -> bool:
        """True where it is this process that gave it."""
        return (self.pid, self.start_ticks) == (identity.pid, identity.start_ticks)


def write_beat(lock: int, who: Who, beat: Beat) -> bool:
    """Overwrite the line of ``who``; False where the disk takes it not."""
    line = " ".join(map(repr, beat)).ljust(_LINE_BYTES - 1) + "\n"
    with contextlib.suppress(OSError):
        return os.pwrite(lock, line.encode(), _PLACES[who]) == _LINE_BYTES
    return False


def read_beat(lock: int, who: Who) -> Beat | None:
    """The last sign of life of ``who``; None where there was none, or none that can be read."""
    try:
        pid, ticks, *seconds = os.pread(lock, _LINE_BYTES, _PLACES[who]).split()
        mono, busy, patience = map(float, seconds)
        return Beat(int(pid), int(ticks), mono, busy, patience)
    except (OSError, ValueError):
        return None


def beat_of(environment: str, who: Who, *, path: Path) -> Beat | None:
    """The last sign of life of whoever conducts, or guards, the run in directory ``path``.

    None where the environment's lock is not that run's, or says nothing of it.
    """
    with lock_of(environment, path=path) as lock:
        return None if lock is None else read_beat(lock, who)
