"""Facts about host/checkout.py: what lies here comes first, then what lies beside the package."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import ctp_runbook
from ctp_runbook.host.checkout import CHECKOUT, changed_since, commit_of, find_here

COMMIT = "1a2b" * 10


def test_the_checkout_holds_the_package() -> None:
    """It is the folder that another process must import from."""
    assert Path(ctp_runbook.__file__).resolve().is_relative_to(CHECKOUT / "ctp_runbook")


def test_here_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the working directory is named as relatively as it was asked for."""
    monkeypatch.chdir(tmp_path)
    assert find_here("configs/limits.toml") == CHECKOUT / "configs/limits.toml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/limits.toml").touch()
    assert find_here(Path("configs") / "limits.toml") == Path("configs/limits.toml")
    assert find_here("configs/nothing.toml") is None


def git(folder: Path, *words: str) -> str:
    """What git says, by the name of somebody."""
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    argv = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout of one commit."""
    folder = tmp_path / "checkout"
    (folder / "ctp_runbook").mkdir(parents=True)
    (folder / "ctp_runbook" / "code.py").write_text("print()\n")
    git(folder, "init", "-q", "-b", "main/line")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def test_the_commit_is_read_as_git_has_it(repository: Path) -> None:
    """Of a branch, a packed one, a worktree of either and a bare commit; without git."""
    head, beside = git(repository, "rev-parse", "HEAD"), repository.with_name("beside")
    assert commit_of(repository) == head
    git(repository, "worktree", "add", "-q", "-b", "other", str(beside))
    assert commit_of(beside) == head
    git(repository, "pack-refs", "--all")
    assert (commit_of(repository), commit_of(beside)) == (head, head)
    git(repository, "checkout", "-q", "--detach")
    assert commit_of(repository) == head


def test_of_what_is_no_checkout_the_installer_may_know_the_commit(tmp_path: Path) -> None:
    """Else, and where the files say something else, it is not known."""
    assert commit_of(tmp_path) == ""
    told = tmp_path / "ctp_runbook-0.1.0.dist-info" / "direct_url.json"
    told.parent.mkdir()
    for said, known in (({"commit_id": COMMIT}, COMMIT), ({"commit_id": "main"}, ""), ({}, "")):
        told.write_text(json.dumps({"url": "https://example.com/a.git", "vcs_info": said}))
        assert commit_of(tmp_path) == known
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) == ""
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert commit_of(tmp_path) == ""
    assert changed_since(tmp_path) is None


def test_a_changed_checkout_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By code that is changed or new; not by configuration, nor by what a hook's environment names."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    (repository / "limits.toml").touch()
    assert changed_since(repository) is False
    (repository / "ctp_runbook" / "new.py").touch()
    assert changed_since(repository) is True
    monkeypatch.setenv("PATH", "/nowhere")
    assert changed_since(repository) is None
    assert changed_since(repository.parent) is None
