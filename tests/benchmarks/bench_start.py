"""Starting: a dry run and --help against an interpreter that imports four standard modules.

Whole processes, medians of 20, interleaved so that noise meets both sides. ``--quick`` is two
turns, to see that it runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
_TURNS = 2 if "--quick" in sys.argv else 20
_COMMAND = str(Path(sys.executable).with_name("ctp-runbook"))
_BASE = [sys.executable, "-c", "import argparse, subprocess, dataclasses, pathlib"]


def _seconds(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the medians and what is asked of them."""
    with tempfile.TemporaryDirectory() as outputs:
        subjects = {
            "python and four imports": _BASE,
            "orchestrate, dry run": [_COMMAND, "orchestrate", "--outputs", outputs],
            "--help": [_COMMAND, "--help"],
        }
        for argv in subjects.values():
            _seconds(argv)  # bytecode and page cache
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(_TURNS):
            for name, argv in subjects.items():
                taken[name].append(_seconds(argv))
    medians = {name: statistics.median(values) * 1000 for name, values in taken.items()}
    base = medians["python and four imports"]
    for name, value in medians.items():
        print(f"{name:26} {value:7.1f} ms")
    bars = {"orchestrate, dry run": 2.0 * base, "--help": 250.0}
    for name, bar in bars.items():
        print(f"{name:26} {'within' if medians[name] <= bar else 'OVER'} {bar:.1f} ms")


if __name__ == "__main__":
    main()
