"""What the tests of this room share: a finished run of each kind, made once, copied to be forged."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ctp_runbook.record.rundir import RunDir
from tests.props.forged_runs import copy_of
from tests.props.synthetic_runs import make_run


@pytest.fixture(scope="session")
def true_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDir]:
    """A finished run of a kind; whoever wants to edit it takes a copy."""

    @cache
    def make(kind: str) -> RunDir:
        return make_run(kind, tmp_path_factory.mktemp(kind))

    return make


@pytest.fixture
def run_of(true_run: Callable[[str], RunDir], tmp_path: Path) -> Callable[[str], RunDir]:
    """A copy of a finished run of a kind, to be forged."""
    return lambda kind: copy_of(true_run(kind), tmp_path)
