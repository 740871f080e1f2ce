"""Mutants of recorded runs by the thousand: verification says what is wrong, and never anything else.

``make prove`` tries 100,000; CTP_RUNBOOK_FUZZ says how many, CTP_RUNBOOK_FUZZ_SEED which.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.props.verify_fuzz import DEPTHS

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CTP_RUNBOOK_FUZZ_SEED", "20261126"))
ALL = int(os.environ.get("CTP_RUNBOOK_FUZZ", "100000"))
# Each process keeps its runs whole from mutant to mutant: some thousand are worth its start.
EACH = 5000


def fuzzed(room: Path, *, seed: int, count: int) -> tuple[Counter[str], list[dict[str, object]]]:
    """What became of so many mutants, tried by another process: what hangs it hangs not this one."""
    words = [sys.executable, "-m", "tests.props.verify_fuzz", str(seed), str(count), str(room)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=7000)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    return Counter(said["counts"]), said["faults"]


def test_no_mutant_passes_hangs_or_breaks_verification(tmp_path: Path) -> None:
    """A few hundred, of every depth: what is wrong is said in sentences."""
    counts, faults = fuzzed(tmp_path / "runs", seed=SEED, count=300)
    assert faults == []
    assert {name.split()[0] for name in counts} == {*DEPTHS}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_none_of_many_mutants_passes_hangs_or_breaks_verification(
    tmp_path: Path, record_table: Callable[[str, list[str]], None]
) -> None:
    """The same, by as many as `make prove` asks for, on every core."""
    chunks = [(SEED + n, min(EACH, ALL - n)) for n in range(0, ALL, EACH)]

    def chunk(numbers: tuple[int, int]) -> tuple[Counter[str], list[dict[str, object]]]:
        seed, count = numbers
        return fuzzed(tmp_path / str(seed), seed=seed, count=count)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = list(pool.map(chunk, chunks))
    counts = sum((counted for counted, _ in ends), Counter[str]())
    faults = [fault for _, found in ends for fault in found]
    ended = Counter(fault["ended"] for fault in faults)
    rows = [
        f"mutants {counts.total()} of {len(DEPTHS)} depths, seeds from {SEED}: passed "
        f"{ended['passed']}, tracebacks {ended['traceback']}, hangs {ended['hang']}",
        *(f"{name}: {counts[name]}" for name in sorted(counts)),
    ]
    record_table("verify_fuzz", rows)
    assert faults == []


# What a verification that was broken on purpose would do, and how the fuzz tells it.
BROKEN = {
    "passed": "run.checked = lambda name, *more, unless='': report.Check(name, True, 'well')",
    "traceback": "files.manifest_findings = lambda run: 1 / 0",
    "hang": "files.manifest_findings = lambda run: time.sleep(60); verify_fuzz.HANG_SECONDS = 0.2",
}


@pytest.mark.parametrize(("ended", "sabotage"), BROKEN.items(), ids=BROKEN)
def test_a_verification_that_is_broken_is_caught(ended: str, sabotage: str, tmp_path: Path) -> None:
    """One that passes, one that raises, one that waits: no boundary of the product hides it."""
    code = (
        "import time; from pathlib import Path; from tests.props import verify_fuzz\n"
        "from ctp_runbook.verify import files, report, run\n"
        f"fuzz = verify_fuzz.Fuzz(Path({str(tmp_path / 'runs')!r}))\n"
        f"{sabotage}\n"
        f"fuzz.go(seed={SEED}, count=25)\n"
        "print(*{fault['ended'] for fault in fuzz.faults})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [ended], done.stderr[-3000:]
