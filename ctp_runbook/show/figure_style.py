"""One look for every figure: two themes, colours anybody can tell apart, PNG out.

Colours are Okabe–Ito's, lightened on the dark theme; each also has a line style, a hatch or a
symbol of its own, so that a figure survives a black-and-white printer.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp_runbook.show.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Theme", "bare_axes", "picture", "theme_of"]

_NOTEBOOK_DPI = 110


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


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1b1f24",
    faint="#59636e",
    grid="#e4e7eb",
    value="#0072B2",
    before="#6B6F75",
    limit="#C24E00",
    rollback="#A3417D",
    good="#00795A",
    bad="#C24E00",
    warn="#8F6400",
    shade="#eef1f4",
)
DARK = Theme(
    name="dark",
    paper="#14171b",
    ink="#e8eaed",
    faint="#a3abb5",
    grid="#2c3238",
    value="#56B4E9",
    before="#B4BAC2",
    limit="#FF8B45",
    rollback="#E59CC6",
    good="#3FCBA0",
    bad="#FF8B45",
    warn="#F0C14B",
    shade="#20252b",
)


def theme_of(name: str) -> Theme:
    """The theme called ``light`` or ``dark``; KeyError for another."""
    return {"light": LIGHT, "dark": DARK}[name]


def bare_axes(axes: Axes, theme: Theme) -> None:
    """Axes in the theme's colours, with a floor and no box."""
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.faint, labelsize=8, length=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)


def picture(
    draw: Callable[[Theme], Figure], *, alt: str, dpi: int = _NOTEBOOK_DPI, both: bool = False
) -> Picture:
    """``draw`` as a Picture; with ``both`` also for readers who prefer a dark page."""
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
