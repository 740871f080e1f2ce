"""A calibration as a page, as tables of pandas, and as pictures: the old engine against its limits.

pandas comes with this module: neither a dry run nor the process that rolls back imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from ctp_runbook.plan.triggers import Trigger
from ctp_runbook.record.calibration import Calibration, CalibrationDir, MetricCalibration, lasting
from ctp_runbook.record.sample_blocks import read_chunks
from ctp_runbook.show.blocks import Banner, Block, Facts, Notes, Table
from ctp_runbook.watch.calibrate import Recorded, Yardstick, whole
from ctp_runbook.watch.measure import pages_of
from ctp_runbook.watch.points import STATUSES
from ctp_runbook.watch.replay import read_rules

if TYPE_CHECKING:
    from ctp_runbook.plan.config import MetricRule
    from ctp_runbook.watch.judge import MetricJudgement

__all__ = [
    "calibration_blocks",
    "hours_frame",
    "limits_frame",
    "points_frame",
    "windows_frame",
]


def calibration_blocks(calibration: Calibration, folder: CalibrationDir) -> Iterator[Block]:
    """Yield what a calibration comes to, without its pictures."""
    yield _verdict(calibration)
    rate = f"{calibration.false_alarm_rate * 100:.3g} % of the windows, by each metric"
    windows = f"{len(calibration.windows)} of {lasting(calibration.window_minutes)}, one every "
    windows += f"{lasting(calibration.step_minutes)}"
    if calibration.assumed:
        many = calibration.rollbacks.sliding_windows
        windows = f"{many} of {lasting(calibration.window_minutes)}, {calibration.assumed}"
    yield Facts(
        [
            ("recorded", f"{calibration.source}: {_span(calibration)}"),
            ("windows", windows),
            ("wanted", f"false alarms in at most {rate}"),
            ("rolls back", calibration.trigger_text),
            ("limits to take over", str(folder.watch)),
        ]
    )
    columns = ("metric", "median", "p99", "highest", "limit", "alarms", "would hold", "suggested")
    rows = [_row(metric, calibration) for metric in calibration.metrics]
    yield Table(columns, rows, title="Each metric against its limit", numbers=columns[1:5])
    reasons = [f"{metric.name}: {metric.sentence}" for metric in calibration.metrics]
    yield Notes("info", reasons, title="Why these limits")


def _verdict(calibration: Calibration) -> Banner:
    rollbacks, holds = calibration.rollbacks, calibration.holds
    sentence, level = calibration.sentence, "good"
    if calibration.unmeasured:
        sentence += f"; nothing was measured of {', '.join(calibration.unmeasured)}"
        level = "warn"
    if rollbacks.sliding_alarms or holds.sliding_alarms:
        sentence += f"; held for a decision in {holds.sentence}"
        level = "bad" if rollbacks.sliding_alarms else "warn"
    return Banner(level, calibration.headline, sentence)


def _span(calibration: Calibration) -> str:
    begins = calibration.begins_utc[:19].replace("T", " ")
    return f"{calibration.minutes:.4g} min from {begins} UTC, {calibration.samples} samples"


def _row(metric: MetricCalibration, calibration: Calibration) -> tuple[object, ...]:
    rule = calibration.watch.metrics[metric.name]
    spread = (metric.quantiles.get(name) for name in ("median", "p99", "highest"))
    held, suggested = (_amount(value) for value in (metric.would_hold, metric.suggested))
    unit = f"{metric.name}, {rule.unit}" if rule.unit in ("ms", "s") else metric.name
    limit = _amount(rule.limit)
    return (unit, *map(_amount, spread), limit, metric.alarms.sentence, held, suggested)


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.4g}"


# --- tables -----------------------------------------------------------------------


def points_frame(calibration: Calibration, folder: CalibrationDir) -> pd.DataFrame:
    """Return a row a value that the judge saw, by metric and time, without a warm-up.

    Raises JournalError for samples that cannot be read.
    """
    recorded = Recorded(read_chunks(folder.samples))
    rules = read_rules(calibration.watch)
    names = tuple(metric.name for metric in calibration.metrics)
    yardstick = Yardstick(rules, names, Trigger("", ()))
    pages = pages_of(yardstick.watched)
    return pd.concat(
        [
            _points(
                rule.name, rule.unit, recorded, whole(recorded.of(rule, pages=pages), rule, rules)
            )
            for rule in yardstick.watched
        ],
        ignore_index=True,
    )


def _points(name: str, unit: str, recorded: Recorded, judged: MetricJudgement) -> pd.DataFrame:
    monos, values, statuses = judged.points.columns()
    seconds = monos + recorded.wall_zero
    return pd.DataFrame(
        {
            "time_utc": pd.to_datetime(seconds, unit="s", utc=True),
            "metric": name,
            "value_in_unit": values,
            "unit": unit,
            "status": pd.Series(statuses).map(dict(enumerate(STATUSES))),
        }
    )


def hours_frame(points: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Return how each metric's values are spread hour by hour, and how many windows that began then
    failed by it."""
    known = points.dropna(subset=["value_in_unit"])
    hours = known.assign(hour_utc=known["time_utc"].dt.floor("h")).groupby(["metric", "hour_utc"])
    levels = {"median": 0.5, "p90": 0.9, "p99": 0.99, "highest": 1.0}
    spread = pd.DataFrame(
        {f"{name}_in_unit": hours["value_in_unit"].quantile(at) for name, at in levels.items()}
    )
    spread.insert(0, "values_count", hours.size())
    failed = windows.explode("failed").dropna(subset=["failed"])
    counts = failed.groupby([failed["failed"], failed["started_utc"].dt.floor("h")]).size()
    counts.index.names = ["metric", "hour_utc"]
    spread["failed_windows_count"] = counts.reindex(spread.index, fill_value=0)
    return spread.reset_index()


def windows_frame(calibration: Calibration) -> pd.DataFrame:
    """Return a row a window: when it began, how it ended, and by which metrics."""
    rows = [
        {
            "started_utc": pd.Timestamp(window.started_utc).floor("s"),
            "verdict": window.verdict,
            "rolled_back_by": window.rolled_back_by,
            "failed": list(window.failed),
            "not_proved": list(window.not_proved),
        }
        for window in calibration.windows
    ]
    columns = ["started_utc", "verdict", "rolled_back_by", "failed", "not_proved"]
    return pd.DataFrame(rows, columns=columns).astype({"started_utc": "datetime64[ns, UTC]"})


def limits_frame(calibration: Calibration) -> pd.DataFrame:
    """Return a row a metric: its limit, the alarms it raised, and the limit suggested."""
    rules: Mapping[str, MetricRule] = calibration.watch.metrics
    rows = [
        {
            "metric": metric.name,
            "unit": rules[metric.name].unit,
            "limit_in_unit": rules[metric.name].limit,
            "alarms_count": metric.alarms.alarms,
            "windows_count": metric.alarms.windows,
            "alarms_low_percent": round(metric.alarms.low * 100, 1),
            "alarms_high_percent": round(metric.alarms.high * 100, 1),
            "would_hold_in_unit": metric.would_hold,
            "suggested_in_unit": metric.suggested,
        }
        for metric in calibration.metrics
    ]
    return pd.DataFrame(rows)
