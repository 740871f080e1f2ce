"""The whole run on one line: who was alive, and in which state it was, from its first record on.

A switch of seconds inside a night of waiting would be a hair's breadth. So the axis gives each
state a share of the width that grows with the root of what it lasted: what is short keeps its room,
and the times stand at the edges, where the scale changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Generation, State, StepKind, StepStatus
from ctp_runbook.plan.step_table import STEP_TABLE, sender_of
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import ProbeAnswered, StepEnded, StepStarted, Triggered
from ctp_runbook.show.blocks import Picture
from ctp_runbook.show.figure_style import LIGHT, PAGE_DPI, PAGE_INCHES, Theme, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RunAxis", "Stretch", "run_axis", "run_figure", "run_pictures"]

# No state is narrower than its name can be told apart by; of the whole width.
_LEAST_SHARE = 0.07
_FILL = {
    State.SWITCHING: "warn",
    State.WATCHING: "value",
    State.HOLDING: "rollback",
    State.ROLLING_BACK: "bad",
}
_ROWS = {Generation.OLD: 1, Generation.NEW: 0}


@dataclass(frozen=True)
class Stretch:
    """A state from when to when, in monotonic seconds, and where it stands: 0 to 1 of the width."""

    state: State
    first: float
    last: float
    left: float
    right: float


@dataclass(frozen=True)
class RunAxis:
    """The states of a run side by side."""

    stretches: tuple[Stretch, ...]

    def at(self, mono: float) -> float:
        """Return where a moment of the monotonic clock stands, 0 to 1."""
        for stretch in self.stretches:
            if mono <= stretch.last or stretch is self.stretches[-1]:
                span = stretch.last - stretch.first
                share = (mono - stretch.first) / span if span > 0 else 0.0
                return stretch.left + min(max(share, 0.0), 1.0) * (stretch.right - stretch.left)
        return 0.0


def run_axis(history: History) -> RunAxis:
    """Return the states that the run was in, each with its room; none for a run without a state.

    Seconds of another boot count from zero again: a state across a restart of the host is as long
    as the wall clock says.
    """
    begun = history.records[0]
    states = [(State.PLANNED, begun.mono)]
    states += [(entry.state, _mono(history, entry.wall_utc)) for entry in history.transitions]
    end = _mono(history, history.records[-1].wall_utc)
    firsts = [max(first, begun.mono) for _, first in states]
    lasts = [*firsts[1:], max([end, *firsts])]
    roots = [max(last - first, 0.0) ** 0.5 for first, last in zip(firsts, lasts, strict=True)]
    room = 1.0 - _LEAST_SHARE * len(states)
    whole = sum(roots) or 1.0
    stretches, left = [], 0.0
    for (state, _), first, last, root in zip(states, firsts, lasts, roots, strict=True):
        right = left + _LEAST_SHARE + room * root / whole
        stretches.append(Stretch(state, first, last, left, right))
        left = right
    return RunAxis(tuple(stretches))


def _mono(history: History, wall_utc: str) -> float:
    """A moment as seconds on the clock of the run's first record, by the wall clock."""
    begun = history.records[0]
    return begun.mono + (datetime.fromisoformat(wall_utc) - begun.wall).total_seconds()


def run_pictures(history: History, *, both: bool = False) -> list[Picture]:
    """Return the run's line as a picture; none where it entered no state, and none of a dry run, which
    is through all of them at one instant."""
    if not history.transitions or history.is_dry_run:
        return []
    spans = [
        f"{stretch.state.value} {stretch.last - stretch.first:.1f} s"
        for stretch in run_axis(history).stretches
    ]
    return [
        picture(
            lambda theme: run_figure(history, theme=theme),
            alt=f"the whole run: {', '.join(spans)}",
            dpi=PAGE_DPI,
            both=both,
        )
    ]


def run_figure(history: History, *, theme: Theme = LIGHT) -> Figure:
    """Draw the states as blocks, and above them since when and until when each stack sent orders.

    Raises ValueError for a run that entered no state.
    """
    from matplotlib.figure import Figure

    if not history.transitions:
        raise ValueError(f"run {history.run_id} entered no state")
    figure = Figure(figsize=(PAGE_INCHES, 1.75), facecolor=theme.paper)
    axes = figure.add_axes((0.11, 0.02, 0.87, 0.96))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-2.2, 1.4)
    axis = run_axis(history)
    _draw_states(axes, history, axis, theme)
    for generation, row in _ROWS.items():
        _draw_sender(axes, history, axis, generation, row, theme)
    return figure


def _draw_states(axes: Axes, history: History, axis: RunAxis, theme: Theme) -> None:
    from matplotlib.colors import to_rgba

    small: dict[str, Any] = {"fontsize": 9, "ha": "center", "va": "center"}
    begun = history.records[0]
    axes.text(-0.012, -0.62, "state", fontsize=9, ha="right", va="center", color=theme.ink)
    for number, stretch in enumerate(axis.stretches):
        colour = getattr(theme, _FILL.get(stretch.state, "faint"))
        width = stretch.right - stretch.left
        look = {"facecolor": to_rgba(colour, 0.25), "edgecolor": colour, "linewidth": 0.8}
        axes.barh(-0.62, width, left=stretch.left, height=0.62, **look)
        middle = (stretch.left + stretch.right) / 2
        name = stretch.state.value.replace("_", " ").lower()
        # Beside each other two long names would touch: every other one stands a line lower.
        height = -1.12 if number % 2 == 0 else -1.45
        axes.text(middle, height, name, color=theme.ink, **small)
        took = _took(stretch.last - stretch.first)
        axes.text(middle, -0.62, took, color=theme.ink, **small)
    ends = (axis.stretches[0], axis.stretches[-1])
    for x, mono, align in ((0.0, ends[0].first, "left"), (1.0, ends[1].last, "right")):
        moment = begun.wall + timedelta(seconds=mono - begun.mono)
        axes.text(x, -1.95, f"{moment:%H:%M:%S}Z", fontsize=9, ha=align, color=theme.faint)
    words = "bars: proved start (or first seen alive) to begin of stop; width by root of time"
    axes.text(0.5, -1.95, words, fontsize=9, ha="center", color=theme.faint)


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _draw_sender(
    axes: Axes, history: History, axis: RunAxis, generation: Generation, row: int, theme: Theme
) -> None:
    """A bar from each proved start of whoever sends a stack's orders to the beginning of its stop."""
    height = 0.25 + row * 0.75
    name = "old stack" if generation is Generation.OLD else "new stack"
    axes.text(-0.012, height, name, fontsize=9, ha="right", va="center", color=theme.ink)
    colour, hatch = (theme.before, "") if generation is Generation.OLD else (theme.value, "////")
    look: dict[str, Any] = {"facecolor": theme.paper if hatch else colour, "edgecolor": colour}
    for first, last in _sending(history, generation):
        left, right = axis.at(first), axis.at(last)
        axes.barh(height, right - left, left=left, height=0.46, hatch=hatch, **look)


def _sending(history: History, generation: Generation) -> Iterator[tuple[float, float]]:
    """When the sender of a stack's orders was proved alive, until its stop began or the record ends."""
    sender = sender_of(generation, history.members)
    steps = {
        spec.name: spec.kind
        for spec in STEP_TABLE
        if spec.acts_on and "_".join(spec.acts_on) == sender
    }
    since = _first_seen(history, sender) if generation is Generation.OLD else None
    for record in history.records:
        said = record.payload
        moment = _mono(history, record.wall_utc)
        if isinstance(said, StepStarted) and steps.get(said.step) is StepKind.STOP:
            if since is not None:
                yield since, moment
            since = None
        elif isinstance(said, Triggered) and said.cause == "member_died" and since is not None:
            if generation is Generation.NEW:  # of the two, it is the one that was watched
                yield since, moment
                since = None
        elif isinstance(said, StepEnded) and steps.get(said.step) is StepKind.START:
            since = moment if said.status is StepStatus.OK else since
    if since is not None:
        yield since, _mono(history, history.records[-1].wall_utc)


def _first_seen(history: History, sender: str) -> float | None:
    """When the sender was first seen alive; None where nobody looked, or it was not."""
    for record in history.of_kind(ProbeAnswered):
        said = record.payload
        if said.subject == sender and said.question == "alive" and said.ok:
            return _mono(history, record.wall_utc)
    return None
