"""Many runs drawn: how each ended, how long nobody traded, and what was left to the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Outcome
from ctp_runbook.record.durations import Bound
from ctp_runbook.record.past_runs import PastRun, took
from ctp_runbook.show.blocks import Picture
from ctp_runbook.show.figure_style import LIGHT, Theme, bare_axes, name_rows, picture, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["durations_figure", "durations_pictures", "trend_figure", "trend_pictures"]

# More marks than this would be one line.
_MOST = 240
_DATES = 8
_WIDE = 30.0
_LEAST_PERCENT = -100.0
_FEW = 20
# A year: what a journal may say beyond it is no axis.
_MOST_SECONDS = 366 * 86_400.0
# How a run ended: its mark, the colour's meaning, and the word for it.
_ENDS: dict[str, tuple[str, str, str]] = {
    Outcome.COMPLETED.value: ("o", "good", "completed"),
    Outcome.ROLLED_BACK_IN_BUDGET.value: ("s", "rollback", "rolled back in budget"),
    Outcome.ROLLED_BACK_LATE.value: ("D", "bad", "late"),
    Outcome.ROLLED_BACK_UNVALIDATED.value: ("P", "bad", "not validated"),
    Outcome.ROLLBACK_FAILED.value: ("X", "bad", "rollback failed"),
    Outcome.ABORTED_BEFORE_SWITCH.value: ("v", "before", "ended before the switch"),
    Outcome.REFUSED.value: ("v", "before", "ended before the switch"),
    "": ("$?$", "warn", "not over"),
}


def trend_pictures(
    environment: str, runs: Sequence[PastRun], bounds: Sequence[Bound]
) -> list[Picture]:
    """Return the trend as a picture; none where every run was a dry one."""
    real = _drawn(runs)
    if not real:
        return []
    rollbacks = next((bound.sentence for bound in bounds if bound.what == "rollbacks"), "")
    alt = f"{len(real)} runs of {environment}, oldest first; {rollbacks}"
    return [picture(lambda theme: trend_figure(environment, runs, bounds, theme=theme), alt=alt)]


def _drawn(runs: Sequence[PastRun]) -> list[PastRun]:
    return [run for run in runs if not run.is_dry][-_MOST:]


def trend_figure(
    environment: str, runs: Sequence[PastRun], bounds: Sequence[Bound], *, theme: Theme = LIGHT
) -> Figure:
    """Draw each run in its order: its end by a mark, and with it rollback against the budget, downtime,
    cutover, and the tightest margin to a limit."""
    from matplotlib.figure import Figure

    real = _drawn(runs)
    panels = (
        ("rollbacks", "Rollback, s: from the trigger to the validated old stack", _rollback),
        ("downtimes", "Downtime, s: nothing that sends orders runs", _downtime),
        ("cutovers", "Cutover, s: from the first stop to the watch", _cutover),
        (
            "",
            "Tightest margin, % of its limit; what is over it by more stands at the edge",
            _margin,
        ),
    )
    height = 2.35 + 1.75 * len(panels)
    figure = Figure(figsize=(11, height), facecolor=theme.paper)
    place = {"left": 0.07, "right": 0.98, "top": 1 - 1.05 / height, "bottom": 0.95 / height}
    ratios = {"height_ratios": [0.25, *[1.0] * len(panels)]}
    grid = figure.add_gridspec(len(panels) + 1, 1, hspace=0.5, **place, **ratios)
    shared = figure.add_subplot(grid[0, 0])
    _panel(shared, "How each ended", real, lambda run: 0.0, theme)
    shared.set_yticks([])
    shared.tick_params(labelbottom=False)
    by_name = {bound.what: bound for bound in bounds}
    for row, (what, title, value) in enumerate(panels, start=1):
        axes = figure.add_subplot(grid[row, 0], sharex=shared)
        _panel(axes, title, real, value, theme)
        if what == "rollbacks":
            _budgets(axes, real, theme)
        if what:
            _bound(axes, by_name.get(what), theme)
        else:
            axes.axhline(0, color=theme.limit, linewidth=1.3)
        _scale(axes, real, value, is_share=not what)
        axes.tick_params(labelbottom=row == len(panels))
    _dates(figure.axes[-1], real, theme)
    _head(figure, environment, runs, real, theme)
    _legend(figure, real, theme)
    return figure


def _end_of(run: PastRun) -> str:
    return run.outcome if run.outcome in _ENDS else ""


_Value = Callable[[PastRun], "float | None"]


def _shown(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, _MOST_SECONDS)


def _rollback(run: PastRun) -> float | None:
    return _shown(run.rollback_seconds)


def _downtime(run: PastRun) -> float | None:
    return _shown(run.downtime_seconds or None)


def _cutover(run: PastRun) -> float | None:
    return _shown(run.cutover_seconds)


def _margin(run: PastRun) -> float | None:
    # A latency of a thousand times its limit is over it, and is to hide no margin of another run.
    percent = run.tightest_margin_percent
    return None if percent is None else max(percent, _LEAST_PERCENT)


def _panel(axes: Axes, title: str, runs: Sequence[PastRun], value: _Value, theme: Theme) -> None:
    bare_axes(axes, theme)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    look: dict[str, Any] = {"loc": "left", "fontsize": 9.5, "color": theme.ink, "pad": 4}
    axes.set_title(title, **look)
    known = [(at, seconds) for at, run in enumerate(runs) if (seconds := value(run)) is not None]
    if not known:
        note: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": theme.faint}
        axes.text(0.5, 0.5, "no run has it", transform=axes.transAxes, **note)
    for end, (mark, meaning, _) in _ENDS.items():
        own = [(at, seconds) for at, seconds in known if _end_of(runs[at]) == end]
        if own:
            dots: dict[str, Any] = {"linestyle": "none", "markersize": 5, "marker": mark}
            axes.plot(*zip(*own, strict=True), color=getattr(theme, meaning), **dots)
    axes.set_xlim(-0.8, max(len(runs), 2) - 0.2)


def _budgets(axes: Axes, runs: Sequence[PastRun], theme: Theme) -> None:
    budgets = [_shown(run.rollback_budget_seconds) or 0.0 for run in runs]
    line: dict[str, Any] = {"color": theme.limit, "linewidth": 1.3, "drawstyle": "steps-mid"}
    axes.plot(range(len(runs)), budgets, **line)


def _bound(axes: Axes, bound: Bound | None, theme: Theme) -> None:
    """A line where enough runs prove it; dots where so few prove less than was asked for."""
    if bound is None or bound.seconds is None or bound.share is None:
        return
    style = "--" if bound.is_proved else ":"
    axes.axhline(
        min(bound.seconds, _MOST_SECONDS), color=theme.value, linewidth=1.3, linestyle=style
    )
    said = f"{int(bound.share * 100)} % within {bound.seconds:.4g} s"
    lacking = "" if bound.is_proved else f"; {bound.runs} of {bound.needed} runs"
    look: dict[str, Any] = {"loc": "right", "fontsize": 8, "color": theme.value, "pad": 4}
    axes.set_title(f"{bound.confidence * 100:g} % confident: {said}{lacking}", **look)


def _scale(axes: Axes, runs: Sequence[PastRun], value: _Value, *, is_share: bool) -> None:
    known = [seconds for run in runs if (seconds := value(run)) is not None]
    if is_share:
        axes.set_ylim(min([0.0, *known]) - 12, 112)
        return
    low, high = axes.get_ylim()
    positive = [level for level in known if level > 0]
    if positive and high / min(positive) > _WIDE:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) * 0.7, high * 1.4)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.set_ylim(0, high + 0.08 * (high - min(low, 0.0)) or 1.0)


def _dates(axes: Axes, runs: Sequence[PastRun], theme: Theme) -> None:
    """The moments of some runs, for their order is the axis: months may lie between two."""
    apart = max(1, -(-len(runs) // _DATES))
    at = range(0, len(runs), apart)
    axes.set_xticks([*at], [runs[each].started_utc[5:16].replace("T", " ") for each in at])
    look: dict[str, Any] = {"fontsize": 8, "color": theme.faint, "labelpad": 3}
    axes.set_xlabel(
        "runs in their order, with the month, day and time in UTC that they began", **look
    )


def _head(
    figure: Figure,
    environment: str,
    runs: Sequence[PastRun],
    drawn: Sequence[PastRun],
    theme: Theme,
) -> None:
    bold: dict[str, Any] = {"fontsize": 15, "fontweight": "bold"}
    write(figure, f"Runs of {environment}"[:80], inches=0.3, color=theme.ink, **bold)
    real = sum(not run.is_dry for run in runs)
    last = f", the last {len(drawn)} are drawn" if len(drawn) < real else ""
    said = f"{real} runs{last}, from {drawn[0].started_utc[:10]} to {drawn[-1].started_utc[:10]}"
    write(figure, said, inches=0.58, fontsize=8.5, color=theme.faint)


def _legend(figure: Figure, runs: Sequence[PastRun], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    seen = {_ENDS[_end_of(run)] for run in runs}
    dots: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    entries = [
        Line2D([], [], color=getattr(theme, meaning), marker=mark, label=word, **dots)
        for mark, meaning, word in dict.fromkeys(_ENDS.values())
        if (mark, meaning, word) in seen
    ]
    entries.append(Line2D([], [], color=theme.limit, label="budget, limit"))
    entries.append(Line2D([], [], color=theme.value, linestyle="--", label="bound"))
    look: dict[str, Any] = {"fontsize": 7.5, "labelcolor": theme.faint, "columnspacing": 1.0}
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.002, 0.0), "frameon": False}
    figure.legend(handles=entries, ncols=len(entries), handlelength=1.6, **place, **look)


# --- steps ------------------------------------------------------------------------


def durations_pictures(runs: Sequence[PastRun], bounds: Sequence[Bound]) -> list[Picture]:
    """Return how long each step took as a picture; none where none was run."""
    steps = _steps(runs)
    if not steps:
        return []
    alt = f"how long each of {len(steps)} steps took, run by run, with its median and bound"
    return [picture(lambda theme: durations_figure(runs, bounds, theme=theme), alt=alt)]


def _steps(runs: Sequence[PastRun]) -> dict[str, list[float]]:
    names = {step.name for run in runs for step in run.steps}
    return {
        name: [min(each, _MOST_SECONDS) for each in seconds]
        for name, seconds, _ in took(runs)
        if name in names and seconds
    }


def durations_figure(
    runs: Sequence[PastRun], bounds: Sequence[Bound], *, theme: Theme = LIGHT
) -> Figure:
    """Draw a row a step: a mark for each run, its median, and its bound."""
    from matplotlib.figure import Figure

    steps, by_name = _steps(runs), {bound.what: bound for bound in bounds}
    height = 1.55 + 0.3 * len(steps)
    figure = Figure(figsize=(11, height), facecolor=theme.paper)
    axes = figure.add_axes((0.24, 0.85 / height, 0.6, 0.3 * len(steps) / height))
    bare_axes(axes, theme)
    axes.grid(axis="x", color=theme.grid, linewidth=0.7)
    for row, (name, seconds) in enumerate(steps.items()):
        _step_row(axes, row, seconds, by_name[name], theme)
    name_rows(axes, [*steps], theme, labelsize=9)
    every = [each for seconds in steps.values() for each in seconds if each > 0]
    if every and max(every) / min(every) > _WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    look: dict[str, Any] = {"fontsize": 8, "color": theme.faint, "labelpad": 3}
    axes.set_xlabel("seconds of steps that ended well", **look)
    write(
        figure,
        "How long each step took",
        inches=0.3,
        color=theme.ink,
        fontsize=11,
        fontweight="bold",
    )
    _steps_legend(figure, theme)
    return figure


def _step_row(axes: Axes, row: int, seconds: Sequence[float], bound: Bound, theme: Theme) -> None:
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    look: dict[str, Any] = {
        "color": theme.value,
        "markeredgewidth": 0,
        "alpha": 0.8 if len(seconds) < _FEW else 0.35,
    }
    axes.plot(seconds, [row] * len(seconds), **dots, **look)
    ticks: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 13}
    axes.plot(
        [_shown(bound.median_seconds) or 0.0], [row], color=theme.ink, markeredgewidth=2, **ticks
    )
    note = f"{bound.runs} runs"
    if bound.is_proved and bound.seconds is not None:
        axes.plot(
            [min(bound.seconds, _MOST_SECONDS)],
            [row],
            color=theme.limit,
            markeredgewidth=2,
            **ticks,
        )
        note = f"≤ {bound.seconds:.3g} s of {note}"
    note += f", {bound.failed} failed" if bound.failed else ""
    words: dict[str, Any] = {"va": "center", "fontsize": 8, "color": theme.faint}
    axes.text(1.015, row, note, transform=axes.get_yaxis_transform(), **words)


def _steps_legend(figure: Figure, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    dots: dict[str, Any] = {"linestyle": "none"}
    entries = [
        Line2D([], [], color=theme.value, marker="o", markersize=4, label="a run", **dots),
        Line2D([], [], color=theme.ink, marker="|", markersize=10, label="median", **dots),
        Line2D(
            [],
            [],
            color=theme.limit,
            marker="|",
            markersize=10,
            label="bound for 95 % of them",
            **dots,
        ),
    ]
    look: dict[str, Any] = {"fontsize": 7.5, "labelcolor": theme.faint, "columnspacing": 1.0}
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.002, 0.0), "frameon": False}
    figure.legend(handles=entries, ncols=len(entries), handlelength=1.6, **place, **look)
