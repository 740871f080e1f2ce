"""Types are learned one at a time, and threads that need one at once all have it whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ctp_runbook.decoding import convert, decoder

ROOT = Path(__file__).parents[1]
# What learns a type where it is met: of msgspec, and what is imported from it.
_LEARNS = re.compile(r"msgspec(\.json)?\.(decode|convert|Decoder)")
# Many types, each met for the first time by several threads at one instant.
_RACE = """
import sys, threading
import msgspec
from ctp_runbook.decoding import convert, decoder

def made(n):
    part = msgspec.defstruct(f"Part{n}", [("a", dict[str, float]), ("b", tuple[str, ...])])
    whole = [("x", part), ("y", dict[str, part]), ("z", list[part]), ("w", float | None)]
    return msgspec.defstruct(f"Whole{n}", whole)

sys.setswitchinterval(1e-6)
part = {"a": {"k": 1.0}, "b": ["q"]}
data = {"x": part, "y": {"u": part}, "z": [part], "w": None}
text = msgspec.json.encode(data)
for kind in map(made, range(300)):
    begin = threading.Barrier(4)
    def use():
        begin.wait()
        assert decoder(kind).decode(text) == convert(data, kind)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


class Pair(msgspec.Struct):
    """A record of a test."""

    name: str
    number: int = 0


def test_a_record_is_decoded_and_converted() -> None:
    """What fits is one, from JSON and from plain data; what does not fit says where."""
    assert decoder(Pair).decode(b'{"name":"a","number":1}') == Pair("a", 1)
    assert convert({"name": "a", "number": "1"}, Pair, strict=False) == Pair("a", 1)
    with pytest.raises(msgspec.ValidationError, match=r"\$.number"):
        convert({"name": "a", "number": "1"}, Pair)


def test_threads_that_meet_a_type_at_once_live() -> None:
    """Each of 300 types is first met by four threads; with msgspec alone that is a SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", _RACE], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_else_learns_types() -> None:
    """Nobody in the product asks msgspec itself: who does is a thread among others, some day."""
    found = []
    for path in sorted((ROOT / "ctp_runbook").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            asked = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom):
                asked = [f"{node.module}.{each.name}" for each in node.names]
            found += [path.name for name in asked if _LEARNS.fullmatch(name)]
    assert set(found) == {"decoding.py"}
