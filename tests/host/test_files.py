"""Facts about host/files.py: a file is there whole or not at all, and can be read and cut in part."""

from __future__ import annotations

import os
import socket
import stat
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


def test_only_a_plain_file_is_opened(tmp_path: Path) -> None:
    """A pipe is not waited at, and a folder is none."""
    (tmp_path / "file").write_bytes(b"it")
    with files.open_plain(tmp_path / "file") as source:
        assert source.read() == b"it"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no plain file"):
            files.open_plain(path)
