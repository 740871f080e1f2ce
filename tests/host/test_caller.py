"""Facts about host/caller.py: who calls is told as the system has it."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from ctp_runbook.host import caller


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record must name somebody."""
    assert caller.user_name() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert caller.user_name() == f"uid {2**31 - 7}"


def test_the_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run was started with does not change under it."""
    before = caller.environ()
    monkeypatch.setenv("CTP_TEST_CALLER", "1")
    assert "CTP_TEST_CALLER" not in before
    assert caller.environ()["CTP_TEST_CALLER"] == "1"


def test_the_command_that_runs_is_the_one_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates begin with ctp-runbook; whoever runs it by its path has it on no PATH."""
    own, other = tmp_path / "venv/ctp-runbook", tmp_path / "other/ctp-runbook"
    for file in (own, other):
        file.parent.mkdir()
        file.touch(mode=0o755)
    monkeypatch.setattr(caller, "_OWN", own)
    for path, seen in {
        "/bin": f"/bin:{own.parent}",
        f"/bin:{own.parent}": f"/bin:{own.parent}",
        f"/bin:{other.parent}": f"{own.parent}:/bin:{other.parent}",
        "": f"{own.parent}",
    }.items():
        monkeypatch.setenv("PATH", path)
        assert caller.environ()["PATH"] == seen
    own.unlink()
    assert caller.environ()["PATH"] == ""


def test_host_and_folder_are_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And two tokens are hardly ever the same."""
    monkeypatch.chdir(tmp_path)
    assert (caller.host_name(), caller.folder()) == (os.uname().nodename, tmp_path)
    assert re.fullmatch("[0-9a-f]{4}", caller.token())
    assert len({caller.token() for _ in range(50)}) > 1
