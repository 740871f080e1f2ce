"""A log of ten gigabytes followed: processor time, memory, and that no event is lost.

The log is as long as that before the watch begins (a hole of it; following begins at its end). Then an
engine in another process writes lines, once a second a burst of 100,000 in a second, and meanwhile
rotates the log by renaming it, by copying and cutting it, and tears lines in the middle; the events in
it are counted by the source `log` of the watch, with a look a second. The first argument is for how
many seconds (1800 when there is none; ``--quick``: 5, to see that it runs).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ctp_runbook.errors import ProbeError
from ctp_runbook.plan.sources import SOURCES, Counted, Surroundings
from tests.benchmarks.bars import exit_code, print_judged
from tests.props.rules import rule_of

__all__ = ["main"]

_SECONDS, _QUICK_SECONDS = 1800.0, 5.0
_LONG_BYTES = 10 << 30
_CPU_PERCENT, _GROWTH_MIB = 1.0, 8.0
_LINES_A_SECOND, _BURST_LINES = 200, 100_000
_EVENT_EVERY = 100
_LINE = b"ts_ns=%d level=info app=core event=%s instrument=rb2610 ref=%d"


# --- the engine, in a process of its own --------------------------------------------


def _write(path: Path, seconds: float) -> None:
    """Write for so long, and say how many lines and events that were."""
    out = path.open("ab", buffering=0)
    begins, written = time.monotonic(), 0
    burst_at, rename_at, cut_at = seconds * 0.3, seconds * 0.5, seconds * 0.7
    while (at := time.monotonic() - begins) < seconds:
        many = _LINES_A_SECOND // 10
        if at >= burst_at:
            many, burst_at = _BURST_LINES, burst_at + max(seconds / 4, 60.0)
        lines = b"".join(_line(number) for number in range(written, written + many))
        torn = len(lines) - 17
        out.write(lines[:torn])
        time.sleep(0.1)
        out.write(lines[torn:])
        written += many
        if at >= rename_at:
            rename_at = seconds
            path.rename(path.with_name("engine.log.1"))
            out.close()
            out = path.open("ab", buffering=0)
        if at >= cut_at:
            cut_at = seconds
            shutil.copyfile(path, path.with_name("engine.log.2"))
            os.truncate(path, 0)
    print(written, -(-written // _EVENT_EVERY))


def _line(number: int) -> bytes:
    event = b"order_rejected" if number % _EVENT_EVERY == 0 else b"order_submitted"
    return _LINE % (time.time_ns(), event, number) + b"\n"


# --- the watch ----------------------------------------------------------------------


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _follow(folder: Path, seconds: float) -> None:
    path = folder / "engine.log"
    with path.open("wb") as out:
        out.seek(_LONG_BYTES)
        out.write(b"\n")
    more = {"kind": "counter", "window_seconds": 86_400.0, "reads": {"path": "engine.log"}}
    rule = rule_of("log", "order_rejected", **more)
    look = SOURCES["log"].measure(rule, Surroundings({}, folder, {}))
    look()
    argv = [sys.executable, __file__, "--write", str(path), str(seconds)]
    began, cpu, looks, told = time.monotonic(), _cpu(), 0, list[str]()
    kept, counted = list[float](), Counted(0.0, 0)
    with subprocess.Popen(argv, text=True, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        ended = False
        while not ended:
            ended = engine.poll() is not None  # one look more after its end
            try:
                answer = look()
                counted = answer if isinstance(answer, Counted) else counted
            except ProbeError as error:
                told.append(str(error))
            looks += 1
            kept.append(_resident())
            time.sleep(max(0.0, began + looks - time.monotonic()) if not ended else 0.0)
        written, events = map(int, engine.stdout.read().split())
    lasted, cpu = time.monotonic() - began, _cpu() - cpu
    _print(lasted, cpu, looks, kept, counted, (written, events), told)


def _print(
    lasted: float,
    cpu: float,
    looks: int,
    kept: list[float],
    counted: Counted,
    wrote: tuple[int, int],
    told: list[str],
) -> None:
    share = 100 * cpu / lasted
    # What is loaded at the first looks is no growth.
    growth = max(kept[len(kept) // 2 :]) - max(kept[: len(kept) // 2 + 1])
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"a log of {_LONG_BYTES >> 30} GiB followed for {lasted:.0f} s, {looks} looks")
    print(f"host       {os.cpu_count()} cores, load {load} of others and us; nice {os.nice(0)}")
    print(f"written    {wrote[0]} lines, {wrote[1]} events; bursts of {_BURST_LINES} lines")
    print("           renamed once, copied and cut once, torn ten times a second")
    lost = wrote[1] - counted.events
    print_judged("events", f"{counted.events:.0f} counted, {lost:.0f} lost", abs(lost), 0, "lost")
    print(f"told       {'; '.join(dict.fromkeys(told)) or 'nothing'}")
    print_judged("processor", f"{share:.2f} % of one core", share, _CPU_PERCENT, "%")
    print_judged(
        "memory", f"{kept[0]:.1f} to {kept[-1]:.1f} MiB", growth, _GROWTH_MIB, "MiB of growth"
    )


def main() -> None:
    """Follow, and print what it took beside what is asked."""
    wanted = (*sys.argv[1:], str(_SECONDS))[0]
    seconds = _QUICK_SECONDS if wanted == "--quick" else float(wanted)
    with tempfile.TemporaryDirectory() as name:
        _follow(Path(name), seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        _write(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
        sys.exit(exit_code())
