"""Facts about show/calibration*.py: a calibration as tables with units, and drawn on light and dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from ctp_runbook.notebook.calibrate import Asked, Recording, make
from ctp_runbook.record.calibration import Calibration, CalibrationDir
from ctp_runbook.show.blocks import Page
from ctp_runbook.show.calibration import (
    calibration_blocks,
    hours_frame,
    limits_frame,
    points_frame,
    windows_frame,
)
from ctp_runbook.show.calibration_figure import calibration_figure, calibration_picture
from ctp_runbook.show.figure_style import DARK, LIGHT, Theme
from tests.props.calibrated import calibrated_folder, example_subject
from tests.props.example_calibration import QUIET, calibration
from tests.props.recorded_engine import engine_samples, write

METRICS = ["order_latency_p99_ms", "kafka_lag_ms"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, CalibrationDir]:
    """An hour in windows of two minutes, with a slow order each two minutes."""
    return calibrated_folder(tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="module")
def points(made: tuple[Calibration, CalibrationDir]) -> pd.DataFrame:
    """Its points."""
    return points_frame(*made)


def test_points_are_what_the_judge_saw(
    made: tuple[Calibration, CalibrationDir], points: pd.DataFrame
) -> None:
    """A row a sample and metric, in UTC, the unit beside the value."""
    columns = ["time_utc", "metric", "value_in_unit", "unit", "status"]
    assert [*points.columns] == columns
    assert points["metric"].drop_duplicates().tolist() == METRICS
    assert str(points["time_utc"].iloc[0])[:19] == made[0].begins_utc[:19].replace("T", " ")
    known = points.dropna(subset=["value_in_unit"])
    spread = known.groupby("metric")["value_in_unit"].max()
    for metric in made[0].metrics:
        assert spread[metric.name] == pytest.approx(metric.quantiles["highest"], rel=1e-4)


def test_hours_add_up_to_the_whole(
    made: tuple[Calibration, CalibrationDir], points: pd.DataFrame
) -> None:
    """Every value and every failed window is in one of them."""
    hours = hours_frame(points, windows_frame(made[0]))
    assert hours["metric"].drop_duplicates().tolist() == sorted(METRICS)
    assert len(hours) == 4  # from 22:13 to 23:13
    assert hours["values_count"].sum() == points["value_in_unit"].notna().sum()
    failed = sum(len(window.failed) for window in made[0].windows)
    assert hours["failed_windows_count"].sum() == failed > 0
    assert {"median_in_unit", "p90_in_unit", "p99_in_unit", "highest_in_unit"} < {*hours.columns}


def test_windows_and_limits_are_rows(made: tuple[Calibration, CalibrationDir]) -> None:
    """A row each, with percent and counts told apart."""
    windows, limits = windows_frame(made[0]), limits_frame(made[0])
    assert len(windows) == len(made[0].windows) == 30
    assert limits["metric"].tolist() == METRICS
    assert limits["windows_count"].tolist() == [30, 30]
    assert (limits["alarms_low_percent"] <= limits["alarms_high_percent"]).all()
    assert limits["suggested_in_unit"].tolist() == [25.0, 1000.0]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_each_metric_is_drawn_against_its_limits(
    made: tuple[Calibration, CalibrationDir], points: pd.DataFrame, theme: Theme
) -> None:
    """A panel each with the limit and the suggested one, its spread, and a strip of windows."""
    figure = calibration_figure(made[0], points, windows_frame(made[0]), theme=theme)
    *panels, strip = figure.axes
    assert [axes.get_title(loc="left") for axes in panels[::2]] == [
        "Order latency p99, ms",
        "Kafka lag, ms",
    ]
    levels = [np.asarray(line.get_ydata())[0] for line in panels[0].get_lines()[1:]]
    assert levels == [5.0, 25.0]
    names = [label.get_text() for label in strip.get_yticklabels()]
    assert names == [*METRICS, "rolled back"]
    marks = [line for line in strip.get_lines() if line.get_marker() == "X"]
    (fired,) = [np.asarray(line.get_xdata()).size for line in marks]
    assert fired == sum(bool(window.rolled_back_by) for window in made[0].windows)


def test_the_picture_says_what_it_shows(
    made: tuple[Calibration, CalibrationDir], points: pd.DataFrame
) -> None:
    """In words, for who does not see it; on both kinds of page."""
    drawn = calibration_picture(made[0], points, windows_frame(made[0]), both=True)
    assert drawn.alt == made[0].sentence
    assert drawn.png[:4] == drawn.dark[:4] == b"\x89PNG"
    assert drawn.png != drawn.dark


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "✗ The old engine itself breaks these limits: with these limits"),
        ({"rollbacks": QUIET, "holds": calibration().rollbacks}, "! No rollback, but limits"),
        ({"rollbacks": QUIET, "holds": QUIET}, "✓ The old engine keeps these limits"),
    ],
    ids=["rolled back", "held", "kept"],
)
def test_the_headline_is_what_matters_most(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    """A rollback, a hold, or neither."""
    made = structs.replace(calibration(), **changes)
    assert Page([*calibration_blocks(made, CalibrationDir(tmp_path))]).text.startswith(said)


def test_no_measurement_is_no_limit_kept(tmp_path: Path) -> None:
    """Silence proves nothing."""
    none = structs.replace(QUIET, windows=0, sliding_windows=0, high=1.0)
    (metric,) = calibration().metrics
    metric = structs.replace(metric, alarms=none)
    made = structs.replace(calibration(), rollbacks=QUIET, holds=QUIET, metrics=(metric,))
    shown = Page([*calibration_blocks(made, CalibrationDir(tmp_path))]).text
    assert shown.startswith("! Nothing was measured")


def test_limits_of_which_nothing_was_measured_are_not_said_to_be_kept(tmp_path: Path) -> None:
    """What was measured is told apart from what was not."""
    (metric,) = calibration().metrics
    none = structs.replace(QUIET, windows=0, sliding_windows=0, high=1.0)
    both = (structs.replace(metric, alarms=QUIET), structs.replace(metric, alarms=none))
    made = structs.replace(calibration(), rollbacks=QUIET, holds=QUIET, metrics=both)
    shown = Page([*calibration_blocks(made, CalibrationDir(tmp_path))]).text
    assert shown.startswith("! The old engine keeps the limits that were measured, 1 of 2: ")
    assert f"nothing was measured of {metric.name}" in shown


def test_windows_that_were_put_together_are_told_and_drawn_as_such(tmp_path: Path) -> None:
    """From how many pieces, what is assumed; and none of them begins at a moment of the recording."""
    ten = Recording(source="a test", samples=write(tmp_path / "ten", engine_samples(330, seed=5)))
    own = example_subject(minutes=6.0)
    found, folder = make(own, Asked.of(own), ten, outputs=tmp_path)
    assert found.windows == ()
    shown = Page([*calibration_blocks(found, folder)]).text
    assert "200 of 6 min, put together from 11 pieces of 30 s, drawn by chance" in shown
    assert "The windows are put together from 11 pieces" in folder.watch.read_text()
    windows, points = windows_frame(found), points_frame(found, folder)
    assert len(windows) == 0
    assert hours_frame(points, windows)["failed_windows_count"].sum() == 0
    assert calibration_picture(found, points, windows).png[:4] == b"\x89PNG"
