"""Figures of the watch: what is drawn, what is not, and that every word stays on the page."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from msgspec.structs import replace

from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import Triggered
from ctp_runbook.show.blocks import Picture
from ctp_runbook.show.figure_style import DARK, LIGHT, Theme
from ctp_runbook.show.lines import unbroken_lines
from ctp_runbook.show.run_blocks import verdict_table
from ctp_runbook.show.watch_figure import watch_figure, watch_picture
from ctp_runbook.watch.points import Point, PointLog
from tests.props.watch_stories import KEYS, Story, above, gap_and_hold, passed, spike

STORIES = {"passed": passed, "gap_and_hold": gap_and_hold, "spike": spike}
_CACHE: dict[str, Story] = {}


def story(name: str) -> Story:
    """A story, told once: its samples take a moment."""
    if name not in _CACHE:
        _CACHE[name] = STORIES[name]()
    return _CACHE[name]


def figure(name: str, *, theme: Theme = LIGHT) -> Figure:
    """The story's watch, drawn."""
    told = story(name)
    return watch_figure(told.history, told.judged()[0], theme=theme)


def texts(drawn: Figure) -> str:
    """All words on a figure."""
    from matplotlib.text import Text

    return "\n".join(str(one.get_text()) for one in cast("list[Text]", drawn.findobj(Text)))


def panels(drawn: Figure) -> list[Any]:
    """The panels, without their coverage strips."""
    return drawn.axes[::2]


def value_lines(panel: Any, theme: Theme = LIGHT) -> list[Any]:
    """Lines that draw measured values."""
    return [line for line in panel.lines if line.get_color() == theme.value]


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_metric_has_a_panel_with_its_verdict(name: str, theme: Theme) -> None:
    """Six metrics, six panels with six strips, each with label and verdict in words."""
    drawn = figure(name, theme=theme)
    rules = story(name).rules.metrics
    assert len(drawn.axes) == 12
    said = texts(drawn)
    for key in KEYS:
        assert rules[key].label in said
    assert sum(said.count(word) for word in ("PASSED", "INCONCLUSIVE", "TRIGGERED")) >= 6


def test_limits_and_rollback_levels_are_lines_of_their_own_style() -> None:
    """Dashed limit, dash-dotted rollback level, both named with value and unit."""
    (latency, *_), said = panels(figure("passed")), texts(figure("passed"))
    styles = {line.get_color(): line.get_linestyle() for line in latency.lines}
    assert styles[LIGHT.limit] != styles[LIGHT.value]
    assert styles[LIGHT.rollback] != styles[LIGHT.value]
    assert "limit 5 ms" in said
    assert "rollback 8 ms" in said
    assert "limit 10 s = rollback" in said


def test_a_gap_is_a_gap_and_no_line() -> None:
    """Ninety seconds without samples break the line in two; nothing is drawn between."""
    told, drawn = story("gap_and_hold"), figure("gap_and_hold")
    pieces = value_lines(panels(drawn)[0])
    assert len(pieces) == 2
    edges = [(min(p.get_xdata()), max(p.get_xdata())) for p in pieces]
    assert edges[0][1] <= 4.0
    assert edges[1][0] >= 5.4
    points = told.judged()[0].metrics["order_latency_p99_ms"].points
    drawn_values = sum(len(piece.get_xdata()) for piece in pieces)
    assert drawn_values == sum(point.value is not None for point in points)


def test_no_value_is_invented() -> None:
    """NaN and missing values are drawn nowhere."""
    for panel in panels(figure("gap_and_hold")):
        for line in value_lines(panel):
            assert all(math.isfinite(y) for y in line.get_ydata())


def test_the_triggering_sample_is_marked_with_its_value() -> None:
    """On its own panel a marker with the value; the moment on every panel; the verdict says so."""
    told, drawn = story("spike"), figure("spike")
    trigger = told.history.trigger
    assert trigger is not None
    markers = [line for line in panels(drawn)[0].lines if line.get_marker() == "X"]
    assert list(markers[0].get_ydata()) == [trigger.payload.value]
    assert all(any(line.get_color() == LIGHT.bad for line in p.lines) for p in panels(drawn))
    said = texts(drawn)
    assert f"trigger: {trigger.payload.value:.3g} ms" in said
    assert "✗ ROLLBACK TRIGGERED" in said
    assert "metrics passed" not in said


@pytest.mark.parametrize(("limit", "is_known"), [(10.0, True), (60.0, False)])
def test_what_is_above_all_buckets_is_drawn_as_more_than(limit: float, is_known: bool) -> None:
    """Arrows up from the bound, "> 30 s" beside the first, and the worst value in words; where the
    limit is higher, the strip and the legend say that nothing is known of it."""
    told = above(limit)
    judged, _ = told.judged()
    drawn = watch_figure(told.history, judged)
    (reconnects,) = [
        panel for panel in panels(drawn) if any(line.get_gid() == "over" for line in panel.lines)
    ]
    (marks,) = [line for line in reconnects.lines if line.get_gid() == "over"]
    assert marks.get_marker() == "^"
    assert set(marks.get_ydata()) == {30.0}
    said = texts(drawn)
    assert "> 30 s" in said.splitlines()
    assert "worst more than 30 s" in said
    assert ("above all buckets" in said) is not is_known
    assert ("✗ FAILED" in said) is is_known
    table = verdict_table(told.history, judged).text
    assert "more than 30 s" in table
    assert "not known" in table


def test_a_trigger_above_all_buckets_is_named_so() -> None:
    """On its panel the trigger's value reads "more than" its number."""
    told = story("spike")
    records = [
        replace(record, payload=replace(record.payload, is_over=True))
        if isinstance(record.payload, Triggered)
        else record
        for record in told.records
    ]
    drawn = watch_figure(History.of(records), told.judged()[0])
    trigger = told.history.trigger
    assert trigger is not None
    assert f"trigger: more than {trigger.payload.value:.3g} ms" in texts(drawn)


def test_a_hold_is_named() -> None:
    """The stretch in which somebody had to decide is shaded and named."""
    assert "hold" in texts(figure("gap_and_hold")).splitlines()


def test_a_metric_without_events_says_so() -> None:
    """An empty panel explains itself: no event, or nothing measured."""
    assert "no event in any scrape" in texts(figure("spike"))


@pytest.mark.parametrize("name", STORIES)
def test_no_word_leaves_the_page(name: str) -> None:
    """Every title, label and legend entry is inside the figure."""
    drawn = figure(name)
    FigureCanvasAgg(drawn).draw()  # type: ignore[no-untyped-call]
    inside = [text for axes in drawn.axes for text in axes.texts]
    legends = [text for legend in drawn.legends for text in legend.get_texts()]
    for one in (*drawn.texts, *inside, *legends):
        box = one.get_window_extent()
        assert box.x0 >= drawn.bbox.x0 - 1, one.get_text()
        assert box.x1 <= drawn.bbox.x1 + 1, one.get_text()


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_are_readable_on_their_paper(theme: Theme) -> None:
    """Words keep a contrast of 4.5 (WCAG AA), lines 3."""
    for colour in (theme.ink, theme.faint, theme.good, theme.bad, theme.warn):
        assert contrast(colour, theme.paper) >= 4.5, colour
    for colour in (theme.value, theme.limit, theme.rollback):
        assert contrast(colour, theme.paper) >= 3.0, colour


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours."""
    from matplotlib.colors import to_rgb

    def light(colour: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, dark = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_the_same_run_gives_the_same_picture() -> None:
    """Byte for byte, so that a report can be derived again and compared."""
    told = story("spike")
    judged, _ = told.judged()
    first = watch_picture(told.history, judged)
    assert isinstance(first, Picture)
    assert first.png == watch_picture(told.history, judged).png
    assert len(first.png) < 400_000


def test_a_run_without_a_watch_has_no_figure() -> None:
    """There is nothing to draw, and drawing nothing could be taken for a quiet watch."""
    with pytest.raises(ValueError, match="has no watch window"):
        watch_figure(History(()), story("passed").judged()[0])


def test_a_single_measurement_is_seen() -> None:
    """One point between two gaps is a dot, where a line would be nothing."""
    log = PointLog()
    for point in (
        Point(0.0, 0.0, None, None, "error"),
        Point(1.0, 1.0, 2.0, None, "good"),
        Point(9.0, 9.0, 3.0, None, "good"),
    ):
        log.append(point)
    lines = unbroken_lines(log.points, far_seconds=2.5)
    assert [(line.monos, line.values) for line in lines] == [([1.0], [2.0]), ([9.0], [3.0])]


@pytest.mark.parametrize("name", ["passed", "spike"])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_before_and_after_stand_on_one_axis(name: str, theme: Theme) -> None:
    """The old engine's line ends at the switch; its range goes on as a band beside the new one."""
    told = story(name)
    drawn = watch_figure(told.history, told.judged()[0], theme=theme, before=told.before())
    latency = panels(drawn)[0]
    stopped = -19.0 / 60
    old = [line for line in latency.lines if line.get_color() == theme.before]
    lines = [line for line in old if max(line.get_xdata()) < 0]
    assert lines
    assert all(max(line.get_xdata()) <= stopped for line in lines)
    assert all(min(line.get_xdata()) >= 0 for line in value_lines(latency, theme))
    marks = {one.get_gid(): one for one in latency.patches}
    assert marks["switch"].get_extents().width > 0
    (band,) = [one for one in latency.collections if one.get_gid() == "baseline"]
    assert band.get_paths()[0].get_extents().x0 == 0
    for word in ("before", "after", "old engine", "new engine", "its 5–95 %"):
        assert word in texts(drawn)
