"""``ctp-runbook`` in this process: the words typed, and the exit code they end with."""

from __future__ import annotations

import sys
from unittest import mock

import pytest

from ctp_runbook.cli.main import main

__all__ = ["typed"]


def typed(*words: object) -> int:
    """Run the command line of these words; what it prints goes where the test's output goes."""
    argv = mock.patch.object(sys, "argv", ["ctp-runbook", *map(str, words)])
    with argv, pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code
