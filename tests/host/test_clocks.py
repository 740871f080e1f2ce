"""Facts about host/clocks.py: a pause, a suspend and a step are told apart, and nothing else is one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ctp_runbook.host.clocks import Clocks, ClockWatch, Disturbance, What


@dataclass
class Hand:
    """Clocks that are moved by hand, each on its own."""

    wall: float = 1.7e9
    mono: float = 100.0
    boot: float = 300.0

    def move(self, wall: float, mono: float, boot: float) -> None:
        """So far each."""
        self.wall, self.mono, self.boot = self.wall + wall, self.mono + mono, self.boot + boot

    @property
    def clocks(self) -> Clocks:
        """Where they stand, for whoever looks."""
        return Clocks(lambda: self.wall, lambda: self.mono, lambda: self.boot)


def told(*moves: tuple[float, float, float]) -> list[tuple[str, float]]:
    """What is noted when the clocks move so between the looks."""
    hand = Hand()
    watch = ClockWatch(hand.clocks)
    watch.look()
    for move in moves:
        hand.move(*move)
        watch.look()
    return [(one.what, one.seconds) for one in watch.take()]


TICK = (0.25, 0.25, 0.25)
MOVES = {
    "nothing": ([TICK] * 8, []),
    "a time service at work": ([(0.2502, 0.25, 0.25)] * 200, []),
    "a look that was late": ([(1.9, 1.9, 1.9)], []),
    "a pause": ([TICK, (10.0, 10.0, 10.0), TICK], [("paused", 10.0)]),
    "a step of an hour": ([(3600.25, 0.25, 0.25)], [("clock_stepped", 3600.0)]),
    "a step back": ([(-3599.75, 0.25, 0.25)], [("clock_stepped", -3600.0)]),
    "a suspend": ([(600.25, 0.25, 600.25)], [("suspended", 600.0)]),
    "a suspend, and the clock set after it": (
        [(600.25, 0.25, 600.25), (5.25, 0.25, 0.25)],
        [("suspended", 600.0), ("clock_stepped", 5.0)],
    ),
    "paused while the clock was set": (
        [(3610.0, 10.0, 10.0)],
        [("paused", 10.0), ("clock_stepped", 3600.0)],
    ),
}


@pytest.mark.parametrize(("moves", "noted"), MOVES.values(), ids=MOVES)
def test_what_happened_to_time_is_told_apart(
    moves: list[tuple[float, float, float]], noted: list[tuple[str, float]]
) -> None:
    """By which of the three clocks parted from the others, and by how much."""
    assert told(*moves) == noted


def test_it_is_told_once() -> None:
    """Taken is taken, and the step is remembered for those who measure by the wall clock."""
    hand = Hand()
    watch = ClockWatch(hand.clocks)
    watch.look()
    hand.move(3600.0, 0.25, 0.25)
    watch.look()
    assert len(watch.take()) == 1
    assert watch.take() == ()
    assert watch.step_within(60) is not None
    hand.move(61, 61, 61)
    assert watch.step_within(60) is None


HOLDS: dict[What, tuple[float, bool]] = {
    "paused": (10.0, False),
    "suspended": (10.0, True),
    "clock_stepped": (-10.0, True),
}


@pytest.mark.parametrize(("what", "row"), HOLDS.items(), ids=HOLDS)
def test_what_proves_less_holds(what: What, row: tuple[float, bool]) -> None:
    """A pause shows in the coverage; a correction of a second is what a time service does."""
    seconds, holds = row
    found = Disturbance(what, seconds, 0, 10, 0, 10)
    assert found.holds is holds
    assert f"{abs(seconds):.1f} s" in found.sentence
    assert not Disturbance(what, seconds / 10, 0, 1, 0, 1).holds


SINCE = {
    "nothing": ((5.0, 5.0, 5.0), 0.0, []),
    "a step": ((3605.0, 5.0, 5.0), 0.0, [("clock_stepped", 3600.0)]),
    "a step back": ((-3595.0, 5.0, 5.0), 900.0, [("clock_stepped", -3600.0)]),
    "a suspend": ((605.0, 5.0, 605.0), 0.0, [("suspended", 600.0)]),
    "a step, of a host that slept long ago": (
        (3605.0, 5.0, 5.0),
        900.0,
        [("clock_stepped", 3600.0)],
    ),
}


@pytest.mark.parametrize(("move", "slept", "noted"), SINCE.values(), ids=SINCE)
def test_it_takes_up_from_what_another_wrote_down(
    move: tuple[float, float, float], slept: float, noted: list[tuple[str, float]]
) -> None:
    """Wall and monotonic clock of then are enough to see that one was set, or that the host slept."""
    hand = Hand(mono=100.0, boot=100.0 + slept)
    watch = ClockWatch(hand.clocks)
    wall, mono = hand.wall, hand.mono
    hand.move(*move)
    watch.since(wall=wall, mono=mono)
    watch.look()
    told = [(one.what, one.seconds) for one in watch.take() if one.what != "paused"]
    assert told == noted
