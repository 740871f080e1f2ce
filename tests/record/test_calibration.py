"""Facts about record/calibration.py: what is known of the old engine is found again, and warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.errors import JournalError
from ctp_runbook.plan.plan import Plan
from ctp_runbook.record.calibration import (
    CalibrationDir,
    calibration_warnings,
    limits_digest,
    newest_calibration,
    read_calibration,
)
from tests.props.example_calibration import MADE, QUIET, calibration
from tests.props.plan_fixtures import make_plan
from tests.props.recorded_engine import lag_rule, latency_rule


def known(outputs: Path, plan: Plan, *, made_utc: str = MADE, **changes: Any) -> CalibrationDir:
    """Keep a calibration of this plan's limits in ``outputs``."""
    folder = CalibrationDir.named(outputs, made_utc=made_utc)
    folder.path.mkdir(parents=True)
    digest = limits_digest(plan.watched, plan.trigger.text)
    own = {"environment": plan.environment, "limits_sha256": digest, **changes}
    folder.json.write_bytes(calibration(**own).json)
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of three metrics."""
    return make_plan(tmp_path)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The whole of it."""
    path = tmp_path / "calibration.json"
    path.write_bytes(calibration().json)
    assert read_calibration(path) == calibration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a calibration"),
        (b"{}", "without a format number"),
        (b'{"format": 99}', "format 99"),
        (calibration().json[:-200], "not a calibration"),
        (calibration().json.replace(b'"minutes"', b'"hours"'), "hours"),
    ],
    ids=["empty", "no format", "later", "torn", "another key"],
)
def test_what_is_none_is_refused_by_its_name(tmp_path: Path, text: bytes, said: str) -> None:
    """A sentence with the path."""
    path = tmp_path / "calibration.json"
    path.write_bytes(text)
    with pytest.raises(JournalError, match=said) as refused:
        read_calibration(path)
    assert str(path) in str(refused.value)


def test_limits_are_told_apart_by_what_decides() -> None:
    """In whatever order they stand; any other limit, rule or trigger is another."""
    rules, trigger = [latency_rule(), lag_rule()], "order_latency_p99_ms > 5"
    own = limits_digest(rules, trigger)
    assert limits_digest(rules[::-1], trigger) == own
    others = {
        limits_digest([structs.replace(rules[0], limit=6.0), rules[1]], trigger),
        limits_digest([structs.replace(rules[0], for_seconds=1.0), rules[1]], trigger),
        limits_digest(rules[:1], trigger),
        limits_digest(rules, "order_latency_p99_ms > 6"),
    }
    assert own not in others
    assert len(others) == 4


def test_a_plan_is_warned_of_what_its_limits_do_to_the_old_engine(
    tmp_path: Path, plan: Plan
) -> None:
    """In how many windows, with the interval, and where other limits are suggested."""
    folder = known(tmp_path / "outputs", plan)
    (warning,) = calibration_warnings(plan, [tmp_path / "outputs", tmp_path / "outputs" / "."])
    assert warning.startswith(
        "with these limits the old engine itself would have been rolled back in 4 of 16 windows "
        "(7.3 to 52 %) of 30 min: "
    )
    assert str(folder.watch) in warning


@pytest.mark.parametrize(
    "changes",
    [{"environment": "another"}, {"limits_sha256": "ab" * 32}, {"rollbacks": QUIET}],
    ids=["another environment", "other limits", "no rollback"],
)
def test_nothing_is_said_of_what_is_not_this_plans(
    changes: dict[str, Any], tmp_path: Path, plan: Plan
) -> None:
    """Nor of limits that the old engine keeps."""
    known(tmp_path / "outputs", plan, **changes)
    assert not [*calibration_warnings(plan, [tmp_path / "outputs"])]


def test_the_newest_of_its_kind_counts(tmp_path: Path, plan: Plan) -> None:
    """One of other limits, made since, says nothing of these; one of these does."""
    outputs = tmp_path / "outputs"
    known(outputs, plan)
    known(outputs, plan, made_utc="2026-02-03T02:02:02.000002+00:00", limits_sha256="ab" * 32)
    assert len([*calibration_warnings(plan, [outputs])]) == 1
    last = known(outputs, plan, made_utc="2026-02-04T02:02:02.000002+00:00", rollbacks=QUIET)
    assert not [*calibration_warnings(plan, [outputs])]
    assert newest_calibration(outputs) == last


def test_one_that_cannot_be_read_is_not_passed_over_in_silence(tmp_path: Path, plan: Plan) -> None:
    """It may have said that the limits are wrong."""
    folder = known(tmp_path / "outputs", plan)
    folder.json.write_text("{}")
    (warning,) = calibration_warnings(plan, [tmp_path / "outputs"])
    assert "is not known: " in warning
    assert str(folder.json) in warning


def test_where_none_was_made_there_is_none(tmp_path: Path, plan: Plan) -> None:
    """No folder, an empty one, and one that was being made."""
    (tmp_path / "outputs" / ".calibration-x.part").mkdir(parents=True)
    for outputs in (tmp_path / "nowhere", tmp_path / "outputs"):
        assert not [*calibration_warnings(plan, [outputs])]
        with pytest.raises(JournalError, match="calibrate --minutes"):
            newest_calibration(outputs)
