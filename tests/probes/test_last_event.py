"""Facts about probes/last_event.py: what an engine's log told last, since that engine began."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.probes import last_event as module
from ctp_runbook.probes.last_event import Event, last_event
from ctp_runbook.probes.log import line_parser

START = 1_764_000_000
LINES = [
    'ts_ns={}000000000 level=info app=core_engine event=ctp_settlement_confirmed investor="***"',
    'ts_ns={}200000000 level=info app=core_engine event=ctp_recovery_report callbacks_drained="true"',
    'ts_ns={}210000000 level=info event=trading_permission_changed mode="CloseOnly" reasons="x"',
    'ts_ns={}300000000 level=warn event=ctp_front_disconnected reason="0x1001"',
]
TEXT = "".join(f"{line.format(START)}\n" for line in LINES)


def told(path: Path, *names: str, since: float = START, form: str = "logfmt") -> Event | None:
    """The last event of these names."""
    pattern = r"(?P<time>\S+ \S+) (?P<event>\w+)" if form == "pattern" else ""
    parse = line_parser(form, pattern=pattern)
    return last_event(path, parse=parse, names=names, since=since)


def test_the_last_event_counts_and_only_since_the_engine_began(tmp_path: Path) -> None:
    """What an engine before it wrote is another's."""
    path = tmp_path / "a.log"
    path.write_text(TEXT)
    event = told(path, "trading_permission_changed")
    assert event is not None
    assert event.fields["mode"] == "CloseOnly"
    assert event.wall == pytest.approx(START + 0.21, abs=1e-4)
    assert told(path, "ctp_settlement_confirmed", since=START + 1) is None
    assert told(path, "nothing_such") is None
    both = told(path, "ctp_settlement_confirmed", "ctp_front_disconnected")
    assert both is not None
    assert both.name == "ctp_front_disconnected"


def test_a_line_that_has_no_end_yet_tells_nothing(tmp_path: Path) -> None:
    """It may go on: ``mode="Ready`` may yet become anything."""
    path = tmp_path / "a.log"
    path.write_text(
        TEXT + 'ts_ns=1764000000900000000 event=trading_permission_changed mode="Ready"'
    )
    event = told(path, "trading_permission_changed")
    assert event is not None
    assert event.fields["mode"] == "CloseOnly"


@pytest.mark.parametrize("piece", [1, 7, 64, 1000, 1 << 20])
def test_pieces_end_anywhere(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is found once, wherever it is cut, with noise before and behind it."""
    monkeypatch.setattr(module, "_PIECE_BYTES", piece)
    path = tmp_path / "a.log"
    path.write_text("noise without a pair\n" + TEXT + f"{'x' * 3000}\n")
    for name in ("ctp_settlement_confirmed", "ctp_recovery_report", "trading_permission_changed"):
        assert told(path, name) is not None


def test_what_the_log_was_rotated_into_is_read_too(tmp_path: Path) -> None:
    """Where that was written since the engine began; packed or older it is not."""
    path, old = tmp_path / "a.log", tmp_path / "a.log.1"
    path.write_text("")
    old.write_text(TEXT)
    assert told(path, "ctp_settlement_confirmed") is not None
    os.utime(old, (START - 5, START - 5))
    assert told(path, "ctp_settlement_confirmed") is None


def test_other_forms_and_times(tmp_path: Path) -> None:
    """JSON lines, an expression's groups; a time without an offset is this host's."""
    path = tmp_path / "a.log"
    path.write_text('{"msg": "up", "ts": 1764000000.5}\nno json\n')
    assert told(path, "up", form="json") is not None
    path.write_text("2030-01-01 00:00:00 up\n2030-01-01 00:00:01 down\n")
    event = told(path, "up", "down", form="pattern")
    assert event is not None
    assert event.name == "down"


def test_a_log_that_tells_nobody_is_told(tmp_path: Path) -> None:
    """No file, a pipe, events without a time."""
    path = tmp_path / "a.log"
    for make in (None, os.mkfifo):
        if make:
            make(path)
        with pytest.raises(ProbeError, match="it cannot be read"):
            told(path, "up")
        path.unlink(missing_ok=True)
    path.write_text("event=up x=1\n")
    with pytest.raises(ProbeError, match="the event up has no time"):
        told(path, "up")


def test_a_line_that_names_it_and_cannot_be_read_is_no_silence(tmp_path: Path) -> None:
    """Two lines written into one: what the older ones say may be taken back in it."""
    path = tmp_path / "a.log"
    name = "trading_permission_changed"
    torn = f'ts_ns={START}220000000 event={name} mode="Blo{LINES[3].format(START)}\n'
    path.write_text(TEXT + torn)
    with pytest.raises(ProbeError, match="not of the log's form"):
        told(path, name)
    path.write_text(TEXT + f"saw a {name} twice: x x\n")
    assert told(path, name) is not None


def test_what_was_not_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed, or too much of it: there may be the event, so nobody says that there is none."""
    path = tmp_path / "a.log"
    path.write_text(TEXT)
    (tmp_path / "a.log.1.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ProbeError, match=r"no nothing_such in it; a\.log\.1\.gz was not read"):
        told(path, "nothing_such")
    os.utime(tmp_path / "a.log.1.gz", (START - 9, START - 9))
    assert told(path, "nothing_such") is None
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    with pytest.raises(ProbeError, match="what is before its last 0 MiB was not read"):
        told(path, "nothing_such")


@pytest.mark.parametrize("name", ["a.log.1", "a.log-20261126", "a.1.log", "a-20261126.log"])
def test_whatever_it_is_rotated_into(name: str, tmp_path: Path) -> None:
    """As the follower knows them."""
    (tmp_path / name).write_text(TEXT)
    path = tmp_path / "a.log"
    path.write_text(f"ts={START + 5} event=other\n")
    assert told(path, "ctp_settlement_confirmed") is not None


def test_the_end_of_a_line_without_end_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too long to be a line is left out, not read from its midst."""
    monkeypatch.setattr(module, "_PIECE_BYTES", 64)
    monkeypatch.setattr(module, "_LONGEST_LINE", 80)
    path = tmp_path / "a.log"
    text = f"ts={START} event=ready\n"
    path.write_text(text + "x" * 500 + f" ts={START} event=bad\n")
    assert told(path, "bad") is None
    event = told(path, "ready")
    assert event is not None
    assert event.wall == START


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    """An expression that ends in ``$`` too."""
    path = tmp_path / "a.log"
    path.write_bytes(b"2025-11-25 00:00:00 ready\r\n")
    parse = line_parser("pattern", pattern=r"(?P<time>\S+ \S+) (?P<event>\w+)$")
    assert last_event(path, parse=parse, names=("ready",), since=0) is not None
