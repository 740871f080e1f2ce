"""A watch of 50 metrics from 5 pages, one scrape a page a second: jitter, CPU and memory.

All of it is measured together, as the orchestrator does it: scrape, write down, judge, every
0.4 s a verdict. The pages are served by a process of their own. ``bench_sampling.py SECONDS``.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ctp_runbook.config import MetricRule, WatchRules
from ctp_runbook.judge import WindowJudge
from ctp_runbook.probes.metrics import scrape
from ctp_runbook.sampler import Sampler, Target
from ctp_runbook.triggers import parse_trigger

__all__ = ["main"]

PAGES, METRICS, INTERVAL = 5, 10, 1.0
LOOK_SECONDS = 0.4
# Every page has two histograms, three counters and five gauges that are watched, and as much again
# that is not.
_SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BOUNDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, "+Inf"]

def page():
    n, lines = int(time.monotonic() * 50), []
    for kind in ("watched", "noise"):
        for h in range(2):
            lines.append(f"# TYPE {kind}_latency_{h}_seconds histogram")
            lines += [f'{kind}_latency_{h}_seconds_bucket{{le="{b}"}} {n}' for b in BOUNDS]
            lines += [f"{kind}_latency_{h}_seconds_count {n}", f"{kind}_latency_{h}_seconds_sum 1"]
        lines += [f"{kind}_errors_{c}_total 0" for c in range(3)]
        lines += [f'{kind}_state_{g}{{scope="all"}} 0' for g in range(5)]
    return ("\\n".join(lines) + "\\n").encode()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = page()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(int(sys.argv[1]))]
import threading
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(*[server.server_port for server in servers], flush=True)
sys.stdin.read()
"""


def _rules(urls: list[str]) -> dict[str, MetricRule]:
    found: dict[str, MetricRule] = {}
    for number, url in enumerate(urls):
        plain: dict[str, Any] = {"source": "engine", "url": url, "direction": "max", "label": "x"}
        plain["zero_events"] = "pass"
        for kind, unit, query, count in (
            ("latency_quantile", "s", "watched_latency_{}_seconds", 2),
            ("counter", "count", "watched_errors_{}_total", 3),
            ("state", "state", "watched_state_{}", 5),
        ):
            for turn in range(count):
                name = f"page_{number}_{kind}_{turn}"
                found[name] = MetricRule(
                    name=name, kind=kind, unit=unit, query=query.format(turn), limit=9, **plain
                )
    assert len(found) == PAGES * METRICS
    return found


def _targets(urls: list[str], rules: dict[str, MetricRule]) -> list[Target]:
    def reading(url: str) -> Target:
        families = sorted({rule.query for rule in rules.values() if rule.url == url})
        return Target("engine", url, lambda: scrape(url, families=families, seconds=1), INTERVAL)

    return [reading(url) for url in urls]


def _judge(rules: dict[str, MetricRule], *, began: float, seconds: float) -> WindowJudge:
    first = next(iter(rules))
    trigger = parse_trigger(
        f"{first} > 8", units={name: rule.unit for name, rule in rules.items()}, file="x", line=1
    )
    return WindowJudge(
        rules=WatchRules(rules, 120, 60, 120),
        keys=tuple(rules),
        trigger=trigger,
        started_mono=began,
        ends_mono=began + seconds,
        keeps_points=False,
    )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _watch(urls: list[str], sink: Path, *, seconds: float) -> list[str]:
    rules = _rules(urls)
    began = time.monotonic()
    judge = _judge(rules, began=began, seconds=seconds)
    sampler = Sampler(_targets(urls, rules))
    sampler.start()
    late: list[float] = []
    resident: list[float] = []
    used, next_look, number = time.process_time(), began, 0
    with sink.open("wb") as file:
        while (now := time.monotonic()) < began + seconds:
            if (sample := sampler.take(seconds=0.1)) is not None:
                sample = replace(sample, seq=number)
                number += 1
                file.write(sample.to_line())
                file.flush()
                judge.add(sample)
                late.append(sample.late_ms)
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                judge.at(now)
                resident.append(_resident_mb())
    used = time.process_time() - used
    sampler.stop()
    verdict = judge.at(began + seconds, final=True).overall.name
    warm = resident[len(resident) // 10 :]  # what the first minute fills is no leak
    due = PAGES * int(seconds / INTERVAL)
    return [
        f"{PAGES * METRICS} metrics, {PAGES} pages, {seconds:g} s: {number} of {due} samples, "
        f"{verdict}",
        f"start after its due time   p50 {statistics.median(late):5.1f} ms   "
        f"p99 {sorted(late)[int(0.99 * len(late))]:5.1f} ms   most {max(late):5.1f} ms  (20 ms)",
        f"CPU                        {100 * used / seconds:5.1f} % of one core  (3 %)",
        f"resident                   {warm[0]:5.1f} MB, then {warm[-1]:5.1f} MB "
        f"({(warm[-1] - warm[0]) / seconds * 60:+.2f} MB a minute)",
    ]


def main() -> None:
    """Print the four lines."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(PAGES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        urls = [f"http://127.0.0.1:{port}/metrics" for port in server.stdout.readline().split()]
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(_watch(urls, Path(folder) / "samples.jsonl", seconds=seconds)))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
