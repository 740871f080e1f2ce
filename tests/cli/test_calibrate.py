"""Facts about ``ctp-runbook calibrate``: what is asked is checked before anything is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ctp_runbook.notebook import calibrate
from ctp_runbook.record.calibration import newest_calibration, read_calibration
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import newest_run
from ctp_runbook.record.samples import Sample
from tests.props.command_line import typed
from tests.props.recorded_engine import engine_samples, write

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "runs" / "completed"


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks are executed in tests/notebooks/."""
    monkeypatch.setattr(calibrate, "draw", lambda folder: str(folder.notebook))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the shipped templates, and two hours at one order a second, of which one in
    ten is slow: whatever test there is, p99 <= 5 ms is not so."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    made = engine_samples(7200, seed=1, orders_per_second=0.9, slow_per_second=0.1)
    write(tmp_path / "recorded.jsonl", made)
    write(tmp_path / "short.jsonl", engine_samples(240, seed=1))
    for name, hostile in HOSTILE.items():
        (tmp_path / name).write_bytes(b"".join(hostile([*engine_samples(600, seed=1)])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(samples: Iterable[Sample], **changes: Any) -> list[bytes]:
    """As they stand in a file."""
    return [structs.replace(sample, **changes).to_line() for sample in samples]


# What may lie about as a file of samples, made of ten minutes that are one.
HOSTILE: dict[str, Callable[[list[Sample]], list[bytes]]] = {
    "empty": lambda ten: [],
    "one": lambda ten: lines(ten[:1]),
    "corrupt": lambda ten: [*lines(ten[:9]), b"\x00{}\n", *lines(ten[9:])],
    "torn": lambda ten: [*lines(ten[:9]), ten[9].to_line()[:-30]],
    "boots": lambda ten: [*lines(ten), *lines(ten[:5])],
    "refused": lambda ten: lines(ten, ok=False, error="refused", series={}),
    "elsewhere": lambda ten: lines(ten, source="prometheus", target="another"),
    "year 10000": lambda ten: lines(ten, wall=253402300799.0),
}

WRONG = {
    "empty": (("--samples", "empty"), "error: empty: found no sample is in it"),
    "one sample": (("--samples", "one"), "min of samples, and windows of 30 min"),
    "one sample of a short watch": (
        ("--samples", "one", "--window-minutes", 0.001),
        "--window-minutes: found 0.0005 min of samples",
    ),
    "corrupt": (("--samples", "corrupt"), "error: corrupt:10: not a sample"),
    "torn": (("--samples", "torn"), "error: torn:10: not a sample"),
    "two boots": (("--samples", "boots"), "error: boots: found the samples of engine go back"),
    "all refused": (
        ("--samples", "refused", "--window-minutes", 5),
        "none measures a metric that is watched",
    ),
    "another environment": (
        ("--samples", "elsewhere", "--window-minutes", 5),
        "none measures a metric that is watched",
    ),
    "no such year": (("--samples", "year 10000"), "beyond the year 9999"),
    "windows without end": (
        ("--samples", "recorded.jsonl", "--window-minutes", 1e-9),
        "expected 10000 windows at most",
    ),
    "a window of years": (
        ("--samples", "recorded.jsonl", "--window-minutes", 1e300),
        "found 1e+300; expected 1440 at most, a day",
    ),
    "nothing": ((), "give one of --minutes"),
    "two": (("--minutes", 1, "--samples", "recorded.jsonl"), "give one of --minutes"),
    "no file": (("--samples", "nowhere.jsonl"), "nowhere.jsonl: found No such file"),
    "no samples": (("--samples", "configs/watch.toml"), "not a sample"),
    "a folder": (("--samples", "configs"), "no file; name one"),
    "no run": (("--run", "nobody"), "neither a directory nor the id"),
    "no minutes": (("--minutes", 0), "--minutes"),
    "rate": (
        ("--samples", "recorded.jsonl", "--false-alarm-rate", 2),
        "--false-alarm-rate: found 2",
    ),
    "too short": (
        ("--samples", "short.jsonl"),
        "--window-minutes: found 4.12 min of samples, and windows of 30 min; expected at least one whole "
        "window, or 5 min: 10 pieces of 30 s",
    ),
    "gaps": (("--samples", "recorded.jsonl", "--step-minutes", 45), "--step-minutes: found 45 min"),
    "shorter than its pieces": (("--minutes", 4), "4 min of samples, and windows of 30 min"),
    "no template": (
        ("--samples", "recorded.jsonl", "--cutover-template", "nowhere.env"),
        "nowhere.env",
    ),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_error(
    words: tuple[object, ...], said: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what was found in it, and nothing half-written."""
    assert typed("calibrate", *words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert not (desk / "outputs").exists() or not [*(desk / "outputs").iterdir()]


def test_a_recording_is_held_against_the_shipped_limits(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it comes to is printed, and told again with every plan of the same limits."""
    assert typed("plan") == 0
    before = capsys.readouterr().err
    assert "the old engine itself" not in before
    assert typed("calibrate", "--samples", "recorded.jsonl") == 0
    told = capsys.readouterr().out
    folder = newest_calibration(desk / "outputs")
    found = read_calibration(folder.json)
    assert found.sentence in told
    assert told.endswith(f"executed notebook: {folder.notebook}\n")
    assert (found.rollbacks.alarms, found.rollbacks.windows) == (4, 4)
    assert typed("plan") == 0
    assert f"warning: {found.sentence}: " in capsys.readouterr().err
    assert typed("orchestrate") == 0
    findings = read_journal(newest_run(desk / "outputs").journal).records
    said = [r.payload.sentence for r in findings if isinstance(r.payload, Finding)]
    assert any(sentence.startswith(found.sentence) for sentence in said)


def test_a_recorded_run_is_taken_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own limits, and with windows as short as its watch."""
    run = tmp_path / "outputs" / "completed"
    shutil.copytree(GOLDEN, run)
    words = ("--run", "completed", "--outputs", tmp_path / "outputs")
    assert typed("calibrate", *words, "--window-minutes", 0.05) == 0
    assert "the new engine's watch of run completed" in capsys.readouterr().out
    folder = newest_calibration(tmp_path / "outputs")
    assert folder.samples.read_bytes() == (GOLDEN / "samples" / "samples.jsonl").read_bytes()


def test_an_engine_that_was_restarted_and_metrics_that_are_not_there_are_told(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was counted goes on; and nobody says that a limit is kept of which nothing was measured."""
    ten = [*engine_samples(600, seed=1)]
    first = ten[300].series
    anew = [
        structs.replace(s, series={k: v - first[k] for k, v in s.series.items()}) for s in ten[301:]
    ]
    (desk / "restarted").write_bytes(b"".join(lines([*ten[:301], *anew])))
    assert typed("calibrate", "--samples", "restarted", "--window-minutes", 5) == 0
    told = capsys.readouterr().out
    assert "! The old engine keeps the limits that were measured, 2 of 6: " in told
    assert "nothing was measured of breaker_state, reconnect_p99_s, kafka_lag_ms, " in told
