"""The host as a picture: parts as boxes with their state, the canary's hops beneath them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ctp_runbook.show.blocks import Picture, mark
from ctp_runbook.show.figure_style import Theme, bare_axes, picture, theme_of
from ctp_runbook.show.topology import Flight, Station, Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["topology_figure", "topology_picture"]

# Left and bottom of each part's box; a unit is a tenth of an inch.
_PLACES: Mapping[str, tuple[float, float]] = {
    "front": (1, 2),
    "redis": (23.5, 2),
    "engine": (1, 18),
    "postgres": (23.5, 18),
    "debezium": (46, 18),
    "kafka": (68.5, 18),
    "clickhouse": (91, 18),
}
_WIDTH, _HEIGHT = 18.0, 12.5
_BAD = ("failed", "timed_out", "unknown")
_HOPS: Mapping[str, tuple[str, str]] = {
    "postgres": ("insert → commit", ""),
    "debezium_to_kafka": ("commit → Kafka", "////"),
    "kafka_to_clickhouse": ("Kafka → ClickHouse", "...."),
}
_MOST_FLIGHTS = 5


def topology_picture(topology: Topology, *, both: bool = False) -> Picture:
    """``topology_figure`` as a picture with its meaning in words."""
    return picture(
        lambda theme: topology_figure(topology, theme=theme.name),
        alt=f"the host: {topology.sentence}",
        both=both,
    )


def topology_figure(topology: Topology, *, theme: str = "light") -> Figure:
    """Every part with its state and facts; ``theme`` is light or dark."""
    from matplotlib.figure import Figure

    colours = theme_of(theme)
    figure = Figure(figsize=(11, 3.5), facecolor=colours.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 110)
    axes.set_ylim(0, 35)
    for station in topology.stations:
        _draw_station(axes, station, colours)
    _draw_ways(axes, topology, colours)
    if topology.flights or topology.canary_problem:
        _draw_flights(figure, topology, colours)
    return figure


def _draw_station(axes: Axes, station: Station, theme: Theme) -> None:
    from matplotlib.patches import Rectangle

    left, bottom = _PLACES[station.key]
    axes.add_patch(Rectangle((left, bottom), _WIDTH, _HEIGHT, **_look(station, theme)))
    top = bottom + _HEIGHT
    words: dict[str, Any] = {"va": "top", "color": theme.ink}
    axes.text(left + 0.8, top - 0.8, station.title, fontsize=10, fontweight="bold", **words)
    state = mark(station.state) if station.state else "not looked at"
    colour = theme.bad if station.state in _BAD else theme.faint
    colour = theme.good if station.state == "ok" else colour
    axes.text(left + 0.8, top - 3.2, state, fontsize=8.5, **{**words, "color": colour})
    axes.text(
        *(left + 0.8, top - 5.5), "\n".join(_lines(station)), fontsize=7, linespacing=1.35, **words
    )


def _lines(station: Station, *, width: int = 31, most: int = 5) -> list[str]:
    """What is wrong, else what was seen, as much as the box holds."""
    told = textwrap.wrap(station.problem, width) if station.problem else list(station.facts)
    lines = [line if len(line) <= width else f"{line[: width - 1]}…" for line in told]
    return (
        lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: width - 2]} …"]
    )


def _look(station: Station, theme: Theme) -> dict[str, Any]:
    """Bad is hatched and heavy, unseen dashed: the state shows without its colour."""
    if station.state in _BAD:
        return {"facecolor": theme.paper, "edgecolor": theme.bad, "linewidth": 2.6}
    if station.state == "ok":
        return {"facecolor": theme.shade, "edgecolor": theme.good, "linewidth": 1.4}
    dashes = (0, (4, 3))
    return {
        "facecolor": theme.paper,
        "edgecolor": theme.faint,
        "linewidth": 1,
        "linestyle": dashes,
    }


def _draw_ways(axes: Axes, topology: Topology, theme: Theme) -> None:
    """Who gives what to whom."""
    middle = _PLACES["engine"][1] + _HEIGHT / 2
    chain = ("engine", "postgres", "debezium", "kafka", "clickhouse")
    for giver, taker in pairwise(chain):
        _arrow(axes, (_right(giver), middle), (_PLACES[taker][0], middle), theme)
    up = _PLACES["engine"][1]
    _arrow(axes, (10, _PLACES["front"][1] + _HEIGHT), (10, up), theme, both=True)
    _arrow(axes, (23.5, 12), (19, 19.5), theme, both=True)
    over = _PLACES["engine"][1] + _HEIGHT
    for xs, ys in (((10, 10), (over, 33)), ((10, 77.5), (33, 33))):
        axes.plot(xs, ys, color=theme.faint, linewidth=1.2, solid_capstyle="butt")
    _arrow(axes, (77.5, 33), (77.5, over), theme)
    axes.text(43, 33.2, "market.ticks.v1", fontsize=7.5, color=theme.faint, ha="center")


def _right(key: str) -> float:
    return _PLACES[key][0] + _WIDTH


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    theme: Theme,
    *,
    both: bool = False,
) -> None:
    style = "<|-|>" if both else "-|>"
    look = {"arrowstyle": style, "color": theme.faint, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look)


def _draw_flights(figure: Figure, topology: Topology, theme: Theme) -> None:
    """A bar a canary, cut into its hops."""
    axes = figure.add_axes((0.47, 0.125, 0.51, 0.235))
    bare_axes(axes, theme)
    axes.grid(axis="y", visible=False)
    shown = topology.flights[:_MOST_FLIGHTS]
    longest = max((one.milliseconds for one in shown), default=1.0)
    for row, flight in enumerate(shown):
        _draw_flight(axes, row, flight, theme)
    axes.set_xlim(0, longest * 1.16)
    axes.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [f"canary {row + 1}" for row in range(len(shown))])
    axes.tick_params(axis="y", colors=theme.ink, labelsize=8, length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("ms after the insert began", fontsize=7.5, color=theme.faint, labelpad=1)
    _tell_flights(axes, topology, theme)


def _draw_flight(axes: Axes, row: int, flight: Flight, theme: Theme) -> None:
    from matplotlib.colors import to_rgba

    left = 0.0
    for name, took in flight.hops.items():
        label, hatch = _HOPS.get(name, (name, ""))
        fill = theme.value if not hatch else to_rgba(theme.value, 0.35)
        axes.barh(
            *(row, took),
            left=left,
            height=0.62,
            facecolor=fill,
            edgecolor=theme.value,
            hatch=hatch,
            linewidth=0.6,
            label=label if row == 0 else "_",
        )
        left += took
    told = f"{left:.0f} ms" if not flight.problem else f"✗ lost after {left:.0f} ms"
    place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    colour = theme.bad if flight.problem else theme.ink
    axes.annotate(told, (left, row), fontsize=8, color=colour, annotation_clip=False, **place)


def _tell_flights(axes: Axes, topology: Topology, theme: Theme) -> None:
    problem = topology.canary_problem
    if problem:
        told = f"✗ canary FAILED: {textwrap.shorten(problem, 95, placeholder=' …')}"
    else:
        told = "Canary: marked records, each hop timed"
    colour = theme.bad if problem else theme.ink
    axes.set_title(told, loc="left", fontsize=8.5, color=colour, pad=16)
    if topology.flights:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 0.97),
            ncols=3,
            frameon=False,
            fontsize=7.5,
            labelcolor=theme.faint,
            handlelength=1.6,
            columnspacing=1.4,
        )
