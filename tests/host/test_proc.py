"""Facts about host/proc.py: what start refuses, what stop proves, what alive can tell."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.pid_file import PidFileUnreadable, read_pid_file
from ctp_runbook.host.proc import ALIVE, COULD_NOT_TELL, GONE, alive, main, start, stop
from ctp_runbook.host.process import end_group, group_members, is_running, own_identity
from ctp_runbook.model import Identity

STUBBORN = ("bash", "-c", 'trap "" TERM; while :; do sleep 0.1; done')


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    """A pid file in a path with a space; what it names at the end is ended, unless it is us."""
    path = tmp_path / "a dir" / "d.pid"
    yield path
    with contextlib.suppress(PidFileUnreadable):
        left = (found := read_pid_file(path)) and found.identity
        if left and left.pid != os.getpid() and is_running(left):
            end_group(left.pid, term_grace=0.2, kill_grace=1)


def test_start_alive_stop(pid_file: Path) -> None:
    """The life of a daemon, each step with its exit code and its identity in the sentence."""
    started = start(pid_file, ["sleep", "60"])
    recorded = read_pid_file(pid_file)
    assert recorded is not None
    assert started.exit_code == 0
    assert started.identity == Identity(recorded.pid, recorded.start_ticks)
    assert alive(pid_file).exit_code == ALIVE
    stopped = stop(pid_file)
    assert stopped.exit_code == 0
    assert str(started.identity) in stopped.sentence
    assert "after TERM" in stopped.sentence
    assert alive(pid_file).exit_code == GONE
    assert not pid_file.exists()


def test_a_second_start_is_refused(pid_file: Path) -> None:
    """What runs is left running, and its pid file untouched."""
    start(pid_file, ["sleep", "60"])
    before = pid_file.read_bytes()
    second = start(pid_file, ["sleep", "60"])
    assert second.exit_code == 1
    assert "stop it first" in second.sentence
    assert pid_file.read_bytes() == before


def test_an_early_death_leaves_no_pid_file(pid_file: Path, tmp_path: Path) -> None:
    """The sentence has the exit code and the log's last line, where the reason stands."""
    report = start(pid_file, ["bash", "-c", "echo no licence; exit 9"], log=tmp_path / "log")
    assert report.exit_code == 1
    assert "exit code 9" in report.sentence
    assert report.sentence.endswith("no licence")
    assert not pid_file.exists()


def test_nothing_to_start_is_a_failure(pid_file: Path) -> None:
    """An empty command line must not pass for a started engine."""
    assert start(pid_file, []).exit_code == 1


def test_stop_is_idempotent(pid_file: Path) -> None:
    """Twice, and with no pid file ever: 0, saying that it was gone already."""
    assert "already gone" in stop(pid_file).sentence
    start(pid_file, ["sleep", "60"])
    assert stop(pid_file).exit_code == 0
    again = stop(pid_file)
    assert (again.exit_code, "already gone" in again.sentence) == (0, True)


def test_stop_kills_what_ignores_term(pid_file: Path) -> None:
    """After the grace and not before; the sentence says that TERM was not enough."""
    start(pid_file, STUBBORN)
    began = time.monotonic()
    report = stop(pid_file, grace_seconds=0.3)
    assert report.exit_code == 0
    assert time.monotonic() - began >= 0.3
    assert "after KILL" in report.sentence


def test_stop_ends_the_whole_group(pid_file: Path) -> None:
    """Children of the daemon go with it, also those that ignore TERM."""
    child = "bash -c 'trap \"\" TERM; while :; do sleep 0.1; done'"
    report = start(pid_file, ["bash", "-c", f"{child} & exec sleep 60"])
    assert report.identity is not None
    assert stop(pid_file, grace_seconds=0.3).exit_code == 0
    assert group_members(report.identity.pid) == ()


def test_children_that_outlive_their_leader_are_alive_and_are_stopped(pid_file: Path) -> None:
    """A dead leader proves nothing while its group can still act."""
    report = start(pid_file, ["bash", "-c", "sleep 60 & sleep 0.4; kill -9 $$"])
    assert report.identity is not None
    wait_gone_leader(report.identity.pid)
    assert "processes of its group live" in alive(pid_file).sentence
    assert alive(pid_file).exit_code == ALIVE
    assert stop(pid_file).exit_code == 0
    assert group_members(report.identity.pid) == ()


def wait_gone_leader(pid: int) -> None:
    """Until nothing has the pid any more."""
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_reused_pid_is_gone_and_is_not_touched(pid_file: Path) -> None:
    """Our own pid with another start time is not us: alive says gone, stop kills nobody."""
    me = own_identity()
    pid_file.parent.mkdir()
    pid_file.write_text(f"{me.pid}\n{me.start_ticks - 1}\n")
    os.utime(pid_file, (1e9, 1e9))  # written for somebody long before us
    assert alive(pid_file).exit_code == GONE
    assert "already gone" in stop(pid_file).sentence


def test_a_second_line_that_is_no_start_tick_tells_nothing(pid_file: Path) -> None:
    """A pid and an epoch, a tick of the future, or of a process that ran already: no "gone"."""
    me = own_identity()
    pid_file.parent.mkdir()
    for second in (int(time.time()), me.start_ticks + 10**9, me.start_ticks - 1):
        pid_file.write_text(f"{me.pid}\n{second}\n")
        os.utime(pid_file, (time.time() + 60, time.time() + 60))
        assert alive(pid_file).exit_code == COULD_NOT_TELL
        said = stop(pid_file).sentence
        assert "already gone" not in said
        assert "remove it by hand" in said
        assert pid_file.exists()


def test_a_pid_alone_that_was_given_again_tells_nothing(pid_file: Path) -> None:
    """A process that began after the file was written is a stranger, and is not stopped."""
    pid_file.parent.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text(f"{stranger.pid}\n")
        os.utime(pid_file, (1e9, 1e9))
        assert alive(pid_file).exit_code == COULD_NOT_TELL
        assert "began after the file was written" in stop(pid_file).sentence
        assert stranger.poll() is None
        stranger.kill()


def test_a_foreign_pid_file_is_believed_and_said_to_be_so(pid_file: Path) -> None:
    """A pid alone: existence is all that can be compared, and every sentence says it."""
    with subprocess.Popen(["sleep", "60"]) as other:
        pid_file.parent.mkdir()
        pid_file.write_text(f"{other.pid}\n")
        seen = alive(pid_file)
        assert (seen.exit_code, "identity unknown" in seen.sentence) == (ALIVE, True)
        assert "identity unknown" in stop(pid_file).sentence
        assert other.wait(timeout=60) == -15


GARBLED = {
    "words": "hello\n",
    "empty": "",
    "zero": "0\n",
    "init": "1\n",
    "negative": "-1\n5\n",
    "three lines": "999999\n2\n3\n",
    "not ascii": "１２\n",
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_pid_file_tells_nothing(content: str, pid_file: Path) -> None:
    """Neither alive nor gone: nothing is started over it and nothing is stopped by it."""
    pid_file.parent.mkdir()
    pid_file.write_text(content)
    assert alive(pid_file).exit_code == COULD_NOT_TELL
    assert stop(pid_file).exit_code == COULD_NOT_TELL
    assert start(pid_file, ["sleep", "60"]).exit_code == 1
    with pytest.raises(PidFileUnreadable):
        read_pid_file(pid_file)
    assert pid_file.read_text() == content


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The sentence names the pid file, and nothing was done."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError, match="nothing was done"):
        start(tmp_path / "file" / "d.pid", ["sleep", "60"])


@pytest.mark.parametrize("dashes", [["--"], []], ids=["with --", "taken away by click"])
def test_the_command_line(
    dashes: list[str], pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the command stay the command's; stop's sentence goes to stdout."""
    words = ["--pid-file", str(pid_file)]
    log = pid_file.parent / "log"
    command = ["bash", "-c", 'echo "$1"; exec sleep 60', "x", "--log"]
    assert main(["start", *words, f"--log={log}", *dashes, *command]) == 0
    assert log.read_text() == "--log\n"
    assert main(["alive", *words]) == ALIVE
    assert main(["stop", *words, "--grace-seconds", "2"]) == 0
    assert main(["alive", *words]) == GONE
    said = capsys.readouterr()
    assert "stopped pid" in said.out
    assert "gone: there is no pid file" in said.err


@pytest.mark.parametrize("name", ["", "/", "x" * 300])
def test_what_cannot_be_a_file_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence, no traceback: nothing is gone, started or stopped by it."""
    words = ["--pid-file", name]
    assert main(["alive", *words]) == COULD_NOT_TELL
    assert main(["stop", *words]) in (2, COULD_NOT_TELL)
    assert main(["start", *words, "--", "sleep", "60"]) in (1, 2)
    assert "could not tell" in capsys.readouterr().err


def test_a_pid_file_that_was_emptied_is_in_nobodys_way(tmp_path: Path) -> None:
    """Somebody else's stop command wrote `: > F`: what is started then is recorded in it."""
    pid_file = tmp_path / "x.pid"
    pid_file.write_text("")
    assert alive(pid_file).exit_code == COULD_NOT_TELL  # it may be being written
    then = time.time() - 3
    os.utime(pid_file, (then, then))
    assert alive(pid_file).exit_code == GONE
    assert start(pid_file, ["sleep", "600"]).exit_code == 0
    assert stop(pid_file).exit_code == 0
