"""Every command in every state of its surroundings: a true exit code, no traceback, nothing that hangs.

Exit 2 says that nothing was touched, 1 of ``proc alive`` that the daemon is gone, 0 that it was done
as asked: none of them may come from a terminal that is closed, a disk that is full, a pipe that
nobody reads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ctp_runbook.cli import main as command_line
from ctp_runbook.cli import options
from ctp_runbook.cli.options import Command
from ctp_runbook.host.process import identity_of
from ctp_runbook.record.evidence import finalise
from ctp_runbook.record.rundir import RunDir
from tests.props.command_line import typed
from tests.props.plan_fixtures import make_plan
from tests.props.synthetic_runs import completed_run, rolled_back_run

ENTRY = (sys.executable, "-m", "ctp_runbook")
SECONDS = 60


def words_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Commands by their names, about a completed run, a plan, and a daemon that lives."""
    run = next((folder / "runs").iterdir())
    files = [
        *("--cutover-template", f"{folder}/cutover.env"),
        *("--rollback-template", f"{folder}/rollback.env"),
        *("--limits", f"{folder}/limits.toml", "--watch", f"{folder}/watch.toml"),
    ]
    of_run = ("--run", str(run))
    return {
        "plan": ("plan", *files, "--outputs", str(folder / "runs")),
        "dry run": ("orchestrate", *files, "--outputs", str(folder / "new")),
        "refused": ("orchestrate", *files, "--outputs", str(folder / "new"), "--execute"),
        "verify": ("verify", *of_run),
        "status": ("status", *of_run),
        "hold": ("hold", *of_run),
        "report": ("report", *of_run),
        "rejudge": ("rejudge", *of_run),
        "readiness": ("readiness", "--output-json", str(folder / "readiness.json")),
        "infra": ("infra", "kafka-topics", "--evidence-dir", str(folder / "gate")),
        "alive": ("proc", "alive", "--pid-file", str(folder / "living.pid")),
        "gone": ("proc", "alive", "--pid-file", str(folder / "nobody.pid")),
        "help": ("--help",),
    }


CODES = {
    **dict.fromkeys(("plan", "dry run", "verify", "status", "report", "rejudge"), 0),
    **dict.fromkeys(("infra", "alive", "help"), 0),
    **dict.fromkeys(("refused", "hold"), 2),
    "readiness": 3,
    "gone": 1,
}
# What the shell does before it becomes the command; what may end otherwise than it would.
NO_PRINT = {"plan": 2, "verify": 2, "rejudge": 2, "status": 7}
STATES: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "as ever": ('"$@"', {}),
    "no output": ('"$@" >&-', {}),
    "no streams": ('"$@" <&- >&- 2>&-', {}),
    "output full": ('"$@" > /dev/full', NO_PRINT),
    "both full": ('"$@" > /dev/full 2>&1', NO_PRINT),
    "nobody reads": ('{ "$@"; echo $? > code; } | :; exit "$(cat code)"', {}),
    "no home": ('env -u HOME -u PATH -u LANG TMPDIR=/nowhere "$@"', {}),
    "folder gone": (
        'mkdir gone; cd gone; rmdir ../gone; "$@"',
        {"plan": 2, "dry run": 2, "refused": 2},
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a plan, a run that is over, and the pid file of a process that lives."""
    folder = tmp_path_factory.mktemp("codes")
    make_plan(folder)
    (folder / "runs").mkdir()
    finalise(completed_run(folder / "runs"))
    with subprocess.Popen(["sleep", "600"]) as living:
        known = identity_of(living.pid)
        assert known is not None
        (folder / "living.pid").write_text(f"{known.pid}\n{known.start_ticks}\n")
        yield folder
        living.kill()


def ended(folder: Path, state: str, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The command in that state, typed by a shell in ``folder``."""
    return subprocess.run(
        ["bash", "-c", state, "bash", *ENTRY, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("state", STATES)
def test_the_exit_code_is_true_in_every_state(place: Path, state: str) -> None:
    """It is the command's own, whoever can read what it says."""
    how, other = STATES[state]
    wrong = []
    for name, words in words_of(place).items():
        end = ended(place, how, words)
        due = other.get(name, CODES[name])
        is_plain = "Traceback" not in end.stderr and "foresaw" not in end.stderr
        if end.returncode != due or not is_plain:
            wrong.append(f"{name}: exit {end.returncode}, due {due}: {end.stderr[-300:]}")
    assert wrong == []


# --- what a run's folder may be -----------------------------------------------------------


def deep(path: Path) -> None:
    """JSON that no reader reads to its end."""
    path.write_bytes(b'{"a":' * 100_000)


def headless(path: Path) -> None:
    """All but the first record."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


DAMAGES: Mapping[str, Callable[[Path], object]] = {
    "gone": lambda path: None,
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path.name),
    "deep": deep,
    "empty": Path.touch,
}
PLACES = ("journal.jsonl", "run.json", "manifest.json", "samples/samples.jsonl")
# Whoever asked for these asked about a run of which nothing is known then.
LOST_WITH_JOURNAL = ("status", "hold")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", PLACES)
def test_a_damaged_run_is_told_by_a_true_code(
    name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No hang and no traceback; 7 where the journal is lost, for nobody knows what was touched."""
    run = completed_run(tmp_path)
    finalise(run)
    (run.path / name).unlink()
    DAMAGES[damage](run.path / name)
    wrong = []
    for command in ("status", "hold", "report", "rejudge", "verify"):
        code, said = typed(command, "--run", run.path), capsys.readouterr()
        allowed: tuple[int, ...] = (0, 2)
        if name == "journal.jsonl":
            allowed = (7,) if command in LOST_WITH_JOURNAL else (2,)
        if code not in allowed or "foresaw" in said.err:
            wrong.append(f"{command}: exit {code}, allowed {allowed}: {said.err[-300:]}")
    assert wrong == []


def test_of_a_run_whose_head_is_lost_the_way_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What closes it is one line, and it does: the folder of runs has no such run any more."""
    run = completed_run(tmp_path)
    headless(run.journal)
    assert typed("resume", "--run", run.path) == 7
    said = capsys.readouterr().err
    (way_out,) = (
        line.partition("`")[2].partition("`")[0] for line in said.splitlines() if "mkdir" in line
    )
    subprocess.run(["bash", "-c", way_out], check=True)
    assert (tmp_path / "set-aside" / run.run_id / "journal.jsonl").is_file()
    assert typed("status", "--outputs", tmp_path) == 2


# --- what nobody foresaw -------------------------------------------------------------------

ERRORS = (
    OSError(5, "Input/output error", "/mnt/x"),
    ValueError("embedded null byte"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
)
UNFORESEEN = {
    ("plan",): 2,
    ("orchestrate", "--execute"): 2,
    ("run", "--execute"): 2,
    ("verify",): 2,
    ("status",): 2,
    ("rollback",): 2,
    ("readiness",): 2,
    ("infra", "bootstrap"): 2,
    ("infra", "bootstrap", "--execute"): 3,
    ("proc", "alive", "--pid-file", "x"): 3,
    ("rehearse",): 7,
    ("stack", "up"): 7,
}


def raising(error: BaseException, *, about: RunDir | None = None) -> Callable[[list[str]], object]:
    """What stands for a command that comes to a run, and ends by an error."""

    def perform(words: list[str]) -> object:
        if about is not None:
            options.take_in_hand(about)
        raise error

    return perform


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_ends_by_what_is_known(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gate that may have acted has failed; whether a daemon lives could not be told; else 2."""
    monkeypatch.setattr(command_line, "_keep_traceback", lambda: "")
    monkeypatch.setattr(command_line, "_perform", raising(error))
    assert {words: typed(*words) for words in UNFORESEEN} == UNFORESEEN
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert all(line.startswith("error: ") for line in said.splitlines())


def cut_at(run: RunDir, kind: bytes) -> RunDir:
    """The run as it was before the first record of this kind."""
    lines = run.journal.read_bytes().splitlines(keepends=True)
    ended = next(n for n, line in enumerate(lines) if b'"kind":"' + kind in line)
    run.journal.write_bytes(b"".join(lines[:ended]))
    return run


BOTH = (OSError(5, "Input/output error"), KeyboardInterrupt())


@pytest.mark.parametrize("error", BOTH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("kind", "cut", "code"),
    [
        ("completed", b"", 0),
        ("rolled_back", b"", 4),
        ("completed", b"watch_ended", 7),
        ("rolled_back", b"rollback_started", 7),
        ("completed", b"step_started", 7),
    ],
)
def test_of_a_run_at_hand_the_code_says_how_it_is(
    kind: str,
    cut: bytes,
    code: int,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The outcome's own where it has one; 7 while it goes on: 2 would say that nothing was touched."""
    run = completed_run(tmp_path) if kind == "completed" else rolled_back_run(tmp_path)
    if cut:
        cut_at(run, cut)
    monkeypatch.setattr(command_line, "_perform", raising(error, about=run))
    assert typed("orchestrate", "--execute") == code
    shutil.rmtree(run.path)
    perform = raising(error)

    def vanished(words: list[str]) -> object:
        options._AT_HAND[:] = [run]
        return perform(words)

    monkeypatch.setattr(command_line, "_perform", vanished)
    assert typed("orchestrate", "--execute") == 7


def test_a_row_that_raises_is_told_as_the_boundary_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever performs a command stands inside the boundary."""

    def perform(**values: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command_line, "load_command", lambda name: Command(perform))
    assert typed("orchestrate") == 2
