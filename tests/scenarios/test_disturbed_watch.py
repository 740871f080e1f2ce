"""Facts about a watch whose time or source is taken away: it is shown, and it is never a pass."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctp_runbook.errors import ProbeError
from ctp_runbook.model import State
from ctp_runbook.probes.prometheus import PrometheusDoor
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import Record, read_journal
from ctp_runbook.record.kinds import Judged, WatchDisturbed
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.record.samples import Sample, read_samples
from ctp_runbook.verify.journal import clock_findings
from ctp_runbook.verify.watch import sample_findings, verdict_findings
from tests.props.plan_fixtures import wait_for
from tests.props.small_servers import free_port, http_page

ROOT = Path(__file__).parents[2]
PAGE = 'quant_hft_breaker_state{scope="td"} 0\n'
HEAD = """
tolerance_inconclusive_seconds = 120
tolerance_error_seconds = 60
recovery_seconds = 300
[sources]
prometheus_url = "http://127.0.0.1:%(port)s"
"""
BREAKER = """
[metrics.breaker_state]
label = "Breaker state"
unit = "state"
kind = "state"
source = "engine"
query = "quant_hft_breaker_state"
limit = 0
direction = "max"
interval_seconds = 1
fresh_seconds = 5
min_coverage = 0.9
"""
ASKED = """
[metrics.asked_state]
label = "As Prometheus has it"
unit = "state"
kind = "state"
source = "prometheus"
query = "max(quant_hft_breaker_state)"
limit = 0
direction = "max"
interval_seconds = 1
window_seconds = 60
fresh_seconds = 5
min_coverage = 0.9
"""


@dataclass(frozen=True)
class Watched:
    """A watch in another process, and what it wrote."""

    process: subprocess.Popen[str]
    room: Path
    run: RunDir

    @property
    def history(self) -> History:
        """Its journal so far."""
        return History.of(read_journal(self.run.journal).records)

    @property
    def disturbances(self) -> list[Record[WatchDisturbed]]:
        """What it noticed of its time."""
        return list(self.history.of_kind(WatchDisturbed))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All that was kept."""
        return read_samples(self.run.samples)

    def told(self, name: str) -> list[str]:
        """Every verdict on a metric that was written, with its sentence."""
        return [record.payload.metrics[name].sentence for record in self.history.of_kind(Judged)]

    def await_hold(self) -> str:
        """Why it holds, as soon as it does."""
        wait_for(lambda: self.history.state is State.HOLDING)
        held = self.history.entered(State.HOLDING)
        assert held is not None
        return held.reason

    def end(self) -> str:
        """Let an operator roll back; how the watch ended."""
        (self.room / "end").touch()
        said, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0
        return str(said).strip()

    def findings(self) -> list[str]:
        """What verification has against clocks, samples and verdicts."""
        history = self.history
        return [
            *clock_findings(history.records),
            *sample_findings(self.run, history),
            *verdict_findings(self.run, history),
        ]


@contextlib.contextmanager
def watching(
    room: Path, rules: str, *, url: str, seconds: float, step_after: float = 0.0
) -> Iterator[Watched]:
    """A watch of ``seconds``; killed at the end if it still runs."""
    (room / "rules.toml").write_text(rules)
    argv = [
        sys.executable,
        "-m",
        "tests.props.watched",
        str(room),
        url,
        str(seconds),
        str(step_after),
    ]
    process = subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        run = RunDir(Path(process.stdout.readline().strip()))
        watched = Watched(process, room, run)
        wait_for(lambda: watched.history.watch_started)
        yield watched
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.wait()


def verdict_of(watched: Watched) -> tuple[str, str]:
    """The verdict that was written at the end, with its sentence."""
    ended = watched.history.watch_ended
    assert ended is not None
    return ended.payload.verdict, ended.payload.sentence


def test_a_watch_that_was_stopped_for_five_seconds_says_so(tmp_path: Path) -> None:
    """SIGSTOP: told in the journal, in the turns that were missed, and in a verdict of no pass."""
    with (
        http_page(PAGE) as url,
        watching(tmp_path, HEAD % {"port": 9} + BREAKER, url=url, seconds=10) as watched,
    ):
        wait_for(lambda: len(watched.samples) >= 3)
        os.kill(watched.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(5)
        os.kill(watched.process.pid, signal.SIGCONT)
        wait_for(lambda: watched.disturbances)
        most = time.monotonic() - stopped + 1.5  # with what is left of the turn before it
        reason = watched.await_hold()
        assert watched.end() == "operator"
        (told,) = (one.payload for one in watched.disturbances)
        assert told.what == "paused"
        assert 4.5 < told.seconds < most
        assert "did not run for" in told.sentence
        assert "the window ended without proof" in reason
        verdict, sentence = verdict_of(watched)
        assert verdict == "INCONCLUSIVE"
        assert "of the due samples came; min_coverage is 90%" in sentence
        assert sum(one.missed for one in watched.samples) >= 4
        assert max(one.late_ms for one in watched.samples) > 3000
        assert watched.findings() == []


def test_a_clock_that_is_set_an_hour_ahead_holds_the_watch(tmp_path: Path) -> None:
    """Told and held; what is measured by the wall clock proves nothing, and nothing is forged."""
    answer = '{"status":"success","data":{"resultType":"scalar","result":[%s,"0"]}}'
    with (
        http_page(PAGE) as url,
        http_page(answer % time.time()) as asked,
        watching(
            tmp_path,
            HEAD % {"port": asked.split(":")[2].split("/")[0]} + BREAKER + ASKED,
            url=url,
            seconds=12,
            step_after=6,
        ) as watched,
    ):
        reason = watched.await_hold()
        wait_for(lambda: "ERROR" in watched.told("asked_state")[-1])
        assert watched.end() == "operator"
        (told,) = (one.payload for one in watched.disturbances)
        assert told.what == "clock_stepped"
        assert 3599 < told.seconds < 3601
        assert reason == told.sentence
        after = [one for one in watched.samples if one.mono > told.to_mono]
        assert all(one.ok for one in after if one.source == "engine")
        assert not any(one.ok for one in after if one.source == "prometheus")
        assert verdict_of(watched)[0] == "ERROR"
        assert watched.findings() == []


@contextlib.contextmanager
def prometheus(room: Path, *, port: int, page: str) -> Iterator[None]:
    """Debian's Prometheus, which scrapes ``page`` once a second."""
    (room / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n  - job_name: engine\n    static_configs:\n"
        f"      - targets: ['{page.split('/')[2]}']\n"
    )
    argv = ["prometheus", f"--config.file={room / 'prometheus.yml'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={room / 'data'}"]
    with (room / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def has_scraped(port: int) -> bool:
    """True once this Prometheus has a value of the page."""
    with contextlib.suppress(ProbeError):
        door = PrometheusDoor(f"http://127.0.0.1:{port}")
        return door.value("quant_hft_breaker_state", seconds=5, fresh_seconds=60) == 0.0
    return False


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not here")
def test_a_prometheus_that_is_down_for_ten_seconds_is_no_pass(tmp_path: Path) -> None:
    """ERROR with its address while it is down; back again, the gap is still in the verdict."""
    port = free_port()
    with http_page(PAGE) as url, contextlib.ExitStack() as up:
        up.enter_context(prometheus(tmp_path, port=port, page=url))
        wait_for(lambda: has_scraped(port))
        rules = HEAD % {"port": port} + ASKED
        with watching(tmp_path, rules, url=url, seconds=25) as watched:
            wait_for(lambda: any(one.ok and one.series for one in watched.samples))
            up.close()
            down = time.monotonic()
            wait_for(lambda: any("ERROR" in one for one in watched.told("asked_state")))
            time.sleep(max(0.0, 10 - (time.monotonic() - down)))
            with prometheus(tmp_path, port=port, page=url):
                back = time.monotonic()
                wait_for(
                    lambda: any(
                        one.ok and one.series and one.mono > back for one in watched.samples
                    ),
                )
                reason = watched.await_hold()
                assert watched.end() == "operator"
        errors = [one.error for one in watched.samples if not one.ok]
        assert len(errors) >= 6
        assert f"Prometheus at http://127.0.0.1:{port}: " in errors[0]
        told = [one for one in watched.told("asked_state") if "ERROR" in one]
        assert "no fresh measurement for" in told[0]
        assert "the window ended without proof" in reason
        verdict, sentence = verdict_of(watched)
        assert verdict == "INCONCLUSIVE"
        assert "of the due samples came" in sentence
        assert watched.findings() == []
