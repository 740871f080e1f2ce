"""The time axis of a watch: where it begins and ends, what its unit is, and what has a name on it."""

from __future__ import annotations

import math

import pytest

from ctp_runbook.record.history import History
from ctp_runbook.show.time_axis import Clock, Span, clock_of, runner_started, spans_of
from ctp_runbook.watch.points import Point
from tests.props.watch_stories import MONO, WALL, Story, begin, finish, sample
from tests.show.test_watch_figure import story


def clock(told: Story) -> Clock:
    """The clock of the story's figure, without the old engine."""
    return clock_of(told.history, told.judged()[0])


def watched(minutes: float, *, until: float, stopped: bool | None = None) -> Story:
    """A watch of so many minutes with samples until then; over when it is said how."""
    told = begin(minutes)
    sample(told, until=until, latency_ms=lambda t: 2.4)
    if stopped is not None:
        finish(told, until, stopped=stopped, outcome="COMPLETED")
    return told


def test_the_axis_counts_from_the_start_of_the_watch() -> None:
    """Zero is the record of the start; the end is that of the window, in minutes."""
    axis = clock(story("passed"))
    assert axis.zero == MONO
    assert axis.unit == "min"
    assert (axis.at(axis.zero), axis.at(axis.last)) == (0.0, 30.0)


@pytest.mark.parametrize(("minutes", "unit", "length"), [(1.0, "s", 60.0), (5.0, "min", 5.0)])
def test_a_short_watch_is_counted_in_seconds(minutes: float, unit: str, length: float) -> None:
    """A rehearsal of half a minute has an axis that can be read."""
    axis = clock(watched(minutes, until=minutes * 60))
    assert (axis.unit, axis.at(axis.last)) == (unit, length)


def test_a_watch_under_way_keeps_room_for_what_is_to_come() -> None:
    """The axis is as long as the window, however little of it is over."""
    assert clock(watched(30.0, until=60)).last == MONO + 1800


def test_a_watch_cut_short_ends_a_little_after_its_last_sample() -> None:
    """Nothing is to come any more: no empty axis to the right."""
    axis = clock(watched(30.0, until=100, stopped=True))
    assert axis.last - axis.zero == pytest.approx(110.0)


def test_a_watch_without_a_sample_still_has_an_axis() -> None:
    """Stopped before anything was measured: a few seconds, not none."""
    told = watched(30.0, until=0)
    told.samples = told.samples[:0]
    judged = story("passed").judged()[0]
    empty = judged.__class__(judged.overall, judged.sentence, {})
    finish_early = watched(30.0, until=1, stopped=True)
    axis = clock_of(finish_early.history, empty)
    assert axis.last - axis.zero == pytest.approx(5.0)


def test_the_new_runner_s_start_is_in_sight_when_it_is_near() -> None:
    """Six seconds before a watch of half an hour; of one minute, the same axis would be half empty."""
    assert runner_started(story("passed").history) == pytest.approx(MONO - 6.4)
    assert clock(story("passed")).first < MONO - 6.4
    short = clock(watched(0.5, until=30))
    assert short.first == pytest.approx(MONO - 0.3)


def test_a_runner_that_never_started_is_never_in_sight() -> None:
    """Infinitely late, so that no comparison finds it on an axis."""
    assert runner_started(History(())) == math.inf


def test_the_old_engine_is_shown_up_to_two_fifths_of_the_window() -> None:
    """Its last ten minutes are before the switch; the axis goes back to the first of them."""
    told = story("passed")
    judged, _ = told.judged()
    axis = clock_of(told.history, judged, before=told.before())
    assert axis.stopped == MONO - 19.0
    first = min(p.mono for points in told.before().values() for p in points if p.value is not None)
    assert axis.first == pytest.approx(first - 18.0)
    long_ago = {"m": (Point(WALL - 9e4, MONO - 9e4, 1.0, None, "good"),)}
    back = clock_of(told.history, judged, before=long_ago)
    assert back.first == pytest.approx(MONO - 19.0 - 0.4 * 1800 - 18.0)


@pytest.mark.parametrize("before", [{}, {"m": (Point(WALL, MONO - 60, None, None, "error"),)}])
def test_an_old_engine_that_measured_nothing_leaves_no_gap(before: dict[str, tuple[Point]]) -> None:
    """Without a value of its own there is nothing to the left of the switch."""
    told = story("passed")
    axis = clock_of(told.history, told.judged()[0], before=before)
    assert axis.stopped is None
    assert axis.before == {}


def test_a_hold_has_its_beginning_and_its_end() -> None:
    """From HOLDING to the state after it."""
    told = story("gap_and_hold")
    assert list(spans_of(told.history, clock(told))) == [Span("hold", MONO + 300, MONO + 380)]


def test_a_hold_that_lasts_goes_on_to_the_end_of_the_axis() -> None:
    """Somebody has to decide still."""
    told = watched(10.0, until=300)
    told.say("state", 300, to="HOLDING", reason="no data")
    axis = clock(told)
    assert list(spans_of(told.history, axis)) == [Span("hold", MONO + 300, axis.last)]


def test_a_gap_is_as_long_as_its_record_says() -> None:
    """It ends with the record of whoever took the watch up again."""
    told = watched(10.0, until=300)
    instants = {"from_utc": "2026-03-02T00:33:00.000000+00:00"}
    instants["to_utc"] = "2026-03-02T00:34:30.000000+00:00"
    told.say("watch_gap", 210, **instants, reason="resumed")
    (gap,) = spans_of(told.history, clock(told))
    assert (gap.name, gap.last - gap.first, gap.last) == ("gap", 90.0, MONO + 210)


@pytest.mark.parametrize(("what", "spans"), [("paused", 1), ("suspended", 0), ("clock_stepped", 0)])
def test_only_a_process_that_stood_still_leaves_a_gap(what: str, spans: int) -> None:
    """A suspended host's monotonic clock stood too; a wall clock that was set moves no sample."""
    told = watched(10.0, until=300)
    moments = {"from_mono": MONO + 100, "to_mono": MONO + 130}
    told.say("watch_disturbed", 130, what=what, seconds=30.0, **moments, sentence="it stood")
    shown = list(spans_of(told.history, clock(told)))
    assert shown == [Span("gap", MONO + 100, MONO + 130)] * spans
