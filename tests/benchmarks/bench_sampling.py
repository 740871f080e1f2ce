"""Fifty metrics from five endpoints, a sample a second: jitter, processor time, memory.

The whole watch is measured: schedule, scrape, write, judge. The endpoints are HTTP servers in
another process, whose pages have as many families again that nobody asked for. The first argument
is for how many seconds (600 when there is none; ``--quick``: 5, to see that it runs).
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from msgspec.structs import replace

from ctp_runbook.host.pin import Pin
from ctp_runbook.host.process import identity_of
from ctp_runbook.model import Generation
from ctp_runbook.plan.config import load_watch
from ctp_runbook.record.history import pinned
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.run.context import RunContext
from ctp_runbook.run.requests import Inbox
from ctp_runbook.run.window import Watch
from tests.benchmarks.bars import exit_code, print_judged
from tests.props.example_records import header_like
from tests.props.plan_fixtures import make_plan, open_context
from tests.props.watched import watch_header

__all__ = ["main"]

_ENDPOINTS, _SECONDS, _QUICK_SECONDS = 5, 600.0, 5.0
_BOUNDS = ("0.0005", "0.001", "0.002", "0.003", "0.004", "0.005", "0.0075", "0.01", "0.05", "+Inf")
_KINDS = ("latency_quantile",) * 3 + ("counter",) * 3 + ("state",) * 4
_JITTER_MS, _CPU_PERCENT, _GROWTH_MIB = 20.0, 3.0, 16.0


# --- the endpoints, in a process of their own --------------------------------------


def _page(began: float) -> bytes:
    """Ten metrics that are watched, and thirty families that are not."""
    count = int((time.monotonic() - began) * 40) + 100
    lines: list[str] = []
    for number, kind in enumerate(_KINDS):
        lines += _family(_name(number, kind), kind, count)
    for number in range(10):
        for kind in ("latency_quantile", "counter", "state"):
            lines += _family(f"noise_{number}_{kind}", kind, count)
    return ("\n".join(lines) + "\n").encode()


def _name(number: int, kind: str) -> str:
    return f"bench_{number}_{kind}{'_total' if kind == 'counter' else ''}"


def _family(name: str, kind: str, count: int) -> Iterator[str]:
    told = {"latency_quantile": "histogram", "counter": "counter", "state": "gauge"}[kind]
    yield f"# HELP {name} What the engine says of it."
    yield f"# TYPE {name} {told}"
    if kind == "latency_quantile":
        for place, bound in enumerate(_BOUNDS, start=1):
            yield f'{name}_bucket{{le="{bound}"}} {count * min(place, 6) // 6}'
        yield f"{name}_sum {count * 0.002}"
        yield f"{name}_count {count}"
    elif kind == "counter":
        yield f'{name}{{exchange="SHFE"}} 7'
    else:
        yield from (f'{name}{{scope="{scope}"}} 0' for scope in ("td", "md", "query"))


def _serve() -> None:
    """Say the ports, one a line, and serve until stdin ends."""
    began = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """The page as it is now."""
            body = _page(began)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    for _ in range(_ENDPOINTS):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
    sys.stdin.read()


def _sleep(seconds: float) -> None:
    """Say how late, in ms, a process wakes that does nothing but wait for each second."""
    due = time.monotonic()
    ends, late = due + seconds, []
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        late.append(1000 * (time.monotonic() - due))
        due += 1.0
    print(
        f"p50 {_quantile(late, 0.5):.1f} ms, p99 {_quantile(late, 0.99):.1f} ms, "
        f"max {max(late):.1f} ms"
    )


@contextmanager
def _endpoints() -> Iterator[list[str]]:
    argv = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **pipes) as served:  # type: ignore[call-overload]
        ports = [served.stdout.readline().strip() for _ in range(_ENDPOINTS)]
        yield [f"http://127.0.0.1:{port}/metrics" for port in ports]
        served.stdin.close()
        served.wait()


# --- the watch ----------------------------------------------------------------------


def _rules(urls: list[str]) -> str:
    """watch.toml: ten metrics an endpoint; the first is the engine's own."""
    head = "tolerance_inconclusive_seconds = 120\ntolerance_error_seconds = 60\n"
    lines = [head, "recovery_seconds = 120\n"]
    for place, url in enumerate(urls):
        for number, kind in enumerate(_KINDS):
            where = f'url = "{url}"\n' if place else ""
            limit = {"latency_quantile": 50, "counter": 0, "state": 0}[kind]
            lines.append(
                f"[metrics.m{place}_{number}]\n"
                f'label = "M"\nunit = "{"ms" if limit else "count"}"\nkind = "{kind}"\n'
                f'source = "engine"\nquery = "{_name(number, kind)}"\n{where}'
                f"scale = {1000 if limit else 1}\nlimit = {limit}\n"
                'direction = "max"\ninterval_seconds = 1\nwindow_seconds = 60\n'
                'zero_events = "pass"\n'
            )
    return "\n".join(lines)


@contextmanager
def _context(room: Path, urls: list[str], seconds: float) -> Iterator[RunContext]:
    plan = make_plan(
        room,
        POST_SWITCH_MONITOR_MINUTES=repr(seconds / 60),
        NEW_CORE_ENGINE_METRICS_URL=urls[0],
    )
    (room / "bench.toml").write_text(_rules(urls))
    rules = load_watch(room / "bench.toml")
    plan = replace(plan, watch=rules, monitor_keys=tuple(rules.metrics))
    idle = subprocess.Popen(["sleep", str(seconds + 60)])
    try:
        with open_context(room, plan=plan) as context:
            # The close judges the samples again, by the plan in the journal's header.
            header = {"run_id": context.run.run_id, "dry_run": False, "plan": watch_header(plan)}
            context.record(header_like(**header))
            identity = identity_of(idle.pid)
            assert identity is not None
            for role in ("core_engine", "strategy_runner"):
                context.record(pinned(f"{Generation.NEW}_{role}", "", Pin(identity)))
            yield context
    finally:
        idle.terminate()
        idle.wait()


class _Memory(threading.Thread):
    """The resident set, nine times over the watch, and when its owner looks."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.kept: list[float] = []
        self._turn = seconds / 10

    def run(self) -> None:
        """Look in even turns; the last look is its owner's."""
        for _ in range(9):
            time.sleep(self._turn)
            self.look()

    def look(self) -> None:
        """Keep what is resident now."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.kept.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _jitter(samples: tuple[Sample, ...]) -> list[float]:
    """How much later than due each sample was begun, in ms."""
    return [one.late_ms for one in samples]


def main() -> None:
    """Watch, and print what it took beside what is asked."""
    wanted = (*sys.argv[1:], str(_SECONDS))[0]
    seconds = _QUICK_SECONDS if wanted == "--quick" else float(wanted)
    with (
        tempfile.TemporaryDirectory() as name,
        _endpoints() as urls,
        _context(Path(name), urls, seconds) as context,
    ):
        sleeper = subprocess.Popen(
            [sys.executable, __file__, "--sleep", str(seconds)], text=True, stdout=subprocess.PIPE
        )
        memory = _Memory(seconds)
        memory.start()
        cpu, began = _cpu(), time.monotonic()
        inbox = Inbox(context.run, taken=())
        trouble = Watch(context, requests=inbox.poll).run()
        cpu, lasted = _cpu() - cpu, time.monotonic() - began
        # The close has read the samples again to judge them; ours below are not the watch's.
        memory.join()
        memory.look()
        samples = read_samples(context.run.samples)
        size = context.run.samples.stat().st_size
        ended = context.history.watch_ended
        bare = sleeper.communicate()[0].strip()
    verdict = ended.payload.verdict if ended else "none"
    late = _jitter(samples)
    due = [one.due for one in samples if one.target == "engine"]
    steps = [b - a for a, b in pairwise(due)]
    share = 100 * cpu / lasted
    growth = memory.kept[-1] - memory.kept[0] if len(memory.kept) > 1 else 0.0
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"50 metrics of {len(urls)} endpoints, a scrape a second each, for {lasted:.0f} s")
    print(f"host       {os.cpu_count()} cores, load {load} of others and us; nice {os.nice(0)}")
    print(
        f"samples    {len(samples)}, {sum(one.missed for one in samples)} turns missed, "
        f"{size / 2**20:.1f} MiB; turns of {min(steps):.3f} to {max(steps):.3f} s"
    )
    print(f"ended      {verdict}{', ' + trouble.sentence if trouble else ''}")
    print_judged(
        "jitter",
        f"p50 {_quantile(late, 0.5):.1f} ms, p99 {_quantile(late, 0.99):.1f} ms, "
        f"max {max(late):.1f} ms",
        _quantile(late, 0.99),
        _JITTER_MS,
        "ms at p99",
    )
    print(f"           {bare} of a process that only sleeps, meanwhile on this host")
    print_judged("processor", f"{share:.2f} % of one core", share, _CPU_PERCENT, "%")
    told = " ".join(f"{value:.1f}" for value in memory.kept)
    print_judged("memory", f"{told} MiB: {growth:+.1f} MiB", growth, _GROWTH_MIB, "MiB")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        _serve()
    elif sys.argv[1:2] == ["--sleep"]:
        _sleep(float(sys.argv[2]))
    else:
        main()
        sys.exit(exit_code())
