"""One metric as a panel: its words, its scale, its lines, and the strip of what each sample came to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from msgspec import structs

from ctp_runbook.model import Verdict
from ctp_runbook.record.history import History
from ctp_runbook.record.kinds import RunCreated
from ctp_runbook.show.figure_style import DARK, LIGHT
from ctp_runbook.show.time_axis import clock_of
from ctp_runbook.show.watch_panel import (
    SAMPLE_WORDS,
    Panel,
    line_looks,
    strip_looks,
    verdict_colour,
)
from ctp_runbook.watch.points import STATUSES, Point, Points
from tests.props.watch_stories import MONO, WALL, Story
from tests.show.test_watch_figure import story

LATENCY = "order_latency_p99_ms"


def panel(name: str, told: Story | None = None, **changed: Any) -> Panel:
    """A metric's panel of the story that passed, or of another; ``changed`` in its judgement."""
    told = told or story("passed")
    judged, _ = told.judged()
    clock = clock_of(told.history, judged)
    return Panel(structs.replace(judged.metrics[name], **changed), told.history, clock, LIGHT)


def drawn(shown: Panel) -> Any:
    """The axes that it is drawn on."""
    axes = Figure(figsize=(5, 2)).add_subplot()
    shown.draw(axes)
    return axes


def words(axes: Any) -> list[str]:
    """What is written on the axes."""
    return [text.get_text() for text in axes.texts]


def points(status: str, *values: float | None, every: float = 1.0) -> Points:
    """Points of one status, a second or ``every`` apart, from the start of the watch on."""
    return Points.of(
        Point(WALL + n * every, MONO + n * every, value, 5.0, status)
        for n, value in enumerate(values)
    )


def with_rule(told: Story, name: str, **changed: Any) -> History:
    """The story's history under a plan whose rule of a metric is another."""

    def other(created: RunCreated) -> RunCreated:
        rules = dict(created.plan.watch.metrics)
        rules[name] = structs.replace(rules[name], **changed)
        watch = structs.replace(created.plan.watch, metrics=rules)
        return structs.replace(created, plan=structs.replace(created.plan, watch=watch))

    return History.of(
        structs.replace(record, payload=other(record.payload))
        if isinstance(record.payload, RunCreated)
        else record
        for record in told.records
    )


# --- words ------------------------------------------------------------------------


def test_the_title_has_name_unit_verdict_worst_and_margin() -> None:
    """All that a reader looks for first, in two lines."""
    said = words(drawn(panel(LATENCY, worst=2.875, margin=2.125)))
    assert "Order latency p99 (ms)" in said
    assert "✓ PASSED · worst 2.88 ms · margin 2.12 ms" in said


def test_a_count_has_no_unit_and_no_margin() -> None:
    """Violations are counted: "margin 0" of a count would say nothing."""
    said = words(drawn(panel("query_rate_violation", worst=0.0, margin=0.0)))
    assert "✓ PASSED · worst 0" in said
    assert not any("count" in text for text in said)


@pytest.mark.parametrize(
    ("worst", "said"),
    [(0.012345, "0.0123 ms"), (1250.4, "1,250 ms"), (-0.0, "0 ms"), (12.0, "12 ms")],
)
def test_an_amount_is_written_as_a_person_writes_it(worst: float, said: str) -> None:
    """Three figures, thousands set apart, no negative zero."""
    assert f"✓ PASSED · worst {said} · margin 1 ms" in words(
        drawn(panel(LATENCY, worst=worst, margin=1.0))
    )


def test_a_worst_value_above_all_buckets_is_more_than_its_number() -> None:
    """The number alone would be a claim that nobody measured."""
    said = words(drawn(panel(LATENCY, worst=30.0, worst_is_over=True, margin=None)))
    assert "✓ PASSED · worst more than 30 ms" in said


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("few_events", "too few events to judge"),
        ("zero_events", "no event in any scrape"),
        ("no_data", "nothing was measured"),
        ("error", "nothing was measured"),
    ],
)
def test_an_empty_panel_says_why_it_is_empty(status: str, said: str) -> None:
    """Nothing to draw has three reasons, and they do not mean the same."""
    assert said in words(drawn(panel(LATENCY, points=points(status, None, None))))


def test_a_panel_with_a_line_says_nothing_of_emptiness() -> None:
    """One value is enough."""
    said = words(drawn(panel(LATENCY, points=points("good", 1.0, None))))
    assert not any("measured" in text or "no event" in text for text in said)


@pytest.mark.parametrize(
    ("verdict", "colour"),
    [
        (Verdict.PASSED, LIGHT.good),
        (Verdict.FAILED, LIGHT.bad),
        (Verdict.INCONCLUSIVE, LIGHT.warn),
        (Verdict.ERROR, LIGHT.warn),
    ],
)
def test_what_proves_nothing_is_neither_good_nor_bad(verdict: Verdict, colour: str) -> None:
    """Three colours for four verdicts, and the title has them."""
    assert verdict_colour(verdict, LIGHT) == colour
    axes = drawn(panel(LATENCY, verdict=verdict))
    (title,) = [text for text in axes.texts if verdict.name in text.get_text()]
    assert title.get_color() == colour


# --- scale and levels -------------------------------------------------------------


def test_the_limit_is_in_sight_however_small_the_values() -> None:
    """The scale goes from zero to above limit and rollback level."""
    axes = drawn(panel(LATENCY, points=points("good", 0.01, 0.02)))
    floor, top = axes.get_ylim()
    assert floor <= 0.0
    assert top > 8.0


def test_a_value_far_off_the_limit_bends_the_scale() -> None:
    """Beyond twelve limits a straight scale would press everything else to the floor."""
    assert drawn(panel(LATENCY, points=points("breach", 2.0, 59.0))).get_yscale() == "linear"
    assert drawn(panel(LATENCY, points=points("breach", 2.0, 61.0))).get_yscale() == "symlog"


def test_a_breaker_s_states_have_their_names() -> None:
    """0, 1 and 2 are closed, half-open and open, on the scale and in words."""
    axes = drawn(panel("breaker_state", worst=1.0))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["closed", "half-open", "open"]
    assert any("worst half-open" in text for text in words(axes))


def test_a_limit_that_is_the_rollback_level_is_one_line() -> None:
    """Named as both; another level has a line of its own and its own name."""
    both = drawn(panel("reconnect_p99_s"))
    assert "limit 10 s = rollback" in words(both)
    assert not any(text.startswith("rollback") for text in words(both))
    apart = drawn(panel(LATENCY))
    assert {"limit 5 ms", "rollback 8 ms"} <= set(words(apart))


def test_two_levels_close_to_each_other_have_their_names_side_by_side() -> None:
    """Else one would be written over the other."""

    def right_edges(top: float) -> set[float]:
        axes = drawn(panel(LATENCY, points=points("good", top)))
        names = ("limit 5 ms", "rollback 8 ms")
        return {round(text.xy[0], 3) for text in axes.texts if text.get_text() in names}

    assert right_edges(5.0) == {0.988}
    assert right_edges(40.0) == {0.988, 0.568}


@pytest.mark.parametrize(("direction", "side"), [("max", "above"), ("min", "below")])
def test_what_is_beyond_the_limit_is_tinted(direction: str, side: str) -> None:
    """Above a limit that is a most, below one that is a least."""
    told = story("passed")
    shown = replace(panel(LATENCY), history=with_rule(told, LATENCY, direction=direction))
    axes = drawn(shown)
    (tint,) = [patch for patch in axes.patches if patch.get_alpha() == 0.06]
    edges = tint.get_extents().transformed(axes.transData.inverted())
    beyond = edges.y1 > 5.5 if side == "above" else edges.y0 < 4.5
    assert beyond


def test_a_trigger_nobody_can_read_draws_no_level() -> None:
    """A figure is no place to refuse a plan: it was accepted once."""
    told = story("passed")
    created = told.records[0].payload
    assert isinstance(created, RunCreated)
    plan = structs.replace(created.plan, trigger_text="nothing of sense")
    other = structs.replace(told.records[0], payload=structs.replace(created, plan=plan))
    shown = replace(panel(LATENCY), history=History.of([other, *told.records[1:]]))
    assert not any(text.startswith("rollback") for text in words(drawn(shown)))


# --- lines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "style"), [(LATENCY, "default"), ("query_rate_violation", "steps-post")]
)
def test_a_count_holds_its_value_until_the_next_sample(name: str, style: str) -> None:
    """A state or a count is a step; a latency goes straight from one value to the next."""
    axes = drawn(panel(name, points=points("good", 1.0, 2.0, 3.0)))
    (line,) = [line for line in axes.lines if line.get_color() == LIGHT.value]
    assert line.get_drawstyle() == style


def test_samples_further_apart_than_two_and_a_half_intervals_are_not_joined() -> None:
    """The rule's own interval says what a gap is."""
    interval = story("passed").rules.metrics[LATENCY].interval_seconds

    def lines(every: float) -> int:
        axes = drawn(panel(LATENCY, points=points("good", 1.0, 2.0, 3.0, every=every)))
        return sum(line.get_color() == LIGHT.value for line in axes.lines)

    assert (lines(2.5 * interval), lines(2.6 * interval)) == (1, 3)


def test_the_trigger_has_its_marker_on_its_own_panel_alone() -> None:
    """Its moment is a line on all of them."""
    told = story("spike")
    own, other = drawn(panel(LATENCY, told)), drawn(panel("reconnect_p99_s", told))
    assert sum(line.get_marker() == "X" for line in own.lines) == 1
    assert not any(line.get_marker() == "X" for line in other.lines)
    for axes in (own, other):
        assert any(line.get_color() == LIGHT.bad for line in axes.lines)
    assert "✗ ROLLBACK TRIGGERED" in " ".join(words(own))
    assert "TRIGGERED" not in " ".join(words(other))


def test_names_of_levels_make_room_for_a_trigger() -> None:
    """A triggered watch ends at the right: the names stand at the left then."""
    sides = {}
    for name in ("passed", "spike"):
        axes = drawn(panel(LATENCY, story(name)))
        (limit,) = [text for text in axes.texts if text.get_text() == "limit 5 ms"]
        sides[name] = limit.get_ha()
    assert sides == {"passed": "right", "spike": "left"}


@pytest.mark.parametrize(("near", "said"), [(True, "new runner started"), (False, "watch begins")])
def test_the_dotted_line_says_what_it_is(near: bool, said: str) -> None:
    """The runner's start where it is in sight, else the beginning of the watch."""
    shown = panel(LATENCY)
    if not near:
        shown = replace(shown, clock=replace(shown.clock, first=shown.clock.zero - 1))
    axes = drawn(shown)
    shown.label_start(axes)
    assert said in words(axes)


# --- the strip --------------------------------------------------------------------


def strip(shown: Panel) -> Any:
    """The axes of its strip."""
    axes = Figure(figsize=(5, 1)).add_subplot()
    shown.draw_strip(axes)
    return axes


def test_every_status_has_a_word_and_every_word_a_look() -> None:
    """A sample of any kind shows in the strip, on both themes."""
    assert set(STATUSES) == set(SAMPLE_WORDS)
    for theme in (LIGHT, DARK):
        assert set(SAMPLE_WORDS.values()) == set(strip_looks(theme))


def test_looks_of_the_strip_are_told_apart_without_colour() -> None:
    """No two have the same hatch and the same strength."""
    looks = [(look.get("hatch"), look.get("alpha")) for look in strip_looks(LIGHT).values()]
    assert len(set(looks)) == len(looks)


def test_lines_of_the_legend_are_told_apart_without_colour() -> None:
    """Limit and rollback level are dashed each in its own way."""
    looks = line_looks(LIGHT)
    assert len({str(looks[name].get("linestyle")) for name in looks}) == 3
    assert looks["limit"]["linestyle"] != looks["rollback level"]["linestyle"]


def test_the_strip_says_how_much_was_measured() -> None:
    """The share of the window as a percentage at its left."""
    axes = strip(panel(LATENCY, coverage=0.934))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["93%"]


Made = Callable[[], Points]


@pytest.mark.parametrize(
    ("made", "stretches"),
    [
        (lambda: points("good", 1.0, 1.0, 1.0), 1),
        (lambda: points("good", 1.0, 1.0, 1.0, every=60.0), 3),
        (lambda: points("no_data", None, None), 1),
    ],
    ids=["one", "apart", "missing"],
)
def test_neighbours_of_one_kind_are_one_stretch(made: Made, stretches: int) -> None:
    """And what was not sampled at all stays blank."""
    assert len(strip(panel(LATENCY, points=made())).collections) == stretches


def test_a_breach_was_measured_too() -> None:
    """The strip says what was seen, not whether it was good."""
    both = Points.of([*points("good", 1.0), *points("breach", 9.0)])
    axes = strip(panel(LATENCY, points=both))
    colours = {to_hex(fill.get_facecolor()[0]) for fill in axes.collections}
    assert colours == {LIGHT.value.lower()}


def test_a_value_that_is_none_is_nowhere_on_the_panel() -> None:
    """Every point that is drawn is a number."""
    axes = drawn(panel(LATENCY, points=points("good", 1.0, None, 2.0)))
    heights = [
        y for line in axes.lines if line.get_color() == LIGHT.value for y in line.get_ydata()
    ]
    assert sorted(heights) == [1.0, 2.0]
    assert all(math.isfinite(y) for y in heights)
