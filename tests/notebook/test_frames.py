"""A frame says what the record says: the same numbers, typed, of every run; and nothing in it acts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs, to_builtins

from ctp_runbook.model import Phase, StepStatus
from ctp_runbook.notebook import frames
from ctp_runbook.record.gate_files import NO_READINESS
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, Writer, read_journal, utc_text
from ctp_runbook.record.kinds import Payload, StepEnded
from ctp_runbook.record.past_runs import past_runs
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.show.past_runs import bounds_of
from ctp_runbook.show.run_blocks import observed_rows, read_readiness
from ctp_runbook.verify.report import Check, VerificationReport
from ctp_runbook.verify.run import verify_run
from ctp_runbook.watch.judge import WindowJudgement
from ctp_runbook.watch.replay import rejudge
from tests.props.example_readiness import readiness_file
from tests.props.example_records import EXAMPLES, header_like, like
from tests.props.synthetic_runs import KINDS, make_run
from tests.props.watch_stories import gap_and_hold

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "runs").iterdir())
# A tag, an escape sequence, the end of a text in C, half a character, a text turned round; much.
HOSTILE = "<script>x</script>\x1b[2J\x00\udcff\u202e" + "y" * 10_000
ACTS = ("\x1b", "\x00", "\udcff", "\u202e")
WRITER = Writer(1, 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=True, allow_infinity=True)


def record(seq: int, payload: Payload) -> Record:
    """A record of this payload, a second and a bit after the one before."""
    when = utc_text(1.7e9 + seq * 1.000001)
    return Record(seq, when, 10**9 + seq * 1_000_001_000, "boot", WRITER, payload, "0" * 64)


def history_of(path: Path) -> History:
    """The run in this directory as its journal tells it."""
    return History.of(read_journal(RunDir(path).journal).records)


def judged_of(run: RunDir, history: History) -> WindowJudgement | None:
    """The watch judged again; None where there was none."""
    return rejudge(run, history)[0] if history.watch_started else None


def types_of(frame: pd.DataFrame) -> dict[str, str]:
    """Each column's type by its name."""
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def optional(column: pd.Series[Any]) -> list[object]:
    """The values of a column, None for each that is missing."""
    is_missing = column.isna()
    return [None if gone else value for value, gone in zip(column, is_missing, strict=True)]


def ended(step: str, status: str, exit_code: int | None, duration_ms: float, why: str) -> StepEnded:
    """How this step ended."""
    return StepEnded(
        step=step,
        phase=Phase.SWITCH,
        status=StepStatus(status),
        exit_code=exit_code,
        duration_ms=duration_ms,
        output_sha256="",
        output="",
        reason=why,
    )


# --- the record's own numbers ------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_the_journal_is_a_row_a_record(path: Path) -> None:
    """Sequence, moment and kind are the record's, and the payload reads back as it was."""
    history = history_of(path)
    frame = frames.journal(history)
    assert [*frame.seq] == [each.seq for each in history.records]
    assert [*frame.utc] == [pd.Timestamp(each.wall_utc) for each in history.records]
    assert [*frame.monotonic_seconds] == [each.mono for each in history.records]
    assert [*frame.kind] == [each.payload.kind for each in history.records]
    kept = [json.loads(json.dumps(to_builtins(each.payload))) for each in history.records]
    assert [json.loads(text) for text in frame.payload] == kept


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_steps_are_those_of_the_plan_as_they_went(path: Path) -> None:
    """In the plan's order, none left out, with the durations of their records."""
    history = history_of(path)
    frame = frames.steps(history)
    assert [*frame.step] == [step.name for step in history.plan.steps]
    went = [history.step(step) for step in frame.step]
    assert [*frame.status] == [step.status.value for step in went]
    assert optional(frame.exit_code) == [step.exit_code for step in went]
    lasted = [step.duration_ms / 1000 if step.ended_utc else None for step in went]
    assert optional(frame.duration_seconds) == lasted
    moments = [pd.Timestamp(step.ended_utc) if step.ended_utc else None for step in went]
    assert optional(frame.ended_utc) == moments


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_samples_are_a_row_a_value(path: Path) -> None:
    """Every value of every look, in the order of the file, and nothing else."""
    looks = read_samples(RunDir(path).samples)
    frame = frames.samples(RunDir(path).samples)
    told = [(look.seq, look.mono, *item) for look in looks for item in look.series.items()]
    assert [
        *zip(frame.seq, frame.monotonic_seconds, frame.series, frame.value, strict=True)
    ] == told


def test_points_and_verdicts_are_the_judges() -> None:
    """A watch with a gap, an error and a hold: each point of each metric, and what it came to."""
    story = gap_and_hold()
    judged, _ = story.judged()
    rules = story.rules.metrics
    frame = frames.points(judged, rules)
    assert len(frame) == sum(len(metric.points) for metric in judged.metrics.values())
    for name, metric in judged.metrics.items():
        own = frame[frame.metric == name]
        assert [*own.status] == [point.status for point in metric.points]
        assert [*own.value.dropna()] == [p.value for p in metric.points if p.value is not None]
        assert [*own.why] == [point.reason for point in metric.points]
        assert set(own.unit) == {rules[name].unit}
    told = frames.verdicts(judged, rules).set_index("metric")
    for name, metric in judged.metrics.items():
        assert told.loc[name, "verdict"] == metric.verdict.name
        assert told.loc[name, "worst"] == metric.worst or metric.worst is None
        assert told.loc[name, "limit"] == metric.limit


@given(st.lists(st.tuples(st.floats(0, 1e12), st.none() | st.integers(-255, 255), texts)))
def test_a_step_has_the_numbers_of_its_records(went: list[tuple[float, int | None, str]]) -> None:
    """Whatever was measured, it is in the frame as it was written."""
    names = [f"step_{at}" for at in range(len(went))]
    records = [record(0, header_like())]
    for name, (duration_ms, exit_code, why) in zip(names, went, strict=True):
        started = like("step_started", step=name)
        records.append(record(len(records), started))
        records.append(
            record(len(records), ended(name, "failed", exit_code, duration_ms, why or "x"))
        )
    frame = frames.steps(History.of(records)).set_index("step").loc[names]
    assert [*frame.duration_seconds] == [duration_ms / 1000 for duration_ms, _, _ in went]
    assert optional(frame.exit_code) == [exit_code for _, exit_code, _ in went]


@given(pages=st.lists(st.dictionaries(texts, numbers, max_size=4), max_size=8))
def test_samples_hold_every_value(
    pages: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also what is no number, and pages that change what is on them."""
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    looks = [
        Sample(seq, 1.7e9 + seq, float(seq), "engine", "", True, "", 1.5, page)
        for seq, page in enumerate(pages)
    ]
    path.write_bytes(b"".join(look.to_line() for look in looks))
    frame = frames.samples(path)
    assert len(frame) == sum(max(1, len(page)) for page in pages)
    for look, page in zip(looks, pages, strict=True):
        own = frame[frame.seq == look.seq]
        values = [page[key] for key in sorted(page)] or [math.nan]
        assert [str(value) for value in own.value] == [str(value) for value in values]
        assert [*own.utc] == [pd.Timestamp(look.wall, unit="s", tz="UTC")] * len(own)


# --- typed, also of nothing --------------------------------------------------------


def all_frames(run: RunDir, history: History) -> dict[str, pd.DataFrame]:
    """Every frame there is of a run."""
    judged, rules = judged_of(run, history), history.plan.watch.metrics
    readiness = run.evidence / "ctp_readiness_precheck.json"
    return {
        "journal": frames.journal(history),
        "steps": frames.steps(history),
        "gates": frames.gates(observed_rows(run)),
        "slis": frames.slis(read_readiness(readiness)),
        "verdicts": frames.verdicts(judged, rules),
        "points": frames.points(judged, rules),
        "samples": frames.samples(run.samples),
        "checks": frames.checks(verify_run(run)),
    }


@pytest.fixture(scope="module")
def by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, pd.DataFrame]]:
    """Every frame of every kind of run."""
    runs = {kind: make_run(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    return {kind: all_frames(run, history_of(run.path)) for kind, run in runs.items()}


# Those stand at the end of this file.
OF_MANY_RUNS = ("bounds", "runs", "runs_metrics", "runs_steps")
EMPTY: dict[str, Callable[[Path], pd.DataFrame]] = {
    "gates": lambda _: frames.gates([]),
    "slis": lambda _: frames.slis(NO_READINESS),
    "verdicts": lambda _: frames.verdicts(None, {}),
    "points": lambda _: frames.points(None, {}),
    "samples": lambda folder: frames.samples(folder / "none.jsonl"),
    "checks": lambda _: frames.checks(VerificationReport("nothing", ())),
}


def test_every_function_here_is_asked() -> None:
    """A frame that is added is looked at by the tests below as well."""
    assert {*EMPTY, "journal", "steps", *OF_MANY_RUNS} == set(frames.__all__)


@pytest.mark.parametrize("name", EMPTY)
def test_of_nothing_comes_an_empty_frame_of_the_same_columns_and_types(
    name: str, by_kind: dict[str, dict[str, pd.DataFrame]], tmp_path: Path
) -> None:
    """What is written for a run that watched works for one that did not."""
    whole, empty = by_kind["completed"][name], EMPTY[name](tmp_path)
    assert len(whole) > 0
    assert len(empty) == 0
    assert types_of(empty) == types_of(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_every_frame(
    kind: str, by_kind: dict[str, dict[str, pd.DataFrame]]
) -> None:
    """With one set of columns and types, however it went; moments are of UTC, spans are floats."""
    for name, frame in by_kind[kind].items():
        assert types_of(frame) == types_of(by_kind["completed"][name]), name
        for column, dtype in types_of(frame).items():
            if column == "utc" or column.endswith("_utc"):
                assert dtype == "datetime64[us, UTC]"
            if column.endswith(("_seconds", "_ms")):
                assert dtype == "float64"


def test_a_step_that_did_not_end_has_no_duration() -> None:
    """Zero would be a number that nobody measured; a step that was left out took none."""
    records = [record(0, header_like()), record(1, EXAMPLES["step_started"])]
    frame = frames.steps(History.of(records))
    assert [*frame.status] == ["unknown"]
    assert optional(frame.duration_seconds) == optional(frame.ended_utc) == [None]


def test_a_service_level_that_is_no_number_is_missing() -> None:
    """A readiness file is somebody else's: what it calls a value may be anything; a list is none."""
    told = ["12", None, True, 10**400, math.inf, [1], 12, 0.5]
    frame = frames.slis(readiness_file(*({"value": value} for value in told)))
    assert [*frame.value.dropna()] == [12.0, 0.5]
    assert [*frame.healthy] == [True] * (len(told) - 1)
    level = {"provenance": "not_measurable", "healthy": False}
    assert frames.slis(readiness_file(level)).healthy.isna().all()


# --- nothing acts -------------------------------------------------------------------


def hostile_frames(folder: Path) -> dict[str, pd.DataFrame]:
    """Frames with a hostile text in each cell that takes one."""
    records = [
        record(0, header_like()),
        record(1, EXAMPLES["step_started"]),
        record(2, ended("stop_old_strategy_runner", "failed", 1, 1.0, HOSTILE)),
    ]
    history = History.of(records)
    # What is in a file is text; half a character comes from a name of another encoding only.
    written = HOSTILE.replace("\udcff", "")
    samples = folder / "samples.jsonl"
    look = Sample(0, 1.7e9, 1.0, "engine", written, False, written, 1.0, {written: 1.0})
    samples.write_bytes(look.to_line())
    level = dict.fromkeys(("name", "unit", "provenance", "source", "detail"), HOSTILE)
    return {
        "journal": frames.journal(history),
        "steps": frames.steps(history),
        "gates": frames.gates([(HOSTILE, HOSTILE, HOSTILE)]),
        "slis": frames.slis(readiness_file(level)),
        "samples": frames.samples(samples),
        "checks": frames.checks(VerificationReport("x", (Check(HOSTILE, True, HOSTILE),))),
    }


@pytest.mark.parametrize("name", ["journal", "steps", "gates", "slis", "samples", "checks"])
def test_nothing_in_a_cell_can_act(name: str, tmp_path: Path) -> None:
    """Neither as a notebook shows the frame, nor as a terminal does, nor as a file of it would."""
    frame = hostile_frames(tmp_path)[name]
    page = str(frame._repr_html_())  # type: ignore[operator]
    assert "<script" not in page
    with pd.option_context("display.max_colwidth", None, "display.width", None):
        shown = page + str(frame.to_html()) + repr(frame) + str(frame.to_csv())
    assert not [sign for sign in ACTS if sign in shown]
    assert shown.encode()
    assert "script" in str(frame.to_csv())


def test_a_long_text_is_whole_in_its_cell_and_short_on_the_page(tmp_path: Path) -> None:
    """pandas cuts what it shows; what is reckoned with is not cut."""
    frame = hostile_frames(tmp_path)["gates"]
    assert len(frame.seen[0]) > 10_000
    assert len(str(frame._repr_html_())) < 5_000  # type: ignore[operator]


PAST = past_runs(GOLDEN[0].parent).runs


def test_runs_side_by_side_are_typed() -> None:
    """The rows' own numbers; what a run does not have is missing, and no zero."""
    frame = frames.runs(PAST)
    types = types_of(frame)
    assert types["started_utc"] == types["ended_utc"] == "datetime64[us, UTC]"
    assert types["rollback_seconds"] == "float64"
    assert frame["started_utc"].is_monotonic_increasing
    late = frame.set_index("run").loc["late"]
    assert late["rollback_seconds"] == pytest.approx(35.04, abs=0.01)
    assert bool(frame.set_index("run").loc["failed", "is_down"]) is True
    assert frame["rollback_seconds"].notna().sum() == 6
    assert types_of(frames.runs(())) == types


def test_steps_and_metrics_of_many_runs_are_rows() -> None:
    """One for each of every run; groups of them are what the bounds are made of."""
    steps, metrics = frames.runs_steps(PAST), frames.runs_metrics(PAST)
    assert len(steps) == sum(len(run.steps) for run in PAST)
    assert len(metrics) == sum(len(run.metrics) for run in PAST)
    bounds = frames.bounds(bounds_of(PAST)).set_index("what")
    well = steps[(steps["status"] == "ok") & steps["duration_seconds"].notna()]
    highest = well.groupby("step", observed=True)["duration_seconds"].max()
    assert highest.to_dict() == bounds["longest_seconds"][highest.index].to_dict()
    assert bounds.loc["rollbacks", "needed_runs"] == 124
    for frame, make in ((steps, frames.runs_steps), (metrics, frames.runs_metrics)):
        assert types_of(make(())) == types_of(frame)
    assert types_of(frames.bounds(())) == types_of(frames.bounds(bounds_of(PAST)))


def test_what_a_folder_is_called_acts_on_nothing() -> None:
    """Hostile names are escaped in every cell."""
    run = structs.replace(PAST[0], run_id=HOSTILE, environment=HOSTILE, path=HOSTILE)
    for frame in (frames.runs([run]), frames.runs_steps([run])):
        text = frame.to_html() + frame.to_string()
        assert not any(act in text for act in ACTS)
