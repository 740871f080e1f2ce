"""Where the configuration and the notebooks are: in the working directory, else the checkout; and to
which run the notebooks of a lab belong, which they remember beside them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import caller, checkout
from ctp_runbook.host.files import read_small
from ctp_runbook.host.viewers import Look
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.record.rundir import RunDir, viewers_path, write_atomic

__all__ = [
    "ROOM_VARIABLE",
    "find_config",
    "find_notebooks",
    "find_plan",
    "look_at",
    "own_name",
    "remember_run",
    "remembered_run",
    "room",
]

ROOM_VARIABLE = "CTP_RUNBOOK_LAB"
# What Jupyter's server tells a kernel of the notebook that it is for: the path.
_NOTEBOOK_VARIABLE = "JPY_SESSION_NAME"
_MEMORY = Path(".lab", "run")
_LONGEST_PATH = 4096

find_config = checkout.find_config


def find_plan(
    cutover_template: Path,
    rollback_template: Path,
    *,
    limits: Path | None = None,
    watch: Path | None = None,
) -> Plan:
    """Load the plan of two templates, with the configuration that belongs to them unless named.

    Raises InputError with every problem.
    """
    return load_plan(
        cutover_template,
        rollback_template,
        limits=limits or find_config("limits.toml", template=cutover_template),
        watch=watch or find_config("watch.toml", template=cutover_template),
        environ=caller.environ(),
        base=Path.cwd(),
    )


def find_notebooks() -> Path:
    """Return the directory of the seven notebooks."""
    return checkout.get_here(Path("notebooks"))


# --- a lab ------------------------------------------------------------------------


def room() -> Path | None:
    """Return the folder of copies that `ctp-runbook lab` opened; None outside of a lab."""
    named = os.environ.get(ROOM_VARIABLE)
    return Path(named) if named and Path(named).is_dir() else None


def remember_run(run: RunDir, *, here: Path | None = None) -> None:
    """Let the notebooks of this lab belong to a run, for as long as there are no others; whoever
    opens, reloads or restarts one comes back to it. What cannot be written is not remembered."""
    if here := here or room():
        with contextlib.suppress(OSError):
            write_atomic(here / _MEMORY, os.fsencode(run.path.absolute()))


def remembered_run(*, here: Path | None = None) -> RunDir | None:
    """Return the run to which the notebooks of this lab belong, whatever became of it; None where
    they belong to none."""
    if not (here := here or room()):
        return None
    try:
        path = Path(os.fsdecode(read_small(here / _MEMORY, most=_LONGEST_PATH)))
    except (OSError, ValueError):
        return None
    return RunDir(path) if path.is_absolute() else None


def own_name() -> str:
    """Return the name of the notebook whose kernel this is, as far as Jupyter says."""
    return Path(os.environ.get(_NOTEBOOK_VARIABLE, "")).stem or "a notebook"


def look_at(run: RunDir) -> Look | None:
    """Be seen to look at a run, in this notebook; None where there is no place for that."""
    try:
        return Look(viewers_path(run), by=caller.user_name(), where=own_name())
    except (RunRefused, OSError):
        return None
