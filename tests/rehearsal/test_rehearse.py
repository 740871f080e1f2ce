"""Facts about rehearsal/rehearse.py: the twin goes down after the run, whatever becomes of who looks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp_runbook.errors import NotebookError, RunLost, RunRefused
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal import rehearse, stack
from ctp_runbook.rehearsal.rehearse import Rehearsal, rehearse_cutover
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.run import launch
from tests.props.command_line import StandIn
from tests.props.synthetic_runs import make_run


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the twin and asked of the run, in order; nothing is started."""
    done: list[str] = []

    def down(folder: Path) -> stack.TwinDown:
        done.append("down")
        return stack.TwinDown(Twin(folder), {})

    def noted(name: str) -> Callable[..., Any]:
        def act(run: RunDir, *words: str, **values: Any) -> Any:
            done.append(" ".join((name, *words)))

        return act

    monkeypatch.setattr(rehearse, "_work_takes", StandIn(0.2))
    monkeypatch.setattr(stack, "up", lambda folder, **_: done.append("up"))
    monkeypatch.setattr(stack, "down", down)
    monkeypatch.setattr(launch, "request", noted("request"))
    monkeypatch.setattr(launch, "follow", noted("follow"))
    return done


def begun(run: RunDir) -> None:
    """A run in its watch."""
    whole = make_run("completed", run.path.parent / "whole")
    run.make()
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    ended = next(n for n, line in enumerate(lines) if b'"kind":"watch_ended"' in line)
    run.journal.write_bytes(b"".join(lines[:ended]))


def rehearsed(tmp_path: Path, said: list[str], **values: Any) -> int:
    """The exit code of a rehearsal that says so."""
    return rehearse_cutover(Rehearsal(outputs=tmp_path / "outputs", **values), say=said.append)


@pytest.fixture
def lost_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at the run fails while it goes on."""

    def fail(rehearsal: Rehearsal, twin: Twin, run: RunDir, **_: Any) -> int:
        begun(run)
        raise NotebookError("no space left on device")

    monkeypatch.setattr(rehearse, "_cut_over", fail)


@pytest.mark.usefixtures("lost_sight")
def test_a_run_nobody_looks_at_any_more_ends_first(acts: list[str], tmp_path: Path) -> None:
    """It is asked to abort and waited for; then the twin goes down."""
    said: list[str] = []
    with pytest.raises(NotebookError, match="no space"):
        rehearsed(tmp_path, said)
    assert acts == ["up", "request abort", "follow", "down"]
    assert "is WATCHING: it is asked to end, and waited for" in said[-2]


@pytest.mark.usefixtures("lost_sight")
def test_a_run_that_does_not_end_keeps_its_twin(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left up for who takes the run up again, which is said."""

    def lose(*_: Any, **__: Any) -> None:
        raise RunLost("nobody conducts it; take it up again")

    monkeypatch.setattr(launch, "follow", lose)
    said: list[str] = []
    with pytest.raises(NotebookError, match="no space"):
        rehearsed(tmp_path, said)
    assert acts == ["up", "request abort"]
    assert said[-1].startswith(
        "twin left up: nobody conducts it; take it up again; take it down with"
    )


def test_a_run_whose_folder_is_gone_keeps_its_twin(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it holds the environment, which is how long it acts."""
    monkeypatch.setattr(rehearse, "_cut_over", StandIn(7))
    monkeypatch.setattr(rehearse, "_conclude", lambda *_, **__: 7)
    monkeypatch.setattr(rehearse, "_GONE_SECONDS", 0.2)
    monkeypatch.setattr(stack, "use_of", lambda twin: "run x is at work on it")
    said: list[str] = []
    assert rehearsed(tmp_path, said) == 7
    assert acts == ["up"]
    assert said[-1].startswith("twin left up: run x is at work on it; take it down with")


def test_a_run_that_nobody_conducts_is_asked_for_nothing(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of it is for who takes it up again to say; its twin stays up for them."""

    def lose(rehearsal: Rehearsal, twin: Twin, run: RunDir, **_: Any) -> int:
        begun(run)
        raise RunLost("nobody conducts it")

    monkeypatch.setattr(rehearse, "_cut_over", lose)
    said: list[str] = []
    with pytest.raises(RunLost, match="nobody conducts"):
        rehearsed(tmp_path, said)
    assert acts == ["up"]
    assert said[-1].startswith("twin left up: nobody conducts its run; take it down with")


def test_nobody_to_tell_is_no_reason_to_end(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that was closed, a terminal that is gone: the rehearsal takes its course."""
    monkeypatch.setattr(rehearse, "_cut_over", StandIn(0))
    monkeypatch.setattr(rehearse, "_conclude", lambda *_, **__: 0)
    kept = os.dup(1)

    def refuse(text: str) -> None:
        raise BrokenPipeError

    try:
        assert rehearse_cutover(Rehearsal(outputs=tmp_path), say=refuse) == 0
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert acts == ["up", "down"]


def test_a_signal_to_a_run_that_is_starting_reaches_it_once_it_began(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then there is nothing to ask; nothing is raised into its start."""

    def cut_over(rehearsal: Rehearsal, twin: Twin, run: RunDir, **_: Any) -> int:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert acts == ["up"]
        begun(run)
        end = time.monotonic() + 10
        while "request abort" not in acts and time.monotonic() < end:
            time.sleep(0.01)
        return 4

    monkeypatch.setattr(rehearse, "_cut_over", cut_over)
    monkeypatch.setattr(rehearse, "_conclude", lambda rehearsal, twin, run, code, **_: code)
    said: list[str] = []
    assert rehearsed(tmp_path, said) == 4
    assert acts[:2] == ["up", "request abort"]
    assert any("is asked to end: before its switch it aborts" in line for line in said)


def test_a_signal_before_the_run_takes_the_twin_down(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept or not: it was not wanted whole."""

    def up(folder: Path, **_: Any) -> None:
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(stack, "up", up)
    said: list[str] = []
    assert rehearsed(tmp_path, said, keep=True) == 129
    assert acts == ["down"]
    assert said == ["SIGHUP: ended before a run was begun", "twin down: every process proved gone"]


def test_a_machine_that_is_too_busy_is_told_before_anything_is_up(
    acts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured, what was expected, and what to do; not a gate that fails minutes later."""
    monkeypatch.setattr(rehearse, "_work_takes", StandIn(2.1))
    with pytest.raises(RunRefused, match="too busy to rehearse") as refused:
        rehearsed(tmp_path, [])
    assert "0.2 s of computing took 2.1 s (10 times as long, load " in str(refused.value)
    assert "expected at most 8 times" in str(refused.value)
    assert "end what else runs here" in str(refused.value)
    assert acts == []


def test_how_busy_a_machine_is_is_measured() -> None:
    """In seconds: no less than the work itself takes."""
    assert rehearse._work_takes() > 0.1


@pytest.mark.parametrize(
    ("fault", "engine", "said"),
    [
        ("order-latancy", "twin", r"'order-latancy' is not known, did you mean order-latency\?"),
        ("no-such", "twin", r"'no-such' is not known; expected one of order-latency, "),
        ("deadlock", "twin", "'deadlock' is none of the twin's own engines; expected one of"),
        ("order-latency", "as-found", "'order-latency' is none of engines as found; expected"),
    ],
)
def test_a_fault_that_is_none_is_refused_before_anything_is_up(
    fault: str, engine: str, said: str, acts: list[str], tmp_path: Path
) -> None:
    """A typing error costs a sentence, and not the time a twin takes."""
    with pytest.raises(RunRefused, match=said):
        rehearsed(tmp_path, [], fault=fault, engine=engine)
    assert acts == []
