"""The data plane: time to serve, per part and in all, and resident memory; medians of five.

The first start is not counted: it fills the page cache and writes bytecode. ``--quick`` is one
start, which is, to see that it runs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ctp_runbook.rehearsal.plane import control
from tests.benchmarks.bars import exit_code, judged
from tests.props.data_plane import plane_up, resident_mb

__all__ = ["main"]

_QUICK = "--quick" in sys.argv
_TURNS, _UNCOUNTED = (1, 0) if _QUICK else (5, 1)
_SERVE_SECONDS, _RESIDENT_MB = 8.0, 1536.0


def _one(folder: Path) -> control.PlaneStatus:
    plane_up(folder)
    try:
        return control.status(folder)
    finally:
        control.down(folder)


def main() -> None:
    """Print the table and what is asked of it."""
    with tempfile.TemporaryDirectory(prefix="bench stack ") as base:
        turns = [_one(Path(base) / str(turn)) for turn in range(_UNCOUNTED + _TURNS)]
    turns = turns[_UNCOUNTED:]
    print(f"{'part':24}{'serving after':>15}{'resident':>12}")
    for name in turns[0].parts:
        took = statistics.median(turn.parts[name].serving_seconds or 0.0 for turn in turns)
        resident = statistics.median(turn.parts[name].resident_mb for turn in turns)
        print(f"{name:24}{took:13.2f} s{resident:9.0f} MB")
    whole = statistics.median(turn.serving_after_seconds or 0.0 for turn in turns)
    memory = statistics.median(resident_mb(turn) for turn in turns)
    print(f"{'everything':24}{whole:13.2f} s{memory:9.0f} MB")
    print(judged(whole, _SERVE_SECONDS, "s"))
    print(judged(memory, _RESIDENT_MB, "MB"))


if __name__ == "__main__":
    main()
    sys.exit(exit_code())
