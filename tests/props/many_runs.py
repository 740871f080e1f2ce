"""A folder of many rehearsals, made in no time: alike but for how long things took and how they ended."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from ctp_runbook.model import Outcome
from ctp_runbook.record.rundir import RunDir
from tests.props.synthetic_runs import Clock, seal, telling, up_to_switch

__all__ = ["PacedClock", "drill", "many_drills"]

_BEGUN = 1_770_000_000.25
_HALF_A_DAY = 43_200.0


@dataclass
class PacedClock(Clock):
    """All that happens takes ``pace`` times as long."""

    pace: float = 1.0

    def advance(self, seconds: float) -> None:
        """Let time pass, at this pace."""
        super().advance(seconds * self.pace)


def drill(
    outputs: Path,
    number: int,
    *,
    pace: float = 1.0,
    outcome: Outcome = Outcome.ROLLED_BACK_IN_BUDGET,
    sealed: bool = True,
) -> RunDir:
    """A forced rollback straight after the switch, half a day after the one before."""
    clock = PacedClock(wall=_BEGUN + number * _HALF_A_DAY, pace=pace)
    with telling(outputs, f"drill-{number:04d}", clock=clock, force_rollback=True) as story:
        up_to_switch(story)
        story.state("WATCHING")
        story.say("watch_started", minutes=30.0, metrics=["order_latency_p99_ms"])
        story.roll_back(cause="forced_drill", firing=None)
        story.close(outcome, trades="old")
    if sealed:
        seal(story.run)
    return story.run


def many_drills(outputs: Path, many: int, *, seed: int = 1, slower: float = 0.0) -> list[RunDir]:
    """So many, at paces drawn at random; each later one ``slower`` by that share."""
    drawn = random.Random(seed)
    return [
        drill(outputs, each, pace=drawn.lognormvariate(0, 0.25) * (1 + slower * each))
        for each in range(many)
    ]
