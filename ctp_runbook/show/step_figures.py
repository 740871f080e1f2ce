"""Steps on a time axis: the switch with its downtime, the rollback with its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Generation, Outcome, Phase, StepKind, StepStatus
from ctp_runbook.plan.step_table import order_steps, sender_of, steps_of
from ctp_runbook.record.evidence import rollback_seconds, trading_downtime_seconds
from ctp_runbook.record.history import History, StepHistory
from ctp_runbook.record.kinds import StepEnded
from ctp_runbook.show.blocks import Picture, mark
from ctp_runbook.show.figure_style import (
    LIGHT,
    PAGE_DPI,
    PAGE_INCHES,
    Theme,
    bare_axes,
    label,
    name_rows,
    picture,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pictures_of", "rollback_figure", "switch_figure"]

_SHORTEST = 0.004  # of the axis: a step this short is still seen


def pictures_of(history: History, phase: Phase, *, both: bool = False) -> list[Picture]:
    """Return the steps of a switch or a rollback as a picture; none when no step was started."""
    if not _started(history, phase):
        return []
    draw, words = {
        Phase.SWITCH: (switch_figure, _downtime),
        Phase.ROLLBACK: (rollback_figure, _spent),
    }[phase]
    alt = f"steps of the {phase}; {words(history)}"
    return [picture(lambda theme: draw(history, theme=theme), alt=alt, dpi=PAGE_DPI, both=both)]


def switch_figure(history: History, *, theme: Theme = LIGHT) -> Figure:
    """Draw the switch's steps from the first stop on; shaded while no runner traded.

    Raises ValueError when no step of the switch was started.
    """
    steps = _started(history, Phase.SWITCH)
    if not steps:
        raise ValueError(f"run {history.run_id} started no step of the switch")
    figure, axes = _canvas(len(steps), theme)
    down = _downtime_span(history) or 0.0
    if down:
        axes.axvspan(0, down, facecolor=theme.shade, linewidth=0)
    _draw_bars(axes, steps, theme, zero=steps[0].started_mono_ns, shaded=down)
    write(figure, _downtime(history), inches=0.22, fontsize=9.5, color=theme.ink)
    axes.set_xlabel(f"s after {_old_sender(history)}'s stop began", fontsize=9, color=theme.faint)
    return figure


def rollback_figure(history: History, *, theme: Theme = LIGHT) -> Figure:
    """Draw the rollback's budget as a bar from the triggering sample, and below it each step.

    Raises ValueError when no step of a rollback was started.
    """
    begun, steps = history.rollback_started, _started(history, Phase.ROLLBACK)
    if begun is None or not steps:
        raise ValueError(f"run {history.run_id} was not rolled back, or started no step of it")
    figure, axes = _canvas(len(steps), theme, above=0.55)
    height = figure.get_figheight()
    gauge = figure.add_axes((0.33, 1 - 0.82 / height, 0.47, 0.2 / height))
    _draw_budget(gauge, rollback_seconds(history), begun.payload.budget_seconds, theme)
    _draw_bars(axes, steps, theme, zero=begun.payload.started_mono_ns)
    axes.set_xlabel("s after the triggering sample", fontsize=9, color=theme.faint)
    good = history.outcome is Outcome.ROLLED_BACK_IN_BUDGET
    bold: dict[str, Any] = {"fontweight": "bold", "color": theme.good if good else theme.bad}
    write(figure, _spent(history), inches=0.25, fontsize=10, **bold)
    return figure


def _started(history: History, phase: Phase) -> list[StepHistory]:
    # In the order of the journal, which is the plan's: a step that was tried again keeps its place.
    steps = history.steps.values()
    return [step for step in steps if step.phase == phase and step.started_mono_ns]


def _canvas(rows: int, theme: Theme, *, above: float = 0.0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    height = 0.85 + above + 0.21 * rows
    figure = Figure(figsize=(PAGE_INCHES, height), facecolor=theme.paper)
    axes = figure.add_axes((0.33, 0.5 / height, 0.47, 0.21 * rows / height))
    bare_axes(axes, theme)
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    return figure, axes


def _draw_bars(
    axes: Axes, steps: Sequence[StepHistory], theme: Theme, *, zero: int, shaded: float = 0.0
) -> None:
    """A bar a step, from ``zero`` on, on an axis that has room for all and what is ``shaded``."""
    firsts = [(step.started_mono_ns - zero) / 1e9 for step in steps]
    seconds = [step.duration_ms / 1000 for step in steps]
    span = max(*map(sum, zip(firsts, seconds, strict=True)), shaded)
    for row, (step, first, took) in enumerate(zip(steps, firsts, seconds, strict=True)):
        length = max(took, _SHORTEST * span)
        axes.barh(row, length, left=first, height=0.56, **_look(step.status, theme))
        text = f"{took:.1f} s  {mark(step.status)}"
        look = {"va": "center", "fontsize": 9, "color": theme.ink}
        label(axes, text, (first + length, row), shift=(5, 0), **look)
    name_rows(axes, [step.name for step in steps], theme, labelsize=9)
    axes.set_xlim(0, span * 1.02 or 1.0)


def _look(status: StepStatus, theme: Theme) -> dict[str, Any]:
    if status in (StepStatus.OK, StepStatus.SIMULATED_OK):
        return {"color": theme.value}
    colour = theme.warn if status is StepStatus.UNKNOWN else theme.bad
    return {"facecolor": theme.paper, "edgecolor": colour, "hatch": "////", "linewidth": 1.2}


def _draw_budget(axes: Axes, spent: float, budget: float, theme: Theme) -> None:
    axes.set_facecolor(theme.shade)
    axes.barh(0, spent, color=theme.good if spent <= budget else theme.bad, height=1)
    axes.axvline(budget, color=theme.limit, linestyle=(0, (6, 3)), linewidth=1.4)
    look = {"ha": "right", "fontsize": 9, "color": theme.limit}
    label(axes, f"budget {budget:g} s", (budget, 0.5), shift=(0, 2), **look)
    axes.set_xlim(0, max(spent, budget) * 1.001)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["spent"])
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _downtime_span(history: History) -> float | None:
    """Seconds from the first stop until somebody sent orders again; None while nobody does."""
    kinds = order_steps(history.members)
    stop = next(step for step in steps_of(Phase.SWITCH) if kinds.get(step) is StepKind.STOP)
    begun = history.step(stop).started_mono_ns
    for record in history.of_kind(StepEnded):
        ended = record.payload
        if kinds.get(ended.step) is StepKind.START and ended.status is StepStatus.OK:
            return (record.mono_ns - begun) / 1e9
    return None


def _old_sender(history: History) -> str:
    """Who sent the old generation's orders, in words."""
    sender = sender_of(Generation.OLD, history.members)
    return "the old runner" if sender.endswith("runner") else "the old engine"


def _downtime(history: History) -> str:
    """How long nobody traded during the switch, and in the whole run where that is more."""
    span, total = _downtime_span(history), trading_downtime_seconds(history)
    members = history.members
    runs = any(name.endswith("runner") for name in members)
    nobody = "no runner" if runs else "no engine"
    if span is None:
        return f"{nobody} on a verified session since {_old_sender(history)}'s stop (shaded)"
    words = f"{nobody} on a verified session for {span:.1f} s (shaded)"
    return words if total <= span + 0.05 else f"{words}; {total:.1f} s with the rollback"


def _spent(history: History) -> str:
    begun = history.rollback_started
    if begun is None:
        return "no rollback"
    seconds, budget = rollback_seconds(history), begun.payload.budget_seconds
    if history.closed is None:
        return f"rolling back; budget {budget:g} s from the triggering sample"
    if history.outcome is Outcome.ROLLBACK_FAILED:
        return f"ROLLBACK FAILED: trading is not restored (budget {budget:g} s)"
    left = f"{budget - seconds:.1f} s to spare" if seconds <= budget else "LATE"
    return f"trading restored {seconds:.1f} s after the trigger; budget {budget:g} s, {left}"
