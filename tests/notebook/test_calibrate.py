"""Facts about notebook/calibrate.py: samples in, a folder out that is there whole or not at all."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.errors import InputError, JournalError, ProbeError, RunRefused
from ctp_runbook.notebook import calibrate
from ctp_runbook.notebook.calibrate import (
    Asked,
    Recording,
    Subject,
    fragment,
    make,
    subject_of_plan,
    subject_of_run,
    told,
)
from ctp_runbook.plan.config import load_watch
from ctp_runbook.record.calibration import read_calibration
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import read_samples
from ctp_runbook.run.world import HERE
from ctp_runbook.watch.sampler import Target
from tests.props.calibrated import example_subject
from tests.props.plan_fixtures import make_plan
from tests.props.recorded_engine import engine_samples, write
from tests.props.synthetic_runs import completed_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Ten minutes of an engine with a slow order each minute."""
    made = engine_samples(600, seed=5, slow_per_second=1 / 60, lags_ms=True)
    return write(tmp_path / "recorded.jsonl", made)


def test_the_folder_says_what_the_old_engine_would_have_done(tmp_path: Path, samples: Path) -> None:
    """Samples as they were, the record, and limits to take over."""
    own = example_subject()
    recording = Recording(source="a test", samples=samples)
    made, folder = make(own, Asked.of(own), recording, outputs=tmp_path / "outputs")
    assert [*(tmp_path / "outputs").iterdir()] == [folder.path]
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "calibration.json",
        "samples.jsonl",
        "watch.toml",
    ]
    assert read_calibration(folder.json) == made
    assert folder.samples.read_bytes() == samples.read_bytes()
    assert (made.minutes, made.window_minutes, round(made.step_minutes, 3)) == (10.0, 2.0, 0.667)
    assert made.rollbacks.windows == 5
    assert made.rollbacks.alarms == sum(bool(w.rolled_back_by) for w in made.windows[::3])
    assert made.rollbacks.alarms > 2
    latency, lag = made.metrics
    assert (latency.suggested, lag.suggested) == (25.0, 1000.0)
    assert latency.trigger_limits == (5.0,)
    page = told(made, folder)
    assert page.startswith("✗ The old engine itself breaks these limits: with these limits the old")
    assert str(folder.watch) in page
    assert "[picture" not in page


def test_the_suggested_limits_are_a_piece_of_watch_toml(tmp_path: Path, samples: Path) -> None:
    """Each limit in its place, and a comment above it that says why."""
    own = example_subject()
    recording = Recording(source="a test", samples=samples)
    made, folder = make(own, Asked.of(own), recording, outputs=tmp_path)
    assert tomllib.loads(folder.watch.read_text()) == {
        "metrics": {"order_latency_p99_ms": {"limit": 25}, "kafka_lag_ms": {"limit": 1000}}
    }
    assert fragment(made) == folder.watch.read_text()
    lines = folder.watch.read_text().splitlines()
    why = lines[lines.index("[metrics.order_latency_p99_ms]") :]
    assert why[2].startswith("# limit 5: ")
    assert why[3].startswith("# limit 25: 0 of 5 windows (0 to 52 %) would have")
    assert "# ROLLBACK_TRIGGER_CONDITION compares it with 5: change both" in why


def test_the_same_samples_give_the_same_answer(tmp_path: Path, samples: Path) -> None:
    """Apart from when it was asked."""
    own, recording = example_subject(), Recording(source="a test", samples=samples)
    first, _ = make(own, Asked.of(own), recording, outputs=tmp_path / "a")
    again, _ = make(own, Asked.of(own), recording, outputs=tmp_path / "b")
    assert structs.replace(again, made_utc=first.made_utc) == first


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"window_minutes": 11.0}, "2.12 min of samples, and windows of 11 min"),
        ({"step_minutes": 3.0}, "3 min between windows of 2 min"),
        ({"false_alarm_rate": 1.0}, "a share of windows"),
    ],
    ids=["too short", "gaps", "no rate"],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, samples: Path, asked: dict[str, float], said: str
) -> None:
    """In a sentence, and nothing is left behind."""
    own = example_subject()
    if "window_minutes" in asked:
        samples = write(tmp_path / "short.jsonl", engine_samples(120, seed=5))
    with pytest.raises(InputError, match=said):
        make(
            own,
            Asked.of(own, **asked),
            Recording(source="", samples=samples),
            outputs=tmp_path / "outputs",
        )
    assert not (tmp_path / "outputs").exists() or not [*(tmp_path / "outputs").iterdir()]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, InputError, "No such file"),
        (b"", InputError, "no sample is in it"),
        (b"{}\n", JournalError, "not a sample"),
        (b"\x00\xff\n", JournalError, "not a sample"),
    ],
    ids=["no file", "empty", "no samples", "no text"],
)
def test_what_is_no_recording_leaves_nothing(
    tmp_path: Path, text: bytes | None, error: type[Exception], said: str
) -> None:
    """Named, with what is wrong."""
    path = tmp_path / "recorded.jsonl"
    if text is not None:
        path.write_bytes(text)
    own = example_subject()
    with pytest.raises(error, match=said):
        make(own, Asked.of(own), Recording(samples=path), outputs=tmp_path / "outputs")
    assert not [*(tmp_path / "outputs").iterdir()]


def test_a_run_is_taken_by_its_own_limits_or_by_others(tmp_path: Path) -> None:
    """Its watch; and rules that lack one of its metrics are refused."""
    run = completed_run(tmp_path)
    own, recording = subject_of_run(run)
    assert recording.samples == run.samples
    assert recording.source == f"the new engine's watch of run {run.run_id}"
    assert own.minutes == 30.0
    with pytest.raises(RunRefused, match=r"has no \[metrics\."):
        subject_of_run(run, watch=other_rules(tmp_path))
    run.samples.unlink()
    run.baseline.unlink(missing_ok=True)
    with pytest.raises(RunRefused, match="kept no sample"):
        subject_of_run(run)


def other_rules(folder: Path) -> Path:
    """A watch.toml of one metric that nobody watched."""
    text = (ROOT / "configs" / "watch.toml").read_text()
    head, _, rest = text.partition("[metrics.order_latency_p99_ms]")
    path = folder / "other.toml"
    path.write_text(f"{head}[metrics.other]{rest.partition('# No engine shows')[0]}")
    assert [*load_watch(path).metrics] == ["other"]
    return path


def recording_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Callable[[], dict[str, float]]
) -> tuple[Subject, Recording]:
    """A plan, and an engine that answers by ``read`` many times a second."""
    plan = make_plan(tmp_path)
    seen: list[Any] = []

    def targets(planned: Any, **values: Any) -> list[Target]:
        seen.append(planned)
        return [Target("engine", "engine", read, 0.02)]

    monkeypatch.setattr(calibrate, "watch_targets", targets)
    return subject_of_plan(plan), Recording(plan=plan, minutes=0.02)


def test_the_running_engine_is_recorded_as_a_watch_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbered samples, and of the page of the engine that runs now."""
    own, recording = recording_with(monkeypatch, tmp_path, lambda: {"up": 1.0})
    made, folder = make(own, Asked(window_minutes=0.01), recording, outputs=tmp_path / "outputs")
    kept = read_samples(folder.samples)
    assert [sample.seq for sample in kept] == list(range(len(kept)))
    assert len(kept) == made.samples > 20
    assert {sample.source for sample in kept} == {"engine"}
    assert made.source.startswith("the running engine, http://127.0.0.1:")
    assert recording.plan is not None
    moved, page = calibrate._with_old_page(recording.plan)
    assert moved.members["new_core_engine"].metrics_url == page


def test_an_engine_that_answers_nothing_is_told_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its last error; no folder stays."""

    def read() -> dict[str, float]:
        raise ProbeError("http://127.0.0.1:1/metrics: connection refused")

    own, recording = recording_with(monkeypatch, tmp_path, read)
    monkeypatch.setattr(calibrate, "_FIRST_SECONDS", 0.2)
    with pytest.raises(ProbeError, match=r"nothing answers .*: connection refused"):
        make(own, Asked(window_minutes=0.01), recording, outputs=tmp_path / "outputs")
    assert not [*(tmp_path / "outputs").iterdir()]


def test_what_was_recorded_and_cannot_be_judged_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before a window was full: nobody can record that again."""

    lines: list[str] = []
    own, recording = recording_with(monkeypatch, tmp_path, lambda: {"up": 1.0})
    keep_all = calibrate._keep_all

    def keep_some(sampler: Any, targets: Any, until: float, keep: Any, redactor: Any) -> None:
        keep_all(sampler, targets, HERE.clock.mono() + 0.3, keep, redactor)
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "_keep_all", keep_some)
    with pytest.raises(InputError, match="at least one whole window"):
        make(
            own,
            Asked(window_minutes=0.3),
            structs.replace(recording, minutes=1.0),
            outputs=tmp_path / "outputs",
            tell=lines.append,
        )
    (part,) = (tmp_path / "outputs").iterdir()
    assert read_samples(part / "samples.jsonl")
    assert lines[-2:] == [
        "interrupted: what came so far is judged",
        f"what was recorded is kept: judge it by `calibrate --samples {part / 'samples.jsonl'}`",
    ]


def test_a_run_folder_is_no_calibration(tmp_path: Path) -> None:
    """Nor is a calibration a run: each is found by its own file."""
    from ctp_runbook.record.rundir import runs_under

    own = example_subject()
    recorded = write(tmp_path / "recorded.jsonl", engine_samples(600, seed=1, lags_ms=True))
    make(own, Asked.of(own), Recording(samples=recorded), outputs=tmp_path / "outputs")
    assert [*runs_under(tmp_path / "outputs")] == list[RunDir]()
