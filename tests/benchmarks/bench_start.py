"""Starting: a dry run and --help against an interpreter that imports four standard modules.

Whole processes, medians of 20, interleaved so that noise meets both sides, and the ratio of each
turn taken by itself. ``--quick`` is two turns, to see that it runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from operator import truediv
from pathlib import Path

from tests.benchmarks.bars import exit_code, judged

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
_TURNS = 2 if "--quick" in sys.argv else 20
_COMMAND = str(Path(sys.executable).with_name("ctp-runbook"))
# Without bytecode every start would compile what it imports, and nothing else would be measured.
_ENVIRON = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
# How many times the base each may take.
_BARS = {"orchestrate, dry run": 2.0, "--help": 1.58}
_BASE = [sys.executable, "-c", "import argparse, subprocess, dataclasses, pathlib"]


def _seconds(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, env=_ENVIRON, check=True, stdout=subprocess.DEVNULL)
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
    for name, values in taken.items():
        print(f"{name:26} {statistics.median(values) * 1000:7.1f} ms")
    base = taken["python and four imports"]
    for name, bar in _BARS.items():
        ratio = statistics.median(map(truediv, taken[name], base))
        print(f"{name:26} {ratio:7.2f} x, {judged(ratio, bar, 'x')}")


if __name__ == "__main__":
    main()
    sys.exit(exit_code())
