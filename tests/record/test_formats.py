"""Facts about record/formats.py: what is decoded is whole, whichever thread asks first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The second thread asks while the first one still learns what Inner is.
TWO_AT_ONCE = """
import threading, time
from msgspec import Struct
from ctp_runbook.record.formats import decode

class Slow:
    @property
    def number(self):
        learning.set()
        time.sleep(0.5)
        return int

learning, slow, told = threading.Event(), Slow(), []

class Inner(Struct):
    number: "slow.number"

class Outer(Struct):
    inner: Inner

def ask():
    told.append(decode(b'{"inner":{"number":3}}', Outer).inner.number)

first = threading.Thread(target=ask)
first.start()
learning.wait()
ask()
first.join()
assert told == [3, 3]
"""


def test_two_threads_may_decode_a_type_for_the_first_time() -> None:
    """By msgspec alone the second one ends the process by SIGSEGV: it meets half a type."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_AT_ONCE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_decoded_into_a_type_of_ours_in_another_way() -> None:
    """But by a decoder that is made when its module is imported."""
    ways = re.compile(r"json\.decode\((?:[^()]|\([^()]*\))*\btype=(?!str\b|msgspec\.Raw\b)")
    found = [
        path.relative_to(ROOT)
        for path in (ROOT / "ctp_runbook").rglob("*.py")
        if ways.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
