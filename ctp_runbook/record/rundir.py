"""Where a run keeps what, and how a file comes to be there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import files

__all__ = [
    "PARENT_JOURNAL",
    "RunDir",
    "newest_run",
    "private_dir",
    "private_path",
    "runs_under",
    "write_atomic",
]

PARENT_JOURNAL = "parent_journal.jsonl"


@dataclass(frozen=True)
class RunDir:
    """The record of one run, ``outputs/<run_id>/``; its name is the run's id."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id, which is the directory's name."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """journal.jsonl: one record a line, hash-chained."""
        return self.path / "journal.jsonl"

    @property
    def run_json(self) -> Path:
        """run.json: the journal's first payload, for people."""
        return self.path / "run.json"

    @property
    def plan(self) -> Path:
        """plan/: redacted templates, limits, checklist."""
        return self.path / "plan"

    @property
    def evidence(self) -> Path:
        """evidence/: the files of RUNBOOK §7."""
        return self.path / "evidence"

    @property
    def samples(self) -> Path:
        """samples/samples.jsonl: every raw sample of the watch."""
        return self.path / "samples" / "samples.jsonl"

    @property
    def baseline(self) -> Path:
        """samples/baseline.jsonl: the old engine's raw samples, before the switch."""
        return self.path / "samples" / "baseline.jsonl"

    @property
    def logs(self) -> Path:
        """logs/: redacted output of each step, orchestrator and guardian."""
        return self.path / "logs"

    @property
    def control(self) -> Path:
        """control/: requests to the orchestrator, one file each."""
        return self.path / "control"

    @property
    def notebooks(self) -> Path:
        """notebooks/: executed notebooks."""
        return self.path / "notebooks"

    @property
    def report(self) -> Path:
        """report.html: one self-contained page."""
        return self.path / "report.html"

    @property
    def manifest(self) -> Path:
        """manifest.json: digest of every other file."""
        return self.path / "manifest.json"

    def make(self) -> None:
        """Make the directory and its rooms. Raises RunRefused when the id is taken."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunRefused(
                f"run directory {self.path} exists; a run id is never used twice: "
                "leave --run-dir out, or name a new one"
            ) from error
        for room in (self.plan, self.evidence, self.samples.parent, self.logs, self.control):
            room.mkdir()
        (self.logs / "steps").mkdir()
        self.notebooks.mkdir()


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


def newest_run(outputs: Path) -> RunDir:
    """The run that was created last. Raises RunRefused when there is none."""
    found = list(runs_under(outputs))
    if not found:
        raise RunRefused(f"no run under {outputs}/; make one with 01_plan or `ctp-runbook run`")
    return max(found, key=lambda run: run.run_json.stat().st_mtime_ns)
