"""Which run is meant where none is named: who holds the environment, else whose start came last.

Never the newest folder: a run that was refused, aborted before its switch, or that somebody only
planned, may well be newer than the one that trades, and ``hold`` or ``rollback`` must not talk to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.files import open_plain
from ctp_runbook.host.lock import holder_of
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir, glance_at, newest_run, runs_under

__all__ = ["run_in_charge", "unfinished_runs"]

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
    hold environments of theirs.
    """
    runs = list(runs_under(outputs))
    holding = _holding(runs)
    if len(holding) > 1:
        named = "; ".join(f"--run {run.path}" for run in holding)
        raise RunRefused(f"{len(holding)} runs under {outputs}/ are under way; name one: {named}")
    if holding:
        return holding[0]
    began = {run: instant for run in runs if (instant := _began(run))}
    return max(began, key=lambda run: began[run]) if began else newest_run(outputs)


def unfinished_runs(folders: Iterable[Path], *, environment: str, host: str) -> list[RunDir]:
    """Real runs of an environment of ``host`` that began and never ended, whoever conducts them."""
    found = []
    for run in {run for folder in folders for run in runs_under(folder)}:
        header = glance_at(run)
        is_ours = not header.dry_run and (header.environment, header.host) == (environment, host)
        # What has its manifest is over: no need to look through its journal.
        if is_ours and not run.manifest.exists() and _last_of(run, "closed", _BEGUN) == _BEGUN:
            found.append(run)
    return sorted(found, key=lambda run: run.run_id)


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
            yield msgspec.json.decode(line, type=_Record)
        except (ValueError, RecursionError):
            continue  # torn, or damaged: what stands before it counts all the same
