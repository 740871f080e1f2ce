"""Facts about host/files.py: a file is there whole or not at all, and can be read and cut in part."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from ctp_runbook.host import files


def test_a_file_is_read_in_part(tmp_path: Path) -> None:
    """From an offset, and not more than was asked for."""
    path = tmp_path / "a"
    files.append(path, b"0123")
    files.append(path, b"456789")
    assert files.read(path) == b"0123456789"
    assert files.read(path, start=4, most=3) == b"456"
    assert files.size_of(path) == 10


def test_whoever_appends_to_a_cut_file_goes_on_at_the_cut(tmp_path: Path) -> None:
    """As a talkative step does, whose output is thrown away in between."""
    path = tmp_path / "a"
    with path.open("ab", buffering=0) as sink:
        sink.write(b"much")
        files.truncate(path, 0)
        sink.write(b"little")
    assert files.read(path) == b"little"


def test_a_replaced_file_leaves_no_draft(tmp_path: Path) -> None:
    """Nor does one whose write failed; the old one stays then."""
    path = tmp_path / "room" / "a"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new", mode=0o600)
    assert files.names_in(path.parent) == ["a"]
    with pytest.raises(TypeError):
        files.write_atomic(path, "no bytes")  # type: ignore[arg-type]
    assert files.names_in(path.parent) == ["a"]
    assert files.read(path) == b"new"


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device", "open", "link to fifo"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    """What others have open, a device above all, stays what it is."""
    path = tmp_path / "target"
    if kind in ("fifo", "link to fifo"):
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "open":
        path.symlink_to("/proc/self/fd/1")
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no device can be made here")
    if kind == "link to fifo":
        path = tmp_path / "link"
        path.symlink_to("target")
    before = path.lstat()
    with pytest.raises(OSError, match="not replaced by a file"):
        files.write_atomic(path, b"data")
    assert path.lstat().st_mode == before.st_mode
    assert files.why_not_written(path)


def test_a_link_to_a_file_is_replaced_and_the_file_stays(tmp_path: Path) -> None:
    """As a rename does it: whoever has the file open reads what was in it."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    files.write_atomic(tmp_path / "link", b"new")
    assert ((tmp_path / "link").read_bytes(), (tmp_path / "file").read_bytes()) == (b"new", b"old")


def test_where_a_file_can_be_made_nothing_is_said(tmp_path: Path) -> None:
    """Nor made: folders that are not there yet, and a file that is."""
    assert files.why_not_written(tmp_path / "a/b/c") == ""
    assert files.why_not_written(tmp_path / "a/b", folder=True) == ""
    assert files.names_in(tmp_path) == []


def test_a_file_gets_another_name_and_goes(tmp_path: Path) -> None:
    """What is gone already is no error; what is no file is."""
    draft, path = tmp_path / "draft", tmp_path / "a"
    files.append(draft, b"")
    files.rename(draft, path)
    assert (files.exists(draft), files.exists(path)) == (False, True)
    files.remove(path)
    files.remove(path)
    assert not files.exists(path)
    with pytest.raises(OSError, match="directory"):
        files.remove(tmp_path)


def test_what_is_held_open_is_on_file_at_once(tmp_path: Path) -> None:
    """Each piece whole behind what was there, before the next is asked for."""
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b"first\n")
    with files.appending(path) as add:
        add(b"second\n")
        assert path.read_bytes() == b"first\nsecond\n"
        add(b"third\n")
    assert path.read_bytes() == b"first\nsecond\nthird\n"


def test_what_is_held_open_outlives_its_name(tmp_path: Path) -> None:
    """Removed or replaced, it is put back whole, and goes on under its name; a stranger is kept."""
    path = tmp_path / "room" / "journal"
    path.parent.mkdir()
    with files.appending(path) as kept:
        kept(b"first\n")
        assert kept.put_back() == ""
        shutil.rmtree(path.parent)
        kept(b"second\n")
        assert kept.put_back() == "was removed while it was written"
        assert kept.put_back() == ""
        kept(b"third\n")
        assert path.read_bytes() == kept.read() == b"first\nsecond\nthird\n"
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")
        assert kept.put_back().startswith("was replaced while it was written, by what is now ")
        (aside,) = path.parent.glob("journal.found-*")
        assert aside.is_symlink()
        kept(b"fourth\n")
        assert path.read_bytes() == b"first\nsecond\nthird\nfourth\n"


def test_who_holds_the_descriptor_has_all_of_it(tmp_path: Path) -> None:
    """Whatever name it had meanwhile, or none."""
    path = tmp_path / "journal"
    path.touch()
    other = files.keep_open(path)
    kept = files.KeptFile(path, fd=os.dup(other))
    kept(b"first\n")
    path.unlink()
    kept.put_back()
    path.unlink()
    kept(b"second\n")
    kept.close()
    assert files.path_of(other).read_bytes() == b"first\nsecond\n"
    os.close(other)


def test_what_cannot_be_put_back_is_told_and_written_on(tmp_path: Path) -> None:
    """There is no place for it, and it is open all the same."""
    path = tmp_path / "room" / "journal"
    path.parent.mkdir()
    with files.appending(path) as kept:
        shutil.rmtree(path.parent)
        path.parent.touch()
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            kept.put_back()
        kept(b"first\n")
        assert kept.read() == b"first\n"


@pytest.mark.parametrize("has_memory", [True, False])
def test_scratch_is_in_no_folder_and_ends(
    has_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process opens it by its path; also where the kernel gives no memory without a name."""
    if not has_memory:

        def refuse(name: str) -> int:
            raise PermissionError(name)

        monkeypatch.setattr(os, "memfd_create", refuse)
    with files.scratch("probe") as path:
        subprocess.run(["bash", "-c", f"echo said >> {path}"], check=True)
        assert files.read(path) == b"said\n"
        assert "(deleted)" in str(path.readlink())
    assert not path.exists()


def test_nobody_waits_at_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    """Whoever may write to the folder can leave one; the run goes on with an error instead."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no plain file"):
            files.read(path)


def test_a_new_file_is_private_and_one_that_is_there_keeps_its_readers(tmp_path: Path) -> None:
    """Whoever opened an evidence file to a group finds it open after the next run."""
    path = tmp_path / "room" / "a"
    before = os.umask(0)
    try:
        files.write_atomic(path, b"1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        files.write_atomic(path, b"2")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    files.write_atomic(path, b"3", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_a_plain_file_is_opened(tmp_path: Path) -> None:
    """A pipe is not waited at, and a folder is none."""
    (tmp_path / "file").write_bytes(b"it")
    with files.open_plain(tmp_path / "file") as source:
        assert source.read() == b"it"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no plain file"):
            files.open_plain(path)
