"""The watch window as a page of panels, one a metric: what was measured, against what, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Verdict
from ctp_runbook.record.history import History
from ctp_runbook.show.blocks import Picture, mark
from ctp_runbook.show.figure_style import Theme, picture, theme_of
from ctp_runbook.show.time_axis import Clock, clock_of
from ctp_runbook.show.watch_panel import (
    SAMPLE_WORDS,
    draw_panel,
    draw_strip,
    label_start,
    rule_of,
    strip_looks,
    verdict_colour,
)
from ctp_runbook.watch.judge import MetricJudgement, WindowJudgement
from ctp_runbook.watch.measure import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["watch_figure", "watch_picture"]

_COLUMNS = 2
_Before = Mapping[str, tuple[Point, ...]]
_PANELS = 6


def watch_picture(
    history: History,
    judged: WindowJudgement,
    *,
    before: _Before | None = None,
    dpi: int = 110,
    both: bool = False,
) -> Picture:
    """``watch_figure`` as a picture with its meaning in words."""
    return picture(
        lambda theme: watch_figure(history, judged, theme=theme.name, before=before),
        alt=f"watch window {judged.overall.name}: {judged.sentence}",
        dpi=dpi,
        both=both,
    )


def watch_figure(
    history: History,
    judged: WindowJudgement,
    *,
    theme: str = "light",
    before: _Before | None = None,
) -> Figure:
    """One panel a metric of the plan, six at most; ``theme`` is light or dark.

    ``before``: the old engine's points by metric, drawn left of the switch and as a band.

    Raises ValueError when the run has no watch window.
    """
    from matplotlib.figure import Figure

    if history.watch_started is None:
        raise ValueError(f"run {history.run_id} has no watch window to draw")
    colours = theme_of(theme)
    shown = list(judged.metrics.values())
    if len(shown) > _PANELS:  # what did not pass must be seen
        shown = sorted(shown, key=lambda one: -one.verdict.value)[:_PANELS]
    rows = math.ceil(len(shown) / _COLUMNS)
    height = 1.95 + 2.2 * rows
    figure = Figure(figsize=(11, height), facecolor=colours.paper)
    grid = figure.add_gridspec(
        rows,
        _COLUMNS,
        left=0.065,
        right=0.985,
        top=1 - 1.42 / height,
        bottom=0.82 / height,
        hspace=0.52,
        wspace=0.16,
    )
    clock = clock_of(history, judged, before=before)
    for number, one in enumerate(shown):
        cell = grid[number // _COLUMNS, number % _COLUMNS].subgridspec(
            2, 1, height_ratios=(12, 1), hspace=0.06
        )
        panel = figure.add_subplot(cell[0])
        strip = figure.add_subplot(cell[1], sharex=panel)
        draw_panel(panel, one, history, clock, colours)
        draw_strip(strip, one, history, clock, colours)
        if number < _COLUMNS:
            label_start(panel, history, clock, colours)
        if number + _COLUMNS >= len(shown):
            strip.set_xlabel(
                f"{clock.unit} after the watch began", fontsize=8, color=colours.faint, labelpad=2
            )
    _title(figure, history, judged, colours, height=height)
    _legend(figure, history, clock, colours, is_any_open=any(map(_has_open, shown)))
    return figure


def _title(
    figure: Figure, history: History, judged: WindowJudgement, theme: Theme, *, height: float
) -> None:
    assert history.watch_started is not None
    begun = history.watch_started.wall.astimezone(UTC)
    minutes = float(history.watch_started.payload["minutes"])
    length = _span_text(minutes * 60)
    ended = history.watch_ended
    if ended is not None and ended.payload.get("stopped_early"):
        watched = (ended.mono_ns - history.watch_started.mono_ns) / 1e9
        length = f"stopped after {_span_text(watched)} of {length},"
    kind = (
        "dry run"
        if history.is_dry_run
        else ("rehearsal" if history.created.get("rehearsal") else "")
    )
    where = f"{history.plan['environment']}{f' ({kind})' if kind else ''}"
    said, colour = _headline(history, judged, theme)
    figure.text(
        *(0.012, 1 - 0.3 / height),
        f"Watch window  {said}",
        fontsize=15,
        fontweight="bold",
        color=colour,
        va="center",
    )
    figure.text(
        *(0.985, 1 - 0.3 / height),
        _in_short(judged, history),
        fontsize=10,
        color=theme.ink,
        va="center",
        ha="right",
    )
    lines = (
        f"{where} · {length} from {begun:%Y-%m-%d %H:%M:%S} UTC · run {history.run_id}",
        _outcome_line(history),
    )
    for number, line in enumerate(lines):
        figure.text(
            *(0.012, 1 - (0.58 + 0.2 * number) / height),
            _shortened(line),
            fontsize=8.5,
            color=theme.faint if number == 0 else theme.ink,
            va="center",
        )


def _headline(history: History, judged: WindowJudgement, theme: Theme) -> tuple[str, str]:
    """The window's result in words, and its colour; one cut short has passed nothing."""
    if history.trigger is not None:
        if history.trigger.payload["cause"] == "forced_drill":
            return "cut short by the drill", theme.ink
        return "✗ ROLLBACK TRIGGERED", theme.bad
    still = "" if history.watch_ended or history.closed else " so far"
    return f"{mark(judged.overall.name)}{still}", verdict_colour(judged.overall, theme)


def _span_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds <= 240 else f"{seconds / 60:.3g} min"


def _in_short(judged: WindowJudgement, history: History) -> str:
    """How many passed, and which came nearest to its limit."""
    if history.trigger is not None:
        return ""
    passed = sum(one.verdict is Verdict.PASSED for one in judged.metrics.values())
    told = f"{passed} of {len(judged.metrics)} metrics passed"
    spare = {
        name: one.margin / one.limit
        for name, one in judged.metrics.items()
        if one.margin is not None and one.limit > 0
    }
    if not spare or judged.overall is not Verdict.PASSED:
        return told
    nearest = min(spare, key=lambda name: spare[name])
    label = rule_of(history, nearest)["label"]
    return f"{told} · tightest: {label}, worst at {1 - spare[nearest]:.0%} of its limit"


def _outcome_line(history: History) -> str:
    if history.trigger is not None:
        return str(history.trigger.payload["sentence"])
    return f"rollback when {history.plan['trigger_text']}"


def _shortened(text: str, width: int = 150) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _has_open(one: MetricJudgement) -> bool:
    return "open_bucket" in one.points.statuses


def _legend(
    figure: Figure, history: History, clock: Clock, theme: Theme, *, is_any_open: bool
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Line2D(
            [],
            [],
            color=theme.value,
            linewidth=1.5,
            label="new engine" if clock.stopped is not None else "measured value",
        ),
        Line2D([], [], color=theme.limit, linestyle=(0, (6, 3)), linewidth=1.2, label="limit"),
        Line2D(
            *([], []),
            color=theme.rollback,
            linestyle=(0, (6, 2, 1, 2)),
            linewidth=1.2,
            label="rollback level",
        ),
    ]
    if clock.stopped is not None:
        entries[:0] = [
            Line2D([], [], color=theme.before, linewidth=1.5, label="old engine"),
            Patch(facecolor=theme.before, alpha=0.16, label="its 5–95 %"),
        ]
    if history.trigger is not None:
        entries.append(Line2D([], [], color=theme.bad, linewidth=1, label="rollback triggered"))
    looks = strip_looks(theme)
    entries.append(Line2D([], [], linestyle="none", label="Coverage:"))
    entries += [
        Patch(
            facecolor=look["facecolors"],
            edgecolor=look.get("edgecolors"),
            hatch=look.get("hatch"),
            alpha=look.get("alpha"),
            label=name,
        )
        for name, look in looks.items()
        if is_any_open or name != SAMPLE_WORDS["open_bucket"]
    ]
    figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(0.002, 0.0),
        ncols=len(entries),
        frameon=False,
        fontsize=7.5,
        labelcolor=theme.faint,
        handlelength=1.3,
        columnspacing=0.75,
    )
