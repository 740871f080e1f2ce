"""A recorded day: 50 metrics from 5 pages at one sample a second, read, judged and drawn.

The run is a real one in all but its samples: its directory, journal and plan are those a run leaves.
What is timed is what 05_watch does with it, first alone, then as an executed notebook. Each part is a
process of its own, for the peak of its memory; what the parts before it took is not in it.
``--quick`` is six minutes of a day, to see that it runs.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.bars import exit_code, judged

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
_QUICK = ["--quick"] if sys.argv[1:2] == ["--quick"] else []
HOURS, PAGES, INTERVAL = 0.1 if _QUICK else 24.0, 5, 1.0
BOUNDS = (
    "0.001",
    "0.002",
    "0.003",
    "0.004",
    "0.005",
    "0.0075",
    "0.01",
    "0.02",
    "0.05",
    "0.1",
    "+Inf",
)
SECONDS_MAX, MEGABYTES_MAX, NOTEBOOK_MAX = 15.0, 600.0, 2.0
_COMMON: dict[str, Any] = {
    "source": "engine",
    "direction": "max",
    "interval_seconds": INTERVAL,
    "window_seconds": 60.0,
    "warm_up_seconds": 60.0,
    "fresh_seconds": 10.0,
}
# Of each page: two histograms, the second judged by the test that counts; three counters, five gauges.
_KINDS = ("latency_quantile",) * 2 + ("counter",) * 3 + ("state",) * 3 + ("lag",) * 2


def _url(page: int) -> str:
    return f"http://127.0.0.1:{18081 + page}/metrics"


def _rules() -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = {}
    for page in range(PAGES):
        for number, kind in enumerate(_KINDS):
            name = f"p{page}_{kind}_{number}"
            histogram = kind == "latency_quantile"
            unit = {"counter": "count", "state": "state"}.get(kind, "ms")
            rules[name] = {
                **_COMMON,
                "name": name,
                "label": f"{kind} {number} of page {page}",
                "unit": unit,
                "kind": kind,
                "query": f"quant_hft_{kind}_{number}",
                "url": _url(page) if page else "",
                "labels": {},
                "scale": 1000.0 if histogram else 1.0,
                "limit": {"latency_quantile": 150.0, "counter": 500.0}.get(kind, 1000.0),
                "min_events": 20 if histogram else 1,
            }
            if histogram and number:
                rules[name] |= {"limit": 100.0, "test": "sequential"}
    return rules


def _pages(dice: random.Random) -> Iterator[list[dict[str, float]]]:
    """What the endpoints show, second by second."""
    names = [f"quant_hft_{kind}_{number}" for number, kind in enumerate(_KINDS)]
    counts = [[0.0] * len(BOUNDS) for _ in range(PAGES * 2)]
    shown: list[dict[str, float]] = [{} for _ in range(PAGES)]
    second = 0
    while True:
        for page in range(PAGES):
            series = shown[page]
            for number, kind in enumerate(_KINDS):
                if kind == "latency_quantile":
                    column = counts[page * 2 + number]
                    for _ in range(2):
                        at = min(int(dice.expovariate(0.4)), len(BOUNDS) - 2)
                        for bucket in range(at, len(BOUNDS)):
                            column[bucket] += 1.0
                    for bound, count in zip(BOUNDS, column, strict=True):
                        series[f'{names[number]}_bucket{{le="{bound}"}}'] = count
                elif kind == "counter":
                    before = series.get(names[number], 0.0)
                    series[names[number]] = before + (dice.random() < 0.3)
                else:
                    wave = 100 * math.sin(second / 3000 + number) + 200
                    series[f'{names[number]}{{scope="td"}}'] = wave + dice.uniform(0, 30)
        yield shown
        second += 1


def _write_samples(path: Path, wall: float, mono: float) -> None:
    seconds = int(HOURS * 3600)
    dice, seq = random.Random(11), 0
    from ctp_runbook.record.samples import Sample

    with path.open("wb") as sink:
        for at, shown in enumerate(_pages(dice)):
            if at >= seconds:
                break
            for page in range(PAGES):
                moment = at + 0.003 * page + dice.uniform(0, 0.002)
                took = round(2 + dice.random(), 3)
                sample = Sample(
                    seq,
                    wall + moment,
                    mono + moment,
                    "engine",
                    _url(page),
                    True,
                    "",
                    took,
                    shown[page],
                )
                sink.write(sample.to_line())
                seq += 1


def _make_run(room: Path) -> Path:
    """A finished run with a watch of a day, made by the tools the tests make theirs with."""
    sys.path.insert(0, str(ROOT))
    from tests.props.synthetic_runs import long_run, seal

    trigger = "p0_latency_quantile_0_gt_180ms_or_p1_latency_quantile_1_gt_180ms"
    run = long_run(room, rules=_rules(), minutes=HOURS * 60, trigger=trigger, write=_write_samples)
    seal(run)
    return run.path


# --- the parts, each a process of its own -----------------------------------------


def _judge_and_draw(path: Path) -> dict[str, float]:
    began = time.perf_counter()
    from ctp_runbook.record.history import History
    from ctp_runbook.record.journal import read_journal
    from ctp_runbook.record.rundir import RunDir
    from ctp_runbook.show.watch_figure import watch_picture
    from ctp_runbook.watch.replay import rejudge

    run = RunDir(path)
    history = History.of(read_journal(run.journal).records)
    judged, _ = rejudge(run, history)
    read = time.perf_counter()
    watch_picture(history, judged)
    done = time.perf_counter()
    assert len(judged.metrics) == PAGES * len(_KINDS)
    assert judged.overall.name == "PASSED", judged.sentence
    return {
        "judged": read - began,
        "drawn": done - read,
        "points": sum(len(one.points) for one in judged.metrics.values()),
    }


def _notebook(path: Path) -> dict[str, float]:
    import papermill

    target = path.parent / "05_watch.ipynb"
    began = time.perf_counter()
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "05_watch.ipynb"),
        str(target),
        parameters={"run_dir": str(path)},
        progress_bar=False,
    )
    return {"executed": time.perf_counter() - began, "megabytes": target.stat().st_size / 1e6}


def _made(room: Path) -> dict[str, str]:
    return {"path": str(_make_run(room))}


_PARTS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    "make": _made,
    "judge": _judge_and_draw,
    "notebook": _notebook,
}


def _part(name: str, path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *_QUICK, name, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print time, peak of memory and size beside their bars."""
    if part := sys.argv[1 + len(_QUICK) :]:
        found: dict[str, Any] = {**_PARTS[part[0]](Path(part[1]))}
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        peak = max(one.ru_maxrss for one in usage) / 1024
        cpu = sum(one.ru_utime + one.ru_stime for one in usage)
        print(json.dumps({**found, "peak": peak, "cpu": cpu}))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or ROOT / "outputs") as name:
        path = Path(_part("make", Path(name))["path"])
        size = sum(one.stat().st_size for one in (path / "samples").iterdir()) / 1e6
        alone, notebook = _part("judge", path), _part("notebook", path)
    took = alone["judged"] + alone["drawn"]
    print(f"samples                  {HOURS * 3600 * PAGES:10,.0f} pages, {size:,.0f} MB")
    print(f"points of 50 metrics     {alone['points']:10,.0f}")
    print(f"read and judged          {alone['judged']:10.1f} s")
    print(f"drawn                    {alone['drawn']:10.1f} s")
    print(
        f"together                 {took:10.1f} s   ({judged(took, SECONDS_MAX, 's')}), {alone['cpu']:.1f} s of CPU"
    )
    print(
        f"peak of memory           {alone['peak']:10.0f} MB  ({judged(alone['peak'], MEGABYTES_MAX, 'MB')})"
    )
    print(
        f"05_watch executed        {notebook['executed']:10.1f} s, {notebook['cpu']:.1f} s of CPU"
    )
    print(
        f"  peak of its kernel     {notebook['peak']:10.0f} MB  ({judged(notebook['peak'], MEGABYTES_MAX, 'MB')})"
    )
    print(
        f"  the notebook           {notebook['megabytes']:10.2f} MB  ({judged(notebook['megabytes'], NOTEBOOK_MAX, 'MB')})"
    )


if __name__ == "__main__":
    main()
    sys.exit(exit_code())
