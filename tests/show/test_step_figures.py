"""The switch and the rollback on a time axis."""

from __future__ import annotations

from typing import Any, cast

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ctp_runbook.model import Phase
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import utc_text
from ctp_runbook.show.figure_style import DARK, LIGHT
from ctp_runbook.show.step_figures import pictures_of, rollback_figure, switch_figure
from tests.props.watch_stories import MONO, WALL, Story, begin
from tests.show.test_watch_figure import story, texts


def test_the_switch_shows_each_step_with_its_seconds() -> None:
    """Five bars in order, and how long no runner stood on a verified session."""
    said = texts(switch_figure(story("passed").history))
    assert "start_new_core_engine" in said
    assert "9.1 s  ✓ ok" in said
    assert "no runner on a verified session for 12.6 s" in said


def test_downtime_of_the_rollback_is_told_apart() -> None:
    """The shaded stretch is the switch's own; the run's whole is named beside it."""
    assert "with the rollback" in texts(switch_figure(story("spike").history))


def test_the_rollback_shows_budget_spent_and_failed_step() -> None:
    """Seconds from the triggering sample against the budget; a step that failed keeps its name."""
    said = texts(rollback_figure(story("spike").history, theme=DARK))
    assert "budget 180 s" in said
    assert "to spare" in said
    assert "6.2 s  ✗ timed_out" in said


@pytest.mark.parametrize("phase", [Phase.SWITCH, Phase.ROLLBACK])
def test_what_was_not_started_has_no_picture(phase: Phase) -> None:
    """No step, no picture; asking for the figure itself is an error."""
    empty = History(())
    assert pictures_of(empty, phase) == []
    with pytest.raises(ValueError, match=r"started no step|was not rolled back"):
        {Phase.SWITCH: switch_figure, Phase.ROLLBACK: rollback_figure}[phase](empty)


def test_a_picture_says_in_words_what_it_shows() -> None:
    """For those who cannot see it, and for a terminal."""
    (picture,) = pictures_of(story("spike").history, Phase.ROLLBACK, both=True)
    assert "trading restored" in picture.text
    assert picture.dark != picture.png


# --- every way for it to go -------------------------------------------------------


def switching(*steps: tuple[str, float, float, str]) -> Story:
    """A run in its switch: each step with its start, its seconds, and how it ended (blank: not)."""
    told = begin(30.0)
    told.records = told.records[:3]  # the header, GATING, SWITCHING
    for name, at, seconds, status in steps:
        told.step(name, "switch", at, seconds, status or "ok")
        if not status:
            told.records.pop()
    return told


def rolled_back(took: float, outcome: str = "", *, budget: float = 60.0) -> Story:
    """A rollback of one step that took so long; over when it is said how."""
    told = begin(30.0)
    told.say("trigger", 100, cause="operator", metric="", value=None, limit=None)
    told.say("state", 100, to="ROLLING_BACK", reason="asked")
    told.say(
        "rollback_started",
        100,
        budget_seconds=budget,
        started_mono_ns=int((MONO + 100) * 1e9),
        started_utc=utc_text(WALL + 100),
        shares={},
    )
    told.step("start_previous_strategy_runner", "rollback", 100.5, took)
    if outcome:
        told.say("closed", 101 + took, outcome=outcome, exit_code=4, sentence="over", running={})
    return told


STOP = ("stop_old_strategy_runner", -19.0, 0.5)
START = ("start_new_strategy_runner", -10.0, 2.0)


def bars(figure: Figure) -> list[Any]:
    """The steps' bars, from the top down."""
    patches: list[Any] = list(figure.axes[0].patches)
    return [patch for patch in patches if getattr(patch, "get_height", float)() == 0.56]


def test_a_switch_under_way_says_that_nobody_trades() -> None:
    """No runner was started yet: the sentence makes no number up."""
    said = texts(switch_figure(switching((*STOP, "ok")).history))
    assert "no runner on a verified session since the old runner's stop" in said


def test_downtime_ends_with_a_start_that_was_proved() -> None:
    """A start that failed brought nobody back; the one after it did."""
    failed = switching((*STOP, "ok"), (*START, "failed"))
    assert "since the old runner's stop" in texts(switch_figure(failed.history))
    failed.step("start_previous_strategy_runner", "rollback", -5.0, 1.0)
    assert "no runner on a verified session for 15.0 s" in texts(switch_figure(failed.history))


def test_a_step_whose_end_nobody_saw_is_hatched() -> None:
    """It may have done its work: neither good nor bad, and it looks like neither."""
    figure = switch_figure(switching((*STOP, "ok"), (*START, "")).history)
    good, unknown = bars(figure)
    assert good.get_hatch() is None
    assert unknown.get_hatch() == "////"
    assert to_hex(unknown.get_edgecolor()) == LIGHT.warn.lower()
    assert "? unknown" in texts(figure)


def test_a_failed_step_is_hatched_in_the_colour_of_bad() -> None:
    """Told apart from a good one on a black-and-white print."""
    (_, failed) = bars(switch_figure(switching((*STOP, "ok"), (*START, "failed")).history))
    assert (failed.get_hatch(), to_hex(failed.get_edgecolor())) == ("////", LIGHT.bad.lower())


def test_bars_stand_where_their_steps_were() -> None:
    """From the first stop on, in the order they were started, each as long as it took."""
    shown = bars(switch_figure(switching((*STOP, "ok"), (*START, "ok")).history))
    assert [bar.get_x() for bar in shown] == [0.0, pytest.approx(9.0)]
    assert [bar.get_width() for bar in shown] == [pytest.approx(0.5), pytest.approx(2.0)]


def test_a_step_of_no_time_is_seen_all_the_same() -> None:
    """Wide enough to be a bar, and its seconds are told as they were."""
    figure = switch_figure(switching((*STOP, "ok"), ("warmup_query", -10.0, 0.0, "ok")).history)
    assert bars(figure)[1].get_width() > 0
    assert "0.0 s  ✓ ok" in texts(figure)


@pytest.mark.parametrize(
    ("took", "outcome", "said"),
    [
        (20.0, "ROLLED_BACK_IN_BUDGET", "budget 60 s, 39.0 s to spare"),
        (80.0, "ROLLED_BACK_LATE", "budget 60 s, LATE"),
        (20.0, "ROLLBACK_FAILED", "ROLLBACK FAILED: trading is not restored (budget 60 s)"),
        (20.0, "", "rolling back; budget 60 s from the triggering sample"),
    ],
)
def test_the_headline_of_a_rollback_says_how_it_went(took: float, outcome: str, said: str) -> None:
    """In time, late, failed, or not over; a failed one claims no restored trading."""
    assert said in texts(rollback_figure(rolled_back(took, outcome).history))


@pytest.mark.parametrize(
    ("outcome", "colour"), [("ROLLED_BACK_IN_BUDGET", LIGHT.good), ("ROLLED_BACK_LATE", LIGHT.bad)]
)
def test_only_a_rollback_in_time_is_good_news(outcome: str, colour: str) -> None:
    """Trading again, but late, is not."""
    (headline,) = rollback_figure(rolled_back(20.0, outcome).history).texts
    assert headline.get_color() == colour


def test_the_budget_stays_in_sight_when_it_is_exceeded() -> None:
    """The gauge is as long as the longer of the two, with the budget as a line on it."""
    gauge = rollback_figure(rolled_back(80.0, "ROLLED_BACK_LATE").history).axes[1]
    assert gauge.get_xlim()[1] >= 80.5
    (budget,) = gauge.lines
    assert list(cast("list[float]", budget.get_xdata())) == [60.0, 60.0]


def test_a_rollback_that_started_no_step_has_no_figure() -> None:
    """A budget without a step would be a bar of nothing."""
    told = rolled_back(1.0)
    told.records = told.records[:-2]
    with pytest.raises(ValueError, match="started no step"):
        rollback_figure(told.history)
    assert pictures_of(told.history, Phase.ROLLBACK) == []
