"""Lines and stretches of a long watch: little is drawn, and no extreme and no gap is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ctp_runbook.show.lines import COLUMNS, over_marks, stretches, unbroken_lines
from ctp_runbook.watch.points import STATUSES, Point, PointLog, Points

DAY = 86_400


def points(given: Iterable[tuple[float, float | None, str]]) -> Points:
    """Points of these monotonic seconds, values and statuses."""
    log = PointLog()
    for mono, value, status in given:
        log.append(Point(1.7e9 + mono, mono, value, None, status))
    return log.points


def test_of_a_day_every_column_keeps_its_extremes() -> None:
    """One sample of 86,400 that is beyond, or far below, is still drawn; the rest is thinned."""
    values = [2.0 + 0.1 * math.sin(second) for second in range(DAY)]
    values[40_003], values[70_001] = 99.0, -5.0
    (line,) = unbroken_lines(points((t, v, "good") for t, v in enumerate(values)), far_seconds=2.5)
    assert len(line.monos) <= 4 * (COLUMNS + 1)
    assert (max(line.values), min(line.values)) == (99.0, -5.0)
    assert line.monos[line.values.index(99.0)] == 40_003
    assert (line.monos[0], line.monos[-1]) == (0, DAY - 1)
    width = (DAY - 1) / COLUMNS
    for column in range(0, COLUMNS, 7):
        inside = values[math.ceil(column * width) : math.ceil((column + 1) * width)]
        assert {max(inside), min(inside)} <= set(line.values)


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.none() | st.floats(-9, 9)), min_size=1, max_size=60)
)
def test_a_short_watch_is_drawn_whole(steps: list[tuple[float, float | None]]) -> None:
    """Every value is on a line, a line crosses neither a gap nor a missing value."""
    mono, told = 0.0, list[tuple[float, float | None, str]]()
    for gap, value in steps:
        mono += gap
        told.append((mono, value, "good" if value is not None else "no_data"))
    lines = list(unbroken_lines(points(told), far_seconds=2.5))
    drawn = [pair for line in lines for pair in zip(line.monos, line.values, strict=True)]
    assert drawn == [(at, value) for at, value, _ in told if value is not None]
    for line in lines:
        assert all(b - a <= 2.5 for a, b in zip(line.monos, line.monos[1:], strict=False))


def test_a_day_that_flickers_stays_drawable() -> None:
    """Every other sample missing, all day: thousands of gaps are no thousands of lines."""
    told = points((t, 1.0 if t % 2 else None, "good" if t % 2 else "error") for t in range(DAY))
    assert len(list(unbroken_lines(told, far_seconds=1.5))) <= COLUMNS
    found = list(stretches(told, words=STATUSES, interval=1.0, far_seconds=2.5))
    assert len(found) <= COLUMNS
    assert found[0][0] == "error"
    assert found[0][2] > DAY - 100


def test_one_missing_sample_of_a_day_shows_in_the_strip() -> None:
    """A stretch of its own, of one second."""
    told = points((t, 1.0, "error" if t == 500 else "good") for t in range(DAY))
    found = list(stretches(told, words=STATUSES, interval=1.0, far_seconds=2.5))
    assert found == [("good", 0, 500), ("error", 500, 501), ("good", 501, DAY)]


def test_points_are_what_was_appended() -> None:
    """Values, reasons and None come back; what is appended later does not show."""
    given = [
        Point(1.0, 2.0, None, None, "error", "refused"),
        Point(2.0, 3.0, 4.0, 7.0, "breach"),
        Point(3.0, 4.0, None, 0.0, "zero_events"),
    ]
    log = PointLog()
    for one in given:
        log.append(one)
    before = log.points
    log.append(given[1])
    assert list(before) == given == [before[0], before[1], before[-1]]
    assert before != log.points
    assert (before.extremes, before.statuses) == ((4.0, 4.0), {"error", "breach", "zero_events"})


def test_marks_of_a_day_are_few_and_none_stands_between() -> None:
    """The first point that is more than its value is marked, and no point that is not."""
    log = PointLog()
    for second in range(86_400):
        is_over = 1000 <= second < 80_000
        log.append(Point(second, second, 10.0, 1.0, "breach", is_over=is_over))
    marks = over_marks(log.points)
    assert marks is not None
    assert marks.monos[0] == 1000
    assert 20 < len(marks.monos) < 60
    assert max(marks.monos) < 80_000
    assert over_marks(PointLog().points) is None
