"""Where configuration and notebooks are looked for: beside the template, here, in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import InputError, RunRefused
from ctp_runbook.host.checkout import CHECKOUT
from ctp_runbook.notebook.checkout import find_config, find_notebooks, find_plan
from ctp_runbook.notebook.runner import NOTEBOOKS

OPS = CHECKOUT / "configs" / "ops"
CUTOVER = OPS / "ctp_cutover.template.env"
ROLLBACK = OPS / "ctp_rollback_drill.template.env"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of one's own, with limits of one's own."""
    room = tmp_path / "desk"
    (room / "configs").mkdir(parents=True)
    (room / "configs" / "limits.toml").write_text("")
    monkeypatch.chdir(room)
    return room


def test_limits_beside_the_template_win(here: Path, tmp_path: Path) -> None:
    """A rehearsal brings its own along, and no other's are looked at."""
    (tmp_path / "limits.toml").write_text("")
    found = find_config("limits.toml", template=tmp_path / "cutover.env")
    assert found == tmp_path / "limits.toml"


def test_limits_of_the_working_directory_come_next(here: Path, tmp_path: Path) -> None:
    """What the operator keeps where they work goes before what was shipped."""
    found = find_config("limits.toml", template=tmp_path / "cutover.env")
    assert found.samefile(here / "configs" / "limits.toml")


def test_what_is_nowhere_else_is_the_checkout_s(here: Path, tmp_path: Path) -> None:
    """The desk has no rules of a watch: those that were shipped hold."""
    found = find_config("watch.toml", template=tmp_path / "cutover.env")
    assert found == CHECKOUT / "configs" / "watch.toml"


def test_what_is_nowhere_is_refused_by_name(here: Path, tmp_path: Path) -> None:
    """The refusal names the file, where it was looked for, and what to do."""
    with pytest.raises(RunRefused, match=r"configs/moon\.toml is neither here nor in .*; run in a"):
        find_config("moon.toml", template=tmp_path / "cutover.env")


def test_a_folder_beside_the_template_is_no_file_of_limits(here: Path, tmp_path: Path) -> None:
    """A directory of that name is passed over."""
    (tmp_path / "limits.toml").mkdir()
    found = find_config("limits.toml", template=tmp_path / "cutover.env")
    assert found.samefile(here / "configs" / "limits.toml")


def test_the_seven_notebooks_are_found_from_anywhere(here: Path) -> None:
    """A desk without notebooks works on the checkout's."""
    beside = {"00_calibrate", "00_start", "08_history"}
    assert {path.stem for path in find_notebooks().glob("*.ipynb")} == {*beside, *NOTEBOOKS}


def test_notebooks_of_the_working_directory_win(here: Path) -> None:
    """Whoever keeps a copy to change runs that copy."""
    (here / "notebooks").mkdir()
    assert find_notebooks().samefile(here / "notebooks")


def test_a_plan_is_loaded_with_what_belongs_to_its_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any directory: the shipped limits and rules hold for the shipped templates."""
    monkeypatch.chdir(tmp_path)
    plan = find_plan(CUTOVER, ROLLBACK)
    assert plan.cutover_template == CUTOVER
    assert (
        plan.limits == find_plan(CUTOVER, ROLLBACK, limits=CHECKOUT / "configs/limits.toml").limits
    )


def test_limits_that_are_named_are_those_that_hold(tmp_path: Path) -> None:
    """A flag, or the file that a run was planned with, goes before all that would be found."""
    shipped = (CHECKOUT / "configs" / "limits.toml").read_text()
    named = tmp_path / "strict.toml"
    named.write_text(shipped.replace("require_plan_sha256 = false", "require_plan_sha256 = true"))
    assert named.read_text() != shipped
    assert not find_plan(CUTOVER, ROLLBACK).limits.require_plan_sha256
    assert find_plan(CUTOVER, ROLLBACK, limits=named).limits.require_plan_sha256


def test_limits_that_are_none_are_refused_with_their_file(tmp_path: Path) -> None:
    """A named file that cannot be read as limits does not fall back to another."""
    named = tmp_path / "broken.toml"
    named.write_text("this is no TOML")
    with pytest.raises(InputError, match=r"broken\.toml"):
        find_plan(CUTOVER, ROLLBACK, limits=named)
