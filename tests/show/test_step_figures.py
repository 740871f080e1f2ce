"""The switch and the rollback on a time axis."""

from __future__ import annotations

import pytest

from ctp_runbook.model import Phase
from ctp_runbook.record.history import History
from ctp_runbook.show.figure_style import DARK
from ctp_runbook.show.step_figures import pictures_of, rollback_figure, switch_figure
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
