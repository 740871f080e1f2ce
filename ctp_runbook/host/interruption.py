"""INT, TERM and HUP where half an act would be worse than a late end: raised, held back, answered.

Python runs a handler in the main thread alone, between two of its instructions. In another thread
these contexts change nothing, and a signal that was ignored from the start (``nohup``, a shell's
``&``) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

__all__ = ["Interrupted", "answered", "handled", "held", "raised", "tell"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal that asks to end; ``exit_code`` is what a shell would say of who died of it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def handled(act: Callable[[int], object]) -> Iterator[None]:
    """Have ``act`` called with the number of each such signal, meanwhile."""
    before = {}
    try:
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(ValueError):  # not the main thread
                    before[number] = signal.signal(number, lambda number, _: act(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise Interrupted for TERM and HUP as for INT, meanwhile: what was begun is tidied up."""

    def end(number: int) -> None:
        raise Interrupted(number)

    with handled(end):
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold such a signal back until the act is whole; then it comes, once."""
    came: list[int] = []
    try:
        with handled(came.append):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def answered(sentence: str) -> Iterator[None]:
    """Answer each such signal with ``sentence`` on standard error, and go on to the end."""
    with handled(lambda number: tell(f"{signal.Signals(number).name}: {sentence}")):
        yield


def tell(sentence: str) -> None:
    """Write a line to standard error, if anybody is there; a handler may, where print may not."""
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode())
