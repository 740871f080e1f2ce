"""Accident: Ctrl-C of a rehearsal took the twin from under the run that was switching it, TERM left
twin and run behind, and nothing found what a killed one had left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.record.history import History
from ctp_runbook.record.rundir import RunDir, newest_run, private_path
from ctp_runbook.rehearsal.front.log import overlaps
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run.launch import is_attended, read_whole
from tests.props.cutover_tools import ROOT

INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
LIGHT = ("--no-plane", "--no-notebooks")
DOWN = "twin down: every process proved gone"


@dataclass(frozen=True)
class Command:
    """``ctp-runbook WORDS`` in a session of its own, as a terminal starts it."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        """What it has printed."""
        return (self.folder / "said").read_text()

    @property
    def run(self) -> RunDir:
        """The run it began; raises RunbookError before."""
        return newest_run(self.folder / "outputs")

    @property
    def twin(self) -> Twin:
        """The twin it brought up."""
        (folder,) = (self.folder / "outputs" / "twins").iterdir()
        return Twin(folder)

    def signal(self, number: int, *, group: bool = False) -> None:
        """To it alone, or to its process group as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def ends(self, *, seconds: float = 120.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def wait(self, is_so: Callable[[], object], *, seconds: float = 60.0) -> None:
        """Until ``is_so``; what cannot be read yet is not so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RunbookError, OSError, ValueError):
                if is_so():
                    return
            time.sleep(0.01)
        pytest.fail(f"not within {seconds:g} s; it said: {self.said}")

    def wait_run(self, is_so: Callable[[History], object]) -> None:
        """Until the run is so far."""
        self.wait(lambda: is_so(read_whole(self.run)))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start a command with outputs, temporary files and user's runtime folder of its own; at the
    end whatever it left is killed."""
    for name in ("tmp", "runtime"):
        (tmp_path / name).mkdir()
    begun: list[Command] = []

    def go(*words: object) -> Command:
        with (tmp_path / "said").open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "ctp_runbook", *map(str, words)],
                cwd=ROOT,
                env=environment(tmp_path),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        begun.append(Command(tmp_path, process))
        return begun[-1]

    yield go
    for command in begun:
        command.process.kill()
        command.process.wait()
    # Guardian and orchestrator bring each other back; a supervisor its parts.
    for _ in range(3):
        for pid in left_in(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, KILL)


def environment(folder: Path) -> dict[str, str]:
    """Nothing is written elsewhere, and whoever descends from it is known by it."""
    own = {"TMPDIR": str(folder / "tmp"), "XDG_RUNTIME_DIR": str(folder / "runtime")}
    return {**os.environ, **own}


def left_in(folder: Path) -> dict[int, str]:
    """Processes that descend from a command of this folder: by their environment, or, as Valkey
    writes over that, by where they stand."""
    mark, found = os.fsencode(f"XDG_RUNTIME_DIR={folder / 'runtime'}\0"), {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = mark in (place / "environ").read_bytes()
            is_ours = is_ours or folder in (place / "cwd").readlink().parents
            if is_ours and identity_of(int(place.name)):
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(place.name)] = words.decode(errors="replace")
    return found


def rehearse(start: Callable[..., Command], tmp_path: Path, *words: object) -> Command:
    """A rehearsal on the light twin without notebooks, whose watch would last a minute."""
    outputs = ("--outputs", tmp_path / "outputs")
    return start("rehearse", *outputs, "--watch-seconds", "60", *(words or LIGHT))


def assert_nothing_left(command: Command) -> None:
    """No process, no entry among the twins, nothing in tmpfs or among temporary files."""
    command.wait(lambda: not left_in(command.folder), seconds=10)
    with contextlib.suppress(OSError, ValueError, RunbookError):
        parts = command.twin.plane.state().parts.values()  # the rest have no environment of ours
        running = [identity_of(part.pid) for part in parts if part.pid]
        ticks = [part.start_ticks for part in parts]
        assert [each for each in running if each and each.start_ticks in ticks] == []
    assert list((command.folder / "runtime").rglob("*.json")) == []
    assert list((command.folder / "tmp").iterdir()) == []
    assert "Traceback" not in command.said
    with contextlib.suppress(RunbookError):
        assert not private_path(command.run).exists()


def assert_the_twin_was_there_to_the_end(command: Command, outcome: Outcome) -> None:
    """The run ended as it should, its every rollback step on a twin that ran; nobody traded twice."""
    history = read_whole(command.run)
    assert history.outcome is outcome, command.said
    assert history.closed is not None
    assert overlaps(command.twin.front_log) == []
    old = [
        history.closed.payload.running[f"old_{role}"] for role in ("core_engine", "strategy_runner")
    ]
    assert old == ["alive", "alive"]
    assert DOWN in command.said


def old_is_stopped(history: History) -> bool:
    """The old generation is gone, and the new one does not trade yet."""
    return history.step("stop_old_core_engine").status is StepStatus.OK


def watches(history: History) -> bool:
    """The new generation trades, watched."""
    return history.state.value == "WATCHING"


# What is sent when, to whom, and what the rehearsal comes to.
ROLLED_BACK = (4, Outcome.ROLLED_BACK_IN_BUDGET)
STAGES: dict[str, tuple[int, bool, Callable[[History], object], tuple[int, Outcome]]] = {
    "INT to the group in the gates": (
        INT,
        True,
        lambda history: history.step("init_kafka_topic").attempt,
        (3, Outcome.ABORTED_BEFORE_SWITCH),
    ),
    "INT to the group, the old stack stopped": (INT, True, old_is_stopped, ROLLED_BACK),
    "TERM in the watch": (TERM, False, watches, ROLLED_BACK),
    "HUP in the watch": (HUP, True, watches, ROLLED_BACK),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_acts_ends_before_its_twin(
    stage: str, start: Callable[..., Command], tmp_path: Path
) -> None:
    """It is asked to abort, its end is waited for, told and verified; then the twin goes down."""
    number, group, there, (code, outcome) = STAGES[stage]
    command = rehearse(start, tmp_path)
    command.wait_run(there)
    command.signal(number, group=group)
    assert command.ends() == code, command.said
    assert (
        f"{signal.Signals(number).name}: run {command.run.run_id} is asked to end" in command.said
    )
    assert f"{outcome.value}: " in command.said
    assert_the_twin_was_there_to_the_end(command, outcome)
    assert_nothing_left(command)


def test_impatience_is_answered_and_changes_nothing(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    """Ctrl-C five times, first with the old stack stopped, the last one while the twin goes down."""
    command = rehearse(start, tmp_path)
    command.wait_run(old_is_stopped)
    for _ in range(3):
        command.signal(INT, group=True)
        time.sleep(0.05)
    command.wait_run(lambda history: history.state.value == "ROLLING_BACK")
    command.signal(INT, group=True)
    command.wait(lambda: "to look at: " in command.said)
    command.signal(INT, group=True)
    assert command.ends() == 4, command.said
    assert (
        f"INT: run {command.run.run_id} is still ROLLING_BACK and goes on to its end"
        in command.said
    )
    last = [line for line in command.said.splitlines() if line.startswith("SIGINT: ")][-1]
    assert last.endswith(("is being taken down, which takes some seconds", "the twin goes down"))
    assert f"run {command.run.run_id} is asked to end" in command.said
    assert f"{Outcome.ROLLED_BACK_IN_BUDGET.value}: " in command.said
    assert_the_twin_was_there_to_the_end(command, Outcome.ROLLED_BACK_IN_BUDGET)
    assert_nothing_left(command)


@pytest.mark.parametrize(
    ("number", "code"), [(INT, 130), pytest.param(TERM, 143, marks=pytest.mark.slow)]
)
def test_before_the_run_the_twin_goes_down_at_once(
    number: int, code: int, start: Callable[..., Command], tmp_path: Path
) -> None:
    """Twice, too: while the old engine comes up, and while what there is goes down."""
    command = rehearse(start, tmp_path)
    command.wait(lambda: command.twin.pid_file("old_core_engine").exists())
    command.signal(number, group=True)
    time.sleep(0.1)
    command.signal(number, group=True)
    assert command.ends() == code, command.said
    assert f"{signal.Signals(number).name}: ended before a run was begun" in command.said
    assert DOWN in command.said
    with pytest.raises(RunbookError):
        command.run  # noqa: B018  there is none
    assert_nothing_left(command)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(LIGHT, id="light"),
        pytest.param(("--no-plane",), id="notebooks", marks=pytest.mark.slow),
        pytest.param(("--plane",), id="whole", marks=pytest.mark.slow),
    ],
)
def test_what_a_killed_rehearsal_left_is_found(
    words: tuple[str, ...], start: Callable[..., Command], tmp_path: Path
) -> None:
    """Its run goes on, and until that is over no `stack down` takes the twin from under it; then
    `--all` takes it down, and after that there is nothing to find."""
    command = rehearse(start, tmp_path, *words)
    command.wait_run(watches)
    command.signal(KILL)
    command.ends()
    assert start("stack", "down", "--all").ends() == 1
    assert f"left up: run {command.run.path} is at work on it" in command.said
    assert start("stack", "down", "--dir", command.twin.dir).ends() == 2
    assert f"{command.twin.dir} is left up: run " in command.said
    assert start("stack", "status", "--all").ends() == 0
    assert f"{command.twin.dir}: up; run {command.run.path}" in command.said
    assert start("abort", "--run", command.run.path).ends() == 0
    command.wait_run(lambda history: history.closed)
    command.wait(lambda: not is_attended(command.run))
    assert start("stack", "down", "--all").ends() == 0
    assert f"{command.twin.dir}: {DOWN}" in command.said
    assert_the_twin_was_there_to_the_end(command, Outcome.ROLLED_BACK_IN_BUDGET)
    assert_nothing_left(command)
    assert start("stack", "down", "--all").ends() == 0
    assert command.said.endswith("no twin of yours is up\n")


@pytest.mark.slow
def test_a_twin_in_use_is_left_to_who_uses_it(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    """`--all` beside a rehearsal that still brings its twin up; a folder that is gone is forgotten,
    its processes ended; `--force` takes down what is used."""
    lost = tmp_path / "outputs" / "lost"
    assert start("stack", "up", "--no-plane", "--dir", lost).ends() == 0
    shutil.rmtree(lost)
    command = rehearse(start, tmp_path)
    command.wait(lambda: command.twin.pid_file("front").exists())
    assert start("stack", "down", "--all").ends() == 1
    assert f"{lost}: its folder is gone; {DOWN}" in command.said
    assert f"left up: pid {command.process.pid} " in command.said
    command.wait_run(watches)
    assert start("stack", "down", "--all", "--force").ends() == 0
    command.signal(TERM)
    command.ends()
    assert_nothing_left(command)


@pytest.mark.slow
@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_stack_up_that_is_told_to_end_leaves_nothing(
    number: int, start: Callable[..., Command], tmp_path: Path
) -> None:
    """Halfway up, the data plane included."""
    command = start("stack", "up", "--dir", tmp_path / "outputs" / "twins" / "one")
    command.wait(lambda: command.twin.plane.pid_file("postgres").exists())
    command.signal(number, group=True)
    assert command.ends() == 128 + number, command.said
    assert_nothing_left(command)


@pytest.mark.slow
@pytest.mark.parametrize("number", [INT, TERM])
def test_a_lab_that_is_told_to_end_leaves_nothing(
    number: int, start: Callable[..., Command], tmp_path: Path
) -> None:
    """While its twin comes up, before there is a JupyterLab."""
    command = start("lab", "--twin", "--outputs", tmp_path / "outputs")
    command.wait(lambda: command.twin.plane.pid_file("valkey").exists())
    command.signal(number, group=True)
    time.sleep(0.1)
    command.signal(number, group=True)
    assert command.ends() == 128 + number, command.said
    assert_nothing_left(command)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [INT, TERM])
def test_notebooks_and_data_plane_end_as_well(
    number: int, start: Callable[..., Command], tmp_path: Path
) -> None:
    """The whole rehearsal, in its watch: seven notebooks are there, kernels and plane are not."""
    command = rehearse(start, tmp_path, "--plane")
    command.wait_run(watches)
    command.signal(number, group=True)
    assert command.ends() == 4, command.said
    assert_the_twin_was_there_to_the_end(command, Outcome.ROLLED_BACK_IN_BUDGET)
    assert len(list(command.run.notebooks.glob("*.ipynb"))) == 7
    assert_nothing_left(command)
