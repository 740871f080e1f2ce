"""What a detached orchestrator needs and no disk may hold: the unredacted plan, on tmpfs.

Also found there after a crash. The journal's header has the digest of each file kept. A copy that
is not what was kept, or is gone, as after a reboot, is not used: the files the plan was made from
are read again, if they are still the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ctp_runbook.errors import RunRefused
from ctp_runbook.host import caller
from ctp_runbook.plan.plan import PLAN_FILES, Plan, load_plan
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import digest_of, read_journal
from ctp_runbook.record.kinds import RunCreated
from ctp_runbook.record.rundir import RunDir, private_dir, private_path, write_atomic

__all__ = ["clear_private", "keep_private", "load_private_plan", "named_files", "plan_of_files"]

# How the copy of a file of G_SESSION_SOURCES is called, after its generation.
_SESSION = "_session_sources"


def keep_private(run: RunDir, plan: Plan) -> dict[str, str]:
    """Keep the files as they were when the plan was made, readable by this user alone.

    Returns the SHA-256 of each, for the journal's header (``kept_files``). Raises RunRefused where
    there is no room for them.
    """
    files = {name: getattr(plan, name).read_bytes() for name in PLAN_FILES}
    files |= {
        f"{generation}{_SESSION}": path.read_bytes()
        for generation, path in plan.session_files.items()
    }
    try:
        room = private_dir(run)
        for name, data in files.items():
            write_atomic(room / name, data, mode=0o600)
    except OSError as error:
        # On no disk instead: it holds secrets.
        raise RunRefused(
            f"the plan cannot be kept in {private_path(run)} ({error.strerror}), where it is to be in "
            "memory alone; make room there, then run again"
        ) from error
    return {name: digest_of(data) for name, data in files.items()}


def load_private_plan(run: RunDir, header: RunCreated | None = None) -> tuple[Plan, Path]:
    """The plan of a run and the directory its commands run in; ``header`` is its journal's.

    Raises RunRefused when it can be had neither from tmpfs nor, unchanged, from its files.
    """
    header = header or History.of(read_journal(run.journal).records[:1]).created
    cwd = Path(header.cwd)
    room = private_path(run)
    kept = _is_as_kept(room, header.kept_files)
    if kept:
        plan = plan_of_files({name: room / name for name in header.kept_files}, base=cwd)
    else:
        plan = plan_of_files(named_files(header), base=cwd)
    if not kept and plan.sha256 != header.plan_sha256:
        raise RunRefused(
            f"run {run.run_id}: the plan's files changed and its private copy is gone, or is not "
            f"what was kept ({room}); roll back by hand with "
            "evidence/ctp_one_shot_cutover_checklist.md"
        )
    return plan, cwd


def named_files(header: RunCreated) -> dict[str, Path]:
    """The four files a run was planned from, as the header of its journal names them."""
    return {name: Path(getattr(header.files, name)) for name in PLAN_FILES}


def plan_of_files(files: Mapping[str, Path], *, base: Path) -> Plan:
    """The plan that such files make now, in this environment; ``base`` is where its commands run.

    Session sources that are not among them are read where the template says.

    Raises ConfigError or TemplateError when they make none.
    """
    return load_plan(
        files["cutover_template"],
        files["rollback_template"],
        limits=files["limits_file"],
        watch=files["watch_file"],
        environ=caller.environ(),
        base=base,
        session_files={
            name.removesuffix(_SESSION): path
            for name, path in files.items()
            if name.endswith(_SESSION)
        },
    )


def _is_as_kept(room: Path, digests: Mapping[str, str]) -> bool:
    """True when all files are there, byte for byte as the journal's header says."""
    try:
        names = {*PLAN_FILES, *digests}
        present = {name: digest_of((room / name).read_bytes()) for name in names}
    except OSError:
        return False
    return present == digests


def clear_private(run: RunDir) -> None:
    """Remove the private copies; the run is over."""
    with contextlib.suppress(OSError, RunRefused):
        if (path := private_path(run)).exists():  # a dry run has none, and is to start quickly
            import shutil

            shutil.rmtree(path)
