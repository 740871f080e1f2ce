"""Below each panel of the watch: what every sample came to, and the share that measured something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ctp_runbook.history import History
from ctp_runbook.judge import MetricJudgement
from ctp_runbook.measure import Point
from ctp_runbook.plot_style import Theme
from ctp_runbook.watch_panel import NEIGHBOURS, SAMPLE_WORDS, Clock, rule_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_strip", "strip_looks"]


def draw_strip(
    axes: Axes, one: MetricJudgement, history: History, clock: Clock, theme: Theme
) -> None:
    """What each sample came to, below its moment, and the share that measured something."""
    interval = float(rule_of(history, one.name)["interval_seconds"])
    axes.set_facecolor(theme.paper)
    shown = [p for p in clock.before.get(one.name, ()) if p.mono >= clock.first]
    for name, first, last in (*_stretches(shown, interval), *_stretches(one.points, interval)):
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


def _stretches(points: Sequence[Point], interval: float) -> Iterator[tuple[str, float, float]]:
    """Neighbouring samples of one kind, joined; each holds for its interval."""
    found: list[tuple[str, float, float]] = []
    for point in points:
        name = SAMPLE_WORDS[point.status]
        last = found[-1] if found else None
        if last and last[0] == name and point.mono - last[2] <= (NEIGHBOURS - 1) * interval:
            found[-1] = (name, last[1], point.mono + interval)
        else:
            found.append((name, point.mono, point.mono + interval))
    return iter(found)


def strip_looks(theme: Theme) -> dict[str, dict[str, Any]]:
    """Fill and hatch of each stretch in the coverage strip, by its name."""
    return {
        "measured": {"facecolors": theme.value, "alpha": 0.75},
        "no event": {"facecolors": theme.value, "alpha": 0.3},
        "too few events": {"facecolors": theme.shade, "edgecolors": theme.warn, "hatch": "...."},
        "warming up": {"facecolors": theme.grid},
        "missing": {"facecolors": theme.paper, "edgecolors": theme.bad, "hatch": "xxxx"},
    }
