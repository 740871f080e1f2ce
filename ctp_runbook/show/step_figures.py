"""Steps on a time axis: the switch with its downtime, the rollback with its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Outcome, StepStatus
from ctp_runbook.record.evidence import rollback_seconds, trading_downtime_seconds
from ctp_runbook.record.history import History, StepHistory
from ctp_runbook.show.blocks import Picture, mark
from ctp_runbook.show.figure_style import Theme, bare_axes, picture, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pictures_of", "rollback_figure", "switch_figure"]

_SHORTEST = 0.004  # of the axis: a step this short is still seen


@dataclass(frozen=True)
class _Bar:
    """One step on the axis; seconds after the axis' zero."""

    step: StepHistory
    first: float
    seconds: float


def pictures_of(history: History, phase: str, *, both: bool = False) -> list[Picture]:
    """The steps of ``switch`` or ``rollback`` as a picture; none when no step was started."""
    names = [step["name"] for step in history.plan["steps"] if step["phase"] == phase]
    if not any(history.step(name).started_mono_ns for name in names):
        return []
    draw, words = {
        "switch": (switch_figure, _downtime),
        "rollback": (rollback_figure, _spent),
    }[phase]
    alt = f"steps of the {phase}; {words(history)}"
    return [picture(lambda theme: draw(history, theme=theme.name), alt=alt, both=both)]


def switch_figure(history: History, *, theme: str = "light") -> Figure:
    """The switch's steps from the first stop on; shaded while no runner traded.

    Raises ValueError when no step of the switch was started.
    """
    bars = _bars(history, "switch")
    colours = theme_of(theme)
    figure, axes = _canvas(len(bars), colours)
    down = _downtime_span(history, zero=bars[0].step.started_mono_ns)
    if down is not None:
        axes.axvspan(0, down, facecolor=colours.shade, linewidth=0)
    _draw_bars(axes, bars, colours, span=max(_end(bars), down or 0.0))
    axes.set_title(_downtime(history), loc="left", fontsize=10, color=colours.ink, pad=8)
    axes.set_xlabel("s after the old runner's stop began", fontsize=8, color=colours.faint)
    return figure


def rollback_figure(history: History, *, theme: str = "light") -> Figure:
    """The rollback's budget as a bar from the triggering sample, and below it each step.

    Raises ValueError when no step of a rollback was started.
    """
    begun = history.rollback_started
    if begun is None:
        raise ValueError(f"run {history.run_id} was not rolled back")
    bars = _bars(history, "rollback", zero=int(begun.payload["started_mono_ns"]))
    colours = theme_of(theme)
    budget = float(begun.payload["budget_seconds"])
    figure, axes = _canvas(len(bars), colours, above=0.6)
    height = figure.get_figheight()
    gauge = figure.add_axes((0.24, 1 - 0.82 / height, 0.66, 0.2 / height))
    _draw_budget(gauge, rollback_seconds(history), budget, colours)
    _draw_bars(axes, bars, colours, span=_end(bars))
    axes.set_xlabel("s after the triggering sample", fontsize=8, color=colours.faint)
    figure.text(
        *(0.012, 1 - 0.25 / height),
        _spent(history),
        fontsize=11,
        fontweight="bold",
        color=colours.good if history.outcome is Outcome.ROLLED_BACK_IN_BUDGET else colours.bad,
        va="center",
    )
    return figure


def _bars(history: History, phase: str, *, zero: int | None = None) -> list[_Bar]:
    names = [step["name"] for step in history.plan["steps"] if step["phase"] == phase]
    steps = [history.step(name) for name in names if history.step(name).started_mono_ns]
    if not steps:
        raise ValueError(f"run {history.run_id} started no step of the {phase}")
    begun = steps[0].started_mono_ns if zero is None else zero
    return [
        _Bar(step, (step.started_mono_ns - begun) / 1e9, step.duration_ms / 1000) for step in steps
    ]


def _end(bars: Sequence[_Bar]) -> float:
    return max(bar.first + bar.seconds for bar in bars)


def _canvas(rows: int, theme: Theme, *, above: float = 0.0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    height = 1.0 + above + 0.32 * rows
    figure = Figure(figsize=(11, height), facecolor=theme.paper)
    axes = figure.add_axes((0.24, 0.5 / height, 0.66, 0.32 * rows / height))
    bare_axes(axes, theme)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    return figure, axes


def _draw_bars(axes: Axes, bars: Sequence[_Bar], theme: Theme, *, span: float) -> None:
    for row, bar in enumerate(bars):
        length = max(bar.seconds, _SHORTEST * span)
        axes.barh(row, length, left=bar.first, height=0.56, **_look(bar.step.status, theme))
        axes.annotate(
            f"{bar.seconds:.1f} s  {mark(bar.step.status.value)}",
            (bar.first + length, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=theme.ink,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(bars)), [bar.step.name for bar in bars])
    axes.tick_params(axis="y", colors=theme.ink, labelsize=9, length=0)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, span * 1.02 or 1.0)


def _look(status: StepStatus, theme: Theme) -> dict[str, Any]:
    if status in (StepStatus.OK, StepStatus.SIMULATED_OK):
        return {"color": theme.value}
    colour = theme.warn if status is StepStatus.UNKNOWN else theme.bad
    return {"facecolor": theme.paper, "edgecolor": colour, "hatch": "////", "linewidth": 1.2}


def _draw_budget(axes: Axes, spent: float, budget: float, theme: Theme) -> None:
    axes.set_facecolor(theme.shade)
    colour = theme.good if spent <= budget else theme.bad
    axes.barh(0, spent, color=colour, height=1)
    axes.axvline(budget, color=theme.limit, linestyle=(0, (6, 3)), linewidth=1.4)
    axes.annotate(
        f"budget {budget:g} s",
        (budget, 0.5),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=theme.limit,
        annotation_clip=False,
    )
    axes.set_xlim(0, max(spent, budget) * 1.001)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["spent"])
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _downtime_span(history: History, *, zero: int) -> float | None:
    """Seconds from the first stop until a runner traded again; None while none does."""
    for record in history.records:
        starts = ("start_new_strategy_runner", "start_previous_strategy_runner")
        ended = record.kind == "step_ended" and record.payload["step"] in starts
        if ended and record.payload["status"] == StepStatus.OK:
            return (record.mono_ns - zero) / 1e9
    return None


def _downtime(history: History) -> str:
    """How long nobody traded during the switch, and in the whole run where that is more."""
    begun = history.step("stop_old_strategy_runner").started_mono_ns
    total = trading_downtime_seconds(history)
    span = _downtime_span(history, zero=begun)
    if span is None:
        return "no runner on a verified session since the old runner's stop (shaded)"
    told = f"no runner on a verified session for {span:.1f} s (shaded)"
    return told if total <= span + 0.05 else f"{told}; {total:.1f} s with the rollback"


def _spent(history: History) -> str:
    begun = history.rollback_started
    if begun is None:
        return "no rollback"
    seconds, budget = rollback_seconds(history), float(begun.payload["budget_seconds"])
    if history.closed is None:
        return f"rolling back; budget {budget:g} s from the triggering sample"
    if history.outcome is Outcome.ROLLBACK_FAILED:
        return f"ROLLBACK FAILED: trading is not restored (budget {budget:g} s)"
    left = f"{budget - seconds:.1f} s to spare" if seconds <= budget else "LATE"
    return f"trading restored {seconds:.1f} s after the trigger; budget {budget:g} s, {left}"
