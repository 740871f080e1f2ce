"""Facts about record/recording.py: a window played again says what was said then, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.record.recording import Recording
from ctp_runbook.record.samples import Sample


def recorded(folder: Path, *values: float | None) -> Path:
    """A file with one sample a second; None is one that failed."""
    path = folder / "watch.jsonl"
    lines = [
        Sample(
            seq=number,
            wall=1e9 + number,
            mono=100.0 + number,
            source="engine",
            target="engine",
            ok=value is not None,
            error="" if value is not None else "connection refused",
            took_ms=1.0,
            series={} if value is None else {"x": value},
        ).to_line()
        for number, value in enumerate(values)
    ]
    path.write_bytes(b"".join(lines))
    return path


def test_a_recording_is_played_at_its_own_pace(tmp_path: Path) -> None:
    """What was said then, as long after the start; an error is an error again."""
    now = [50.0]
    played = Recording(recorded(tmp_path, 1.0, 2.0, None, 4.0), clock=lambda: now[0])
    assert played.read() == {"x": 1.0}
    now[0] = 51.5
    assert played.read() == {"x": 2.0}
    now[0] = 52.0
    with pytest.raises(ProbeError, match="connection refused"):
        played.read()
    now[0] = 53.9
    assert played.read() == {"x": 4.0}


def test_a_recording_that_is_over_says_nothing_more(tmp_path: Path) -> None:
    """Its last value is not repeated for ever: that would be no data taken for good data."""
    now = [0.0]
    played = Recording(recorded(tmp_path, 1.0, 2.0), clock=lambda: now[0])
    now[0] = 2.1
    with pytest.raises(ProbeError, match="it ends after 1 s"):
        played.read()


@pytest.mark.parametrize("content", [b"", b"nonsense\n"])
def test_a_file_that_is_no_recording_is_an_error(content: bytes, tmp_path: Path) -> None:
    """Named by its key in watch.toml."""
    (tmp_path / "watch.jsonl").write_bytes(content)
    with pytest.raises(ProbeError, match=r"sources\.replay_file"):
        Recording(tmp_path / "watch.jsonl")
