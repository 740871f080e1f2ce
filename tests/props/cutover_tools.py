"""A real cutover of a real twin, for tests that interfere with it: start, wait, kill, look."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ctp_runbook.errors import JournalError
from ctp_runbook.host.process import end_process, identity_of
from ctp_runbook.model import Outcome
from ctp_runbook.record.history import History
from ctp_runbook.record.journal import read_journal
from ctp_runbook.record.kinds import GuardianStarted
from ctp_runbook.record.rundir import RunDir
from ctp_runbook.rehearsal import stack
from ctp_runbook.rehearsal.front.log import overlaps, trading_generations
from ctp_runbook.rehearsal.twin import Twin
from ctp_runbook.verify.run import verify_run
from tests.props.plan_fixtures import command_line

__all__ = ["Cutover", "Ending", "cutover_of", "edited", "fresh_twin"]

ROOT = Path(__file__).parents[2]
_END_SECONDS = 120.0


@dataclass(frozen=True)
class Ending:
    """How a run ended, by its journal, by the verifier and by the front's own log."""

    outcome: str
    exit_code: int
    sentence: str
    trading: frozenset[str]
    overlaps: int
    verified: bool
    findings: tuple[str, ...]

    @property
    def is_decided(self) -> bool:
        """Exactly one generation trades and the journal verifies, or exit 6 said what runs."""
        if self.overlaps:
            return False
        if self.outcome == Outcome.ROLLBACK_FAILED.value:
            return not self.trading
        return len(self.trading) == 1 and self.verified

    @property
    def row(self) -> str:
        """One line of a table."""
        trades = ",".join(sorted(self.trading)) or "nobody"
        return (
            f"{self.outcome:22} exit {self.exit_code}  trades: {trades:6} overlaps: "
            f"{self.overlaps}  verified: {'yes' if self.verified else 'NO'}"
        )


@dataclass
class Cutover:
    """One cutover under way; ``viewer`` is the process that asked for it."""

    twin: Twin
    run: RunDir
    viewer: subprocess.Popen[bytes]
    output: Path
    killed: list[str] = field(default_factory=list)
    _read: tuple[int, History] = (0, History(()))

    @property
    def history(self) -> History:
        """The journal so far; empty while there is none. Read anew only where it has grown: who asks a
        hundred times a second must not keep a core from the run."""
        with contextlib.suppress(JournalError, FileNotFoundError):
            size = self.run.journal.stat().st_size
            if size != self._read[0]:
                self._read = size, History.of(read_journal(self.run.journal).records)
            return self._read[1]
        return History(())

    def wait_for(self, is_so: Callable[[History], bool], *, seconds: float = _END_SECONDS) -> bool:
        """True once the journal says so; False when it never did or the run is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.history
            if is_so(history):
                return True
            if history.closed is not None:
                return False
            time.sleep(0.01)
        return False

    def victim(self, name: str) -> int:
        """The pid of ``orchestrator``, ``guardian``, ``papermill`` (the viewer) or ``kernel``."""
        if name == "papermill":
            return self.viewer.pid
        if name == "kernel":
            return self._kernel()
        started = self.history.conducted
        assert started is not None
        if name == "orchestrator":
            return started.writer.pid
        newer = [record.payload for record in self.history.of_kind(GuardianStarted)]
        guardian = newer[-1] if newer else started.payload.guardian
        assert guardian is not None
        return guardian.pid

    def _kernel(self) -> int:
        """The kernel in use: the oldest child of the fork server of the viewer."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for server in _children(self.viewer.pid):
                kernels = [identity_of(pid) for pid in _children(server)]
                live = [one for one in kernels if one is not None]
                if b"notebook.fork_server" in command_line(server) and live:
                    return min(live, key=lambda one: one.start_ticks).pid
            time.sleep(0.02)
        raise AssertionError("no kernel was found below the runner")

    def kill(self, name: str) -> None:
        """SIGKILL, by pid."""
        pid = self.victim(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.killed.append(name)

    def end(self, *, seconds: float = _END_SECONDS) -> Ending:
        """Wait until the run is over and its evidence written, and look at everything."""
        limit = time.monotonic() + seconds
        while not (self.history.closed and self.run.manifest.exists()):
            if time.monotonic() > limit:
                raise AssertionError(f"the run did not end:\n{self.story()}")
            time.sleep(0.05)
        self.viewer.wait(timeout=seconds)
        history = self.history
        assert history.outcome is not None
        assert history.closed is not None
        allowed = history.outcome is not Outcome.COMPLETED
        report = verify_run(self.run, allow_cutover_rollback=allowed)
        # That it switched nothing is what a verification refuses it for, and all.
        as_it_ended = (f"the run ended {history.outcome.value}: {history.closed.payload.sentence}",)
        is_aborted = history.outcome is Outcome.ABORTED_BEFORE_SWITCH
        return Ending(
            outcome=history.outcome.value,
            exit_code=self.viewer.returncode,
            sentence=history.closed.payload.sentence,
            trading=frozenset(str(one) for one in trading_generations(self.twin.front_log)),
            overlaps=len(overlaps(self.twin.front_log)),
            verified=report.ok or (is_aborted and report.findings == as_it_ended),
            findings=report.findings,
        )

    def story(self) -> str:
        """What there is to read when a test fails."""
        logs = [self.output, self.run.logs / "orchestrator.log", self.run.logs / "guardian.log"]
        tail = self.run.journal.read_text().splitlines()[-5:] if self.run.journal.exists() else []
        return "\n".join([*(log.read_text()[-3000:] for log in logs if log.exists()), *tail])

    def clean_up(self) -> None:
        """End viewer, orchestrator and guardian, by identity."""
        pids = [self.viewer.pid]
        with contextlib.suppress(IndexError, KeyError):
            pids += [self.victim("guardian"), self.victim("orchestrator")]
        for identity in [one for pid in pids if (one := identity_of(pid)) is not None]:
            end_process(identity, term_grace=0.0, kill_grace=2.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.viewer.wait(timeout=2)


@contextlib.contextmanager
def fresh_twin(directory: Path, *, watch_seconds: float, patient: bool = True) -> Iterator[Twin]:
    """A twin whose old generation trades; taken down with proof.

    A ``patient`` one bears latencies ten times those of a rehearsal, for tests about something
    else: beside other tests orders are slow, and the watch would rightly say so.
    """
    twin = stack.up(directory, watch_minutes=watch_seconds / 60)
    try:
        if patient:
            _replaced(twin.watch_file, "limit = 50\n", "limit = 500\n")
            trigger = "order_latency_p99_ms > 100"
            _replaced(twin.rollback_template, f"{trigger} ", f"{trigger}0 ")
        yield twin
    finally:
        assert stack.down(directory).left == ()


@contextlib.contextmanager
def cutover_of(
    twin: Twin, outputs: Path, *, command: str = "orchestrate", options: tuple[str, ...] = ()
) -> Iterator[Cutover]:
    """Start ``ctp-runbook COMMAND --execute`` on the twin; ended by identity if it still runs."""
    outputs.mkdir(parents=True, exist_ok=True)
    run = RunDir(outputs / f"run-{time.time_ns()}")
    argv = [sys.executable, "-m", "ctp_runbook", command, "--execute"]
    argv += ["--cutover-template", str(twin.cutover_template)]
    argv += ["--rollback-template", str(twin.rollback_template)]
    argv += ["--run-dir", str(run.path), *options]
    output = outputs / f"{run.run_id}.out"
    with output.open("wb") as sink:
        viewer = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    cutover = Cutover(twin, run, viewer, output)
    try:
        yield cutover
    finally:
        cutover.clean_up()


def edited(path: Path, **values: str) -> None:
    """Set keys of a rendered template."""
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}=")]
        text = "\n".join([*lines, f"{key}={value}", ""])
    path.write_text(text, encoding="utf-8")


def _replaced(path: Path, was: str, now: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert was in text, f"{path}: {was}"
    path.write_text(text.replace(was, now), encoding="utf-8")


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found
