"""Facts about show/past_runs*.py: many runs as tables, sentences and pictures, on light and dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from ctp_runbook.record.past_runs import HostRuns, PastRun, PastRuns, SkippedRun, past_runs, runs_of
from ctp_runbook.show.blocks import Page
from ctp_runbook.show.figure_style import DARK, LIGHT, Theme
from ctp_runbook.show.past_runs import (
    bound_banner,
    bound_blocks,
    bounds_of,
    fleet_page,
    runs_table,
    skipped_notes,
    spoken_of,
)
from ctp_runbook.show.past_runs_figure import (
    durations_figure,
    durations_pictures,
    trend_figure,
    trend_pictures,
)
from tests.props.many_runs import many_drills

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture(scope="module")
def golden() -> tuple[PastRun, ...]:
    """The recorded runs: one of each end."""
    return runs_of(past_runs(GOLDEN).runs)[1]


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> tuple[PastRun, ...]:
    """Sixty drills that differ by chance."""
    outputs = tmp_path_factory.mktemp("outputs")
    many_drills(outputs, 60)
    return past_runs(outputs).runs


def banner_of(runs: tuple[PastRun, ...]) -> str:
    """The headline of these runs."""
    return bound_banner("x", runs, bounds_of(runs)).text


def test_the_headline_says_whether_a_rollback_ends_in_time(
    golden: tuple[PastRun, ...], drills: tuple[PastRun, ...]
) -> None:
    """Good only where it is proved; one that failed or was late is the first thing to know."""
    assert banner_of(drills).startswith("✓ Rollbacks of x end in time: 95 % confident that 95 % of")
    assert banner_of(drills[:58]).startswith("! Rollbacks of x were in time, and few prove little")
    assert banner_of(golden).startswith(
        "✗ Rollbacks of x fail or are late: 2 of 6 did not end well, 1"
    )
    none = tuple(run for run in golden if run.rollback_seconds is None)
    assert banner_of(none).startswith("ℹ No rollback of x was measured")
    budget = min(run.rollback_seconds or 0 for run in drills)
    tight = (*drills[:-1], structs.replace(drills[-1], rollback_budget_seconds=budget))
    assert banner_of(tight).startswith("✗ Rollbacks of x fail or are late: 0 of 60")


def test_a_trend_is_no_bound(drills: tuple[PastRun, ...]) -> None:
    """Runs that take longer and longer are not alike."""
    slower = tuple(
        structs.replace(run, rollback_seconds=1.0 + number) for number, run in enumerate(drills)
    )
    assert banner_of(slower).startswith("! ")
    assert "they change from run to run" in banner_of(slower)


def test_each_step_has_a_row(drills: tuple[PastRun, ...]) -> None:
    """In the order of the runbook, below the three that matter."""
    bounds = bounds_of(drills)
    assert [bound.what for bound in bounds[:4]] == [
        "rollbacks",
        "cutovers",
        "downtimes",
        "bootstrap_infra",
    ]
    text = Page([*bound_blocks(bounds)]).text
    assert "95 % of runs of post_rollback_validate end within" in text


def test_names_of_others_act_on_no_terminal(golden: tuple[PastRun, ...]) -> None:
    """A line is a line, whatever a folder is called."""
    run = structs.replace(golden[0], run_id="a\n\x1b[2J\tb")
    past = PastRuns(outputs="x", runs=(run,), skipped=(SkippedRun("a\nb", "c\x1b"),))
    assert len(runs_table(past).text.splitlines()) == 2
    assert "a\\n\\x1b[2J\\tb" in runs_table(past).text
    assert skipped_notes(past).text == "! skipped a\\nb: c\\x1b"
    assert spoken_of("a\nb") == "a\\nb"


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_run_is_drawn_once(golden: tuple[PastRun, ...], theme: Theme) -> None:
    """In the strip of ends; in a panel where it has the value. A dry run is none."""
    figure = trend_figure("all twins", golden, bounds_of(golden), theme=theme)
    strip, rollback, *_, margin = figure.axes

    def drawn(axes: object) -> list[tuple[float, float]]:
        lines = [line for line in axes.get_lines() if line.get_linestyle() == "None"]  # type: ignore[attr-defined]
        return [
            (float(x), float(y))
            for line in lines
            for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
        ]

    real = [run for run in golden if not run.is_dry]
    assert sorted(x for x, _ in drawn(strip)) == [*range(len(real))]
    seconds = [run.rollback_seconds for run in real if run.rollback_seconds is not None]
    assert sorted(y for _, y in drawn(rollback)) == sorted(seconds)
    # One was over its limit by nine times it: at the edge, and the other is still seen.
    assert sorted(y for _, y in drawn(margin)) == [-100.0, 85.72]


def test_the_last_of_very_many_are_drawn(drills: tuple[PastRun, ...]) -> None:
    """And it says so."""
    many = drills * 5
    figure = trend_figure("x", many, bounds_of(many))
    assert any("300 runs, the last 240 are drawn" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_steps_are_drawn_with_their_bounds(drills: tuple[PastRun, ...], theme: Theme) -> None:
    """A row each; of enough runs also the bound."""
    figure = durations_figure(drills, bounds_of(drills), theme=theme)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == 17
    assert sum("≤" in text.get_text() for text in axes.texts) == 17


def test_pictures_say_what_they_show(golden: tuple[PastRun, ...]) -> None:
    """In words; and of dry runs alone there are none."""
    bounds = bounds_of(golden)
    (trend,), (steps,) = trend_pictures("x", golden, bounds), durations_pictures(golden, bounds)
    assert trend.alt.startswith("9 runs of x, oldest first; 95 % confident that 27.1 %")
    assert steps.alt.startswith("how long each of 17 steps took")
    assert trend.png[:4] == steps.png[:4] == b"\x89PNG"
    dry = tuple(run for run in golden if run.is_dry)
    assert trend_pictures("x", dry, bounds_of(dry)) == []
    assert durations_pictures(dry, bounds_of(dry)) == []


@pytest.mark.parametrize("huge", [0.0, 1e308], ids=["nothing", "huge"])
def test_what_no_run_can_say_is_drawn_all_the_same(
    huge: float, golden: tuple[PastRun, ...]
) -> None:
    """A journal of somebody else's may hold any number, and an end that is none of such a run."""
    spoilt = tuple(
        structs.replace(
            run,
            outcome="DRY_RUN_OK",
            rollback_seconds=huge,
            downtime_seconds=huge,
            cutover_seconds=huge,
            rollback_budget_seconds=huge,
            tightest_margin_percent=-huge,
            steps=tuple(structs.replace(step, status="ok", seconds=huge) for step in run.steps),
        )
        for run in golden
    )
    bounds = bounds_of(spoilt)
    assert trend_pictures("x", spoilt, bounds)
    assert durations_pictures(spoilt, bounds)
    assert banner_of(spoilt)
    assert Page([*bound_blocks(bounds)]).text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "the new stack"),
        ({"outcome": "", "state": "WATCHING"}, "the new stack"),
        ({"outcome": "", "state": "GATING"}, "the old stack"),
        ({"outcome": "", "state": "SWITCHING"}, "nobody, for most of it"),
        ({"outcome": "", "state": "<b>"}, "nobody, for most of it"),
        ({"running": {}}, "nobody was looked at"),
        (
            {"running": {"old_core_engine": "gone", "new_core_engine": "gone"}},
            "nobody</td>",
        ),
        (
            {"running": {"old_core_engine": "gone", "new_core_engine": "undecided"}},
            "new core engine u",
        ),
        (
            {"running": {"old_core_engine": "<i>", "new_core_engine": "alive"}},
            "old core engine &lt;",
        ),
    ],
)
def test_a_page_of_hosts_says_who_trades(change: dict[str, object], said: str) -> None:
    """By the last look; what is not plainly one whole stack is told part by part."""
    run = next(run for run in past_runs(GOLDEN).runs if run.run_id == "completed")
    page = fleet_page([HostRuns("h", structs.replace(run, **change))], told_utc="now", reports={})
    assert said in page
    assert "<b>" not in page.partition("</header>")[2]
    assert "<i>" not in page


def test_a_page_of_hosts_that_are_all_done(golden: tuple[PastRun, ...]) -> None:
    """Good news is told as such, with nobody left out."""
    run = next(run for run in golden if run.outcome == "COMPLETED")
    page = fleet_page([HostRuns("a", run), HostRuns("b", run)], told_utc="now", reports={})
    assert "✓ 2 of 2 hosts COMPLETED" in page
    assert "Not reached" not in page
