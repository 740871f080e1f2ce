"""Where a run keeps what, and how a file comes to be there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import RunRefused
from ctp_runbook.host import files

__all__ = [
    "PARENT_JOURNAL",
    "HeaderGlance",
    "RunDir",
    "behind_path",
    "glance_at",
    "newest_run",
    "private_dir",
    "private_path",
    "runs_under",
    "strange_entries",
    "viewers_path",
    "write_atomic",
]

PARENT_JOURNAL = "parent_journal.jsonl"


_ROOMS = ("plan", "evidence", "samples", "logs", "logs/steps", "control", "notebooks")


class _At:
    """A place in a run's directory, from that directory on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path:
        return run.path / self._name


class RunDir(Struct, frozen=True):
    """The record of one run, ``outputs/<run_id>/``; its name is the run's id.

    ``journal`` has one record a line, hash-chained, and ``run_json`` its first payload, for people;
    ``plan`` the redacted templates, limits and checklist; ``evidence`` the files of RUNBOOK §7;
    ``samples`` every raw sample of the watch, ``baseline`` the old engine's, from before the
    switch; ``logs`` the redacted output of each step, of orchestrator and guardian; ``control``
    requests to the orchestrator, one file each; ``notebooks`` the executed ones; ``report`` one
    self-contained page; ``manifest`` the digest of every other file.
    """

    path: Path
    journal = _At("journal.jsonl")
    run_json = _At("run.json")
    plan = _At("plan")
    evidence = _At("evidence")
    samples = _At("samples/samples.jsonl")
    baseline = _At("samples/baseline.jsonl")
    logs = _At("logs")
    control = _At("control")
    notebooks = _At("notebooks")
    report = _At("report.html")
    manifest = _At("manifest.json")

    @property
    def run_id(self) -> str:
        """The run's id, which is the directory's name."""
        return self.path.name

    def make(self) -> None:
        """Make the directory and its rooms, for this user alone. Raises RunRefused when the id is
        taken."""
        try:
            self.path.mkdir(files.PRIVATE_FOLDER, parents=True)
        except FileExistsError as error:
            raise RunRefused(
                f"run directory {self.path} exists; a run id is never used twice: "
                "leave --run-dir out, or name a new one"
            ) from error
        for room in _ROOMS:
            (self.path / room).mkdir(files.PRIVATE_FOLDER)

    def make_again(self) -> Iterator[tuple[Path, OSError | None]]:
        """Make what is no longer there of the directory and its rooms: each that was not, with why it
        cannot be made or be written to. What is in the place of one is kept beside it."""
        for path in (self.path, *(self.path / room for room in _ROOMS)):
            try:
                if not path.is_dir():
                    if os.path.lexists(path):
                        path.rename(path.with_name(f"{path.name}.found-{time.time_ns()}"))
                    path.mkdir(files.PRIVATE_FOLDER, parents=True)
                    yield path, None
                elif not os.access(path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                yield path, error
                if path == self.path:
                    return  # and so none of its rooms


write_atomic = files.write_atomic


def private_path(run: RunDir) -> Path:
    """Where ``private_dir`` is; nothing is made.

    Named by a digest of the run directory's real path, for two runs may have one name. Raises
    RunRefused where somebody else prepared the place.
    """
    base = _private_base()
    with contextlib.suppress(FileNotFoundError):
        known = base.lstat()
        if known.st_uid != os.getuid() or not stat.S_ISDIR(known.st_mode):
            raise RunRefused(f"{base} belongs to somebody else; remove it, then run again")
    name = os.path.realpath(run.path)
    return base / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def viewers_path(run: RunDir) -> Path:
    """Where those who look at a run are seen by each other; nothing is made.

    Beside the private copies, never in the record: a viewer changes nothing of what its manifest
    lists. Raises RunRefused as ``private_path``.
    """
    private = private_path(run)
    return private.with_name(f"viewers-{private.name}")


def behind_path(run: RunDir) -> Path | None:
    """Where records are kept that the journal has no room for, on another file system than it; nothing
    is made. None where somebody else prepared the place."""
    with contextlib.suppress(RunRefused, OSError):
        private = private_path(run)
        return private.with_name(f"behind-{private.name}")
    return None


def private_dir(run: RunDir) -> Path:
    """A directory on tmpfs that only this user can read: raw output and templates with secrets."""
    base = _private_base()
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    path = private_path(run)
    base.chmod(0o700)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _private_base() -> Path:
    """For root below /run, where logind removes nothing (RemoveIPC= empties /dev/shm of a user's
    files, and /run/user/UID goes, when that user logs out)."""
    if os.getuid() == 0 and os.access("/run", os.W_OK) and _is_tmpfs("/run"):
        return Path("/run/ctp-runbook")
    root = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    return root / f"ctp-runbook-{os.getuid()}"


def _is_tmpfs(mount_point: str) -> bool:
    mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    kinds = [fields[2] for line in mounts if (fields := line.split())[1] == mount_point]
    return kinds[-1:] == ["tmpfs"]


def runs_under(outputs: Path) -> Iterator[RunDir]:
    """Every run in a folder, in no order: what has a run.json, which is written last."""
    return (RunDir(path.parent) for path in outputs.glob("*/run.json"))


def strange_entries(run: RunDir) -> Iterator[str]:
    """Name what no run writes, and whose reading could hang or lead elsewhere.

    A run's directory holds directories and regular files alone, none of them endless; whoever
    reads one that came from somewhere asks this first.
    """
    unread: list[OSError] = []
    for folder, folders, names in os.walk(run.path, onerror=unread.append):
        for name in sorted((*folders, *names)):
            path = Path(folder, name)
            try:
                seen = path.lstat()
            except FileNotFoundError:
                continue  # it was being written when the folder was read, and has its name now
            kind, most = files.no_file(seen.st_mode), _most_bytes(name)
            if kind and not stat.S_ISDIR(seen.st_mode):
                yield f"{path}: {kind}; a run's directory holds regular files and directories only"
            elif not kind and seen.st_size > most:
                yield f"{path}: {seen.st_size} bytes; no run writes more than {most} into such a file"
    # Nobody can tell what lies there.
    yield from (f"{error.filename}: cannot be read: {error.strerror}" for error in unread)


def _most_bytes(name: str) -> int:
    """Journals and samples grow with the watch; a day of both is some 1 GiB."""
    return (4096 if name.endswith(".jsonl") else 256) * 1024 * 1024


class HeaderGlance(Struct, frozen=True):
    """As much of a run.json as spares reading the journals of others; it proves nothing."""

    environment: str = ""
    dry_run: bool = True
    host: str = ""


def glance_at(run: RunDir) -> HeaderGlance:
    """What run.json says, of whichever format; of no environment where it cannot be read."""
    try:
        with files.open_plain(run.run_json) as header:
            return decoder(HeaderGlance).decode(header.read())
    except (OSError, ValueError, RecursionError):
        return HeaderGlance()


def newest_run(outputs: Path) -> RunDir:
    """The run that was created last. Raises RunRefused when there is none."""
    runs = list(runs_under(outputs))
    if not runs:
        raise RunRefused(f"no run under {outputs}/; make one with 01_plan or `ctp-runbook run`")
    return max(runs, key=lambda run: run.run_json.stat().st_mtime_ns)
