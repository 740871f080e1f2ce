"""The twins of this user: a small file for each, from before its first process until it is down.

A killed ``rehearse``, ``lab`` or ``stack up`` leaves its twin running in a folder that nobody may
remember; ``stack down --all`` finds it here. The files lie in ``$XDG_RUNTIME_DIR``, or where there
is none (cron, a container) in a folder of this user's under /tmp. A folder that anybody else may
write to is not believed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ctp_runbook.decoding import decoder
from ctp_runbook.host.process import is_running, own_identity
from ctp_runbook.model import Identity
from ctp_runbook.record.rundir import write_atomic
from ctp_runbook.rehearsal.twin import Twin

__all__ = ["Entry", "enter", "entries", "strike"]


class _Record(msgspec.Struct, frozen=True):
    folder: str
    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True)
class Entry:
    """A twin that is up, or was not taken down, and the process that brought it up."""

    twin: Twin
    keeper: Identity

    @property
    def is_kept(self) -> bool:
        """Whether another process brought it up and lives: it takes the twin down itself."""
        return self.keeper.pid != os.getpid() and is_running(self.keeper)


def enter(twin: Twin) -> None:
    """Note that this process brings ``twin`` up; without any such folder it is just not found."""
    own = own_identity()
    record = _Record(str(twin.dir), own.pid, own.start_ticks, own.boot_id)
    for room in _rooms() * 2:  # the last twin's end may take the folder away meanwhile
        with contextlib.suppress(OSError):
            room.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(room):
                write_atomic(_file(room, twin), msgspec.json.encode(record), mode=0o600)
                return


def strike(twin: Twin) -> None:
    """Forget a twin that is down."""
    for room in filter(_is_ours, _rooms()):
        with contextlib.suppress(OSError):
            _file(room, twin).unlink(missing_ok=True)
            room.rmdir()  # unless others are noted there


def entries() -> tuple[Entry, ...]:
    """Every twin of this user, by its folder."""
    by_folder = {
        entry.twin.dir: entry for room in filter(_is_ours, _rooms()) for entry in _in(room)
    }
    return tuple(by_folder[folder] for folder in sorted(by_folder))


def _in(room: Path) -> Iterator[Entry]:
    for file in room.glob("rehearsal-*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            record = decoder(_Record).decode(file.read_bytes())
            keeper = Identity(record.pid, record.start_ticks, record.boot_id)
            yield Entry(Twin(Path(record.folder)), keeper)


def _rooms() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    rooms = [Path(runtime) / "ctp-runbook"] if runtime else []
    return [*rooms, Path(tempfile.gettempdir()) / f"ctp-runbook-{os.geteuid()}"]


def _is_ours(room: Path) -> bool:
    try:
        status = room.lstat()
    except OSError:
        return False
    private = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and private


def _file(room: Path, twin: Twin) -> Path:
    return room / f"{twin.environment}.json"
