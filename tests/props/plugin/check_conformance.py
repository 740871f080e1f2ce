"""What this distribution brings keeps what ctp-runbook asks for; run where it is installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint, distribution

import pytest

from ctp_runbook.gates.conformance import check_gate
from ctp_runbook.watch.conformance import check_source

OURS = distribution("example-plugin").entry_points


@pytest.mark.parametrize("entry", OURS.select(group="ctp_runbook.sources"), ids=str)
def test_the_source_conforms(entry: EntryPoint) -> None:
    """ctp-runbook has nothing to say against it."""
    assert check_source(entry.load()) == ()


@pytest.mark.parametrize("entry", OURS.select(group="ctp_runbook.gates"), ids=str)
def test_the_gate_conforms(entry: EntryPoint) -> None:
    """ctp-runbook has nothing to say against it."""
    assert check_gate(entry.load()) == ()
