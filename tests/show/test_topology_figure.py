"""The host as a picture: boxes that do not touch, words that fit, states one can see without colour."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctp_runbook.plan.gate_table import PARTS
from ctp_runbook.show.figure_style import DARK, LIGHT, Theme
from ctp_runbook.show.topology import Flight, Station, Topology
from ctp_runbook.show.topology_figure import topology_figure, topology_picture
from tests.show.test_watch_figure import texts

HOPS = {"postgres": 3.0, "debezium_to_kafka": 150.0, "kafka_to_clickhouse": 80.0}


def host(*changed: Station, **canary: Any) -> Topology:
    """Every part as wanted, but for those ``changed``."""
    parts = {key: Station(key, "ok") for key in PARTS}
    return Topology(tuple({**parts, **{s.key: s for s in changed}}.values()), **canary)


def boxes(figure: Figure) -> list[Rectangle]:
    """The parts' boxes, in the order of PARTS."""
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def test_every_part_has_a_box_of_its_own() -> None:
    """As many boxes as parts, none over another, all on the page."""
    drawn = topology_figure(host())
    areas = [box.get_bbox() for box in boxes(drawn)]
    assert len(areas) == len(PARTS)
    assert not any(one.overlaps(other) for one, other in combinations(areas, 2))
    assert all(area.x0 >= 0 and area.x1 <= 110 and 0 <= area.y0 <= 35 for area in areas)


@pytest.mark.parametrize("state", ["failed", "timed_out", "unknown"])
def test_a_bad_part_is_seen_on_a_black_and_white_print(state: str) -> None:
    """Its edge is twice as heavy, and a part nobody looked at is dashed."""
    drawn = topology_figure(host(Station("redis", state), Station("kafka", "")))
    edges = dict(zip(PARTS, boxes(drawn), strict=True))
    assert edges["redis"].get_linewidth() > 1.5 * edges["postgres"].get_linewidth()
    assert edges["kafka"].get_linestyle() != edges["postgres"].get_linestyle()
    assert "not looked at" in texts(drawn)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_edge_has_the_colour_of_the_state(theme: Theme) -> None:
    """Good, bad, and neither, on both themes."""
    from matplotlib.colors import to_rgba

    drawn = topology_figure(host(Station("redis", "failed"), Station("kafka", "")), theme=theme)
    edges = dict(zip(PARTS, boxes(drawn), strict=True))
    shown = [edges[key].get_edgecolor() for key in ("postgres", "redis", "kafka")]
    assert shown == [to_rgba(c) for c in (theme.good, theme.bad, theme.faint)]


def test_what_is_wrong_stands_in_the_place_of_what_was_seen() -> None:
    """The box has room for one of them, and the problem is what an operator needs."""
    part = Station("kafka", "failed", ("6 topics",), "market.ticks.v1: partitions 1, expected 6")
    said = texts(topology_figure(host(part)))
    assert "partitions 1" in said
    assert "6 topics" not in said


def test_a_long_fact_is_cut_where_the_box_ends() -> None:
    """With a sign that more was said."""
    said = texts(topology_figure(host(Station("redis", "ok", ("x" * 80,)))))
    (line,) = [line for line in said.splitlines() if line.startswith("xxx")]
    assert line == "x" * 16 + "…"


def test_more_facts_than_lines_end_with_a_sign() -> None:
    """Five lines, the last of them marked."""
    facts = tuple(f"fact {n}" for n in range(9))
    said = texts(topology_figure(host(Station("redis", "ok", facts)))).splitlines()
    assert [line for line in said if line.startswith("fact")] == [
        *facts[:4],
        "fact 4 …",
    ]


def test_no_word_leaves_the_page() -> None:
    """Of boxes, of the canary's bars and of its legend, at their fullest."""
    full = [Station(key, "failed", (), "why it is not as wanted, at length " * 9) for key in PARTS]
    flights = tuple(Flight(dict.fromkeys(HOPS, 900.0), "stuck") for _ in range(9))
    drawn = topology_figure(host(*full, flights=flights, canary_problem="it is stuck " * 20))
    FigureCanvasAgg(drawn).draw()  # type: ignore[no-untyped-call]
    for text in [text for axes in drawn.axes for text in (*axes.texts, axes.title)]:
        box = text.get_window_extent()
        assert drawn.bbox.x0 - 1 <= box.x0 <= box.x1 <= drawn.bbox.x1 + 1, text.get_text()


def test_a_host_without_a_canary_has_no_axis_for_one() -> None:
    """Nothing flew: no empty chart that could be taken for a quiet one."""
    assert len(topology_figure(host()).axes) == 1
    assert len(topology_figure(host(flights=(Flight(HOPS),))).axes) == 2


def test_each_flight_is_a_bar_cut_into_its_hops() -> None:
    """One after the other, as long as they took, end to end."""
    chart = topology_figure(host(flights=(Flight(HOPS),))).axes[1]
    bars = [patch for patch in chart.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == list(HOPS.values())
    assert [bar.get_x() for bar in bars] == [0.0, 3.0, 153.0]
    assert [text.get_text() for text in chart.texts] == ["233 ms"]


def test_hops_are_told_apart_without_colour_and_named_once() -> None:
    """A hatch a hop; the legend has each once however many flew."""
    chart = topology_figure(host(flights=(Flight(HOPS),) * 3)).axes[1]
    hatches = {patch.get_hatch() for patch in chart.patches}
    assert len(hatches) == len(HOPS)
    legend = chart.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["insert → commit", "commit → Kafka", "Kafka → ClickHouse"]


def test_of_many_flights_five_are_shown() -> None:
    """What flew last says no more than what flew first."""
    chart = topology_figure(host(flights=(Flight(HOPS),) * 9)).axes[1]
    assert [text.get_text() for text in chart.get_yticklabels()] == [
        f"canary {n}" for n in range(1, 6)
    ]


def test_a_hop_nobody_knows_is_shown_by_its_own_name() -> None:
    """A new hop of the canary is drawn before the picture has a word for it."""
    legend = topology_figure(host(flights=(Flight({"to_mars": 5.0}),))).axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["to_mars"]


def test_a_canary_that_could_not_be_read_is_told_without_bars() -> None:
    """The chart's title says what is wrong, cut to what fits."""
    drawn = topology_figure(host(canary_problem="it cannot be read: " + "x " * 200))
    title = drawn.axes[1].get_title(loc="left")
    assert title.startswith("✗ canary FAILED: it cannot be read")
    assert title.endswith("…")
    assert drawn.axes[1].get_legend() is None


def test_the_picture_says_in_words_what_it_shows() -> None:
    """For those who cannot see it: what is wrong, and how long each hop took."""
    flights = tuple(Flight({"postgres": ms}) for ms in (9.0, 1.0, 2.0))
    bad = Station("redis", "failed", (), "no answer")
    shown = topology_picture(host(bad, flights=flights), both=True)
    assert (
        shown.alt == "the host: Redis bridge failed: no answer; canary, median of 3: postgres 2 ms"
    )
    assert shown.dark not in (b"", shown.png)
