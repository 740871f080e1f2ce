"""Which run is meant where none is named: who holds the environment, or held it, with acts.

Never the newest folder: a run that was refused, or that somebody only planned, may well be newer
than the one that trades, and ``hold`` or ``rollback`` must not talk to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.lock import holder_of
from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir, newest_run, runs_under

__all__ = ["run_in_charge"]


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
    began = {run: _began(run) for run in runs}
    last = max(runs, key=lambda run: began[run], default=None)
    return last if last is not None and began[last] else newest_run(outputs)


def _holding(runs: list[RunDir]) -> list[RunDir]:
    """Those that the locks of their environments name.

    A lock is a file that every user may write to, so it chooses among the runs there are in
    ``outputs`` and never leads anywhere else.
    """
    environments = {str(_json(run.run_json).get("environment", "")) for run in runs}
    holders = {holder_of(name) for name in environments if name} - {""}
    real = {os.path.realpath(holder) for holder in holders}
    return sorted(
        (run for run in runs if os.path.realpath(run.path) in real), key=lambda run: run.run_id
    )


def _began(run: RunDir) -> str:
    """The instant of the last start of a run that was let through; empty for any other.

    Journals are looked through and not checked: there may be hundreds, and somebody is in a hurry.
    """
    try:
        lines = run.journal.read_bytes().splitlines()
    except OSError:
        return ""
    end = _record(lines[-1], kind="closed") if lines else {}
    if end.get("payload", {}).get("outcome") == Outcome.REFUSED.value:
        return ""
    starts = (_record(line, kind="orchestrator_started") for line in reversed(lines))
    return next((str(start["wall_utc"]) for start in starts if start), "")


def _record(line: bytes, *, kind: str) -> Mapping[str, Any]:
    """The record in ``line`` if it is of this kind, else nothing."""
    if f'"kind":"{kind}"'.encode() not in line:
        return {}
    try:
        raw = json.loads(line)
    except ValueError:
        return {}
    is_it = isinstance(raw, dict) and raw.get("kind") == kind and "wall_utc" in raw
    return raw if is_it else {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
