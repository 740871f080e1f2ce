"""Facts about ``ctp-runbook calibrate``: what is asked is checked before anything is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctp_runbook.notebook import calibrate
from ctp_runbook.record.calibration import newest_calibration, read_calibration
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import Finding
from ctp_runbook.record.rundir import newest_run
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
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = {
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
