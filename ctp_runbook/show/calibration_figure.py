"""A calibration drawn: each metric's values against its limits, their spread, and which windows alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ctp_runbook.record.calibration import Calibration, MetricCalibration, lasting
from ctp_runbook.show.blocks import Picture
from ctp_runbook.show.figure_style import LIGHT, Theme, bare_axes, name_rows, picture, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration_figure", "calibration_picture"]

_BINS = 40
# A metric that ranges over more than this needs a logarithm to be seen.
_WIDE = 30.0
# How high a row is, in inches; what never moved needs less.
_TALL, _FLAT = 1.55, 0.85


def calibration_picture(
    calibration: Calibration, points: pd.DataFrame, windows: pd.DataFrame, *, both: bool = False
) -> Picture:
    """Return ``calibration_figure`` as a picture with its meaning in words."""
    return picture(
        lambda theme: calibration_figure(calibration, points, windows, theme=theme),
        alt=calibration.sentence,
        both=both,
    )


def calibration_figure(
    calibration: Calibration, points: pd.DataFrame, windows: pd.DataFrame, *, theme: Theme = LIGHT
) -> Figure:
    """Draw a row a metric: its values over time, and how they are spread, both against the limit that
    there is and the one suggested; below, each metric's alarms by the start of the window."""
    from matplotlib.figure import Figure

    metrics = calibration.metrics
    strip_inches = 0.5 + 0.24 * (0 if calibration.piece_seconds else len(metrics) + 1)
    inches = [_TALL if _varies(metric) else _FLAT for metric in metrics]
    height = 1.75 + sum(inches) + strip_inches
    figure = Figure(figsize=(11, height), facecolor=theme.paper)
    ratios = [*inches, strip_inches]
    ratio: dict[str, Any] = {"width_ratios": (5, 1), "height_ratios": ratios}
    grid = figure.add_gridspec(
        len(metrics) + 1,
        2,
        left=0.17,
        right=0.985,
        top=1 - 1.2 / height,
        bottom=0.75 / height,
        hspace=0.42,
        wspace=0.03,
        **ratio,
    )
    shared: Axes | None = None
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(grid[number, 0], sharex=shared)
        shared = shared or axes
        spread = figure.add_subplot(grid[number, 1], sharey=axes)
        own = points[points["metric"] == metric.name].dropna(subset=["value_in_unit"])
        _draw_values(axes, metric, calibration, own, theme)
        _draw_spread(spread, metric, calibration, own, theme)
    strip = figure.add_subplot(grid[len(metrics), 0], sharex=shared)
    _draw_alarms(strip, calibration, windows, theme)
    _title(figure, calibration, theme)
    _legend(figure, theme, has_windows=not calibration.piece_seconds)
    return figure


def _varies(metric: MetricCalibration) -> bool:
    return metric.quantiles.get("lowest") != metric.quantiles.get("highest")


def _draw_values(
    axes: Axes,
    metric: MetricCalibration,
    calibration: Calibration,
    own: pd.DataFrame,
    theme: Theme,
) -> None:
    rule = calibration.watch.metrics[metric.name]
    bare_axes(axes, theme)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    unit = f", {rule.unit}" if rule.unit in ("ms", "s") else ""
    title: dict[str, Any] = {"loc": "left", "fontsize": 9.5, "color": theme.ink, "pad": 4}
    axes.set_title(f"{rule.label}{unit}", **title)
    alarm_title: dict[str, Any] = {"loc": "right", "fontsize": 8, "color": theme.faint, "pad": 4}
    axes.locator_params(axis="y", nbins=4 if _varies(metric) else 2)
    axes.set_title(f"at the limit {metric.alarms.sentence} alarmed", **alarm_title)
    if len(own):
        # Above the limit's line, which is broader: a state that stands at its limit shows both.
        look: dict[str, Any] = {"color": theme.value, "linewidth": 0.9, "zorder": 3}
        axes.plot(own["time_utc"], own["value_in_unit"], drawstyle="steps-post", **look)
    else:
        note: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": theme.faint}
        axes.text(0.5, 0.5, "no value was measured", transform=axes.transAxes, **note)
    _draw_limits(axes, metric, rule.limit, theme)
    _scale(axes, metric, rule.limit, own)
    axes.tick_params(labelbottom=False)


def _draw_limits(axes: Axes, metric: MetricCalibration, limit: float, theme: Theme) -> None:
    axes.axhline(limit, color=theme.limit, linewidth=1.3)
    if metric.suggested not in (None, limit):
        axes.axhline(metric.suggested or 0.0, color=theme.good, linewidth=1.3, linestyle="--")


def _scale(axes: Axes, metric: MetricCalibration, limit: float, own: pd.DataFrame) -> None:
    measured = own["value_in_unit"]
    spread = [measured.quantile(at) for at in (0.01, 0.5, 1.0)] if len(measured) else []
    levels = [limit, metric.suggested or limit, *map(float, spread)]
    most, positive = max(levels), [level for level in levels if level > 0]
    if positive and min(levels) > 0 and most / min(positive) > _WIDE:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) * 0.6, most * 1.8)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.set_ylim(min(0.0, *levels) - 0.02 * (most or 1), (most or 1) * 1.15)


def _draw_spread(
    axes: Axes,
    metric: MetricCalibration,
    calibration: Calibration,
    own: pd.DataFrame,
    theme: Theme,
) -> None:
    import numpy as np

    bare_axes(axes, theme)
    axes.tick_params(labelleft=False, labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)
    values = own["value_in_unit"].to_numpy()
    if len(values):
        low, high = axes.get_ylim()
        is_log = axes.get_yscale() == "log"
        edges = np.geomspace(low, high, _BINS) if is_log else np.linspace(low, high, _BINS)
        counts, _ = np.histogram(values, bins=edges)
        # The square root: one slow minute in a day must be seen beside the other 1439.
        axes.barh(edges[:-1], np.sqrt(counts), height=np.diff(edges), align="edge", color=theme.value, alpha=0.75)  # fmt: skip
    _draw_limits(axes, metric, calibration.watch.metrics[metric.name].limit, theme)


def _draw_alarms(axes: Axes, calibration: Calibration, windows: pd.DataFrame, theme: Theme) -> None:
    """A line a metric and one for the trigger: a mark a window, where it began."""
    bare_axes(axes, theme)
    names = [metric.name for metric in calibration.metrics]
    if calibration.piece_seconds:
        note: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": theme.faint}
        words = "the windows are put together from pieces of the recording: none begins at a moment of it"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, **note)
        axes.set_yticks([])
        _clock(axes)
        return
    starts = windows["started_utc"]
    for row, name in enumerate(names):
        failed = windows["failed"].map(lambda held, name=name: name in held)
        unknown = windows["not_proved"].map(lambda held, name=name: name in held)
        _marks(axes, starts[~failed & ~unknown], row, theme.good, ".", 4.0)
        _marks(axes, starts[unknown & ~failed], row, theme.warn, "$?$", 4.5)
        _marks(axes, starts[failed], row, theme.bad, "x", 5.0)
    fired = windows["rolled_back_by"] != ""
    _marks(axes, starts[~fired], len(names), theme.good, ".", 4.0)
    _marks(axes, starts[fired], len(names), theme.rollback, "X", 6.0)
    name_rows(axes, [*names, "rolled back"], theme, labelsize=7.5)
    for row in range(len(names) + 1):
        axes.axhline(row, color=theme.grid, linewidth=0.7, zorder=0)
    _clock(axes)
    text = f"UTC; each mark is a window of {lasting(calibration.window_minutes)}, where it begins"
    look: dict[str, Any] = {"fontsize": 8, "color": theme.faint, "labelpad": 3}
    axes.set_xlabel(text, **look)


def _clock(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    clock = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(clock)


def _marks(
    axes: Axes, at: pd.Series[pd.Timestamp], row: int, colour: str, mark: str, size: float
) -> None:
    look: dict[str, Any] = {"linestyle": "none", "color": colour, "markersize": size}
    axes.plot(at, [row] * len(at), marker=mark, **look)


def _title(figure: Figure, calibration: Calibration, theme: Theme) -> None:
    bold: dict[str, Any] = {"fontsize": 15, "fontweight": "bold"}
    mark, colour = "✓", theme.good
    if calibration.unmeasured or calibration.holds.sliding_alarms:
        mark, colour = "!", theme.warn
    if calibration.rollbacks.sliding_alarms:
        mark, colour = "✗", theme.bad
    head = f"{mark} {calibration.headline}"
    write(figure, head, inches=0.3, color=colour, **bold)
    begins = calibration.begins_utc[:16].replace("T", " ")
    where = f"{calibration.environment} · {calibration.minutes:.4g} min from {begins} UTC"
    write(
        figure,
        f"{where} · {calibration.source}"[:150],
        inches=0.58,
        fontsize=8.5,
        color=theme.faint,
    )
    write(figure, calibration.sentence, inches=0.78, fontsize=8.5, color=theme.ink)


def _legend(figure: Figure, theme: Theme, *, has_windows: bool) -> None:
    from matplotlib.lines import Line2D

    dots: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    entries = [
        Line2D([], [], color=theme.value, label="measured"),
        Line2D([], [], color=theme.limit, label="limit"),
        Line2D([], [], color=theme.good, linestyle="--", label="suggested limit"),
        Line2D([], [], color=theme.good, marker=".", label="passed", **dots),
        Line2D([], [], color=theme.warn, marker="$?$", label="not proved", **dots),
        Line2D([], [], color=theme.bad, marker="x", label="limit broken", **dots),
        Line2D([], [], color=theme.rollback, marker="X", label="rolled back", **dots),
    ]
    entries = entries if has_windows else entries[:3]
    look: dict[str, Any] = {
        "fontsize": 7.5,
        "labelcolor": theme.faint,
        "handlelength": 1.6,
        "columnspacing": 1.0,
    }
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.002, 0.0), "frameon": False}
    figure.legend(handles=entries, ncols=len(entries), **place, **look)
