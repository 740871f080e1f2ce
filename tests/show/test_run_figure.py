"""The run's line: no state without room, none over another, bars only where somebody was proved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ctp_runbook.model import Generation, State
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.show import run_figure as module
from ctp_runbook.show.run_figure import run_axis, run_figure, run_pictures
from tests.props.synthetic_runs import make_run
from tests.show.test_watch_figure import texts

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
KINDS = ("completed", "triggered", "aborted", "drill", "late", "failed", "unvalidated")


def recorded(kind: str) -> History:
    """The history of a recorded run."""
    return History.of(read_journal(GOLDEN / kind / "journal.jsonl").records)


@pytest.mark.parametrize("kind", KINDS)
def test_states_stand_side_by_side_from_edge_to_edge(kind: str) -> None:
    """Each with room for its name, in the order it was entered."""
    stretches = run_axis(recorded(kind)).stretches
    assert stretches[0].left == 0.0
    assert stretches[-1].right == pytest.approx(1.0)
    for one, after in pairwise(stretches):
        assert one.right == after.left
    assert all(one.right - one.left >= 0.07 for one in stretches)
    assert stretches[0].state is State.PLANNED


def test_a_switch_of_seconds_has_room_beside_half_an_hour(tmp_path: Path) -> None:
    """What is interesting is short: it gets more than its share of the time."""
    run = make_run("completed", tmp_path)
    stretches = run_axis(History.of(read_journal(run.journal).records)).stretches
    (switch,) = (one for one in stretches if one.state is State.SWITCHING)
    (watch,) = (one for one in stretches if one.state is State.WATCHING)
    share = (switch.last - switch.first) / (watch.last - watch.first)
    assert (switch.right - switch.left) / (watch.right - watch.left) > 3 * share


def test_a_moment_stands_inside_its_state() -> None:
    """Also before the first and after the last, at the edge."""
    axis = run_axis(recorded("triggered"))
    for one in axis.stretches:
        assert one.left <= axis.at((one.first + one.last) / 2) <= one.right
    assert axis.at(0.0) == 0.0
    assert axis.at(1e12) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("completed", 1, 1), ("triggered", 2, 1), ("aborted", 1, 0), ("failed", 1, 1)],
)
def test_a_bar_is_a_sender_that_was_proved(kind: str, old: int, new: int) -> None:
    """The old one again after a rollback, the new one never where it was not started."""
    history = recorded(kind)
    assert len(list(module._sending(history, Generation.OLD))) == old
    assert len(list(module._sending(history, Generation.NEW))) == new


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_leaves_the_page_and_every_state_is_named(kind: str) -> None:
    """With how long it lasted."""
    history = recorded(kind)
    drawn = run_figure(history)
    FigureCanvasAgg(drawn).draw()  # type: ignore[no-untyped-call]
    for text in drawn.axes[0].texts:
        box = text.get_window_extent()
        assert drawn.bbox.x0 - 1 <= box.x0 <= box.x1 <= drawn.bbox.x1 + 1, text.get_text()
    said = texts(drawn)
    for stretch in run_axis(history).stretches:
        assert stretch.state.value.replace("_", " ").lower() in said


def test_a_run_without_a_state_has_no_line() -> None:
    """One that entered none, or all at one instant in a dry run; asked for all the same, it is refused."""
    assert run_pictures(recorded("dry")) == []
    history = History.of(recorded("completed").records[:1])
    assert run_pictures(history) == []
    with pytest.raises(ValueError, match="entered no state"):
        run_figure(history)


def test_the_picture_says_in_words_what_it_shows() -> None:
    """Each state with its seconds."""
    (shown,) = run_pictures(recorded("triggered"), both=True)
    assert "SWITCHING 4.6 s, WATCHING 3.0 s, ROLLING_BACK" in shown.alt
    assert shown.dark not in (b"", shown.png)
