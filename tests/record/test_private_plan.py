"""Facts about record/private_plan.py: a run comes back with the plan it was made with, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.private_plan import clear_private, keep_private, load_private_plan
from ctp_runbook.record.rundir import RunDir, private_dir, private_path
from ctp_runbook.run.launch import RunOptions, create_run
from tests.props.plan_fixtures import end_run, make_plan, make_run

FILES = ("cutover_template", "limits_file", "rollback_template", "watch_file")
SECRET = "hunter2-hunter2"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan whose warm-up command has a secret in it."""
    monkeypatch.chdir(tmp_path)
    return make_plan(tmp_path, WARMUP_QUERY_CMD=f"cat --token {SECRET}")


@pytest.fixture
def run(plan: Plan, tmp_path: Path) -> Iterator[RunDir]:
    """A real run of it, created and not started."""
    made = create_run(
        plan, RunOptions(execute=True, accept_unmeasured="a test", outputs=tmp_path / "outputs")
    )
    yield made
    end_run(made)


def test_the_four_files_are_kept_for_this_user_alone(run: RunDir, plan: Plan) -> None:
    """As they were, secrets included, where no other user and no disk has them."""
    kept = sorted(private_dir(run).iterdir())
    assert [path.name for path in kept] == list(FILES)
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == getattr(plan, path.name).read_bytes()
    assert SECRET in kept[0].read_text()


def test_the_plan_comes_back_as_it_was(run: RunDir, plan: Plan, tmp_path: Path) -> None:
    """Command for command, unredacted, with the folder to run it in, whatever the files say now."""
    plan.cutover_template.write_text("rewritten meanwhile")
    plan.rollback_template.unlink()
    loaded, cwd = load_private_plan(run)
    assert cwd == tmp_path
    assert loaded.steps == plan.steps
    assert loaded.step("warmup_query").command.endswith(SECRET)
    assert loaded.sha256 == plan.sha256


def test_after_a_reboot_unchanged_files_will_do(run: RunDir, plan: Plan) -> None:
    """tmpfs is empty then; files with the digest of the plan are the plan."""
    clear_private(run)
    loaded, _ = load_private_plan(run)
    assert loaded.steps == plan.steps


@pytest.mark.parametrize("name", ["cutover.env", "limits.toml", "ctp.yaml"])
def test_after_a_reboot_changed_files_will_not(run: RunDir, name: str, tmp_path: Path) -> None:
    """Better no plan than another one: refused, with what to do by hand."""
    clear_private(run)
    with (tmp_path / name).open("a") as file:
        file.write("# one more line\n")
    with pytest.raises(RunRefused, match=r"roll back by hand with evidence/.*checklist\.md"):
        load_private_plan(run)


@pytest.mark.parametrize("name", FILES)
def test_half_a_private_copy_is_none(run: RunDir, plan: Plan, name: str) -> None:
    """Three files of one time and one of another would be a plan that nobody reviewed."""
    (private_dir(run) / name).unlink()
    plan.cutover_template.write_bytes(plan.cutover_template.read_bytes() + b"# changed\n")
    with pytest.raises(RunRefused, match="the plan's files changed"):
        load_private_plan(run)


@pytest.mark.parametrize("name", FILES)
def test_a_private_copy_that_differs_is_not_used(run: RunDir, plan: Plan, name: str) -> None:
    """The journal has the digest of what was kept; the files of the plan will do while they are
    unchanged, and else there is no plan."""
    kept = private_dir(run) / name
    kept.write_bytes(kept.read_bytes() + b"# one more line\n")
    loaded, _ = load_private_plan(run)
    assert (loaded.sha256, loaded.cutover_template) == (plan.sha256, plan.cutover_template)
    plan.cutover_template.write_bytes(plan.cutover_template.read_bytes() + b"# changed\n")
    with pytest.raises(RunRefused, match="is gone, or is not what was kept"):
        load_private_plan(run)


def test_a_run_is_one_whatever_leads_to_it(run: RunDir, tmp_path: Path) -> None:
    """A relative path or a link to its folder finds the same room."""
    (tmp_path / "link").symlink_to(run.path.parent)
    for path in (tmp_path / "link" / run.run_id, run.path.relative_to(tmp_path)):
        assert private_path(RunDir(path)) == private_path(run)


def test_clearing_leaves_nothing(run: RunDir) -> None:
    """When the run is over its secrets are; clearing twice is no error."""
    room = private_dir(run)
    clear_private(run)
    clear_private(run)
    assert not room.exists()
    assert [path for path in run.path.rglob("*") if path.is_file() and _has_secret(path)] == []


def _has_secret(path: Path) -> bool:
    return SECRET.encode() in path.read_bytes()


def test_two_runs_of_one_name_keep_their_own_plans(tmp_path: Path) -> None:
    """Two environments, two outputs folders, one --run-dir name: neither gets the other's plan."""
    name = f"same-{os.getpid()}"
    runs, plans = [], []
    for side in ("a", "b"):
        folder = tmp_path / side
        folder.mkdir()
        plans.append(make_plan(folder))
        run = RunDir(folder / name)
        create_run(
            plans[-1], RunOptions(execute=True, accept_unmeasured="a test", run_dir=run.path)
        )
        runs.append(run)
    try:
        loaded = [load_private_plan(run)[0].environment for run in runs]
    finally:
        for run in runs:
            end_run(run)
    assert loaded == [plan.environment for plan in plans]


def test_keeping_again_replaces(run: RunDir, tmp_path: Path) -> None:
    """A second keeping leaves the newer files, and no drafts beside them."""
    other = tmp_path / "other"
    other.mkdir()
    plan = make_plan(other)
    keep_private(run, plan)
    kept = private_dir(run)
    assert (kept / "cutover_template").read_bytes() == plan.cutover_template.read_bytes()
    assert sorted(path.name for path in kept.iterdir()) == list(FILES)


def test_a_plan_that_cannot_be_kept_in_memory_is_refused(tmp_path: Path) -> None:
    """Before anything is touched; on a disk its secrets have no business."""
    run = make_run(tmp_path)
    private_dir(run).rmdir()
    private_path(run).write_text("a file")
    try:
        with pytest.raises(RunRefused, match=r"in memory alone; make room there, then run again"):
            keep_private(run, make_plan(tmp_path))
    finally:
        private_path(run).unlink()
