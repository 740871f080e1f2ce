"""The record as pandas DataFrames, a function each: for whoever wants to reckon with it.

Columns are typed, with units in their names: ``utc`` and ``…_utc`` are moments in UTC, ``…_seconds``
and ``…_ms`` are floats; ``monotonic_seconds``, of the host's monotonic clock, puts records, samples
and points in one order. A metric has a unit of its own: beside its ``value`` stands ``unit``. What is
not known is missing (NaN, NaT, <NA>). Texts have their control characters escaped: no cell acts on a
page or a terminal. Of nothing comes an empty frame with the same columns and types.

pandas is imported by the first frame that somebody asks for: neither a dry run nor who acts pays
for it.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs, to_builtins

from ctp_runbook.plan.config import MetricRule
from ctp_runbook.plan.template_text import printable
from ctp_runbook.record.durations import Bound
from ctp_runbook.record.gate_files import ReadinessFile
from ctp_runbook.record.history import History
from ctp_runbook.record.past_runs import PastRun
from ctp_runbook.record.samples import Sample, each_sample

if TYPE_CHECKING:
    import pandas as pd

    from ctp_runbook.verify.report import VerificationReport
    from ctp_runbook.watch.judge import WindowJudgement

__all__ = [
    "bounds",
    "checks",
    "gates",
    "journal",
    "points",
    "runs",
    "runs_metrics",
    "runs_steps",
    "samples",
    "slis",
    "steps",
    "verdicts",
]

_UTC, _TEXT, _WORD, _FLOAT = "datetime64[us, UTC]", "str", "category", "float64"
# Each column's type, and what of a row's thing it shows.
_Columns = Mapping[str, tuple[str, Callable[[Any], object]]]


def journal(history: History) -> pd.DataFrame:
    """A row a record: when, of which ``kind``, and its ``payload`` as JSON."""
    columns: _Columns = {
        "seq": ("int64", attrgetter("seq")),
        "utc": (_UTC, attrgetter("wall_utc")),
        "monotonic_seconds": (_FLOAT, lambda record: record.mono_ns / 1e9),
        "kind": (_WORD, attrgetter("payload.kind")),
        "payload": (_TEXT, lambda record: _as_json(record.payload)),
    }
    return _of_each(history.records, columns)


def steps(history: History) -> pd.DataFrame:
    """A row a step of the plan, as its last attempt went; one without an end has no duration."""
    columns: _Columns = {
        "step": (_TEXT, attrgetter("name")),
        "phase": (_WORD, lambda step: step.phase or phases[step.name]),
        "status": (_WORD, attrgetter("status.value")),
        "attempt": ("int64", attrgetter("attempt")),
        "started_utc": (_UTC, attrgetter("started_utc")),
        "ended_utc": (_UTC, attrgetter("ended_utc")),
        "duration_seconds": (_FLOAT, lambda s: s.duration_ms / 1000 if s.ended_utc else math.nan),
        "exit_code": ("Int64", attrgetter("exit_code")),
        "why": (_TEXT, attrgetter("reason")),
        "output": (_TEXT, attrgetter("output")),
    }
    phases = {step.name: step.phase.value for step in history.plan.steps}
    return _of_each(map(history.step, {**phases, **history.steps}), columns)


def gates(observed: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    """A row an observation of an infra gate: of what, and what was ``seen``."""
    columns: _Columns = {
        "gate": (_WORD, lambda row: row[0]),
        "observed": (_TEXT, lambda row: row[1]),
        "seen": (_TEXT, lambda row: row[2]),
    }
    return _of_each(observed, columns)


def slis(report: ReadinessFile) -> pd.DataFrame:
    """A row a service level of a readiness file; one that is not measurable is neither healthy nor
    not."""
    columns: _Columns = {
        "sli": (_TEXT, attrgetter("name")),
        "value": (_FLOAT, lambda sli: _number(sli.value)),
        "target": (_FLOAT, lambda sli: _number(sli.target)),
        "unit": (_WORD, attrgetter("unit")),
        "healthy": ("boolean", lambda sli: None if sli.is_unmeasurable else sli.healthy),
        **{fact: (_TEXT, attrgetter(fact)) for fact in ("provenance", "source", "detail")},
    }
    return _of_each(report.slis, columns)


def verdicts(judged: WindowJudgement | None, rules: Mapping[str, MetricRule]) -> pd.DataFrame:
    """A row a metric: ``worst`` (where ``worst_is_over`` the truth is more), ``limit`` and ``margin``
    in its ``unit``, and which share of the window was measured (``coverage``, 0 to 1)."""
    columns: _Columns = {
        "metric": (_TEXT, attrgetter("name")),
        "verdict": (_WORD, attrgetter("verdict.name")),
        "worst": (_FLOAT, attrgetter("worst")),
        "worst_is_over": ("bool", attrgetter("worst_is_over")),
        "worst_utc": (_UTC, attrgetter("worst_wall")),
        "limit": (_FLOAT, attrgetter("limit")),
        "margin": (_FLOAT, attrgetter("margin")),
        "unit": (_WORD, lambda metric: rules[metric.name].unit),
        "coverage": (_FLOAT, attrgetter("coverage")),
        "why": (_TEXT, attrgetter("sentence")),
    }
    return _of_each(judged.metrics.values() if judged else (), columns)


def points(judged: WindowJudgement | None, rules: Mapping[str, MetricRule]) -> pd.DataFrame:
    """A row a measurement of a metric: its ``value`` (where ``is_over`` the truth is more) in its
    ``unit``, and the ``events`` that it was made of."""
    import numpy as np

    columns = {
        "metric": (_WORD, "metric"),
        "utc": (_UTC, "wall"),
        "monotonic_seconds": (_FLOAT, "mono"),
        "value": (_FLOAT, "value"),
        "is_over": ("bool", "over"),
        "unit": (_WORD, "unit"),
        "events": (_FLOAT, "events"),
        "status": (_WORD, "status"),
        "why": (_WORD, "reason"),
        "labels": (_WORD, "labels"),
    }
    parts = []
    for name, metric in judged.metrics.items() if judged else ():
        own, many = {"metric": name, "unit": rules[name].unit}, len(metric.points)
        whole = {key: np.full(many, word, object) for key, word in own.items()}
        parts.append({**metric.points.worded(), **whole})
    return _frame(
        {
            column: (dtype, np.concatenate([part[key] for part in parts]) if parts else [])
            for column, (dtype, key) in columns.items()
        }
    )


def samples(path: Path) -> pd.DataFrame:
    """A row a value that was told at a look, in the unit of whoever told it; a look that showed none
    has one row, without ``series`` and ``value``.

    Raises JournalError naming the line that is no sample.
    """
    import numpy as np
    import pandas as pd

    columns: _Columns = {
        "seq": ("int64", attrgetter("seq")),
        "utc": (_UTC, attrgetter("wall")),
        "monotonic_seconds": (_FLOAT, attrgetter("mono")),
        "source": (_WORD, attrgetter("source")),
        "target": (_WORD, attrgetter("target")),
        "ok": ("bool", attrgetter("ok")),
        "error": (_WORD, attrgetter("error")),
        "took_ms": (_FLOAT, attrgetter("took_ms")),
    }
    looks, counts, codes, values = list[Sample](), array("q"), array("q"), array("d")
    names: dict[str, int] = {}
    layouts: dict[tuple[str, ...], array[int]] = {(): array("q", [-1])}
    for look in each_sample(path):
        layout = tuple(look.series)
        if layout not in layouts:
            shown = map(printable, layout)
            layouts[layout] = array("q", [names.setdefault(key, len(names)) for key in shown])
        looks.append(structs.replace(look, series={}))
        counts.append(len(layouts[layout]))
        codes.extend(layouts[layout])
        values.extend(look.series.values() or [math.nan])
    frame = _of_each(looks, columns)
    frame = frame.loc[np.repeat(np.arange(len(looks)), counts)].reset_index(drop=True)
    frame["series"] = pd.Categorical.from_codes(np.array(codes), pd.Index([*names], dtype=_TEXT))
    frame["value"] = np.array(values)
    return frame


def checks(report: VerificationReport) -> pd.DataFrame:
    """A row a check of the record; one that does not apply had nothing to check."""
    columns: _Columns = {
        "check": (_TEXT, attrgetter("name")),
        "ok": ("bool", attrgetter("ok")),
        "applies": ("bool", attrgetter("applies")),
        "what": (_TEXT, attrgetter("sentence")),
    }
    return _of_each(report.checks, columns)


def runs(past: Iterable[PastRun]) -> pd.DataFrame:
    """A row a run, oldest first. ``is_down``: nothing that sends orders was started again;
    ``tightest_margin_percent`` is of the limit of ``tightest_metric``."""
    columns: _Columns = {
        "run": (_TEXT, attrgetter("run_id")),
        "started_utc": (_UTC, attrgetter("started_utc")),
        "ended_utc": (_UTC, lambda run: run.ended_utc or None),
        "environment": (_WORD, attrgetter("environment")),
        "mode": (_WORD, attrgetter("mode")),
        "outcome": (_WORD, attrgetter("outcome")),
        "state": (_WORD, attrgetter("state")),
        "failed_step": (_WORD, attrgetter("failed_step")),
        **{
            f"{name}_seconds": (_FLOAT, attrgetter(f"{name}_seconds"))
            for name in ("cutover", "downtime", "rollback", "rollback_budget")
        },
        "is_down": ("bool", attrgetter("is_down")),
        "watch_verdict": (_WORD, attrgetter("watch_verdict")),
        "tightest_metric": (_WORD, attrgetter("tightest_metric")),
        "tightest_margin_percent": (_FLOAT, attrgetter("tightest_margin_percent")),
        "restarts": ("int64", attrgetter("restarts")),
        "plan_sha256": (_WORD, attrgetter("plan_sha256")),
        "record": (_WORD, attrgetter("seal")),
        "path": (_TEXT, attrgetter("path")),
    }
    return _of_each(past, columns)


def runs_steps(past: Iterable[PastRun]) -> pd.DataFrame:
    """A row a step of each run; one without an end has no duration."""
    columns: _Columns = {
        "run": (_WORD, lambda row: row[0].run_id),
        "started_utc": (_UTC, lambda row: row[0].started_utc),
        "step": (_WORD, lambda row: row[1].name),
        "phase": (_WORD, lambda row: row[1].phase),
        "status": (_WORD, lambda row: row[1].status),
        "duration_seconds": (_FLOAT, lambda row: row[1].seconds),
    }
    return _of_each(((run, step) for run in past for step in run.steps), columns)


def runs_metrics(past: Iterable[PastRun]) -> pd.DataFrame:
    """A row a metric of each watch, its ``worst`` value, ``limit`` and ``margin`` in its ``unit``."""
    columns: _Columns = {
        "run": (_WORD, lambda row: row[0].run_id),
        "started_utc": (_UTC, lambda row: row[0].started_utc),
        "metric": (_WORD, lambda row: row[1].name),
        "verdict": (_WORD, lambda row: row[1].verdict),
        "worst": (_FLOAT, lambda row: row[1].worst),
        "limit": (_FLOAT, lambda row: row[1].limit),
        "margin": (_FLOAT, lambda row: row[1].margin),
        "unit": (_WORD, lambda row: row[1].unit),
        "margin_percent": (_FLOAT, lambda row: row[1].margin_percent),
    }
    return _of_each(((run, metric) for run in past for metric in run.metrics), columns)


def bounds(known: Iterable[Bound]) -> pd.DataFrame:
    """A row a thing that takes time: with so much confidence ``share_percent`` of it ends within
    ``bound_seconds``; ``needed_runs`` are needed for ``wanted_percent``."""
    columns: _Columns = {
        "what": (_TEXT, attrgetter("what")),
        "runs": ("int64", attrgetter("runs")),
        "failed": ("int64", attrgetter("failed")),
        **{
            f"{name}_seconds": (_FLOAT, attrgetter(f"{name}_seconds"))
            for name in ("median", "longest")
        },
        "bound_seconds": (_FLOAT, attrgetter("seconds")),
        "share_percent": (_FLOAT, lambda bound: _percent(bound.share)),
        "wanted_percent": (_FLOAT, lambda bound: _percent(bound.wanted)),
        "confidence_percent": (_FLOAT, lambda bound: _percent(bound.confidence)),
        "needed_runs": ("int64", attrgetter("needed")),
        "trend_p": (_FLOAT, attrgetter("trend_p")),
        "why": (_TEXT, attrgetter("sentence")),
    }
    return _of_each(known, columns)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _of_each(things: Iterable[Any], columns: _Columns) -> pd.DataFrame:
    rows = [*things]
    return _frame(
        {name: (dtype, [of(row) for row in rows]) for name, (dtype, of) in columns.items()}
    )


def _frame(columns: Mapping[str, tuple[str, Any]]) -> pd.DataFrame:
    """``columns`` by name, each with its type; moments are ISO texts or seconds since the epoch."""
    import pandas as pd

    return pd.DataFrame({name: _typed(values, dtype) for name, (dtype, values) in columns.items()})


def _typed(values: Any, dtype: str) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    if dtype in (_TEXT, _WORD):
        # Each text once: a page that is broken all day tells one error.
        shown = {value: printable(value) for value in dict.fromkeys(values)}
        texts = pd.Series([shown[value] for value in values], dtype=_TEXT)
        return texts.astype("category") if dtype == _WORD else texts
    if dtype == _UTC and not any(isinstance(value, str) for value in values[:1]):
        seconds = np.array(values, dtype=_FLOAT)
        is_known = ~np.isnan(seconds)
        values = np.full(len(seconds), np.datetime64("NaT", "us"))
        values[is_known] = np.rint(seconds[is_known] * 1e6).astype("int64").view("datetime64[us]")
    return pd.Series(values, dtype=dtype)


def _as_json(payload: object) -> str:
    known = to_builtins(payload)
    text = json.dumps(known, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(known)


def _number(value: object) -> float:
    """A number of somebody else's file, missing where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    # A whole number of a thousand digits is none to reckon with.
    return float(value) if abs(value) < 1e300 else math.nan
