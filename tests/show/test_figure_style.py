"""The look that all figures share: two themes, and lines and labels that stay where they belong."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ctp_runbook.show.figure_style import DARK, LIGHT, Theme, bare_axes, label, picture, write

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


def drawn(theme: Theme) -> Figure:
    """A figure that holds nothing but its theme's paper."""
    return Figure(figsize=(2, 1), facecolor=theme.paper)


@THEMES
def test_good_bad_and_in_between_are_three_colours(theme: Theme) -> None:
    """A verdict's colour says which of three it is, and none of them is the paper's."""
    assert len({theme.good, theme.bad, theme.warn, theme.paper}) == 4


@THEMES
def test_both_engines_limit_and_rollback_are_told_apart(theme: Theme) -> None:
    """Four kinds of line on one panel have four colours."""
    assert len({theme.value, theme.before, theme.limit, theme.rollback}) == 4


def test_the_dark_theme_is_the_light_one_turned_over() -> None:
    """Paper and ink change places: what is dark on one is light on the other."""

    def brightness(colour: str) -> float:
        return sum(to_rgb(colour)) / 3

    assert brightness(LIGHT.paper) > 0.9 > 0.2 > brightness(LIGHT.ink)
    assert brightness(DARK.ink) > 0.8 > 0.2 > brightness(DARK.paper)


def test_both_themes_name_a_colour_for_every_meaning() -> None:
    """A figure that is drawn on one can be drawn on the other."""
    for theme in (LIGHT, DARK):
        colours = {key: value for key, value in asdict(theme).items() if key != "name"}
        assert all(len(to_rgb(colour)) == 3 for colour in colours.values())
    assert asdict(LIGHT).keys() == asdict(DARK).keys()


def test_a_picture_is_light_unless_both_are_asked_for() -> None:
    """A notebook is turned dark by its own theme; the report carries both."""
    asked: list[str] = []

    def draw(theme: Theme) -> Figure:
        asked.append(theme.name)
        return drawn(theme)

    one = picture(draw, alt="nothing")
    assert (asked, one.dark, one.alt) == (["light"], b"", "nothing")
    two = picture(draw, alt="nothing", both=True)
    assert sorted(asked[1:]) == ["dark", "light"]
    assert two.png == one.png != two.dark


def test_a_png_says_nothing_of_who_drew_it() -> None:
    """The same figure has the same bytes with every version of matplotlib's writer."""
    png = picture(drawn, alt="").png
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png
    assert b"matplotlib" not in png


def test_more_dots_make_a_larger_picture() -> None:
    """``dpi`` sets the resolution: the live view of a notebook takes less."""
    fine, coarse = picture(drawn, alt="", dpi=200).png, picture(drawn, alt="", dpi=50).png
    width = slice(16, 20)  # of a PNG's header
    assert int.from_bytes(fine[width], "big") == 4 * int.from_bytes(coarse[width], "big") == 400


@pytest.mark.parametrize("height", [2.0, 6.4])
def test_a_line_stands_as_far_below_the_edge_on_every_figure(height: float) -> None:
    """Inches, not shares of the height: a title has the same place above two and six panels."""
    figure = Figure(figsize=(11, height))
    write(figure, "title", inches=0.3)
    (text,) = figure.texts
    assert (1 - text.get_position()[1]) * height == pytest.approx(0.3)
    assert text.get_text() == "title"


def test_a_label_outside_of_its_axes_is_shown_all_the_same() -> None:
    """A bar that ends at the edge keeps the words beside it."""
    axes = Figure(figsize=(4, 2)).add_subplot()
    label(axes, "9.1 s", (2.0, 0.5), shift=(5, 0), fontsize=8)
    (note,) = axes.texts
    assert isinstance(note, Annotation)
    assert note.get_annotation_clip() is False
    assert (note.xy, note.xyann) == ((2.0, 0.5), (5, 0))


@THEMES
def test_axes_have_a_floor_and_no_box(theme: Theme) -> None:
    """One line below what is drawn; nothing around it."""
    axes = Figure().add_subplot()
    bare_axes(axes, theme)
    shown = [side for side, spine in axes.spines.items() if spine.get_visible()]
    assert shown == ["bottom"]
    assert axes.spines["bottom"].get_edgecolor()[:3] == to_rgb(theme.faint)
    assert axes.get_facecolor()[:3] == to_rgb(theme.paper)
