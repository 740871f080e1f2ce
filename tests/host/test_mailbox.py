"""Facts about host/mailbox.py: letters come whole and in order, and can be taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.host.mailbox import FolderMailbox


def test_letters_are_read_in_their_order(tmp_path: Path) -> None:
    """A draft is no letter yet."""
    mailbox = FolderMailbox(tmp_path)
    mailbox.put("2", b"second")
    mailbox.put("1", b"first")
    (tmp_path / ".3.99").write_bytes(b"half")
    assert [mailbox.read(name) for name in mailbox.names()] == [b"first", b"second"]


def test_a_letter_is_taken_away(tmp_path: Path) -> None:
    """Once or twice; and all of them with their drafts, but for what is no file."""
    mailbox = FolderMailbox(tmp_path)
    for name in ("1", "2", ".3.99"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "room").mkdir()
    mailbox.remove("1")
    mailbox.remove("1")
    assert mailbox.names() == ["2", "room"]
    mailbox.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """The reader passes it over; here it is told."""
    (tmp_path / "1").mkdir()
    with pytest.raises(OSError, match="directory"):
        FolderMailbox(tmp_path).read("1")


def test_waiting_for_a_letter_takes_a_moment(tmp_path: Path) -> None:
    """Nobody rings: it comes back by itself."""
    FolderMailbox(tmp_path).wait()
