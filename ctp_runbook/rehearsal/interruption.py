"""What INT, TERM and HUP come to in a rehearsal: once a run acts, they ask, and raise nothing.

Whoever presses Ctrl-C wants it over, and a run that acts must not lose the twin it acts on: raised
into whatever the main thread happens to do, the signal would skip the wait for the run's end.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from ctp_runbook.errors import RunbookError
from ctp_runbook.host.interruption import Interrupted, handled, tell

__all__ = ["Interruption"]


class Interruption:
    """Hears the signals of a rehearsal; ``say`` may be called from another thread.

    Until ``attend`` the first signal raises Interrupted, and those after it do nothing more.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._raised = False
        self._numbers: SimpleQueue[int] = SimpleQueue()  # 0: the rehearsal is over
        self._attendant: threading.Thread | None = None
        self.over = threading.Event()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Hear them meanwhile."""
        with handled(self._hear):
            try:
                yield
            finally:
                self.over.set()
                self._numbers.put(0)
                if self._attendant is not None:
                    self._attendant.join()

    def attend(self, first: Callable[[], str], again: Callable[[], str]) -> None:
        """From now on do ``first`` at the first signal and ``again`` at each other; both say what."""
        # A handler may neither wait for a run nor print: another thread does.
        self._attendant = threading.Thread(target=self._attend, args=[first, again], daemon=True)
        self._attendant.start()

    def _hear(self, number: int) -> None:
        if self._attendant is not None:
            self._numbers.put(number)
        elif self._raised:
            tell("the twin is being taken down; no run was begun")
        else:
            self._raised = True
            raise Interrupted(number)

    def _attend(self, act: Callable[[], str], again: Callable[[], str]) -> None:
        while number := self._numbers.get():
            try:
                self._say(f"{signal.Signals(number).name}: {act()}")
            except RunbookError as error:
                self._say(str(error))
            act = again
