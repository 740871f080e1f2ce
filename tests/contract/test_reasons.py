"""The room that acts gives its reasons: a comment for every forty lines of each of its modules."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "ctp_runbook" / "run"
MODULES = sorted(path for path in RUN.glob("*.py") if path.name != "__init__.py")
LINES_A_REASON = 40
# For a tool, or to part a module: neither says why.
_NO_REASON = re.compile(r"#\s*(noqa|type:|---|pragma)")


def reasons(source: str) -> int:
    """How many comments there are; lines of comment that follow each other are one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    rows = [
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not _NO_REASON.match(token.string)
    ]
    return sum(row - 1 not in rows for row in rows)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_that_acts_says_why(path: Path) -> None:
    """Whoever reads it at three in the morning finds the reason where the decision is taken."""
    source = path.read_text()
    lines = len(source.splitlines())
    assert reasons(source) * LINES_A_REASON >= lines, f"{path.name}: {lines} lines"


COUNTED = {
    "none": ("a = 1\n", 0),
    "one of two lines": ("# because of this\n# and of that\na = 1\n", 1),
    "behind code": ("a = 1  # a second at most\n", 1),
    "for a tool": ("a = 1  # noqa: E731\nb = 2  # type: ignore[x]\n", 0),
    "a ruler": ("# --- the loop ------\na = 1\n", 0),
    "in a text": ("a = '# no'\n", 0),
}


@pytest.mark.parametrize(("source", "count"), COUNTED.values(), ids=COUNTED)
def test_what_counts_as_a_reason(source: str, count: int) -> None:
    """Comments for people, each once, however long."""
    assert reasons(source) == count
