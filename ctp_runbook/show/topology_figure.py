"""The host as a picture: parts as boxes with their state, the canary's hops beneath them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

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
)
from ctp_runbook.show.topology import Flight, Station, Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["topology_figure", "topology_picture"]

# Left and bottom of each part's box, on a page of 110 by 35.
_PLACES: Mapping[str, tuple[float, float]] = {
    "front": (0.5, 2),
    "redis": (22.6, 2),
    "engine": (0.5, 18),
    "postgres": (22.6, 18),
    "debezium": (44.7, 18),
    "kafka": (66.8, 18),
    "clickhouse": (88.9, 18),
}
_WIDTH, _HEIGHT = 20.4, 12.5
_BAD = ("failed", "timed_out", "unknown")
_HOPS: Mapping[str, tuple[str, str]] = {
    "postgres": ("insert → commit", ""),
    "debezium_to_kafka": ("commit → Kafka", "////"),
    "kafka_to_clickhouse": ("Kafka → ClickHouse", "...."),
}
_MOST_FLIGHTS = 5
_Place = tuple[float, float]


def topology_picture(topology: Topology, *, both: bool = False) -> Picture:
    """Return ``topology_figure`` as a picture with its meaning in words."""
    return picture(
        lambda theme: topology_figure(topology, theme=theme),
        alt=f"the host: {topology.sentence}",
        dpi=PAGE_DPI,
        both=both,
    )


def topology_figure(topology: Topology, *, theme: Theme = LIGHT) -> Figure:
    """Draw every part with its state and facts, and the canary's flights where it flew."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_INCHES, 3.8), facecolor=theme.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 110)
    axes.set_ylim(0, 35)
    for station in topology.stations:
        _draw_station(axes, station, theme)
    _draw_ways(axes, theme)
    if topology.flights or topology.canary_problem:
        _draw_flights(figure, topology, theme)
    return figure


def _draw_station(axes: Axes, station: Station, theme: Theme) -> None:
    from matplotlib.patches import Rectangle

    left, bottom = _PLACES[station.key]
    axes.add_patch(Rectangle((left, bottom), _WIDTH, _HEIGHT, **_look(station, theme)))
    lines: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (0.8, station.title, {"fontsize": 9.5, "fontweight": "bold", "color": theme.ink}),
        (3.1, _state(station), {"fontsize": 9, "color": _state_colour(station, theme)}),
        (5.2, _seen(station), {"fontsize": 9, "linespacing": 1.2, "color": theme.ink}),
    )
    for below, text, look in lines:
        axes.text(left + 0.8, bottom + _HEIGHT - below, text, va="top", **look)


def _state(station: Station) -> str:
    return mark(station.state) if station.state else "not looked at"


def _state_colour(station: Station, theme: Theme) -> str:
    if station.state in _BAD:
        return theme.bad
    return theme.good if station.state == "ok" else theme.faint


def _seen(station: Station, *, width: int = 17, most: int = 5) -> str:
    """What is wrong, else what was seen, as much as the box holds."""
    lines = textwrap.wrap(station.problem, width) if station.problem else list(station.facts)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{_cut(lines[most - 1], width)[: width - 2]} …"]
    return "\n".join(_cut(line, width) for line in lines)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _look(station: Station, theme: Theme) -> dict[str, Any]:
    """Bad is hatched and heavy, unseen dashed: the state shows without its colour."""
    edge = {"facecolor": theme.paper, "edgecolor": _state_colour(station, theme)}
    if station.state in _BAD:
        return {**edge, "linewidth": 2.6}
    if station.state == "ok":
        return {**edge, "facecolor": theme.shade, "linewidth": 1.4}
    return {**edge, "linewidth": 1, "linestyle": (0, (4, 3))}


def _draw_ways(axes: Axes, theme: Theme) -> None:
    """Who gives what to whom."""
    middle = _PLACES["engine"][1] + _HEIGHT / 2
    chain = ("engine", "postgres", "debezium", "kafka", "clickhouse")
    for giver, taker in pairwise(chain):
        _arrow(axes, (_PLACES[giver][0] + _WIDTH, middle), (_PLACES[taker][0], middle), theme)
    up = _PLACES["engine"][1]
    _arrow(axes, (10, _PLACES["front"][1] + _HEIGHT), (10, up), theme, both=True)
    _arrow(axes, (22.6, 12), (19, 18), theme, both=True)
    over = _PLACES["engine"][1] + _HEIGHT
    for xs, ys in (((10, 10), (over, 33)), ((10, 77), (33, 33))):
        axes.plot(xs, ys, color=theme.faint, linewidth=1.2, solid_capstyle="butt")
    _arrow(axes, (77, 33), (77, over), theme)
    axes.text(43.5, 33.3, "market.ticks.v1", fontsize=9, color=theme.faint, ha="center")


def _arrow(axes: Axes, start: _Place, end: _Place, theme: Theme, *, both: bool = False) -> None:
    style = "<|-|>" if both else "-|>"
    look = {"arrowstyle": style, "color": theme.faint, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look)


def _draw_flights(figure: Figure, topology: Topology, theme: Theme) -> None:
    """A bar a canary, cut into its hops."""
    axes = figure.add_axes((0.53, 0.125, 0.46, 0.21))
    bare_axes(axes, theme)
    shown = topology.flights[:_MOST_FLIGHTS]
    for row, flight in enumerate(shown):
        _draw_flight(axes, row, flight, theme)
    # Beside a bar stands its time, and of a lost one in more words.
    room = 1.85 if any(flight.problem for flight in shown) else 1.3
    axes.set_xlim(0, max((flight.milliseconds for flight in shown), default=1.0) * room)
    name_rows(axes, [f"canary {row + 1}" for row in range(len(shown))], theme, labelsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.set_xlabel("ms after the insert began", fontsize=9, color=theme.faint, labelpad=1)
    _title_flights(axes, topology, theme)


def _draw_flight(axes: Axes, row: int, flight: Flight, theme: Theme) -> None:
    from matplotlib.colors import to_rgba

    left = 0.0
    for name, took in flight.hops.items():
        words, hatch = _HOPS.get(name, (name, ""))
        look: dict[str, Any] = {"edgecolor": theme.value, "hatch": hatch, "linewidth": 0.6}
        look["facecolor"] = to_rgba(theme.value, 0.35) if hatch else theme.value
        # The first bar's hops stand for all in the legend.
        look["label"] = words if row == 0 else "_"
        axes.barh(row, took, left=left, height=0.62, **look)
        left += took
    text = f"✗ lost after {left:.0f} ms" if flight.problem else f"{left:.0f} ms"
    look = {"color": theme.bad if flight.problem else theme.ink, "va": "center", "fontsize": 9}
    label(axes, text, (left, row), shift=(5, 0), **look)


def _title_flights(axes: Axes, topology: Topology, theme: Theme) -> None:
    text, colour = "Canary: marked records, each hop timed", theme.ink
    if problem := topology.canary_problem:
        text = f"✗ canary FAILED: {textwrap.shorten(problem, 44, placeholder=' …')}"
        colour = theme.bad
    axes.set_title(text, loc="left", fontsize=9, color=colour, pad=16)
    if topology.flights:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.97), "ncols": 3}
        place |= {"frameon": False, "handlelength": 1.0, "columnspacing": 0.8}
        axes.legend(fontsize=9, labelcolor=theme.faint, **place)
