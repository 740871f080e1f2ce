"""Facts about cli/twin.py: what is typed reaches the twin; nothing of it is started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp_runbook.host.proc import ProcReport
from ctp_runbook.notebook import lab
from ctp_runbook.rehearsal import rehearse, stack
from ctp_runbook.rehearsal.faults import FAULTS
from ctp_runbook.rehearsal.twin import Twin
from tests.props.command_line import StandIn, typed


def test_every_fault_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a fault: its name, and what it does."""
    assert typed("rehearse", "--list-faults") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FAULTS)


def test_a_rehearsal_is_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is that of the rehearsed run."""
    rehearse_cutover = StandIn(4)
    monkeypatch.setattr(rehearse, "rehearse_cutover", rehearse_cutover)
    words = ("--fault", "x", "--no-notebooks", "--watch-seconds", "3", "--outputs", "o")
    assert typed("rehearse", *words) == 4
    (((rehearsal,), _),) = rehearse_cutover.calls
    assert rehearsal == rehearse.Rehearsal(
        fault="x", watch_seconds=3.0, outputs=Path("o"), notebooks=False
    )


@pytest.mark.parametrize(("left", "code"), [((), 0), (("front",), 1)])
def test_stack_down_fails_while_anything_is_left(
    left: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each part is told with what became of it."""
    report = type("Report", (), {"sentence": "gone"})
    ended = type("Down", (), {"reports": {"front": report}, "left": left})
    monkeypatch.setattr(stack, "down", lambda folder: ended)
    assert typed("stack", "down", "--dir", "t") == code
    assert capsys.readouterr().out == "front: gone\n"


@pytest.mark.parametrize(("is_up", "code"), [(True, 0), (False, 1)])
def test_stack_status_says_whether_it_is_up(
    is_up: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its exit code too."""
    seen = type("Status", (), {"sentences": ("front runs",), "is_up": is_up})
    monkeypatch.setattr(stack, "status", lambda folder: seen)
    assert typed("stack", "status", "--dir", "t") == code


def test_the_lab_gets_what_stands_after_the_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of JupyterLab's own are none of ours."""
    open_lab = StandIn(0)
    monkeypatch.setattr(lab, "open_lab", open_lab)
    assert typed("lab", "--outputs", "o", "--", "--port", "1") == 0
    values = {"outputs": Path("o"), "parameters": {}, "arguments": ("--port", "1")}
    assert open_lab.calls == [((), values)]


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, "twin down: every process proved gone"), (1, "twin NOT down: plane still run")],
)
def test_a_lab_takes_its_own_twin_down(
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever became of JupyterLab, and it says what was left."""
    monkeypatch.setattr(stack, "up", lambda folder, **_: Twin(folder))
    monkeypatch.setattr(Twin, "sentence", "as told", raising=False)
    down = {"plane": ProcReport(code, "gone or not")}
    monkeypatch.setattr(stack, "down", lambda folder: stack.TwinDown(Twin(folder), down))
    monkeypatch.setattr(lab, "open_lab", lambda **_: 0)
    monkeypatch.setattr(lab, "rehearsal_parameters", lambda *templates: {})
    assert typed("lab", "--twin", "--outputs", tmp_path) == 0
    assert said in capsys.readouterr().out
