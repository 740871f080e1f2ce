"""``ctp-runbook`` in this process: the words typed, and the exit code they end with."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import pytest

from ctp_runbook.cli.main import main

__all__ = ["StandIn", "typed"]


class StandIn:
    """Stands for what a command calls: keeps what it was called with, and gives one answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **values: Any) -> Any:
        """The answer, whatever it is called with."""
        self.calls.append((args, values))
        return self.answer


def typed(*words: object) -> int:
    """Run the command line of these words; what it prints goes where the test's output goes."""
    argv = mock.patch.object(sys, "argv", ["ctp-runbook", *map(str, words)])
    with argv, pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code
