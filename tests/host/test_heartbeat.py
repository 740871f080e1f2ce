"""Facts about host/heartbeat.py: signs of life in the lock file, for whoever holds it and looks on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host import heartbeat
from ctp_runbook.host.heartbeat import Beat, beat_of, read_beat, write_beat
from ctp_runbook.host.lock import holder_of, take_environment_lock
from ctp_runbook.host.process import own_identity

BEAT = Beat(4001, 401, 12.5, 1.0, 10.2)


@pytest.fixture
def environment() -> Iterator[str]:
    """An environment of its own; its lock file is removed."""
    name = f"test-heartbeat-{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    for room in (Path("/run/lock"), Path("/tmp")):
        (room / f"ctp-runbook.{name}.lock").unlink(missing_ok=True)


@pytest.fixture
def lock(environment: str, tmp_path: Path) -> Iterator[int]:
    """Its lock, taken for a run in ``tmp_path``."""
    fd = take_environment_lock(environment, run_id="r", path=tmp_path)
    yield fd
    os.close(fd)


def test_each_of_the_two_has_a_line_of_its_own(lock: int) -> None:
    """The last sign counts, and is read as it was left; before the first there is none."""
    assert read_beat(lock, "orchestrator") is None
    other = BEAT._replace(mono=123456789.25, patience=5.05)
    assert write_beat(lock, "orchestrator", other._replace(busy=60.0))
    assert write_beat(lock, "orchestrator", BEAT)
    assert write_beat(lock, "guardian", other)
    assert read_beat(lock, "orchestrator") == BEAT
    assert read_beat(lock, "guardian") == other
    assert BEAT.allowed == pytest.approx(11.2)


def test_who_gave_it_is_told_by_pid_and_start_time(lock: int) -> None:
    """A pid alone may be another's by now."""
    own = own_identity()
    beat = BEAT._replace(pid=own.pid, start_ticks=own.start_ticks)
    assert beat.is_of(own)
    assert not beat._replace(start_ticks=own.start_ticks - 1).is_of(own)


def test_whoever_looks_on_reads_those_of_the_run_alone_that_holds_the_lock(
    environment: str, lock: int, tmp_path: Path
) -> None:
    """The holder is named as before; another run of the environment has none, nor has no lock."""
    write_beat(lock, "guardian", BEAT)
    assert holder_of(environment) == str(tmp_path)
    assert beat_of(environment, "guardian", path=tmp_path) == BEAT
    assert beat_of(environment, "orchestrator", path=tmp_path) is None
    assert beat_of(environment, "guardian", path=tmp_path / "other") is None
    assert beat_of(f"{environment}.none", "guardian", path=tmp_path) is None


def test_the_next_run_finds_none_of_the_last(environment: str, tmp_path: Path) -> None:
    """Taking the lock begins anew."""
    before = take_environment_lock(environment, run_id="a", path=tmp_path)
    write_beat(before, "guardian", BEAT)
    os.close(before)
    lock = take_environment_lock(environment, run_id="b", path=tmp_path)
    assert read_beat(lock, "guardian") is None
    os.close(lock)


@pytest.mark.parametrize("line", [b"", b"\0" * 128, b"1 2 three 4 5\n", b"1 2\n", b"nan " * 5])
def test_what_is_no_sign_of_life_is_none(lock: int, line: bytes) -> None:
    """Every user may write to the file."""
    os.pwrite(lock, line, heartbeat._PLACES["orchestrator"])
    assert read_beat(lock, "orchestrator") is None


def test_a_file_that_takes_none_is_told(environment: str, lock: int) -> None:
    """To whoever writes: it is to judge nobody by their silence then."""
    reader = os.open(f"/proc/self/fd/{lock}", os.O_RDONLY)
    assert not write_beat(reader, "guardian", BEAT)
    os.close(reader)
    assert read_beat(-1, "guardian") is None
