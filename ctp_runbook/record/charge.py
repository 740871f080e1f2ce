"""Which run is meant where none is named: who holds the environment, else whose start came last.

Never the newest folder: a run that was refused, aborted before its switch, or that somebody only
planned, may well be newer than the one that trades, and ``hold`` or ``rollback`` must not talk to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from ctp_runbook.decoding import decoder
from ctp_runbook.errors import JournalError, RunLost, RunRefused
from ctp_runbook.host.files import open_plain
from ctp_runbook.host.lock import held_directories, holder_of, holders_so_far
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir, glance_at, newest_run, runs_under

__all__ = [
    "await_its_folder",
    "has_begun",
    "last_of_plan",
    "refuse_lost",
    "run_in_charge",
    "unfinished_runs",
]

# Whoever conducts a run looks at its folder every two seconds at the least (run/vanished.py).
_PUT_BACK_SECONDS, _POLL_SECONDS = 8.0, 0.05

_BEGUN = "orchestrator_started"
# What ended so never touched the stack that trades: there is nothing of it to roll back.
_TOUCHED_NOTHING = (Outcome.REFUSED.value, Outcome.ABORTED_BEFORE_SWITCH.value)


class _Ending(Struct, frozen=True):
    outcome: str = ""


class _Record(Struct, frozen=True):
    """As much of a journal record."""

    kind: str = ""
    wall_utc: str = ""
    payload: _Ending = _Ending()


def run_in_charge(outputs: Path) -> RunDir:
    """The run under ``outputs`` that holds its environment, else the one that began last.

    Where none ever began, it is the newest. Raises RunRefused when there is none, or when several
    hold environments of theirs, and RunLost as ``await_its_folder``, or when the one that held an
    environment last has no folder any more: an older one must not be taken for it.
    """
    await_its_folder(_in(outputs, held_directories()))
    runs = list(runs_under(outputs))
    holding = _holding(runs)
    if len(holding) > 1:
        named = "; ".join(f"--run {run.path}" for run in holding)
        raise RunRefused(f"{len(holding)} runs under {outputs}/ are under way; name one: {named}")
    if holding:
        return holding[0]
    began = {run: instant for run in runs if (instant := _began(run))}
    last = max(began, key=lambda run: began[run]) if began else None
    left = (directory for _, directory, _ in holders_so_far())
    refuse_lost(_in(outputs, left), since=_written(last) if last else 0.0)
    return last or newest_run(outputs)


def refuse_lost(paths: Iterable[str | Path], *, since: float = 0.0) -> None:
    """Raise RunLost where a run that held its environment last, later than ``since`` (seconds since
    the epoch), stood in one of ``paths`` and is gone from there."""
    wanted = {os.path.realpath(path) for path in paths}
    for holder, directory, instant in holders_so_far():
        is_meant = os.path.realpath(directory) in wanted and instant > since
        if is_meant and not os.path.lexists(RunDir(Path(directory)).journal):
            raise RunLost(
                f"{holder} was the last to hold its environment, and its folder {directory} is gone: "
                "what became of it stands in syslog and in what ALERT_CMD sent; look at the engines "
                "now. Another run is named by --run"
            )


def await_its_folder(paths: Iterable[str | Path]) -> None:
    """Wait until a run that is under way in one of ``paths`` has a journal again.

    Somebody removed it: until it is put back only the lock knows of the run, and the last one that
    left a folder is another. Returns at once where no lock that is held names one of them. Raises
    RunLost when nothing was put back.
    """
    wanted = {os.path.realpath(path) for path in paths}
    deadline = time.monotonic() + _PUT_BACK_SECONDS
    while lacking := _lacking(wanted):
        if time.monotonic() >= deadline:
            raise RunLost(
                f"run {lacking.run_id} is under way, and {lacking.journal} was removed and is not put "
                f"back after {_PUT_BACK_SECONDS:g} s: what became of it stands in syslog and in what "
                "ALERT_CMD sends; look at the engines now, then ask again"
            )
        time.sleep(_POLL_SECONDS)


def _lacking(wanted: set[str]) -> RunDir | None:
    """One of these that holds its environment and has no journal."""
    runs = (RunDir(Path(held)) for held in held_directories() if os.path.realpath(held) in wanted)
    return next((run for run in runs if not os.path.lexists(run.journal)), None)


def _in(outputs: Path, directories: Iterable[str]) -> list[str]:
    room = Path(os.path.realpath(outputs))
    return [path for path in directories if Path(os.path.realpath(path)).parent == room]


def _written(run: RunDir) -> float:
    """When the journal of a run was last written to; 0 where that cannot be told."""
    try:
        return run.journal.stat().st_mtime
    except OSError:
        return 0.0


def unfinished_runs(
    folders: Iterable[Path], *, host: str, environment: str | None = None
) -> list[RunDir]:
    """Real runs of ``host`` that began and never ended, whoever conducts them; of one environment, or
    of any."""
    unfinished = []
    for run in {run for folder in folders for run in runs_under(folder)}:
        header = glance_at(run)
        is_ours = not header.dry_run and header.host == host
        is_ours = is_ours and environment in (None, header.environment)
        # What has its manifest is over: no need to look through its journal.
        if is_ours and not run.manifest.exists() and _last_of(run, "closed", _BEGUN) == _BEGUN:
            unfinished.append(run)
    return sorted(unfinished, key=lambda run: run.run_id)


def last_of_plan(
    folders: Iterable[Path],
    *,
    environment: str,
    host: str,
    plan_sha256: str,
    force_rollback: bool = False,
) -> tuple[RunDir | None, RunDir | None]:
    """The last real run of a plan that began on ``host``, and the last of its environment whatever its
    plan; a drill (``force_rollback``) is no run of the cutover, nor is what undoes one.

    Raises JournalError for a journal whose first record cannot be read: it may be that run.
    """
    plan: RunDir | None = None
    newest: RunDir | None = None
    for header, run in sorted(_headers(folders), key=lambda pair: pair[0].wall_utc):
        created = header.payload
        if created.dry_run or (created.environment, created.host) != (environment, host):
            continue
        if not has_begun(run):
            continue
        newest = run
        is_drill = created.force_rollback is not force_rollback
        if created.plan_sha256 == plan_sha256 and not created.parent_run and not is_drill:
            plan = run
    return plan, newest


def has_begun(run: RunDir) -> bool:
    """True once somebody took the run up, by what of its journal can be read."""
    return bool(_last_of(run, _BEGUN))


class _Made(Struct, frozen=True):
    """As much of the payload of a first record."""

    environment: str
    host: str
    dry_run: bool
    plan_sha256: str
    force_rollback: bool
    parent_run: str


class _Header(Struct, frozen=True):
    wall_utc: str
    payload: _Made


def _headers(folders: Iterable[Path]) -> Iterator[tuple[_Header, RunDir]]:
    # By the journals, not by run.json: whoever was killed before writing that may have begun, and what
    # somebody edited must not make a run that was disappear.
    journals = {
        journal.resolve() for folder in folders for journal in folder.glob("*/journal.jsonl")
    }
    for journal in journals:
        try:
            with open_plain(journal) as lines:
                yield decoder(_Header).decode(lines.readline()), RunDir(journal.parent)
        except (OSError, ValueError, RecursionError) as error:
            raise JournalError(
                f"{journal}: its first record cannot be read ({error}), so that nobody can tell "
                "whether it is of this plan; see what became of that run, then move its folder away"
            ) from error


def _holding(runs: list[RunDir]) -> list[RunDir]:
    """Those that the locks of their environments name.

    A lock is a file that every user may write to, so it chooses among the runs there are in
    ``outputs`` and never leads anywhere else.
    """
    environments = {glance_at(run).environment for run in runs} - {""}
    holders = {os.path.realpath(path) for name in environments if (path := holder_of(name))}
    held = (run for run in runs if os.path.realpath(run.path) in holders)
    return sorted(held, key=lambda run: run.run_id)


def _began(run: RunDir) -> str:
    """The instant of the last start of a run that may have touched something; empty for any other.

    Journals are looked through and not checked: there may be hundreds, and somebody is in a hurry.
    """
    for record in _backwards(run):
        if record.kind == "closed" and record.payload.outcome in _TOUCHED_NOTHING:
            return ""
        if record.kind == _BEGUN:
            return record.wall_utc
    return ""


def _last_of(run: RunDir, *kinds: str) -> str:
    """Which of these kinds of record came last; empty for none."""
    return next((record.kind for record in _backwards(run) if record.kind in kinds), "")


def _backwards(run: RunDir) -> Iterator[_Record]:
    """The records of a journal, last first, as far as they can be read."""
    try:
        with open_plain(run.journal) as journal:
            lines = journal.read().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        try:
            yield decoder(_Record).decode(line)
        except (ValueError, RecursionError):
            continue  # torn, or damaged: what stands before it counts all the same
