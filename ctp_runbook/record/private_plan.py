"""What a detached orchestrator needs and no disk may hold: the unredacted plan, on tmpfs.

Also found there after a crash. The journal's header has the digest of each file kept. A copy that
is not what was kept, or is gone, as after a reboot, is not used: the files the plan was made from
are read again, if they are still the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.plan.plan import Plan, load_plan
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.rundir import RunDir, private_dir, private_path, write_atomic

__all__ = ["clear_private", "keep_private", "load_private_plan"]

_FILES = ("cutover_template", "rollback_template", "limits_file", "watch_file")


def keep_private(run: RunDir, plan: Plan) -> dict[str, str]:
    """Keep the four files as they were when the plan was made, readable by this user alone.

    Returns the SHA-256 of each, for the journal's header (``kept_files``).
    """
    room = private_dir(run)
    kept = {}
    for name in _FILES:
        data = getattr(plan, name).read_bytes()
        write_atomic(room / name, data, mode=0o600)
        kept[name] = digest_of(data)
    return kept


def load_private_plan(run: RunDir) -> tuple[Plan, Path]:
    """The plan of a run and the directory its commands run in.

    Raises RunRefused when it can be had neither from tmpfs nor, unchanged, from its files.
    """
    header = read_journal(run.journal).records[0].payload
    cwd = Path(header["cwd"])
    room = private_path(run)
    kept = _is_as_kept(room, header.get("kept_files") or {})
    paths = {name: room / name if kept else Path(header["files"][name]) for name in _FILES}
    plan = load_plan(
        paths["cutover_template"],
        paths["rollback_template"],
        limits=paths["limits_file"],
        watch=paths["watch_file"],
        environ=os.environ,
        base=cwd,
    )
    if not kept and plan.sha256 != header["plan_sha256"]:
        raise RunRefused(
            f"run {run.run_id}: the plan's files changed and its private copy is gone, or is not "
            f"what was kept ({room}); roll back by hand with "
            "evidence/ctp_one_shot_cutover_checklist.md"
        )
    return plan, cwd


def _is_as_kept(room: Path, digests: Mapping[str, str]) -> bool:
    """True when all four files are there, byte for byte as the journal's header says."""
    try:
        found = {name: digest_of((room / name).read_bytes()) for name in _FILES}
    except OSError:
        return False
    return found == digests


def clear_private(run: RunDir) -> None:
    """Remove the private copies; the run is over."""
    import shutil

    with contextlib.suppress(OSError, RunRefused):
        shutil.rmtree(private_path(run))
