"""What running a notebook needs, and the two ways in which it does not end well.

Cheap to import: whoever runs notebooks starts the fork server before anything heavy.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctp_runbook.errors import NotebookError
from ctp_runbook.redact import Redactor

if TYPE_CHECKING:
    from ctp_runbook.notebook.kernels import EventLoopThread, ReadyKernel

__all__ = ["KernelLost", "NotebookFailed", "Setting"]


class NotebookFailed(NotebookError):
    """A cell raised, or called sys.exit; the cells after it did not run."""


class KernelLost(NotebookError):
    """The kernel died, timed out or was ended; the run it was looking at goes on without it."""


@dataclass(frozen=True)
class Setting:
    """What running a notebook needs from whoever runs it: where kernels live, and a kernel of
    its own that may be starting already."""

    loop: EventLoopThread
    redactor: Redactor
    starting: Future[ReadyKernel] | None = None
    cell_timeout: float | None = None
    start_timeout: float = 60.0
