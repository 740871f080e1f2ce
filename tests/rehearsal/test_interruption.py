"""Facts about rehearsal/interruption.py: before there is a run a signal is raised, then it asks."""

from __future__ import annotations

import signal
import time

import pytest

from ctp_runbook.errors import RunRefused
from ctp_runbook.host.interruption import Interrupted
from ctp_runbook.rehearsal.interruption import Interruption


def heard(said: list[str], *, lines: int) -> None:
    """Wait until so many lines were said."""
    end = time.monotonic() + 10
    while len(said) < lines and time.monotonic() < end:
        time.sleep(0.01)


def test_before_there_is_a_run_the_first_is_raised(capfd: pytest.CaptureFixture[str]) -> None:
    """What tidies up then is not disturbed by the second."""
    said: list[str] = []
    tidied = []

    def act() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)

    with Interruption(said.append).heard(), pytest.raises(Interrupted, match="SIGTERM"):
        act()
    assert tidied == [True]
    assert "the twin is being taken down" in capfd.readouterr().err
    assert said == []


def test_with_a_run_each_is_answered_and_nothing_raised() -> None:
    """The first one asks, those after it are told; a refusal is told as well."""
    said: list[str] = []

    def refuse() -> str:
        raise RunRefused("nothing to abort")

    interruption = Interruption(said.append)
    with interruption.heard():
        interruption.attend(refuse, lambda: "it goes on")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        heard(said, lines=3)
        assert not interruption.over.is_set()
    assert said == ["nothing to abort", "SIGHUP: it goes on", "SIGTERM: it goes on"]
    assert interruption.over.is_set()


def test_who_waits_is_told_that_it_is_over() -> None:
    """The first one waits for a run that never comes; the rehearsal does not wait for it."""
    said: list[str] = []
    interruption = Interruption(said.append)
    with interruption.heard():
        interruption.attend(
            lambda: f"over: {interruption.over.wait(60)}", lambda: pytest.fail("nobody asked again")
        )
        signal.raise_signal(signal.SIGINT)
    assert said == ["SIGINT: over: True"]
