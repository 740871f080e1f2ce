"""Facts about host/outcry.py: what must not be missed is said, and failing to say it ends nothing."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from ctp_runbook.host.outcry import cry_out


def test_a_cry_is_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, on stderr."""
    cry_out("nobody conducts the run")
    assert capsys.readouterr().err == "nobody conducts the run\n"


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        """Say so."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_terminal_that_is_gone_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cries out has other things to do."""
    monkeypatch.setattr(sys, "stderr", Gone())
    cry_out("nobody conducts the run")
