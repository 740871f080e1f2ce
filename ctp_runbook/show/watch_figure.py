"""The watch window as a page of panels, one a metric: what was measured, against what, and when."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Verdict
from ctp_runbook.record.history import History
from ctp_runbook.show.blocks import Picture, mark
from ctp_runbook.show.figure_style import LIGHT, PAGE_DPI, PAGE_INCHES, Theme, picture, write
from ctp_runbook.show.time_axis import clock_of
from ctp_runbook.show.watch_panel import (
    SAMPLE_WORDS,
    Panel,
    line_looks,
    strip_looks,
    verdict_colour,
)
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.points import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["watch_figure", "watch_picture"]

_COLUMNS = 2
_Before = Mapping[str, tuple[Point, ...]]
_PANELS = 6
# Title, a line of words, a row of panels, the axis' name and the legends.
_ABOVE_INCHES, _LINE_INCHES, _ROW_INCHES, _BELOW_INCHES = 1.05, 0.19, 1.8, 1.2


def watch_picture(
    history: History,
    judged: WindowJudgement,
    *,
    before: _Before | None = None,
    dpi: int = PAGE_DPI,
    both: bool = False,
) -> Picture:
    """Return ``watch_figure`` as a picture with its meaning in words."""
    return picture(
        lambda theme: watch_figure(history, judged, theme=theme, before=before),
        alt=f"watch window {judged.overall.name}: {judged.sentence}",
        dpi=dpi,
        both=both,
    )


def watch_figure(
    history: History,
    judged: WindowJudgement,
    *,
    theme: Theme = LIGHT,
    before: _Before | None = None,
) -> Figure:
    """Draw a panel a metric of the plan, six at most.

    ``before``: the old engine's points by metric, drawn left of the switch and as a band.

    Raises ValueError when the run has no watch window.
    """
    from matplotlib.figure import Figure

    if history.watch_started is None:
        raise ValueError(f"run {history.run_id} has no watch window to draw")
    clock = clock_of(history, judged, before=before)
    panels = [Panel(metric, history, clock, theme) for metric in judged.metrics.values()]
    if len(panels) > _PANELS:  # what did not pass must be seen
        panels = sorted(panels, key=lambda panel: -panel.metric.verdict.value)[:_PANELS]
    words = _below_title(history, judged)
    above = _ABOVE_INCHES + _LINE_INCHES * len(words)
    height = above + _BELOW_INCHES + _ROW_INCHES * _rows(panels)
    figure = Figure(figsize=(PAGE_INCHES, height), facecolor=theme.paper)
    _draw_panels(figure, panels, above=above)
    _title(figure, history, judged, theme)
    for number, line in enumerate(words):
        inches = 0.3 + _LINE_INCHES * (number + 1.35)
        write(figure, line, inches=inches, fontsize=9, color=theme.ink)
    _legend(figure, panels)
    return figure


def _rows(panels: Sequence[Panel]) -> int:
    return math.ceil(len(panels) / _COLUMNS)


def _draw_panels(figure: Figure, panels: Sequence[Panel], *, above: float) -> None:
    height = figure.get_figheight()
    edges = {"left": 0.085, "right": 0.985, "top": 1 - above / height}
    edges["bottom"] = (_BELOW_INCHES + 0.05) / height
    grid = figure.add_gridspec(_rows(panels), _COLUMNS, hspace=0.68, wspace=0.27, **edges)
    for number, panel in enumerate(panels):
        cell = grid[divmod(number, _COLUMNS)]
        parts = cell.subgridspec(2, 1, height_ratios=(12, 1), hspace=0.06)
        axes = figure.add_subplot(parts[0])
        strip = figure.add_subplot(parts[1], sharex=axes)
        panel.draw(axes)
        panel.draw_strip(strip)
        if number < _COLUMNS:
            panel.label_start(axes)
        if number + _COLUMNS >= len(panels):
            look: dict[str, Any] = {"fontsize": 9, "color": panel.theme.faint, "labelpad": 2}
            strip.set_xlabel(f"{panel.clock.unit} after the watch began", **look)


def _title(figure: Figure, history: History, judged: WindowJudgement, theme: Theme) -> None:
    result, colour = _headline(history, judged, theme)
    bold: dict[str, Any] = {"fontsize": 15, "fontweight": "bold", "color": colour}
    write(figure, f"Watch window  {result}", inches=0.3, **bold)


def _below_title(history: History, judged: WindowJudgement) -> list[str]:
    """What came out, where and when, and what rolls back; each in as many lines as it needs."""
    said = (_in_short(judged, history), _where_and_when(history), _outcome_line(history))
    return [line for text in said for line in _wrapped(text)]


def _where_and_when(history: History) -> str:
    """``single-host (rehearsal) · 30 min from 2026-03-02 00:30:52 UTC · run …``."""
    assert history.watch_started is not None  # asked by the caller
    begun = history.watch_started.wall.astimezone(UTC)
    length = _span_text(history.watch_started.payload.minutes * 60)
    ended = history.watch_ended
    if ended is not None and ended.payload.stopped_early:
        watched = ended.mono - history.watch_started.mono
        length = f"stopped after {_span_text(watched)} of {length},"
    where = " ".join(filter(None, (history.plan.environment, _kind(history))))
    return f"{where} · {length} from {begun:%Y-%m-%d %H:%M:%S} UTC · run {history.run_id}"


def _kind(history: History) -> str:
    if history.is_dry_run:
        return "(dry run)"
    return "(rehearsal)" if history.created.rehearsal else ""


def _headline(history: History, judged: WindowJudgement, theme: Theme) -> tuple[str, str]:
    """The window's result in words, and its colour; one cut short has passed nothing."""
    if history.trigger is not None:
        if history.trigger.payload.cause == "forced_drill":
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
    metrics = judged.metrics
    passed = sum(metric.verdict is Verdict.PASSED for metric in metrics.values())
    words = f"{passed} of {len(metrics)} metrics passed"
    spare = {
        name: metric.margin / metric.limit
        for name, metric in metrics.items()
        if metric.margin is not None and metric.limit > 0
    }
    if not spare or judged.overall is not Verdict.PASSED:
        return words
    nearest = min(spare, key=lambda name: spare[name])
    rule = history.plan.watch.metrics[nearest]
    # Above its limit and passed: not for as long as counts, or by no more than chance may bring.
    brief = (
        ", which proves nothing"
        if rule.is_sequential
        else f", for less than {rule.for_seconds:g} s"
    )
    brief = brief if spare[nearest] < 0 else ""
    return (
        f"{words} · tightest: {rule.label}, worst at {1 - spare[nearest]:.0%} of its limit{brief}"
    )


def _outcome_line(history: History) -> str:
    if history.trigger is not None:
        return history.trigger.payload.sentence
    return f"rollback when {history.plan.trigger_text}"


def _wrapped(text: str, width: int = 92, most: int = 3) -> list[str]:
    lines = textwrap.wrap(text, width)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: width - 1]}…"]


def _legend(figure: Figure, panels: Sequence[Panel]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panel = panels[0]
    theme, looks = panel.theme, line_looks(panel.theme)
    entries: list[Any] = []
    if panel.clock.stopped is not None:
        entries.append(Line2D([], [], label="old engine", **looks["old engine"]))
        entries.append(Patch(facecolor=theme.before, alpha=0.16, label="its 5–95 %"))
    measured = "new engine" if entries else "measured value"
    names = {"value": measured, "limit": "limit", "rollback level": "rollback level"}
    if panel.history.trigger is not None:
        names["rollback triggered"] = "rollback triggered"
    entries += [Line2D([], [], label=name, **looks[line]) for line, name in names.items()]
    covered: list[Any] = [Line2D([], [], linestyle="none", label="Coverage:")]
    is_any_open = any("open_bucket" in shown.metric.points.statuses for shown in panels)
    for name, look in strip_looks(theme).items():
        if is_any_open or name != SAMPLE_WORDS["open_bucket"]:
            covered.append(Patch(label=name, **look))
    _place_legend(figure, entries, theme, inches=0.42, columns=3)
    _place_legend(figure, covered, theme, inches=0.0, columns=4)


def _place_legend(
    figure: Figure, entries: Sequence[Any], theme: Theme, *, inches: float, columns: int
) -> None:
    place: dict[str, Any] = {"loc": "lower left", "frameon": False, "ncols": columns}
    place["bbox_to_anchor"] = (0.002, inches / figure.get_figheight())
    look: dict[str, Any] = {
        "fontsize": 9,
        "labelcolor": theme.faint,
        "handlelength": 1.5,
        "columnspacing": 1.2,
    }
    spaces: dict[str, Any] = {"borderpad": 0.2, "labelspacing": 0.25}
    figure.legend(handles=entries, **place, **look, **spaces)
