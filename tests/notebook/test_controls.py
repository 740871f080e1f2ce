"""Facts about notebook/controls.py: a button asks once, for a reason, and where somebody confirms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.notebook import controls
from ctp_runbook.notebook.controls import HEADLESS_VARIABLE, Controls, is_person_there
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.run.steer import Steered
from tests.props.synthetic_runs import completed_run, rolled_back_run


def cut(outputs: Path, marker: bytes, *, run: Any = completed_run) -> History:
    """A run's history up to the first record that holds ``marker``."""
    records = read_journal(run(outputs).journal).records
    last = next(n for n, record in enumerate(records) if marker in record.line)
    return History.of(records[: last + 1])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reached the run, in place of ``run.steer``."""
    requests: list[tuple[str, str]] = []

    def steer(run: Any, request: str, *, reason: str) -> Steered:
        if reason == "refuse":
            raise RunRefused("nothing can come of it")
        requests.append((request, reason))
        return Steered(run, f"{request} asked: <it> begins")

    monkeypatch.setattr(controls, "steer", steer)
    return requests


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Controls]:
    """The buttons of a run that watches."""
    history = cut(tmp_path / "cut", b'"kind":"watch_started"')
    panel = Controls(completed_run(tmp_path / "outputs"), history)
    yield panel
    panel.close()


def click(panel: Controls, request: str) -> None:
    """Press a button, and wait until what it asks is answered."""
    before = set(threading.enumerate())
    panel.buttons[request].click()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)


def test_a_click_asks_once(panel: Controls, asked: list[tuple[str, str]]) -> None:
    """The fields are blank then: a second click is another decision, and is not confirmed."""
    panel.reason.value, panel.typed.value = " spreads ", panel._environment
    click(panel, "hold")
    assert asked == [("hold", "spreads")]
    assert "hold asked: &lt;it&gt; begins" in panel.said.value
    click(panel, "hold")
    assert asked == [("hold", "spreads")]
    assert "give a reason" in panel.said.value


def test_nothing_is_asked_where_nobody_confirms(
    panel: Controls, asked: list[tuple[str, str]]
) -> None:
    """What was typed, and what was expected."""
    panel.reason.value, panel.typed.value = "fills", "yes"
    click(panel, "rollback")
    assert asked == []
    assert "typed &#x27;yes&#x27;; expected" in panel.said.value
    assert panel.reason.value == "fills"


def test_a_refusal_stands_beside_the_buttons(panel: Controls, asked: list[tuple[str, str]]) -> None:
    """And ends nothing of the notebook."""
    panel.reason.value, panel.typed.value = "refuse", panel._environment
    panel.ask("abort")
    assert "nothing can come of it" in panel.said.value


def test_a_click_that_comes_late_asks_nothing(
    panel: Controls, asked: list[tuple[str, str]]
) -> None:
    """The run has gone on since: what was decided then is not what it would do now."""
    panel.reason.value, panel.typed.value = "late", panel._environment
    panel.close()
    panel.ask("abort")
    assert asked == []


def test_a_click_keeps_nobody_waiting(panel: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that hears it has a page to keep moving while the run answers."""
    answered = threading.Event()

    def steer(run: Any, request: str, *, reason: str) -> Steered:
        answered.wait(30)
        return Steered(run, "it begins")

    monkeypatch.setattr(controls, "steer", steer)
    panel.reason.value, panel.typed.value = "spreads", panel._environment
    panel.buttons["hold"].click()
    assert not answered.is_set()
    answered.set()


def test_a_page_that_was_opened_again_keeps_a_line(panel: Controls) -> None:
    """It does not hear what the cell ends with: the panel says that it has, until the next one."""
    panel.close()
    assert panel.box.children == (panel.told,)
    assert "run it again" in panel.told.value
    assert panel.box in Controls._left


@pytest.mark.parametrize(
    ("marker", "off"),
    [
        (b'"to":"GATING"', {"resume"}),
        (b'"to":"SWITCHING"', {"resume"}),
        (b'"kind":"watch_started"', {"resume"}),
        (b'"kind":"rollback_started"', {"hold", "resume", "abort"}),
        (b'"kind":"closed"', {"hold", "resume", "abort", "rollback"}),
    ],
)
def test_what_the_run_would_not_obey_cannot_be_pressed(
    marker: bytes, off: set[str], tmp_path: Path
) -> None:
    """And each button says what it would come to."""
    history = cut(tmp_path, marker, run=rolled_back_run)
    panel = Controls(completed_run(tmp_path / "outputs"), history)
    assert {request for request, button in panel.buttons.items() if button.disabled} == off
    assert all(button.tooltip for button in panel.buttons.values())


@pytest.mark.parametrize(
    ("allows", "headless", "is_there"),
    [(True, "", True), (False, "", False), (True, "1", False), (None, "", False)],
)
def test_a_person_is_who_can_be_asked(
    allows: bool | None, headless: str, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """papermill and nbclient say with each cell that nobody answers; a script has no kernel."""
    parent = {"content": {"allow_stdin": allows}}
    kernel = SimpleNamespace(get_parent=lambda channel: parent)
    shell = None if allows is None else SimpleNamespace(kernel=kernel)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setenv(HEADLESS_VARIABLE, headless)
    assert is_person_there() is is_there
