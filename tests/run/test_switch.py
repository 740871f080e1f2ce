"""Facts about run/switch.py: who is stopped is who runs by then, with all that runs below it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.host.process import identity_of, parents
from ctp_runbook.model import StepStatus
from ctp_runbook.run.switch import ready_gaps, run_switch
from tests.props.plan_fixtures import open_context, wait_for
from tests.props.small_stack import SmallStack, small_stack

pytestmark = pytest.mark.twin


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        yield made


def children(pid: int) -> list[int]:
    """Who runs right below a process."""
    return [child for child, parent in parents().items() if parent == pid]


def supervised(stack: SmallStack) -> subprocess.Popen[bytes]:
    """The old engine, started again by the shell that its pid file names."""
    first = stack.identity("old_core_engine")
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    shell = subprocess.Popen(["bash", "-c", "while :; do sleep 300; done"], start_new_session=True)
    (stack.folder / "old_core_engine.pid").write_text(f"{shell.pid}\n")
    wait_for(lambda: children(shell.pid))
    return shell


def test_an_engine_that_came_since_it_was_pinned_outlives_nobody_s_proof(stack: SmallStack) -> None:
    """READY saw another child of the supervisor than the one that runs when it is stopped."""
    folder = stack.folder
    shell = supervised(stack)
    plan = stack.plan(
        OLD_CORE_ENGINE_STOP_CMD=f"kill {shell.pid}; rm {folder}/old_core_engine.{{pid,up}}",
        OLD_CORE_ENGINE_STOP_TIMEOUT_SECONDS="2",
    )
    with open_context(folder, plan=plan) as context:
        assert ready_gaps(context) == []
        (known,) = children(shell.pid)
        os.kill(known, signal.SIGKILL)
        wait_for(lambda: set(children(shell.pid)) - {known})
        (engine,) = children(shell.pid)
        failed = run_switch(context)
        shell.wait(timeout=5)
        assert identity_of(engine) is not None
        os.kill(engine, signal.SIGKILL)
        assert failed is not None
        assert failed.step.name == "stop_old_core_engine"
        assert f"processes below it still run: ({engine},)" in failed.reason
        assert context.history.step("start_new_core_engine").status is StepStatus.NOT_RUN
