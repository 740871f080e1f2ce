"""Facts about host/viewers.py: who looks is seen, who is dead is not, and nothing is raised."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctp_runbook.host.viewers import Look, viewers


def test_those_who_look_see_each_other(tmp_path: Path) -> None:
    """Each sees the others and not itself; whoever closes is gone, and the last takes the folder."""
    folder = tmp_path / "base" / "viewers"
    first, second = (Look(folder, by=name, where="05_watch") for name in ("anna", "bert"))
    assert [viewer.by for viewer in first.others()] == ["bert"]
    assert [viewer.by for viewer in second.others()] == ["anna"]
    assert {viewer.by for viewer in viewers(folder)} == {"anna", "bert"}
    assert viewers(folder)[0].sentence.startswith("anna in 05_watch since ")
    second.close()
    assert first.others() == []
    first.close()
    first.close()
    assert not folder.exists()


LOOKING = """
import sys, time
from pathlib import Path
from ctp_runbook.host.viewers import Look
look = Look(Path(sys.argv[1]), by="dora", where="04_switch")
print("looks", flush=True)
time.sleep(60)
"""


@pytest.mark.twin
def test_a_viewer_that_was_killed_vanishes(tmp_path: Path) -> None:
    """Its lock goes with it; the next to look removes its file."""
    child = subprocess.Popen(
        [sys.executable, "-c", LOOKING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "looks\n"
        assert [viewer.where for viewer in viewers(tmp_path)] == ["04_switch"]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert viewers(tmp_path) == []
    assert not tmp_path.exists()  # its last


def test_whatever_lies_there_is_no_viewer(tmp_path: Path) -> None:
    """A folder, a pipe, a link, a file of nobody; each is passed over, and none is waited for."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "old").write_text("{}")
    (tmp_path / ".draft").write_text("not yet")
    assert viewers(tmp_path) == []
    assert not (tmp_path / "old").exists()
    assert (tmp_path / ".draft").exists()


def test_a_file_that_says_nothing_is_no_viewer(tmp_path: Path) -> None:
    """It is locked, so that somebody lives; who that is cannot be read."""
    look = Look(tmp_path, by="anna", where="05_watch")
    (tmp_path / look._name).write_text("[" * 5000)
    assert viewers(tmp_path) == []
    assert (tmp_path / look._name).exists()
    look.close()


@pytest.mark.parametrize("call", ["mkdir", "open", "flock", "write", "rename"])
def test_who_cannot_be_seen_looks_all_the_same(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a folder of somebody else's: no call of it raises, and no draft stays."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    owner = {"flock": fcntl, "mkdir": Path, "rename": Path}.get(call, os)
    monkeypatch.setattr(owner, call, refuse)
    look = Look(tmp_path / "viewers", by="anna", where="05_watch")
    assert look.others() == []
    look.close()
    monkeypatch.undo()
    assert viewers(tmp_path / "viewers") == []
    assert [*tmp_path.iterdir()] == []
