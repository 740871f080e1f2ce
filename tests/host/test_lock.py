"""Facts about host/lock.py: one run at a time, for whoever runs it, and no lock outlives its holders."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.heartbeat import beat_of
from ctp_runbook.host.lock import exclusive, folders_of, give_back, holder_of
from ctp_runbook.host.lock import take_environment_lock as take_lock


@pytest.fixture
def environment() -> Iterator[str]:
    """An environment of its own; its lock file is removed."""
    name = f"test-lock-{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    for room in (Path("/run/lock"), Path("/tmp")):
        (room / f"ctp-runbook.{name}.lock").unlink(missing_ok=True)


def lock_of(environment: str) -> Path:
    """Its lock file."""
    os.close(take_lock(environment, run_id="looking"))
    (path,) = (
        path
        for room in (Path("/run/lock"), Path("/tmp"))
        if (path := room / f"ctp-runbook.{environment}.lock").exists()
    )
    path.unlink()
    return path


def test_a_second_run_is_refused_and_told_who_holds(environment: str) -> None:
    """One run at a time for an environment of this host."""
    held = take_lock(environment, run_id="first")
    with pytest.raises(RunRefused) as caught:
        take_lock(environment, run_id="second")
    assert f"environment {environment} is held by run first (" in str(caught.value)
    other = take_lock(f"{environment}.", run_id="third")
    os.close(other)
    os.close(held)
    Path(f"/run/lock/ctp-runbook.{environment}..lock").unlink(missing_ok=True)


def test_a_lock_is_free_when_its_holders_are_gone(environment: str) -> None:
    """Each process that has the descriptor holds it, and kill -9 gives it back."""
    lock = take_lock(environment, run_id="first")
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    os.close(lock)
    with pytest.raises(RunRefused, match="held by run first"):
        take_lock(environment, run_id="second")
    child.kill()
    child.wait()
    os.close(take_lock(environment, run_id="second"))


def test_a_lock_of_one_who_is_just_leaving_is_waited_for(environment: str) -> None:
    """A killed process may keep its files a moment longer than its identity."""
    lock = take_lock(environment, run_id="first")
    child = subprocess.Popen(["sleep", "0.2"], pass_fds=[lock])
    os.close(lock)
    os.close(take_lock(environment, run_id="second"))
    child.wait()


def test_a_longer_name_before_leaves_no_letters(environment: str) -> None:
    """The holder's name is written anew."""
    os.close(take_lock(environment, run_id="a-very-long-run-id"))
    held = take_lock(environment, run_id="b")
    with pytest.raises(RunRefused, match=r"is held by run b \("):
        take_lock(environment, run_id="c")
    os.close(held)


def test_a_lock_that_is_a_link_is_not_followed(environment: str, tmp_path: Path) -> None:
    """In a folder that all may write to, a link could point at anything."""
    room = lock_of(environment).parent
    target = tmp_path / "precious"
    target.write_text("data")
    (room / f"ctp-runbook.{environment}.lock").symlink_to(target)
    with pytest.raises(RunRefused, match="cannot be opened: Too many levels of symbolic links"):
        take_lock(environment, run_id="r")
    assert target.read_text() == "data"


def test_nobody_waits_at_a_pipe_by_the_name_of_a_lock(environment: str, tmp_path: Path) -> None:
    """Anybody may leave one in a folder that all may write to."""
    room = lock_of(environment).parent
    os.mkfifo(room / f"ctp-runbook.{environment}.lock")
    assert holder_of(environment) == ""
    assert beat_of(environment, "guardian", path=tmp_path) is None


def test_a_step_does_not_hold_the_lock(environment: str, tmp_path: Path) -> None:
    """What a step starts must not keep the environment locked after the run."""
    lock = take_lock(environment, run_id="first")
    assert not os.get_inheritable(lock)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        os.close(lock)
        os.close(take_lock(environment, run_id="second"))
        child.kill()


def test_a_refusal_keeps_no_descriptor(environment: str, tmp_path: Path) -> None:
    """Whatever the reason: held, a link, a folder in its place."""
    path = lock_of(environment)
    before = os.listdir("/proc/self/fd")
    path.symlink_to(tmp_path)
    with pytest.raises(RunRefused):
        take_lock(environment, run_id="second")
    path.unlink()
    path.mkdir()
    with pytest.raises(RunRefused):
        take_lock(environment, run_id="second")
    path.rmdir()
    held = take_lock(environment, run_id="first")
    with pytest.raises(RunRefused):
        take_lock(environment, run_id="second")
    os.close(held)
    assert os.listdir("/proc/self/fd") == before


OTHER_USER = 60000 + os.getpid() % 5000  # of this test run alone
TAKE = f"""
import os, sys
from ctp_runbook.host.lock import take_environment_lock
os.setuid({OTHER_USER})
take_environment_lock(sys.argv[1], run_id="theirs")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_lock_is_one_for_all_users(environment: str) -> None:
    """Whoever made the file, with whatever umask: another user is refused while it is held, and
    gets it afterwards."""
    path = lock_of(environment)
    mask = os.umask(0o077)
    held = take_lock(environment, run_id="ours")
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    take = [sys.executable, "-c", TAKE, environment]
    refused = subprocess.run(take, capture_output=True, text=True, check=False)
    assert "is held by run ours" in refused.stderr
    os.close(held)
    subprocess.run(take, check=True)


def test_a_file_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """The second one is told in time; what happens under the lock is its own affair."""
    path = tmp_path / "journal"
    path.touch()
    with (
        exclusive(path, seconds=1),
        pytest.raises(TimeoutError, match="held by another"),
        exclusive(path, seconds=0.05),
    ):
        pass
    with pytest.raises(TimeoutError, match="mine"), exclusive(path, seconds=1):
        raise TimeoutError("mine")


def test_a_lock_remembers_where_its_runs_were(environment: str, tmp_path: Path) -> None:
    """The last folder first, each once, also past a start that named none; those of this user only."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    for path in (first / "a", second / "b", None, first / "c", tmp_path / "gone" / "d", None):
        give_back(take_lock(environment, run_id="x", path=path))
    assert folders_of(environment) == [first, second]
    assert holder_of(environment) == ""
    assert folders_of("never-heard-of") == []
