"""What a service manager does to Jupyter: stop its whole control group in the middle of a watch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.rehearsal.front.log import trading_generations
from ctp_runbook.run import launch
from ctp_runbook.run.guardian import shares_control_group
from tests.props.cutover_tools import ROOT, cutover_of, fresh_twin

_ROOTS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group of our own; skipped where this user may not make one."""
    for root in _ROOTS:
        path = root / f"ctp-runbook-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        if (path / "cgroup.procs").exists():
            yield path
            _stop(path)
            path.rmdir()
            return
        path.rmdir()
    pytest.skip("no control group can be made here: neither cgroup v1 pids nor v2 is writable")


def _stop(group: Path) -> None:
    """KILL everything in the group until it is empty, as a service manager does."""
    end = time.monotonic() + 10
    while pids := [int(pid) for pid in (group / "cgroup.procs").read_text().split()]:
        assert time.monotonic() < end, f"{pids} outlive the control group"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def test_the_run_survives_or_said_that_it_would_not(
    control_group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the group is stopped the run goes on; or --execute had warned, and resume decides."""
    with fresh_twin(tmp_path / "twin", watch_seconds=15.0) as twin:
        with cutover_of(twin, tmp_path / "outputs") as cutover:
            (control_group / "cgroup.procs").write_text(str(cutover.viewer.pid))
            assert cutover.wait_for(lambda h: h.watch_started is not None), cutover.story()
            _stop(control_group)
            cutover.viewer.wait(timeout=60)
            survived = launch.is_attended(cutover.run)
            warned = "control group" in cutover.output.read_text()
            assert survived or warned, cutover.story()
            assert survived or shares_control_group()
            if not survived:
                argv = ["-m", "ctp_runbook", "resume", "--run", str(cutover.run.path)]
                subprocess.run([sys.executable, *argv], cwd=ROOT, check=True)
            cutover.wait_for(lambda h: h.closed is not None)
            ending = cutover.end()
        assert ending.is_decided, f"{ending.row} {ending.findings}\n{cutover.story()}"
        assert len(trading_generations(twin.front_log)) == 1
