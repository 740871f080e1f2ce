"""One look for every figure: two themes, colours anybody can tell apart, PNG out.

Colours are Okabe–Ito's, lightened on the dark theme; each also has a line style, a hatch or a
symbol of its own, so that a figure survives a black-and-white printer.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp_runbook.show.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "LIGHT",
    "PAGE_DPI",
    "PAGE_INCHES",
    "Theme",
    "bare_axes",
    "label",
    "name_rows",
    "picture",
    "write",
]

# As wide as a page of A4 between its margins: printed as it is drawn, no letter becomes smaller.
PAGE_INCHES = 7.3
# On a screen it is as wide as the report's text.
PAGE_DPI = 150
# By what they mean: on a light page, on a dark one.
_COLOURS = {
    "paper": ("#ffffff", "#14171b"),
    "ink": ("#1b1f24", "#e8eaed"),
    "faint": ("#59636e", "#a3abb5"),
    "grid": ("#e4e7eb", "#2c3238"),
    "value": ("#0072B2", "#56B4E9"),
    "before": ("#6B6F75", "#B4BAC2"),
    "limit": ("#C24E00", "#FF8B45"),
    "rollback": ("#A3417D", "#E59CC6"),
    "good": ("#00795A", "#3FCBA0"),
    "bad": ("#C24E00", "#FF8B45"),
    "warn": ("#8F6400", "#F0C14B"),
    "shade": ("#eef1f4", "#20252b"),
}


@dataclass(frozen=True)
class Theme:
    """Colours of a figure by what they mean."""

    name: str
    paper: str
    ink: str
    faint: str
    grid: str
    value: str
    before: str
    limit: str
    rollback: str
    good: str
    bad: str
    warn: str
    shade: str


LIGHT = Theme("light", **{meaning: light for meaning, (light, _) in _COLOURS.items()})
DARK = Theme("dark", **{meaning: dark for meaning, (_, dark) in _COLOURS.items()})


def bare_axes(axes: Axes, theme: Theme) -> None:
    """Give axes the theme's colours, a floor and no box."""
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.faint, labelsize=9, length=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.set_axisbelow(True)


def name_rows(axes: Axes, names: Sequence[str], theme: Theme, *, labelsize: float) -> None:
    """Name horizontal bars at their left, the first one on top."""
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", colors=theme.ink, labelsize=labelsize, length=0)


def label(
    axes: Axes, text: str, at: tuple[float, float], *, shift: tuple[float, float], **look: Any
) -> None:
    """Write ``text`` beside a point of the axes, ``shift`` points to the right of it and above it.

    It stays readable where it leaves the axes: a label may be longer than what it is about.
    """
    place: dict[str, Any] = {"xytext": shift, "textcoords": "offset points"}
    axes.annotate(text, at, annotation_clip=False, **place, **look)


def write(figure: Figure, text: str, *, inches: float, x: float = 0.012, **look: Any) -> None:
    """Write a line ``inches`` below the upper edge, however high the figure is."""
    figure.text(x, 1 - inches / figure.get_figheight(), text, va="center", **look)


def picture(
    draw: Callable[[Theme], Figure], *, alt: str, dpi: int = 110, both: bool = False
) -> Picture:
    """Return ``draw`` as a Picture; with ``both`` also for readers who prefer a dark page."""
    dark = _png(draw(DARK), dpi=dpi) if both else b""
    return Picture(_png(draw(LIGHT), dpi=dpi), alt, dark)


def _png(figure: Figure, *, dpi: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    sink = io.BytesIO()
    # Without matplotlib's version in it: the same run gives the same bytes.
    options: dict[str, Any] = {"metadata": {"Software": None}, "facecolor": figure.get_facecolor()}
    figure.savefig(sink, format="png", dpi=dpi, **options)
    return sink.getvalue()
