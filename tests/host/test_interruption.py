"""Facts about host/interruption.py: a signal that asks to end is raised, held back or answered."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ctp_runbook.host.interruption import Interrupted, answered, handled, held, raised, tell

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Each of these contexts leaves the handlers as it found them."""
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_each_is_raised_with_its_exit_code(number: int) -> None:
    """As a shell tells it; whatever catches Ctrl-C catches it."""
    with pytest.raises(KeyboardInterrupt) as caught, raised():
        signal.raise_signal(number)
    assert isinstance(caught.value, Interrupted)
    assert (caught.value.exit_code, str(caught.value)) == (
        128 + number,
        signal.Signals(number).name,
    )


def test_a_held_signal_comes_once_the_act_is_whole() -> None:
    """Once, however often it came."""
    done = []

    def act() -> None:
        with held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("whole")
        done.append("more")

    with pytest.raises(Interrupted, match="SIGTERM"), raised():
        act()
    assert done == ["whole"]


def test_a_held_signal_comes_after_an_error_too() -> None:
    """The error is its context."""

    def act() -> None:
        signal.raise_signal(signal.SIGHUP)
        raise OSError

    with pytest.raises(Interrupted) as caught, raised(), held():
        act()
    assert isinstance(caught.value.__context__, OSError)


def test_an_answered_signal_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The sentence stands on standard error, once for each."""
    with raised(), answered("it goes down"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == "SIGINT: it goes down\n" * 2


def test_what_was_ignored_stays_ignored() -> None:
    """A rehearsal under nohup does not end with its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_is_left_as_it_is() -> None:
    """It can have no handlers, and needs none: they run in the main thread."""
    worked: list[int] = []

    def work() -> None:
        with held(), handled(worked.append):
            worked.append(0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert worked == [0]


def test_nobody_there_to_tell_is_no_failure() -> None:
    """A terminal that was closed."""
    kept = os.dup(2)
    os.close(2)
    try:
        tell("to nobody")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
