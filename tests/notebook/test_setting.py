"""What whoever runs a notebook brings along, and how it hears of a bad end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest

from ctp_runbook.errors import NotebookError, RunbookError
from ctp_runbook.notebook.setting import KernelLost, NotebookFailed, Setting
from ctp_runbook.redact import Redactor


def setting(**more: Any) -> Setting:
    """A setting without a loop: none is asked for here."""
    return Setting(cast("Any", None), Redactor(), **more)


def test_a_notebook_may_take_as_long_as_it_takes() -> None:
    """A watch is half an hour of one cell; a kernel that does not answer in a minute never will."""
    assert setting().cell_timeout is None
    assert setting().start_timeout == 60.0


def test_a_kernel_of_its_own_is_started_unless_one_is_brought() -> None:
    """A runner orders the next one while a notebook runs; papermill brings none."""
    assert setting().starting is None


def test_a_setting_is_shared_and_not_changed() -> None:
    """Seven notebooks run with what one runner said."""
    with pytest.raises(FrozenInstanceError):
        setting().cell_timeout = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("error", [NotebookFailed, KernelLost])
def test_a_bad_end_is_the_notebook_s_and_not_the_run_s(error: type[NotebookError]) -> None:
    """Whoever catches what notebooks do wrong has both, and no run is refused by them."""
    assert issubclass(error, NotebookError)
    assert issubclass(error, RunbookError)


def test_a_lost_kernel_is_told_from_a_cell_that_raised() -> None:
    """One says nothing of the run, the other that something is wrong with it."""
    assert not issubclass(KernelLost, NotebookFailed)
    assert not issubclass(NotebookFailed, KernelLost)


def test_it_costs_nothing_to_import() -> None:
    """The fork server starts first; papermill, nbclient and jupyter_client come after it."""
    code = (
        "import sys, ctp_runbook.notebook.setting; "
        "print([m for m in ('nbclient', 'nbformat', 'zmq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
