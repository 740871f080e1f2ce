"""One metric of the watch as a panel: value, limit, level that rolls back, events, coverage.

A line is drawn only between neighbouring samples that measured something: a gap stays a gap.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Verdict
from ctp_runbook.record.history import History
from ctp_runbook.show.blocks import mark
from ctp_runbook.show.figure_style import Theme, bare_axes
from ctp_runbook.show.lines import over_marks, stretches, unbroken_lines
from ctp_runbook.show.time_axis import Clock, Span, runner_started, spans_of
from ctp_runbook.watch.judge import MetricJudgement
from ctp_runbook.watch.measure import STATUSES, Point, more_than
from ctp_runbook.watch.points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "NEIGHBOURS",
    "SAMPLE_WORDS",
    "draw_panel",
    "draw_strip",
    "label_start",
    "rule_of",
    "strip_looks",
    "verdict_colour",
]

NEIGHBOURS = 2.5  # samples further apart than this many intervals have a gap between them
_BREAKER = {0: "closed", 1: "half-open", 2: "open"}
SAMPLE_WORDS = {
    "good": "measured",
    "breach": "measured",
    "zero_events": "no event",
    "few_events": "too few events",
    "warm_up": "warming up",
    "open_bucket": "above all buckets",
    "no_data": "missing",
    "error": "missing",
}


# --- one panel --------------------------------------------------------------------


def draw_panel(
    axes: Axes, one: MetricJudgement, history: History, clock: Clock, theme: Theme
) -> None:
    """Draw all of a metric but its coverage."""
    rule = rule_of(history, one.name)
    bare_axes(axes, theme)
    axes.set_xlim(clock.at(clock.first), clock.at(clock.last))
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines["bottom"].set_visible(False)
    for span in spans_of(history, clock):
        _draw_span(axes, span, clock, theme)
    _draw_before(axes, one, rule, clock, theme)
    _draw_start(axes, history, clock, theme)
    _draw_line(axes, one, rule, clock, theme)
    _scale(axes, one, rule, history, clock)
    _draw_levels(axes, one, rule, history, theme)
    _draw_trigger(axes, one, rule, history, clock, theme)
    if one.points.extremes is None:
        axes.text(
            clock.at((clock.zero + clock.last) / 2),
            0.55,
            _why_empty(one),
            transform=axes.get_xaxis_transform(),
            ha="center",
            color=theme.faint,
            fontsize=9,
        )
    _panel_title(axes, one, rule, history, theme)


def rule_of(history: History, name: str) -> dict[str, Any]:
    """The metric's rule as the run's plan has it (config.MetricRule's fields)."""
    rule: dict[str, Any] = history.plan["watch"]["metrics"][name]
    return rule


def _why_empty(one: MetricJudgement) -> str:
    seen = {SAMPLE_WORDS[status] for status in one.points.statuses}
    if "too few events" in seen:
        return "too few events to judge"
    return "no event in any scrape" if "no event" in seen else "nothing was measured"


def _draw_span(axes: Axes, span: Span, clock: Clock, theme: Theme) -> None:
    hatch = "////" if span.name == "gap" else "...."
    first, last = clock.at(max(span.first, clock.first)), clock.at(min(span.last, clock.last))
    axes.axvspan(first, last, facecolor=theme.shade, edgecolor=theme.grid, hatch=hatch, linewidth=0)
    axes.text(
        (first + last) / 2,
        0.97,
        span.name,
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=7.5,
        color=theme.faint,
    )


def label_start(axes: Axes, history: History, clock: Clock, theme: Theme) -> None:
    """Say what the dotted line at the left is."""
    if clock.stopped is not None:
        for text, x, align in (
            ("before ", clock.at(clock.stopped), "right"),
            (" after", 0.0, "left"),
        ):
            axes.text(
                *(x, 0.985),
                text,
                transform=axes.get_xaxis_transform(),
                ha=align,
                va="top",
                fontsize=7.5,
                fontweight="bold",
                color=theme.faint,
            )
        return
    near = clock.first <= runner_started(history) <= clock.last
    axes.annotate(
        "new runner started" if near else "watch begins",
        (clock.at(runner_started(history)) if near else 0.0, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, -2),
        textcoords="offset points",
        fontsize=7.5,
        color=theme.faint,
        va="top",
    )


def _draw_start(axes: Axes, history: History, clock: Clock, theme: Theme) -> None:
    """The new runner's start where it is in sight, else the beginning of the watch."""
    started = runner_started(history)
    if clock.stopped is not None:
        return
    x = clock.at(started) if clock.first <= started <= clock.last else 0.0
    axes.axvline(x, color=theme.faint, linewidth=0.9, linestyle=(0, (1, 2)))


def _draw_line(
    axes: Axes, one: MetricJudgement, rule: dict[str, Any], clock: Clock, theme: Theme
) -> None:
    steps = "steps-post" if rule["kind"] in ("state", "counter") else "default"
    for line in unbroken_lines(one.points, far_seconds=NEIGHBOURS * rule["interval_seconds"]):
        xs, ys = [clock.at(mono) for mono in line.monos], line.values
        dot = "o" if len(xs) == 1 else ""
        axes.plot(
            *(xs, ys),
            color=theme.value,
            linewidth=1.5,
            drawstyle=steps,
            marker=dot,
            markersize=3,
        )
    _draw_over(axes, one.points, rule, clock, colour=theme.value)


def _draw_over(
    axes: Axes, points: Points, rule: dict[str, Any], clock: Clock, *, colour: str
) -> None:
    """Arrows up from values that are more than what is drawn, the first of them in words."""
    marks = over_marks(points)
    if marks is None:
        return
    xs = [clock.at(mono) for mono in marks.monos]
    axes.plot(
        xs, marks.values, color=colour, marker="^", markersize=5, linestyle="none", gid="over"
    )
    axes.annotate(
        f"> {_amount(marks.values[0], rule)}",
        (xs[0], marks.values[0]),
        xytext=(4, 5),
        textcoords="offset points",
        fontsize=7.5,
        color=colour,
    )


def _shown_before(one: MetricJudgement, clock: Clock) -> list[Point]:
    return [p for p in clock.before.get(one.name, ()) if p.mono >= clock.first]


def _draw_before(
    axes: Axes, one: MetricJudgement, rule: dict[str, Any], clock: Clock, theme: Theme
) -> None:
    """The old engine's values, the switch as a grey bar, and the old range as a band to the right."""
    if clock.stopped is None:
        return
    switch = (clock.at(clock.stopped), 0.0)
    axes.axvspan(*switch, facecolor=theme.grid, linewidth=0, zorder=0.5, gid="switch")
    for x in switch:
        axes.axvline(x, color=theme.faint, linewidth=0.9, linestyle=(0, (1, 2)))
    if clock.zero - clock.stopped > 0.09 * (clock.last - clock.first):
        x = sum(switch) / 2
        named: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7.5, "color": theme.faint}
        axes.text(x, 0.985, "switch", transform=axes.get_xaxis_transform(), **named)
    points = _shown_before(one, clock)
    steps = "steps-post" if rule["kind"] in ("state", "counter") else "default"
    far = NEIGHBOURS * rule["interval_seconds"]
    for line in unbroken_lines(Points.of(points), far_seconds=far):
        xs, ys = [clock.at(mono) for mono in line.monos], line.values
        dot = "o" if len(xs) == 1 else ""
        style: dict[str, Any] = {"drawstyle": steps, "marker": dot, "markersize": 3}
        axes.plot(*(xs, ys), color=theme.before, linewidth=1.5, **style)
    _draw_over(axes, Points.of(points), rule, clock, colour=theme.before)
    values = sorted(p.value for p in points if p.value is not None)
    if not values:
        return
    low, high = values[int(0.05 * (len(values) - 1))], values[math.ceil(0.95 * (len(values) - 1))]
    band: dict[str, Any] = {
        "facecolor": theme.before,
        "alpha": 0.16,
        "linewidth": 0,
        "gid": "baseline",
    }
    axes.fill_between([0.0, clock.at(clock.last)], low, high, **band)
    for level in dict.fromkeys((low, high)):
        right = ([0.0, clock.at(clock.last)], [level, level])
        axes.plot(*right, color=theme.before, linewidth=0.7, linestyle=(0, (2, 2)))


def _draw_levels(
    axes: Axes, one: MetricJudgement, rule: dict[str, Any], history: History, theme: Theme
) -> None:
    """The limit, with a tint over all that is beyond it, and the level that rolls back."""
    others = [level for level in _rollback_levels(history, one.name) if level != one.limit]
    text = f"limit {_amount(one.limit, rule)}"
    if one.limit in _rollback_levels(history, one.name):
        text += " = rollback"
    floor, top = axes.get_ylim()
    beyond = (one.limit, top if rule["direction"] == "max" else floor)
    axes.axhspan(*beyond, color=theme.limit, alpha=0.06, linewidth=0)
    axes.axhline(one.limit, color=theme.limit, linewidth=1.2, linestyle=(0, (6, 3)))
    # A triggered watch ends at the right: there the trigger has its line and its label.
    left = history.trigger is not None
    _level_label(axes, one.limit, text, theme.limit, x=0.012 if left else 0.988, left=left)
    for level in others:
        axes.axhline(level, color=theme.rollback, linewidth=1.2, linestyle=(0, (6, 2, 1, 2)))
        close = abs(level - one.limit) < 0.13 * (top - floor)
        aside = 0.22 if close else 0.0
        x = 0.012 + aside if left else 0.988 - aside
        _level_label(
            axes, level, f"rollback {_amount(level, rule)}", theme.rollback, x=x, left=left
        )


def _level_label(axes: Axes, level: float, text: str, colour: str, *, x: float, left: bool) -> None:
    axes.annotate(
        text,
        (x, level),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        fontsize=8,
        color=colour,
    )


def _rollback_levels(history: History, name: str) -> list[float]:
    """The values at which the rollback trigger's conditions on this metric stand."""
    from ctp_runbook.errors import TriggerError
    from ctp_runbook.plan.triggers import parse_trigger

    units = {key: rule["unit"] for key, rule in history.plan["watch"]["metrics"].items()}
    try:
        trigger = parse_trigger(history.plan["trigger_text"], units=units, file="journal", line=0)
    except TriggerError:  # the plan was accepted once; a figure is no place to refuse it
        return []
    return [c.value for clause in trigger.any_of for c in clause if c.metric == name]


def _scale(
    axes: Axes, one: MetricJudgement, rule: dict[str, Any], history: History, clock: Clock
) -> None:
    """From zero to above everything that is shown; a value far off the limit bends the scale."""
    values = [*(one.points.extremes or ())]
    values += [p.value for p in _shown_before(one, clock) if p.value is not None]
    marks = [one.limit, *_rollback_levels(history, one.name)]
    top = max([*values, *marks, 0.0])
    if one.limit > 0 and max(values, default=0.0) > 12 * one.limit:
        axes.set_yscale("symlog", linthresh=one.limit)
    axes.set_ylim(min([0.0, *values]) - 0.03 * (top or 1.0), (top or 0.8) * 1.28)
    if rule["kind"] == "state" and one.name == "breaker_state":
        axes.set_ylim(-0.1, max(2.0, top) * 1.2)
        axes.set_yticks(list(_BREAKER), list(_BREAKER.values()))
    elif rule["kind"] in ("counter", "state"):
        from matplotlib.ticker import MaxNLocator

        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_trigger(
    axes: Axes,
    one: MetricJudgement,
    rule: dict[str, Any],
    history: History,
    clock: Clock,
    theme: Theme,
) -> None:
    """The sample that triggered the rollback, on its own panel; its moment on all the others."""
    if history.trigger is None:
        return
    given = history.trigger.payload
    x = clock.at(float(given["sample_mono_ns"]) / 1e9)
    axes.axvline(x, color=theme.bad, linewidth=1)
    if given.get("metric") != one.name or given.get("value") is None:
        return
    axes.plot([x], [given["value"]], marker="X", markersize=9, color=theme.bad, zorder=5)
    axes.annotate(
        "trigger: " + more_than(_amount(given["value"], rule), is_over=bool(given.get("is_over"))),
        (x, given["value"]),
        xytext=(-8, 6),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        fontweight="bold",
        color=theme.bad,
    )


def _panel_title(
    axes: Axes, one: MetricJudgement, rule: dict[str, Any], history: History, theme: Theme
) -> None:
    """The metric's name, and below it the verdict with the worst value and its margin."""
    counted = rule["unit"] in ("state", "count")
    name = str(rule["label"]) + ("" if counted else f" ({rule['unit']})")
    fired = history.trigger is not None and history.trigger.payload.get("metric") == one.name
    said = "✗ ROLLBACK TRIGGERED" if fired else mark(one.verdict.name)
    if one.worst is not None:
        said += f" · worst {more_than(_amount(one.worst, rule), is_over=one.worst_is_over)}"
    if one.margin is not None and not counted:
        said += f" · margin {_amount(one.margin, rule)}"
    lines = (
        (16, name, theme.ink, "bold", 10),
        (4, said, theme.bad if fired else verdict_colour(one.verdict, theme), "normal", 8.5),
    )
    for offset, text, colour, weight, size in lines:
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, offset),
            textcoords="offset points",
            color=colour,
            fontweight=weight,
            fontsize=size,
            annotation_clip=False,
        )


def verdict_colour(verdict: Verdict, theme: Theme) -> str:
    """Good, bad, or in between for what proves nothing either way."""
    return {Verdict.PASSED: theme.good, Verdict.FAILED: theme.bad}.get(verdict, theme.warn)


def _amount(value: float, rule: dict[str, Any]) -> str:
    """The value with its unit, as a person writes it: ``2.87 ms``, ``1,250 ms``, ``half-open``."""
    if rule["name"] == "breaker_state" and value in _BREAKER:
        return _BREAKER[int(value)]
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"
    return shown + ("" if rule["unit"] in ("state", "count") else f" {rule['unit']}")


def draw_strip(
    axes: Axes, one: MetricJudgement, history: History, clock: Clock, theme: Theme
) -> None:
    """What each sample came to, below its moment, and the share that measured something."""
    interval = float(rule_of(history, one.name)["interval_seconds"])
    axes.set_facecolor(theme.paper)
    words = [SAMPLE_WORDS[status] for status in STATUSES]
    far = NEIGHBOURS * interval
    before = Points.of(p for p in clock.before.get(one.name, ()) if p.mono >= clock.first)
    found = (
        stretches(points, words=words, interval=interval, far_seconds=far)
        for points in (before, one.points)
    )
    for name, first, last in chain.from_iterable(found):
        if first < clock.zero and clock.stopped is not None:
            last = min(last, clock.stopped)
        look = strip_looks(theme)[name]
        axes.broken_barh([(clock.at(first), clock.at(last) - clock.at(first))], (0, 1), **look)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], [f"{one.coverage:.0%}"])
    axes.tick_params(colors=theme.faint, labelsize=7, length=2, pad=1.5)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)


def strip_looks(theme: Theme) -> dict[str, dict[str, Any]]:
    """Fill and hatch of each stretch in the coverage strip, by its name."""
    return {
        "measured": {"facecolors": theme.value, "alpha": 0.75},
        "no event": {"facecolors": theme.value, "alpha": 0.3},
        "too few events": {"facecolors": theme.shade, "edgecolors": theme.warn, "hatch": "...."},
        "warming up": {"facecolors": theme.grid},
        "above all buckets": {"facecolors": theme.shade, "edgecolors": theme.warn, "hatch": "////"},
        "missing": {"facecolors": theme.paper, "edgecolors": theme.bad, "hatch": "xxxx"},
    }
