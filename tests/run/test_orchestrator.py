"""Facts about run/orchestrator.py: what it asks once more before it says that all is well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ctp_runbook.run.orchestrator import Orchestrator
from tests.props.small_stack import SmallStack, small_stack
from tests.run.test_rollback import stop_old

pytestmark = pytest.mark.twin


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        yield made


def test_an_old_engine_that_is_not_gone_is_never_beside_a_completed_run(stack: SmallStack) -> None:
    """Its alive command alone says that it lives, which no glance of the watch asks: the last look
    does, and the run is undone."""
    plan = stack.plan()
    orchestrator = Orchestrator(
        stack.create(plan), plan, cwd=stack.folder, guardian_pid=0, lock_fd=-1
    )
    stop_old(stack)
    assert orchestrator._trouble_of_old_generation() is None
    (stack.folder / "old_core_engine.up").touch()
    trouble = orchestrator._trouble_of_old_generation()
    assert trouble is not None
    assert trouble.cause == "judge"
    assert "old_core_engine undecided: alive command says alive" in trouble.sentence
