"""Below each panel of the watch: what every sample came to, and the share that measured something."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from ctp_runbook.record.history import History
from ctp_runbook.show.figure_style import Theme
from ctp_runbook.show.lines import stretches
from ctp_runbook.show.time_axis import Clock
from ctp_runbook.show.watch_panel import NEIGHBOURS, SAMPLE_WORDS, rule_of
from ctp_runbook.watch.judge import MetricJudgement
from ctp_runbook.watch.measure import STATUSES
from ctp_runbook.watch.points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_strip", "strip_looks"]


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
