"""Facts about host/process.py: who a process is, what a held command may do, and that an end is one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.held_command import CommandEnd, HeldCommand
from ctp_runbook.host.process import (
    ancestors,
    boot_id,
    end_group,
    end_process,
    group_members,
    identity_of,
    ignores_term,
    is_hidden,
    is_kernel_thread,
    is_running,
    kill_process,
    own_identity,
    process_of,
    users_of,
    wait_gone,
)
from ctp_runbook.model import Identity
from tests.props.plan_fixtures import processes_with, wait_for

STUBBORN = "trap '' TERM; while :; do sleep 0.05; done"
NO_PID = 2**22 + 1  # above the kernel's highest pid


def no_interrupt() -> str:
    """Nobody asks for anything."""
    return ""


@contextlib.contextmanager
def held(command: str, folder: Path, **env: str) -> Iterator[HeldCommand]:
    """A held command; its group and its descriptors are gone afterwards."""
    output = folder / "out"
    made = HeldCommand(command, cwd=folder, env={**os.environ, **env}, output=output)
    try:
        yield made
    finally:
        made.end(term_grace=0, kill_grace=2)
        made.close()


def run(command: str, folder: Path, *, seconds: float = 10, **env: str) -> CommandEnd:
    """Hold, release and wait."""
    with held(command, folder, **env) as made:
        made.release()
        return made.wait(deadline=time.monotonic() + seconds, interrupt=no_interrupt)


def pids_in(path: Path, *, count: int = 1) -> list[int]:
    """The pids a command wrote to a file, once they are there."""
    wait_for(lambda: path.exists() and len(path.read_text().split()) >= count)
    return [int(word) for word in path.read_text().split()]


@contextlib.contextmanager
def sleeper(*, command: str = "exec sleep 60") -> Iterator[Identity]:
    """A running process in a group of its own, which is ours to reap."""
    child = subprocess.Popen(["bash", "-c", command], start_new_session=True)
    found = identity_of(child.pid)
    assert found is not None
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def zombie() -> Iterator[Identity]:
    """A process that ended and that nobody has reaped, with the identity it had."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    was = identity_of(child.pid)
    assert was is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield was
    child.wait()


# --- identity ---------------------------------------------------------------------


def test_a_process_knows_itself() -> None:
    """The caller's identity has its pid, a start time and this boot."""
    own = own_identity()
    assert own.pid == os.getpid()
    assert own.boot_id == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert identity_of(os.getpid()) == own
    assert is_running(own)


def test_nobody_has_no_identity() -> None:
    """A pid that no process has is nobody."""
    assert identity_of(NO_PID) is None
    assert not is_running(Identity(NO_PID, 1))


OTHERS = {
    "a pid given to another process later": {"start_ticks": 1},
    "another boot": {"boot_id": "0" * 36},
    "a pid nobody has": {"pid": NO_PID},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_process_is_not_it(other: dict[str, int | str]) -> None:
    """A reused pid, or the same numbers in another boot, counts as gone, and is never signalled."""
    with sleeper() as identity:
        wrong = identity._replace(**other)  # type: ignore[arg-type]
        assert not is_running(wrong)
        assert wait_gone(wrong, seconds=0)
        assert end_process(wrong, term_grace=0.1, kill_grace=0.1)
        assert is_running(identity)


def test_an_identity_without_boot_is_of_this_boot() -> None:
    """Two numbers out of a pid file are enough to find the process that runs now."""
    own = own_identity()
    assert is_running(Identity(own.pid, own.start_ticks))


def test_a_zombie_counts_as_gone() -> None:
    """What ended but was not reaped can act no more: no identity, no group, nothing to wait for."""
    with zombie() as was:
        assert Path(f"/proc/{was.pid}/stat").read_text().split(")")[1].split()[0] == "Z"
        assert identity_of(was.pid) is None
        assert not is_running(was)
        assert group_members(was.pid) == ()
        assert wait_gone(was, seconds=0)
        assert end_process(was, term_grace=0, kill_grace=0)
        assert end_group(was.pid, term_grace=0, kill_grace=0).left == ()


def test_a_strange_name_does_not_confuse(tmp_path: Path) -> None:
    """Spaces and parentheses in a program's name do not shift the fields of its stat line."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    odd = tmp_path / "a) S 1 (b"
    shutil.copy(sleep, odd)
    with sleeper(command=f"exec '{odd}' 60") as identity:
        wait_for(lambda: b"a) S 1 (b" in Path(f"/proc/{identity.pid}/stat").read_bytes())
        assert identity_of(identity.pid) == identity
        assert group_members(identity.pid) == (identity.pid,)


# --- ending a process -------------------------------------------------------------


def test_waiting_ends_with_the_process() -> None:
    """The wait is over when the process is, long before its time, and not true before."""
    with sleeper(command="sleep 0.2") as identity:
        assert not wait_gone(identity, seconds=0)
        began = time.monotonic()
        assert wait_gone(identity, seconds=60)
        assert time.monotonic() - began < 50


def test_what_obeys_term_is_not_killed(tmp_path: Path) -> None:
    """TERM comes first, so that an engine can log out."""
    note = tmp_path / "note"
    with sleeper(
        command=f"trap 'echo bye > {note}; exit' TERM; echo up > {note}; while :; do sleep 0.02; done"
    ) as one:
        wait_for(note.exists)
        assert end_process(one, term_grace=5, kill_grace=0)
    assert note.read_text() == "bye\n"


def test_what_ignores_term_is_killed_after_the_grace(tmp_path: Path) -> None:
    """KILL follows, after the grace and not before."""
    with sleeper(command=f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done") as one:
        wait_for((tmp_path / "up").exists)
        began = time.monotonic()
        assert end_process(one, term_grace=0.3, kill_grace=5)
        assert time.monotonic() - began >= 0.3
        assert not is_running(one)


UNKILLABLE = """
import os, sys
from ctp_runbook.host.process import end_process, identity_of
# Process 1 of a pid namespace takes no signal from inside it, not even KILL.
if os.fork() == 0:
    gone = end_process(identity_of(1), term_grace=0.05, kill_grace=0.05)
    print("gone" if gone else "still running", flush=True)
    os._exit(0)
os.wait()
"""


def test_a_stopped_process_is_killed_at_once_and_no_other_in_its_place() -> None:
    """It hears no TERM; who has its pid by now is left alone."""
    with subprocess.Popen(["sleep", "600"]) as child:
        known = identity_of(child.pid)
        assert known is not None
        os.kill(child.pid, signal.SIGSTOP)
        other = Identity(known.pid, known.start_ticks - 1, known.boot_id)
        assert kill_process(other, seconds=0.0)  # it is gone: that is not it
        assert is_running(known)
        assert kill_process(known, seconds=10.0)
        assert not is_running(known)
    assert kill_process(known, seconds=0.0)


def test_a_process_that_cannot_be_ended_is_not_called_gone() -> None:
    """When even KILL does nothing, the answer is no."""
    inside = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    told = subprocess.run(
        [*inside, sys.executable, "-c", UNKILLABLE], capture_output=True, text=True, check=True
    )
    assert told.stdout == "still running\n"


# --- ending a group ---------------------------------------------------------------


def test_an_empty_group_needs_no_signal() -> None:
    """Ending what is not there is done at once."""
    assert end_group(NO_PID, term_grace=5, kill_grace=5).left == ()


def test_a_whole_family_is_ended(tmp_path: Path) -> None:
    """Children and grandchildren go with the shell, those that ignore TERM by KILL."""
    script = f"""
        (trap '' TERM; echo $BASHPID >> {tmp_path}/pids; while :; do sleep 0.05; done) &
        bash -c 'echo $$ >> {tmp_path}/pids; (echo $BASHPID >> {tmp_path}/pids; sleep 60); :' &
        wait
    """
    with sleeper(command=script) as leader:
        pids = pids_in(tmp_path / "pids", count=3)
        assert set(pids) < set(group_members(leader.pid))
        ended = end_group(leader.pid, term_grace=0.2, kill_grace=5)
        assert (ended.left, ended.killed) == ((), True)
        assert [pid for pid in pids if identity_of(pid)] == []


def test_term_is_enough_for_most() -> None:
    """A group that goes on TERM is not said to have been killed."""
    with sleeper(command="sleep 60 & sleep 60 & wait") as leader:
        wait_for(lambda: len(group_members(leader.pid)) == 3)
        ended = end_group(leader.pid, term_grace=5, kill_grace=0)
        assert (ended.left, ended.killed) == ((), False)


# --- the hold ---------------------------------------------------------------------


def test_nothing_runs_before_release(tmp_path: Path) -> None:
    """Its identity is there to be written down, and the command has done nothing yet."""
    with held(f"touch {tmp_path}/done", tmp_path) as made:
        assert is_running(made.identity)
        time.sleep(0.2)
        assert not (tmp_path / "done").exists()
        made.release()
        end = made.wait(deadline=time.monotonic() + 10, interrupt=no_interrupt)
    assert end == CommandEnd(exit_code=0)
    assert (tmp_path / "done").exists()


def test_what_is_never_released_never_runs(tmp_path: Path) -> None:
    """Closing a held command ends it with nothing done."""
    made = HeldCommand(
        f"touch {tmp_path}/done", cwd=tmp_path, env=os.environ, output=tmp_path / "out"
    )
    made.close()
    assert not is_running(made.identity)
    assert not (tmp_path / "done").exists()


STARTER = """
import os, sys, time
from pathlib import Path
from ctp_runbook.host.held_command import HeldCommand
folder = Path(sys.argv[1])
held = HeldCommand(f"touch {folder}/done", cwd=folder, env=os.environ, output=folder / "out")
print(held.identity.pid, held.identity.start_ticks, flush=True)
time.sleep(60)
"""


def test_a_command_whose_starter_is_killed_never_runs(tmp_path: Path) -> None:
    """kill -9 between hold and release leaves neither a process nor an effect."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, ticks = map(int, starter.stdout.readline().split())
        assert is_running(Identity(pid, ticks))
        starter.kill()
    assert wait_gone(Identity(pid, ticks), seconds=5)
    assert group_members(pid) == ()
    assert not (tmp_path / "done").exists()


def test_a_gate_is_no_other_commands_business(tmp_path: Path) -> None:
    """A command started meanwhile does not hold the first one's gate open."""
    first = HeldCommand("true", cwd=tmp_path, env=os.environ, output=tmp_path / "out1")
    with held("sleep 60", tmp_path) as second:
        second.release()
        first.close()
        assert not is_running(first.identity)


def test_the_identity_outlives_the_release(tmp_path: Path) -> None:
    """The command runs under the pid and start time that were written down before."""
    with held("echo $$; exec sleep 60", tmp_path) as made:
        before = made.identity
        made.release()
        wait_for(lambda: (tmp_path / "out").read_text())
        assert identity_of(made.pgid) == before
        assert (tmp_path / "out").read_text() == f"{before.pid}\n"


def test_killed_while_held_is_told_as_such(tmp_path: Path) -> None:
    """A held shell that somebody kills gives the exit code of a kill, not a broken pipe."""
    with held(f"touch {tmp_path}/done", tmp_path) as made:
        os.kill(made.identity.pid, signal.SIGKILL)
        os.waitid(os.P_PID, made.identity.pid, os.WEXITED | os.WNOWAIT)
        made.release()
        end = made.wait(deadline=time.monotonic() + 5, interrupt=no_interrupt)
    assert end.exit_code == 137
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("name", ["BASH_ENV", "BASH_FUNC_read%%"])
def test_nothing_of_the_environment_runs_before_release(name: str, tmp_path: Path) -> None:
    """A start-up file or an exported function of the caller's shell is no way around the hold."""
    (tmp_path / "rc").write_text(f"touch {tmp_path}/ran\n")
    value = str(tmp_path / "rc") if name == "BASH_ENV" else f"() {{ touch {tmp_path}/ran; }}"
    with held("true", tmp_path, **{name: value}):
        time.sleep(0.2)
        assert not (tmp_path / "ran").exists()


# --- the end of a command ---------------------------------------------------------

ENDINGS = {
    "success": ("true", 0),
    "failure": ("exit 3", 3),
    "killed": ("kill -KILL $$", 137),
    "terminated": ("kill -TERM $$", 143),
    "child killed": ("bash -c 'kill -KILL $$'; exit $?", 137),
    "no such command": ("no-such-command-here", 127),
    "syntax error": ("if", 2),
    "quotes": ("""test "it's $((1+1))" = "it's 2" """, 0),
    "several lines": ("false\ntrue", 0),
}


@pytest.mark.parametrize(("command", "code"), ENDINGS.values(), ids=ENDINGS)
def test_exit_codes(command: str, code: int, tmp_path: Path) -> None:
    """The shell's own exit code, or 128 and the signal's number, as in bash."""
    assert run(command, tmp_path) == CommandEnd(exit_code=code)


def test_a_step_that_hangs_is_bounded(tmp_path: Path) -> None:
    """``sleep 600`` with 0.3 s ends in time, and its group is proved empty."""
    with held("sleep 600", tmp_path) as made:
        made.release()
        began = time.monotonic()
        end = made.wait(deadline=began + 0.3, interrupt=no_interrupt)
        assert end == CommandEnd(exit_code=None, timed_out=True)
        assert 0.3 <= time.monotonic() - began < 60
        assert made.end(term_grace=2, kill_grace=2).left == ()
        assert group_members(made.pgid) == ()


def test_a_step_that_forks_and_ignores_term_leaves_nobody(tmp_path: Path) -> None:
    """KILL takes the shell and what it forked, and nothing is orphaned."""
    mark = f"TEST_MARK={tmp_path}"
    fork = f"trap '' TERM; (while :; do sleep 0.05; done) & echo $! > {tmp_path}/pids; {STUBBORN}"
    with held(fork, tmp_path, TEST_MARK=str(tmp_path)) as made:
        made.release()
        pids_in(tmp_path / "pids")
        end = made.wait(deadline=time.monotonic() + 0.1, interrupt=no_interrupt)
        ended = made.end(term_grace=0.2, kill_grace=5)
    assert end.timed_out
    assert (ended.left, ended.killed) == ((), True)
    assert processes_with(mark) == ()


def test_a_deadline_in_the_past_waits_for_nobody(tmp_path: Path) -> None:
    """No budget left is no wait."""
    assert run("sleep 600", tmp_path, seconds=-5).timed_out


DAEMONS = ("sleep 60 &", "nohup sleep 60 &", "setsid sleep 60 &", "setsid nohup sleep 60 >&1 &")


@pytest.mark.parametrize("start", DAEMONS)
def test_a_daemon_that_keeps_stdout_keeps_nobody_waiting(start: str, tmp_path: Path) -> None:
    """A start command returns when its shell exits; the daemon holds the output and lives on."""
    made = HeldCommand(
        f"{start} echo $! > {tmp_path}/pids", cwd=tmp_path, env=os.environ, output=tmp_path / "out"
    )
    made.release()
    began = time.monotonic()
    end = made.wait(deadline=began + 30, interrupt=no_interrupt)
    took = time.monotonic() - began
    made.close()
    (daemon,) = pids_in(tmp_path / "pids")
    time.sleep(0.1)
    try:
        assert end == CommandEnd(exit_code=0)
        assert took < 25
        assert identity_of(daemon) is not None
        assert Path(f"/proc/{daemon}/fd/1").resolve() == tmp_path / "out"
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_an_interrupt_ends_the_wait_in_its_words(tmp_path: Path) -> None:
    """The sentence is handed on, within a fraction of a second."""
    asked: list[float] = []

    def interrupt() -> str:
        asked.append(time.monotonic())
        return "abort asked for by ops" if len(asked) == 4 else ""

    with held("sleep 60", tmp_path) as made:
        made.release()
        end = made.wait(deadline=time.monotonic() + 30, interrupt=interrupt)
    assert end == CommandEnd(exit_code=None, interrupted="abort asked for by ops")
    assert asked[-1] - asked[0] < 2


def test_an_end_counts_before_an_interrupt(tmp_path: Path) -> None:
    """A command that has ended is not called interrupted, however late anybody looks."""
    with held("exit 4", tmp_path) as made:
        made.release()
        os.waitid(os.P_PID, made.identity.pid, os.WEXITED | os.WNOWAIT)
        end = made.wait(deadline=time.monotonic() - 1, interrupt=lambda: "abort")
    assert end == CommandEnd(exit_code=4)


# --- what a command gets, and gives back ------------------------------------------


def test_a_command_gets_what_it_was_given(tmp_path: Path) -> None:
    """Its folder, exactly its environment, no input, a session of its own, one output."""
    script = "pwd; env | sort; cat; echo to-stderr >&2; ps -o sid= -p $$ | tr -d ' '"
    made = HeldCommand(
        script, cwd=tmp_path, env={"PATH": os.environ["PATH"], "ONE": "1"}, output=tmp_path / "out"
    )
    made.release()
    made.wait(deadline=time.monotonic() + 10, interrupt=no_interrupt)
    made.close()
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == str(tmp_path)
    assert "ONE=1" in lines
    assert {line.partition("=")[0] for line in lines[1:-2]} <= {"ONE", "PATH", "PWD", "SHLVL", "_"}
    assert lines[-2:] == ["to-stderr", str(made.identity.pid)]


def test_a_command_inherits_no_descriptor(tmp_path: Path) -> None:
    """Neither the lock of the run nor the gate reaches what a step starts."""
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        run("ls -l /proc/self/fd", tmp_path)
    names = [
        line.split()[8] for line in (tmp_path / "out").read_text().splitlines() if "->" in line
    ]
    assert set(names) <= {"0", "1", "2", "3"}
    assert "lock" not in (tmp_path / "out").read_text()


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    """Run, never released, or not startable at all: as many open files as before."""
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run("true", tmp_path)
        with held("true", tmp_path):
            pass
        with pytest.raises(FileNotFoundError):
            HeldCommand("true", cwd=tmp_path / "no", env=os.environ, output=tmp_path / "out")
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- what a process is --------------------------------------------------------------


def test_who_led_to_this_process_is_known() -> None:
    """Itself, its parent, and the leaders of its group and session; a child is none of them."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        found = ancestors()
        child.kill()
    assert {os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)} <= found
    assert child.pid not in found


def test_who_ignores_term_is_told_from_who_hears_it() -> None:
    """A handler that does nothing hears it."""
    words = {
        "trap '' TERM; echo; read -r _": True,
        "trap : TERM; echo; read -r _": False,
        "echo; read -r _": False,
    }
    for script, ignores in words.items():
        with subprocess.Popen(
            ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert ignores_term(child.pid) == ignores, script
            child.kill()
    assert not ignores_term(NO_PID)


def test_whose_process_it_is() -> None:
    """By every id it acts under; nobody's where there is none."""
    assert users_of(os.getpid()) == set(os.getresuid())
    assert users_of(NO_PID) == set()


def test_nobody_is_hidden_who_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie is seen; who cannot be looked at, and yet can be signalled or may not, is hidden."""
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_hidden(child.pid)
    gone = child.pid
    assert not is_hidden(gone)

    def refuse(pid: int, sign: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_hidden(gone)
    monkeypatch.setattr(os, "kill", lambda pid, sign: None)
    assert is_hidden(gone)


# Its main thread ends; another acts on, until a line comes.
HEADLESS = """
import ctypes, platform, sys, threading
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), sys.stdin.readline())).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_a_process_lives_as_long_as_a_thread_of_it() -> None:
    """Its state is that of a zombie by then, and it can still trade."""
    with subprocess.Popen(
        [sys.executable, "-c", HEADLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        thread = int(child.stdout.readline())
        stat = Path(f"/proc/{child.pid}/stat")
        wait_for(lambda: ") Z " in stat.read_text())
        assert identity_of(child.pid) is not None
        assert process_of(thread) == child.pid
        child.kill()
        wait_for(lambda: identity_of(child.pid) is None)
    assert process_of(NO_PID) == 0


def test_a_thread_of_the_kernel_is_told() -> None:
    """Where the host shows any; a process of somebody is none."""
    assert not is_kernel_thread(os.getpid())
    assert not is_kernel_thread(NO_PID)
    comm = Path("/proc/2/comm")
    if comm.exists() and comm.read_text() == "kthreadd\n":
        assert is_kernel_thread(2)


BLIND = """
import os, resource, sys
from ctp_runbook.host.process import identity_of, is_running
me, nobody = identity_of(os.getpid()), 2**22 + 1
number = os.open("/dev/null", os.O_RDONLY)
os.close(number)
resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
print(identity_of(nobody))
try:
    print(is_running(me))
except OSError as error:
    print(error.strerror)
"""


def test_who_can_open_nothing_takes_nobody_for_gone() -> None:
    """Without a descriptor left /proc shows nobody: only a pid that nobody has is gone."""
    done = subprocess.run([sys.executable, "-c", BLIND], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None", "Too many open files"]
