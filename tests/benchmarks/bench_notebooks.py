"""Seven notebooks of a dry run: ``ctp-runbook run`` against seven plain ``papermill`` calls.

    python tests/benchmarks/bench_notebooks.py [rounds | --quick]

Prints the seconds of each round and the ratio of the medians; exits 1 when that is above ``BAR``.
Both do the same work on the same notebooks, each as whole processes; rounds alternate,
so that a noisy machine disturbs both. ``--quick`` is one round with one papermill call, to see
that it runs: its ratio is not judged.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BAR", "headless_seconds", "main", "papermill_seconds"]

BAR = 0.1
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-7]*.ipynb"))


def headless_seconds(outputs: Path) -> float:
    """One ``ctp-runbook run`` as a dry run."""
    command = [sys.executable, "-m", "ctp_runbook", "run", "--outputs", str(outputs)]
    return _timed([command])


def papermill_seconds(outputs: Path, *, notebooks: Sequence[Path] = NOTEBOOKS) -> float:
    """A ``papermill`` call for each of the same notebooks, one after the other."""
    outputs.mkdir()
    run_dir = str(outputs / "run")
    return _timed(
        [
            [
                *(sys.executable, "-m", "papermill", "--no-progress-bar"),
                *(str(path), str(outputs / path.name), "-p", "run_dir", run_dir),
            ]
            for path in notebooks
        ]
    )


def _timed(commands: list[list[str]]) -> float:
    began = time.monotonic()
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return time.monotonic() - began


def main(rounds: int, *, quick: bool = False) -> int:
    """Measure, print, and judge."""
    notebooks = NOTEBOOKS[:1] if quick else NOTEBOOKS
    ours: list[float] = []
    plain: list[float] = []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as room:
            ours.append(headless_seconds(Path(room) / "ours"))
            plain.append(papermill_seconds(Path(room) / "plain", notebooks=notebooks))
        print(f"round {number}: ctp-runbook run {ours[-1]:.2f} s, papermill {plain[-1]:.2f} s")
    ratio = statistics.median(ours) / statistics.median(plain)
    print(
        f"median: ctp-runbook run {statistics.median(ours):.2f} s, {len(notebooks)} papermill calls "
        f"{statistics.median(plain):.2f} s, ratio {ratio:.3f} (at most {BAR})"
    )
    return 0 if quick or ratio <= BAR else 1


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "3"
    sys.exit(main(1, quick=True) if wanted == "--quick" else main(int(wanted)))
