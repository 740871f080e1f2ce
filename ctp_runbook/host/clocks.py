"""The host's clocks under watch: a pause, a suspend and a step of the wall clock are told apart.

``mono`` stands still while the host is suspended and ``boot`` does not (clock_gettime(2)); the wall
clock may be set by anybody. Whoever looks often sees which of them parted from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from ctp_runbook.host import process

if TYPE_CHECKING:
    import threading

    from ctp_runbook.host.seam import Clock

__all__ = ["STEP_SECONDS", "ClockWatch", "Clocks", "Disturbance", "What"]

What = Literal["paused", "suspended", "clock_stepped"]

# Steps below this are what a time service corrects in a minute; no limit of the watch is near it.
STEP_SECONDS = 0.5
# Whoever looks four times a second and did not for so long was stopped, or starved.
_PAUSE_SECONDS = 2.0
# As far as verification lets the clocks of a run part without a record that says why.
_HOLD_SECONDS = 2.0


def _boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks(Struct, frozen=True):
    """This host's clocks, as the seam asks for them; each can be replaced where one is moved."""

    wall: Callable[[], float] = time.time
    mono: Callable[[], float] = time.monotonic
    boot: Callable[[], float] = _boot_seconds

    def boot_id(self) -> str:
        """Return this boot's random id (random(4))."""
        return process.boot_id()

    def sleep(self, seconds: float) -> None:
        """Let so much time pass; a deadline that is over already is none to wait for."""
        time.sleep(max(0.0, seconds))

    def wait(self, event: threading.Event, *, seconds: float) -> bool:
        """Wait for ``event``, for so long at most; whether it is set."""
        return event.wait(max(0.0, seconds))


class Disturbance(Struct, frozen=True):
    """What happened to time between two looks at the clocks.

    ``what`` is paused (this process did not run), suspended (the host did not) or clock_stepped
    (somebody set the wall clock); ``seconds`` for how long or how far, negative for a step back.
    """

    what: What
    seconds: float
    from_wall: float
    to_wall: float
    from_mono: float
    to_mono: float

    @property
    def holds(self) -> bool:
        """True where a person should look before the watch may go on to a pass.

        A pause shows in the coverage of what was not sampled, and needs no more.
        """
        return self.what != "paused" and abs(self.seconds) > _HOLD_SECONDS

    @property
    def sentence(self) -> str:
        """What happened, and what it means for the watch."""
        return {
            "paused": f"the watch did not run for {self.seconds:.1f} s: nothing was sampled then",
            "suspended": f"the host was suspended for {self.seconds:.1f} s: nothing is known of then",
            "clock_stepped": f"the wall clock was set {self.seconds:+.1f} s: what is measured by it "
            "proves nothing until its window has passed",
        }[self.what]


def _new_lock() -> threading.Lock:
    import threading  # who asks but for the time, as a dry run does, has no threads

    return threading.Lock()


class ClockWatch(Struct):
    """Compares each look at the clocks with the one before, whichever thread takes it."""

    clocks: Clock = field(default_factory=Clocks)
    _noted: list[Disturbance] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=_new_lock)
    _last: tuple[float, float, float] | None = None
    _step: Disturbance | None = None

    def since(self, *, wall: float, mono: float) -> None:
        """Take up from a moment of this boot that somebody else wrote down.

        The boot clock of then is not known: what the wall gained is a suspend as far as this boot
        was ever suspended, and else a step.
        """
        now_mono, now_boot = self.clocks.mono(), self.clocks.boot()
        gained = self.clocks.wall() - wall - (now_mono - mono)
        slept = gained if 0 < gained <= now_boot - now_mono + STEP_SECONDS else 0.0
        with self._lock:
            self._last = (wall, mono, now_boot - (now_mono - mono) - slept)

    def look(self) -> None:
        """Read all clocks, and note what parted since the last look."""
        with self._lock:
            now = (self.clocks.wall(), self.clocks.mono(), self.clocks.boot())
            last, self._last = self._last or now, now
            wall, mono, boot = (a - b for a, b in zip(now, last, strict=True))
            noted = partial(
                Disturbance, from_wall=last[0], to_wall=now[0], from_mono=last[1], to_mono=now[1]
            )
            if mono > _PAUSE_SECONDS:
                self._noted.append(noted("paused", round(mono, 3)))
            # Of a suspended host no clock but this one tells: the others all stood still.
            if boot - mono > STEP_SECONDS:
                self._noted.append(noted("suspended", round(boot - mono, 3)))
            if abs(wall - boot) > STEP_SECONDS:
                self._step = noted("clock_stepped", round(wall - boot, 3))
                self._noted.append(self._step)

    def take(self) -> tuple[Disturbance, ...]:
        """What was noted and not yet taken."""
        with self._lock:
            noted, self._noted = tuple(self._noted), []
            return noted

    def step_within(self, seconds: float) -> Disturbance | None:
        """The last step of the wall clock, if it is not longer ago than this."""
        with self._lock:
            step = self._step
            if step is None or self.clocks.mono() - step.to_mono > seconds:
                return None
            return step
