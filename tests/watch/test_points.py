"""Facts about watch/points.py: what was put in comes out, and columns say the same."""

from __future__ import annotations

import math
from array import array

import pytest

from ctp_runbook.record.sample_blocks import Block
from ctp_runbook.watch.histogram import Quantile
from ctp_runbook.watch.points import CODES, JUDGED, STATUSES, Looks, Point, PointLog, Points

POINTS = (
    Point(1.0, 2.0, None, None, "error", "refused"),
    Point(2.0, 3.0, 4.0, 7.0, "breach"),
    Point(3.0, 4.0, None, 0.0, "zero_events"),
    Point(4.0, 5.0, 9.0, 3.0, "breach", is_over=True),
    Point(5.0, 6.0, -1.0, None, "good"),
    Point(6.0, 7.0, None, None, "no_data", "f is not finite"),
    Point(7.0, 8.0, None, None, "error", "refused"),
)


def test_points_come_back_as_they_were() -> None:
    """One by one, by place from either end, and from a place on; what is not there is refused."""
    points = Points.of(POINTS)
    assert tuple(points) == POINTS
    assert [points[at] for at in range(len(points))] == [*POINTS]
    assert (points[-1], points[-7]) == (POINTS[-1], POINTS[0])
    assert tuple(points.since(5)) == POINTS[5:]
    assert tuple(points.since(7)) == ()
    for outside in (7, -8):
        with pytest.raises(IndexError):
            points[outside]


def test_what_comes_later_does_not_show() -> None:
    """Points are those of the moment they were asked for, in every respect."""
    log = PointLog()
    for point in POINTS[:3]:
        log.append(point)
    before = log.points
    log.append(POINTS[3])
    log.append(Point(9.0, 9.0, 99.0, None, "good"))
    assert tuple(before) == POINTS[:3]
    assert before.extremes == (4.0, 4.0)
    assert before.statuses == {"error", "breach", "zero_events"}
    assert len(before.columns()[0]) == 3
    assert len(before.over()[0]) == 0
    assert before != log.points


@pytest.mark.parametrize("others", [POINTS[:-1], (*POINTS[:-1], POINTS[0]), ()])
def test_points_are_equal_where_each_is(others: tuple[Point, ...]) -> None:
    """As many, and the same ones in the same order, whichever log they are of."""
    assert Points.of(POINTS) == Points.of(POINTS)
    assert Points.of(POINTS) != Points.of(others)
    assert Points.of(POINTS) != POINTS


def test_columns_say_what_the_points_say() -> None:
    """NaN for no value, a status by its place in STATUSES; marks where the truth is more."""
    points = Points.of(POINTS)
    monos, values, statuses = points.columns()
    assert monos.tolist() == [point.mono for point in POINTS]
    assert [STATUSES[code] for code in statuses] == [point.status for point in POINTS]
    assert [None if math.isnan(value) else value for value in values] == [
        point.value for point in POINTS
    ]
    over_monos, over_values = points.over()
    assert (over_monos.tolist(), over_values.tolist()) == ([5.0], [9.0])
    assert points.extremes == (-1.0, 9.0)
    assert points.statuses == {"error", "breach", "zero_events", "good", "no_data"}


def test_nothing_has_no_extremes() -> None:
    """No point, or none with a value."""
    assert Points.of(()).extremes is None
    assert Points.of(POINTS[:1]).extremes is None
    assert Points.of(()).statuses == set()
    assert [column.tolist() for column in Points.of(()).columns()] == [[], [], []]


def test_what_the_rows_of_a_block_say_is_taken_in_as_columns() -> None:
    """The same as one by one; what is appended afterwards still says its reason."""
    log, looks = PointLog(), Looks()
    log.append(POINTS[0])
    looks.add(4.0, 7.0)
    looks.add(math.nan, 0.0)
    looks.add(9.0, 3.0)
    looks.mark(2, Quantile(9.0, is_over=True))
    columns = array("d", [2.0, 3.0, 4.0]), array("d", [3.0, 4.0, 5.0]), array("d")
    block = Block("engine", "", (), True, "", array("q", [1, 2, 3]), *columns)
    log.extend(block, looks, [CODES[name] for name in ("breach", "zero_events", "breach")])
    for point in POINTS[4:]:
        log.append(point)
    assert tuple(log.points) == POINTS


def test_every_status_has_its_code() -> None:
    """A code is the status' place, as columns and pictures read it."""
    assert {STATUSES[code]: code for code in CODES.values()} == CODES
    assert {status for status in STATUSES if Point(0, 0, None, None, status).judged} == {*JUDGED}


def test_a_reason_is_kept_once() -> None:
    """A source that is down all day has one text, whatever the number of its points."""
    log = PointLog()
    for at in range(1000):
        log.append(Point(at, at, None, None, "error", "refused"))
    assert len(log.reasons) == 2
    assert {point.reason for point in log.points} == {"refused"}
