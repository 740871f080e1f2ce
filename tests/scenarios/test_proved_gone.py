"""Nobody is "proved gone" who lives: engines that leave a pid alone, and its file is removed.

The members of these twins are stopped as operators do it by hand: ``kill "$(cat F)"; rm -f F``.
That command ends with 0 whatever becomes of the process, and takes its only witness away.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.proc import stop as stop_daemon
from ctp_runbook.host.process import identity_of, is_running
from ctp_runbook.model import Identity, StepStatus
from ctp_runbook.rehearsal import stack
from ctp_runbook.rehearsal.twin import Twin
from tests.props.cutover_tools import cutover_of, edited, fresh_twin
from tests.props.plan_fixtures import command_line, wait_for

OLD = ("old_core_engine", "old_strategy_runner")


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    """A twin with a watch of 12 s, its old members known by a pid alone."""
    with fresh_twin(tmp_path / "twin", watch_seconds=12.0) as made:
        by_hand(made)
        try:
            yield made
        finally:
            for identity in strays(made):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(identity.pid, signal.SIGKILL)


def by_hand(twin: Twin) -> None:
    """Pid files with a pid alone, and stop and alive commands that know nothing else."""
    for name in OLD:
        file = twin.pid_file(name)
        file.write_text(f"{pid_of(twin, name)}\n")
        edited(
            twin.cutover_template,
            **{
                f"{name.upper()}_STOP_CMD": f'kill "$(head -n 1 {file})"; rm -f {file}',
                f"{name.upper()}_ALIVE_CMD": f'test -e {file} && kill -0 "$(head -n 1 {file})"',
            },
        )


def pid_of(twin: Twin, name: str) -> int:
    """The pid in a pid file."""
    return int(twin.pid_file(name).read_text().split()[0])


def strays(twin: Twin) -> list[Identity]:
    """Members of the old generation that run, whoever started them."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
            is_member = any(name in words for name in (b".core_engine", b".old_runner"))
            if is_member and str(twin.dir).encode() in words and (one := identity_of(int(name))):
                found.append(one)
    return found


def restarted(twin: Twin, name: str, **behaviour: object) -> Identity:
    """A member of the old generation that misbehaves, known by a pid alone."""
    assert stop_daemon(twin.pid_file(name)).exit_code == 0
    if name == "old_core_engine":
        twin.behaviour_file("old").write_text(json.dumps(behaviour))
    else:
        config = twin.release("old") / "strategy_runner.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **behaviour}))
    stack.start_member(twin, name)
    found = identity_of(pid_of(twin, name))
    assert found is not None
    twin.pid_file(name).write_text(f"{found.pid}\n")
    return found


@pytest.mark.parametrize("then", ["", "; sleep 600"], ids=["exit 0", "its command hangs"])
def test_an_old_engine_that_ignores_term_is_not_gone(twin: Twin, tmp_path: Path, then: str) -> None:
    """Its pid file is gone and its command says so too, or never ends; it is pinned, is named as
    what still runs, and the switch is undone."""
    engine = restarted(twin, "old_core_engine", ignore_term=True)
    file = twin.pid_file("old_core_engine")
    edited(
        twin.cutover_template,
        OLD_CORE_ENGINE_STOP_CMD=f'kill "$(head -n 1 {file})"; rm -f {file}{then}',
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="6",
    )
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
        history = cutover.history
    assert history.step("start_new_core_engine").status is StepStatus.NOT_RUN
    reason = history.step("stop_old_core_engine").reason
    assert f"pid {engine.pid} (started at tick {engine.start_ticks}) runs" in reason
    assert ending.exit_code in (4, 5), cutover.story()
    assert (ending.trading, ending.overlaps, ending.verified) == (frozenset({"old"}), 0, True)


def test_an_old_engine_that_somebody_starts_again_ends_the_watch(
    twin: Twin, tmp_path: Path
) -> None:
    """Five seconds into the watch, with no pid file and by no command of ours: it is found by its
    command line, the new generation goes, and one generation trades."""
    command = Path(f"/proc/{pid_of(twin, 'old_core_engine')}/cmdline").read_bytes().split(b"\0")
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        assert cutover.wait_for(lambda history: history.watch_started is not None), cutover.story()
        time.sleep(5)
        with subprocess.Popen(command[:-1], env=like_the_twin(twin), cwd="/") as supervised:
            ending = cutover.end()
            told = cutover.history.trigger
            supervised.kill()
    assert told is not None, ending
    assert "its command line runs again" in told.payload.sentence, told.payload
    assert str(supervised.pid) in told.payload.sentence
    assert ending.exit_code == 4, cutover.story()
    assert (ending.trading, ending.verified) == (frozenset({"old"}), True), ending.findings


# $1 says when it begins. One looks for a command line, as cron jobs do; the other waits for its
# own child, as shells do, and looks at nobody else's.
_SUPERVISORS = {
    "looks for it": 'while sleep 0.5; do pgrep -f "^$*" >/dev/null || { setsid "$@" & } done',
    "waits for its child": 'while sleep 0.5; do "$@"; done',
}


@contextlib.contextmanager
def supervised(twin: Twin, name: str, how: str, begin: Path) -> Iterator[bytes]:
    """A shell that starts a member of the old generation again for as long as the shell lives."""
    line = Path(f"/proc/{pid_of(twin, name)}/cmdline").read_bytes()
    script = f'until [ -e "$1" ]; do sleep 0.1; done; shift; {_SUPERVISORS[how]}'
    words = ["bash", "-c", script, "supervisor", str(begin), *os.fsdecode(line).split("\0")[:-1]]
    with subprocess.Popen(words, env=like_the_twin(twin), cwd="/") as shell:
        try:
            yield line
        finally:
            shell.kill()


def is_of(command: bytes, line: bytes) -> bool:
    """True for the member of this command line; ours is started from the folder ``current``."""
    words, ours = command.split(b"\0"), line.split(b"\0")
    config = ours.index(b"--config") + 1
    return words[:config] == ours[:config] and words[config + 1 :] == ours[config + 1 :]


@pytest.mark.parametrize(
    ("name", "how", "seconds"),
    [
        ("old_core_engine", "looks for it", 2),
        pytest.param("old_strategy_runner", "waits for its child", 2, marks=pytest.mark.slow),
        pytest.param("old_core_engine", "waits for its child", 18, marks=pytest.mark.slow),
        pytest.param("old_strategy_runner", "looks for it", 18, marks=pytest.mark.slow),
    ],
)
def test_a_supervisor_of_the_old_generation_ends_the_watch(
    twin: Twin, tmp_path: Path, name: str, how: str, seconds: float
) -> None:
    """It starts its member again whenever that ends: the new generation goes, and in the end one
    generation trades, with one process of that member, the supervisor's or ours."""
    begin = tmp_path / "begin"
    edited(twin.cutover_template, POST_SWITCH_MONITOR_MINUTES=str((seconds + 10) / 60))
    with (
        supervised(twin, name, how, begin) as line,
        cutover_of(twin, tmp_path / "outputs") as cutover,
    ):
        assert cutover.wait_for(lambda history: history.watch_started is not None), cutover.story()
        time.sleep(seconds)
        begin.touch()
        ending = cutover.end()
        told = cutover.history.trigger
        # One that the supervisor starts beside ours finds its port taken, and is gone at once.
        wait_for(lambda: sum(is_of(command_line(each.pid), line) for each in strays(twin)) == 1)
    assert told is not None, ending
    assert "its command line runs again" in told.payload.sentence, told.payload
    assert ending.exit_code in (4, 5), cutover.story()
    assert ending.trading == {"old"}


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_an_old_runner_that_needs_long_is_waited_for(
    twin: Twin, tmp_path: Path, seconds: int
) -> None:
    """It is pinned as the engine is: nothing new starts before it is gone, however its file is."""
    runner = restarted(twin, "old_strategy_runner", ignore_term=True)
    edited(
        twin.cutover_template,
        OLD_STRATEGY_RUNNER_STOP_TIMEOUT_SECONDS=str(seconds * 2 + 20),
        POST_SWITCH_MONITOR_MINUTES=str(4 / 60),  # it is about the switch
    )
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        assert cutover.wait_for(lambda h: h.step("stop_old_strategy_runner").attempt > 0)
        time.sleep(seconds)
        assert is_running(runner)
        assert cutover.history.step("stop_old_core_engine").attempt == 0, cutover.story()
        os.kill(runner.pid, signal.SIGKILL)
        ending = cutover.end()
        told = cutover.history.plan.warnings
    assert (ending.exit_code, ending.overlaps) == (0, 0), cutover.story()
    assert ending.trading == {"new"}
    # At plan time; that a handler of TERM does nothing nobody can see.
    assert any("OLD_STRATEGY_RUNNER_STOP_CMD removes the pid file" in each for each in told)


def test_an_old_runner_that_does_not_end_is_ended_by_the_rollback(
    twin: Twin, tmp_path: Path
) -> None:
    """Past its time limit the switch is undone: what was pinned is ended, and one runner trades."""
    runner = restarted(twin, "old_strategy_runner", ignore_term=True)
    edited(twin.cutover_template, OLD_STRATEGY_RUNNER_STOP_TIMEOUT_SECONDS="2")
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
        assert not is_running(runner)
        assert len([one for one in strays(twin) if b".old_runner" in command_line(one.pid)]) == 1
    assert ending.exit_code in (4, 5), cutover.story()
    assert (ending.trading, ending.overlaps) == (frozenset({"old"}), 0)


def test_an_emptied_pid_file_and_an_alive_command_of_no_use(twin: Twin, tmp_path: Path) -> None:
    """`: > F` in place of `rm`, and `kill -0 $(cat F)`, which ends with 2 where F is gone: the runner is
    proved gone all the same; the engine is not, and what was pinned is enough to start it again."""
    runner, engine = (twin.pid_file(name) for name in reversed(OLD))
    edited(
        twin.cutover_template,
        OLD_STRATEGY_RUNNER_STOP_CMD=f'kill "$(head -n 1 {runner})"; : > {runner}',
        OLD_STRATEGY_RUNNER_ALIVE_CMD=f'test -s {runner} && kill -0 "$(head -n 1 {runner})"',
        OLD_CORE_ENGINE_ALIVE_CMD=f"kill -0 $(cat {engine})",
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="3",
    )
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
        history = cutover.history
    assert history.step("stop_old_strategy_runner").status is StepStatus.OK, cutover.story()
    assert "could not tell (exit 2)" in history.step("stop_old_core_engine").reason
    assert ending.exit_code == 4, cutover.story()
    assert (ending.trading, ending.overlaps, ending.verified) == (frozenset({"old"}), 0, True)


def test_what_cannot_be_pinned_is_not_stopped(twin: Twin, tmp_path: Path) -> None:
    """No pid file at all: refused before anything is touched, by the name of the member."""
    twin.pid_file("old_strategy_runner").unlink()
    edited(twin.cutover_template, OLD_STRATEGY_RUNNER_ALIVE_CMD="true")
    with cutover_of(twin, tmp_path / "outputs") as cutover:
        ending = cutover.end()
    assert (ending.exit_code, ending.outcome) == (2, "REFUSED"), cutover.story()
    assert "no process is known as it" in ending.sentence
    assert ending.trading == {"old"}


def like_the_twin(twin: Twin) -> dict[str, str]:
    """The environment that the twin's own start of a member gives it."""
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root)}
