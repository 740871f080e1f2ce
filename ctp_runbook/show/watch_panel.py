"""One metric of the watch as a panel: value, limit, level that rolls back, events, coverage.

A line is drawn only between neighbouring samples that measured something: a gap stays a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from ctp_runbook.model import Verdict
from ctp_runbook.plan.config import MetricRule
from ctp_runbook.record.history import History
from ctp_runbook.show.blocks import mark
from ctp_runbook.show.figure_style import Theme, bare_axes, label
from ctp_runbook.show.lines import over_marks, stretches, unbroken_lines
from ctp_runbook.show.time_axis import Clock, new_sender, runner_started, spans_of
from ctp_runbook.watch.judge import MetricJudgement
from ctp_runbook.watch.measure import more_than
from ctp_runbook.watch.points import STATUSES, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SAMPLE_WORDS", "Panel", "line_looks", "strip_looks", "verdict_colour"]

_NEIGHBOURS = 2.5  # samples further apart than this many intervals have a gap between them
_BREAKER = {0: "closed", 1: "half-open", 2: "open"}
_DOTTED = (0, (1, 2))
_LONGEST_TITLE = 42
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


def verdict_colour(verdict: Verdict, theme: Theme) -> str:
    """Good, bad, or in between for what proves nothing either way."""
    return {Verdict.PASSED: theme.good, Verdict.FAILED: theme.bad}.get(verdict, theme.warn)


def line_looks(theme: Theme) -> dict[str, dict[str, Any]]:
    """Return how each line is drawn, by the name that the legend gives it."""
    return {
        "value": {"color": theme.value, "linewidth": 1.5},
        "old engine": {"color": theme.before, "linewidth": 1.5},
        "limit": {"color": theme.limit, "linewidth": 1.2, "linestyle": (0, (6, 3))},
        "rollback level": {
            "color": theme.rollback,
            "linewidth": 1.2,
            "linestyle": (0, (6, 2, 1, 2)),
        },
        "rollback triggered": {"color": theme.bad, "linewidth": 1},
    }


def strip_looks(theme: Theme) -> dict[str, dict[str, Any]]:
    """Fill and hatch of each stretch in the coverage strip, by its name."""
    return {
        "measured": {"facecolor": theme.value, "alpha": 0.75},
        "no event": {"facecolor": theme.value, "alpha": 0.3},
        "too few events": {"facecolor": theme.shade, "edgecolor": theme.warn, "hatch": "...."},
        "warming up": {"facecolor": theme.grid},
        "above all buckets": {"facecolor": theme.shade, "edgecolor": theme.warn, "hatch": "////"},
        "missing": {"facecolor": theme.paper, "edgecolor": theme.bad, "hatch": "xxxx"},
    }


@dataclass(frozen=True)
class Panel:
    """A metric as it was judged, and what all panels of a figure share."""

    metric: MetricJudgement
    history: History
    clock: Clock
    theme: Theme

    def draw(self, axes: Axes) -> None:
        """Draw all of the metric but its coverage."""
        bare_axes(axes, self.theme)
        axes.grid(axis="y", color=self.theme.grid, linewidth=0.7)
        axes.set_xlim(self.clock.at(self.clock.first), self.clock.at(self.clock.last))
        axes.tick_params(labelbottom=False, bottom=False)
        axes.spines["bottom"].set_visible(False)
        self._draw_spans(axes)
        if self.clock.stopped is None:
            axes.axvline(self._start, color=self.theme.faint, linewidth=0.9, linestyle=_DOTTED)
        else:
            self._draw_switch(axes, stopped=self.clock.at(self.clock.stopped))
            self._draw_before(axes)
        self._draw_values(axes, self.metric.points, colour=self.theme.value)
        self._scale(axes)
        self._draw_levels(axes)
        self._draw_trigger(axes)
        if self.metric.points.extremes is None:
            # In the middle of all: what was watched may be narrower than these words.
            middle = self.clock.at((self.clock.first + self.clock.last) / 2)
            look: dict[str, Any] = {"fontsize": 9, "va": "baseline", **self._on_paper}
            self._write(axes, middle, 0.55, self._why_empty, **look)
        self._write_title(axes)

    def draw_strip(self, axes: Axes) -> None:
        """Draw what each sample came to, below its moment, and the share that measured something."""
        words = [SAMPLE_WORDS[status] for status in STATUSES]
        looks = strip_looks(self.theme)
        held = (
            stretches(
                points, words=words, interval=self._rule.interval_seconds, far_seconds=self._far
            )
            for points in (self._before, self.metric.points)
        )
        for name, first, last in chain.from_iterable(held):
            # The old engine's last sample does not hold for what came after it.
            if first < self.clock.zero and self.clock.stopped is not None:
                last = min(last, self.clock.stopped)
            left, right = self.clock.at(first), self.clock.at(last)
            axes.broken_barh([(left, right - left)], (0, 1), **looks[name])
        bare_axes(axes, self.theme)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.5], [f"{self.metric.coverage:.0%}"])
        axes.tick_params(labelsize=9, length=2, pad=1.5)
        axes.tick_params(axis="y", length=0)

    def label_start(self, axes: Axes) -> None:
        """Say what the dotted line at the left is."""
        if self.clock.stopped is not None:
            bold: dict[str, Any] = {"fontweight": "bold"}
            self._write(
                axes, self.clock.at(self.clock.stopped), 0.985, "before ", ha="right", **bold
            )
            self._write(axes, 0.0, 0.985, " after", ha="left", **bold)
            return
        sender = "runner" if new_sender(self.history).endswith("runner") else "engine"
        text = f"new {sender} started" if self._sees_start else "watch begins"
        look = {"fontsize": 9, "color": self.theme.faint, "va": "top"}
        across = axes.get_xaxis_transform()
        label(axes, text, (self._start, 1), shift=(3, -2), xycoords=across, **look)

    # --- what is known --------------------------------------------------------------

    @property
    def _rule(self) -> MetricRule:
        return self.history.plan.watch.metrics[self.metric.name]

    @property
    def _far(self) -> float:
        return _NEIGHBOURS * self._rule.interval_seconds

    @property
    def _is_stepped(self) -> bool:
        """True for what holds its value from one sample to the next."""
        return self._rule.kind in ("state", "counter")

    @cached_property
    def _before(self) -> Points:
        """What of the old engine's points is in sight."""
        points = self.clock.before.get(self.metric.name, ())
        return Points.of(p for p in points if p.mono >= self.clock.first)

    @property
    def _sees_start(self) -> bool:
        return self.clock.first <= runner_started(self.history) <= self.clock.last

    @property
    def _start(self) -> float:
        """The new runner's start where it is in sight, else the beginning of the watch."""
        return self.clock.at(runner_started(self.history)) if self._sees_start else 0.0

    @property
    def _why_empty(self) -> str:
        seen = {SAMPLE_WORDS[status] for status in self.metric.points.statuses}
        if "too few events" in seen:
            return "too few events to judge"
        return "no event in any scrape" if "no event" in seen else "nothing was measured"

    @cached_property
    def _rollback_levels(self) -> list[float]:
        """The values at which the rollback trigger's conditions on this metric stand."""
        from ctp_runbook.errors import TriggerError
        from ctp_runbook.plan.triggers import parse_trigger

        plan = self.history.plan
        units = {key: rule.unit for key, rule in plan.watch.metrics.items()}
        try:
            trigger = parse_trigger(plan.trigger_text, units=units, file="journal", line=0)
        except TriggerError:  # the plan was accepted once; a figure is no place to refuse it
            return []
        conditions = chain.from_iterable(trigger.any_of)
        return [c.value for c in conditions if c.metric == self.metric.name]

    def _amount(self, value: float) -> str:
        """The value with its unit, as a person writes it: ``2.87 ms``, ``1,250 ms``, ``half-open``."""
        if self.metric.name == "breaker_state" and value in _BREAKER:
            return _BREAKER[int(value)]
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"
        return shown + ("" if self._is_counted else f" {self._rule.unit}")

    @property
    def _is_counted(self) -> bool:
        return self._rule.unit in ("state", "count")

    # --- what is drawn --------------------------------------------------------------

    @property
    def _on_paper(self) -> dict[str, Any]:
        """Paper behind a label, so that no line strikes it through."""
        box = {"facecolor": self.theme.paper, "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
        return {"bbox": box, "zorder": 6}

    def _write(self, axes: Axes, x: float, height: float, text: str, **look: Any) -> None:
        """Write at ``x`` of the time axis, ``height`` of the panel's own."""
        shown: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 9, **look}
        place = axes.get_xaxis_transform()
        axes.text(x, height, text, transform=place, color=self.theme.faint, **shown)

    def _draw_spans(self, axes: Axes) -> None:
        for span in spans_of(self.history, self.clock):
            first = self.clock.at(max(span.first, self.clock.first))
            last = self.clock.at(min(span.last, self.clock.last))
            hatch = "////" if span.name == "gap" else "...."
            look: dict[str, Any] = {"facecolor": self.theme.shade, "edgecolor": self.theme.grid}
            axes.axvspan(first, last, hatch=hatch, linewidth=0, **look)
            self._write(axes, (first + last) / 2, 0.97, span.name)

    def _draw_switch(self, axes: Axes, *, stopped: float) -> None:
        """The switch as a grey bar, with its name where there is room for it."""
        axes.axvspan(stopped, 0.0, facecolor=self.theme.grid, linewidth=0, zorder=0.5, gid="switch")
        for x in (stopped, 0.0):
            axes.axvline(x, color=self.theme.faint, linewidth=0.9, linestyle=_DOTTED)
        # A switch of seconds in half an hour is thinner than its own name.
        if -stopped > 0.09 * (self.clock.at(self.clock.last) - self.clock.at(self.clock.first)):
            self._write(axes, stopped / 2, 0.985, "switch")

    def _draw_before(self, axes: Axes) -> None:
        """The old engine's values, and the range of most of them as a band to the right."""
        self._draw_values(axes, self._before, colour=self.theme.before)
        values = sorted(p.value for p in self._before if p.value is not None)
        if not values:
            return
        most = len(values) - 1
        # Not the extremes: the old engine's worst second is no measure for the new one.
        low, high = values[int(0.05 * most)], values[math.ceil(0.95 * most)]
        watched = [0.0, self.clock.at(self.clock.last)]
        band: dict[str, Any] = {"alpha": 0.16, "linewidth": 0, "gid": "baseline"}
        axes.fill_between(watched, low, high, facecolor=self.theme.before, **band)
        for level in dict.fromkeys((low, high)):
            edge: dict[str, Any] = {"linewidth": 0.7, "linestyle": (0, (2, 2))}
            axes.plot(watched, [level, level], color=self.theme.before, **edge)

    def _draw_values(self, axes: Axes, points: Points, *, colour: str) -> None:
        """Lines through what was measured; arrows up, the first in words, where the truth is more."""
        style: dict[str, Any] = {"color": colour, "linewidth": 1.5, "markersize": 3}
        style["drawstyle"] = "steps-post" if self._is_stepped else "default"
        for line in unbroken_lines(points, far_seconds=self._far):
            dot = "o" if len(line.monos) == 1 else ""
            axes.plot(self._xs(line.monos), line.values, marker=dot, **style)
        if marks := over_marks(points):
            xs, ys = self._xs(marks.monos), marks.values
            arrow: dict[str, Any] = {"marker": "^", "markersize": 5, "linestyle": "none"}
            axes.plot(xs, ys, color=colour, gid="over", **arrow)
            text = f"> {self._amount(ys[0])}"
            label(axes, text, (xs[0], ys[0]), shift=(4, 5), fontsize=9, color=colour)

    def _xs(self, monos: Sequence[float]) -> list[float]:
        return [self.clock.at(mono) for mono in monos]

    def _scale(self, axes: Axes) -> None:
        """From zero to above everything that is shown; a value far off the limit bends the scale."""
        limit = self.metric.limit
        values = [*(self.metric.points.extremes or ()), *(self._before.extremes or ())]
        top = max([*values, limit, *self._rollback_levels, 0.0])
        # Twelve limits high, what is near the limit would be as thin as the floor.
        if limit > 0 and max(values, default=0.0) > 12 * limit:
            axes.set_yscale("symlog", linthresh=limit)
        axes.set_ylim(min([0.0, *values]) - 0.03 * (top or 1.0), (top or 0.8) * 1.28)
        if self.metric.name == "breaker_state" and self._rule.kind == "state":
            axes.set_ylim(-0.1, max(2.0, top) * 1.2)
            axes.set_yticks(list(_BREAKER), list(_BREAKER.values()))
        elif self._is_stepped:
            from matplotlib.ticker import MaxNLocator

            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    def _draw_levels(self, axes: Axes) -> None:
        """The limit, with a tint over all that is beyond it, and the level that rolls back."""
        limit, looks = self.metric.limit, line_looks(self.theme)
        floor, top = axes.get_ylim()
        beyond = top if self._rule.direction == "max" else floor
        axes.axhspan(limit, beyond, color=self.theme.limit, alpha=0.06, linewidth=0)
        axes.axhline(limit, **looks["limit"])
        both = " = rollback" if limit in self._rollback_levels else ""
        self._label_level(axes, limit, f"limit {self._amount(limit)}{both}", self.theme.limit)
        for level in self._rollback_levels:
            if level == limit:
                continue
            axes.axhline(level, **looks["rollback level"])
            # Two labels at nearly one height would be written over each other.
            aside = 0.42 if abs(level - limit) < 0.13 * (top - floor) else 0.0
            text = f"rollback {self._amount(level)}"
            self._label_level(axes, level, text, self.theme.rollback, aside=aside)

    def _label_level(
        self, axes: Axes, level: float, text: str, colour: str, *, aside: float = 0.0
    ) -> None:
        # A triggered watch ends at the right: there the trigger has its line and its label.
        left = self.history.trigger is not None
        x, align = (0.012 + aside, "left") if left else (0.988 - aside, "right")
        look = {"ha": align, "va": "bottom", "fontsize": 9, "color": colour, **self._on_paper}
        across = axes.get_yaxis_transform()
        label(axes, text, (x, level), shift=(0, 3), xycoords=across, **look)

    def _draw_trigger(self, axes: Axes) -> None:
        """The sample that triggered the rollback, on its own panel; its moment on all the others."""
        if self.history.trigger is None:
            return
        trigger = self.history.trigger.payload
        x = self.clock.at(trigger.sample_mono_ns / 1e9)
        axes.axvline(x, **line_looks(self.theme)["rollback triggered"])
        value = trigger.value
        if not self._fired or value is None:
            return
        axes.plot([x], [value], marker="X", markersize=9, color=self.theme.bad, zorder=5)
        said = more_than(self._amount(value), is_over=trigger.is_over)
        look = {"ha": "right", "fontsize": 9, "fontweight": "bold", "color": self.theme.bad}
        look |= self._on_paper
        label(axes, f"trigger: {said}", (x, value), shift=(-8, 6), **look)

    @property
    def _fired(self) -> bool:
        """True when this metric triggered the rollback."""
        trigger = self.history.trigger
        return trigger is not None and trigger.payload.metric == self.metric.name

    def _write_title(self, axes: Axes) -> None:
        """The metric's name, and below it the verdict with the worst value and its margin."""
        metric = self.metric
        said = "✗ ROLLBACK TRIGGERED" if self._fired else mark(metric.verdict.name)
        if metric.worst is not None:
            said += (
                f" · worst {more_than(self._amount(metric.worst), is_over=metric.worst_is_over)}"
            )
        if metric.margin is not None and not self._is_counted:
            said += f" · margin {self._amount(metric.margin)}"
        name = self._rule.label + ("" if self._is_counted else f" ({self._rule.unit})")
        # On half a page the longest takes two lines; a panel's neighbour begins where it would end.
        lines = len(said) > _LONGEST_TITLE
        if lines:
            said = said.replace(" · worst", "\nworst", 1)
        bold = {"color": self.theme.ink, "fontweight": "bold", "fontsize": 10}
        label(axes, name, (0, 1), shift=(0, 28 if lines else 17), xycoords="axes fraction", **bold)
        colour = self.theme.bad if self._fired else verdict_colour(metric.verdict, self.theme)
        look = {"color": colour, "fontsize": 9}
        label(axes, said, (0, 1), shift=(0, 4), xycoords="axes fraction", **look)
