"""Every script of `make bench` runs to its end, in the seconds of ``--quick``, and prints its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"
_BAR = r"(within|OVER) [\d.]+"
# Of each script, the lines it prints, in their order.
TABLES = {
    "log": (
        r"a log of 10 GiB followed for \d+ s, \d+ looks",
        r"host +\d+ cores, load .*",
        r"written +\d+ lines, \d+ events; bursts of 100000 lines",
        r" +renamed once, copied and cut once, torn ten times a second",
        r"events +\d+ counted, 0 lost \(within 0 lost\)",
        r"told +nothing",
        rf"processor +[\d.]+ % of one core \({_BAR} %\)",
        rf"memory +[\d.]+ to [\d.]+ MiB \({_BAR} MiB of growth\)",
    ),
    "notebooks": (
        r"round 1: ctp-runbook run [\d.]+ s, papermill [\d.]+ s",
        r"median: ctp-runbook run [\d.]+ s, 1 papermill calls [\d.]+ s, ratio .* \(at most 0\.1\)",
    ),
    "overhead": (
        r"2 x sleep 0\.1 in bash +[\d.]+ ms",
        r"2 x sleep 0\.1 as steps +[\d.]+ ms",
        rf"overhead +-?[\d.]+ %  \({_BAR} %\)",
        r"journal append, fsynced +[\d.]+ ms \(median of 5\)",
    ),
    "replay": (
        r"samples +1,800 pages, \d+ MB",
        r"points of 50 metrics +18,000",
        r"read and judged +[\d.]+ s",
        r"drawn +[\d.]+ s",
        rf"together +[\d.]+ s   \({_BAR} s\), [\d.]+ s of CPU",
        rf"peak of memory +\d+ MB  \({_BAR} MB\)",
        r"05_watch executed +[\d.]+ s, [\d.]+ s of CPU",
        rf"  peak of its kernel +\d+ MB  \({_BAR} MB\)",
        rf"  the notebook +[\d.]+ MB  \({_BAR} MB\)",
    ),
    "sampling": (
        r"50 metrics of 5 endpoints, a scrape a second each, for \d+ s",
        r"host +\d+ cores, load .*",
        r"samples +\d+, \d+ turns missed, [\d.]+ MiB; turns of [\d.]+ to [\d.]+ s",
        r"ended +PASSED",
        rf"jitter +p50 .* \({_BAR} ms at p99\)",
        r" +p50 .* of a process that only sleeps, .*",
        rf"processor +[\d.]+ % of one core \({_BAR} %\)",
        rf"memory +.* MiB: [+-][\d.]+ MiB \({_BAR} MiB\)",
    ),
    # Its text, a row for each of 24 cells, what follows them, and what it took.
    "sequential": (
        *(r".*",) * 15,
        *(r" +[\d.]+ +[\d.]+% .* [\d.]+% +[\d.]+%",) * 24,
        *(r".*",) * 91,
        rf"\d+ s of CPU \({_BAR} s\)",
    ),
    "stack": (
        r"part +serving after +resident",
        *(
            rf"{part} +[\d.]+ s +\d+ MB"
            for part in (
                *("postgres", "valkey", "kafka", "clickhouse", "connect", "ingester"),
                *("trading-core-connector", "ops-audit-connector", "everything"),
            )
        ),
        rf"{_BAR} s",
        rf"{_BAR} MB",
    ),
    "start": (
        r"python and four imports +[\d.]+ ms",
        r"orchestrate, dry run +[\d.]+ ms",
        r"--help +[\d.]+ ms",
        rf"orchestrate, dry run +[\d.]+ x, {_BAR} x",
        rf"--help +[\d.]+ x, {_BAR} x",
    ),
}


def test_every_script_is_known_here() -> None:
    """A script that nobody runs but a patient reader breaks unseen."""
    scripts = sorted(path.stem for path in BENCHMARKS.glob("bench_*.py"))
    assert scripts == [f"bench_{name}" for name in TABLES]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", TABLES)
def test_a_script_runs_to_its_end(name: str) -> None:
    """Exit 0, and the lines of its table."""
    script = str(BENCHMARKS / f"bench_{name}.py")
    argv = [sys.executable, script, "--quick"]
    shown = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    wanted = TABLES[name]
    assert len(lines) == len(wanted), shown.stdout
    assert [
        line for line, form in zip(lines, wanted, strict=True) if not re.fullmatch(form, line)
    ] == []
