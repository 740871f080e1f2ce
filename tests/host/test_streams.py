"""Facts about host/streams.py: what is printed, or is not, decides nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, sys
from ctp_runbook.host import streams
streams.keep_open()
own = os.open("/etc/hostname", os.O_RDONLY)
print("said" * 5000)
print("wrong", file=sys.stderr)
sys.exit(10 + (own < 3) + 2 * bool(streams.unwritten()))
"""


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$@" > /dev/null', 10),
        ('"$@" >&- 2>&- <&-', 10),  # what is opened next gets no number of theirs
        ('"$@" > /dev/full', 12),
        ('"$@" > /dev/full 2>&1', 12),
        ('{ "$@"; code=$?; } | :; exit 10', 10),
        ('"$@" 2> /dev/full > /dev/null', 10),
    ],
)
def test_a_stream_takes_what_it_is_given_whatever_became_of_it(shell: str, code: int) -> None:
    """No error, none at the end of the interpreter either; what is lost is known."""
    end = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-c", CODE], capture_output=True, text=True
    )
    assert end.returncode == code
    assert "Error" not in end.stderr


def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_all() -> None:
    """A descriptor that somebody has set not to wait is no reason to lose anything."""
    code = f"import os; os.set_blocking(1, False)\n{CODE}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as told:
        assert told.stdout is not None
        said = b"".join(iter(lambda: told.stdout.read(4096), b""))  # type: ignore[union-attr]
    assert (told.returncode, len(said)) == (10, 20001)
